"""`holdfast notify`: try the channels, list what was sent, show the key that receivers verify with."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.directory import DataDirectory
from console.runtime.failure import CommandFailed
from console.runtime.state import DEFAULT_DATA_DIRECTORY, add_database_options, database
from services.notices.channel import Taken
from services.notices.configuration import ConfigurationInvalid
from services.notices.notice import ID_PREFIX, Kind, Notice, Severity
from services.notices.sender import hand_over
from services.notifying import notifications_of, outline_of
from services.outbound.keyfile import KeyUnusable, load_or_create
from services.outbound.signature import encode_public
from services.ports import StoreUnreachable
from services.postgres.notices import PostgresOutbox
from services.postgres.pool import ReadPool
from services.system import SystemIds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers
    from services.notices.channel import Channel, Undelivered
    from services.notices.configuration import Notifications, Outline
    from services.postgres.notices import Listed

_LISTED = 50


def register(subparsers: Subparsers) -> None:
    """Add `notify`."""
    parser = subparsers.add_parser(
        "notify", help="try the channels of notifications, and list what was sent", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    test = commands.add_parser("test", help="send a test to each channel; exit 1 unless every one took it")
    test.add_argument("--channel", metavar="NAME", help="only this one")
    test.add_argument("--json", action="store_true", help="print JSON")
    _add_file_options(test)
    test.set_defaults(run=run_test)
    listing = commands.add_parser("list", help="the latest notices, and what became of each on each channel")
    listing.add_argument("--limit", type=int, default=_LISTED, metavar="N", help="how many (default: %(default)s)")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("--notify", metavar="FILE", help="who is told (default: HOLDFAST_NOTIFY)")
    add_database_options(listing)
    listing.set_defaults(run=run_list)
    key = commands.add_parser("key", help="the public key that receivers of webhooks verify with")
    _add_file_options(key)
    key.set_defaults(run=run_key)


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--notify", metavar="FILE", help="who is told (default: HOLDFAST_NOTIFY)")
    parser.add_argument("--data-dir", metavar="D", help="where notify.yaml and webhook.key lie if nothing else is said")


def run_test(arguments: argparse.Namespace) -> int:
    """Send a test to each channel. Raises: CommandFailed."""
    channels = _configured(arguments).channels
    if arguments.channel is not None:
        channels = tuple(channel for channel in channels if channel.name == arguments.channel)
        if not channels:
            raise CommandFailed(f"no channel is named `{arguments.channel}`")
    if not channels:
        raise CommandFailed("no channel is configured: nobody is told when something breaks")
    answers = asyncio.run(_test(channels))
    if arguments.json:
        document: list[JSON] = [
            {"channel": name, "ok": isinstance(answer, Taken), "answer": _words(answer)} for name, answer in answers
        ]
        print(json.dumps(document, indent=2))
    else:
        for name, answer in answers:
            print(f"{name}: {'ok' if isinstance(answer, Taken) else 'failed'} ({_words(answer)})")
    return 0 if all(isinstance(answer, Taken) for _, answer in answers) else 1


async def _test(channels: Sequence[Channel]) -> list[tuple[str, Taken | Undelivered]]:
    now = datetime.now(UTC)
    notice_id = SystemIds().new(ID_PREFIX)
    notice = Notice(
        notice_id=notice_id,
        kind=Kind.TEST,
        severity=Severity.INFO,
        dedupe_key=f"test:{notice_id}",
        summary="a test by `holdfast notify test`; nothing is wrong",
        at=now,
    )
    try:
        answers = await asyncio.gather(*(hand_over(channel, notice, now) for channel in channels))
    finally:
        for channel in channels:
            await channel.receiver.close()
    return [(channel.name, answer) for channel, answer in zip(channels, answers, strict=True)]


def _words(answer: Taken | Undelivered) -> str:
    return answer.answer if isinstance(answer, Taken) else answer.why


def run_list(arguments: argparse.Namespace) -> int:
    """Print the latest notices. Raises: CommandFailed."""
    names = _outlined(arguments).names
    if arguments.limit < 1:
        raise CommandFailed("--limit is at least 1")
    listed = asyncio.run(_list(arguments))
    if arguments.json:
        document: dict[str, JSON] = {
            "channels": [*names],
            "deliveries": [_document(one) for one in listed],
        }
        print(json.dumps(document, indent=2))
        return 0
    if not names:
        print("no channel is configured: nobody is told when something breaks")
    for line in _lines(listed):
        print(line)
    return 0


async def _list(arguments: argparse.Namespace) -> Sequence[Listed]:
    async with database(arguments) as url:
        pool = ReadPool(url, size=1)
        await pool.start()
        try:
            return await PostgresOutbox(pool).latest(arguments.limit)
        except StoreUnreachable as error:
            raise CommandFailed(f"the database cannot be read: {error}") from error
        finally:
            await pool.close()


def _document(one: Listed) -> JSON:
    return {
        "notice_id": one.notice_id,
        "kind": one.kind,
        "severity": one.severity,
        "summary": one.summary,
        "at": one.at.isoformat(),
        "channel": one.channel,
        "state": _state(one),
        "attempts": one.attempts,
        "last_error": one.last_error,
    }


def _state(one: Listed) -> str:
    if one.state is not None:
        return one.state
    return "not sent: no channel wanted it" if one.fanned_out else "not sent yet"


def _lines(listed: Sequence[Listed]) -> Iterator[str]:
    before = None
    for one in listed:
        if one.notice_id != before:
            before = one.notice_id
            yield f"{one.notice_id}  {one.at.isoformat(timespec='seconds')}  {one.severity} {one.kind}: {one.summary}"
        where = "" if one.channel is None else f"{one.channel}: "
        attempts = "" if not one.attempts else f", attempts: {one.attempts}"
        error = "" if one.last_error is None else f", {one.last_error}"
        yield f"    {where}{_state(one)}{attempts}{error}"


def run_key(arguments: argparse.Namespace) -> int:
    """Print the public key; it is made if there is none yet. Raises: CommandFailed."""
    path = _outlined(arguments).key_file
    try:
        print(encode_public(load_or_create(path).public_key()))
    except KeyUnusable as error:
        raise CommandFailed(str(error)) from error
    return 0


def _configured(arguments: argparse.Namespace) -> Notifications:
    try:
        return notifications_of(*_places(arguments), source=os.environ.get("HOLDFAST_ISSUER", "holdfast"))
    except ConfigurationInvalid as error:
        raise CommandFailed(str(error)) from error


def _outlined(arguments: argparse.Namespace) -> Outline:
    try:
        return outline_of(*_places(arguments))
    except ConfigurationInvalid as error:
        raise CommandFailed(str(error)) from error


def _places(arguments: argparse.Namespace) -> tuple[Path | None, Path]:
    """Return the file that is named, if one is, and the data directory."""
    data = DataDirectory.at(arguments.data_dir or os.environ.get("HOLDFAST_DATA_DIR", DEFAULT_DATA_DIRECTORY))
    given = arguments.notify or os.environ.get("HOLDFAST_NOTIFY")
    return (Path(given).absolute() if given else None), data.root
