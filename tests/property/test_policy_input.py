"""Whatever is sent, as a file or as an intent, the answer is a value or a refusal, never a yes by accident."""

# ruff: noqa: E501 - the alphabets of the generators are lines

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import yaml
from holdfast.intent import Intent, Resource
from hypothesis import given, settings
from hypothesis import strategies as st

from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid
from services.decision.policy import Classified, Policy, Request, Signals
from services.decision.risk import Tier
from services.decision.strict_yaml import compose
from services.decision.verdict import Allow, Deny, Hold, Unavailable
from services.policy_files import read_directory

FILES = read_directory(Path(__file__).parents[2] / "policies")
POLICY = Policy.compile(read_bundle(FILES))
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ORDER = list(Tier)

scraps = st.sampled_from(
    ["a", "b", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ", ", "&x ", "*x", "<<", "no", "1", "0x1", "1.5", "'", '"', "#", "|", "~", "!!str ", "---\n", "\t", "é", "?"]
)  # fmt: skip


class PlainReader(yaml.CSafeLoader):
    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


@settings(max_examples=400)
@given(st.binary(max_size=60) | st.lists(scraps, max_size=25).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_a_tree_or_a_refusal(data):
    try:
        tree = compose("f.yaml", data)
    except BundleInvalid:
        return
    # What is accepted is what a plain reader of YAML 1.1 reads, apart from times, which stay text here.
    expected = yaml.load(data, Loader=PlainReader)
    got = tree.plain()
    assert got == expected or (isinstance(got, float) and math.isnan(got))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.integers(0, 2000),
    st.integers(0, 12),
    st.binary(max_size=6) | scraps.map(str.encode),
)
def test_a_damaged_bundle_is_accepted_or_refused_and_nothing_else(path, start, length, insert):
    data = FILES[path]
    start %= len(data) + 1
    damaged = {**FILES, path: data[:start] + insert + data[start + length :]}
    try:
        Policy.compile(read_bundle(damaged))
    except BundleInvalid:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["__extn", "__entity", "fn", "arg", "type", "id"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
refund_parameters = st.fixed_dictionaries(
    {},
    optional={
        "amount_cents": json_values | st.integers(1, 60_000),
        "currency": json_values | st.just("EUR"),
        "note": json_values,
        "extra": json_values,
    },
)


@settings(max_examples=300, deadline=None)
@given(refund_parameters, st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable()))
def test_any_parameters_are_refused_or_judged(parameters, identity):
    intent = Intent(
        action="payments.refund.create", resource=Resource(type="payment", id=identity), parameters=parameters
    )
    classified = POLICY.classify(intent)
    fits = (
        type(parameters.get("amount_cents")) is int
        and 1 <= parameters["amount_cents"] <= 100_000_000
        and parameters.get("currency") in ("EUR", "USD")
        and isinstance(parameters.get("note", ""), str)
    )
    if not fits:
        assert isinstance(classified, Deny)
        return
    assert isinstance(classified, Classified)
    risk = POLICY.assess(intent, classified, agent="billing-agent", now=NOW)
    verdict = POLICY.evaluate(Request(agent="billing-agent", intent=intent, classified=classified, risk=risk, now=NOW))
    assert not isinstance(verdict, Unavailable)
    amount = parameters["amount_cents"]
    if amount > 1_000_000:
        assert isinstance(verdict, Deny)
    else:
        assert isinstance(verdict, Hold if amount > 50_000 else Allow)
    logged = POLICY.logged(intent, classified)
    assert {*logged.clear, *logged.digests, *logged.personal} == set(parameters)


times = st.integers(0, 7 * 24 * 60).map(lambda minutes: NOW + timedelta(minutes=minutes))
signals = st.builds(Signals, recent_denials=st.integers(0, 50), velocity=st.integers(0, 500), novel=st.booleans())


@given(times, signals, signals)
def test_more_trouble_never_lowers_the_risk(now, one, other):
    intent = Intent(action="kb.search", resource=Resource(type="knowledge-base", id="x"), parameters={"query": "x"})
    classified = POLICY.classify(intent)
    assert isinstance(classified, Classified)
    more = Signals(
        recent_denials=max(one.recent_denials, other.recent_denials),
        velocity=max(one.velocity, other.velocity),
        novel=one.novel or other.novel,
    )
    quiet = POLICY.assess(intent, classified, agent="research-agent", signals=one, now=now)
    loud = POLICY.assess(intent, classified, agent="research-agent", signals=more, now=now)
    assert 0 <= quiet.score <= loud.score <= 100
    assert ORDER.index(quiet.tier) <= ORDER.index(loud.tier)
    assert quiet.score == min(100, sum(factor.points for factor in quiet.factors))
