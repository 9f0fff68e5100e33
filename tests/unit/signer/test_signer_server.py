"""The server's edges that a process test cannot pin down."""

import asyncio
import json

import pytest

from signer import keyfile
from signer.keyfile import KeyState
from signer.profile import OnePayload
from signer.server import SignerSettings, StartRefused, _Connection, serve
from signer.signing import Signer

PASSPHRASE = b"correct horse battery staple"


class FakeTransport:
    """Remembers what was done to it."""

    def __init__(self):
        self.done = []

    def __getattr__(self, name):
        return lambda *arguments: self.done.append(name)


@pytest.fixture
def signer(key, profile):
    return Signer(key=key, profile=profile, memory=OnePayload(capacity=1))


async def test_a_peer_that_takes_no_answers_is_not_read_from_until_it_does(signer):
    """Otherwise its unread answers would fill the signer's memory."""
    transport = FakeTransport()
    connection = _Connection(signer, set())
    connection.connection_made(transport)

    connection.pause_writing()
    connection.resume_writing()

    assert transport.done == ["pause_reading", "resume_reading"]


async def test_after_a_malformed_frame_nothing_more_is_answered(signer):
    transport = FakeTransport()
    connections = set()
    connection = _Connection(signer, connections)
    connection.connection_made(transport)

    connection.data_received(b"\x00\x00\x00\x00")
    body = b'{"id":1,"op":"keys"}'
    connection.data_received(len(body).to_bytes(4, "big") + body)
    connection.connection_lost(None)

    assert transport.done == ["abort"]
    assert connections == set()
    assert connection.gone.done()


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.RETIRING])
async def test_a_key_that_is_not_active_signs_nothing(tmp_path, profile, state):
    settings = SignerSettings(
        socket_path=tmp_path / "run" / "s",
        key_path=tmp_path / "key",
        passphrase_path=tmp_path / "passphrase",
        profile_path=tmp_path / "profile.json",
    )
    settings.key_path.write_bytes(keyfile.seal(bytes(32), PASSPHRASE, created_at=1, state=state, n=2**15))
    settings.passphrase_path.write_bytes(PASSPHRASE)
    settings.profile_path.write_text(json.dumps(profile.to_json()))
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    stop = asyncio.Event()
    stop.set()

    with pytest.raises(StartRefused, match=f"{state}, not active"):
        await serve(settings, stop)
    assert not settings.socket_path.parent.exists()
