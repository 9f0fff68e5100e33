"""Notices beside records: through the database, through the journal, and never for what did not happen."""

from __future__ import annotations

import pytest
from fakes.recording import Fault
from fakes.recording_entries import AT, notice, open_intent

from services.ports import Entry, PutNotice, RecordingFailed
from services.recording.effects import encode_all
from services.recording.frames import JournalRow, decode, encode


def told(*notices, effect=None, may_release=True) -> Entry:
    return Entry(kind="decision", at=AT, effect=effect, journal_may_release=may_release, notices=notices)


async def test_a_notice_is_stored_with_its_record(world):
    lane = await world.start()
    assert (await lane.append(told(notice(1))).settled()).applied
    assert world.database.tables.notices.keys() == {notice(1).notice_id}
    assert world.database.tables.notices[notice(1).notice_id]["origin"] == "a"


async def test_a_notice_of_an_outage_reaches_the_outbox_through_the_journal(world):
    """The most common thing to tell of is that the database is away."""
    lane = await world.start()
    world.database.up = False
    world.database.faults.append(Fault.REFUSE)
    settled = await lane.append(told(notice(1), notice(2), effect=open_intent())).settled()
    assert settled.in_journal
    assert world.database.tables.notices == {}

    world.database.up = True
    await world.restored(lane)
    assert world.database.tables.notices.keys() == {notice(1).notice_id, notice(2).notice_id}
    assert world.database.tables.intents.keys() == {"int_1"}


async def test_a_notice_of_what_was_not_released_is_put_nowhere(world):
    lane = await world.start()
    world.database.faults.append(Fault.REFUSE)
    with pytest.raises(RecordingFailed):
        await lane.append(told(notice(1), may_release=False)).settled()
    await world.restored(lane)
    assert world.database.tables.notices == {}


async def test_a_notice_that_is_put_twice_is_an_effect_refused(world):
    lane = await world.start()
    assert (await lane.append(told(effect=PutNotice(notice=notice(1)))).settled()).applied
    assert not (await lane.append(told(effect=PutNotice(notice=notice(1)))).settled()).applied


async def test_whoever_delivers_hears_of_every_notice_with_its_record(world):
    lane = await world.start()
    heard = []
    lane.on_notices = lambda notices, pending: heard.append((notices, pending))
    pending = lane.append(told(notice(1), notice(2)))
    lane.append(told())
    assert heard == [((notice(1), notice(2)), pending)]


@pytest.mark.parametrize("effect", [None, open_intent()])
def test_a_journal_gives_back_what_rode_with_a_record(effect):
    row = JournalRow(body=b"{}", effect=encode_all(effect, (notice(1), notice(2)), origin="a"))
    assert decode(encode([row])) == (row,)
