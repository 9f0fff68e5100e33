"""The whole service killed, and killed in an outage: what was acknowledged is there when it comes back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from chaos.evidence import check
from chaos.load import Load
from e2e.envelope import envelope, problem
from e2e.running_service import read_note, refund, send, tree, until

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


async def test_a_supervisor_that_is_killed_leaves_no_orphan_and_the_next_loses_nothing(fresh_service, tmp_path):
    service = fresh_service(max_per_agent=2_000)
    load = Load(service, tmp_path / "ledger", name="supervisor", seed=7, intents=80)

    async def kill_and_start_again() -> None:
        await load.moment()
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)

    await load.run(asyncio.create_task(kill_and_start_again()))

    await check(service, load)
    assert load.summary()["executed"] > 0


def test_an_api_that_is_killed_in_an_outage_starts_in_it_and_its_journal_is_recovered(fresh_service):
    """The intents of the first process, of the second, and one whose key both were asked with."""
    service = fresh_service(max_per_agent=2_000)
    members = tree(service.pid("postgres"))
    for member in members:
        send(member, signal.SIGSTOP)
    try:
        until(lambda: "store_unreachable" in service.troubles(), "the outage is noticed")
        first = [
            envelope(service.submit(refund(50 + n), key=f"first-{n}"), 503, "EVALUATION_UNAVAILABLE") for n in range(3)
        ]
        old = service.pid("api")
        send(old, signal.SIGKILL)
        until(lambda: service.pid("api") != old and service.troubles() != [], "another API answers, unready")

        second = [
            envelope(service.submit(refund(60 + n), key=f"second-{n}"), 503, "EVALUATION_UNAVAILABLE") for n in range(3)
        ]
        twice = envelope(service.submit(refund(50), key="first-0"), 503, "EVALUATION_UNAVAILABLE", status="queued")
        unknown = service.look(first[1]["intent_id"])
    finally:
        for member in members:
            send(member, signal.SIGCONT)
    service.until_ready()

    problem(unknown, 503, "SERVICE_UNAVAILABLE")
    for waiting in (*first, *second):
        intent_id = waiting["intent_id"]
        until(
            lambda intent_id=intent_id: service.look(intent_id).json()["status"] == "claimable",
            f"{intent_id} can be claimed",
        )
    # The second process could not know that the key was used. Of two intents the first stands, the other never was.
    assert twice["intent_id"] != first[0]["intent_id"]
    problem(service.look(twice["intent_id"]), 404, "NOT_FOUND")
    envelope(service.submit(refund(50), key="first-0"), 202, "ALLOWED", intent_id=first[0]["intent_id"])
    receipts = [answer["receipt"] for answer in (*first, *second, twice)]
    verified = service.verify([f"{r['stream']}:{r['seq']}:{r['hash']}" for r in receipts])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    for n, waiting in enumerate(first):
        token = envelope(service.claim(waiting["intent_id"]), 200, "ALLOWED")["token"]
        assert service.consume(token, refund(50 + n), executor="bank-api").status_code == 200
    assert service.faults() == []


def test_a_service_that_is_killed_in_an_outage_recovers_its_journal_at_the_next_start(fresh_service):
    service = fresh_service(max_per_agent=2_000)
    granted = envelope(service.submit(refund(1), key="granted"), 200, "ALLOWED")
    members = tree(service.pid("postgres"))
    for member in members:
        send(member, signal.SIGSTOP)
    until(lambda: "store_unreachable" in service.troubles(), "the outage is noticed")
    waiting = [
        envelope(service.submit(read_note(f"n{n}"), key=f"journal-{n}"), 503, "EVALUATION_UNAVAILABLE")
        for n in range(5)
    ]
    assert {answer["queue"]["state"] for answer in waiting} == {"journal"}

    # A power loss takes the stopped ones too.
    for pid in tree(service.process.pid):
        send(pid, signal.SIGKILL)
    service.process.wait()
    # Not even a zombie: PostgreSQL takes the process id in its lock file for a running server.
    until(lambda: not any(Path(f"/proc/{member}").exists() for member in members), "nothing is left")
    service.start()

    for answer in waiting:
        intent_id = answer["intent_id"]
        until(
            lambda intent_id=intent_id: service.look(intent_id).json()["status"] == "claimable",
            f"{intent_id} can be claimed",
        )
    assert service.consume(granted["token"], refund(1), executor="bank-api").status_code == 200
    receipts = [answer["receipt"] for answer in (granted, *waiting)]
    verified = service.verify([f"{r['stream']}:{r['seq']}:{r['hash']}" for r in receipts])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert service.faults() == []
