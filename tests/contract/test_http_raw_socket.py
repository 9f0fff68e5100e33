"""What no HTTP client would send, on the bare socket."""

from __future__ import annotations

import contextlib
import socket

import pytest
from e2e.envelope import check_problem, envelope
from e2e.running_service import PATIENCE_S, read_note

pytestmark = pytest.mark.integration


def say(service, *pieces: bytes, hang_up: bool = True) -> bytes:
    """Send pieces one after the other and return everything that comes back until the server closes.

    Without `hang_up` the last request must ask for the close.
    """
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.sendall(piece)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                heard += piece
        return heard


def answers(heard: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Cut what was heard into status, headers and body."""
    found = []
    while heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = int(headers[b"content-length"])
        found.append((int(status.split()[1]), headers, rest[:length]))
        heard = rest[length:]
    return found


def request(
    service, *headers: bytes, method: bytes = b"POST", path: bytes = b"/v1/intents", body: bytes = b""
) -> bytes:
    key = service.key("agent", "alpha").encode()
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Authorization: Bearer " + key, *headers]
    return b"\r\n".join([*lines, b"", b""]) + body


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"POST /v1/intents HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/intents HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/intents HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/intents HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\x80\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /v1/intents HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_problem_too(service, garbage):
    [(status, headers, body)] = answers(say(service, garbage))

    assert 400 <= status < 500
    check_problem(status, headers[b"content-type"].decode(), body)
    assert headers[b"x-request-id"]
    envelope(service.submit(read_note()), 200, "ALLOWED")


def test_a_head_without_end_is_cut_off(service):
    pieces = [b"GET /livez HTTP/1.1\r\nHost: x\r\nA: ", *[b"a" * 65536] * 64]

    heard = say(service, *pieces)

    # The server answers and closes while the client still talks; the answer may be lost on the way.
    for status, headers, body in answers(heard):
        assert status == 400
        check_problem(status, headers[b"content-type"].decode(), body)
    envelope(service.submit(read_note()), 200, "ALLOWED")


def test_garbage_behind_a_good_request_does_not_change_its_answer_into_a_token(service):
    body = b'{"action":"note.read","resource":{"type":"note","id":"n1"}}'
    good = request(service, b"Content-Type: application/json", b"Content-Length: %d" % len(body), body=body)

    heard = answers(say(service, good + b"\x00\xffgarbage\r\n\r\n"))

    for status, headers, said in heard:
        assert (status == 200) is (b'"token":"eyJ' in said)
        if status != 200:
            check_problem(status, headers[b"content-type"].decode(), said)
    envelope(service.submit(read_note()), 200, "ALLOWED")


def test_pipelined_requests_are_answered_in_order(service):
    look = request(service, method=b"GET", path=b"/v1/intents/int_1")
    live = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    heard = answers(say(service, live + look + live + look + last, hang_up=False))

    assert [status for status, _, _ in heard] == [200, 404, 200, 404, 404]


def test_a_client_that_hangs_up_in_the_middle_is_no_fault(service):
    look = request(service, method=b"GET", path=b"/v1/intents/int_1")
    live = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    before = len(service.faults())

    for _ in range(10):
        say(service, live + look + live + look)

    envelope(service.submit(read_note()), 200, "ALLOWED")
    assert service.faults()[before:] == []


def test_a_body_shorter_than_it_says_is_no_submission(service):
    body = b'{"action":"note.read","resource":{"type":"note","id":"n1"}}'
    cut = request(service, b"Content-Length: %d" % (len(body) + 10), body=body)

    heard = say(service, cut)

    assert b"eyJ" not in heard
    envelope(service.submit(read_note()), 200, "ALLOWED")


def test_a_body_in_single_bytes_is_one_body(service):
    body = b'{"action":"note.read","resource":{"type":"note","id":"n1"}}'
    head = request(service, b"Content-Length: %d" % len(body), b"Connection: close")

    [(status, _, said)] = answers(say(service, head, *[bytes([byte]) for byte in body], hang_up=False))

    assert (status, b'"token":"eyJ' in said) == (200, True)


def test_a_client_that_asks_for_a_websocket_gets_http(service):
    upgrade = request(
        service,
        b"Connection: Upgrade, close",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: eA==",
        method=b"GET",
        path=b"/livez",
    )

    [(status, _, _)] = answers(say(service, upgrade))

    assert status == 200


def test_the_host_header_decides_nothing(service):
    odd = b"GET /v1/intents/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"

    [(status, headers, body)] = answers(say(service, odd))

    assert status == 404
    assert b"location" not in headers
    check_problem(status, headers[b"content-type"].decode(), body)
