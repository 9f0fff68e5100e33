"""The floor: the same stack as the API, one durable commit, no decision. What no service on this stack can be under.

FastAPI with a plain ASGI route, uvicorn with httptools on uvloop, asyncpg. It authenticates nobody and decides nothing:
it reads the same strict JSON, commits one row in the same PostgreSQL, and answers a body of an envelope's size.

`python -m benchmarks.floor --ready FILE`, with the database in HOLDFAST_DATABASE_URL; its port goes into FILE.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import orjson
import uvicorn
import uvloop
from starlette.routing import Route

from benchmarks.traffic import PATH
from services.http.app import create_app
from services.http.wire import Endpoint, json_response, read_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TABLE: Final = """
CREATE TABLE IF NOT EXISTS benchmark_floor (
    row_id      text PRIMARY KEY,
    body        bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
)"""
INSERT: Final = "INSERT INTO benchmark_floor (row_id, body) VALUES ($1, $2)"
_CONNECTIONS: Final = 8
_BACKLOG: Final = 512
#: What a granted envelope measures beside its id, so that as many bytes are written.
_FILLER: Final = "x" * 1820


class Floor:
    """The one endpoint."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def store(self, request: Request) -> Response:
        """Read, commit, answer."""
        body = orjson.dumps(await read_json(request), option=orjson.OPT_SORT_KEYS)
        row = "row_" + secrets.token_hex(13)
        # `execute` outside of a transaction: the row is durable when it returns.
        await self._pool.execute(INSERT, row, body)
        return json_response(200, {"row": row, "filler": _FILLER})


async def _serve(database_url: str, ready: Path) -> None:
    pool = await asyncpg.create_pool(database_url, min_size=_CONNECTIONS, max_size=_CONNECTIONS)
    try:
        await pool.execute(TABLE)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(_BACKLOG)
            app = create_app([Route(PATH, Endpoint(Floor(pool).store), methods=["POST"])])
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    http="httptools",
                    lifespan="off",
                    access_log=False,
                    log_config=None,
                    server_header=False,
                    date_header=True,
                    timeout_graceful_shutdown=1,
                )
            )
            draft = ready.with_suffix(".draft")
            draft.write_text(str(listener.getsockname()[1]), encoding="ascii")
            draft.replace(ready)
            await server.serve(sockets=[listener])
    finally:
        pool.terminate()


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="The floor of the benchmarks.", allow_abbrev=False)
    parser.add_argument("--ready", type=Path, required=True, metavar="FILE", help="where the port is written")
    arguments = parser.parse_args()
    uvloop.run(_serve(os.environ["HOLDFAST_DATABASE_URL"], arguments.ready))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
