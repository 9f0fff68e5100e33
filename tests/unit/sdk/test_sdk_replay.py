"""The executor's own replay store, and the guard that works through an outage with it."""

from __future__ import annotations

import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from holdfast.errors import TokenRejected
from holdfast.executor import Guard
from holdfast.jwks import PinnedKeys
from holdfast.replay import ReplayStore
from sdk_fake_service import BASE_URL, EXECUTOR, EXECUTOR_KEY, problem

ISS = BASE_URL


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replay.sqlite"


@pytest.fixture
def store(path):
    with ReplayStore(path, EXECUTOR) as opened:
        yield opened


def consume(store, txn="int_1", jti="jti_1", iss=ISS) -> str:
    """Return "consumed", or the code of the refusal."""
    try:
        store.consume(iss, txn, jti, 2**33)
    except TokenRejected as error:
        return error.code
    return "consumed"


def test_a_token_is_consumed_once(store):
    assert [consume(store), consume(store)] == ["consumed", "TOKEN_CONSUMED"]


def test_an_intent_is_consumed_once_whatever_the_token(store):
    assert [consume(store, jti="jti_1"), consume(store, jti="jti_2")] == ["consumed", "TOKEN_CONSUMED"]


def test_a_token_is_consumed_once_whatever_the_intent(store):
    assert [consume(store, txn="int_1"), consume(store, txn="int_2")] == ["consumed", "TOKEN_CONSUMED"]


def test_issuers_do_not_share_intents(store):
    assert [consume(store), consume(store, iss="https://b")] == ["consumed", "consumed"]


def test_a_consumption_survives_closing(path):
    with ReplayStore(path, EXECUTOR) as store:
        consume(store)
    with ReplayStore(path, EXECUTOR) as store:
        assert consume(store) == "TOKEN_CONSUMED"


def test_two_openings_of_one_file_are_one_store(path, store):
    with ReplayStore(path, EXECUTOR) as other:
        assert [consume(store), consume(other)] == ["consumed", "TOKEN_CONSUMED"]


def test_of_many_threads_one_wins(store):
    start = threading.Barrier(8)

    def race(_):
        start.wait()
        return consume(store)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))

    assert sorted(results) == ["TOKEN_CONSUMED"] * 7 + ["consumed"]


def test_a_token_revoked_here_is_refused(store):
    store.revoke("jti_1")

    assert consume(store) == "TOKEN_REVOKED"


def test_another_audience_s_store_is_refused(path, store):
    with pytest.raises(ValueError, match="another audience"):
        ReplayStore(path, "deploy-tool")
    with pytest.raises(ValueError, match="audience"):
        Guard(BASE_URL, EXECUTOR_KEY, "deploy-tool", replay=store)
    with pytest.raises(ValueError, match="audience"):
        ReplayStore(path, "")


def test_a_closed_store_refuses(store):
    store.close()

    assert consume(store) == "CONSUMPTION_UNAVAILABLE"


def test_a_store_whose_file_is_gone_refuses(path, store):
    """SQLite would go on writing into the unlinked file, and a restart would know nothing."""
    path.unlink()
    assert consume(store) == "CONSUMPTION_UNAVAILABLE"

    path.touch()
    assert consume(store) == "CONSUMPTION_UNAVAILABLE"


def test_a_store_that_another_process_holds_refuses(path, store):
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    store._connection.execute("PRAGMA busy_timeout = 1")
    try:
        assert consume(store) == "CONSUMPTION_UNAVAILABLE"
    finally:
        blocker.close()
    assert consume(store) == "consumed"


def test_a_damaged_file_is_refused(path):
    path.write_bytes(b"not a database, and long enough to be read as one" * 100)

    with pytest.raises(TokenRejected, match="CONSUMPTION_UNAVAILABLE"):
        ReplayStore(path, EXECUTOR)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises((TokenRejected, FileNotFoundError)):
        ReplayStore(tmp_path / "no" / "replay.sqlite", EXECUTOR)


def test_every_commit_is_synced_and_only_the_owner_reads(path, store):
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (3,)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- the guard in local mode ------------------------------------------------------------------------------------------


@pytest.fixture
def guard(service, store):
    with Guard(
        BASE_URL,
        EXECUTOR_KEY,
        EXECUTOR,
        replay=store,
        keys=PinnedKeys([service.key.public]),
        transport=service.transport(),
    ) as opened:
        yield opened


def run(guard, token, intent) -> str:
    try:
        with guard.authorize(token, action=intent.action, resource=intent.resource, parameters=intent.parameters):
            return "ran"
    except TokenRejected as error:
        return error.code


AWAY = [httpx2.ConnectError("refused"), httpx2.ReadTimeout("late"), 500, 502, 503]


@pytest.mark.parametrize("away", AWAY, ids=str)
def test_while_the_service_is_away_a_token_runs_once(guard, service, refund, away):
    token = service.mint(refund)
    service.lie("/consume", away if isinstance(away, Exception) else httpx2.Response(away))

    assert [run(guard, token, refund), run(guard, token, refund)] == ["ran", "TOKEN_CONSUMED"]
    assert service.consumed == set()


def test_what_happened_while_it_was_away_is_reported_on_sync(guard, service, refund):
    service.lie("/consume", httpx2.ConnectError("refused"))
    run(guard, service.mint(refund, intent_id="int_1"), refund)
    run(guard, service.mint(refund, intent_id="int_2"), refund)
    assert service.consumed == set()

    assert guard.sync() == 2
    assert service.consumed == {(ISS, "int_1"), (ISS, "int_2")}
    assert [outcome["status"] for outcome in service.outcomes] == ["succeeded", "succeeded"]
    assert guard.sync() == 0


def test_a_sync_during_the_outage_keeps_everything(guard, service, refund):
    service.lie("/consume", httpx2.ConnectError("refused"), httpx2.ConnectError("refused"))
    run(guard, service.mint(refund), refund)

    assert guard.sync() == 0
    assert guard.sync() == 1


def test_a_report_that_the_service_refuses_is_given_up_loudly(guard, service, refund, caplog):
    service.lie("/consume", httpx2.ConnectError("refused"), problem(401, "TOKEN_INVALID"), problem(403, "FORBIDDEN"))
    run(guard, service.mint(refund), refund)
    guard.sync()
    guard.sync()

    assert guard.sync() == 0
    assert "did not accept the late report" in caplog.text


def test_while_the_service_is_there_it_has_a_veto(guard, service, refund):
    service.revoked.add("jti_" + "1" * 32)

    assert run(guard, service.mint(refund, jti="jti_" + "1" * 32), refund) == "TOKEN_REVOKED"
    assert run(guard, service.mint(refund), refund) == "ran"
    assert len(service.consumed) == 1
    assert len(service.outcomes) == 1


def test_an_answer_of_the_service_that_says_nothing_is_no(guard, service, refund):
    service.lie("/consume", httpx2.Response(200, json={"consumed": False}))

    assert run(guard, service.mint(refund), refund) == "CONSUMPTION_UNAVAILABLE"


def test_with_neither_store_nothing_runs(guard, service, refund, path):
    path.unlink()
    service.lie("/consume", httpx2.ConnectError("refused"))

    assert run(guard, service.mint(refund), refund) == "CONSUMPTION_UNAVAILABLE"


def test_without_its_store_nothing_runs_even_if_the_service_says_yes(guard, service, refund, path):
    """What was used during an outage is known to the store alone."""
    path.unlink()

    assert run(guard, service.mint(refund), refund) == "CONSUMPTION_UNAVAILABLE"
    assert service.consumed == set()


def test_a_token_older_than_the_store_is_refused(guard, service, store, refund):
    now = int(service.now())
    token = service.mint(refund, iat=store.since - 1, nbf=store.since - 1, exp=now + 50)

    assert run(guard, token, refund) == "CONSUMPTION_UNAVAILABLE"


def test_a_lifetime_beyond_the_cap_is_refused_in_local_mode_too(guard, service, refund):
    service.lifetime_s = 600

    assert run(guard, service.mint(refund), refund) == "TOKEN_INVALID"


async def test_local_mode_works_on_an_event_loop(service, store, refund):
    guard = Guard(BASE_URL, EXECUTOR_KEY, EXECUTOR, replay=store, async_transport=service.transport())
    service.lie("/consume", httpx2.ConnectError("refused"))
    token = service.mint(refund)
    asked = {"action": refund.action, "resource": refund.resource, "parameters": refund.parameters}

    async with guard.authorize(token, **asked):
        pass
    with pytest.raises(TokenRejected, match="TOKEN_CONSUMED"):
        async with guard.authorize(token, **asked):
            pass

    assert await guard.async_sync() == 1
    assert len(service.consumed) == 1
    await guard.aclose()
