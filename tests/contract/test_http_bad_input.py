"""What is not a request of the contract: always its 4xx, never a token, never a fault, and the next request works."""

from __future__ import annotations

import json

import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import read_note

pytestmark = pytest.mark.integration

GOOD = b'{"action":"note.read","resource":{"type":"note","id":"n1"}}'
WRONG_TYPES = [None, True, 0, 1, -1, 1.5, 1e300, "", "x", [], ["x"], {}, {"x": 1}]


@pytest.fixture(autouse=True)
def _leaves_the_service_well(service):
    before = len(service.faults())
    yield
    envelope(service.submit(read_note()), 200, "ALLOWED")
    assert service.faults()[before:] == []


def with_member(name: str, value: bytes) -> bytes:
    return GOOD[:-1] + b',"%s":%s}' % (name.encode(), value)


def refused(service, body: bytes, **headers: str) -> dict:
    return problem(service.submit(body, **headers), 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{}",
        b"{'action':'x'}",
        b'{"action":}',
        GOOD + b"x",
        GOOD + GOOD,
        GOOD[:-1] + b",}",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD.decode().encode("utf-32"),
        GOOD.replace(b"n1", b"\xff"),
        GOOD.replace(b"n1", b"\xed\xa0\x80"),
        GOOD.replace(b"n1", b"\xc0\x80"),
        GOOD.replace(b"n1", b"\\ud800"),
        GOOD.replace(b"n1", b"\\udc00\\ud800"),
        GOOD.replace(b"n1", b"\\u0000"),
        GOOD.replace(b"n1", b"a\nb"),
        GOOD.replace(b"n1", b"a\\nb"),
        GOOD.replace(b"n1", b"\\x41"),
        GOOD.replace(b'"n1"', b"/*c*/ 1"),
        b"\x00" * 100,
        b"\x1f\x8b\x08\x00",
    ],
)
def test_what_is_no_strict_json_is_refused(service, body):
    refused(service, body)


@pytest.mark.parametrize(
    "number",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e400",
        b"-1e400",
        b"9007199254740992",
        b"1" + b"0" * 30,
        b"01",
        b"+1",
        b"1.",
        b".5",
        b"0x1",
        b"1" * 100_000,
        b"1e999999999",
    ],
)
def test_a_number_that_no_two_readers_agree_on_is_refused(service, number):
    refused(service, with_member("parameters", b'{"n":%s}' % number))
    refused(service, with_member("expires_in", number))


@pytest.mark.parametrize(
    "body",
    [
        GOOD[:-1] + b',"action":"note.read"}',
        GOOD[:-1] + b',"\\u0061ction":"note.read"}',
        b'{"action":"note.read","resource":{"type":"note","id":"n1","id":"n2"}}',
        with_member("parameters", b'{"a":1,"a":1}'),
        with_member("parameters", b'{"a":[{"b":1,"b":2}]}'),
        with_member("context", b'{"reason":"a","reason":"b"}'),
    ],
)
def test_a_member_that_stands_twice_is_refused(service, body):
    refused(service, body)


@pytest.mark.parametrize(
    "name", ["agent", "sub", "intent_id", "token", "risk", "Action", "__proto__", "", "a" * 10_000, "\\u0000"]
)
def test_an_unknown_member_is_refused(service, name):
    refused(service, with_member(name, b'"x"'))
    refused(service, GOOD.replace(b'"id":"n1"', b'"id":"n1","%s":"x"' % name.encode()))
    refused(service, with_member("context", b'{"%s":"x"}' % name.encode()))


def fitting(name: str, value: object) -> bool:
    if name in {"executor", "expires_in", "callback_url"} and value is None:
        return True
    if name == "expires_in":
        return value == 1 and value is not True
    return (
        (name in {"action", "executor", "callback_url"} and value == "x")
        or (name == "parameters" and isinstance(value, dict))
        or (name == "context" and value == {})
        or (name == "queue" and isinstance(value, bool))
    )


@pytest.mark.parametrize(
    "name",
    ["action", "resource", "parameters", "executor", "context", "priority", "queue", "expires_in", "callback_url"],
)
def test_a_member_of_a_wrong_type_is_refused(service, name):
    for value in WRONG_TYPES:
        if not fitting(name, value):
            refused(service, json.dumps({**json.loads(GOOD), name: value}).encode())


@pytest.mark.parametrize("name", ["environment", "reason", "on_behalf_of", "model", "session", "model_tokens"])
def test_a_member_of_the_context_of_a_wrong_type_is_refused(service, name):
    for value in WRONG_TYPES:
        fits = (
            value is None
            or (name == "model_tokens" and value in (0, 1) and not isinstance(value, bool))
            or (name != "model_tokens" and value == "x")
        )
        if not fits:
            refused(service, with_member("context", json.dumps({name: value}).encode()))


def test_a_member_of_the_resource_of_a_wrong_type_is_refused(service):
    for name in ("type", "id"):
        for value in WRONG_TYPES:
            if value != "x":
                resource = {"type": "note", "id": "n1", name: value}
                refused(service, json.dumps({"action": "note.read", "resource": resource}).encode())


@pytest.mark.parametrize(
    "body",
    [
        GOOD.replace(b"note.read", b"a" * 129),
        GOOD.replace(b'"note"', b'"' + b"a" * 65 + b'"'),
        GOOD.replace(b'"note"', b'"no te"'),
        GOOD.replace(b'"note"', b'"../x"'),
        GOOD.replace(b"n1", b"a" * 513),
        with_member("context", b'{"reason":"' + b"a" * 2001 + b'"}'),
        with_member("expires_in", b"0"),
        with_member("expires_in", b"604801"),
        with_member("priority", b'"urgent"'),
        with_member("callback_url", b'"https://example.test/' + b"a" * 2048 + b'"'),
        with_member("parameters", b"{" + b",".join(b'"k%d":1' % n for n in range(1001)) + b"}"),
    ],
)
def test_what_is_too_long_or_out_of_range_is_refused(service, body):
    refused(service, body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [33, 2_000, 100_000 // 5])
def test_deep_nesting_is_refused(service, opening, depth):
    closing = b"]" if opening == b"[" else b"}"
    refused(service, with_member("parameters", b'{"a":' + opening * depth + b"1" + closing * depth + b"}"))
    refused(service, opening * depth)


def chunks(body: bytes):
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


@pytest.mark.parametrize("size", [256 * 1024 + 1, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_bound_is_refused_however_it_is_sent(service, size, chunked):
    body = with_member("parameters", b'{"a":"' + b"x" * (size - len(GOOD) - 25) + b'"}')
    body += b" " * (size - len(body))
    headers = {**service.bearer("agent", "alpha"), "Content-Type": "application/json"}

    answer = service.request("POST", "/v1/intents", content=chunks(body) if chunked else body, headers=headers)

    problem(answer, 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_at_the_bound_is_read(service, chunked):
    body = with_member("parameters", b'{"a":"' + b"x" * (256 * 1024 - len(GOOD) - 23) + b'"}')
    body += b" " * (256 * 1024 - len(body))
    headers = {**service.bearer("agent", "alpha"), "Content-Type": "application/json"}

    answer = service.request("POST", "/v1/intents", content=chunks(body) if chunked else body, headers=headers)

    envelope(answer, 200, "ALLOWED")


def test_as_many_parameters_as_are_read_can_be_recorded(service):
    names = [f"{n:04d}" + "\u00e9" * 100 for n in range(1000)]
    body = json.dumps({**read_note(), "parameters": dict.fromkeys(names, 1)}, ensure_ascii=False).encode()

    envelope(service.submit(body), 200, "ALLOWED")


def test_a_name_that_no_table_holds_denies_its_own_intent_and_stops_nobody(service):
    """One agent's text must not trip the breaker of the log for all."""
    odd = {"action": "note.write", "resource": {"type": "note", "id": "n1"}, "parameters": {"text": "a", "\x00": 1}}

    for _ in range(6):
        envelope(service.submit(odd), 403, "PARAMETERS_INVALID")

    assert service.ready()


@pytest.mark.parametrize(
    "text",
    ["\u2028\u2029", "\ufeff", "\ufffe\uffff", "\U0010ffff", "a\u0300" * 200, "\u202egnp", "%s%n{0}", "'; --", "\\"],
)
def test_odd_text_is_text(service, text):
    intent = {**read_note(text), "parameters": {text: text, "a": [text, {text: [text]}]}, "context": {"reason": text}}

    envelope(service.submit(intent), 200, "ALLOWED")


# --- who is calling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/intents"),
        ("GET", "/v1/intents/int_1"),
        ("DELETE", "/v1/intents/int_1"),
        ("POST", "/v1/intents/int_1/claim"),
        ("POST", "/v1/tokens/consume"),
        ("POST", "/v1/tokens/jti_1/outcome"),
        ("GET", "/v1/operator/queue"),
        ("GET", "/v1/operator/queue/int_1"),
        ("POST", "/v1/operator/queue/int_1/approve"),
        ("POST", "/v1/operator/queue/bulk"),
    ],
)
def test_without_its_own_kind_of_credential_every_route_is_closed(service, method, path):
    kind = "executor" if "tokens" in path else "operator" if "operator" in path else "agent"
    right = service.key(kind, {"agent": "alpha", "executor": "notes-api", "operator": ""}[kind])
    others = [service.key("agent", "alpha"), service.key("executor", "notes-api"), service.key("operator", "")]
    wrong = [
        *(f"Bearer {key}" for key in others if key != right),
        *("", "Bearer", f"Basic {right}", right, f"Bearer  {right}", f"Bearer {right}x"),
        *(f"Bearer {right[:-1]}", f"Bearer {right[:-1]}{'A' if right[-1] != 'A' else 'B'}", "Bearer " + "a" * 20_000),
        *(f"Bearer {right},Bearer {right}", f"Bearer {right[:4]}", f"Bearer {right.upper()}"),
    ]
    for value in wrong:
        answer = service.request(method, path, json=read_note(), headers={"Authorization": value})
        problem(answer, 401, "UNAUTHENTICATED")
    for headers in ([], [("Authorization", f"Bearer {right}")] * 2):
        problem(service.request(method, path, json=read_note(), headers=headers), 401, "UNAUTHENTICATED")


def test_a_credential_in_the_query_is_no_credential(service):
    key = service.key("agent", "alpha")

    problem(service.get(f"/v1/intents/int_1?access_token={key}"), 401, "UNAUTHENTICATED")


def test_the_scheme_is_read_in_any_case(service):
    headers = {"Authorization": f"bEARER {service.key('agent', 'alpha')}"}

    envelope(service.request("POST", "/v1/intents", json=read_note(), headers=headers), 200, "ALLOWED")


def test_a_refusal_never_repeats_the_credential(service):
    key = service.key("executor", "notes-api")

    answer = service.request("POST", "/v1/intents", json=read_note(), headers={"Authorization": f"Bearer {key}"})

    assert key not in answer.text
    assert key not in service.log("api")
