"""Strict JSON: one reading, or an error."""

import json

import pytest
import rfc8785
from holdfast import strict_json
from holdfast.errors import MalformedJSON
from hypothesis import given
from hypothesis import strategies as st

text = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-strict_json.MAX_INTEGER, strict_json.MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not 2**53 <= abs(number) < 1e21)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_can_be_said_is_read_as_it_was_said(value):
    assert strict_json.loads(json.dumps(value).encode()) == value


@given(values)
def test_what_is_read_has_a_canonical_form_that_reads_the_same(value):
    read = strict_json.loads(json.dumps(value).encode())

    canonical = rfc8785.dumps(read)

    assert rfc8785.dumps(strict_json.loads(canonical)) == canonical


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_its_canonical_form(number):
    assert float(rfc8785.dumps(number)) == number


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else_happens(data):
    try:
        strict_json.loads(data)
    except MalformedJSON:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{} {}",
        b"{}x",
        b"nul",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"[NaN]",
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"o":{"a":1,"b":2,"a":3}}',
        b"9007199254740992",
        b"-9007199254740992",
        b"1" * 5000,
        b"1e400",
        b"9007199254740992.0",
        b"-1e20",
        b"-1e400",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b"0x10",
        b"'a'",
        b"{a:1}",
        b"[1,]",
        b'{"a":1,}',
        b"/* */1",
        b'"\t"',
        b'"\\x41"',
        b'"\\ud800"',
        b'{"\\udc00":1}',
        b'["\\ud83d\\ud83d"]',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"[" * 33 + b"]" * 33,
        b'{"a":' * 33 + b"1" + b"}" * 33,
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(data):
    with pytest.raises(MalformedJSON):
        strict_json.loads(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"9007199254740991", 9007199254740991),
        (b"-9007199254740991", -9007199254740991),
        (b"-0", 0),
        (b"9007199254740991.0", 9007199254740991),
        (b"1e21", 1e21),
        (b'"\\ud83d\\ude00"', "😀"),
        (b" [1] ", [1]),
        (b'{"a":{"a":1},"b":{"a":1}}', {"a": {"a": 1}, "b": {"a": 1}}),
        (b'"' + b"[" * 100 + b'"', "[" * 100),
        (b'["' + b'\\"[' * 50 + b'"]', ['"[' * 50]),
        (b"[" + b"[]," * 100 + b"1]", [[]] * 100 + [1]),
    ],
)
def test_what_is_unusual_but_clear_is_read(data, value):
    assert strict_json.loads(data) == value


def test_the_depth_limit_is_exact():
    assert strict_json.loads(b"[" * 32 + b"]" * 32)
    assert strict_json.loads(b"[[]]", max_depth=2) == [[]]
    with pytest.raises(MalformedJSON, match="deeper than 2"):
        strict_json.loads(b"[[[]]]", max_depth=2)


def test_nesting_beyond_the_parser_s_own_recursion_is_an_ordinary_refusal():
    with pytest.raises(MalformedJSON, match="nesting"):
        strict_json.loads(b"[" * 200_000)


@pytest.mark.parametrize("filling", [b'\\"', b"\\\\", b"a", b'\\"['])
def test_a_string_without_an_end_is_scanned_once(filling):
    """Scanned once for every escaped quote, this body would keep the process busy for minutes."""
    data = b"[" + b"[]," * 40 + b'"' + filling * 100_000

    with pytest.raises(MalformedJSON):
        strict_json.loads(data)
    assert sum(1 for _ in strict_json._BRACKETS.finditer(data)) == 1 + 2 * 40 + 1


def test_a_repeated_member_is_named_without_control_characters():
    with pytest.raises(MalformedJSON) as caught:
        strict_json.loads(b'{"a\\n\\u00e9":1,"a\\n\\u00e9":2}')

    assert str(caught.value) == "the member `a\\n\\xe9` stands twice"
