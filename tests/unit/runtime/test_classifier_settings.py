"""What a process accepts as the address of a classifier."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.settings import Settings


def settings(tmp_path, **changes):
    return Settings(
        database_url="postgresql://",
        broker_url="redis://",
        signer_socket=tmp_path / "s",
        policies=tmp_path,
        data_dir=tmp_path,
        issuer="https://holdfast.example",
        instance="api",
        **changes,
    )


def test_without_one_the_catalogue_classifies_alone(tmp_path):
    assert settings(tmp_path).classifier_url is None


@pytest.mark.parametrize(
    "url",
    [
        "https://classifier.example/v1/classify",
        "https://classifier.example:8443/",
        "http://127.0.0.1:9000/",
        "http://localhost:9000/",
        "http://[::1]:9000/",
    ],
)
def test_https_or_this_very_machine(tmp_path, url):
    assert settings(tmp_path, classifier_url=url).classifier_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "classifier.example",
        "http://classifier.example/",
        "http://127.0.0.1.example/",
        "http://10.0.0.7/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@classifier.example/",
        "https://classifier.example/#x",
        "https://[half/",
    ],
)
def test_anything_else_stops_the_start(tmp_path, url):
    with pytest.raises(ValidationError):
        settings(tmp_path, classifier_url=url)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, "nan", "inf", "high"])
def test_the_floor_is_between_0_and_1(tmp_path, confidence):
    with pytest.raises(ValidationError):
        settings(tmp_path, classifier_min_confidence=confidence)


def test_the_token_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CLASSIFIER_TOKEN", "tell-nobody")
    read = settings(tmp_path)

    assert read.classifier_token.get_secret_value() == "tell-nobody"
    assert "tell-nobody" not in f"{read!r} {read.model_dump_json()}"


def test_an_empty_token_is_a_mistake(tmp_path):
    with pytest.raises(ValidationError):
        settings(tmp_path, classifier_token="")
