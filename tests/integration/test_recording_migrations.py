"""A database comes to this version's schema once, and never by other files than it remembers."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from integration.recording_postgres import Postgres

from services.postgres.migrations import Migration, MigrationRefused, migrate, shipped

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def url(server):
    admin = await asyncpg.connect(server.url("postgres"))
    await admin.execute("DROP DATABASE IF EXISTS fresh")
    await admin.execute("CREATE DATABASE fresh")
    await admin.close()
    return server.url("fresh")


ONE = Migration(name="0001_a.sql", sql="CREATE TABLE a (x int)")
TWO = Migration(name="0002_b.sql", sql="CREATE TABLE b (x int); INSERT INTO b VALUES (1)")


async def test_every_shipped_migration_is_applied_once_and_in_order(url):
    names = [migration.name for migration in shipped()]
    assert names[:2] == ["0001_initial.sql", "0002_append_batch.sql"]
    assert names == sorted(names)
    assert await migrate(url) == names
    assert await migrate(url) == []


async def test_processes_that_start_together_apply_each_migration_once(url):
    applied = await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in shipped()]


async def test_a_migration_that_changed_after_it_was_applied_is_refused(url):
    await migrate(url, [ONE])
    changed = Migration(name=ONE.name, sql=ONE.sql + " -- harmless?")
    with pytest.raises(MigrationRefused):
        await migrate(url, [changed, TWO])
    assert await migrate(url, [ONE, TWO]) == [TWO.name]


async def test_a_migration_that_fails_leaves_nothing_of_itself(url):
    broken = Migration(name=TWO.name, sql=TWO.sql + "; SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(url, [ONE, broken])
    assert await migrate(url, [ONE, TWO]) == [TWO.name]
