"""The command line as an operator: requests to a running service, with an operator's token.

The service decides and records; the command line only asks. So it works while PostgreSQL is away, as far as anything
does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2
from holdfast import strict_json
from holdfast.errors import MalformedJSON

from console.runtime.failure import CommandFailed
from console.runtime.state import DEFAULT_DATA_DIRECTORY

if TYPE_CHECKING:
    from holdfast.strict_json import JSON

_TIMEOUT_S: Final = 10.0
_TOKEN: Final = "HOLDFAST_OPERATOR_TOKEN"  # noqa: S105 - a name, not a secret
_URL: Final = "HOLDFAST_URL"


@dataclass(frozen=True, slots=True)
class OperatorClient:
    """One service, asked as one operator."""

    base_url: str
    http: httpx2.Client

    def get(self, path: str, **query: str) -> dict[str, JSON]:
        """Return the answer to a GET. Raises: CommandFailed."""
        return self._answer("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return the answer to a POST. Raises: CommandFailed."""
        return self._answer("POST", path, json=dict(body))

    def _answer(self, method: str, path: str, **request: object) -> dict[str, JSON]:
        try:
            response = self.http.request(method, f"{self.base_url}{path}", **request)  # type: ignore[arg-type] # as httpx2 takes it
        except httpx2.HTTPError as error:
            raise CommandFailed(f"`{self.base_url}` does not answer: {error}") from error
        stranger = CommandFailed(f"`{self.base_url}` did not answer as Holdfast does: HTTP {response.status_code}")
        try:
            document = strict_json.loads(response.content)
        except MalformedJSON as error:
            raise stranger from error
        if not isinstance(document, dict):
            raise stranger
        if not response.is_success:
            raise CommandFailed(f"{document.get('reason_code', response.status_code)}: {document.get('detail', '')}")
        return document


def add_service_options(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """Let a command say which service it asks, and as whom. With `many`, more than one service."""
    parser.add_argument(
        "--url",
        metavar="URL",
        action="append" if many else "store",
        help=f"the service (default: {_URL}, else that of the data directory)"
        + ("; give it once for each replica" if many else ""),
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"holds the operator's token (default: {_TOKEN}, else bootstrap.json)"
    )
    parser.add_argument(
        "--data-dir", metavar="D", help=f"the data directory of `holdfast up` (default: {DEFAULT_DATA_DIRECTORY})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


@contextmanager
def operator_client(arguments: argparse.Namespace) -> Iterator[OperatorClient]:
    """Lend a client for the one service that the options name. Raises: CommandFailed."""
    with operator_clients(arguments) as clients:
        yield clients[0]


@contextmanager
def operator_clients(arguments: argparse.Namespace) -> Iterator[list[OperatorClient]]:
    """Lend a client for each service that the options name, at least one. Raises: CommandFailed."""
    given = [arguments.url] if isinstance(arguments.url, str) else arguments.url
    urls = given or ([os.environ[_URL]] if os.environ.get(_URL) else [_bootstrap(arguments, "base_url")])
    headers = {"authorization": f"Bearer {_token(arguments)}"}
    with httpx2.Client(headers=headers, timeout=_TIMEOUT_S, trust_env=False) as http:
        yield [OperatorClient(url.rstrip("/"), http) for url in urls]


def _token(arguments: argparse.Namespace) -> str:
    if arguments.token_file is not None:
        try:
            return Path(arguments.token_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"cannot read `{arguments.token_file}`: {error}") from error
    return os.environ.get(_TOKEN) or _bootstrap(arguments, "token")


def _bootstrap(arguments: argparse.Namespace, member: str) -> str:
    directory = Path(arguments.data_dir or os.environ.get("HOLDFAST_DATA_DIR", DEFAULT_DATA_DIRECTORY))
    path = directory / "bootstrap.json"
    hint = f"give --url and {_TOKEN}, or the data directory of a service that runs here"
    try:
        document = strict_json.loads(path.read_bytes())
    except (OSError, MalformedJSON) as error:
        raise CommandFailed(f"cannot read `{path}`: {hint}") from error
    place = document
    if member == "token" and isinstance(document, dict):
        place = document.get("operator")
    found = place.get(member) if isinstance(place, dict) else None
    if not isinstance(found, str):
        raise CommandFailed(f"`{path}` does not name what is needed: {hint}")
    return found
