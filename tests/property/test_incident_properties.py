"""Whatever a breaker does, an outage is told once, grows by tens, and ends after calm."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.breaker import State
from services.notices.incident import IncidentSettings, IncidentTracker, Phase, Sighting

STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, 3.0, 30.0, 59.9, 60.0, 61.0]),
        st.sampled_from(State),
        st.sampled_from([0, 0, 1, 3, 10, 95, 1000]),
    ),
    max_size=60,
)


@given(STEPS)
def test_an_incident_is_opened_once_grows_by_tens_and_ends_after_calm(steps):
    """Checked against the whole past at each step, not against the tracker's own memory."""
    settings = IncidentSettings()
    tracker = IncidentTracker(settings)
    now, refused, past, told = 0.0, 0, [], []
    for pause_s, state, more in steps:
        now += pause_s
        refused += more if state is not State.CLOSED else 0
        past.append((now, state))
        seen = tracker.see(Sighting(state=state, generation=len(past), refused=refused, now=now))

        chain = _chain(past, settings.stable_s)
        out_s = sum(b - a for (a, was), (b, _) in itertools.pairwise(chain) if was is not State.CLOSED)
        if seen is None:
            assert tracker.is_open or out_s < settings.open_after_s or _calm(past, settings.stable_s)
            continue
        told.append(seen)
        if seen.phase is Phase.OPENED:
            assert out_s >= settings.open_after_s
            assert seen.not_closed_s == out_s
        if seen.phase is Phase.RESOLVED:
            assert _calm(past, settings.stable_s)

    phases = "".join({Phase.OPENED: "o", Phase.UPDATED: "u", Phase.RESOLVED: "r"}[one.phase] for one in told)
    incidents = phases.split("r")
    assert all(one.rstrip("u") == "o" for one in incidents[:-1])
    assert incidents[-1].rstrip("u") in ("o", "")
    counts: list[int] = []
    for one in told:
        if one.phase is Phase.OPENED:
            counts = [one.affected]
        elif one.phase is Phase.UPDATED:
            assert len(str(one.affected)) > len(str(counts[-1])) or counts[-1] == 0 < one.affected
            counts.append(one.affected)


def _chain(past, stable_s):
    """Return the looks since the last one that ended a chain."""
    begun, calm_since = None, None
    for n, (now, state) in enumerate(past):
        if begun is None:
            if state is not State.CLOSED:
                begun, calm_since = n, None
        elif state is not State.CLOSED:
            calm_since = None
        else:
            calm_since = now if calm_since is None else calm_since
            if now - calm_since >= stable_s and n < len(past) - 1:
                begun = None
    return [] if begun is None else past[begun:]


def _calm(past, stable_s):
    now = past[-1][0]
    since = now
    for at, state in reversed(past):
        if state is not State.CLOSED:
            break
        since = at
    return past[-1][1] is State.CLOSED and now - since >= stable_s
