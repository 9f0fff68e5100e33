"""The service's end of the signer's socket: one connection, any number of concurrent calls.

SignerError
├── SignerUnreachable      no answer in time, whatever the reason
└── SignerRefused          the signer answered no; `code` is `malformed`, `profile`, `conflict`, `full` or `fault`

A stopped signer still accepts connections, and never answers: every wait here has a limit. Signing the same claims
twice gives the same token, so a call that got no answer is simply made again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final, cast

from cryptography.exceptions import InvalidSignature
from holdfast.token import VerifyKey

from signer import socket_file, wire
from signer.wire import FrameReader, MalformedFrame

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from holdfast.strict_json import JSON
    from holdfast.token import Claims

_LOG = logging.getLogger("holdfast.signer.client")
_ATTEMPT_TIMEOUT_S: Final = 0.25
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.1


class SignerError(Exception):
    """No token came from the signer."""


class SignerUnreachable(SignerError):
    """The signer did not answer within the time for this call."""


class SignerRefused(SignerError):
    """The signer answered, and the answer is no."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class _ConnectionLost(Exception):
    """This attempt has failed; another may succeed."""


class SignerClient:
    """Asks the signer for tokens. Use it on one event loop, and `close` it there.

    `attempt_timeout_s` is how long connecting may take, and how long a connection with open questions may be silent,
    before it is given up for another: a quarter of a second, or the whole where that is less. `total_timeout_s` bounds
    a whole call.
    """

    def __init__(
        self, socket_path: Path, *, attempt_timeout_s: float | None = None, total_timeout_s: float = 1.0
    ) -> None:
        socket_file.check_path(socket_path)
        if attempt_timeout_s is None:
            attempt_timeout_s = min(_ATTEMPT_TIMEOUT_S, total_timeout_s)
        if not 0 < attempt_timeout_s <= total_timeout_s:
            raise ValueError("an attempt must take some time, and no more than the whole")
        self._path = socket_path
        self._attempt_timeout_s = attempt_timeout_s
        self._total_timeout_s = total_timeout_s
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._keys: tuple[VerifyKey, ...] = ()
        self._closed = False

    async def start(self) -> None:
        """Connect and pin the signer's keys if it is up. If it is not, the next call tries again."""
        try:
            await self._ask({"op": "keys"})
        except SignerError as error:
            _LOG.warning("the signer is not ready yet: %s", error)

    async def sign(self, claims: Claims, *, replaces: str | None = None) -> str:
        """Return the compact token. `replaces` names a token of the same intent that was never released.

        The caller verifies what comes back. Raises: SignerUnreachable, SignerRefused.
        """
        request: dict[str, object] = {"op": "sign", "claims": claims.to_json()}
        if replaces is not None:
            request["replaces"] = replaces
        token = (await self._ask(request)).get("token")
        if not isinstance(token, str):
            raise SignerUnreachable("the signer's answer holds no token")
        return token

    async def healthy(self) -> None:
        """Return if the signer can sign now: it signed a fresh nonce, and a pinned key verifies the signature.

        Raises: SignerUnreachable, SignerRefused.
        """
        nonce = secrets.token_hex(16)
        answer = await self._ask({"op": "health", "nonce": nonce})
        key = next((key for key in self._keys if key.kid == answer.get("kid")), None)
        canary = answer.get("canary")
        if key is None or not isinstance(canary, str):
            raise SignerUnreachable("the signer's canary is not from a pinned key")
        try:
            key.key.verify(wire.read_signature(canary), wire.canary_message(nonce))
        except (InvalidSignature, ValueError) as error:
            raise SignerUnreachable("the signer's canary does not verify") from error

    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """Return the keys pinned from the latest connection. Empty until the signer was first reached."""
        return self._keys

    async def close(self) -> None:
        """Close the connection. Calls under way end as SignerUnreachable."""
        self._closed = True
        if self._connection is not None:
            self._connection.give_up("the client is closed")
        async with self._connecting:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.give_up("the client is closed")
            await connection.gone.wait()

    async def _ask(self, request: Mapping[str, object]) -> dict[str, JSON]:
        """Ask until there is an answer or the time is up. Raises: SignerUnreachable, SignerRefused."""
        failure = "no answer"
        pause_s = _FIRST_PAUSE_S
        try:
            async with asyncio.timeout(self._total_timeout_s):
                while not self._closed:
                    try:
                        connection = await self._connected()
                        answer = await connection.ask(request)
                    except _ConnectionLost as error:
                        failure = str(error)
                        await asyncio.sleep(pause_s)
                        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                    else:
                        return _accepted(answer)
        except TimeoutError as error:
            raise SignerUnreachable(
                f"no answer from the signer within {self._total_timeout_s:g} s: {failure}"
            ) from error
        raise SignerUnreachable("the client is closed")

    async def _connected(self) -> _Connection:
        """Return the connection, opening it if need be; of many callers one opens it. Raises: _ConnectionLost."""
        if self._connection is not None and self._connection.usable:
            return self._connection
        async with self._connecting:
            if self._connection is not None and self._connection.usable:
                return self._connection
            if self._closed:
                raise _ConnectionLost("the client is closed")
            connection, keys = await self._open()
            if self._keys and keys != self._keys:
                _LOG.warning("the signer's keys are others than before: %s", ", ".join(key.kid for key in keys))
            self._connection, self._keys = connection, keys
            return connection

    async def _open(self) -> tuple[_Connection, tuple[VerifyKey, ...]]:
        """Connect and fetch the keys. A connection whose keys are of no use is of no use. Raises: _ConnectionLost."""
        loop = asyncio.get_running_loop()
        connection = _Connection(silence_s=self._attempt_timeout_s)
        ready = False
        try:
            async with asyncio.timeout(self._attempt_timeout_s):
                await loop.create_unix_connection(lambda: connection, str(self._path))
                keys = _read_keys(await connection.ask({"op": "keys"}))
            ready = True
        except TimeoutError as error:
            raise _ConnectionLost("connecting took too long") from error
        except OSError as error:
            raise _ConnectionLost(f"cannot connect: {error.strerror}") from error
        finally:
            if not ready:
                connection.give_up("connecting failed")
        return connection, keys


class _Connection(asyncio.Protocol):
    """One connection and its open questions. It gives itself up when it stays silent while a question is open."""

    def __init__(self, *, silence_s: float) -> None:
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._silence_s = silence_s
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._heard_at = self._loop.time()
        self._asked = 0
        #: By id, oldest first: when it was asked, and who waits.
        self._open: dict[int, tuple[float, asyncio.Future[dict[str, JSON]]]] = {}

    @property
    def usable(self) -> bool:
        """Whether a question may be asked."""
        return self._transport is not None

    async def ask(self, request: Mapping[str, object]) -> dict[str, JSON]:
        """Return the answer's members. Raises: _ConnectionLost, SignerRefused if the question fits no frame."""
        if self._transport is None:
            raise _ConnectionLost("the connection was lost")
        number = self._asked = self._asked + 1
        try:
            frame = wire.frame({"id": number, **request})
        except ValueError as error:
            raise SignerRefused("malformed", str(error)) from error
        future: asyncio.Future[dict[str, JSON]] = self._loop.create_future()
        self._open[number] = (self._loop.time(), future)
        try:
            self._transport.write(frame)
            if self._watch is None:
                self._watch = self._loop.call_later(self._silence_s, self._check_silence)
            return await future
        finally:
            self._open.pop(number, None)

    def give_up(self, why: str) -> None:
        """Close at once; every open question fails."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for _, future in self._open.values():
            if not future.done():
                future.set_exception(_ConnectionLost(why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not its subclasses

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up("the connection was lost" if exc is None else f"the connection was lost: {exc}")
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            for answer in self._frames.feed(data):
                _, future = self._open.get(wire.request_id(answer), (0.0, None))
                if future is not None and not future.done():  # nobody waits any more for a late answer
                    future.set_result(answer)
        except MalformedFrame as error:
            self.give_up(f"the signer's answer is malformed: {error}")

    def _check_silence(self) -> None:
        self._watch = None
        oldest = next(iter(self._open.values()), None)
        if oldest is None:
            return
        until = max(self._heard_at, oldest[0]) + self._silence_s
        if until <= self._loop.time():
            self.give_up(f"the signer was silent for {self._silence_s:g} s")
        else:
            self._watch = self._loop.call_at(until, self._check_silence)


def _accepted(answer: dict[str, JSON]) -> dict[str, JSON]:
    """Return the answer if it is not a refusal. Raises: SignerRefused."""
    if "error" in answer:
        raise SignerRefused(str(answer["error"]), str(answer.get("detail", "")))
    return answer


def _read_keys(answer: Mapping[str, JSON]) -> tuple[VerifyKey, ...]:
    """Return the published keys. Raises: _ConnectionLost unless there is one and every one is sound."""
    jwks = answer.get("keys")
    if not isinstance(jwks, list) or not jwks:
        raise _ConnectionLost("the signer publishes no keys")
    try:
        return tuple(VerifyKey.from_jwk(jwk if isinstance(jwk, dict) else {}) for jwk in jwks)
    except ValueError as error:
        raise _ConnectionLost(f"a key of the signer is refused: {error}") from error
