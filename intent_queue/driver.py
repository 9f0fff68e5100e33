"""What asyncpg raises when the server is gone, going, silent, or says what nobody can understand."""

from __future__ import annotations

from typing import Final

import asyncpg

UNREACHABLE: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection whose server died in the middle of an answer
    OSError,
    TimeoutError,
    # A garbled answer fails wherever the driver happens to read it.
    ValueError,
    LookupError,
    BufferError,
    ArithmeticError,
    TypeError,
)
