"""What the single steps of a decision cost, in this process, without network or disk. Medians, in microseconds.

    classify + assess + evaluate   with 10, 100 and 1,000 rules and agents, beside Cedar alone on the same slice
                                   with 1,000 rules and 10 to 10,000 agents that ask in turn, and loading such a bundle
    sign, verify                   one token, as the signer and an executor do
    link                           one record of the log
    strict JSON                    one body, beside orjson, which is not strict

`python -m benchmarks.micro` prints them; with `--output FILE` it writes them, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cedarpy
import orjson
from holdfast import strict_json
from holdfast.audit.record import Receipt
from holdfast.intent import Action, Intent
from holdfast.token import Claims, verify_signature
from rich.console import Console
from rich.table import Table

from benchmarks import machine, report
from benchmarks.percentiles import percentile
from benchmarks.stage import shipped_policies
from benchmarks.traffic import ACTION, EXECUTOR, intent
from services.audit.chain import link
from services.decision.bundle import read_bundle
from services.decision.evaluation import ActionScope, AgentScope
from services.decision.policy import Classified, Policy, Request, Signals
from services.decision.verdict import Allow
from services.policy_files import read_directory
from signer.keyfile import SigningKey
from signer.profile import OnePayload, Profile
from signer.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.decision.bundle import Bundle

SIZES: Final = (10, 100, 1000)
FLEETS: Final = (10, 100, 1000, 10_000)
_FLEET_RULES: Final = 1000
_CALLS: Final = 2000
_WARM_UP: Final = 200
_AGENT: Final = "agent-0"
_ISSUER: Final = "http://127.0.0.1:8420"
_STREAM: Final = "str_" + "0" * 26
_QUIET: Final = Signals()
_NOON: Final = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
_KEPT: Final = ("catalog.yaml", "resources.yaml", "holdfast.yaml")
_MANIFEST: Final = """\
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {{name: {name}, owner: benchmarks, groups: [fleet]}}
spec:
  tools: [kb.search, kb.read, ticket.create]
  policies:
    - {{effect: allow, resource: "knowledge-base/*", action: read}}
"""
#: About one of the catalogue's actions each. It never matches; that Cedar has to find out.
_RULE: Final = """\
@id("rule-{number}")
@reason("measured")
forbid (principal, action == Action::"{action}", resource)
when {{ context.risk.score > {limit} }};
"""


def measure_all(policies: Path) -> dict[str, object]:
    """Return every median. The shipped bundle at `policies` gives the catalogue."""
    return {
        "unit": "microseconds, median of single calls",
        "calls": _CALLS,
        "decision": [decision(policies, size) for size in SIZES],
        "fleet": [fleet(policies, agents) for agents in FLEETS],
        "steps": steps(),
    }


# --- a decision -------------------------------------------------------------------------------------------------------


def decision(policies: Path, size: int) -> dict[str, object]:
    """Return the cost of one allow with `size` rules and as many agents, and of Cedar alone on the same slice."""
    bundle = read_bundle(_files(policies, rules=size, agents=size))
    policy = Policy.compile(bundle)
    asked = Intent.from_json(intent(1))
    rules_in_slice, ask_cedar = _cedar_alone(bundle, policy, asked)
    return {
        "rules": size,
        "agents": size,
        "rules_in_slice": rules_in_slice,
        "decide_us": median_us(lambda: _decide(policy, asked, _AGENT)),
        "cedar_alone_us": median_us(ask_cedar),
    }


def fleet(policies: Path, agents: int) -> dict[str, object]:
    """Return the cost of one allow when so many agents ask in turn, and of loading their bundle, in seconds.

    Each has asked before: what is compiled for an agent at its first intent is measured beside.
    """
    files = _files(policies, rules=_FLEET_RULES, agents=agents)
    began_s = time.perf_counter()
    policy = Policy.compile(read_bundle(files))
    load_s = time.perf_counter() - began_s
    asked = Intent.from_json(intent(1))
    names = [f"agent-{number}" for number in range(agents)]
    began_s = time.perf_counter()
    for name in names:
        _decide(policy, asked, name)
    first_us = (time.perf_counter() - began_s) / agents * 1e6
    in_turn = itertools.cycle(names)
    return {
        "rules": _FLEET_RULES,
        "agents": agents,
        "decide_us": median_us(lambda: _decide(policy, asked, next(in_turn)), calls=max(agents, _CALLS)),
        "first_us": round(first_us, 1),
        "load_s": round(load_s, 2),
    }


def _decide(policy: Policy, asked: Intent, agent: str) -> None:
    classified = policy.classify(asked)
    if not isinstance(classified, Classified):
        raise TypeError("the intent is in the catalogue")
    risk = policy.assess(asked, classified, agent=agent, signals=_QUIET, now=_NOON)
    request = Request(agent=agent, intent=asked, classified=classified, risk=risk, now=_NOON)
    if not isinstance(policy.evaluate(request), Allow):
        raise TypeError("the intent is allowed")


def _files(policies: Path, *, rules: int, agents: int) -> dict[str, bytes]:
    """Return a bundle with the shipped catalogue and so many rules and agents of its own."""
    shipped = {path: data for path, data in read_directory(policies).items() if path in _KEPT}
    catalog = read_bundle(shipped).catalog
    actions = itertools.cycle(sorted(catalog.actions))
    texts = (_RULE.format(number=number, action=next(actions), limit=101 + number) for number in range(rules))
    manifests = {
        f"agents/agent-{number}.yaml": _MANIFEST.format(name=f"agent-{number}").encode() for number in range(agents)
    }
    return {**shipped, **manifests, "rules/measured.cedar": "\n".join(texts).encode()}


def _cedar_alone(bundle: Bundle, policy: Policy, asked: Intent) -> tuple[int, Callable[[], None]]:
    """Return the size of the slice, and one question to Cedar over it with every handle made beforehand."""
    declared = bundle.catalog.actions[ACTION]
    action = ActionScope(ACTION, declared, bundle.catalog.categories[declared.category])
    agent = AgentScope.of(bundle.manifests[_AGENT], policy.manifest_rules(_AGENT))
    rules = [
        rule
        for rule in (*policy.rules, *policy.manifest_rules(_AGENT))
        if rule.may_match(action.groups, agent.principals)
    ]
    read = frozenset[str]().union(*(rule.context for rule in rules))
    schema = action.schema(read)
    handle = cedarpy.PolicySet.from_str("\n".join(rule.text for rule in rules))
    name = str(asked.resource)
    attributes = {"type": asked.resource.type, "id": asked.resource.id, "sensitivity": "internal", "labels": []}
    resource = {"uid": {"type": "Resource", "id": name}, "attrs": attributes, "parents": []}
    entities = cedarpy.Entities.from_json_str(f"[{agent.entities},{json.dumps(resource)}]", schema)
    known = {"risk": {"score": 30, "tier": "medium"}, "operation": ACTION}
    question = {
        "principal": {"type": "Agent", "id": _AGENT},
        "action": {"type": "Action", "id": ACTION},
        "resource": {"type": "Resource", "id": name},
        "context": json.dumps({key: value for key, value in known.items() if key in read}),
    }

    def ask() -> None:
        answer = cedarpy.is_authorized(question, handle, entities, schema)
        if answer.decision is not cedarpy.Decision.Allow or answer.diagnostics.errors:
            raise TypeError("Cedar allows it")

    return len(rules), ask


# --- the other steps --------------------------------------------------------------------------------------------------


def steps() -> dict[str, float]:
    """Return the cost of each other step."""
    asked = Intent.from_json(intent(1))
    body = orjson.dumps(intent(1))
    action = Action(action=ACTION, resource=asked.resource, parameters=asked.parameters, executor=EXECUTOR)
    key = SigningKey.from_seed(bytes(range(32)))
    profile = Profile(issuer=_ISSUER, audiences={EXECUTOR: 60})
    signer = Signer(key=key, profile=profile, memory=OnePayload(capacity=1 << 20))
    payloads = (_claims(number, action.digest()).to_json() for number in itertools.count())
    now = _NOON.timestamp()
    token = signer.sign(next(payloads), replaces=None, now=now)
    receipts: list[Receipt | None] = [None]

    def chain() -> None:
        after = receipts[0]
        receipts[0] = link(_STREAM, after, kind="decision", at=_NOON, members=_MEMBERS).receipt

    return {
        "sign_and_verify_in_signer": median_us(lambda: signer.sign(next(payloads), replaces=None, now=now)),
        "verify_token": median_us(lambda: verify_signature(token, (key.public,))),
        "action_digest": median_us(action.digest),
        "link_record": median_us(chain),
        "strict_json": median_us(lambda: strict_json.loads(body)),
        "orjson_not_strict": median_us(lambda: orjson.loads(body)),
        "intent_from_json": median_us(lambda: Intent.from_json(strict_json.loads(body))),
    }


_MEMBERS: Final[Mapping[str, strict_json.JSON]] = {
    "intent_id": "int_01m7xdmfhqddmxhxcdbacgavsh",
    "agent": _AGENT,
    "action": ACTION,
    "resource": {"type": "knowledge-base", "id": "article-1"},
    "act_hash": "sha-256:" + "A" * 43,
    "decision": "allow",
    "status": "granted",
    "reason_code": "ALLOWED",
    "mode": "normal",
    "bundle": "sha256:" + "0" * 64,
    "determining": ["agent:agent-0:1"],
    "category": "knowledge.read",
    "impact": "low",
    "executor": EXECUTOR,
    "environment": "production",
    "parameters": [],
    "parameter_digests": [{"name": "limit", "sha256": "0" * 64}, {"name": "query", "sha256": "0" * 64}],
    "personal_parameters": [],
    "risk": {"score": 20, "tier": "low", "factors": [{"name": "impact", "points": 5}]},
    "jti": "jti_" + "0" * 32,
}


def _claims(number: int, act_hash: str) -> Claims:
    issued_at = int(_NOON.timestamp())
    return Claims(
        iss=_ISSUER,
        aud=EXECUTOR,
        sub=_AGENT,
        txn=f"int_{number:026}",
        jti=f"jti_{number:032x}",
        iat=issued_at,
        nbf=issued_at,
        exp=issued_at + 60,
        env="production",
        action=ACTION,
        act_hash=act_hash,
        category="knowledge.read",
        risk=20,
        mode="normal",
        pol="sha256:" + "0" * 64,
        rcp=f"{_STREAM}:{number}:{'0' * 64}",
    )


def median_us(call: Callable[[], object], *, calls: int = _CALLS) -> float:
    """Return the median of many single calls, each timed by itself, the first ones left out."""
    took_ns: list[int] = []
    for _ in range(_WARM_UP + calls):
        began_ns = time.perf_counter_ns()
        call()
        took_ns.append(time.perf_counter_ns() - began_ns)
    median_ns = percentile(sorted(took_ns[_WARM_UP:]), per_mille=500)
    return round((median_ns or 0) / 1000, 2)


def table(figures: Mapping[str, object]) -> list[Table]:
    """Return the figures as tables."""
    decisions, fleets, others = figures["decision"], figures["fleet"], figures["steps"]
    if not isinstance(decisions, list) or not isinstance(fleets, list) or not isinstance(others, dict):
        raise TypeError("these are not the figures of `measure_all`")
    tables = []
    for title, headings, rows in (
        (
            "one decision, median µs",
            ("rules", "agents", "rules in slice", "classify + assess + evaluate", "Cedar alone"),
            decisions,
        ),
        (
            "one decision, agents in turn, median µs",
            ("rules", "agents", "classify + assess + evaluate", "an agent's first", "load, s"),
            fleets,
        ),
    ):
        drawn = Table(title=title, title_justify="left")
        for heading in headings:
            drawn.add_column(heading, justify="right")
        for one in rows:
            drawn.add_row(*(str(value) for value in one.values()))
        tables.append(drawn)
    by_step = Table("step", "median µs", title="single steps", title_justify="left")
    for name, value in others.items():
        by_step.add_row(name.replace("_", " "), str(value))
    return [*tables, by_step]


def main() -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description="Micro-benchmarks.", allow_abbrev=False)
    parser.add_argument("--policies", type=Path, default=shipped_policies(), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    figures = measure_all(arguments.policies)
    console = Console(highlight=False)
    for drawn in table(figures):
        console.print(drawn)
    if arguments.output is not None:
        report.write(arguments.output, {**machine.commit(), "machine": machine.describe(), "micro": figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
