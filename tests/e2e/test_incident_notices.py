"""The database stops answering: whoever is on call hears of it while it is away, and of its end, each once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from e2e.running_service import RunningService, read_note, until

from services.outbound.signature import decode_public, verify

pytestmark = pytest.mark.integration


class Receiver:
    """A webhook of the operator's own."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def notices(self, kind: str, *, instance: str = "api", boundary: str = "evaluation") -> list[dict]:
        where = {"instance": instance, "boundary": boundary}
        return [one for one in self.of_kind(kind) if one["details"].items() >= where.items()]

    def of_kind(self, kind: str) -> list[dict]:
        found = [json.loads(body)["data"] for _, body in list(self.received)]
        return [one for one in found if one["kind"] == kind]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory, receiver):
    """Run a service that tells the receiver, and calls an incident over after two seconds of calm."""
    service = RunningService(tmp_path_factory.mktemp("told"))
    service.data.mkdir(mode=0o700)
    (service.data / "notify.yaml").write_text(
        f"incidents: {{stable_s: 2}}\nchannels:\n  - {{name: ops, type: webhook, url: '{receiver.url}'}}\n"
    )
    try:
        service.start()
        yield service
    finally:
        service.close()


def holdfast(service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "console.cli.main", *arguments, "--data-dir", str(service.data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_an_outage_of_the_store_is_told_while_it_lasts_and_resolved_after_it(told, receiver):
    with told.stopped("postgres"):
        until(lambda: receiver.notices("incident.opened"), "the incident is told while the store is away")
        for n in range(12):
            told.submit(read_note(), key=f"k{n}")
        until(
            lambda: any(int(one["details"]["affected"]) >= 10 for one in receiver.notices("incident.updated")),
            "its growth is told",
        )
        assert not receiver.notices("incident.resolved")
    until(lambda: receiver.notices("incident.resolved"), "its end is told")
    (opened,), (resolved,) = receiver.notices("incident.opened"), receiver.notices("incident.resolved")
    assert opened["dedupe_key"] == resolved["dedupe_key"]
    assert opened["severity"] == "critical"

    # The journal is imported by now, and the outbox knows what was delivered: nothing comes twice.
    until(lambda: not _unsettled(told), "the outbox has settled everything")
    ids = [headers["webhook-id"] for headers, _ in receiver.received]
    assert len(ids) == len(set(ids))


def test_a_halt_and_its_end_are_told_with_who_and_what_and_never_why(told, receiver):
    scope = {"scope": "category", "subject": "note.read"}
    headers = told.bearer("operator")
    for path, body in (("halt", {"reason": "s3cret words"}), ("resume", {"note": "more s3cret words"})):
        answer = told.request("POST", f"/v1/operator/{path}", json={**scope, **body}, headers=headers)
        assert answer.is_success, answer.text
    until(lambda: receiver.of_kind("halt.resumed"), "the halt's end is told")
    (halted,), (resumed,) = receiver.of_kind("halt.set"), receiver.of_kind("halt.resumed")
    assert halted["details"]["scope"] == "category:note.read"
    assert halted["dedupe_key"] == resumed["dedupe_key"]
    assert (halted["severity"], resumed["severity"]) == ("critical", "critical")
    assert not [body for _, body in receiver.received if b"s3cret" in body]


def test_what_was_told_is_signed_and_stands_in_the_log(told, receiver):
    key = decode_public(holdfast(told, "notify", "key").stdout.strip())
    assert receiver.received
    for headers, body in receiver.received:
        verify(
            (key,),
            message_id=headers["webhook-id"],
            timestamp=headers["webhook-timestamp"],
            signature=headers["webhook-signature"],
            body=body,
            now=int(headers["webhook-timestamp"]),
        )
    assert told.verify([]).returncode == 0


def test_the_command_tries_the_channel_of_a_running_service(told, receiver):
    before = len(receiver.received)
    done = holdfast(told, "notify", "test")
    assert (done.returncode, done.stdout) == (0, "ops: ok (HTTP 204)\n"), done.stderr
    assert len(receiver.received) == before + 1


def test_the_metrics_count_what_was_sent(told):
    text = told.get("/metrics").text
    assert 'holdfast_notice_deliveries_total{channel="ops",result="delivered"}' in text
    assert 'holdfast_notices_dead{channel="ops"} 0.0' in text


def _unsettled(service) -> list:
    listed = json.loads(holdfast(service, "notify", "list", "--json").stdout)
    assert listed["channels"] == ["ops"]
    assert listed["deliveries"]
    return [one for one in listed["deliveries"] if one["state"] != "delivered"]


def test_an_override_that_runs_out_is_told_as_ended_to_who_was_told_of_it(told, receiver):
    body = {"tier": "low", "reason": "incident 7", "expires_in": 1}
    put = told.request("POST", "/v1/operator/overrides", json=body, headers=told.bearer("operator"))
    assert put.status_code == 201, put.text
    key = f"order:{put.json()['order_id']}"

    def of(kind: str) -> list[dict]:
        return [one for one in receiver.of_kind(kind) if one["dedupe_key"] == key]

    until(lambda: of("override.expired"), "the end is told")
    assert len(of("override.set")) == 1
    assert of("override.expired")[0]["severity"] == of("override.set")[0]["severity"]
