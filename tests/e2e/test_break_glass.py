"""Break-glass on a real service: two people open a way in an outage, and afterwards everything is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import httpx2
import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import RunningService, read_note, refund, until

from services.provision import open_provisioner

pytestmark = pytest.mark.integration
PATH = "/v1/operator/break-glass"
REVIEWS = "/v1/operator/reviews"
CLI = (sys.executable, "-P", "-m", "console.cli.main")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Return a service of its own: what is activated here must not let pass what other tests expect to wait."""
    running = RunningService(tmp_path_factory.mktemp("a house with glass"))
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="module")
def people(house):
    """Return bearer headers of operators beside the first, all known to the API even while PostgreSQL is away."""
    made = {"admin": house.bearer("operator"), **asyncio.run(hired(house))}
    snapshot = house.data / "credentials-api.json"
    until(lambda: made.keys() <= {entry[2] for entry in json.loads(snapshot.read_bytes())}, "the API has read them all")
    return made


async def hired(house: RunningService) -> dict[str, dict[str, str]]:
    made = {}
    async with open_provisioner(house.database_url, house.data) as provisioner:
        for name, role in (("vera", "viewer"), ("otto", "operator"), ("olga", "operator"), ("anna", "approver")):
            made[name] = {"Authorization": f"Bearer {(await provisioner.operator(name, role)).token}"}
    return made


class Desk:
    """What people ask of the service."""

    def __init__(self, house: RunningService, people: dict) -> None:
        self.house, self.people = house, people

    def ask(self, who: str, path: str = "", **body) -> httpx2.Response:
        return self.house.request("POST", f"{PATH}{path}", json=body, headers=self.people[who])

    def activate(self, who: str, policy: str = "rescue", minutes: int = 5) -> httpx2.Response:
        return self.ask(who, policy=policy, reason="the store is away", incident="INC-7", minutes=minutes)

    def activated(self, *who: str, policy: str = "rescue") -> str:
        first, *others = who
        answer = self.activate(first, policy)
        assert answer.status_code == 201, answer.text
        activation = answer.json()["activation_id"]
        for name in others:
            answer = self.ask(name, f"/{activation}/confirm")
            assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == "in_force"
        return activation

    def revoke(self, who: str, activation: str) -> httpx2.Response:
        return self.ask(who, f"/{activation}/revoke", note="it is over")

    def show(self, activation: str) -> dict:
        return self.house.get(f"{PATH}/{activation}", headers=self.people["vera"]).json()

    def reviews(self, activation: str) -> list[dict]:
        return self.show(activation)["reviews"] or []

    def close(self, who: str, review_id: str, **body) -> httpx2.Response:
        given = {"verdict": "justified", "note": "we needed it"} | body
        return self.house.request("POST", f"{REVIEWS}/{review_id}/close", json=given, headers=self.people[who])


@pytest.fixture
def desk(house, people):
    return Desk(house, people)


@contextlib.contextmanager
def ended(desk: Desk, activation: str):
    """End an activation, and review its uses, whatever the block does."""
    try:
        yield activation
    finally:
        desk.revoke("anna", activation)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_no_agent_and_no_executor_and_no_viewer_opens_anything(house, desk):
    body = {"policy": "peek", "reason": "r", "incident": "i", "minutes": 1}
    for kind, name in (("agent", "alpha"), ("executor", "bank-api")):
        for path in (PATH, f"{PATH}/brk_1/confirm", f"{PATH}/brk_1/revoke", f"{REVIEWS}/rev_1/close"):
            problem(house.request("POST", path, json=body, headers=house.bearer(kind, name)), 401, "UNAUTHENTICATED")
        problem(house.get(PATH, headers=house.bearer(kind, name)), 401, "UNAUTHENTICATED")
    problem(desk.activate("vera", "peek"), 403, "FORBIDDEN")
    problem(desk.ask("vera", "/brk_1/confirm"), 403, "FORBIDDEN")
    problem(desk.ask("vera", "/brk_1/revoke", note="n"), 403, "FORBIDDEN")
    problem(desk.close("otto", "rev_1"), 403, "FORBIDDEN")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"policy": "rescue", "incident": "i", "minutes": 1},
        {"policy": "rescue", "reason": " ", "incident": "i", "minutes": 1},
        {"policy": "rescue", "reason": "r", "minutes": 1},
        {"policy": "rescue", "reason": "r", "incident": "i"},
        {"policy": "rescue", "reason": "r", "incident": "i", "minutes": True},
        {"policy": "rescue", "reason": "r", "incident": "i", "minutes": 31},
        {"policy": "rescue", "reason": "r", "incident": "i", "minutes": 1, "max_uses": 1000},
    ],
)
def test_an_activation_that_says_too_little_or_too_much_is_refused(desk, body):
    problem(desk.ask("otto", **body), 400, "REQUEST_MALFORMED")


def test_people_confirm_what_others_asked_for_once_and_renew_it_with_somebody_new(desk):
    asked = desk.activate("otto")
    assert (asked.status_code, asked.json()["state"], asked.json()["recorded"]) == (201, "pending", "database")
    activation = asked.json()["activation_id"]
    problem(desk.ask("otto", f"/{activation}/confirm"), 403, "FORBIDDEN")
    with ended(desk, activation):
        assert desk.ask("olga", f"/{activation}/confirm").json()["state"] == "in_force"
        problem(desk.ask("olga", f"/{activation}/confirm"), 409, "CONFLICT")
        problem(desk.ask("anna", f"/{activation}/confirm"), 409, "CONFLICT")

        renewal = desk.activate("olga").json()["activation_id"]
        problem(desk.ask("otto", f"/{renewal}/confirm"), 403, "FORBIDDEN")
        with ended(desk, renewal):
            assert desk.ask("anna", f"/{renewal}/confirm").json()["state"] == "in_force"
        problem(desk.revoke("otto", renewal), 409, "CONFLICT")
    problem(desk.ask("otto", "/brk_1/confirm"), 404, "NOT_FOUND")
    problem(desk.activate("otto", "no-such"), 404, "NOT_FOUND")


def test_while_policy_can_be_asked_it_is_asked(house, desk):
    with ended(desk, desk.activated("admin", policy="peek")):
        assert envelope(house.submit(read_note("b1"), key="bg-healthy"), 200, "ALLOWED")["mode"] == "normal"


# --- an outage --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def outage(house: RunningService):
    with house.stopped("postgres"):
        until(lambda: "store_unreachable" in house.troubles(), "the outage is noticed")
        yield


def broken_glass(house: RunningService, intent: dict, key: str, activation: str) -> dict:
    body = envelope(house.submit(intent, key=key), 200, "ALLOWED")
    assert body["mode"] == "break_glass"
    assert body["policy"]["determining"] == ["break_glass:rescue"]
    assert body["receipt"] is not None
    return body


def receipt(body: dict) -> str:
    return "{stream}:{seq}:{hash}".format(**body["receipt"])


def restarted(house: RunningService) -> None:
    """End the API as a power loss would, and wait until another one answers."""
    before = house.pid("api")
    os.kill(before, signal.SIGKILL)

    def answers() -> bool:
        try:
            return house.pid("api") != before and house.get("/livez").status_code == 200
        except httpx2.TransportError:
            return False

    until(answers, "the API is there again")


def test_two_people_open_a_way_in_an_outage_and_everything_is_accounted_for(house, desk):
    """One story: activate, use, be killed, use on, recover, consume, reconcile, review."""
    huge = refund(2_000_000, "huge")
    with outage(house):
        envelope(house.submit(refund(41, "early"), key="bg-early"), 503, "EVALUATION_UNAVAILABLE", status="queued")
        activation = desk.activated("otto", "admin")
        assert desk.show(activation)["reviews"] is None
        used = broken_glass(house, refund(42), "bg-1", activation)
        other = house.submit(refund(43), agent="beta", key="bg-other")
        elsewhere = house.submit(refund(43, context={"environment": "staging"}), key="bg-staging")
        category = house.submit(read_note("b2"), key="bg-category")
        envelope(house.submit(refund(-1), key="bg-wrong"), 403, "PARAMETERS_INVALID")
        assert house.consume(used["token"], refund(42), executor="bank-api").status_code == 503

        restarted(house)

        assert desk.show(activation)["state"] == "in_force"
        assert desk.show(activation)["uses"] == 1
        again = house.submit(refund(42), key="bg-1")
        denied_by_rule = broken_glass(house, huge, "bg-2", activation)
        last = broken_glass(house, refund(44), "bg-3", activation)
        over = house.submit(refund(45), key="bg-4")
        assert desk.show(activation)["uses"] == 3

    for refused in (other, elsewhere, category, again, over):
        assert refused.status_code == 503
        assert refused.json()["token"] is None
    # The token that left in the outage is good, once.
    assert house.consume(last["token"], refund(44), executor="bank-api").status_code == 200
    problem(house.consume(last["token"], refund(44), executor="bank-api"), 409, "TOKEN_CONSUMED")
    # Every use is a review, judged by policy after the fact.
    until(
        lambda: [r["would"] is not None for r in desk.reviews(activation)] == [True] * 3,
        "the uses are in the store, and reconciled",
    )
    reviews = {review["intent_id"]: review for review in desk.reviews(activation)}
    assert reviews.keys() == {used["intent_id"], denied_by_rule["intent_id"], last["intent_id"]}
    flagged = reviews[denied_by_rule["intent_id"]]
    assert (flagged["flagged"], flagged["would"]["then"]["decision"]) == (True, "deny")
    assert flagged["would"]["then"]["determining"] == ["no-huge-refunds"]
    assert [reviews[u["intent_id"]]["flagged"] for u in (used, last)] == [False, False]
    assert not any(review["over_cap"] or review["after_end"] for review in reviews.values())
    # Somebody else reviews it, with a note.
    problem(desk.close("admin", flagged["review_id"]), 403, "FORBIDDEN")
    problem(desk.close("anna", flagged["review_id"], note=""), 400, "REQUEST_MALFORMED")
    problem(desk.close("anna", flagged["review_id"], verdict="fine"), 400, "REQUEST_MALFORMED")
    assert desk.close("anna", flagged["review_id"], verdict="unjustified").status_code == 200
    problem(desk.close("anna", flagged["review_id"]), 409, "CONFLICT")
    problem(desk.close("anna", "rev_1"), 404, "NOT_FOUND")
    assert desk.revoke("olga", activation).status_code == 200
    # The log has it all.
    verified = house.verify([receipt(body) for body in (used, denied_by_rule, last)])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    metrics = house.get("/metrics").text
    assert "holdfast_break_glass_uses_total 2.0" in metrics, "since the restart"
    until(
        lambda: 'holdfast_reviews_overdue{mode="break_glass"} 0.0' in house.get("/metrics").text, "reviews are counted"
    )
    assert house.faults() == []


def test_what_is_revoked_in_an_outage_is_over_then_and_afterwards(house, desk):
    with outage(house):
        activation = desk.activated("anna", policy="peek")
        assert envelope(house.submit(read_note("b3"), key="bg-5"), 200, "ALLOWED")["mode"] == "break_glass"
        revoked = desk.revoke("olga", activation)
        assert (revoked.status_code, revoked.json()["recorded"]) == (200, "journal")
        assert house.submit(read_note("b3"), key="bg-6").status_code == 503
    until(lambda: len(desk.reviews(activation)) == 1, "the use is in the store")
    assert desk.show(activation)["state"] == "revoked"
    assert house.faults() == []


# --- the command line -------------------------------------------------------------------------------------------------


def holdfast(house: RunningService, people: dict, who: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    environment["HOLDFAST_OPERATOR_TOKEN"] = people[who]["Authorization"].removeprefix("Bearer ")
    command = [*CLI, *arguments, "--url", house.base_url, "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_the_command_line_does_all_of_it(house, people, desk):
    def done(who: str, *arguments: str) -> dict:
        run = holdfast(house, people, who, *arguments)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    options = ("--reason", "drill", "--incident", "INC-8", "--minutes", "5")
    (asked,) = done("olga", "break-glass", "activate", "drill", *options)["activations"]
    activation = asked["activation_id"]
    refused = holdfast(house, people, "olga", "break-glass", "confirm", activation)
    assert (refused.returncode, "FORBIDDEN" in refused.stderr) == (1, True)
    (confirmed,) = done("anna", "break-glass", "confirm", activation)["activations"]
    assert confirmed["state"] == "in_force"
    assert activation in {item["activation_id"] for item in done("vera", "break-glass", "list")["activations"]}
    (revoked,) = done("otto", "break-glass", "revoke", activation, "--note", "drill over")["activations"]
    assert revoked["state"] == "revoked"
    assert done("vera", "break-glass", "show", activation)["uses"] == 0

    for review in done("vera", "reviews", "list")["reviews"]:
        who = "admin" if "peek" in review["policy"] else "anna"
        closed = done(who, "reviews", "close", review["review_id"], "--verdict", "justified", "--note", "drill")
        assert [result["verdict"] for result in closed["results"]] == ["justified"]
    assert done("vera", "reviews", "list")["reviews"] == []
    assert done("vera", "reviews", "list", "--all")["reviews"] != []
    assert desk.show(activation)["state"] == "revoked"
