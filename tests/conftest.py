"""Rules for every test: no network in unit and property tests, loopback elsewhere; one Hypothesis profile."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_socket
from hypothesis import settings

TESTS = Path(__file__).parent
OFFLINE = tuple(TESTS / name for name in ("unit", "property", "architecture"))
LOOPBACK = ["127.0.0.1", "::1", "localhost"]

# The machine decides how long an example takes, not the code under test.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if any(item.path.is_relative_to(folder) for folder in OFFLINE):
        pytest_socket.disable_socket(allow_unix_socket=True)
    else:
        pytest_socket.socket_allow_hosts(LOOPBACK, allow_unix_socket=True)


def pytest_runtest_teardown() -> None:
    pytest_socket.enable_socket()
