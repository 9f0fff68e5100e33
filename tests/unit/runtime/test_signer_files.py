"""What the signer of an embedded deployment is given."""

import json

import pytest

from console.runtime.failure import CommandFailed
from console.runtime.profile import SignerFiles, signer_profile
from services.decision.catalog import Executor
from signer.profile import Profile

EXECUTORS = {"payments-api": Executor(max_token_seconds=30), "kb-api": Executor(max_token_seconds=90)}


def test_the_signer_accepts_the_profile_and_signs_no_longer_than_the_catalogue_says():
    profile = Profile.read(signer_profile(EXECUTORS, issuer="http://127.0.0.1:8420"))

    assert profile.issuer == "http://127.0.0.1:8420"
    assert dict(profile.audiences) == {"payments-api": 30, "kb-api": 90}
    assert profile.max_lifetime_s == 90
    assert dict(profile.preauthorized) == {}
    assert {mode.value for mode in profile.modes} == {"normal"}


def test_a_signer_for_nobody_is_refused():
    with pytest.raises(CommandFailed, match="no executor"):
        signer_profile({}, issuer="http://127.0.0.1:8420")


def test_the_profile_is_renewed_and_the_passphrase_kept(tmp_path):
    files = SignerFiles(tmp_path)
    files.write(EXECUTORS, issuer="http://one")
    passphrase = files.passphrase.read_text()

    files.write(EXECUTORS, issuer="http://two")

    assert json.loads(files.profile.read_text())["issuer"] == "http://two"
    assert files.passphrase.read_text() == passphrase


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CommandFailed, match="missing"):
        SignerFiles(tmp_path / "missing").write(EXECUTORS, issuer="http://one")
