"""Frames."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer import wire
from signer.wire import FrameReader, MalformedFrame

documents = st.lists(
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(-9, 9), max_size=3), max_size=6
)


def raw(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@given(documents, st.data())
def test_frames_read_the_same_however_the_stream_is_cut(sent, data):
    stream = b"".join(wire.frame(document) for document in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, received = FrameReader(), []

    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])

    assert received == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_malformed_and_nothing_else(data):
    try:
        list(FrameReader().feed(data))
    except MalformedFrame:
        return


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00\x00\x00",
        (64 * 1024 + 1).to_bytes(4, "big"),
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n",
        raw(b"{"),
        raw(b"[]"),
        raw(b"null"),
        raw(b'{"a":1,"a":2}'),
        raw(b'{"a":NaN}'),
        raw(b'{"a":9007199254740992}'),
        raw(b'{"a":' * 9 + b"1" + b"}" * 9),
        raw(b'{"a":"\xff"}'),
        raw(b"{}x"),
    ],
)
def test_what_is_no_frame_ends_the_stream(stream):
    with pytest.raises(MalformedFrame):
        list(FrameReader().feed(stream))


def test_an_impossible_length_is_refused_before_its_body_comes():
    with pytest.raises(MalformedFrame, match="65537"):
        list(FrameReader().feed((64 * 1024 + 1).to_bytes(4, "big")))


def test_the_largest_frame_goes_through_and_the_next_does_not():
    overhead = len(json.dumps({"x": ""}, separators=(",", ":")))
    largest = {"x": "a" * (wire.MAX_FRAME_BYTES - overhead)}

    assert list(FrameReader().feed(wire.frame(largest))) == [largest]
    with pytest.raises(ValueError, match="65537 bytes"):
        wire.frame({"x": largest["x"] + "a"})


@pytest.mark.parametrize("number", [None, -1, 1.0, "1", True, [], {}])
def test_an_id_is_a_number(number):
    with pytest.raises(MalformedFrame):
        wire.request_id({"id": number})
    with pytest.raises(MalformedFrame):
        wire.request_id({})


def test_a_canary_can_never_be_a_token():
    """A JWS signing input is base64url and one full stop."""
    message = wire.canary_message("0" * 32)

    assert b"\n" in message
    assert message.startswith(b"holdfast-signer-canary/v1\n")


@pytest.mark.parametrize("text", ["A", "*A", "AA*", "é", "AA\n"])
def test_a_signature_is_clean_base64url(text):
    with pytest.raises(ValueError):  # noqa: PT011 - which check of the decoder refuses is not the point
        wire.read_signature(text)
