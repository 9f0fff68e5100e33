"""The signer as a process of its own, asked through the client: kills, stops, floods."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from holdfast.token import Claims, verify_signature

from signer import keyfile
from signer.client import SignerClient, SignerRefused, SignerUnreachable

pytestmark = pytest.mark.integration

PASSPHRASE = b"correct horse battery staple"
PROFILE = {"issuer": "https://holdfast.example", "audiences": {"payments-api": 60}, "modes": ["normal"]}
PROGRAM = """
import sys
from pathlib import Path
from signer.server import SignerSettings, run
d = Path(sys.argv[1])
sys.exit(run(SignerSettings(socket_path=d / "run" / "s", key_path=d / "key", passphrase_path=d / "passphrase",
                            profile_path=d / "profile.json", remembered=int(sys.argv[2]))))
"""


@dataclass
class SignerProcess:
    """One signer's files, and its processes one after the other."""

    directory: Path
    remembered: int = 100_000
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def socket_path(self) -> Path:
        return self.directory / "run" / "s"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def spawn(self) -> subprocess.Popen:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.directory), str(self.remembered)], stderr=log
            )
        self.processes.append(process)
        return process

    async def start(self) -> subprocess.Popen:
        """Return once the process answers."""
        process = self.spawn()
        client = SignerClient(self.socket_path, total_timeout_s=20)
        try:
            await client.healthy()
        finally:
            await client.close()
        assert process.poll() is None
        return process

    def end_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def private(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


@pytest.fixture
def signer(tmp_path):
    private(tmp_path / "passphrase", PASSPHRASE)
    private(tmp_path / "profile.json", json.dumps(PROFILE).encode())
    keyfile.create(tmp_path / "key", PASSPHRASE, now=1, n=2**15)
    made = SignerProcess(tmp_path)
    yield made
    made.end_all()


@pytest.fixture
async def client(signer):
    made = SignerClient(signer.socket_path)
    yield made
    await made.close()


def make_claims(number: int = 0, **changes) -> Claims:
    now = int(time.time())
    sound = {
        "iss": "https://holdfast.example",
        "aud": "payments-api",
        "sub": "support-bot",
        "txn": f"int_{number}",
        "jti": f"jti_{number:032x}",
        "iat": now,
        "nbf": now,
        "exp": now + 60,
        "env": "production",
        "action": "payments.refund.create",
        "act_hash": "sha-256:" + "A" * 43,
        "category": "finance.refund",
        "risk": 42,
        "mode": "normal",
        "pol": "sha256:" + "ab" * 32,
        "rcp": "str_01k9zv5c4yq8m3n7r2t6w0x1zb:7:" + "0f" * 32,
    }
    return Claims(**(sound | changes))


async def test_a_token_from_the_process_verifies_under_the_pinned_key(signer, client):
    await signer.start()
    await client.start()
    claims = make_claims()

    token = await client.sign(claims)

    assert verify_signature(token, client.verify_keys()) == claims
    assert client.verify_keys() == (keyfile.load(signer.directory / "key", PASSPHRASE).public,)
    assert await client.sign(claims) == token
    await client.healthy()


async def test_claims_outside_the_profile_are_refused_and_the_connection_stays(signer, client):
    await signer.start()
    now = int(time.time())
    for changes in (
        {"aud": "deploy"},
        {"iss": "https://elsewhere.example"},
        {"mode": "operator"},
        {"exp": now + 3600},
        {"iat": now + 3600, "nbf": now + 3600, "exp": now + 3660},
        {"iat": now - 3600, "nbf": now - 3600, "exp": now - 3540},
    ):
        with pytest.raises(SignerRefused) as caught:
            await client.sign(make_claims(**changes))
        assert caught.value.code == "profile"
    with pytest.raises(SignerRefused) as caught:
        await client.sign(make_claims(risk=101))
    assert caught.value.code == "malformed"
    assert await client.sign(make_claims())


async def test_an_intent_gets_no_second_token_unless_the_first_was_never_released(signer, client):
    await signer.start()
    first, second = make_claims(1), make_claims(1, jti="jti_" + "f" * 32)
    await client.sign(first)

    with pytest.raises(SignerRefused) as caught:
        await client.sign(second)
    assert caught.value.code == "conflict"
    token = await client.sign(second, replaces=first.jti)

    assert verify_signature(token, client.verify_keys()) == second


async def test_five_hundred_concurrent_calls_each_get_their_own_token(signer, client):
    await signer.start()
    wanted = [make_claims(number) for number in range(500)]

    tokens = await asyncio.gather(*(client.sign(claims) for claims in wanted))

    assert [verify_signature(token, client.verify_keys()) for token in tokens] == wanted


async def test_a_killed_signer_comes_back_in_the_middle_of_load(signer):
    """Every call ends in a token or in SignerUnreachable, and calls succeed again after the restart."""
    process = await signer.start()
    client = SignerClient(signer.socket_path, total_timeout_s=20)
    wanted = [make_claims(number) for number in range(400)]
    some_done = asyncio.Event()
    slots = asyncio.Semaphore(50)

    async def ask(claims):
        async with slots:
            token = await client.sign(claims)
        some_done.set()
        return token

    async def kill_and_restart():
        await some_done.wait()
        process.kill()
        process.wait()
        signer.spawn()

    try:
        *tokens, _ = await asyncio.gather(*(ask(claims) for claims in wanted), kill_and_restart())
        assert [verify_signature(token, client.verify_keys()) for token in tokens] == wanted
    finally:
        await client.close()


async def test_while_the_signer_is_dead_no_token_comes(signer, client):
    process = await signer.start()
    await client.sign(make_claims(1))
    process.kill()
    process.wait()

    with pytest.raises(SignerUnreachable):
        await client.sign(make_claims(2))
    with pytest.raises(SignerUnreachable):
        await client.healthy()


async def test_a_stopped_signer_is_unreachable_and_when_continued_answers_again(signer, client):
    """It still accepts connections, and never answers."""
    process = await signer.start()
    await client.start()
    process.send_signal(signal.SIGSTOP)

    outcomes = await asyncio.gather(*(client.sign(make_claims(number)) for number in range(50)), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {SignerUnreachable}
    process.send_signal(signal.SIGCONT)
    patient = SignerClient(signer.socket_path, total_timeout_s=20)
    try:
        assert await patient.sign(make_claims(99))
    finally:
        await patient.close()
    assert await client.sign(make_claims(100))


async def test_a_client_that_was_there_first_finds_the_signer_later(signer, client):
    await client.start()
    assert client.verify_keys() == ()
    with pytest.raises(SignerUnreachable):
        await client.sign(make_claims())

    await signer.start()

    assert await client.sign(make_claims())
    assert len(client.verify_keys()) == 1


async def test_a_signer_with_another_key_is_pinned_anew(signer, client):
    process = await signer.start()
    await client.start()
    before = client.verify_keys()
    process.kill()
    process.wait()
    (signer.directory / "key").unlink()
    keyfile.create(signer.directory / "key", PASSPHRASE, now=2, n=2**15)
    await signer.start()

    claims = make_claims()
    token = await client.sign(claims)

    assert client.verify_keys() != before
    assert verify_signature(token, client.verify_keys()) == claims


async def test_a_full_memory_refuses_and_is_not_healthy(signer, client):
    signer.remembered = 3
    await signer.start()
    for number in range(3):
        await client.sign(make_claims(number))

    with pytest.raises(SignerRefused) as caught:
        await client.sign(make_claims(3))
    assert caught.value.code == "full"
    with pytest.raises(SignerRefused) as caught:
        await client.healthy()
    assert caught.value.code == "full"


# --- start and stop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_cleanly(signer, client, number):
    process = await signer.start()
    await client.start()
    process.send_signal(number)

    assert await asyncio.to_thread(process.wait) == 0
    assert not signer.socket_path.exists()
    assert "Traceback" not in signer.log


async def test_it_is_ours_alone_while_it_runs(signer):
    await signer.start()

    assert stat.S_IMODE(signer.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(signer.socket_path.parent.stat().st_mode) == 0o700


async def test_the_first_start_makes_the_key_and_later_starts_keep_it(signer, client):
    (signer.directory / "key").unlink()
    process = await signer.start()
    await client.start()
    first = client.verify_keys()
    process.terminate()
    await asyncio.to_thread(process.wait)
    await signer.start()
    await client.healthy()

    assert client.verify_keys() == first
    assert stat.S_IMODE((signer.directory / "key").stat().st_mode) == 0o600


def break_nothing_but(signer, what: str) -> None:
    match what:
        case "passphrase":
            private(signer.directory / "passphrase", b"another passphrase entirely")
        case "open key":
            (signer.directory / "key").chmod(0o644)
        case "broken key":
            private(signer.directory / "key", b"{}")
        case "no profile":
            (signer.directory / "profile.json").unlink()
        case "bad profile":
            private(signer.directory / "profile.json", json.dumps(PROFILE | {"audiences": {}}).encode())
        case "ambiguous profile":
            private(signer.directory / "profile.json", b'{"issuer":"a","issuer":"b","audiences":{"e":1}}')
        case "profile others can change":
            (signer.directory / "profile.json").chmod(0o666)
        case "open directory":
            (signer.directory / "run").mkdir(mode=0o700)
            (signer.directory / "run").chmod(0o755)
        case "not a socket":
            (signer.directory / "run").mkdir(mode=0o700)
            signer.socket_path.write_text("x")


@pytest.mark.parametrize(
    "what",
    [
        "passphrase",
        "open key",
        "broken key",
        "no profile",
        "bad profile",
        "ambiguous profile",
        "profile others can change",
        "open directory",
        "not a socket",
    ],
)
async def test_it_refuses_to_start_on_whatever_is_wrong(signer, what):
    key_before = (signer.directory / "key").read_bytes()
    break_nothing_but(signer, what)

    process = signer.spawn()

    assert await asyncio.to_thread(process.wait) == 1
    assert "refusing to start" in signer.log
    assert "Traceback" not in signer.log
    assert not signer.socket_path.is_socket()
    if what != "broken key":
        assert (signer.directory / "key").read_bytes() == key_before


async def test_a_second_signer_on_the_same_socket_refuses_and_the_first_goes_on(signer, client):
    await signer.start()

    second = signer.spawn()

    assert await asyncio.to_thread(second.wait) == 1
    assert await client.sign(make_claims())


async def test_a_socket_left_behind_by_a_killed_signer_is_taken_over(signer, client):
    process = await signer.start()
    process.kill()
    process.wait()
    assert signer.socket_path.exists()

    await signer.start()

    assert await client.sign(make_claims())


async def until_logged(signer, text: str) -> None:
    """Wait for a line of the log; a signal has no answer to wait for."""
    while text not in signer.log:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)


async def test_a_hangup_reads_the_profile_again_and_keeps_the_old_one_if_it_is_bad(signer, client):
    process = await signer.start()
    profile = signer.directory / "profile.json"
    with pytest.raises(SignerRefused):
        await client.sign(make_claims(aud="deploy"))

    private(profile, json.dumps(PROFILE | {"audiences": {"deploy": 60}}).encode())
    process.send_signal(signal.SIGHUP)
    await until_logged(signer, "the profile was read again")
    assert await client.sign(make_claims(1, aud="deploy"))

    private(profile, b"{}")
    process.send_signal(signal.SIGHUP)
    await until_logged(signer, "the old profile stays")
    assert await client.sign(make_claims(2, aud="deploy"))
    with pytest.raises(SignerRefused):
        await client.sign(make_claims(3))


# --- peers that do not keep to the protocol ---------------------------------------------------------------------------


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        frame(b"{"),
        frame(b"[]"),
        frame(b'{"id":1,"id":2,"op":"keys"}'),
        frame(b'{"op":"keys"}'),
        frame(b'{"id":"1","op":"keys"}'),
        frame(b'{"id":true,"op":"keys"}'),
    ],
)
async def test_a_malformed_frame_ends_that_connection_and_no_other(signer, client, data):
    await signer.start()
    await client.start()
    reader, writer = await asyncio.open_unix_connection(str(signer.socket_path))
    writer.write(data)

    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()

    assert await client.sign(make_claims())


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": None},
        {"op": "SIGN", "claims": {}},
        {"op": "sign"},
        {"op": "sign", "claims": {}, "now": 0},
        {"op": "sign", "claims": {}, "replaces": 1},
        {"op": "sign", "claims": []},
        {"op": "health"},
        {"op": "health", "nonce": "a.b"},
        {"op": "health", "nonce": "0" * 31},
        {"op": "keys", "private": True},
        {"op": "reload"},
    ],
)
async def test_a_request_that_is_not_understood_is_refused_and_the_connection_stays(signer, request_):
    await signer.start()
    reader, writer = await asyncio.open_unix_connection(str(signer.socket_path))
    try:
        for number in (1, 2):
            writer.write(frame(json.dumps({"id": number, **request_}).encode()))
            answer = json.loads(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big")))
            assert answer.keys() == {"id", "error", "detail"}
            assert (answer["id"], answer["error"]) == (number, "malformed")
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_peer_that_takes_no_answers_does_not_hold_up_the_others_or_the_stop(signer, client):
    process = await signer.start()
    _, writer = await asyncio.open_unix_connection(str(signer.socket_path))
    writer.write(frame(b'{"id":1,"op":"keys"}') * 20_000)

    assert await client.sign(make_claims())
    process.terminate()

    assert await asyncio.to_thread(process.wait) == 0
    writer.transport.abort()


async def test_half_a_frame_is_waited_for_and_holds_up_nobody(signer, client):
    await signer.start()
    _, writer = await asyncio.open_unix_connection(str(signer.socket_path))
    writer.write(b"\x00\x00\x00\x10{")

    assert await client.sign(make_claims())
    writer.close()
    await writer.wait_closed()
    await client.healthy()
