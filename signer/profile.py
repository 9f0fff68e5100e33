"""What the signer is willing to sign, whatever the service asks for.

The signer does not trust the service: a service that is taken over must not get a token for an unknown executor, for
long, for the future, or a second one for the same intent. Pure: time is an argument.

ProfileViolation       the claims are outside the profile
├── OtherPayload       the intent has another token that has not expired
└── MemoryFull         too many unexpired intents are remembered to take another

InvalidProfile         the profile itself makes no sense
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from holdfast.reasons import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.strict_json import JSON
    from holdfast.token import Claims

LONGEST_LIFETIME_S: Final = 3600
CLOCK_TOLERANCE_S: Final = 5

_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,512}")
_TXN = re.compile(r"int_[0-9A-Za-z_-]{1,60}")
_POL = re.compile(r"sha256:[0-9A-Za-z_-]{1,64}")
_JKT = re.compile(r"[A-Za-z0-9_-]{43}")


class InvalidProfile(ValueError):
    """The profile makes no sense; the text says where."""


class ProfileViolation(Exception):
    """The claims must not be signed."""

    code: ClassVar[str] = "profile"


class OtherPayload(ProfileViolation):
    """The intent already has a token with another payload, and it has not expired."""

    code: ClassVar[str] = "conflict"


class MemoryFull(ProfileViolation):
    """No further intent can be remembered, so none may be signed."""

    code: ClassVar[str] = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The bounds of one issuer's tokens. Lifetimes are whole seconds, `exp - iat`.

    `audiences` maps each executor to the longest life of its ordinary tokens, `preauthorized` to that of tokens from a
    batch (`bid`), where it differs. `max_lifetime_s` caps both.
    """

    issuer: str
    audiences: Mapping[str, int]
    max_lifetime_s: int = 60
    preauthorized: Mapping[str, int] = field(default_factory=dict)
    modes: frozenset[Mode] = frozenset({Mode.NORMAL})

    def __post_init__(self) -> None:
        """Refuse what could never be meant. Raises: InvalidProfile."""
        if _TEXT.fullmatch(self.issuer) is None:
            raise InvalidProfile("`issuer` must have 1 to 512 printable characters")
        if not self.audiences:
            raise InvalidProfile("`audiences` names no executor")
        if not self.modes or not all(isinstance(mode, Mode) for mode in self.modes):
            raise InvalidProfile("`modes` must name at least one mode, and only known ones")
        if unknown := self.preauthorized.keys() - self.audiences.keys():
            raise InvalidProfile(f"`preauthorized` names `{min(unknown)}`, which `audiences` does not")
        for executor in self.audiences:
            if _TEXT.fullmatch(executor) is None:
                raise InvalidProfile("an executor's name must have 1 to 512 printable characters")
        for seconds in (self.max_lifetime_s, *self.audiences.values(), *self.preauthorized.values()):
            if type(seconds) is not int or not 0 < seconds <= LONGEST_LIFETIME_S:  # a bool is no lifetime
                raise InvalidProfile(f"a lifetime must be a whole number of seconds from 1 to {LONGEST_LIFETIME_S}")
        object.__setattr__(self, "audiences", MappingProxyType(dict(self.audiences)))
        object.__setattr__(self, "preauthorized", MappingProxyType(dict(self.preauthorized)))

    @classmethod
    def read(cls, document: JSON) -> Profile:
        """Read `{"issuer", "audiences": {executor: seconds}, "max_lifetime_s"?, "preauthorized"?, "modes"?}`.

        Unknown members and wrong types are refused. Raises: InvalidProfile.
        """
        if not isinstance(document, dict):
            raise InvalidProfile("the profile must be an object")
        if unknown := document.keys() - cls.__dataclass_fields__.keys():
            raise InvalidProfile(f"the profile has an unknown member `{ascii(min(unknown)[:64])[1:-1]}`")
        issuer = document.get("issuer")
        if not isinstance(issuer, str):
            raise InvalidProfile("`issuer` must be a string")
        modes = document.get("modes", [Mode.NORMAL.value])
        if not isinstance(modes, list):
            raise InvalidProfile("`modes` must be an array")
        return cls(
            issuer=issuer,
            audiences=_seconds_by_executor(document.get("audiences"), "audiences"),
            max_lifetime_s=_seconds(document.get("max_lifetime_s", 60)),
            preauthorized=_seconds_by_executor(document.get("preauthorized", {}), "preauthorized"),
            modes=frozenset(_modes(modes)),
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the document that `read` takes."""
        return {
            "issuer": self.issuer,
            "audiences": dict(self.audiences),
            "max_lifetime_s": self.max_lifetime_s,
            "preauthorized": dict(self.preauthorized),
            "modes": [mode.value for mode in sorted(self.modes)],
        }

    def check(self, claims: Claims, *, now: float, repeat: bool = False) -> None:
        """Return if `claims` may be signed at `now`, seconds since the epoch. Raises: ProfileViolation.

        `repeat` says that this very payload was signed before and is remembered: it may then be older than the clock
        tolerance, since signing it again yields the token that exists already. It is never from the future.
        """
        # 1. Shape. `Claims.from_json` has closed the set and checked its patterns; these are the signer's own.
        _check_shape(claims)
        # 2. Ours, for somebody known, by a way that is open.
        if claims.iss != self.issuer:
            raise ProfileViolation("the issuer is not this signer's")
        if claims.aud not in self.audiences:
            raise ProfileViolation("the audience is not known to the profile")
        self._check_mode(claims)
        # 3. Now. A token minted for the future would outlive the takeover of a service.
        if not claims.iat <= now + CLOCK_TOLERANCE_S:
            raise ProfileViolation("`iat` is in the future")
        if not repeat and not now - CLOCK_TOLERANCE_S <= claims.iat:
            raise ProfileViolation("`iat` is in the past")
        if not now < claims.exp:
            raise ProfileViolation("the token is expired")
        # 4. Not for long.
        if not claims.iat <= claims.nbf < claims.exp:
            raise ProfileViolation("`iat`, `nbf` and `exp` are not in order")
        if claims.exp - claims.iat > self.lifetime_s(claims):
            raise ProfileViolation("the lifetime is longer than the audience's")

    def _check_mode(self, claims: Claims) -> None:
        if claims.mode not in self.modes:
            raise ProfileViolation("the mode is not open in the profile")
        if (claims.mode == Mode.BREAK_GLASS) is not (claims.brk is not None):
            raise ProfileViolation("the claim `brk` stands in break-glass tokens, and in no others")
        if claims.mode == Mode.OPERATOR and claims.apr is None:
            raise ProfileViolation("a token that an operator permitted names the approval in `apr`")

    def lifetime_s(self, claims: Claims) -> int:
        """Return the longest life of such a token, for a known audience."""
        ordinary = self.audiences[claims.aud]
        audience = ordinary if claims.bid is None else self.preauthorized.get(claims.aud, ordinary)
        return min(audience, self.max_lifetime_s)


@dataclass(frozen=True, slots=True)
class _Remembered:
    digest: bytes
    jti: str
    exp: int


class OnePayload:
    """Remembers the one payload that each intent may have until it expires. Bounded; when full it refuses.

    A restart forgets. What then still holds is the executor's side: a token is consumed once per (issuer, intent).
    """

    def __init__(self, *, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("the memory must hold at least one intent")
        self._capacity = capacity
        self._payloads: dict[str, _Remembered] = {}
        # Every payload ever admitted and not yet expired, replaced ones too: this is what the capacity bounds.
        self._expiries: list[tuple[int, str, str]] = []

    def __len__(self) -> int:
        """Return how many places are taken."""
        return len(self._expiries)

    def holds(self, txn: str, digest: bytes) -> bool:
        """Return whether exactly this payload is the remembered one."""
        remembered = self._payloads.get(txn)
        return remembered is not None and remembered.digest == digest

    def is_full(self, *, now: float) -> bool:
        """Return whether a new intent would be refused at `now`."""
        self._forget_expired(now)
        return len(self._expiries) >= self._capacity

    def admit(self, *, txn: str, jti: str, exp: int, digest: bytes, replaces: str | None, now: float) -> None:
        """Make this payload the intent's only one, or refuse it. The same payload may come any number of times.

        `replaces` names the remembered token when it was never released. Raises: OtherPayload, MemoryFull.
        """
        self._forget_expired(now)
        remembered = self._payloads.get(txn)
        if remembered is not None:
            if remembered.digest == digest:
                return
            if replaces != remembered.jti:
                raise OtherPayload("the intent has another token that has not expired")
            if jti == remembered.jti:
                raise OtherPayload("a token's id names one payload")
        if len(self._expiries) >= self._capacity:
            raise MemoryFull("too many unexpired intents are remembered")
        self._payloads[txn] = _Remembered(digest, jti, exp)
        heapq.heappush(self._expiries, (exp, txn, jti))

    def _forget_expired(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            exp, txn, jti = heapq.heappop(self._expiries)
            remembered = self._payloads.get(txn)
            if remembered is not None and (remembered.exp, remembered.jti) == (exp, jti):
                del self._payloads[txn]


def _check_shape(claims: Claims) -> None:
    for name in ("iss", "aud", "sub", "env", "action", "category", "obo", "bid", "brk", "apr"):
        value = getattr(claims, name)
        if value is not None and _TEXT.fullmatch(value) is None:
            raise ProfileViolation(f"the claim `{name}` must have 1 to 512 printable characters")
    for name, pattern in (("txn", _TXN), ("pol", _POL)):
        if pattern.fullmatch(getattr(claims, name)) is None:
            raise ProfileViolation(f"the claim `{name}` is malformed")
    if claims.cnf_jkt is not None and _JKT.fullmatch(claims.cnf_jkt) is None:
        raise ProfileViolation("the claim `cnf` is malformed")


def _seconds_by_executor(value: JSON, name: str) -> dict[str, int]:
    if not isinstance(value, dict):
        raise InvalidProfile(f"`{name}` must be an object of executors and seconds")
    return {executor: _seconds(seconds) for executor, seconds in value.items()}


def _seconds(value: JSON) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidProfile("a lifetime must be a whole number of seconds")
    return value


def _modes(names: Iterable[JSON]) -> Iterable[Mode]:
    for name in names:
        if not isinstance(name, str) or name not in Mode.__members__.values():
            raise InvalidProfile(f"`modes` may hold {', '.join(Mode)}")
        yield Mode(name)
