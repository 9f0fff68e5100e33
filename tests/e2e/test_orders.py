"""Operators stop things: at once, everywhere, and on what is out already."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import read_note, refund, until

pytestmark = pytest.mark.integration
OPERATOR = "/v1/operator"


@pytest.fixture(scope="module")
def people(service):
    """Return bearer headers of three operators beside the first."""
    made = {}
    for name, role in (("vera", "viewer"), ("otto", "operator"), ("anna", "approver")):
        command = [sys.executable, "-P", "-m", "console.cli.main", "operators", "create", name, "--role", role]
        command += ["--data-dir", str(service.data), "--json"]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        made[name] = {"Authorization": f"Bearer {json.loads(run.stdout)['token']}"}
    return {**made, "admin": service.bearer("operator")}


def order(service, people, who: str, path: str, **body):
    return service.request("POST", f"{OPERATOR}/{path}", json=body, headers=people[who])


def resumed(service, people, **scope):
    answer = order(service, people, "anna", "resume", note="it is over", **scope)
    assert answer.status_code == 200, answer.text


def test_a_halt_beats_everything_and_tokens_that_are_out(service, people):
    token = envelope(service.submit(read_note("h1"), key="halt-1"), 200, "ALLOWED")["token"]

    assert order(service, people, "otto", "halt", scope="all", reason="incident 7").status_code == 201
    try:
        envelope(service.submit(read_note("h2"), key="halt-2"), 403, "EMERGENCY_HALT", status="denied", queue=None)
        problem(service.consume(token, read_note("h1")), 403, "EMERGENCY_HALT")
        problem(service.submit(read_note("h1"), key="halt-1"), 403, "EMERGENCY_HALT")
        assert order(service, people, "otto", "halt", scope="all", reason="again").status_code == 200
    finally:
        resumed(service, people, scope="all")

    assert service.consume(token, read_note("h1")).status_code == 200


def test_a_halt_of_a_part_stops_that_part_alone(service, people):
    for scope, subject, key in (("agent", "beta", "b"), ("category", "money.move", "m"), ("executor", "bank-api", "e")):
        halted = order(service, people, "otto", "halt", scope=scope, subject=subject, reason="incident 7")
        assert halted.status_code == 201
        try:
            envelope(service.submit(refund(5), agent="beta", key=f"part-{key}"), 403, "EMERGENCY_HALT")
            envelope(service.submit(read_note("h3"), agent="alpha"), 200, "ALLOWED")
        finally:
            resumed(service, people, scope=scope, subject=subject)


def test_ending_a_grave_halt_takes_somebody_else_than_who_ordered_it(service, people):
    assert order(service, people, "anna", "halt", scope="all", reason="incident 7").status_code == 201
    problem(order(service, people, "anna", "resume", scope="all", note="enough"), 403, "FORBIDDEN")
    problem(order(service, people, "otto", "resume", scope="all", note="enough"), 403, "FORBIDDEN")
    assert order(service, people, "admin", "resume", scope="all", note="enough").status_code == 200
    problem(order(service, people, "admin", "resume", scope="all", note="enough"), 404, "NOT_FOUND")

    assert order(service, people, "anna", "halt", scope="category", subject="note.read", reason="noise").is_success
    assert order(service, people, "anna", "resume", scope="category", subject="note.read", note="quiet").is_success


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "all"},
        {"scope": "all", "reason": " "},
        {"scope": "all", "reason": "two\nlines"},
        {"scope": "all", "subject": "beta", "reason": "x"},
        {"scope": "agent", "reason": "x"},
        {"scope": "agent", "subject": "nobody", "reason": "x"},
        {"scope": "galaxy", "subject": "beta", "reason": "x"},
        {"scope": "all", "reason": "x", "until": "tomorrow"},
        ["all"],
    ],
)
def test_a_halt_that_says_too_little_or_too_much_is_refused_and_stops_nothing(service, people, body):
    problem(service.request("POST", f"{OPERATOR}/halt", json=body, headers=people["otto"]), 400, "REQUEST_MALFORMED")
    assert service.get(f"{OPERATOR}/halt", headers=people["vera"]).json() == {"halts": []}


def test_viewers_agents_and_executors_order_nothing(service, people):
    for path in ("halt", "resume", "overrides", "boundaries/evaluation/force-open", "agents/beta/suspend"):
        problem(order(service, people, "vera", path, scope="all", reason="x"), 403, "FORBIDDEN")
        for kind, name in (("agent", "alpha"), ("executor", "notes-api")):
            headers = service.bearer(kind, name)
            problem(service.request("POST", f"{OPERATOR}/{path}", json={}, headers=headers), 401, "UNAUTHENTICATED")


def test_a_suspended_agent_is_denied_and_its_tokens_are_dead(service, people):
    token = envelope(service.submit(read_note("s1"), agent="gamma"), 200, "ALLOWED")["token"]

    assert order(service, people, "otto", "agents/gamma/suspend", reason="odd requests").status_code == 201
    envelope(service.submit(read_note("s2"), agent="gamma"), 403, "AGENT_SUSPENDED", status="denied")
    problem(service.consume(token, read_note("s1")), 403, "AGENT_SUSPENDED")
    problem(order(service, people, "otto", "agents/gamma/resume", note="fine"), 403, "FORBIDDEN")
    assert order(service, people, "anna", "agents/gamma/resume", note="fine").status_code == 200

    envelope(service.submit(read_note("s3"), agent="gamma"), 200, "ALLOWED")
    problem(order(service, people, "otto", "agents/nobody/suspend", reason="x"), 404, "NOT_FOUND")


def boundary(service, people, name: str) -> dict:
    listed = service.get(f"{OPERATOR}/boundaries", headers=people["vera"]).json()["boundaries"]
    (found,) = (one for one in listed if one["name"] == name)
    return found


def test_a_boundary_held_open_refuses_until_it_is_reset_and_has_answered_rightly(service, people):
    assert order(service, people, "otto", "boundaries/evaluation/force-open", reason="drill").status_code == 201
    try:
        waiting = envelope(
            service.submit(read_note("f1"), key="forced"), 503, "EVALUATION_UNAVAILABLE", cause="circuit_open"
        )
        assert boundary(service, people, "evaluation")["state"] == "forced_open"
        assert boundary(service, people, "evaluation")["held_open"]["by"] == "otto"
        assert service.get("/readyz").json()["open"] == ["evaluation"]
    finally:
        reset = order(service, people, "otto", "boundaries/evaluation/reset", reason="done")
    assert reset.status_code == 200
    assert reset.json()["state"] != "closed", "it closes by correct answers alone"

    service.until_ready()
    until(lambda: service.look(waiting["intent_id"]).json()["status"] == "claimable", "the drain has decided it")
    problem(order(service, people, "otto", "boundaries/kitchen/force-open", reason="x"), 404, "NOT_FOUND")


@pytest.mark.parametrize("name", ["intent", "evaluation", "token", "audit"])
def test_whoever_holds_a_boundary_open_can_let_go_of_it(service, people, name):
    """Letting go is recorded, and what is recorded goes through the audit boundary: it must not lock itself."""
    assert order(service, people, "otto", f"boundaries/{name}/force-open", reason="drill").status_code == 201
    held = service.submit(read_note(f"held-{name}"), key=f"held-{name}")
    reset = order(service, people, "otto", f"boundaries/{name}/reset", reason="the drill is over")

    assert held.status_code == 503
    assert reset.status_code == 200, reset.text
    assert reset.json()["state"] == "half_open"
    service.until_ready()


def test_an_override_lets_reads_pass_marked_counted_and_only_while_it_stands(service, people):
    problem(order(service, people, "anna", "overrides", tier="low", reason="x"), 400, "REQUEST_MALFORMED")
    problem(
        order(service, people, "anna", "overrides", tier="high", reason="x", expires_in=60), 400, "REQUEST_MALFORMED"
    )
    problem(order(service, people, "otto", "overrides", tier="low", reason="x", expires_in=60), 403, "FORBIDDEN")
    put = order(service, people, "anna", "overrides", tier="low", reason="incident 7", expires_in=60, max_per_minute=2)
    assert put.status_code == 201
    assert put.json()["warnings"] == ["reads pass unevaluated in production while this override stands"]
    assert order(service, people, "otto", "boundaries/evaluation/force-open", reason="drill").status_code == 201
    try:
        passed = envelope(service.submit(read_note("o1"), key="o1"), 200, "ALLOWED", mode="fail_open")
        assert passed["policy"]["determining"] == [f"override:{put.json()['order_id']}"]
        assert service.consume(passed["token"], read_note("o1")).json()["mode"] == "fail_open"
        envelope(service.submit(refund(7), key="o2"), 503, "EVALUATION_UNAVAILABLE", mode="normal")
        envelope(service.submit(read_note("o3"), key="o3"), 200, "ALLOWED", mode="fail_open")
        envelope(service.submit(read_note("o4"), key="o4"), 503, "EVALUATION_UNAVAILABLE")
        assert "holdfast_fail_open_total 2.0" in service.get("/metrics").text
        path = f"overrides/{put.json()['order_id']}/end"
        assert order(service, people, "otto", path, note="enough").status_code == 200
        envelope(service.submit(read_note("o5"), key="o5"), 503, "EVALUATION_UNAVAILABLE")
    finally:
        order(service, people, "otto", "boundaries/evaluation/reset", reason="done")
        service.until_ready()
    assert service.get(f"{OPERATOR}/overrides", headers=people["vera"]).json() == {"overrides": []}


def test_a_halt_can_be_ordered_while_postgresql_is_away_and_stands_when_it_is_back(service, people):
    with service.stopped("postgres"):
        until(lambda: "recording_in_journal" in service.troubles() or not service.ready(), "the outage is seen")
        halted = order(service, people, "otto", "halt", scope="agent", subject="beta", reason="incident 7")
        assert halted.status_code == 201
        envelope(service.submit(read_note("p1"), agent="beta", key="p1"), 403, "EMERGENCY_HALT")
        refused = order(service, people, "anna", "resume", scope="agent", subject="beta", note="no")
        problem(refused, 503, "AUDIT_UNAVAILABLE")
    try:
        envelope(service.submit(read_note("p2"), agent="beta", key="p2"), 403, "EMERGENCY_HALT")
        listed = service.get(f"{OPERATOR}/halt", headers=people["vera"]).json()["halts"]
        assert [halt["order_id"] for halt in listed] == [halted.json()["order_id"]]
    finally:
        resumed(service, people, scope="agent", subject="beta")
    envelope(service.submit(read_note("p3"), agent="beta", key="p3"), 200, "ALLOWED")


def told(service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the first operator."""
    command = [sys.executable, "-P", "-m", "console.cli.main", *arguments]
    environment = {**os.environ, "HOLDFAST_OPERATOR_TOKEN": service.bootstrap["operator"]["token"]}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_one_replica_that_does_not_answer_keeps_no_halt_from_the_others(service, people):
    """In an emergency every replica is asked, and who did not take it is named."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and never listening
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        halt = told(service, "halt", "--agent", "beta", "--reason", "x", "--url", away, "--url", service.base_url)
        suspend = told(service, "agents", "suspend", "beta", "--reason", "x", "--url", away, "--url", service.base_url)
    try:
        for said, line in ((halt, "halted: agent beta"), (suspend, "suspended: beta")):
            assert said.returncode == 1
            assert said.stdout.startswith(line)
            assert said.stderr.startswith(f"holdfast: {away}: ")
        envelope(service.submit(refund(5), agent="beta", key="beyond"), 403, "EMERGENCY_HALT")
    finally:
        resumed(service, people, scope="agent", subject="beta")
        assert order(service, people, "anna", "agents/beta/resume", note="over").status_code == 200


def test_a_halt_says_where_it_is_recorded(service, people):
    try:
        assert order(service, people, "otto", "halt", scope="all", reason="x").json()["recorded"] == "database"
    finally:
        resumed(service, people, scope="all")
    with service.stopped("postgres"):
        until(lambda: "recording_in_journal" in service.troubles(), "the outage is seen")
        halted = told(service, "halt", "--all", "--reason", "x", "--url", service.base_url)
        again = order(service, people, "otto", "halt", scope="agent", subject="beta", reason="x").json()
    service.until_ready()
    try:
        assert halted.returncode == 0
        assert "counts at the replicas asked just now" in halted.stdout
        assert again["recorded"] == "journal"
    finally:
        resumed(service, people, scope="agent", subject="beta")
        # The command's own operator gave it; somebody else ends it.
        resumed(service, people, scope="all")
