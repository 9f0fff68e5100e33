"""The embedded servers, for real."""

import asyncio
import os
import pwd
import signal
import stat
import sys
from argparse import Namespace
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from runtime_processes import alive, children_of, owner, until

from console.runtime import leash
from console.runtime.children import Children
from console.runtime.directory import DataDirectory, run_directory
from console.runtime.failure import CommandFailed
from console.runtime.postgres import EmbeddedPostgres
from console.runtime.state import Runtime, database
from console.runtime.valkey import EmbeddedValkey

pytestmark = pytest.mark.integration

AS_ROOT = os.geteuid() == 0


@asynccontextmanager
async def running_postgres(data, said=None):
    data.create()
    with data.held(), run_directory() as run:
        postgres = EmbeddedPostgres(data, run)
        async with Children(logs=data.logs, say=print if said is None else said.append) as children:
            await postgres.prepare()
            await children.start(postgres.command(), postgres.ready)
            yield postgres, children


@asynccontextmanager
async def connected(url):
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


@pytest.fixture
def data(tmp_path):
    """Return a data directory whose path has a space, below a directory that is closed to everybody else."""
    closed = tmp_path / "closed to others"
    closed.mkdir(mode=0o700)
    return DataDirectory.at(closed / "data")


async def test_postgres_runs_durably_on_a_socket_alone_and_keeps_what_it_was_given(data):
    async with running_postgres(data) as (postgres, children), connected(postgres.database_url) as connection:
        settings = {
            name: await connection.fetchval("SELECT current_setting($1)", name)
            for name in ("listen_addresses", "synchronous_commit", "fsync", "TimeZone", "server_encoding")
        }
        await connection.execute("CREATE TABLE kept (text text)")
        await connection.execute("INSERT INTO kept VALUES ('é')")
        pid = children.pids()["postgres"]
        account = owner(pid)
    assert settings == {
        "listen_addresses": "",
        "synchronous_commit": "on",
        "fsync": "on",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
    }
    assert account != 0
    assert not alive(pid)
    assert stat.S_IMODE(data.root.parent.stat().st_mode) == 0o700

    async with running_postgres(data) as (postgres, _), connected(postgres.database_url) as connection:
        assert await connection.fetchval("SELECT text FROM kept") == "é"


async def test_postgres_refuses_another_password(data):
    async with running_postgres(data) as (postgres, _):
        secret = urlsplit(postgres.database_url).password
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.database_url.replace(secret, "x" * len(secret)), timeout=10)


async def test_a_cluster_without_its_password_is_not_started(data):
    data.create()
    data.postgres.mkdir()

    with run_directory() as run, pytest.raises(CommandFailed, match="password"):
        await EmbeddedPostgres(data, run).prepare()


async def test_an_interrupted_first_start_is_begun_again(data):
    data.create()
    (data.root / "postgres.new").mkdir()
    (data.root / "postgres.new" / "half").write_text("made")

    async with running_postgres(data) as (postgres, _), connected(postgres.database_url) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert not (data.postgres / "half").exists()


async def test_two_data_directories_run_at_once_and_a_killed_postgres_comes_back(tmp_path):
    one, two, said = DataDirectory.at(tmp_path / "one"), DataDirectory.at(tmp_path / "two"), []
    async with running_postgres(one, said) as (first, children), running_postgres(two) as (second, _):
        async with connected(first.database_url) as connection:
            await connection.execute("CREATE TABLE mark (n int)")
        os.kill(children.pids()["postgres"], signal.SIGKILL)
        await until(lambda: any("running again" in line for line in said))

        async with asyncio.timeout(60):
            while not await first.ready():  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(0.05)

        async with connected(first.database_url) as connection:
            assert await connection.fetchval("SELECT count(*) FROM mark") == 0
        async with connected(second.database_url) as connection:
            assert await connection.fetchval("SELECT to_regclass('mark')") is None


async def test_valkey_answers_on_a_socket_of_ours_alone(data):
    data.create()
    with run_directory() as run:
        valkey = EmbeddedValkey(data, run)
        async with Children(logs=data.logs, say=print) as children:
            await children.start(valkey.command(), valkey.ready)
            path = urlsplit(valkey.broker_url).path
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"CONFIG GET maxmemory-policy\r\nCONFIG GET port\r\nCONFIG GET appendonly\r\n")
            answer = [(await reader.readline()).strip() for _ in range(15)]
            writer.close()
            assert [answer[4], answer[9], answer[14]] == [b"noeviction", b"0", b"yes"]
            assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
            pid = children.pids()["valkey"]
        assert not alive(pid)


async def test_a_command_finds_a_stopped_database_and_a_running_one(data, monkeypatch):
    monkeypatch.delenv("HOLDFAST_DATABASE_URL", raising=False)
    arguments = Namespace(data_dir=str(data.root), database_url=None)
    others = children_of(os.getpid())  # servers of other tests' fixtures
    async with running_postgres(data) as (postgres, children):
        with pytest.raises(CommandFailed, match="try again"):
            async with database(arguments):
                pytest.fail("there is no runtime.json yet")
        Runtime(
            pid=os.getpid(),
            database_url=postgres.database_url,
            broker_url="-",
            signer_socket="-",
            base_url="-",
            children=children.pids(),
        ).write(data.runtime)
        async with database(arguments) as url:
            assert url == postgres.database_url

    async with database(arguments) as url, connected(url) as connection:
        assert await connection.fetchval("SELECT 1") == 1
        assert url != postgres.database_url
    assert children_of(os.getpid()) <= others


async def test_a_command_does_not_make_a_data_directory(tmp_path):
    arguments = Namespace(data_dir=str(tmp_path), database_url=None)

    with pytest.raises(CommandFailed, match="not a Holdfast data directory"):
        async with database(arguments):
            pytest.fail("nothing is there")
    assert list(tmp_path.iterdir()) == []


SUPERVISOR = """
import asyncio, os, sys
from console.runtime.children import Children
from console.runtime.directory import DataDirectory, run_directory
from console.runtime.postgres import EmbeddedPostgres
from console.runtime.valkey import EmbeddedValkey

async def main(data):
    data.create()
    with data.held(), run_directory() as run:
        postgres, valkey = EmbeddedPostgres(data, run), EmbeddedValkey(data, run)
        async with Children(logs=data.logs, say=print) as children:
            await postgres.prepare()
            await children.start(postgres.command(), postgres.ready)
            await children.start(valkey.command(), valkey.ready)
            print(os.geteuid(), run, flush=True)
            await children.lost()

asyncio.run(main(DataDirectory.at(sys.argv[1])))
"""


async def test_a_killed_supervisor_leaves_no_server_and_the_next_start_works(data):
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(data.root), stdout=asyncio.subprocess.PIPE
    )
    await supervisor.stdout.readline()
    below = children_of(supervisor.pid)
    assert len(below) > 2

    supervisor.kill()
    await supervisor.communicate()

    await until(lambda: not any(alive(pid) for pid in below))
    async with running_postgres(data) as (postgres, _), connected(postgres.database_url) as connection:
        assert await connection.fetchval("SELECT 1") == 1


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else")
async def test_an_ordinary_user_runs_the_servers_as_himself(tmp_path):
    """The leash lends `nobody` the way to this Python, wherever it is installed."""
    nobody = pwd.getpwnam("nobody")
    home = tmp_path / "home of nobody"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    start = (
        sys.executable,
        "-I",
        "-S",
        leash.__file__,
        str(os.getpid()),
        "9",
        f"{nobody.pw_uid}:{nobody.pw_gid}",
        str(home),
    )
    supervisor = await asyncio.create_subprocess_exec(
        *start, sys.executable, "-c", SUPERVISOR, str(home / "data"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert (await supervisor.stdout.readline()).split()[0] == str(nobody.pw_uid).encode()
        owners = {owner(pid) for pid in children_of(supervisor.pid)}
        assert owners == {nobody.pw_uid}
    finally:
        supervisor.kill()
        await supervisor.communicate()
