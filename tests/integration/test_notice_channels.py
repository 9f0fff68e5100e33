"""Every channel against a real HTTP server, and every way in which one does not take a message."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from fakes.receiver import BROKEN, CLOSE, ENDLESS, HANG, SILENT, HTTPReceiver
from fakes.recording_entries import notice

from console.cli.main import main
from services.notices import configuration
from services.notices.channel import Taken, Undelivered
from services.notices.channels.post import retry_after_s
from services.notices.configuration import ConfigurationInvalid
from services.notices.notice import Kind
from services.notices.retry import Retry
from services.notices.sender import hand_over
from services.outbound.signature import decode_public, verify

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 20, 12, 5, tzinfo=UTC)


@pytest.fixture
async def server():
    async with HTTPReceiver() as receiver:
        yield receiver


def read(tmp_path, text, **environment):
    path = tmp_path / "notify.yaml"
    path.write_text(text)
    return configuration.read(
        path, default_key_file=tmp_path / "webhook.key", environment=environment, source="holdfast"
    )


@pytest.fixture
async def channel(tmp_path, server):
    """Make the one channel of a type."""
    made = []

    def make(kind, more=""):
        secret = {
            "webhook": "url_env: URL",
            "slack": "url_env: URL",
            "alertmanager": "url_env: ROOT",
            "pagerduty": f"url: {server.url}\n    routing_key_env: KEY",
        }[kind]
        text = f"channels:\n  - name: it\n    type: {kind}\n    {secret}\n{more}"
        root = server.url.removesuffix("/hook")
        made.extend(read(tmp_path, text, URL=server.url, ROOT=root, KEY="r0uting").channels)
        return made[-1]

    yield make
    for one in made:
        await one.receiver.close()


def ending(n=2):
    return replace(notice(n), kind=Kind.INCIDENT_RESOLVED)


# --- what is said -----------------------------------------------------------------------------------------------------


async def test_a_webhook_is_verified_with_the_key_that_the_command_shows(channel, server, tmp_path, capsys):
    assert isinstance(await hand_over(channel("webhook"), notice(), NOW), Taken)
    (request,) = server.received
    assert main(["notify", "key", "--data-dir", str(tmp_path)]) == 0
    verify(
        (decode_public(capsys.readouterr().out.strip()),),
        message_id=request.headers["webhook-id"],
        timestamp=request.headers["webhook-timestamp"],
        signature=request.headers["webhook-signature"],
        body=request.body,
        now=int(NOW.timestamp()),
    )
    assert request.headers["webhook-id"] == notice().notice_id
    assert request.document == {
        "type": "incident.opened",
        "timestamp": "2026-11-20T12:00:00.123456Z",
        "data": notice().document(),
    }
    assert os.stat(tmp_path / "webhook.key").st_mode & 0o777 == 0o600  # noqa: PTH116


async def test_a_receiver_verifies_with_the_lines_of_the_documentation(channel, server, tmp_path, capsys):
    assert isinstance(await hand_over(channel("webhook"), notice(), datetime.now(UTC)), Taken)
    main(["notify", "key", "--data-dir", str(tmp_path)])
    text = (ROOT / "docs" / "notifications.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    documented: dict = {}
    exec(lines, documented)
    request = server.received[0]
    public = capsys.readouterr().out.strip()
    documented["verify"](public, request.headers, request.body)
    with pytest.raises(InvalidSignature):
        documented["verify"](public, request.headers, request.body + b" ")


async def test_what_others_wrote_mentions_nobody_on_slack(channel, server):
    evil = replace(notice(), summary="<!channel> & <@U1> <http://x|click>", details={"reason": "<!here>"})
    assert isinstance(await hand_over(channel("slack"), evil, NOW), Taken)
    text = server.received[0].document["text"]
    assert "<" not in text
    assert "&lt;!channel&gt; &amp; &lt;@U1&gt;" in text
    assert "reason: &lt;!here&gt;" in text
    assert server.received[0].document["link_names"] is False


async def test_pagerduty_hears_of_the_end_under_the_same_key(channel, server):
    made = channel("pagerduty")
    for one in (notice(), ending(), replace(notice(3), kind=Kind.TEST)):
        assert isinstance(await hand_over(made, one, NOW), Taken)
    events = [request.document for request in server.received]
    assert [event["event_action"] for event in events] == ["trigger", "resolve", "trigger", "resolve"]
    assert {event["dedup_key"] for event in events} == {notice().dedupe_key}
    assert {event["routing_key"] for event in events} == {"r0uting"}
    assert events[0]["payload"]["severity"] == "critical"
    assert events[0]["payload"]["custom_details"]["boundary"] == "evaluation"
    assert "payload" not in events[1]


async def test_alertmanager_sees_one_alert_from_its_opening_to_its_ending(channel, server):
    made = channel("alertmanager")
    for one in (notice(), ending(), replace(notice(3), kind=Kind.BREAK_GLASS_USED)):
        assert isinstance(await hand_over(made, one, NOW), Taken)
    assert {request.path for request in server.received} == {"/api/v2/alerts"}
    (opened,), (ended,), (used,) = (request.document for request in server.received)
    assert opened["labels"] == ended["labels"]
    assert opened["labels"]["alertname"] == "HoldfastIncident"
    assert opened["endsAt"] > "2026-11-21"
    assert ended["endsAt"] == "2026-11-20T12:05:00.000Z"
    assert used["labels"]["alertname"] == "HoldfastBreakGlass"
    assert used["startsAt"] < used["endsAt"] < "2026-11-20T13:01"


async def test_alertmanager_is_given_its_credential(tmp_path, server, channel):
    (tmp_path / "token").write_text("Bearer s3cret\n")
    made = channel("alertmanager", "    authorization_file: token")
    assert isinstance(await hand_over(made, notice(), NOW), Taken)
    assert server.received[0].headers["authorization"] == "Bearer s3cret"


# --- what is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "retry"),
    [
        (410, Retry.NEVER),
        (429, Retry.SOON),
        (500, Retry.SOON),
        (503, Retry.SOON),
        (408, Retry.SOON),
        (400, Retry.SLOWLY),
        (404, Retry.SLOWLY),
        ((302, {"location": "http://169.254.169.254/"}), Retry.SLOWLY),
        ((307, {"location": "/elsewhere"}), Retry.SLOWLY),
        (304, Retry.SLOWLY),
        (CLOSE, Retry.SOON),
    ],
)
@pytest.mark.parametrize("kind", ["webhook", "alertmanager"])
async def test_everything_but_a_2xx_is_a_failure_of_its_kind(channel, server, kind, answer, retry):
    server.script.append(answer)
    refused = await hand_over(channel(kind), notice(), NOW)
    assert isinstance(refused, Undelivered)
    assert refused.retry is retry
    assert len(server.received) == 1, "no redirect is followed"
    assert server.url.rpartition(":")[2] not in refused.why, "an address may be a secret"


async def test_a_receiver_says_when_to_come_back(channel, server):
    server.script.append((429, {"retry-after": "7"}))
    refused = await hand_over(channel("slack"), notice(), NOW)
    assert refused.retry_after_s == 7
    assert retry_after_s(format_datetime(NOW + timedelta(seconds=90), usegmt=True), NOW) == 90
    assert retry_after_s("9" * 400, NOW) == 999_999_999
    assert [retry_after_s(text, NOW) for text in (None, "", "soon", "-1")] == [None] * 4


async def test_a_receiver_that_hangs_is_left_at_the_deadline(channel, server):
    server.script.append(HANG)
    refused = await hand_over(channel("webhook"), notice(), NOW, deadline_s=0.1)
    assert (refused.why, refused.retry) == ("no answer in time", Retry.SOON)


async def test_an_endless_answer_is_not_read_to_its_end(channel, server):
    server.script.append(ENDLESS)
    assert isinstance(await hand_over(channel("webhook"), notice(), NOW), Taken)


@pytest.mark.parametrize("answer", [BROKEN, SILENT])
async def test_a_receiver_that_said_2xx_is_not_told_again_whatever_follows(channel, server, answer):
    server.script.append(answer)
    assert await hand_over(channel("slack"), notice(), NOW) == Taken(answer="HTTP 200")


async def test_nobody_listens(channel, server):
    made = channel("webhook")
    await server.__aexit__()
    refused = await hand_over(made, notice(), NOW)
    assert (refused.why, refused.retry) == ("no answer: nobody listens there", Retry.SOON)


async def test_what_is_wrong_with_an_address_is_told_without_it(tmp_path):
    async def speaks_plainly(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speaks_plainly, "127.0.0.1", 0) as plain:
        address = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/s3cret"
        (channel,) = read(tmp_path, "channels: [{name: a, type: slack, url_env: A}]", A=address).channels
        refused = await hand_over(channel, notice(), NOW)
        await channel.receiver.close()
    assert refused.why == "no answer: it does not speak TLS"


# --- the command ------------------------------------------------------------------------------------------------------


async def test_the_command_tells_which_channels_took_the_test(tmp_path, server, capsys):
    path = tmp_path / "notify.yaml"
    path.write_text(
        f"channels:\n  - {{name: good, type: webhook, url: '{server.url}', min_severity: critical}}\n"
        f"  - {{name: bad, type: webhook, url: '{server.url}'}}\n"
    )
    command = ["notify", "test", "--data-dir", str(tmp_path)]
    server.script.append(204)
    assert await asyncio.to_thread(main, [*command, "--channel", "good"]) == 0
    assert capsys.readouterr().out == "good: ok (HTTP 204)\n"
    server.script.append(500)
    assert await asyncio.to_thread(main, [*command, "--channel", "bad"]) == 1
    assert capsys.readouterr().out == "bad: failed (HTTP 500)\n"
    server.script.extend([404, 404])
    assert await asyncio.to_thread(main, command) == 1
    assert await asyncio.to_thread(main, command) == 0
    assert server.received[0].document["type"] == "test"
    assert await asyncio.to_thread(main, [*command, "--channel", "none"]) == 1


def test_nothing_starts_on_a_file_that_cannot_be_used(tmp_path, capsys):
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "notify.yaml").write_text("channels:\n  - {name: it, type: webhook}\n")
    command = ["up", "--data-dir", str(tmp_path / "data"), "--policies", str(ROOT / "policies"), "--port", "0"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "notify.yaml:2:5: give exactly one of `url`, `url_env` or `url_file`" in said.err
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_channel_through_apprise_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigurationInvalid, match=r"notify.yaml:3:5: channel `it`: .*holdfast-service\[apprise\]"):
        read(tmp_path, "channels:\n  - name: it\n    type: apprise\n    url_env: URL\n", URL="mailto://a:b@c")
