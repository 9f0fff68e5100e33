"""`holdfast up`: everything on this machine, under one supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.directory import DataDirectory
from console.runtime.failure import CommandFailed
from console.runtime.state import DEFAULT_DATA_DIRECTORY
from console.runtime.supervisor import DEFAULT_HOST, DEFAULT_PORT, Options, Supervisor

if TYPE_CHECKING:
    from console.cli.subparsers import Subparsers

_HIGHEST_PORT = 65535


def register(subparsers: Subparsers) -> None:
    """Add `up`."""
    parser = subparsers.add_parser(
        "up",
        help="run everything on this machine, from one data directory",
        description=(
            "Run PostgreSQL, Valkey, the signer, the API and the worker from one data directory, until Ctrl-C or "
            "SIGTERM. HOLDFAST_DATABASE_URL and HOLDFAST_BROKER_URL name servers of your own to use instead."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data-dir",
        metavar="D",
        default=os.environ.get("HOLDFAST_DATA_DIR", DEFAULT_DATA_DIRECTORY),
        help="where everything lies that must survive (default: %(default)s)",
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        help="the port to listen on; 0 is any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--policies",
        metavar="DIR",
        default=os.environ.get("HOLDFAST_POLICIES"),
        help="the directory of the policy bundle (default: HOLDFAST_POLICIES)",
    )
    parser.add_argument(
        "--notify",
        metavar="FILE",
        default=os.environ.get("HOLDFAST_NOTIFY"),
        help="who is told when something breaks (default: HOLDFAST_NOTIFY, else notify.yaml in the data directory)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until told to stop. Raises: CommandFailed."""
    if sys.platform != "linux":
        raise CommandFailed("`holdfast up` needs Linux; elsewhere run its processes in containers (infra/compose.yaml)")
    if not arguments.policies:
        raise CommandFailed("refusing to start without policies; name their directory with --policies")
    options = Options(
        data=DataDirectory.at(arguments.data_dir),
        policies=Path(arguments.policies).absolute(),
        notify=None if not arguments.notify else Path(arguments.notify).absolute(),
        host=arguments.host,
        port=arguments.port,
        say=_say,
    )
    return asyncio.run(Supervisor(options).run())


def _say(line: str) -> None:
    # Whoever read the output may have gone, or the disk that it goes to is full; that stops nothing.
    with contextlib.suppress(OSError):
        print(f"holdfast: {line}", flush=True)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"`{text}` is not a port from 0 to {_HIGHEST_PORT}")
    return int(text)
