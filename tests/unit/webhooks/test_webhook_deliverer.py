"""A delivery is signed, tried for about a day, and given up only with a record."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from world import START, FakeClock, FakeIds, FakeRecorder, Fault

from services.metrics import Metrics
from services.notices.notice import Kind
from services.outbound.guard import Guard, Refused, Unresolved
from services.outbound.post import Receipt, Undelivered
from services.outbound.signature import verify
from services.ports import StoreUnreachable
from services.webhooks import (
    AT_ONCE_PER_AGENT,
    GIVE_UP_AFTER_S,
    MAX_ATTEMPTS,
    Callbacks,
    Delivery,
    Webhooks,
    pause,
)

KEY, OLD_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SUBMISSION = {"action": "a", "callback_url": "https://hooks.test/x", "resource": {"type": "t", "id": "1"}}


def delivery(**changes) -> Delivery:
    values = {
        "intent_id": "int_1",
        "version": 3,
        "agent": "bot",
        "status": "claimable",
        "stored": '{"intent_id": "int_1", "status": "claimable", "token": "never", "queue": null}',
        "claim_by": START + timedelta(seconds=120),
        "created_at": START,
        "attempts": 1,
        "epoch": 1,
        "submission": orjson.dumps(SUBMISSION),
        "receiver_is_gone": False,
    }
    return Delivery(**(values | changes))


class Owed:
    """Deliveries in memory."""

    def __init__(self) -> None:
        self.due: list[Delivery] = []
        self.ended: list[Delivery] = []
        self.enough = asyncio.Event()
        self.later: list[tuple[Delivery, float]] = []
        self.gone_intents: list[str] = []
        self.away = False

    async def claim(self, *, spared):
        self._check()
        found = next((one for one in self.due if one.agent not in spared), None)
        if found is not None:
            self.due.remove(found)
        return found

    async def postpone(self, one, seconds):
        self._check()
        self.later.append((one, seconds))

    async def done(self, one):
        self._check()
        self.ended.append(one)
        if len(self.ended) == 20:
            self.enough.set()

    async def gone(self, intent_id):
        self._check()
        self.gone_intents.append(intent_id)

    async def owed(self):
        self._check()
        return len(self.due), 1.5

    def _check(self) -> None:
        if self.away:
            raise StoreUnreachable("away")


class Keys:
    def __init__(self) -> None:
        self.keys: list[bytes] = []

    async def is_published(self, key):
        return key in self.keys

    async def publish(self, key):
        if key not in self.keys:
            self.keys.append(key)

    async def published(self):
        return self.keys


class Receiver:
    """What is at the other end."""

    def __init__(self) -> None:
        self.answers: list = []
        self.got: list[tuple[str, dict, bytes]] = []
        self.hanging: set[str] = set()
        self.now = 0
        self.most = 0

    async def post(self, url, headers, body):
        self.got.append((url, dict(headers), body))
        agent = orjson.loads(body)["data"].get("agent")
        if agent in self.hanging:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.Event().wait()
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Receipt) else Receipt(status=answer)


class Desk:
    def __init__(self, keys=(KEY,)) -> None:
        self.owed, self.keys, self.receiver = Owed(), Keys(), Receiver()
        self.recorder, self.clock = FakeRecorder(), FakeClock()
        self.webhooks = Webhooks(
            deliveries=self.owed,
            published=self.keys,
            post=self.receiver,
            keys=keys,
            recorder=self.recorder,
            clock=self.clock,
            ids=FakeIds(),
        )


@pytest.fixture
def desk():
    return Desk()


async def test_a_delivery_carries_the_envelope_without_a_token_and_is_signed_by_every_key():
    desk = Desk(keys=(KEY, OLD_KEY))
    await desk.webhooks.deliver(delivery())

    [(url, headers, body)] = desk.receiver.got
    assert url == "https://hooks.test/x"
    document = orjson.loads(body)
    assert (document["type"], document["version"]) == ("intent.claimable", 3)
    assert (document["data"]["token"], document["data"]["queue"]["expires_at"]) == (None, "2026-11-20T10:02:00.000Z")
    assert b"never" not in body
    for key in (KEY, OLD_KEY):
        verify(
            [key.public_key()],
            message_id=headers["webhook-id"],
            timestamp=headers["webhook-timestamp"],
            signature=headers["webhook-signature"],
            body=body,
            now=int(START.timestamp()),
        )
    assert [one.version for one in desk.owed.ended] == [3]


async def test_every_attempt_sends_the_same_bytes_under_the_same_id(desk):
    desk.receiver.answers = [500, Undelivered("no answer in time"), 200]
    for attempt in (1, 2, 3):
        desk.clock.advance(60)
        await desk.webhooks.deliver(delivery(attempts=attempt))

    assert len({(headers["webhook-id"], body) for _, headers, body in desk.receiver.got}) == 1
    assert len({headers["webhook-timestamp"] for _, headers, _ in desk.receiver.got}) == 3
    assert (len(desk.owed.later), len(desk.owed.ended)) == (2, 1)


@pytest.mark.parametrize("answer", [100, 301, 302, 307, 400, 401, 404, 429, 500, 503, Undelivered("x"), Refused("x")])
async def test_everything_but_2xx_and_410_is_tried_again(desk, answer):
    desk.receiver.answers = [answer]
    await desk.webhooks.deliver(delivery())

    assert (desk.owed.ended, len(desk.owed.later), desk.recorder.entries()) == ([], 1, [])


async def test_410_ends_every_delivery_of_the_intent_with_a_record(desk):
    desk.receiver.answers = [410]
    await desk.webhooks.deliver(delivery())

    assert desk.owed.gone_intents == ["int_1"]
    [entry] = desk.recorder.entries("webhook.gone")
    assert (entry.members["intent_id"], entry.members["attempts"]) == ("int_1", 1)


async def test_a_receiver_that_is_gone_is_sent_no_later_change_of_its_intent(desk):
    late = delivery(version=4, status="granted", receiver_is_gone=True)
    await desk.webhooks.deliver(late)

    assert desk.receiver.got == []
    assert desk.owed.ended == [late]


async def test_the_last_failure_gives_up_with_a_record(desk):
    desk.receiver.answers = [503]
    await desk.webhooks.deliver(delivery(attempts=MAX_ATTEMPTS))

    [entry] = desk.recorder.entries("webhook.dead")
    assert entry.members["why"] == "the receiver answered 503"
    assert len(desk.owed.ended) == 1


async def test_operators_are_told_of_an_agent_s_dead_receiver_once_an_hour(desk):
    async def given_up(n: int, agent: str = "bot") -> tuple:
        desk.receiver.answers = [503]
        await desk.webhooks.deliver(delivery(intent_id=f"int_{n}", agent=agent, attempts=MAX_ATTEMPTS))
        return desk.recorder.entries("webhook.dead")[-1].notices

    [notice] = await given_up(1)
    assert (notice.kind, notice.details["agent"]) == (Kind.WEBHOOK_DEAD, "bot")
    assert (notice.details["intent_id"], notice.details["why"]) == ("int_1", "the receiver answered 503")
    assert "hooks.test" not in str(notice.document())
    assert await given_up(2) == ()
    assert len(await given_up(3, agent="another")) == 1
    desk.clock.advance(3600)
    assert len(await given_up(4)) == 1


async def test_what_could_not_be_recorded_is_told_when_it_is(desk):
    desk.recorder.fault = Fault.DOWN
    desk.receiver.answers = [503]
    await desk.webhooks.deliver(delivery(attempts=MAX_ATTEMPTS))
    desk.recorder.fault = None
    desk.receiver.answers = [503]
    await desk.webhooks.deliver(delivery(attempts=MAX_ATTEMPTS))

    assert len(desk.recorder.entries("webhook.dead")[-1].notices) == 1


async def test_a_receiver_that_said_it_is_gone_is_no_news_to_operators(desk):
    desk.receiver.answers = [410]
    await desk.webhooks.deliver(delivery())

    assert desk.recorder.entries("webhook.gone")[-1].notices == ()


async def test_without_a_record_nothing_is_given_up(desk):
    desk.recorder.fault = Fault.DOWN
    desk.receiver.answers = [410]
    await desk.webhooks.deliver(delivery())
    desk.receiver.answers = [500]
    await desk.webhooks.deliver(delivery(attempts=MAX_ATTEMPTS))

    assert (desk.owed.ended, desk.owed.gone_intents) == ([], [])


def test_the_pauses_grow_to_hours_and_end_within_a_day():
    at, pauses = START, []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        seconds = pause(delivery(attempts=attempt), now=at, asked_s=None)
        if seconds is None:
            break
        pauses.append(seconds)
        at += timedelta(seconds=seconds)

    assert 10 <= len(pauses) < MAX_ATTEMPTS
    assert pauses[0] <= 5
    assert 10 * 3600 < (at - START).total_seconds() <= GIVE_UP_AFTER_S
    spread = {pause(delivery(intent_id=f"int_{n}", attempts=9), now=START, asked_s=None) for n in range(100)}
    assert len(spread) > 50


def test_a_receiver_that_asks_for_time_gets_it_unless_it_asks_for_too_much():
    assert pause(delivery(), now=START, asked_s=3_000) == 3_000
    assert pause(delivery(), now=START, asked_s=0) <= 5
    assert pause(delivery(), now=START, asked_s=GIVE_UP_AFTER_S + 1) is None


@pytest.mark.parametrize(
    "submission", [b"{}", b"no JSON", orjson.dumps({k: v for k, v in SUBMISSION.items() if k != "callback_url"})]
)
async def test_a_submission_that_names_no_receiver_is_delivered_to_nobody(desk, submission):
    """The database looks for the bytes of the member's name, which may stand in a parameter."""
    await desk.webhooks.deliver(delivery(submission=submission))

    assert (desk.receiver.got, len(desk.owed.ended)) == ([], 1)


async def test_a_receiver_that_hangs_holds_up_neither_other_agents_nor_more_than_its_share(desk):
    desk.receiver.hanging = {"slow"}
    stored = '{"agent": "%s"}'
    desk.owed.due = [delivery(intent_id=f"int_s{n}", agent="slow", stored=stored % "slow") for n in range(50)]
    desk.owed.due += [
        delivery(intent_id=f"int_q{n}", agent=f"quick-{n % 3}", stored=stored % "quick") for n in range(20)
    ]
    running = asyncio.create_task(desk.webhooks.run())
    async with asyncio.timeout(5):
        await desk.owed.enough.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert desk.receiver.most == AT_ONCE_PER_AGENT
    assert {one.agent for one in desk.owed.ended} == {"quick-0", "quick-1", "quick-2"}


async def test_while_the_store_is_away_a_delivery_stays_leased(desk):
    desk.owed.away = True
    await desk.webhooks.deliver(delivery())
    assert (desk.owed.ended, len(desk.receiver.got)) == ([], 1)


async def test_a_new_key_is_published_with_a_record_and_a_known_one_without(desk):
    for _ in range(2):
        publishing = asyncio.create_task(desk.webhooks.publish())
        await asyncio.sleep(0.01)
        publishing.cancel()

    assert desk.keys.keys == [KEY.public_key().public_bytes_raw()]
    assert len(desk.recorder.entries("webhook.key_published")) == 1


def test_webhooks_without_a_key_do_not_exist():
    with pytest.raises(ValueError, match="signed"):
        Desk(keys=())


# --- where agents may be called back ----------------------------------------------------------------------------------


class Names:
    def __init__(self, *answer) -> None:
        self.answer = answer

    async def resolve(self, host, port):
        if not self.answer:
            raise Unresolved("no address")
        return self.answer


async def callbacks(*answer, keys=(b"k" * 32,)) -> Callbacks:
    published = Keys()
    published.keys = list(keys)
    made = Callbacks(guard=Guard(), resolver=Names(*answer), published=published, deliveries=Owed(), metrics=Metrics())
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0.01)
    running.cancel()
    return made


async def test_a_public_receiver_is_accepted_and_one_inside_is_refused():
    await (await callbacks("93.184.216.34")).check("https://hooks.test/")
    with pytest.raises(Refused):
        await (await callbacks("10.0.0.1")).check("https://hooks.test/")


async def test_a_name_that_cannot_be_resolved_now_is_judged_at_the_delivery():
    await (await callbacks()).check("https://hooks.test/")
    with pytest.raises(Refused):
        await (await callbacks()).check("https://127.0.0.1/")


async def test_a_service_that_signs_nothing_calls_nobody_back():
    with pytest.raises(Refused, match="calls nobody back"):
        await (await callbacks("93.184.216.34", keys=())).check("https://hooks.test/")


def test_a_delivery_is_a_value():
    assert replace(delivery(), version=4).message_id == "msg_int_1_4"
