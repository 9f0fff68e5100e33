"""A recorder to break one thing of."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fakes.recording_world import Recorder


@pytest.fixture
async def world():
    recorder = Recorder()
    yield recorder
    for lane in recorder.lanes:
        with contextlib.suppress(asyncio.CancelledError):
            await lane.stop()
