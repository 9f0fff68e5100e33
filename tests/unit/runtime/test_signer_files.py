"""What the signer of an embedded deployment is given."""

import json

import pytest

from console.runtime.failure import CommandFailed
from console.runtime.profile import SignerFiles, signer_profile
from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from signer.profile import Profile

CATALOG = b"""
version: 1
categories:
  infra.restart: {description: Restart, impact: high, effect: external, reversible: true}
executors:
  payments-api: {description: Payments, max_token_seconds: 30}
  kb-api: {description: Knowledge, max_token_seconds: 90}
actions:
  service.restart: {category: infra.restart, executor: [payments-api, kb-api], resource: service}
"""
BREAK_GLASS = b"""
version: 1
break_glass:
  - {name: incident, categories: [infra.restart], agents: ["sre-*"], environments: [production], people: 2,
     max_minutes: 30, max_uses: 20}
"""


def a_policy(**files):
    return Policy.compile(read_bundle({"catalog.yaml": CATALOG, **files}))


def test_the_signer_accepts_the_profile_and_signs_no_longer_than_the_catalogue_says():
    profile = Profile.read(signer_profile(a_policy(), issuer="http://127.0.0.1:8420"))

    assert profile.issuer == "http://127.0.0.1:8420"
    assert dict(profile.audiences) == {"payments-api": 30, "kb-api": 90}
    assert profile.max_lifetime_s == 90
    assert dict(profile.preauthorized) == {}
    assert {mode.value for mode in profile.modes} == {"normal", "operator", "fail_open"}


def test_break_glass_is_signed_only_where_the_bundle_has_a_policy_for_it():
    profile = Profile.read(signer_profile(a_policy(**{"holdfast.yaml": BREAK_GLASS}), issuer="http://127.0.0.1:8420"))

    assert "break_glass" in {mode.value for mode in profile.modes}


def test_the_profile_is_renewed_and_the_passphrase_kept(tmp_path):
    files = SignerFiles(tmp_path)
    files.write(a_policy(), issuer="http://one")
    passphrase = files.passphrase.read_text()

    files.write(a_policy(), issuer="http://two")

    assert json.loads(files.profile.read_text())["issuer"] == "http://two"
    assert files.passphrase.read_text() == passphrase


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(CommandFailed, match="missing"):
        SignerFiles(tmp_path / "missing").write(a_policy(), issuer="http://one")
