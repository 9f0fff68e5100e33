"""A classifier in front of the catalogue, over real HTTP on loopback, in all the ways in which it can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import pytest
from holdfast.reasons import Decision, ReasonCode, Status
from holdfast.token import verify_signature
from world import World

from services.boundary import Boundary, WrongAnswer
from services.breaker import State
from services.remote_classifier import MAX_ANSWER_BYTES, ClassifierUnreachable, ClassifierUnsure, RemoteClassifier

pytestmark = pytest.mark.integration

DISPUTED = {"category": "finance.refund", "confidence": 0.9, "version": "m-7"}


class Server:
    """Answers every request with the same bytes, or as `behave(writer)` does, and keeps what it was asked."""

    def __init__(self):
        self.requests = []
        self.answer = None
        self.behave = None
        self.released = asyncio.Event()

    def says(self, document, *, status="200 OK", headers=()):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
        self.answer = "\r\n".join(lines).encode() + body

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next(
                    int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")
                )
                self.requests.append((head, json.loads(await reader.readexactly(length))))
                if self.behave is not None:
                    await self.behave(writer)
                    break
                writer.write(self.answer)
                await writer.drain()
        writer.close()


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def url(server):
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    yield f"http://{host}:{port}/classify"
    server.released.set()
    listening.close()
    await listening.wait_closed()


@pytest.fixture
async def classifier(url):
    opened = RemoteClassifier(url, token="secret-of-the-classifier", min_confidence=0.8)
    yield opened
    await opened.close()


@pytest.fixture
def world(classifier):
    world = World(deadline_s=0.5)
    world.authorizer._classifier = classifier
    boundary = Boundary(
        "intent",
        reason_code=ReasonCode.CLASSIFICATION_UNAVAILABLE,
        deadline_s=0.5,
        clock=world.clock,
        counts=(TimeoutError, ClassifierUnreachable),
    )
    world.boundaries = world.authorizer._boundaries = type(world.boundaries)(
        intent=boundary,
        evaluation=world.boundaries.evaluation,
        token=world.boundaries.token,
        audit=world.boundaries.audit,
    )
    return world


def search(world):
    return world.submit(world.search(), key="k")


# --- what it is asked -------------------------------------------------------------------------------------------------


async def test_it_is_asked_what_will_run_without_personal_parameters(world, server):
    server.says({"category": "finance.refund", "confidence": 1})

    await world.submit(world.refund(parameters={"amount_cents": 7, "note": "for Alice"}))

    [(head, body)] = server.requests
    assert body == {
        "action": "payments.refund.create",
        "resource": {"type": "payment", "id": "pay_123"},
        "parameters": {"amount_cents": 7},
        "executor": "payments-api",
        "context": {"environment": "production", "model": None},
    }
    assert head.startswith("POST /classify HTTP/1.1\r\n")
    assert "authorization: Bearer secret-of-the-classifier" in head.replace("Authorization", "authorization")


async def test_the_same_category_changes_nothing(world, server):
    server.says({"category": "support.read", "confidence": 0.8, "version": "m-7"})
    plain = await World().submit(World().search())

    outcome = await search(world)

    assert outcome.token is not None
    assert (outcome.risk, outcome.classified) == (plain.risk, plain.classified)
    assert "classifier" not in world.recorder.durable[-1].entry.members


async def test_an_unknown_action_is_refused_without_asking(world, server):
    outcome = await world.submit(world.search(action="kb.delete"))

    assert outcome.reason_code is ReasonCode.INTENT_UNCLASSIFIED
    assert server.requests == []


# --- a dispute --------------------------------------------------------------------------------------------------------


async def test_a_graver_category_raises_the_risk_and_the_record_names_it(world, server):
    server.says(DISPUTED)
    plain = await World().submit(World().search())

    outcome = await search(world)

    assert outcome.token is not None
    assert outcome.risk.score == plain.risk.score + 35
    assert (outcome.classified.category, outcome.classified.impact) == ("support.read", "high")
    claims = verify_signature(outcome.token, world.signer.verify_keys())
    assert (claims.category, claims.risk) == ("support.read", outcome.risk.score)
    members = world.recorder.durable[-1].entry.members
    assert members["category"] == "support.read"
    assert members["classifier"] == {"category": "finance.refund", "confidence_percent": 90, "version": "m-7"}


async def test_a_milder_category_lowers_nothing(world, server):
    server.says({"category": "support.read", "confidence": 1})
    plain = await World().submit(World().refund())

    outcome = await world.submit(world.refund())

    assert outcome.risk == plain.risk
    assert outcome.classified.impact == "high"
    assert world.recorder.durable[-1].entry.members["classifier"]["category"] == "support.read"


# --- no classification ------------------------------------------------------------------------------------------------

UNSURE = [
    {"category": "no.such", "confidence": 1},
    {"category": "", "confidence": 1},
    {"category": "support.read", "confidence": 0.79},
    {"category": "finance.refund", "confidence": 0},
]
GARBAGE = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"support.read"',
    {"category": "support.read"},
    {"confidence": 1},
    {"category": None, "confidence": 1},
    {"category": ["support.read"], "confidence": 1},
    {"category": "support.read", "confidence": "1"},
    {"category": "support.read", "confidence": True},
    {"category": "support.read", "confidence": 1.01},
    {"category": "support.read", "confidence": -0.1},
    b'{"category": "support.read", "confidence": NaN}',
    b'{"category": "support.read", "confidence": 1e999}',
    b'{"category": "no.such", "category": "support.read", "confidence": 1}',
    b'{"category": "support.read", "confidence": 1} {}',
    {"category": "support.read", "confidence": 1, "allow": True},
    {"category": "support.read", "confidence": 1, "version": 7},
    {"category": "support.read", "confidence": 1, "version": "x" * 65},
    {"category": "support.read", "confidence": 1, "version": "a\nb"},
    b"[" * 5000,
]


async def unclassified(world):
    outcome = await search(world)
    assert outcome.token is None
    assert (outcome.decision, outcome.status) == (Decision.DENY, Status.QUEUED)
    assert outcome.reason_code is ReasonCode.CLASSIFICATION_UNAVAILABLE
    assert (outcome.http_status, outcome.retry_after_s is not None) == (503, True)
    assert world.signer.signed == []
    return outcome


@pytest.mark.parametrize("answer", UNSURE)
async def test_what_it_cannot_tell_waits_and_is_nobody_elses_trouble(world, server, answer):
    server.says(answer)
    for _ in range(5):
        await unclassified(world)

    assert world.boundaries.intent.state.state is State.CLOSED


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Too Large", "422 Unprocessable"])
async def test_a_request_it_refuses_is_nobody_elses_trouble(world, server, status):
    server.says({"category": "support.read", "confidence": 1}, status=status)
    for _ in range(5):
        await unclassified(world)

    assert world.boundaries.intent.state.state is State.CLOSED


@pytest.mark.parametrize("answer", GARBAGE)
async def test_garbage_is_no_classification_and_counts(world, server, answer):
    server.says(answer)
    for _ in range(3):
        await unclassified(world)

    assert world.boundaries.intent.state.state is State.OPEN
    asked = len(server.requests)
    await unclassified(world)
    assert len(server.requests) == asked, "behind an open circuit nobody is asked"


@pytest.mark.parametrize(
    "status", ["201 Created", "204 No Content", "401 Unauthorized", "404 Not Found", "429 Too Many", "500 No", "503 No"]
)
async def test_no_other_status_than_200_is_an_answer(world, server, status):
    server.says({"category": "support.read", "confidence": 1} if "204" not in status else b"", status=status)
    for _ in range(3):
        await unclassified(world)

    assert world.boundaries.intent.state.state is State.OPEN


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(world, server, url, status):
    server.says({"category": "support.read", "confidence": 1}, status=status, headers=[f"location: {url}?again"])

    await unclassified(world)

    assert len(server.requests) == 1


async def test_a_server_that_closes_is_no_answer(world, server):
    async def close(writer):
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"category": "support.read"')
        await writer.drain()

    server.behave = close

    await unclassified(world)


async def test_a_hanging_server_is_cut_off_by_the_deadline(world, server):
    async def hang(_writer):
        await server.released.wait()

    server.behave = hang

    await asyncio.wait_for(unclassified(world), 5)


async def test_a_slow_drip_is_cut_off_by_the_deadline(world, server):
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not server.released.is_set():
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(server.released.wait(), 0.02)

    server.behave = drip

    await asyncio.wait_for(unclassified(world), 5)


async def test_a_huge_answer_is_not_read_to_its_end(classifier, server):
    sent = 0

    async def pour(writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 1000 * MAX_ANSWER_BYTES:
                writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
                await writer.drain()
                sent += 0x4000

    server.behave = pour
    world = World()

    with pytest.raises(ClassifierUnreachable, match="larger"):
        await classifier.classify(world.policies.current(), world.search())

    assert sent < 500 * MAX_ANSWER_BYTES


async def test_a_compressed_answer_is_refused_unread(classifier, server):
    server.says({"category": "support.read", "confidence": 1}, headers=["content-encoding: gzip"])
    world = World()

    with pytest.raises(ClassifierUnreachable, match="compressed"):
        await classifier.classify(world.policies.current(), world.search())


async def test_nobody_listening_is_unreachable(world, monkeypatch):
    """And no proxy from the environment is asked in its place."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    world.authorizer._classifier = RemoteClassifier("http://127.0.0.1:1/", token=None, min_confidence=0.8)
    for _ in range(3):
        await unclassified(world)

    assert world.boundaries.intent.state.state is State.OPEN
    await world.authorizer._classifier.close()


async def test_no_proxy_of_the_environment_is_used(classifier, server, url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server.says({"category": "support.read", "confidence": 1})
    direct = RemoteClassifier(url, token=None, min_confidence=0.8)
    world = World()

    assert await direct.classify(world.policies.current(), world.search()) is not None
    await direct.close()


async def test_the_token_is_in_no_log_and_in_no_error(world, server, classifier, caplog):
    caplog.set_level(logging.DEBUG)
    server.says(b"garbage", status="500 No")

    outcome = await unclassified(world)

    assert "secret-of-the-classifier" not in caplog.text + str(outcome) + repr(world.boundaries.intent.state)
    assert "secret-of-the-classifier" not in repr(vars(classifier)["_url"])


# --- the canary -------------------------------------------------------------------------------------------------------


async def test_the_canary_asks_for_the_catalogues_first_action(classifier, server):
    server.says({"category": "support.read", "confidence": 1})

    await classifier.check(World().policies.current())

    assert server.requests[0][1]["action"] == "kb.search"


async def test_the_circuit_closes_on_correct_answers_only(world, server, classifier):
    policy = world.policies.current()

    async def canary():
        await classifier.check(policy)
        return True

    server.says(b"garbage")
    for _ in range(3):
        await unclassified(world)
    server.says({"category": "finance.refund", "confidence": 1})
    world.clock.advance(31)
    assert await world.boundaries.intent.probe(canary, proves=lambda _: None)
    assert world.boundaries.intent.state.state is State.OPEN, "an answer, but not the known one"

    server.says({"category": "support.read", "confidence": 1})
    world.clock.advance(31)
    for _ in range(3):
        assert await world.boundaries.intent.probe(canary, proves=lambda _: None)

    assert world.boundaries.intent.state.state is State.CLOSED
    assert (await search(world)).token is not None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"category": "finance.refund", "confidence": 1}, WrongAnswer),
        ({"category": "support.read", "confidence": 0.1}, ClassifierUnsure),
        (b"{}", ClassifierUnreachable),
    ],
)
async def test_a_wrong_canary_proves_nothing(classifier, server, answer, error):
    server.says(answer)

    with pytest.raises(error):
        await classifier.check(World().policies.current())
