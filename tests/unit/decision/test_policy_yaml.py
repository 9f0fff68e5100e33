"""One reading of YAML, or a refusal with its line."""

from __future__ import annotations

import pytest

from services.decision.finding import BundleInvalid
from services.decision.rules import read_rules
from services.decision.strict_yaml import MAX_DEPTH, compose


def refusal(data: bytes | str) -> str:
    with pytest.raises(BundleInvalid) as refused:
        compose("f.yaml", data if isinstance(data, bytes) else data.encode())
    return str(refused.value.findings[0])


@pytest.mark.parametrize(
    "word", ["yes", "no", "on", "off", "No", "ON", "017", "1_000", "12:30", "1e3", "0o17", "089", "0x1F", "=", "<<"]
)
def test_a_scalar_that_two_versions_of_yaml_read_differently_is_refused(word):
    assert refusal(f"a: 1\nkey: {word}\n").startswith(f"f.yaml:2: `{word}` is not the same to every reader")


@pytest.mark.parametrize("word", ["yes", "no", "017", "12:30", "null", "true", "1"])
def test_quotes_make_any_scalar_text(word):
    assert compose("f.yaml", f'key: "{word}"'.encode()).plain() == {"key": word}


def test_what_both_versions_agree_on_is_read():
    text = b"a: 1\nb: -2\nc: true\nd: False\ne: 1.5\nf: text\ng: ~\nh: 2026-11-20T10:00:00Z\ni: 1.42.0\n"
    assert compose("f.yaml", text).plain() == {
        "a": 1,
        "b": -2,
        "c": True,
        "d": False,
        "e": 1.5,
        "f": "text",
        "g": None,
        "h": "2026-11-20T10:00:00Z",
        "i": "1.42.0",
    }


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3", "stands twice"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2", "one YAML document"),
        ("a: !!str 1\n", "f.yaml:1", "tags are not supported"),
        ("a: !!python/object:os.system x\n", "f.yaml:1", "tags are not supported"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", "f.yaml:1", "directives"),
        ("a:\n\t- 1\n", "f.yaml:2", "not YAML"),
        ("a: [1, 2\n", "f.yaml:2", "not YAML"),
        ("a: *nowhere\n", "f.yaml:1", "not defined"),
        ("a: &a [*a]\n", "f.yaml:1", "not defined"),
        ("5: x\n", "f.yaml:1", "must be a string"),
        ("[a]: x\n", "f.yaml:1", "must be a string"),
        ("a: 99999999999999999999\n", "f.yaml:1", "beyond 64 bits"),
        ("", "f.yaml:1", "empty"),
        ("# nothing but words\n", "f.yaml:1", "empty"),
    ],
)
def test_malformed_yaml_is_refused_with_its_line(text, place, words):
    message = refusal(text)
    assert message.startswith(f"{place}: ")
    assert words in message


def test_a_file_that_is_not_utf_8_is_refused_with_the_line_of_the_byte():
    assert refusal(b"a: 1\nb: caf\xe9\n") == "f.yaml:2: the file is not UTF-8"


def test_a_byte_order_mark_is_refused():
    assert "byte order mark" in refusal(b"\xef\xbb\xbfa: 1")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a:\t1\n", 1, 3),
        ("a: 1\t\n", 1, 5),
        ("a: [1,\t2]\n", 1, 7),
        ("a: 1\t# words\n", 1, 5),
        ("é: {b:\t1}\n", 1, 7),
    ],
)
def test_a_tab_between_tokens_is_refused_with_its_place(text, line, column):
    with pytest.raises(BundleInvalid) as refused:
        compose("f.yaml", text.encode())
    found = refused.value.findings[0]
    assert (found.line, found.column, found.message) == (
        line,
        column,
        "a tab stands where only spaces may: write spaces",
    )


def test_a_tab_as_indent_is_called_by_its_name():
    assert refusal("a:\n\tb: 1\n") == "f.yaml:2: not YAML: a tab stands where only spaces may: write spaces"


@pytest.mark.parametrize("text", ["a: 1 # c\td\n", "# z\t\na: 1\n", "a: |\n  1\t2\n", 'a: "x\ty"\n', "a: x\ty\n"])
def test_a_tab_inside_words_is_a_tab(text):
    compose("f.yaml", text.encode())


@pytest.mark.parametrize("character", ["\u0085", "\u2028", "\u2029", "\u202e", "\u2066"])
def test_what_reads_otherwise_than_it_looks_is_refused_in_yaml_and_in_cedar(character):
    """A line that begins for one reader and not for another hides a rule, or shows one that is none."""
    message = f"U+{ord(character):04X} reads otherwise than it looks: write it as an escape, or leave it out"
    assert refusal(f"a: 1\nb: 2 # {character}c: 3\n") == f"f.yaml:2: {message}"
    with pytest.raises(BundleInvalid, match=f"r.cedar:1: U\\+{ord(character):04X}"):
        read_rules("r.cedar", f'// {character}\n@id("x") permit (principal, action, resource);'.encode())


def test_a_control_character_is_refused():
    assert "not YAML" in refusal(b"a: x\x00y")


def test_deep_nesting_is_refused():
    assert "nesting is deeper" in refusal("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))


def test_anchors_that_expand_beyond_a_megabyte_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 8)]
    assert "expand beyond 1000000" in refusal("\n".join(lines))


def test_a_small_anchor_and_a_merge_are_read():
    text = b"base: &base {x: 1, y: 2}\nuse: {<<: *base, y: 3}\nagain: *base\n"
    assert compose("f.yaml", text).plain() == {
        "base": {"x": 1, "y": 2},
        "use": {"x": 1, "y": 3},
        "again": {"x": 1, "y": 2},
    }


def test_every_finding_of_a_file_is_reported():
    with pytest.raises(BundleInvalid) as refused:
        compose("f.yaml", b"a: no\nb: 017\nb: 1\n")
    assert [found.line for found in refused.value.findings] == [1, 2, 3]
