"""Operators decide what waits, on a real service: from the hold to the one effect, and what they may not do."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys

import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import held, refund, until

pytestmark = pytest.mark.integration

QUEUE = "/v1/operator/queue"
CLI = (sys.executable, "-P", "-m", "console.cli.main")


def run(*arguments: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    done = subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, check=False, timeout=60, env=kept | environment
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def people(service):
    """Return the secrets of operators: alice and bob are in the bundle's finance, the others are not."""
    roles = {"alice": "approver", "bob": "approver", "paula": "approver", "olga": "operator", "victor": "viewer"}
    made = {"admin": service.key("operator", "")}
    for name, role in roles.items():
        created = run("operators", "create", name, "--role", role, "--data-dir", str(service.data), "--json")
        made[name] = json.loads(created.stdout)["token"]
    before = {item["intent_id"] for item in _listed(service)}
    yield made
    # What is left would take the places of other tests' intents.
    until(lambda: _cancelled(service, before), "nothing of these tests waits")


def _cancelled(service, before) -> bool:
    left = [item for item in _listed(service) if item["intent_id"] not in before]
    if left:
        items = [{"intent_id": item["intent_id"], "version": item["version"]} for item in left]
        body = {"action": "cancel", "items": items, "note": "the tests are over"}
        service.request("POST", f"{QUEUE}/bulk", json=body, headers=service.bearer("operator"))
    return not left


def _listed(service) -> list[dict]:
    return service.get(f"{QUEUE}?limit=500", headers=service.bearer("operator")).json()["items"]


@pytest.fixture
def operators(service, people):
    return Operators(service, people)


class Operators:
    """What each operator asks of the service."""

    def __init__(self, service, people) -> None:
        self.service, self.people = service, people

    def ask(self, who, method, path, **more):
        headers = {"Authorization": f"Bearer {self.people[who]}"}
        return self.service.request(method, f"/v1/operator/{path}", headers=headers, **more)

    def look(self, intent_id, who="victor"):
        answer = self.ask(who, "GET", f"queue/{intent_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def act(self, who, action, intent_id, **body):
        return self.ask(who, "POST", f"queue/{intent_id}/{action}", json=body)

    def approve(self, who, intent_id, *, note="seen", **changes):
        whole = self.look(intent_id)
        body = {name: whole[name] for name in ("version", "act_hash", "bundle")} | {"note": note} | changes
        return self.act(who, "approve", intent_id, **body)


def claims_of(token: str) -> dict:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def waiting(service, intent, key, **more) -> str:
    body = envelope(service.submit(intent, key=key, **more), 403, "APPROVAL_REQUIRED", status="held")
    return body["intent_id"]


@pytest.fixture
def no_evaluation(operators):
    """Hold the evaluation boundary open, as soon as the worker heard it too, and let go of it for good at the end."""
    service = operators.service

    def heard(what: str) -> int:
        return len(re.findall(rf"evaluation boundary: {what},", service.log("worker")))

    forced, released = heard(r"\w+ -> forced_open"), heard(r"forced_open -> \w+")
    answer = operators.ask("olga", "POST", "boundaries/evaluation/force-open", json={"reason": "a test"})
    assert answer.status_code in {200, 201}, answer.text
    until(lambda: heard(r"\w+ -> forced_open") > forced, "the worker decides nothing any more")

    def over() -> None:
        operators.ask("olga", "POST", "boundaries/evaluation/reset", json={"reason": "over"})
        service.until_ready()
        until(lambda: heard(r"forced_open -> \w+") > released, "the worker heard that it is over")

    yield over
    over()


# --- from the hold to the effect --------------------------------------------------------------------------------------


def test_an_approved_hold_is_claimed_and_consumed_once_and_the_token_names_the_approval(service, operators):
    intent_id = waiting(service, held("approved"), "approved")
    whole = operators.look(intent_id)
    assert whole["intent"]["parameters"] == {"amount_cents": 60_000}
    assert whole["now"]["rules"] == [{"id": "big-refunds", "reason": "refunds over 500.00 need finance"}]
    assert (whole["needed"][0]["missing"], whole["queue"]["state"]) == (1, "held")

    answer = operators.approve("alice", intent_id)

    assert answer.status_code == 200, answer.text
    approved = answer.json()
    assert (approved["status"], approved["outcome"]["reason_code"], approved["needed"][0]["missing"]) == (
        "claimable",
        "ALLOWED",
        0,
    )
    token = envelope(service.claim(intent_id), 200, "ALLOWED", mode="normal")["token"]
    claims = claims_of(token)
    assert (claims["mode"], claims["apr"]) == ("normal", approved["approval_id"])
    assert service.consume(token, held("approved"), executor="bank-api").status_code == 200
    problem(service.consume(token, held("approved"), executor="bank-api"), 409, "TOKEN_CONSUMED")
    problem(operators.act("alice", "deny", intent_id, version=9, note="late"), 409, "CONFLICT")


def test_who_may_not_approve_and_what_is_stale_changes_nothing(service, operators):
    mine = {**held("mine"), "context": {"on_behalf_of": "user:alice"}}
    intent_id = waiting(service, mine, "mine")
    before = operators.look(intent_id)

    problem(operators.approve("alice", intent_id), 403, "FORBIDDEN")
    for who in ("paula", "olga", "victor"):
        problem(operators.approve(who, intent_id), 403, "FORBIDDEN")
    problem(operators.approve("bob", intent_id, note=None), 400, "REQUEST_MALFORMED")
    for changes in ({"version": before["version"] + 1}, {"act_hash": "sha-256:" + "A" * 43}, {"bundle": "sha256:0"}):
        stale = problem(operators.approve("bob", intent_id, **changes), 409, "CONFLICT")
        assert stale["version"] == before["version"]
    for wrong in ({"version": "1"}, {"version": 0}, {"version": True}, {"note": "two\nlines"}, {"note": "x" * 2001}):
        problem(operators.approve("bob", intent_id, **wrong), 400, "REQUEST_MALFORMED")
    problem(operators.act("olga", "deny", intent_id, version=before["version"]), 400, "REQUEST_MALFORMED")
    problem(operators.act("victor", "cancel", intent_id, version=before["version"]), 403, "FORBIDDEN")
    problem(operators.ask("olga", "GET", "queue/int_unknown"), 404, "NOT_FOUND")

    assert operators.look(intent_id) | {"now": None, "risk": None} == before | {"now": None, "risk": None}
    assert operators.approve("bob", intent_id).json()["status"] == "claimable"


def test_policies_that_changed_are_looked_at_before_an_approval_counts(service, operators):
    intent_id = waiting(service, held("changed"), "changed")
    before = operators.look(intent_id)
    files = operators.ask("admin", "GET", f"policy/{before['bundle']}").json()["files"]
    files["rules/money.cedar"] = files["rules/money.cedar"].replace('"finance")', '"finance:2")')
    digest = operators.ask("admin", "POST", "policy", json={"files": files}).json()["digest"]
    body = {"reason": "two people from now on", "expect_active": before["bundle"]}
    assert operators.ask("admin", "POST", f"policy/{digest}/activate", json=body).status_code == 200
    try:
        until(lambda: operators.look(intent_id)["bundle"] == digest, "the new policies are in force")

        problem(operators.approve("alice", intent_id, bundle=before["bundle"]), 409, "CONFLICT")
        first = operators.approve("alice", intent_id).json()
        second = operators.approve("bob", intent_id).json()

        assert (first["status"], first["needed"][0]["missing"]) == ("held", 1)
        assert (second["status"], second["needed"][0]["missing"]) == ("claimable", 0)
        token = envelope(service.claim(intent_id), 200, "ALLOWED")["token"]
        assert claims_of(token)["apr"] == f"{first['approval_id']},{second['approval_id']}"
    finally:
        assert operators.ask("admin", "POST", "policy/rollback", json={"reason": "the test is over"}).is_success
        until(
            lambda: operators.ask("admin", "GET", "policy").json()["in_use"] == before["bundle"],
            "the policies are back",
        )


# --- an outage --------------------------------------------------------------------------------------------------------


def test_two_operators_permit_what_cannot_be_evaluated_and_the_token_says_so(service, operators, no_evaluation):
    submitted = service.submit(refund(71), key="outage-71")
    intent_id = envelope(submitted, 503, "EVALUATION_UNAVAILABLE", cause="circuit_open", status="queued")["intent_id"]
    huge = service.submit(refund(2_000_000), key="outage-huge").json()["intent_id"]
    assert operators.look(intent_id)["needed_in_outage"] == {"count": 2, "approved_by": [], "missing": 2}

    first = operators.approve("paula", intent_id).json()
    problem(service.claim(intent_id), 409, "NOT_CLAIMABLE")
    second = operators.approve("admin", intent_id).json()
    problem(operators.approve("admin", huge), 403, "FORBIDDEN")

    assert (first["status"], first["needed_in_outage"]["missing"]) == ("queued", 1)
    assert (second["status"], second["outcome"]["mode"]) == ("claimable", "operator")
    token = envelope(service.claim(intent_id), 200, "ALLOWED", mode="operator")["token"]
    claims = claims_of(token)
    assert (claims["mode"], claims["apr"]) == ("operator", f"{first['approval_id']},{second['approval_id']}")
    assert service.consume(token, refund(71), executor="bank-api").status_code == 200
    assert service.faults() == []


def test_what_was_permitted_in_an_outage_is_evaluated_once_that_is_over(service, operators, no_evaluation):
    intent_id = service.submit(refund(72), key="outage-72").json()["intent_id"]
    for who in ("paula", "admin"):
        assert operators.approve(who, intent_id).status_code == 200
    assert operators.look(intent_id)["status"] == "claimable"
    no_evaluation()

    claims = claims_of(envelope(service.claim(intent_id), 200, "ALLOWED", mode="normal")["token"])
    assert claims["mode"] == "normal"
    assert "apr" not in claims


# --- deny, cancel, move, many -----------------------------------------------------------------------------------------


def test_a_denial_is_what_the_agent_hears(service, operators):
    intent_id = waiting(service, held("op-denied"), "op-denied")

    denied = operators.act("olga", "deny", intent_id, version=1, note="not today")

    assert denied.json()["status"] == "denied"
    assert service.look(intent_id).json()["reason_code"] == "OPERATOR_DENIED"
    envelope(service.submit(held("op-denied"), key="op-denied"), 403, "OPERATOR_DENIED", status="denied")


def test_a_lane_is_changed_for_the_operator_and_the_agent(service, operators):
    intent_id = waiting(service, held("moved"), "moved")

    moved = operators.act("olga", "reprioritize", intent_id, version=1, lane="bulk", note="later").json()

    assert moved["queue"]["lane"] == service.look(intent_id).json()["queue"]["lane"] == "bulk"
    problem(operators.act("olga", "reprioritize", intent_id, version=2, lane="fast"), 400, "REQUEST_MALFORMED")
    assert operators.act("olga", "cancel", intent_id, version=2).json()["status"] == "cancelled"


def test_of_many_each_gets_its_own_answer(service, operators):
    ids = [waiting(service, held(f"bulk-{n}"), f"bulk-{n}", agent="beta") for n in range(3)]
    items = [{"intent_id": one, "version": 1} for one in ids]
    items[1]["version"] = 7
    items += [{"intent_id": "int_unknown", "version": 1}, {"intent_id": ids[1]}, "nonsense"]

    answer = operators.ask("olga", "POST", "queue/bulk", json={"action": "deny", "items": items, "note": "all of it"})

    results = answer.json()["results"]
    assert [result["done"] for result in results] == [True, False, True, False, False, False]
    assert [result.get("problem", {}).get("status") for result in results] == [None, 409, None, 404, 400, 400]
    assert results[1]["problem"]["version"] == 1
    for body in (
        {"action": "deny", "items": items},
        {"action": "grant", "items": items, "note": "n"},
        {"action": "deny", "items": [], "note": "n"},
        {"action": "deny", "items": items[:1] * 501, "note": "n"},
    ):
        problem(operators.ask("olga", "POST", "queue/bulk", json=body), 400, "REQUEST_MALFORMED")
    approve = {"action": "approve", "items": items, "note": "n"}
    problem(operators.ask("olga", "POST", "queue/bulk", json=approve), 403, "FORBIDDEN")
    assert operators.act("olga", "cancel", ids[1], version=1).status_code == 200


def test_the_command_line_lists_shows_and_decides(service, people):
    ids = [waiting(service, held(f"cli-{n}"), f"cli-{n}", agent="gamma") for n in range(3)]
    where = ("--data-dir", str(service.data))
    bob = {"HOLDFAST_OPERATOR_TOKEN": people["bob"]}

    listed = json.loads(
        run("queue", "list", "--agent", "gamma", "--category", "money.move", "--limit", "2", "--json", *where).stdout
    )["items"]
    assert [item["intent_id"] for item in listed] == ids[:2]
    assert "1 of finance for big-refunds; approved by nobody yet" in run("queue", "list", *where).stdout
    assert '"amount_cents": 60000' in run("queue", "show", ids[0], *where).stdout

    approved = run("queue", "approve", ids[0], "--note", "seen", "--json", *where, **bob)
    assert json.loads(approved.stdout)["results"][0]["intent"]["status"] == "claimable"
    refused = run("queue", "approve", ids[1], "--note", "seen", *where, expect=1)
    assert "FORBIDDEN" in refused.stderr, "the first administrator is not in finance"
    assert "--note" in run("queue", "deny", *ids[1:], *where, expect=1).stderr
    both = run("queue", "deny", *ids[1:], "--note", "enough", *where)
    assert both.stdout.count("denied") == 2
    assert "NOT_FOUND" in run("queue", "cancel", "int_unknown", *where, expect=1).stderr


def test_the_log_holds_what_operators_did(service, operators):
    intent_id = waiting(service, held("logged"), "logged")
    operators.approve("alice", intent_id, note="seen on the phone")
    receipt = envelope(service.claim(intent_id), 200, "ALLOWED")["receipt"]

    verified = service.verify([f"{receipt['stream']}:{receipt['seq']}:{receipt['hash']}"])

    assert verified.returncode == 0, verified.stdout + verified.stderr
