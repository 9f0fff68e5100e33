"""What a process writes to its log by itself."""

from __future__ import annotations

import logging

import httpx2
import pytest

from services.process import configure_logging


@pytest.fixture
def as_in_a_process():
    """Configure the logging as every process does at its start, and put it back."""
    before = {library: logging.getLogger(library).level for library in ("httpx2", "apprise")}
    configure_logging()
    yield
    for library, level in before.items():
        logging.getLogger(library).setLevel(level)


@pytest.mark.usefixtures("as_in_a_process")
async def test_no_process_logs_the_address_of_a_request(caplog):
    """The address of a Slack channel is all that is needed to write to it."""
    caplog.set_level(logging.INFO)
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200))
    async with httpx2.AsyncClient(transport=transport) as client:
        await client.post("https://hooks.slack.test/services/T0/B0/s3cret")

    assert "s3cret" not in caplog.text


@pytest.mark.usefixtures("as_in_a_process")
def test_no_process_logs_an_address_that_apprise_cannot_read(caplog):
    """What is wrong with it is said by the reader of the file, with the place and without the address."""
    caplog.set_level(logging.INFO)
    logging.getLogger("apprise").error("Unparseable URL %s", "tgram://s3cret")

    assert "s3cret" not in caplog.text
