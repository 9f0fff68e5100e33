"""Whatever an agent did, what is remembered of it only ever adds to its risk, and it cannot make it forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from holdfast.intent import Intent, Resource
from holdfast.reasons import Cause, ReasonCode
from hypothesis import given
from hypothesis import strategies as st
from world import BUNDLE

from services.activity import VELOCITY_WINDOW_S, RecentActivity
from services.decision.bundle import read_bundle
from services.decision.policy import Classified, Policy
from services.decision.risk import Signals
from services.decision.verdict import Allow, Deny, Hold, Unavailable

START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
POLICY = Policy.compile(read_bundle(BUNDLE))
VERDICTS = st.sampled_from(
    [
        Allow(determining=("p",)),
        Deny(reason_code=ReasonCode.POLICY_DENIED, detail="no"),
        Hold(determining=("r",), needed=(), detail="ask"),
        Unavailable(reason_code=ReasonCode.EVALUATION_UNAVAILABLE, cause=Cause.TIMEOUT, detail="late"),
    ]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=4)
INTENTS = st.builds(Intent, action=st.just("kb.search") | TEXT, resource=st.builds(Resource, type=TEXT, id=TEXT))
EVENTS = st.lists(st.tuples(st.integers(0, 900), INTENTS, VERDICTS), max_size=30)


def remembered(events):
    activity = RecentActivity()
    for offset_s, intent, verdict in sorted(events, key=lambda event: event[0]):
        activity.note("bot", intent, START + timedelta(seconds=offset_s), verdict)
    return activity


@given(events=EVENTS, intent=INTENTS)
def test_no_history_lowers_a_risk_below_that_of_the_quiet(events, intent):
    now = START + timedelta(seconds=900)
    known = Intent(action="kb.search", resource=Resource(type="kb", id="x"))
    classified = POLICY.classify(known)
    assert isinstance(classified, Classified)
    seen = remembered(events).signals("bot", intent, now)

    with_history = POLICY.assess(known, classified, agent="bot", signals=seen, now=now)
    quiet = POLICY.assess(known, classified, agent="bot", signals=Signals(), now=now)

    assert with_history.score >= quiet.score


@given(events=EVENTS, more=st.lists(st.tuples(INTENTS, VERDICTS), max_size=30), intent=INTENTS)
def test_nothing_an_agent_does_resets_its_counts(events, more, intent):
    now = START + timedelta(seconds=900)
    activity = remembered(events)
    before = activity.signals("bot", intent, now)
    for other, verdict in more:
        activity.note("bot", other, now, verdict)
    after = activity.signals("bot", intent, now)

    assert after.recent_denials >= before.recent_denials
    assert after.velocity >= before.velocity
    if not any(isinstance(verdict, Allow) for _, verdict in more):
        assert after.novel == before.novel, "only a permission makes familiar"


@given(events=EVENTS, intent=INTENTS)
def test_what_was_never_allowed_is_novel(events, intent):
    allowed = [known for _, known, verdict in events if isinstance(verdict, Allow)]
    familiar = any(
        (known.action, known.resource.type) == (intent.action, intent.resource.type) for known in allowed
    ) and any(known.resource == intent.resource for known in allowed)

    seen = remembered(events).signals("bot", intent, START + timedelta(seconds=900))

    assert seen.novel == (not familiar)


@given(events=EVENTS, intent=INTENTS)
def test_a_lost_memory_is_novel(events, intent):
    assert remembered(events).signals("another", intent, START) == Signals(novel=True)


@given(offsets_s=st.lists(st.floats(0, 900, allow_nan=False), max_size=60))
def test_whatever_the_order_in_which_calls_are_noted_those_of_the_last_minute_count(offsets_s):
    """Decisions end in another order than they began, and clocks step back."""
    activity, intent = RecentActivity(), Intent(action="kb.search", resource=Resource(type="kb", id="x"))
    now = START + timedelta(seconds=900)
    times = [START + timedelta(seconds=offset_s) for offset_s in offsets_s]
    for at in times:
        activity.note("bot", intent, at, Allow(determining=("p",)))

    expected = sum(1 for at in times if at.timestamp() >= now.timestamp() - VELOCITY_WINDOW_S)
    assert activity.signals("bot", intent, now).velocity == expected
