"""The file that says who is told: refused with the place of what is wrong, and never with a secret."""

from __future__ import annotations

import pytest

from services.notices.configuration import ConfigurationInvalid, read
from services.notices.notice import Kind, Severity

GOOD = "channels:\n  - name: ops\n    type: webhook\n    url: https://ops.example/hook\n"


def given(tmp_path, text, **environment):
    path = tmp_path / "notify.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return read(path, default_key_file=tmp_path / "webhook.key", environment=environment, source="holdfast")


def channel(*lines):
    return "channels:\n  - name: ops\n" + "".join(f"    {line}\n" for line in lines)


def test_no_file_is_no_channel(tmp_path):
    found = read(None, default_key_file=tmp_path / "k", environment={}, source="holdfast")
    assert found.channels == ()
    assert (found.incidents.open_after_s, found.incidents.stable_s) == (3, 60)
    assert not (tmp_path / "k").exists()


def test_a_channel_hears_warnings_and_worse_of_every_kind(tmp_path):
    (one,) = given(tmp_path, GOOD).channels
    assert (one.name, one.min_severity, one.kinds) == ("ops", Severity.WARNING, None)


def test_a_channel_hears_what_it_asked_for(tmp_path):
    text = GOOD + "    min_severity: critical\n    kinds: [halt.set, break_glass.used]\n"
    (one,) = given(tmp_path, text + "incidents: {open_after_s: 5, stable_s: 120}\n").channels
    assert one.min_severity is Severity.CRITICAL
    assert one.kinds == {Kind.HALT_SET, Kind.BREAK_GLASS_USED}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", ""),
        ("channels: []\n", "1:1", "no channel"),
        ("chanels: []\n", "1:1", "unknown field `chanels`"),
        ("channels: [\n", "2:1", ""),
        (GOOD + "    colour: red\n", "5:5", "unknown field `colour`"),
        (GOOD + "    url: https://twice.example/\n", "5:5", ""),
        (GOOD + "    kinds: [incident.imploded]\n", "5:13", ""),
        (GOOD + "    kinds: []\n", "2:5", "`kinds` must not be empty"),
        (GOOD + "    min_severity: loud\n", "5:5", "`min_severity` must be"),
        (GOOD + GOOD.removeprefix("channels:\n"), "1:1", "two channels are named `ops`"),
        (GOOD + "incidents: {stable_s: 0}\n", "5:13", "at least 1"),
        (channel("type: pigeon"), "2:5", ""),
        (channel("type: webhook"), "2:5", "give exactly one of `url`, `url_env` or `url_file`"),
        (channel("type: slack", "url: https://hooks.example/s3cret"), "4:5", "unknown field `url`"),
        (channel("type: slack", "url_env: A", "url_file: b"), "2:5", "give exactly one of `url_env` or `url_file`"),
        (channel("type: slack", "url_env: UNSET"), "4:5", "the environment variable `UNSET` is not set"),
        (channel("type: slack", "url_file: none"), "4:5", "the secret cannot be read"),
        (channel("type: slack", "url_env: FTP"), "2:5", "is not an `https://` URL"),
        (channel("type: slack", "url_env: LINES"), "4:5", "the secret is empty, or not one line"),
        (channel("type: slack", "url_env: PLAIN"), "2:5", "http to another network needs `allow_http: true`"),
        (channel("type: slack", "url_env: USER"), "2:5", "holds a user"),
        (channel("type: pagerduty"), "2:5", "give exactly one of `routing_key_env` or `routing_key_file`"),
        (channel("type: webhook", "url: http://ops.example/"), "4:5", "http to another network"),
        (channel("type: webhook", "url: https://"), "4:5", ""),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_place(tmp_path, text, place, words):
    environment = {
        "FTP": "ftp://s3cret.example/",
        "LINES": "https://s3cret\nexample/",
        "PLAIN": "http://s3cret.example/",
        "USER": "https://me:s3cret@hooks.example/",
    }
    with pytest.raises(ConfigurationInvalid) as refused:
        given(tmp_path, text, **environment)
    first = str(refused.value).splitlines()[0]
    assert first.startswith(f"{tmp_path}/notify.yaml:{place}: "), first
    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.9:9093", "[fd00::1]"])
def test_http_is_good_enough_inside(tmp_path, host):
    assert given(tmp_path, channel("type: alertmanager", f"url: http://{host}")).channels


def test_http_elsewhere_has_to_be_asked_for(tmp_path):
    assert given(tmp_path, channel("type: alertmanager", "url: http://alertmanager:9093", "allow_http: true")).channels


def test_a_file_that_others_may_change_is_refused(tmp_path):
    path = tmp_path / "notify.yaml"
    path.write_text(GOOD)
    path.chmod(0o666)
    with pytest.raises(ConfigurationInvalid, match="mode 0666"):
        read(path, default_key_file=tmp_path / "k", environment={}, source="holdfast")


def test_a_key_file_that_others_may_read_is_refused(tmp_path):
    given(tmp_path, GOOD)
    (tmp_path / "webhook.key").chmod(0o644)
    with pytest.raises(ConfigurationInvalid, match="mode 0644"):
        given(tmp_path, GOOD)


def test_another_address_is_told_from_the_one_before(tmp_path):
    (before,), (after,) = (given(tmp_path, GOOD.replace("ops.example", h)).channels for h in ("a.example", "b.example"))
    assert before.address != after.address
    assert "example" not in before.address
