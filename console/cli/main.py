"""The `holdfast` command: finds the subcommand, and turns what went wrong into one clear line and an exit code.

0 is success, 1 a failure, 2 a wrong command line. Only the module of the chosen command is imported.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Final

from console.runtime.failure import CommandFailed

#: Each module has `register(subparsers)`, which adds these commands; their parsers set `run`, a function of the
#: parsed arguments that returns the exit code.
MODULES: Final[dict[str, dict[str, str]]] = {
    "console.cli.up": {"up": "run everything on this machine, from one data directory"},
    "console.cli.api": {"api": "run the HTTP service"},
    "console.cli.worker": {"worker": "run the queue's drain and the upkeep of the log"},
    "console.cli.signer": {
        "signer": "run the token signer",
        "signer-setup": "write the signer's profile from the policies, and its passphrase",
    },
    "console.cli.migrate": {"migrate": "bring the database to this version's schema"},
    "console.cli.policy": {"policy": "check, test, compare and publish policy bundles"},
    "console.cli.notify": {"notify": "try the channels of notifications, and list what was sent"},
    "console.cli.explain": {"explain": "say why an intent was decided as it was"},
    "console.cli.demo": {"demo": "play the outage story end to end"},
    "console.cli.gameday": {"gameday": "trip every boundary of a throw-away twin, and check what it lets through"},
    "console.cli.audit": {"audit": "verify the log"},
    "console.cli.orders": {
        "halt": "stop everything, an agent, a category or an executor",
        "resume": "end a halt",
        "overrides": "let reads pass while they cannot be evaluated",
        "boundaries": "look at the boundaries, hold one open, probe one",
    },
    "console.cli.queue": {"queue": "look at what waits, and decide it"},
    "console.cli.credentials": {
        "operators": "add operators, change roles, shut them out, replace tokens",
        "agents": "list agents, make and replace keys, suspend and resume them",
        "executors": "make credentials for executors",
    },
    "console.cli.break_glass": {
        "break-glass": "let through, for a while, what cannot be evaluated",
    },
    "console.cli.reviews": {"reviews": "look at what left around the evaluation, and close its reviews"},
    "console.cli.provision": {"provision": "store the first credentials and write bootstrap.json"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = _parser(arguments).parse_args(arguments)
    try:
        status: int = options.run(options)
    except CommandFailed as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`); nothing may be flushed into it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="Signed authority tokens for AI agents, fail-closed at every boundary.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"holdfast {importlib.metadata.version('holdfast-service')}"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for module, commands in MODULES.items():
        if chosen in commands:
            importlib.import_module(module).register(subparsers)
        else:
            for name, summary in commands.items():
                subparsers.add_parser(name, help=summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
