"""What the signer is willing to sign."""

from dataclasses import replace

import pytest
from holdfast.reasons import Mode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signer.profile import InvalidProfile, Profile, ProfileViolation

DOCUMENT = {
    "issuer": "https://holdfast.example",
    "audiences": {"payments-api": 60, "deploy": 30},
    "max_lifetime_s": 900,
    "preauthorized": {"payments-api": 600},
    "modes": ["break_glass", "normal"],
}


def test_sound_claims_pass(profile, make_claims, now):
    profile.check(make_claims(), now=now)
    profile.check(make_claims(mode="break_glass", brk="brk_1", obo="user:zoë", cnf_jkt="j" * 43), now=now)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": "https://holdfast.example/"},
        {"aud": "payments"},
        {"aud": "PAYMENTS-API"},
        {"mode": "operator"},
        {"mode": "fail_open"},
        {"txn": "bat_1"},
        {"txn": "int_"},
        {"txn": "int_1\n"},
        {"txn": "int_" + "a" * 61},
        {"pol": "sha-256:" + "ab" * 32},
        {"pol": ""},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "a" * 513},
        {"env": "\x00"},
        {"action": "a\x7f"},
        {"category": "\r"},
        {"obo": ""},
        {"bid": "\t"},
        {"brk": "\n"},
        {"apr": ""},
        {"cnf_jkt": "j" * 42},
        {"cnf_jkt": "j" * 42 + "="},
    ],
)
def test_claims_outside_the_profile_are_refused(profile, make_claims, now, changes):
    with pytest.raises(ProfileViolation):
        profile.check(make_claims(**changes), now=now)


@pytest.mark.parametrize(
    ("changes", "seconds", "allowed"),
    [
        ({}, 1, True),
        ({}, 60, True),
        ({}, 61, False),
        ({}, 0, False),
        ({}, -1, False),
        ({"aud": "deploy"}, 30, True),
        ({"aud": "deploy"}, 31, False),
        ({"bid": "bat_1"}, 600, True),
        ({"bid": "bat_1"}, 601, False),
        ({"aud": "deploy", "bid": "bat_1"}, 30, True),
        ({"aud": "deploy", "bid": "bat_1"}, 31, False),
    ],
)
def test_each_audience_has_its_own_longest_life(profile, make_claims, now, changes, seconds, allowed):
    claims = make_claims(exp=now + seconds, **changes)
    if allowed:
        profile.check(claims, now=now)
        return
    with pytest.raises(ProfileViolation):
        profile.check(claims, now=now)


def test_the_profile_s_own_cap_is_above_every_audience_s(profile, make_claims, now):
    tight = replace(profile, max_lifetime_s=20)

    tight.check(make_claims(exp=now + 20), now=now)
    for claims in (make_claims(exp=now + 21), make_claims(exp=now + 21, bid="bat_1")):
        with pytest.raises(ProfileViolation):
            tight.check(claims, now=now)


@pytest.mark.parametrize(("ahead_s", "allowed"), [(0, True), (5, True), (6, False), (3600, False)])
def test_no_token_is_minted_for_the_future(profile, make_claims, now, ahead_s, allowed):
    """A service that was taken over for a minute must not stock up on tokens for tomorrow."""
    claims = make_claims(iat=now + ahead_s, nbf=now + ahead_s, exp=now + ahead_s + 60)
    for repeat in (False, True):
        if allowed:
            profile.check(claims, now=now, repeat=repeat)
            continue
        with pytest.raises(ProfileViolation):
            profile.check(claims, now=now, repeat=repeat)


@pytest.mark.parametrize(
    ("ago_s", "first_time", "repeated"), [(5, True, True), (6, False, True), (59, False, True), (60, False, False)]
)
def test_only_a_repeated_payload_may_be_old(profile, make_claims, now, ago_s, first_time, repeated):
    for repeat, allowed in ((False, first_time), (True, repeated)):
        if allowed:
            profile.check(make_claims(), now=now + ago_s, repeat=repeat)
            continue
        with pytest.raises(ProfileViolation):
            profile.check(make_claims(), now=now + ago_s, repeat=repeat)


@pytest.mark.parametrize("now_s", [float("nan"), float("inf"), float("-inf")])
def test_a_clock_that_is_no_clock_signs_nothing(profile, make_claims, now_s):
    for repeat in (False, True):
        with pytest.raises(ProfileViolation):
            profile.check(make_claims(), now=now_s, repeat=repeat)


@pytest.mark.parametrize(("nbf", "allowed"), [(-1, False), (0, True), (59, True), (60, False)])
def test_a_token_begins_between_its_making_and_its_end(profile, make_claims, now, nbf, allowed):
    claims = make_claims(nbf=now + nbf)
    if allowed:
        profile.check(claims, now=now)
        return
    with pytest.raises(ProfileViolation):
        profile.check(claims, now=now)


@given(iat=st.integers(-100, 100), nbf=st.integers(-100, 200), exp=st.integers(-100, 1000), repeat=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_passes_is_short_and_from_now(profile, make_claims, now, iat, nbf, exp, repeat):
    claims = make_claims(iat=now + iat, nbf=now + nbf, exp=now + exp)
    try:
        profile.check(claims, now=now, repeat=repeat)
    except ProfileViolation:
        return
    assert exp - iat <= 60
    assert iat <= nbf < exp
    assert exp > 0
    assert iat <= 5
    assert repeat or iat >= -5


# --- the profile itself -----------------------------------------------------------------------------------------------


def test_a_profile_is_read_and_written_unchanged(profile):
    assert Profile.read(DOCUMENT) == profile
    assert profile.to_json() == DOCUMENT


def test_the_defaults_are_the_narrow_ones():
    read = Profile.read({"issuer": "i", "audiences": {"e": 60}})

    assert read.max_lifetime_s == 60
    assert read.modes == {Mode.NORMAL}
    assert read.preauthorized == {}


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": None},
        {"issuer": ""},
        {"issuer": 1},
        {"issuer": "a\nb"},
        {"audiences": None},
        {"audiences": {}},
        {"audiences": []},
        {"audiences": ["payments-api"]},
        {"audiences": {"payments-api": 0}},
        {"audiences": {"payments-api": -1}},
        {"audiences": {"payments-api": 3601}},
        {"audiences": {"payments-api": 60.0}},
        {"audiences": {"payments-api": "60"}},
        {"audiences": {"payments-api": True}},
        {"audiences": {"payments-api": None}},
        {"audiences": {"": 60}},
        {"max_lifetime_s": 0},
        {"max_lifetime_s": 3601},
        {"max_lifetime_s": True},
        {"max_lifetime_s": 60.0},
        {"max_lifetime_s": None},
        {"preauthorized": {"unknown": 60}},
        {"preauthorized": {"payments-api": 0}},
        {"preauthorized": None},
        {"modes": []},
        {"modes": None},
        {"modes": "normal"},
        {"modes": ["NORMAL"]},
        {"modes": [1]},
        {"allow_anything": True},
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(change):
    with pytest.raises(InvalidProfile):
        Profile.read(DOCUMENT | change)


@pytest.mark.parametrize("missing", ["issuer", "audiences"])
def test_an_issuer_and_an_audience_are_required(missing):
    with pytest.raises(InvalidProfile, match=missing):
        Profile.read({name: value for name, value in DOCUMENT.items() if name != missing})


@pytest.mark.parametrize("document", [None, [], "x", 1, True, {}])
def test_what_is_not_an_object_is_not_a_profile(document):
    with pytest.raises(InvalidProfile):
        Profile.read(document)


def test_the_constructor_refuses_as_the_reader_does():
    for change in ({"audiences": {}}, {"max_lifetime_s": 0}, {"modes": frozenset()}, {"max_lifetime_s": True}):
        with pytest.raises(InvalidProfile):
            Profile(**({"issuer": "i", "audiences": {"e": 60}} | change))


def test_a_profile_cannot_be_widened_afterwards(profile):
    audiences = {"e": 1}
    made = Profile(issuer="i", audiences=audiences)
    audiences["f"] = 3600

    assert made.audiences == {"e": 1}
    with pytest.raises(TypeError):
        profile.audiences["f"] = 3600
