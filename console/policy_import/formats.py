"""The formats that can be imported, by the name that the command line takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from console.policy_import import cordum, intended, intercept, orloj, taxonomy
from console.policy_import.source import Imported, Source

DEFAULT_AGENT: Final = "imported-agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the person who imports adds to the source.

    `keep` names omissions that stay allowed, `reads` and `writes` say what tools do, `agent` is whoever the source does
    not name.
    """

    keep: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    agent: str = DEFAULT_AGENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format: what it is called, whether it takes several files, and its conversion."""

    summary: str
    several: bool
    convert: Callable[[Sequence[Source], Options], Imported]


FORMATS: Final[dict[str, Format]] = {
    "intercept": Format(
        summary="an Intercept policy, version 1",
        several=False,
        convert=lambda sources, options: intercept.convert(sources[0], keep=options.keep, agent=options.agent),
    ),
    "orloj": Format(
        summary="Orloj manifests, of the article or of Orloj itself",
        several=True,
        convert=lambda sources, options: orloj.convert(
            sources, keep=options.keep, reads=options.reads, writes=options.writes
        ),
    ),
    "cordum": Format(
        summary="a Cordum safety policy, or the fragment of a pack",
        several=False,
        convert=lambda sources, options: cordum.convert(sources[0], keep=options.keep, agent=options.agent),
    ),
    "intended": Format(
        summary="Intended policies of all three shapes",
        several=True,
        convert=lambda sources, options: intended.convert(sources, keep=options.keep, agent=options.agent),
    ),
    "taxonomy": Format(
        summary="a taxonomy of intents in JSON: domains and categories",
        several=False,
        convert=lambda sources, options: taxonomy.convert(sources[0], keep=options.keep),
    ),
}
