"""Administrators add, demote and shut out operators, and replace keys, on a real service: what works, what does not."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import RunningService, read_note, until

from console.cli import main as command_line

pytestmark = pytest.mark.integration
OPERATORS = "/v1/operator/operators"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Return a service of one's own: the keys that others know die here."""
    running = RunningService(tmp_path_factory.mktemp("administered service"))
    running.start()
    yield running
    running.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def people(house):
    """Return the tokens of operators; `admin` is the first."""
    made = {"admin": house.key("operator", "")}
    for name, role in (("eve", "admin"), ("anna", "approver"), ("otto", "operator"), ("vera", "viewer")):
        body = {"username": name, "role": role}
        answer = house.request("POST", OPERATORS, json=body, headers=bearer(made["admin"]))
        assert answer.status_code == 201, answer.text
        assert answer.json().keys() == {"username", "role", "password", "token"}
        made[name] = answer.json()["token"]
    return made


@pytest.fixture
def ask(house, people):
    def send(who: str, path: str, method: str = "POST", **body):
        more = {} if method == "GET" else {"json": body}
        return house.request(method, path, headers=bearer(people[who]), **more)

    return send


def operator_of(ask, name: str, *, by: str = "admin") -> dict:
    listed = ask(by, OPERATORS, "GET").json()["operators"]
    return next(one for one in listed if one["username"] == name)


def allowed(item: dict) -> set[str]:
    assert all((one["reason"] is None) == one["allowed"] for one in item["allowed_actions"])
    return {one["action"] for one in item["allowed_actions"] if one["allowed"]}


def test_an_operator_is_added_once_and_can_do_what_the_role_allows(house, people, ask):
    assert operator_of(ask, "otto")["role"] == "operator"
    problem(ask("admin", OPERATORS, username="otto", role="viewer"), 409, "CONFLICT")
    problem(ask("admin", OPERATORS, username="Otto", role="viewer"), 409, "CONFLICT")
    assert ask("otto", "/v1/operator/agents/gamma/suspend", reason="odd").status_code == 201
    problem(ask("otto", "/v1/operator/agents/gamma/resume", note="fine"), 403, "FORBIDDEN")
    assert ask("anna", "/v1/operator/agents/gamma/resume", note="fine").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"username": "zoe"},
        {"username": "zoe", "role": "root"},
        {"username": "zoe", "role": None},
        {"username": "", "role": "viewer"},
        {"username": "-zoe", "role": "viewer"},
        {"username": "z" * 65, "role": "viewer"},
        {"username": "zoe/../admin", "role": "viewer"},
        {"username": "zoe", "role": "viewer", "password": "mine"},
    ],
)
def test_an_operator_who_is_described_wrongly_is_not_added(ask, body):
    problem(ask("admin", OPERATORS, **body), 400, "REQUEST_MALFORMED")


def test_nobody_but_administrators_changes_anybody(house, people, ask):
    requests = (
        (OPERATORS, {"username": "mallory", "role": "admin"}),
        (f"{OPERATORS}/vera/role", {"role": "admin", "note": "x"}),
        (f"{OPERATORS}/vera/disable", {"note": "x"}),
        (f"{OPERATORS}/vera/enable", {"note": "x"}),
        (f"{OPERATORS}/admin/rotate", {}),
        ("/v1/operator/agents", {"name": "alpha"}),
        ("/v1/operator/agents/alpha/rotate", {}),
        ("/v1/operator/executors/bank-api/rotate", {}),
    )
    for path, body in requests:
        for who in ("vera", "otto", "anna"):
            problem(ask(who, path, **body), 403, "FORBIDDEN")
        for kind, name in (("agent", "alpha"), ("executor", "notes-api")):
            answer = house.request("POST", path, json=body, headers=house.bearer(kind, name))
            problem(answer, 401, "UNAUTHENTICATED")
        problem(house.request("POST", path, json=body), 401, "UNAUTHENTICATED")
    problem(house.get(OPERATORS, headers=house.bearer("agent", "alpha")), 401, "UNAUTHENTICATED")
    assert {one["username"] for one in ask("vera", OPERATORS, "GET").json()["operators"]} == {*people}


def test_nobody_changes_their_own_role_and_the_list_says_so(ask):
    problem(ask("eve", f"{OPERATORS}/eve/role", role="viewer", note="tired"), 403, "FORBIDDEN")
    assert allowed(operator_of(ask, "eve", by="eve")) == {"rotate", "disable"}
    assert allowed(operator_of(ask, "vera", by="eve")) == {"role", "rotate", "disable"}
    assert allowed(operator_of(ask, "vera", by="vera")) == {"rotate"}
    assert allowed(operator_of(ask, "eve", by="vera")) == set()
    problem(ask("admin", f"{OPERATORS}/nobody/role", role="viewer", note="x"), 404, "NOT_FOUND")
    problem(ask("admin", f"{OPERATORS}/vera/role", role="viewer"), 400, "REQUEST_MALFORMED")


def test_a_demoted_administrator_is_none_with_the_next_request_and_the_last_one_stays(house, people, ask):
    assert ask("admin", f"{OPERATORS}/eve/role", role="operator", note="moves on").json()["role"] == "operator"
    try:
        problem(ask("eve", f"{OPERATORS}/vera/role", role="admin", note="x"), 403, "FORBIDDEN")
        problem(ask("admin", f"{OPERATORS}/admin/disable", note="x"), 409, "CONFLICT")
        problem(ask("admin", f"{OPERATORS}/admin/role", role="viewer", note="x"), 403, "FORBIDDEN")
        problem(ask("admin", f"{OPERATORS}/eve/role", role="operator", note="again"), 409, "CONFLICT")
    finally:
        assert ask("admin", f"{OPERATORS}/eve/role", role="admin", note="is back").status_code == 200


def test_a_disabled_operator_s_token_is_refused_at_once_and_for_good(house, people, ask):
    assert ask("vera", OPERATORS, "GET").status_code == 200
    gone = ask("admin", f"{OPERATORS}/vera/disable", note="has left")
    assert gone.status_code == 200
    assert gone.json()["disabled_by"] == "admin"
    problem(ask("vera", OPERATORS, "GET"), 401, "UNAUTHENTICATED")
    problem(ask("admin", f"{OPERATORS}/vera/disable", note="again"), 409, "CONFLICT")
    problem(ask("admin", f"{OPERATORS}/vera/rotate"), 409, "CONFLICT")
    assert allowed(operator_of(ask, "vera")) == {"role", "enable"}

    back = ask("admin", f"{OPERATORS}/vera/enable", note="is back")
    assert back.status_code == 200
    problem(ask("vera", OPERATORS, "GET"), 401, "UNAUTHENTICATED")
    people["vera"] = back.json()["token"]
    assert ask("vera", OPERATORS, "GET").status_code == 200


def test_an_operator_replaces_their_own_token_and_nobody_else_s(people, ask):
    old = people["otto"]
    problem(ask("otto", f"{OPERATORS}/anna/rotate"), 403, "FORBIDDEN")
    people["otto"] = ask("otto", f"{OPERATORS}/otto/rotate").json()["token"]
    assert ask("otto", OPERATORS, "GET").status_code == 200
    people["before"] = old
    problem(ask("before", OPERATORS, "GET"), 401, "UNAUTHENTICATED")
    del people["before"]


def test_an_agent_s_key_is_replaced_at_once_or_with_an_overlap(house, people, ask):
    def allows(token: str) -> bool:
        answer = house.request("POST", "/v1/intents", json=read_note("k1"), headers=bearer(token))
        if answer.status_code == 200:
            envelope(answer, 200, "ALLOWED")
        else:
            problem(answer, 401, "UNAUTHENTICATED")
        return answer.status_code == 200

    first = house.key("agent", "alpha")
    second = ask("admin", "/v1/operator/agents/alpha/rotate").json()
    assert second["old_key_until"] is None
    assert [allows(first), allows(second["token"])] == [False, True]

    third = ask("admin", "/v1/operator/agents/alpha/rotate", overlap_seconds=600).json()
    assert third["old_key_until"] is not None
    assert [allows(second["token"]), allows(third["token"])] == [True, True]
    (alpha,) = (one for one in ask("vera", "/v1/operator/agents", "GET").json()["agents"] if one["name"] == "alpha")
    assert [key["expires_at"] for key in alpha["keys"]] == [None, third["old_key_until"]]
    assert alpha["waiting"] == 0
    assert alpha["suspended"] is None

    fourth = ask("admin", "/v1/operator/agents/alpha/rotate", note="it leaked").json()
    assert [allows(one["token"]) for one in (second, third, fourth)] == [False, False, True]
    for seconds in (0, -1, 86_401, 1.5, "60", True):
        answer = ask("admin", "/v1/operator/agents/alpha/rotate", overlap_seconds=seconds)
        problem(answer, 400, "REQUEST_MALFORMED")


def test_an_agent_of_the_policies_that_has_no_key_gets_one_once(house, ask):
    problem(ask("admin", "/v1/operator/agents", name="nobody"), 404, "NOT_FOUND")
    problem(ask("admin", "/v1/operator/agents/nobody/rotate"), 404, "NOT_FOUND")
    problem(ask("admin", "/v1/operator/agents", name="beta"), 409, "CONFLICT")
    asyncio.run(revoke(house.database_url, "beta"))
    problem(ask("admin", "/v1/operator/agents/beta/rotate"), 409, "CONFLICT")

    made = ask("admin", "/v1/operator/agents", name="beta")
    assert made.status_code == 201
    envelope(
        house.request("POST", "/v1/intents", json=read_note("k2"), headers=bearer(made.json()["token"])), 200, "ALLOWED"
    )


async def revoke(url: str, agent: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE credentials SET revoked_at = now() WHERE kind = 'agent' AND subject = $1", agent)
    await connection.close()


def test_an_executor_s_key_is_replaced_and_the_old_one_consumes_nothing(house, people, ask):
    alpha = ask("admin", "/v1/operator/agents/alpha/rotate").json()["token"]
    token = house.request("POST", "/v1/intents", json=read_note("k3"), headers=bearer(alpha)).json()["token"]
    made = ask("admin", "/v1/operator/executors/notes-api/rotate")
    problem(house.consume(token, read_note("k3")), 401, "UNAUTHENTICATED")
    body = {"token": token, "action": "note.read", "resource": {"type": "note", "id": "k3"}}
    answer = house.request("POST", "/v1/tokens/consume", json=body, headers=bearer(made.json()["token"]))
    assert answer.status_code == 200
    listed = ask("vera", "/v1/operator/executors", "GET").json()["executors"]
    assert {"notes-api", "bank-api"} <= {one["name"] for one in listed}


@pytest.fixture
def run(house, capsys, monkeypatch):
    """Return the command line as an operator, in this process: a dozen interpreters take half a minute."""

    def call(token: str, *arguments: str, expect: int = 0) -> str:
        monkeypatch.setenv("HOLDFAST_URL", house.base_url)
        monkeypatch.setenv("HOLDFAST_OPERATOR_TOKEN", token)
        status, said = command_line.main([*arguments]), capsys.readouterr()
        assert status == expect, said
        return said.out if expect == 0 else said.err

    return call


def test_the_command_line_does_all_of_it(house, people, run):
    admin, here = people["admin"], ("--url", house.base_url)

    made = json.loads(run(admin, "operators", "create", "carl", "--role", "viewer", *here, "--json"))
    assert made.keys() == {"username", "role", "password", "token"}
    assert "carl" in run(made["token"], "operators", "list")
    assert "FORBIDDEN" in run(made["token"], "operators", "role", "vera", "admin", "--note", "x", expect=1)
    changed = json.loads(run(admin, "operators", "role", "carl", "operator", "--note", "x", "--json"))
    assert changed["role"] == "operator"

    token = json.loads(run(made["token"], "operators", "rotate", "carl", "--json"))["token"]
    run(made["token"], "operators", "list", expect=1)
    run(token, "operators", "list")
    run(admin, "operators", "disable", "carl", "--note", "x")
    run(token, "operators", "list", expect=1)
    assert json.loads(run(admin, "operators", "enable", "carl", "--note", "x", "--json"))["token"]

    assert "key of" in run(admin, "agents", "list")
    assert json.loads(run(admin, "agents", "rotate", "gamma", "--overlap", "5m", "--json"))["old_key_until"]
    assert "CONFLICT" in run(admin, "agents", "create", "gamma", *here, expect=1)
    assert "bank-api" in run(admin, "executors", "list")


def test_nothing_is_changed_while_it_cannot_be_recorded(house, people, ask):
    with house.stopped("postgres"):
        until(lambda: "recording_in_journal" in house.troubles() or not house.ready(), "the outage is seen")
        answer = ask("admin", f"{OPERATORS}/vera/disable", note="x")
        assert answer.status_code == 503
        listed = ask("admin", "/v1/operator/agents", "GET").json()["agents"]
        assert [one["keys"] for one in listed] == [None] * len(listed)
    assert operator_of(ask, "vera")["disabled_at"] is None
    assert ask("vera", OPERATORS, "GET").status_code == 200


def test_the_log_says_who_did_what_and_holds_no_secret(house, people):
    async def bodies() -> str:
        connection = await asyncpg.connect(house.database_url)
        rows = await connection.fetch("SELECT convert_from(body, 'UTF8') AS body FROM audit_records")
        await connection.close()
        return "\n".join(row["body"] for row in rows)

    text = asyncio.run(bodies())
    for kind in ("operator.created", "operator.role_changed", "operator.disabled", "operator.enabled"):
        assert f'"kind":"{kind}"' in text
    for kind in ("operator.credential_rotated", "agent.credential_rotated", "executor.credential_rotated"):
        assert f'"kind":"{kind}"' in text
    assert '"note":"has left"' in text
    assert not any(token in text for token in people.values())
    assert house.faults() == []
