"""Intended's three shapes: every field, omissions, and the answers that its pages describe."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from imported_bundles import STRICTNESS, Bundle, imported, notes, omissions, refusals

from console.policy_import.source import NoteKind

AGENT = "imported-agent"

SCOPED = """\
apiVersion: meritt.io/v1
kind: Policy
metadata: {name: restrict, description: no surprises, labels: {environment: production}}
spec:
  scope: {environments: [production], services: ["shop-*", api]}
  rules:
    - action: deploy
      effect: deny
      conditions:
        - {type: approval, required: 2, from: ["role:deployer-lead", "role:security-reviewer"]}
        - {type: time-window, allow: "Mon-Fri 09:00-17:00 UTC"}
    - {action: destroy, effect: deny}
    - {action: invoke, effect: allow}
    - action: tune
      effect: allow
      conditions: [{type: time-window, allow: "Mon-Fri 08:30-17:30 UTC"}]
    - action: wander
      effect: deny
      conditions: [{type: time-window, allow: "Mon-Fri 09:00-17:00 Europe/Berlin"}]
  fallback: deny
  audit: {level: full, include-decision-token: true}
"""
FLAT = """\
name: deny-production-database-delete
version: "1.0"
description: careful
domain: data_management
category: database_operations
conditions: {action: database.delete, environment: production, risk_score_min: 50}
outcome: escalate
escalation: {reviewers: [{role: vp_engineering}], timeout: 4h, timeout_outcome: allow}
---
name: reads
conditions: {action: database.read}
outcome: allow
---
name: drops
conditions: {action: database.drop, environment: production}
outcome: deny
"""
DECISION = """\
policy: {intent: infrastructure.deployment.production, decision: escalate,
         escalation: {type: multi-party, reviewers: [{role: sre}, {role: cto}]}}
"""
TIMES = {
    "noon": datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
    "early": datetime(2026, 11, 20, 8, 45, tzinfo=UTC),
    "before": datetime(2026, 11, 20, 8, 15, tzinfo=UTC),
    "after": datetime(2026, 11, 20, 17, 45, tzinfo=UTC),
    "night": datetime(2026, 11, 20, 22, 0, tzinfo=UTC),
    "sunday": datetime(2026, 11, 22, 12, 0, tzinfo=UTC),
}


def scoped(action: str, environment: str, service: str, now: datetime) -> str:
    """Shape A by hand: out of scope nobody decides; a deny stands unless all of its conditions hold."""
    if environment != "production" or not (service.startswith("shop-") or service == "api"):
        return "deny"
    minute = now.hour * 60 + now.minute
    weekday = now.weekday() < 5
    office = weekday and 9 * 60 <= minute < 17 * 60
    return {
        "deploy": "hold" if office else "deny",
        "destroy": "deny",
        "invoke": "allow",
        "tune": "allow" if weekday and 8 * 60 + 30 <= minute < 17 * 60 + 30 else "deny",
        "wander": "allow" if weekday and 8 * 60 <= minute < 16 * 60 else "deny",
    }.get(action, "deny")


def test_scoped_policies_decide_as_before_except_where_a_note_says_so():
    result = imported("intended", SCOPED)
    bundle = Bundle(result)
    noted = notes(result, NoteKind.STRICTER)
    stricter = {"tune": "kept in whole hours", "wander": "cannot be said here"}
    assert all(any(text in note for note in noted) for text in stricter.values())
    grid = itertools.product(
        ("deploy", "destroy", "invoke", "tune", "wander", "other"),
        ("production", "staging"),
        ("shop-1", "api", "other"),
        TIMES.values(),
    )
    seen = set()
    for action, environment, service, now in grid:
        before = scoped(action, environment, service, now)
        after = bundle.decide(
            AGENT, f"service.{action}", resource=f"service/{service}", environment=environment, now=now
        )
        seen.add(after)
        assert STRICTNESS[after] >= STRICTNESS[before], (action, environment, service, now)
        assert after == before or action in stricter, (action, environment, service, now)
    assert seen == {"allow", "hold", "deny"}


def test_an_approval_by_any_of_several_roles_is_a_role_of_them_all():
    result = imported("intended", SCOPED)
    assert "deployer-lead-or-security-reviewer: []" in result.files["holdfast.yaml"].decode()
    assert '"deployer-lead-or-security-reviewer:2"' in result.files["rules/policies.cedar"].decode()


def test_a_permissive_fallback_is_an_omission():
    source = SCOPED.replace("fallback: deny", "fallback: allow")
    plain, kept = imported("intended", source), imported("intended", source, keep=["restrict"])
    said = (
        "source.yaml:20: allowed by omission: `restrict` has `fallback: allow`:"
        " every action of its scope that has no rule [restrict]"
    )
    assert omissions(plain) == [f"{said} -> denied"]
    assert omissions(kept) == [f"{said} -> kept"]
    ask = {"resource": "service/shop-1", "environment": "production"}
    assert Bundle(plain).decide(AGENT, "service.other", **ask) == "deny"
    assert Bundle(kept).decide(AGENT, "service.other", **ask) == "allow"
    assert Bundle(kept).decide(AGENT, "service.destroy", **ask) == "deny"
    assert Bundle(kept).decide(AGENT, "service.other", resource="service/shop-1", environment="staging") == "deny"


def test_flat_policies_and_decisions_decide_as_before():
    result = imported("intended", FLAT, DECISION)
    bundle = Bundle(result)
    expected = {
        ("database.delete", "production"): "hold",
        ("database.delete", "staging"): "deny",
        ("database.read", "production"): "allow",
        ("database.read", "staging"): "allow",
        ("database.drop", "production"): "deny",
        ("database.drop", "staging"): "deny",
        ("infrastructure.deployment.production", "production"): "hold",
        ("other", "production"): "deny",
    }
    for (action, environment), answer in expected.items():
        assert bundle.decide(AGENT, action, environment=environment) == answer, (action, environment)
    rules = result.files["rules/policies.cedar"].decode()
    assert '@requires_approval("sre")' in rules
    assert '@requires_approval("cto")' in rules


def test_the_notes_of_flat_policies_are_exact():
    assert notes(imported("intended", FLAT), NoteKind.STRICTER) == [
        (
            "source.yaml:6: stricter: risk_score_min of `deny-production-database-delete`: risk is counted otherwise"
            " here, so it counts always"
        ),
        "source.yaml:8: stricter: `timeout_outcome: allow`: what nobody answers is denied here, always",
        "source.yaml:8: stricter: timeout 4h: everything waits as long as the shortest timeout says",
    ]


def test_an_allow_that_depends_on_the_caller_s_own_risk_permits_nothing():
    """The score of the source is what the agent says of itself."""
    source = "name: n\nconditions: {action: a, risk_score_min: 1}\noutcome: allow\n"
    assert Bundle(imported("intended", source)).decide(AGENT, "a") == "deny"


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        (SCOPED.replace("fallback: deny", "fallbak: deny"), "source.yaml:20: unknown field `fallbak`"),
        (SCOPED.replace("type: approval", "type: vote"), "source.yaml:10: `type` of"),
        (FLAT.replace("risk_score_min", "risk_score_max"), "source.yaml:6: unknown field `risk_score_max`"),
        ("name: n\nconditions: {action: a}\noutcome: escalate\n", "source.yaml:1: `escalate` needs an `escalation`"),
        ("policy: {intent: a, decision: maybe}\n", "source.yaml:1: `decision` must be 'allow', 'deny' or 'escalate'"),
        ("policy: {intent: read, decision: allow}\n", "source.yaml:1: `read` cannot be an action's name here"),
    ],
)
def test_what_intended_does_not_know_is_refused_with_its_line(source, refusal):
    found = refusals("intended", source)
    assert any(one.startswith(refusal) for one in found), found
