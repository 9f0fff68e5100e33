"""The real clock and the real source of identifiers."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts like the number
_ID_CHARACTERS: Final = 26


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never move backwards."""
        return time.monotonic()


class SystemIds:
    """Identifiers from the clock and the system's random source."""

    def new(self, prefix: str) -> str:
        """Return `prefix` and 26 characters: 48 bits of milliseconds, then 80 random bits. Source: ULID."""
        number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
        return prefix + "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (_ID_CHARACTERS - 1), -1, -5))

    def token_id(self) -> str:
        """Return `jti_` and 128 random bits in hexadecimal."""
        return "jti_" + secrets.token_hex(16)
