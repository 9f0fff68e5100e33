"""The client against signers that misbehave, and against its own callers."""

import asyncio
import time

import pytest
import uvloop
from holdfast.token import Claims, b64url, verify_signature

from signer import wire
from signer.client import SignerClient, SignerError, SignerRefused, SignerUnreachable
from signer.keyfile import SigningKey
from signer.profile import OnePayload, Profile
from signer.signing import Signer
from signer.wire import FrameReader

pytestmark = pytest.mark.integration

KEY = SigningKey.from_seed(bytes(range(32)))
OTHER_KEY = SigningKey.from_seed(bytes(range(1, 33)))
KEYS = {"keys": [KEY.public.to_jwk()]}
ISSUER = "https://holdfast.example"


def make_claims(number: int = 0) -> Claims:
    now = int(time.time())
    return Claims(
        iss=ISSUER,
        aud="payments-api",
        sub="support-bot",
        txn=f"int_{number}",
        jti=f"jti_{number:032x}",
        iat=now,
        nbf=now,
        exp=now + 60,
        env="production",
        action="payments.refund.create",
        act_hash="sha-256:" + "A" * 43,
        category="finance.refund",
        risk=42,
        mode="normal",
        pol="sha256:" + "ab" * 32,
        rcp="str_01k9zv5c4yq8m3n7r2t6w0x1zb:7:" + "0f" * 32,
    )


class ScriptedSigner:
    """Answers with the signer's own code, except where a test says otherwise.

    `answers` maps an operation to a function of the request; it returns the answer's members, raw bytes, or None for
    silence. `connections` counts how often somebody came.
    """

    def __init__(self, path):
        self.path = path
        self.answers = {}
        self.connections = 0
        self.requests = []
        self.asked = asyncio.Event()
        profile = Profile(issuer=ISSUER, audiences={"payments-api": 60})
        self.signer = Signer(key=KEY, profile=profile, memory=OnePayload(capacity=1000))
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    def hang_up(self):
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.add(writer)
        frames = FrameReader()
        try:
            while data := await reader.read(65536):
                for request in frames.feed(data):
                    self.requests.append(request)
                    self.asked.set()
                    self._answer(request, writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, request, writer):
        answer = self.answers.get(request["op"], self._sound)(request)
        if isinstance(answer, bytes):
            writer.write(answer)
        elif answer is not None:
            writer.write(wire.frame({"id": request["id"], **answer}))

    def _sound(self, request):
        now = time.time()
        match request["op"]:
            case "keys":
                return KEYS
            case "health":
                return {"kid": self.signer.kid, "canary": self.signer.canary(request["nonce"], now=now)}
            case _:
                return {"token": self.signer.sign(request["claims"], replaces=request.get("replaces"), now=now)}


@pytest.fixture
async def scripted(tmp_path):
    async with ScriptedSigner(tmp_path / "s") as made:
        yield made


@pytest.fixture
async def client(scripted):
    made = SignerClient(scripted.path, attempt_timeout_s=0.1, total_timeout_s=0.4)
    yield made
    await made.close()


def silence(_request):
    return None


async def test_many_calls_share_one_connection(scripted):
    # Patient: on this one event loop three hundred signatures are silence.
    client = SignerClient(scripted.path, attempt_timeout_s=10, total_timeout_s=20)
    await asyncio.gather(*(client.sign(make_claims(number)) for number in range(300)))
    await client.close()

    assert scripted.connections == 1


async def test_answers_may_come_in_any_order(scripted, client):
    await client.start()
    held = []

    def hold(request):
        held.append(request)
        if len(held) == 3:
            frames = [
                wire.frame({"id": held_request["id"], **scripted._sound(held_request)})
                for held_request in reversed(held)
            ]
            return b"".join(frames)
        return None

    scripted.answers["sign"] = hold
    wanted = [make_claims(number) for number in range(3)]

    tokens = await asyncio.gather(*(client.sign(claims) for claims in wanted))

    assert [verify_signature(token, [KEY.public]) for token in tokens] == wanted


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"keys": None},
        {"keys": []},
        {"keys": {}},
        {"keys": ["x"]},
        {"keys": [{}]},
        {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": b64url(bytes(32))}]},
        {"keys": [KEY.public.to_jwk(), {"kty": "OKP", "crv": "Ed25519", "x": b64url((1).to_bytes(32, "little"))}]},
        {"keys": [KEY.public.to_jwk() | {"d": "AAAA"}]},
        {"keys": [KEY.public.to_jwk() | {"kid": OTHER_KEY.public.kid}]},
        {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]},
        {"error": "fault", "detail": "no"},
    ],
)
async def test_a_signer_without_sound_keys_is_never_asked_for_a_token(scripted, client, keys):
    """No key, a key of small order, a key with its private part: none of them may be pinned."""
    scripted.answers["keys"] = lambda _: keys

    await client.start()
    with pytest.raises(SignerUnreachable):
        await client.sign(make_claims())

    assert client.verify_keys() == ()
    assert {request["op"] for request in scripted.requests} == {"keys"}


async def test_the_pins_stay_while_the_signer_is_unsound(scripted, client):
    await client.start()
    scripted.answers["keys"] = lambda _: {"keys": []}
    scripted.hang_up()

    with pytest.raises(SignerUnreachable):
        await client.sign(make_claims())

    assert client.verify_keys() == (KEY.public,)


async def test_on_another_connection_the_keys_are_fetched_anew(scripted, client):
    await client.start()
    scripted.answers["keys"] = lambda _: {"keys": [OTHER_KEY.public.to_jwk(), KEY.public.to_jwk()]}
    scripted.hang_up()

    await client.sign(make_claims())

    assert client.verify_keys() == (OTHER_KEY.public, KEY.public)


@pytest.mark.parametrize("answer", [{}, {"token": None}, {"token": 1}, {"token": ["x"]}, {"tokens": "x"}])
async def test_an_answer_without_a_token_is_no_token(scripted, client, answer):
    scripted.answers["sign"] = lambda _: answer

    with pytest.raises(SignerUnreachable):
        await client.sign(make_claims())


async def test_a_refusal_is_final_even_beside_a_token(scripted, client):
    scripted.answers["sign"] = lambda _: {"token": "x", "error": "profile", "detail": "the audience is not known"}

    with pytest.raises(SignerRefused) as caught:
        await client.sign(make_claims())

    assert (caught.value.code, caught.value.detail) == ("profile", "the audience is not known")
    assert isinstance(caught.value, SignerError)
    assert sum(request["op"] == "sign" for request in scripted.requests) == 1


@pytest.mark.parametrize(
    "data", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01{", b"\x00\x00\x00\x02{}", b"HTTP/1.1 400 Bad"]
)
async def test_an_answer_that_is_no_frame_ends_the_connection_and_the_call_is_made_again(scripted, client, data):
    broken = iter([True])
    scripted.answers["sign"] = lambda request: data if next(broken, False) else scripted._sound(request)

    assert await client.sign(make_claims())
    assert scripted.connections == 2


async def test_an_answer_to_another_question_is_nobody_s(scripted, client):
    scripted.answers["sign"] = lambda request: wire.frame({"id": request["id"] + 1, "token": "x"})

    with pytest.raises(SignerUnreachable):
        await client.sign(make_claims())


async def test_a_silent_connection_is_given_up_for_another(scripted, client):
    first = iter([True])
    scripted.answers["sign"] = lambda request: None if next(first, False) else scripted._sound(request)

    assert await client.sign(make_claims())
    assert scripted.connections == 2


async def test_a_signer_that_stays_silent_is_unreachable(scripted, client):
    scripted.answers["sign"] = silence

    with pytest.raises(SignerUnreachable, match="silent"):
        await client.sign(make_claims())
    assert scripted.connections > 1


async def test_a_signer_that_accepts_and_says_nothing_at_all_is_unreachable(scripted, client):
    scripted.answers["keys"] = silence

    outcomes = await asyncio.gather(*(client.sign(make_claims()) for _ in range(1000)), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {SignerUnreachable}


async def test_one_lost_answer_does_not_cost_the_others_their_connection(scripted, client):
    """While the signer is heard, one question without an answer is that caller's trouble alone."""
    await client.start()
    lost = make_claims(0)
    scripted.answers["sign"] = lambda request: (
        None if request["claims"]["txn"] == lost.txn else scripted._sound(request)
    )

    async def keep_asking():
        number = 0
        while not waiting.done():
            number += 1
            await client.sign(make_claims(number % 500 + 1))
            await asyncio.sleep(0.01)

    waiting = asyncio.create_task(client.sign(lost))
    await keep_asking()

    with pytest.raises(SignerUnreachable):
        await waiting
    assert scripted.connections == 1


async def test_a_lost_connection_is_no_failure_of_the_calls_on_it(scripted, client):
    await client.start()
    held = []

    def hang_up_once(request):
        if len(held) < 100:
            held.append(request)
            if len(held) == 100:
                scripted.hang_up()
            return None
        return scripted._sound(request)

    scripted.answers["sign"] = hang_up_once
    wanted = [make_claims(number) for number in range(100)]

    tokens = await asyncio.gather(*(client.sign(claims) for claims in wanted))

    assert [verify_signature(token, [KEY.public]) for token in tokens] == wanted
    assert scripted.connections == 2


async def test_claims_that_fit_no_frame_are_refused_without_being_sent(scripted, client):
    await client.start()
    claims = make_claims()
    object.__setattr__(claims, "sub", "s" * 70_000)

    with pytest.raises(SignerRefused) as caught:
        await client.sign(claims)
    assert caught.value.code == "malformed"
    assert await client.sign(make_claims())


# --- health -----------------------------------------------------------------------------------------------------------


async def test_health_is_a_fresh_signature_under_a_pinned_key(scripted, client):
    await client.healthy()
    await client.healthy()

    nonces = [request["nonce"] for request in scripted.requests if request["op"] == "health"]
    assert len(set(nonces)) == 2


def replayed(_request):
    return {"kid": KEY.public.kid, "canary": b64url(KEY.sign(wire.canary_message("0" * 32)))}


def by_another_key(request):
    return {"kid": OTHER_KEY.public.kid, "canary": b64url(OTHER_KEY.sign(wire.canary_message(request["nonce"])))}


def in_another_s_name(request):
    return by_another_key(request) | {"kid": KEY.public.kid}


def over_the_nonce_alone(request):
    return {"kid": KEY.public.kid, "canary": b64url(KEY.sign(request["nonce"].encode()))}


@pytest.mark.parametrize(
    "answer",
    [
        replayed,
        by_another_key,
        in_another_s_name,
        over_the_nonce_alone,
        lambda _: {},
        lambda _: {"kid": KEY.public.kid},
        lambda _: {"kid": KEY.public.kid, "canary": None},
        lambda _: {"kid": KEY.public.kid, "canary": ""},
        lambda _: {"kid": KEY.public.kid, "canary": "é"},
        lambda _: {"kid": None, "canary": "AAAA"},
        lambda _: {"healthy": True},
    ],
)
async def test_a_word_is_no_proof_of_health(scripted, client, answer):
    scripted.answers["health"] = answer

    with pytest.raises(SignerUnreachable, match="canary"):
        await client.healthy()


# --- its own callers --------------------------------------------------------------------------------------------------


def own_tasks():
    """Tasks under way, but for the test and the scripted signer's connections."""
    others = {task for task in asyncio.all_tasks() if "ScriptedSigner" in task.get_coro().__qualname__}
    return asyncio.all_tasks() - others - {asyncio.current_task()}


async def test_a_cancelled_call_leaves_nothing_behind_and_disturbs_nobody(scripted, client):
    await client.start()
    scripted.answers["sign"] = silence
    scripted.asked.clear()
    before = own_tasks()
    call = asyncio.create_task(client.sign(make_claims(1)))
    await scripted.asked.wait()

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert client._connection._open == {}
    assert own_tasks() == before
    del scripted.answers["sign"]
    assert await client.sign(make_claims(2))
    assert scripted.connections == 1


async def test_cancelling_the_one_that_connects_lets_the_next_connect(scripted, client):
    scripted.answers["keys"] = silence
    first = asyncio.create_task(client.sign(make_claims(1)))
    second = asyncio.create_task(client.sign(make_claims(2)))
    await scripted.asked.wait()

    del scripted.answers["keys"]
    first.cancel()

    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_thousands_of_calls_half_of_them_cancelled_all_end(scripted, client):
    patient = SignerClient(scripted.path, total_timeout_s=20)
    scripted.signer = Signer(key=KEY, profile=scripted.signer.profile, memory=OnePayload(capacity=5000))
    before = own_tasks()
    wanted = [make_claims(number) for number in range(3000)]
    calls = [asyncio.create_task(patient.sign(claims)) for claims in wanted]
    await scripted.asked.wait()
    for call in calls[::2]:
        call.cancel()

    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert {verify_signature(token, [KEY.public]).txn for token in outcomes[1::2]} == {c.txn for c in wanted[1::2]}
    assert patient._connection._open == {}
    await patient.close()
    assert own_tasks() == before


async def test_closing_ends_calls_under_way_and_later_ones(scripted, client):
    await client.start()
    scripted.answers["sign"] = silence
    scripted.asked.clear()
    calls = [asyncio.create_task(client.sign(make_claims(number))) for number in range(5)]
    await scripted.asked.wait()

    await client.close()

    assert {type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)} == {SignerUnreachable}
    with pytest.raises(SignerUnreachable, match="closed"):
        await client.sign(make_claims())
    await client.start()
    await client.close()
    assert scripted.connections == 1


async def test_closing_while_connecting_leaves_no_connection(scripted, client):
    scripted.answers["keys"] = silence
    calls = [asyncio.create_task(client.sign(make_claims(number))) for number in range(5)]
    await scripted.asked.wait()

    await client.close()

    assert {type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)} == {SignerUnreachable}
    assert client._connection is None
    assert scripted.connections == 1


async def test_a_client_that_was_never_used_closes(tmp_path):
    await SignerClient(tmp_path / "s").close()


async def test_the_caller_s_own_deadline_stays_the_caller_s(scripted, client):
    scripted.answers["sign"] = silence

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.sign(make_claims())


def test_it_works_on_uvloop_too(tmp_path):
    async def story():
        async with ScriptedSigner(tmp_path / "s") as scripted:
            client = SignerClient(scripted.path, attempt_timeout_s=0.1, total_timeout_s=2)
            try:
                await client.start()
                tokens = await asyncio.gather(*(client.sign(make_claims(number)) for number in range(50)))
                scripted.hang_up()
                await client.healthy()
                scripted.answers["sign"] = silence
                with pytest.raises(SignerUnreachable):
                    await client.sign(make_claims(51))
            finally:
                await client.close()
        return tokens, scripted.connections

    tokens, connections = uvloop.run(story())

    assert len(set(tokens)) == 50
    assert connections > 2


@pytest.mark.parametrize("timeouts", [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1)])
def test_timeouts_that_make_no_sense_are_refused(tmp_path, timeouts):
    with pytest.raises(ValueError, match="attempt"):
        SignerClient(tmp_path / "s", attempt_timeout_s=timeouts[0], total_timeout_s=timeouts[1])


def test_a_path_the_kernel_would_cut_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 100"):
        SignerClient(tmp_path / ("s" * 100))
