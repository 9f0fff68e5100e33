"""Fixtures: a database of its own for each test, on one PostgreSQL for each module, and a pool to read it."""

from __future__ import annotations

import pytest
from integration.recording_postgres import Postgres

from services.postgres.pool import ReadPool


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def url(server):
    return await server.database()


@pytest.fixture
async def pool(url):
    found = ReadPool(url, size=2)
    await found.start()
    yield found
    await found.close()
