"""How an agent learns what became of its intents: by waiting, and by server-sent events."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from e2e.envelope import check_members, problem
from e2e.event_reader import EventReader
from e2e.running_service import held, read_note, send
from holdfast import Client, Resource

pytestmark = pytest.mark.integration


@pytest.fixture
def keep(service, request):
    """Return a maker of held intents that are gone again after the test."""
    made: list[tuple[str, str]] = []
    count = 0

    def make(agent: str = "alpha") -> str:
        nonlocal count
        count += 1
        answer = service.submit(
            held(f"{request.node.name[:60]}-{count}"), agent=agent, key=f"{request.node.name}{count}"
        )
        assert answer.json()["status"] == "held", answer.text
        made.append((answer.json()["intent_id"], agent))
        return made[-1][0]

    yield make
    for intent_id, agent in made:
        service.cancel(intent_id, agent=agent)


def waited(service, intent_id: str, seconds: float, agent: str = "alpha") -> httpx2.Response:
    return service.get(f"/v1/intents/{intent_id}?wait={seconds:g}", headers=service.bearer("agent", agent))


def heard(reader: EventReader, intent_ids: set[str], count: int) -> list[tuple[str, str]]:
    """Return intent and name of the next `count` events of these intents, after a check of each."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        event = reader.next()
        check_members(event.data)
        assert event.data["token"] is None
        if event.data["intent_id"] in intent_ids:
            found.append((event.data["intent_id"], event.name))
    return found


# --- long poll --------------------------------------------------------------------------------------------------------


def test_a_long_poll_ends_with_the_change_and_its_envelope(service, keep):
    intent_id = keep()
    with ThreadPoolExecutor(max_workers=20) as threads:
        polls = [threads.submit(waited, service, intent_id, 60) for _ in range(20)]
        while "holdfast_waiters 20.0" not in service.get("/metrics").text:
            time.sleep(0.05)
        service.cancel(intent_id)
        answers = [poll.result(timeout=30) for poll in polls]

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["status"] for answer in answers} == {"cancelled"}
    for answer in answers:
        check_members(answer.json())


def test_a_long_poll_ends_undecided_at_its_time(service, keep):
    answer = waited(service, keep(), 0.3)

    assert (answer.status_code, answer.json()["status"]) == (200, "held")


def test_a_long_poll_of_another_agents_intent_is_404(service, keep):
    problem(waited(service, keep(), 30, agent="beta"), 404, "NOT_FOUND")


# --- events -----------------------------------------------------------------------------------------------------------


def test_an_agent_hears_of_all_its_intents_in_order_and_of_nobody_elses(service, keep):
    with EventReader(service, "/v1/events") as reader:
        assert (reader.status, reader.headers["content-type"]) == (200, "text/event-stream")
        assert reader.headers["cache-control"] == "no-store"
        assert reader.block().keys() == {"retry", "id"}
        assert 2_000 <= reader.retry_ms < 8_000
        foreign = keep("beta")
        first, second = keep(), keep()
        service.cancel(foreign, agent="beta")
        service.cancel(second)

        events = heard(reader, {first, second, foreign}, 3)

    assert events == [(first, "held"), (second, "held"), (second, "cancelled")]


def test_a_reader_resumes_after_the_last_event_it_saw_without_a_gap(service, keep):
    with EventReader(service, "/v1/events") as reader:
        first = keep()
        heard(reader, {first}, 1)
    second = keep()
    service.cancel(first)
    with EventReader(service, "/v1/events", last_event_id=reader.last_event_id) as again:
        service.cancel(second)
        names = heard(again, {first, second}, 3)

    assert names == [(second, "held"), (first, "cancelled"), (second, "cancelled")]


def test_a_reader_that_was_connected_before_any_event_can_resume_too(service, keep):
    with EventReader(service, "/v1/events") as reader:
        reader.block()
    intent_id = keep()
    with EventReader(service, "/v1/events", last_event_id=reader.last_event_id) as again:
        assert heard(again, {intent_id}, 1) == [(intent_id, "held")]


@pytest.mark.parametrize("last_seen", ["9999999999999999-0"])
def test_an_id_that_nothing_can_be_resumed_from_is_answered_with_a_reset_and_the_stream_goes_on(
    service, keep, last_seen
):
    with EventReader(service, "/v1/events", last_event_id=last_seen) as reader:
        assert reader.next().name == "reset"
        intent_id = keep()
        assert heard(reader, {intent_id}, 1) == [(intent_id, "held")]


@pytest.mark.parametrize("last_seen", ["x", "1", "1-2-3", "-1-2", "01-2", "99999999999999999999-1"])
def test_an_id_that_is_none_is_refused(service, last_seen):
    answer = service.get("/v1/events", headers={**service.bearer("agent", "alpha"), "Last-Event-ID": last_seen})
    problem(answer, 400, "REQUEST_MALFORMED")


def test_the_events_of_one_intent_begin_with_what_it_is_and_end_with_its_end(service, keep):
    intent_id, other = keep(), keep()
    with EventReader(service, f"/v1/intents/{intent_id}/events") as reader:
        assert reader.next().name == "held"
        service.cancel(other)
        service.cancel(intent_id)
        last = reader.next()
        assert (last.name, last.data["intent_id"]) == ("cancelled", intent_id)
        assert reader.next() is None
    with EventReader(service, f"/v1/intents/{intent_id}/events") as after:
        assert after.next().name == "cancelled"
        assert after.next() is None
    # An EventSource stops coming back at 204, and at nothing else.
    headers = {**service.bearer("agent", "alpha"), "Last-Event-ID": last.id}
    assert service.get(f"/v1/intents/{intent_id}/events", headers=headers).status_code == 204


def test_the_events_of_an_intent_that_was_answered_at_once_are_its_end(service):
    intent_id = service.submit(read_note()).json()["intent_id"]
    with EventReader(service, f"/v1/intents/{intent_id}/events") as reader:
        event = reader.next()
        assert (event.name, event.data["token"]) == ("granted", None)
        assert reader.next() is None


def test_events_are_for_the_agent_whose_intents_they_are(service, keep):
    path = f"/v1/intents/{keep()}/events"
    problem(service.get(path, headers=service.bearer("agent", "beta")), 404, "NOT_FOUND")
    problem(service.get(path), 401, "UNAUTHENTICATED")
    problem(service.get("/v1/events"), 401, "UNAUTHENTICATED")
    problem(service.get("/v1/events", headers=service.bearer("operator")), 401, "UNAUTHENTICATED")
    problem(service.get("/v1/events?x=1", headers=service.bearer("agent", "alpha")), 400, "REQUEST_MALFORMED")


def test_an_agent_has_a_few_streams_and_one_more_is_told_to_come_later(service):
    readers = [EventReader(service, "/v1/events", agent="gamma") for _ in range(10)]
    try:
        assert {reader.status for reader in readers} == {200}
        for reader in readers:
            reader.block()
        problem(service.get("/v1/events", headers=service.bearer("agent", "gamma")), 503, "SERVICE_UNAVAILABLE")
        with EventReader(service, "/v1/events", agent="beta") as other:
            assert other.status == 200
    finally:
        for reader in readers:
            reader.close()
    service.until(lambda: "holdfast_streams 0.0" in service.get("/metrics").text, "every stream is closed")


# --- outages and the end ----------------------------------------------------------------------------------------------


def test_streams_and_waits_live_through_an_outage_of_the_store(service):
    with EventReader(service, "/v1/events") as reader, ThreadPoolExecutor(max_workers=1) as threads:
        reader.block()
        with service.stopped("postgres"):
            service.until(lambda: not service.ready(), "the outage is noticed")
            queued = service.submit(read_note("in an outage"), key="events-outage").json()
            assert queued["queue"]["state"] == "journal"
            poll = threads.submit(waited, service, queued["intent_id"], 60)
        events = heard(reader, {queued["intent_id"]}, 2)
        answer = poll.result(timeout=60)

    assert (answer.status_code, answer.json()["status"]) == (200, "claimable")
    assert [name for _, name in events] == ["queued", "claimable"]
    assert service.claim(queued["intent_id"]).status_code == 200


def test_the_sdk_waits_through_an_outage_and_a_restart_of_the_service(service):
    told: list[str] = []
    with (
        Client(service.base_url, service.key("agent", "alpha")) as client,
        ThreadPoolExecutor(max_workers=1) as threads,
    ):
        with service.stopped("postgres"):
            service.until(lambda: not service.ready(), "the outage is noticed")
            waiting = threads.submit(
                client.submit,
                action="note.read",
                resource=Resource(type="note", id="waited for"),
                wait=60,
                on_progress=lambda envelope: told.append(str(envelope["status"])),
            )
            service.until(lambda: told == ["queued"], "the intent waits")
            killed = service.pid("api")
            send(killed, signal.SIGKILL)
            service.until(lambda: service.pid("api") != killed, "the API runs again")
        authority = waiting.result(timeout=90)

    assert told == ["queued", "claimable"]
    assert authority.envelope["status"] == "granted"
    assert service.consume(authority.token, read_note("waited for")).status_code == 200


def test_a_service_that_is_told_to_stop_ends_streams_and_waits_at_once(fresh_service):
    service = fresh_service()
    answer = service.submit(held(), key="k")
    intent_id = answer.json()["intent_id"]
    with EventReader(service, "/v1/events") as reader, ThreadPoolExecutor(max_workers=1) as threads:
        reader.block()
        poll = threads.submit(waited, service, intent_id, 60)
        service.until(lambda: "holdfast_waiters 1.0" in service.get("/metrics").text, "the poll waits")
        ended = threading.Event()
        service.process.send_signal(signal.SIGTERM)
        assert reader.block() is None
        assert poll.result(timeout=30).json()["status"] == "held"
        ended.set()
    assert service.stop() == 0
    assert "Cancel " not in service.log("api")
