"""A classifier that agrees with the catalogue: a stand-in for the real one, made to be stopped.

Run as `python -m console.gameday.classifier POLICIES [PORT]`; prints the port it listens on as its first line. What it
is asked and what it answers: docs/policy.md.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn
from holdfast import strict_json
from holdfast.errors import MalformedJSON
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.decision.bundle import read_bundle
from services.decision.pattern import MostSpecific
from services.policy_files import read_directory

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from starlette.requests import Request

    from services.decision.bundle import Bundle

VERSION: Final = "agrees-with-the-catalogue"


class Agreeing:
    """Answers with the category that the catalogue has for an action."""

    def __init__(self, bundle: Bundle) -> None:
        self._catalog = MostSpecific(bundle.catalog.actions)

    def answer(self, question: JSON) -> tuple[int, dict[str, JSON]]:
        """Return the status and the body for one question."""
        action = question.get("action") if isinstance(question, dict) else None
        found = self._catalog.find(action) if isinstance(action, str) else None
        if found is None:
            return 422, {"detail": "the catalogue does not know the action"}
        return 200, {"category": found[1].category, "confidence": 1.0, "version": VERSION}


def main(policies: str, port: str = "0") -> None:
    """Serve until the process is ended."""
    agreeing = Agreeing(read_bundle(read_directory(Path(policies))))

    async def classify(request: Request) -> Response:
        try:
            status, body = agreeing.answer(strict_json.loads(await request.body()))
        except MalformedJSON as error:
            status, body = 400, {"detail": str(error)}
        return JSONResponse(body, status_code=status)

    listening = socket.create_server(("127.0.0.1", int(port)))
    print(listening.getsockname()[1], flush=True)  # noqa: T201 - its parent reads the port
    app = Starlette(routes=[Route("/classify", classify, methods=["POST"])])
    config = uvicorn.Config(app, fd=listening.fileno(), log_config=None, access_log=False)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
