"""One key, one profile and sound claims for the signer's unit tests."""

import pytest
from holdfast.reasons import Mode
from holdfast.token import Claims

from signer.keyfile import SigningKey
from signer.profile import Profile

NOW = 1_767_225_600


@pytest.fixture
def now():
    return NOW


@pytest.fixture
def key():
    return SigningKey.from_seed(bytes(range(32)))


@pytest.fixture
def profile():
    return Profile(
        issuer="https://holdfast.example",
        audiences={"payments-api": 60, "deploy": 30},
        preauthorized={"payments-api": 600},
        max_lifetime_s=900,
        modes=frozenset({Mode.NORMAL, Mode.BREAK_GLASS}),
    )


@pytest.fixture
def make_claims():
    def make(**changes):
        sound = {
            "iss": "https://holdfast.example",
            "aud": "payments-api",
            "sub": "support-bot",
            "txn": "int_01k9zv5c4yq8m3n7r2t6w0x1za",
            "jti": "jti_" + "0a" * 16,
            "iat": NOW,
            "nbf": NOW,
            "exp": NOW + 60,
            "env": "production",
            "action": "payments.refund.create",
            "act_hash": "sha-256:" + "A" * 43,
            "category": "finance.refund",
            "risk": 42,
            "mode": "normal",
            "pol": "sha256:" + "ab" * 32,
            "rcp": "str_01k9zv5c4yq8m3n7r2t6w0x1zb:7:" + "0f" * 32,
        }
        return Claims(**(sound | changes))

    return make
