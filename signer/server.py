"""The signer process: an asyncio server on a Unix socket, and nothing else.

Whoever can open the socket is the service. What the service may have signed is the profile's to say.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import uvloop
from holdfast import strict_json
from holdfast.errors import MalformedJSON

from signer import keyfile, private_file, socket_file, wire
from signer.keyfile import KeyFileError, KeyState
from signer.private_file import UnsafeFile
from signer.profile import InvalidProfile, OnePayload, Profile, ProfileViolation
from signer.signing import MalformedClaims, Signer, SigningFault
from signer.socket_file import SocketFile, SocketRefused
from signer.wire import FrameReader, MalformedFrame

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from holdfast.strict_json import JSON

_LOG = logging.getLogger("holdfast.signer")
_MAX_PROFILE_BYTES: Final = 1024 * 1024
_GOODBYE_S: Final = 1.0
_START_NONCE: Final = "0" * 32


class StartRefused(Exception):
    """The signer cannot start; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSettings:
    """Where the signer finds its things. `remembered` bounds how many unexpired intents are held, about 500 bytes each.

    Raises: ValueError for a socket path that the kernel would cut, or an empty memory.
    """

    socket_path: Path
    key_path: Path
    passphrase_path: Path
    profile_path: Path
    remembered: int = 262_144

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        socket_file.check_path(self.socket_path)
        if self.remembered < 1:
            raise ValueError("the memory must hold at least one intent")


async def serve(settings: SignerSettings, stop: asyncio.Event, *, reload: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set. Setting `reload` reads the profile again. Raises: StartRefused."""
    # 1. Everything that can be wrong is found before anybody can connect.
    try:
        profile = read_profile(settings.profile_path)
        key = keyfile.load_or_create(settings.key_path, settings.passphrase_path, now=int(time.time()))
    except (InvalidProfile, KeyFileError) as error:
        raise StartRefused(str(error)) from error
    if key.state is not KeyState.ACTIVE:
        raise StartRefused(f"the key `{key.public.kid}` is {key.state}, not active")
    signer = Signer(key=key, profile=profile, memory=OnePayload(capacity=settings.remembered))
    try:
        signer.canary(_START_NONCE, now=time.time())
    except SigningFault as error:
        raise StartRefused(str(error)) from error
    # 2. Listen.
    place = SocketFile(settings.socket_path)
    try:
        listener = place.open()
    except SocketRefused as error:
        raise StartRefused(str(error)) from error
    connections: set[_Connection] = set()
    try:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(signer, connections), sock=listener)
        try:
            _LOG.info("key %s signs for %s on %s", signer.kid, profile.issuer, settings.socket_path)
            # 3. Until told to stop; on request with another profile.
            async with asyncio.TaskGroup() as tasks:
                reloading = tasks.create_task(_reload_profile(settings.profile_path, signer, reload or asyncio.Event()))
                await stop.wait()
                reloading.cancel()
        finally:
            # 4. Nobody new, and those who are here get the answers that are written.
            server.close()
            await _say_goodbye(connections)
    finally:
        listener.close()
        place.close()
    _LOG.info("stopped")


def run(settings: SignerSettings) -> int:
    """Run the signer process: SIGTERM and SIGINT stop it, SIGHUP reads the profile again. Return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        uvloop.run(_serve_until_signalled(settings))
    except StartRefused as error:
        _LOG.error("refusing to start: %s", error)
        return 1
    return 0


def read_profile(path: Path) -> Profile:
    """Read the profile's file, which nobody else may be able to change. Raises: InvalidProfile."""
    try:
        data = private_file.read(path, forbidden=private_file.NOT_OURS_ALONE_TO_CHANGE, max_bytes=_MAX_PROFILE_BYTES)
        return Profile.read(strict_json.loads(data))
    except (UnsafeFile, MalformedJSON, InvalidProfile) as error:
        raise InvalidProfile(f"the profile `{path}` is refused: {error}") from error


async def _serve_until_signalled(settings: SignerSettings) -> None:
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    await serve(settings, stop, reload=reload)


async def _reload_profile(path: Path, signer: Signer, reload: asyncio.Event) -> None:
    while True:
        await reload.wait()
        reload.clear()
        try:
            signer.profile = read_profile(path)
        except InvalidProfile as error:
            _LOG.error("the old profile stays: %s", error)
        else:
            _LOG.info("the profile was read again")


async def _say_goodbye(connections: set[_Connection]) -> None:
    """Close every connection, and abort those whose peer does not take its answers in time."""
    waiting = [connection.gone for connection in connections]
    try:
        for connection in tuple(connections):
            connection.close()
        if waiting:
            await asyncio.wait(waiting, timeout=_GOODBYE_S)
    finally:
        for connection in tuple(connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One peer. Requests are answered in order and at once: signing is too fast to be worth a thread."""

    def __init__(self, signer: Signer, connections: set[_Connection]) -> None:
        self._signer = signer
        self._connections = connections
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not its subclasses
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        self._transport = None
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for request in self._frames.feed(data):
                self._transport.write(_answer(self._signer, request))
        except MalformedFrame as error:
            _LOG.warning("a connection is closed: %a", str(error))
            self._transport.abort()
            self._transport = None

    def pause_writing(self) -> None:
        """Take no more requests from a peer that does not take its answers."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _answer(signer: Signer, request: Mapping[str, JSON]) -> bytes:
    """Return the frame that answers `request`. Raises: MalformedFrame if it cannot be answered at all."""
    number = wire.request_id(request)
    try:
        return wire.frame({"id": number, **_perform(signer, request)})
    except (MalformedClaims, ProfileViolation, SigningFault) as error:
        _LOG.warning("refused: %s: %a", error.code, str(error))
        return wire.frame({"id": number, "error": error.code, "detail": str(error)})


def _perform(signer: Signer, request: Mapping[str, JSON]) -> dict[str, object]:
    now = time.time()
    members = request.keys() - {"id", "op"}
    match request.get("op"):
        case "sign" if members in ({"claims"}, {"claims", "replaces"}):
            replaces = request.get("replaces")
            if replaces is not None and not isinstance(replaces, str):
                raise MalformedClaims("`replaces` must be a token's id")
            return {"token": signer.sign(request["claims"], replaces=replaces, now=now)}
        case "health" if members == {"nonce"}:
            nonce = request["nonce"]
            if not isinstance(nonce, str) or wire.NONCE.fullmatch(nonce) is None:
                raise MalformedClaims("`nonce` must be 32 hexadecimal digits")
            return {"kid": signer.kid, "canary": signer.canary(nonce, now=now)}
        case "keys" if not members:
            return {"keys": signer.jwks()}
        case _:
            raise MalformedClaims("the operation, or one of its members, is not known")
