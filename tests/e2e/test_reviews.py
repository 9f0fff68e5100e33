"""Whatever left around the evaluation is reviewed, on a real service: listed, and closed once by somebody else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import read_note, refund, until

pytestmark = pytest.mark.integration

OPERATOR = "/v1/operator"
CLI = (sys.executable, "-P", "-m", "console.cli.main")


def holdfast(*arguments: str, expect: int = 0, **environment: str) -> dict:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    command = [*CLI, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=kept | environment)
    assert done.returncode == expect, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def people(service):
    """Return bearer headers of two who let something through, one who reviews, and one who may not."""
    made = {}
    for name, role in (("petra", "approver"), ("quinn", "approver"), ("rita", "approver"), ("sven", "operator")):
        created = holdfast("operators", "create", name, "--role", role, "--data-dir", str(service.data))
        made[name] = {"Authorization": f"Bearer {created['token']}"}
    return made


@pytest.fixture(scope="module")
def let_through(service, people):
    """Let two reads fail open by an override, and a refund pass by two people's leave; return them by intent."""

    def ask(who: str, path: str, **body) -> dict:
        answer = service.request("POST", f"{OPERATOR}/{path}", json=body, headers=people[who])
        assert answer.is_success, answer.text
        return answer.json()

    def heard(what: str) -> int:
        return len(re.findall(rf"evaluation boundary: {what},", service.log("worker")))

    forced = heard(r"\w+ -> forced_open")
    override = ask("petra", "overrides", tier="low", reason="incident 9", expires_in=60, max_per_minute=9)["order_id"]
    ask("sven", "boundaries/evaluation/force-open", reason="drill")
    try:
        until(lambda: heard(r"\w+ -> forced_open") > forced, "the worker decides nothing any more")
        reads = [
            envelope(service.submit(read_note(k), key=k), 200, "ALLOWED", mode="fail_open") for k in ("rv1", "rv2")
        ]
        waits = envelope(service.submit(refund(91), key="rv3"), 503, "EVALUATION_UNAVAILABLE")["intent_id"]
        for who in ("petra", "quinn"):
            seen = service.get(f"{OPERATOR}/queue/{waits}", headers=people[who]).json()
            ask(who, f"queue/{waits}/approve", note="seen", **{k: seen[k] for k in ("version", "act_hash", "bundle")})
        envelope(service.claim(waits), 200, "ALLOWED", mode="operator")
    finally:
        ask("petra", f"overrides/{override}/end", note="over")
        ask("sven", "boundaries/evaluation/reset", reason="over")
        service.until_ready()
    return {"reads": [read["intent_id"] for read in reads], "refund": waits, "override": override}


def listed(service, people, **asked) -> dict[str, dict]:
    """Return every review that a list holds, page by page, by intent."""
    found, query = [], {"limit": "2", **asked}
    while True:
        answer = service.get(f"{OPERATOR}/reviews", headers=people["sven"], params=query)
        assert answer.status_code == 200, answer.text
        found += answer.json()["reviews"]
        if answer.json()["next"] is None:
            return {review["intent_id"]: review for review in found}
        query["after"] = answer.json()["next"]


def test_whatever_left_around_the_evaluation_is_listed_and_closed_once_by_somebody_else(service, people, let_through):
    def close(who: str, review: dict, **body):
        path = f"{OPERATOR}/reviews/{review['review_id']}/close"
        given = {"verdict": "justified", "note": "looked at it"} | body
        return service.request("POST", path, json=given, headers=people[who])

    refund_id, (first_id, second_id) = let_through["refund"], let_through["reads"]
    reviews = listed(service, people)
    permitted, first, second = reviews[refund_id], reviews[first_id], reviews[second_id]
    assert (permitted["mode"], permitted["behind"], permitted["activation_id"]) == (
        "operator",
        ["petra", "quinn"],
        None,
    )
    for read in (first, second):
        assert (read["mode"], read["behind"]) == ("fail_open", ["petra"])
        assert (read["activation_id"], read["policy"]) == (let_through["override"], "low")
    assert refund_id not in listed(service, people, mode="fail_open")
    assert first_id not in listed(service, people, mode="operator")

    problem(close("sven", permitted), 403, "FORBIDDEN")
    for who in ("petra", "quinn"):
        problem(close(who, permitted), 403, "FORBIDDEN")
    problem(close("petra", first), 403, "FORBIDDEN")
    problem(close("rita", permitted, note=" "), 400, "REQUEST_MALFORMED")
    assert close("rita", permitted).json()["closed_by"] == "rita"
    problem(close("rita", permitted), 409, "CONFLICT")

    ids = [permitted["review_id"], first["review_id"], "rev_unknown"]
    body = {"review_ids": ids, "verdict": "unjustified", "note": "why at night?"}
    many = service.request("POST", f"{OPERATOR}/reviews/close", json=body, headers=people["rita"])
    results = [(one["review_id"], one["done"], one.get("problem", {}).get("status")) for one in many.json()["results"]]
    assert results == list(zip(ids, (False, True, False), (409, None, 404), strict=True))

    assert listed(service, people).keys().isdisjoint({refund_id, first_id})
    closed = listed(service, people, state="all")
    assert [closed[one]["verdict"] for one in (refund_id, first_id, second_id)] == ["justified", "unjustified", None]


@pytest.mark.parametrize("query", ["state=closed", "mode=normal", "mode=", "limit=0", "limit=501", "after=x", "page=2"])
def test_a_list_that_is_asked_for_wrongly_is_refused(service, people, query):
    problem(service.get(f"{OPERATOR}/reviews?{query}", headers=people["sven"]), 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    "ids", [None, [], ["rev_1", "rev_1"], ["rev_1", 2], ["no/id"], [f"rev_{n}" for n in range(501)]]
)
def test_a_bulk_that_is_none_changes_nothing(service, people, ids):
    body = {"review_ids": ids, "verdict": "justified", "note": "n"}
    answer = service.request("POST", f"{OPERATOR}/reviews/close", json=body, headers=people["rita"])
    problem(answer, 400, "REQUEST_MALFORMED")


def test_policy_is_asked_afterwards_and_the_command_line_closes_the_rest(service, people, let_through):
    def run(who: str, *arguments: str, expect: int = 0) -> dict:
        token = people[who]["Authorization"].removeprefix("Bearer ")
        return holdfast(*arguments, "--url", service.base_url, expect=expect, HOLDFAST_OPERATOR_TOKEN=token)

    mine = {*let_through["reads"], let_through["refund"]}

    def judged() -> list[bool | None]:
        found = run("sven", "reviews", "list", "--all", "--limit", "500")["reviews"]
        return [review["flagged"] for review in found if review["intent_id"] in mine]

    until(lambda: judged() == [False] * 3, "policy has been asked about all three")
    left = run("sven", "reviews", "list", "--mode", "fail_open")["reviews"]
    ids = [review["review_id"] for review in left if review["intent_id"] in mine]
    options = ("--verdict", "justified", "--note", "read only")
    refused = run("petra", "reviews", "close", *ids, "rev_unknown", *options, expect=1)["results"]
    assert [one["problem"]["status"] for one in refused] == [403] * len(ids) + [404]
    done = run("rita", "reviews", "close", *ids, *options)["results"]
    assert ids
    assert all(one["done"] for one in done)
    assert service.faults() == []
