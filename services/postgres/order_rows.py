"""Orders as rows of the store, and as entries of a local file that is replaced in one step."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from services.decision.orders import Order, OrderKind

if TYPE_CHECKING:
    import asyncpg

_TIMES: Final = ("issued_at", "in_force_at", "expires_at", "ended_at")


def order_of(row: asyncpg.Record) -> Order:
    """Return a row of `COLUMNS` as the order that it is."""
    return Order(
        order_id=row["order_id"],
        kind=OrderKind(row["kind"]),
        scope=row["scope"],
        reason=row["reason"],
        issued_at=row["issued_at"],
        issued_by=row["issued_by"],
        people=row["people"],
        confirmed_by=tuple(row["confirmed_by"]),
        in_force_at=row["in_force_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        document=orjson.loads(row["document"]),
    )


def to_json(order: Order) -> dict[str, object]:
    """Return what a file keeps of an order."""
    members = {name: getattr(order, name) for name in Order.__dataclass_fields__}
    for name in _TIMES:
        members[name] = None if members[name] is None else members[name].isoformat()
    return {**members, "confirmed_by": list(order.confirmed_by), "document": dict(order.document)}


def from_json(entry: dict[str, object]) -> Order:
    """Return an order that `to_json` wrote. Raises: ValueError, TypeError, KeyError."""
    times = {name: _time(entry[name]) for name in _TIMES}
    order = Order(**{**entry, **times, "kind": OrderKind(str(entry["kind"]))})  # type: ignore[arg-type] # as written
    return replace(order, confirmed_by=tuple(order.confirmed_by))


def _time(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text))


def write_file(path: Path, document: object) -> None:
    """Replace a file by `document` as JSON, durably. Raises: OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
