"""Sources with one thing broken, each loaded as a module of its own beside the real one."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[2]


class MutationLost(Exception):
    """The source no longer holds the text that the mutant replaces, or holds it more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`old` stands exactly once in the source; `new` takes its place."""

    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return self.name


@contextmanager
def loaded(path: str, mutant: Mutant | None = None) -> Iterator[ModuleType]:
    """Load the source at `path`, below the root, with the mutant's change if there is one. Raises: MutationLost."""
    source = (ROOT / path).read_text(encoding="utf-8")
    if mutant is not None:
        if source.count(mutant.old) != 1:
            raise MutationLost(f"`{mutant.name}`: its text stands {source.count(mutant.old)} times in {path}")
        source = source.replace(mutant.old, mutant.new)
    name = "mutated_" + Path(path).stem
    spec = spec_from_loader(name, loader=None)
    if spec is None:
        raise ImportError(name)
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    try:
        exec(compile(source, name, "exec"), module.__dict__)
        yield module
    finally:
        del sys.modules[name]
