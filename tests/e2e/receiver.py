"""Receivers of webhooks on loopback, over plain HTTP or TLS: each path misbehaves in its own way."""

from __future__ import annotations

import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Message:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Take it as no news that a sender hangs up."""


class _Handler(BaseHTTPRequestHandler):
    """One request; the server knows whose."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.receiver.got.append(Message(path=self.path, headers=headers, body=body))
        getattr(self, "_" + self.path.strip("/").split("/")[0].replace("-", "_"))()

    def do_GET(self) -> None:
        self.server.receiver.got.append(Message(path="GET " + self.path, headers={}, body=b""))
        self._good()

    def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _good(self) -> None:
        self._answer(204)

    def _fail_once(self) -> None:
        failed = len(self.server.receiver.at(self.path)) == 1
        self._answer(503 if failed else 200, {"Retry-After": "1"} if failed else None)

    def _gone(self) -> None:
        self._answer(410)

    def _redirect(self) -> None:
        self._answer(307, {"Location": "/trap"})

    def _trap(self) -> None:
        self._answer(200)

    def _hang(self) -> None:
        self.server.receiver.over.wait(60)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.receiver.over.wait(0.5):
            self.wfile.write(b"x")

    def _flood(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 30))
        self.end_headers()
        while not self.server.receiver.over.is_set():
            self.wfile.write(b"x" * 65536)

    def log_message(self, *_: object) -> None:
        pass


class Receiver:
    """What answers on each path.

    `/good` takes everything, `/fail-once` after a failure, `/gone` says 410, `/redirect` leads to `/trap`, `/hang`
    never answers, `/drip` never ends its answer, `/flood` answers more than anybody should read.
    """

    def __init__(self, *, certificate: Path | None = None) -> None:
        self.got: list[Message] = []
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, path: str, *, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def at(self, path: str) -> list[Message]:
        return [message for message in self.got if message.path == path]

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
