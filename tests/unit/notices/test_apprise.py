"""Whatever apprise speaks, behind the same port."""

from __future__ import annotations

import asyncio
import sys
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from fakes.notices import channel
from fakes.recording_entries import notice

from services.notices.channel import Taken, Undelivered
from services.notices.channels.apprise import AddressRefused, Apprise
from services.notices.retry import Retry
from services.notices.sender import hand_over

NOW = datetime(2026, 11, 20, tzinfo=UTC)


class FakeApprise:
    """As much of apprise 2.2 as is used."""

    sent: list[dict] = []  # noqa: RUF012 - one for the test
    answers: list = []  # noqa: RUF012 - one for the test

    def add(self, url: str) -> bool:
        return url.startswith("mailto:")

    def notify(self, **message) -> bool:
        self.sent.append(message)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, threading.Event):
            answer.wait(10)
            return True
        return answer


@pytest.fixture
def library(monkeypatch):
    made = type("Library", (FakeApprise,), {"sent": [], "answers": []})
    monkeypatch.setitem(sys.modules, "apprise", SimpleNamespace(Apprise=made))
    return made


async def test_a_message_has_the_summary_as_its_title(library):
    assert isinstance(await Apprise("mailto://a").send(notice(), NOW), Taken)
    (message,) = library.sent
    assert message["title"] == notice().summary
    assert "boundary: evaluation" in message["body"]
    assert (message["notify_type"], message["body_format"]) == ("failure", "text")


async def test_a_message_that_was_not_handed_over_is_tried_again(library):
    library.answers = [False]
    with pytest.raises(Undelivered) as refused:
        await Apprise("mailto://a").send(notice(), NOW)
    assert refused.value.retry is Retry.SOON


async def test_a_message_that_hangs_takes_one_thread_and_no_more(library):
    hanging = threading.Event()
    library.answers = [hanging]
    made = channel(receiver=Apprise("mailto://a"))
    for why in ("no answer in time", "the message before this one has not returned"):
        refused = await hand_over(made, notice(), NOW, deadline_s=0.05)
        assert isinstance(refused, Undelivered)
        assert refused.why == why
    hanging.set()
    async with asyncio.timeout(10):
        while not isinstance(await hand_over(made, notice(), NOW), Taken):  # noqa: ASYNC110 - a thread ends
            await asyncio.sleep(0.01)
    assert len(library.sent) == 2


def test_an_address_that_apprise_does_not_know_is_refused(library):
    with pytest.raises(AddressRefused):
        Apprise("carrier-pigeon:")
