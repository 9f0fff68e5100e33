"""One executor of the story: a process that appends a line to a ledger, and only behind the guard.

Told by its environment; prints the port it listens on as its first line.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING

import uvicorn
from holdfast import strict_json
from holdfast.errors import InvalidIntent, MalformedJSON, TokenRejected
from holdfast.executor import Guard
from holdfast.intent import Intent
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request


class Ledger:
    """A file of lines, one for every action that was really executed."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, line: dict[str, object]) -> None:
        """Append one line; on disk when this returns."""
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")
        os.fsync(self._descriptor)


def main() -> None:
    """Serve until the process is ended."""
    guard = Guard(
        os.environ["HOLDFAST_DEMO_BASE_URL"],
        os.environ["HOLDFAST_DEMO_CREDENTIAL"],
        os.environ["HOLDFAST_DEMO_EXECUTOR"],
    )
    ledger = Ledger(os.environ["HOLDFAST_DEMO_LEDGER"])

    async def run(request: Request) -> Response:
        try:
            body = strict_json.loads(await request.body())
            if not isinstance(body, dict) or not isinstance(token := body.pop("token", None), str):
                return JSONResponse({"executed": False, "why": "no token"}, status_code=401)
            asked = Intent.from_json(body)
            async with guard.authorize(
                token, action=asked.action, resource=asked.resource, parameters=asked.parameters
            ) as grant:
                await asyncio.to_thread(
                    ledger.write,
                    {
                        "txn": grant.claims.txn,
                        "jti": grant.claims.jti,
                        "sub": grant.claims.sub,
                        "action": grant.action,
                        "resource": str(grant.resource),
                    },
                )
        except (MalformedJSON, InvalidIntent) as error:
            return JSONResponse({"executed": False, "why": str(error)}, status_code=400)
        except TokenRejected as error:
            return JSONResponse({"executed": False, "why": error.code}, status_code=403)
        return JSONResponse({"executed": True})

    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)  # noqa: T201 - its parent reads the port
    app = Starlette(routes=[Route("/run", run, methods=["POST"])])
    config = uvicorn.Config(app, fd=listening.fileno(), log_config=None, access_log=False)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
