"""Fixtures around a real `holdfast up`, for the conftest of every folder that talks to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from e2e.running_service import RunningService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SHARED = pytest.StashKey[RunningService]()


@pytest.fixture(scope="session")
def service(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> RunningService:
    """Return the one service that all folders share. A test leaves it as ready as it found it."""
    if _SHARED not in pytestconfig.stash:
        running = RunningService(tmp_path_factory.mktemp("shared service"))
        pytestconfig.add_cleanup(running.close)
        running.start()
        pytestconfig.stash[_SHARED] = running
    return pytestconfig.stash[_SHARED]


@pytest.fixture
def fresh_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningService]]:
    """Return a starter of services that a test may break as it likes."""
    started: list[RunningService] = []

    def start(**options: Any) -> RunningService:
        running = RunningService(tmp_path_factory.mktemp("a service"), **options)
        started.append(running)
        running.start()
        return running

    yield start
    for running in started:
        running.close()
