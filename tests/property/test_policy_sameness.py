"""A simulation evaluates once where two bundles must agree, and reports what evaluating twice would."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from holdfast.intent import Context, Intent, Resource
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policy_slices import CATALOG, SETTINGS, bundles, rule

from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.decision.replay import Recorded
from services.decision.simulation import Sameness, Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CATALOGS = (
    CATALOG,
    CATALOG.replace(b"look: {impact: low", b"look: {impact: critical"),
    CATALOG.replace(b"effect: read", b"effect: external").replace(
        b"executors:", b"  peek: {impact: low, effect: read}\nexecutors:"
    )
    + b"  peek.in: {category: peek, executor: api, resource: doc}\n",
    CATALOG.replace(b"log.*: {category: look", b"log.*: {category: change"),
    CATALOG.replace(b"size: {type: integer}", b"size: {type: integer, max: 5}"),
    CATALOG + b"  log.t*: {category: look, executor: api, resource: doc}\n",
    CATALOG + b"  doc.erase: {category: send, executor: api, resource: doc}\n",
    CATALOG.replace(b"api: {}", b"api: {max_token_seconds: 30}"),
)
CHANGED_SETTINGS = (
    SETTINGS,
    SETTINGS + b"environment: staging\n",
    SETTINGS + b"risk: {weights: {production: 99, impact: {low: 15}}}\n",
    SETTINGS + b"limits: {lease_seconds: 7}\n",
    SETTINGS.replace(b"[alice, bob]", b"[alice]"),
)
RESOURCES = (
    b"version: 1\nresources: {}\n",
    b'version: 1\nresources: {"doc/*": {environment: staging, labels: [x]}}\n',
    b'version: 1\nresources: {"doc/x*": {sensitivity: restricted}}\n',
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[dict[str, bytes], dict[str, bytes]]:
    old = draw(bundles())
    new = {
        **old,
        "catalog.yaml": draw(st.sampled_from(CATALOGS)),
        "holdfast.yaml": draw(st.sampled_from(CHANGED_SETTINGS)),
        "resources.yaml": draw(st.sampled_from(RESOURCES)),
    }
    if draw(st.booleans()):
        new["rules/r.cedar"] += b"\n" + draw(rule(99)).encode()
    if draw(st.booleans()):
        new["agents/a0.yaml"] = new["agents/a1.yaml"].replace(b"name: a1", b"name: a0")
    return draw(st.sampled_from([(old, new), (new, old)]))


def questions() -> Iterator[Recorded]:
    """Yield one of every kind, so that a wrong shortcut has nowhere to hide."""
    kinds = itertools.product(
        ("doc.read", "doc.write", "mail.send", "log.tail", "doc.erase"), ("x", "y"), (None, 7), ("a0", "a1", "nobody")
    )
    for number, (action, name, size, agent) in enumerate(kinds):
        yield Recorded(
            intent_id=f"int_{number}",
            agent=agent,
            intent=Intent(
                action=action,
                resource=Resource(type="doc", id=name),
                parameters={} if size is None else {"size": size},
                context=Context(model="m"),
            ),
            received_at=NOW,
            at=NOW,
            drained=False,
            bundle=None,
            decision="",
            reason_code="",
            detail="",
            determining=(),
            risk=None,
        )


@settings(max_examples=60, deadline=None)
@given(changes())
def test_what_is_evaluated_once_is_answered_as_if_it_were_evaluated_twice(files):
    old, new = (read_bundle(side) for side in files)
    policies = Policy.compile(old), Policy.compile(new)
    short, whole = Simulation(*policies, Sameness(old, new)), Simulation(*policies)
    for recorded in questions():
        short.add(recorded)
        whole.add(recorded)
    assert short.to_json(limit=99) == whole.to_json(limit=99)
