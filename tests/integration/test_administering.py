"""Operators and keys on a real PostgreSQL: what the database refuses, also under concurrency, and who notices when."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import asyncpg
import pytest
from integration.recording_postgres import Postgres

from services.credential_effects import AddKey, AddOperator, ChangeRole, DisableOperator, EnableOperator, RotateKey
from services.credentials import Kind, Role, key_hash, new_secret
from services.ports import Entry, StoreUnreachable
from services.postgres.credentials import CredentialDirectory
from services.postgres.pool import ReadPool
from services.postgres.roster import PostgresRoster
from services.provision import Provisioner, open_lane
from services.system import SystemClock

pytestmark = pytest.mark.integration
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def url(server):
    return await server.database()


class House:
    """A lane, and operators whose tokens are known: `adam` and `eve` administer."""

    def __init__(self, url, lane) -> None:
        self.url, self.lane = url, lane
        self.tokens: dict[str, str] = {}

    async def hire(self, username: str, role: str) -> None:
        self.tokens[username] = (await Provisioner(self.lane, CLOCK).operator(username, role)).token

    async def does(self, effect, *, lane=None) -> bool:
        entry = Entry(kind="operator.test", at=CLOCK.now(), effect=effect)
        return (await (lane or self.lane).append(entry).settled()).applied

    async def roles(self) -> dict[str, str]:
        connection = await asyncpg.connect(self.url)
        try:
            rows = await connection.fetch("SELECT username, role, disabled_at FROM operators")
        finally:
            await connection.close()
        return {row["username"]: "disabled" if row["disabled_at"] else row["role"] for row in rows}


@pytest.fixture
async def house(url, tmp_path):
    async with open_lane(url, tmp_path, name="admin") as lane:
        found = House(url, lane)
        for username, role in (("adam", "admin"), ("eve", "admin"), ("otto", "operator")):
            await found.hire(username, role)
        yield found


@pytest.fixture
async def pool(url):
    found = ReadPool(url, size=2)
    await found.start()
    yield found
    await found.close()


@pytest.fixture
def a_directory(pool, tmp_path):
    """Return a maker of directories, each as of another replica."""

    async def make(name: str = "one", of=pool):
        directory = CredentialDirectory(of, tmp_path / f"credentials-{name}.json", clock=CLOCK)
        await directory.start()
        return directory

    return make


def role(username: str, to: str, *, was: str = "admin", by: str = "adam") -> ChangeRole:
    return ChangeRole(username=username, role=to, expect_role=was, by=by)


def disable(username: str, *, by: str = "adam") -> DisableOperator:
    return DisableOperator(username=username, at=CLOCK.now(), by=by)


def enable(username: str, token: str, *, by: str = "adam") -> EnableOperator:
    return EnableOperator(username=username, key_hash=key_hash(token), at=CLOCK.now(), by=by)


def hire(username: str, *, by: str = "adam") -> AddOperator:
    token = new_secret(Kind.OPERATOR)
    return AddOperator(
        username=username, password_hash="scrypt$", role="viewer", key_hash=key_hash(token), at=CLOCK.now(), by=by
    )


def rotate(subject: str, token: str, *, kind: Kind = Kind.OPERATOR, by: str = "adam", overlap_s: int | None = None):
    until = None if overlap_s is None else CLOCK.now() + timedelta(seconds=overlap_s)
    return RotateKey(kind=kind.value, subject=subject, key_hash=key_hash(token), at=CLOCK.now(), by=by, old_until=until)


def first_key(subject: str, token: str, *, kind: Kind = Kind.AGENT, by: str = "adam") -> AddKey:
    return AddKey(kind=kind.value, subject=subject, key_hash=key_hash(token), at=CLOCK.now(), by=by)


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_who_is_no_administrator_any_more_changes_nothing(house):
    """The credential was looked up before; the database looks again where the change is made."""
    agent, token = new_secret(Kind.AGENT), new_secret(Kind.OPERATOR)
    assert await house.does(first_key("alpha", agent))
    assert await house.does(disable("eve"))
    before = await house.roles()

    for by in ("otto", "eve", "nobody"):
        for effect in (
            role("otto", "viewer", was="operator", by=by),
            disable("adam", by=by),
            enable("eve", token, by=by),
            hire("frank", by=by),
            rotate("adam", token, by=by),
            rotate("alpha", new_secret(Kind.AGENT), kind=Kind.AGENT, by=by),
            first_key("beta", new_secret(Kind.AGENT), by=by),
        ):
            assert not await house.does(effect), (by, effect)
    assert await house.roles() == before


async def test_nobody_changes_their_own_role(house):
    assert not await house.does(role("adam", "viewer"))
    assert await house.does(role("adam", "viewer", by="eve"))


async def test_a_role_is_changed_from_what_it_was_seen_to_be(house):
    assert not await house.does(role("otto", "viewer", was="approver"))
    assert await house.does(role("otto", "approver", was="operator"))


async def test_the_last_administrator_cannot_be_disabled(house):
    assert await house.does(disable("eve"))
    assert not await house.does(disable("adam"))
    assert await house.roles() == {"adam": "admin", "eve": "disabled", "otto": "operator"}


@pytest.mark.parametrize("how", ["demote", "disable"])
async def test_of_two_administrators_who_remove_each_other_at_once_one_remains(house, url, tmp_path, how):
    """Many rounds, on two lanes, as two replicas would."""
    async with open_lane(url, tmp_path / "other", name="other") as other:
        for _ in range(10):
            if how == "demote":
                first, second = role("eve", "viewer", by="adam"), role("adam", "viewer", by="eve")
            else:
                first, second = disable("eve", by="adam"), disable("adam", by="eve")
            done = await asyncio.gather(house.does(first), house.does(second, lane=other))

            assert sorted(done) == [False, True]
            winner, loser = ("adam", "eve") if done[0] else ("eve", "adam")
            assert (await house.roles())[winner] == "admin"
            undo = enable(loser, new_secret(Kind.OPERATOR), by=winner)
            assert await house.does(role(loser, "admin", was="viewer", by=winner) if how == "demote" else undo)


async def test_two_changes_in_one_batch_are_made_one_after_the_other(house):
    """A batch is one transaction: the second sees what the first did."""
    entries = [
        Entry(kind="operator.test", at=CLOCK.now(), effect=effect)
        for effect in (role("eve", "viewer", by="adam"), role("adam", "viewer", by="eve"))
    ]
    settled = await asyncio.gather(*(house.lane.append(entry).settled() for entry in entries))
    assert [one.applied for one in settled] == [True, False]


async def test_a_name_is_taken_in_whatever_letter_case(house):
    assert not await house.does(hire("otto"))
    assert not await house.does(hire("OTTO"))
    assert await house.does(hire("ottokar"))
    assert not await house.does(hire("Ottokar"))


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_a_disabled_operator_is_nobody_at_once_on_another_replica_and_comes_back_with_a_new_token(
    house, a_directory
):
    directory, token = await a_directory(), new_secret(Kind.OPERATOR)
    assert (await directory.find(key_hash(house.tokens["otto"]))).role is Role.OPERATOR

    assert await house.does(disable("otto"))
    assert await directory.find(key_hash(house.tokens["otto"])) is None
    assert not await house.does(rotate("otto", new_secret(Kind.OPERATOR)))

    assert await house.does(enable("otto", token))
    assert not await house.does(enable("otto", new_secret(Kind.OPERATOR)))
    assert await directory.find(key_hash(house.tokens["otto"])) is None, "what was revoked stays revoked"
    assert (await directory.find(key_hash(token))).subject == "otto"


async def test_a_role_that_was_lost_is_lost_at_once_on_another_replica_and_soon_in_its_memory(
    house, a_directory, tmp_path
):
    directory = await a_directory()
    assert await house.does(role("eve", "viewer"))
    assert (await directory.find(key_hash(house.tokens["eve"]))).role is Role.VIEWER

    await directory.refresh()
    kept = json.loads((tmp_path / "credentials-one.json").read_text())
    assert {entry[2]: entry[3] for entry in kept} == {"adam": "admin", "eve": "viewer", "otto": "operator"}


async def test_an_operator_rotates_their_own_token_and_the_old_one_is_dead(house, a_directory):
    directory, token = await a_directory(), new_secret(Kind.OPERATOR)
    assert not await house.does(rotate("eve", token, by="otto"))
    assert await house.does(rotate("otto", token, by="otto"))
    assert await directory.find(key_hash(house.tokens["otto"])) is None
    assert (await directory.find(key_hash(token))).subject == "otto"


async def test_a_rotated_key_of_an_agent_is_dead_after_a_look(house, a_directory):
    old, new = new_secret(Kind.AGENT), new_secret(Kind.AGENT)
    assert await house.does(first_key("alpha", old))
    directory = await a_directory()
    assert await house.does(rotate("alpha", new, kind=Kind.AGENT))
    await directory.refresh()

    assert await directory.find(key_hash(old)) is None
    assert (await directory.find(key_hash(new))).subject == "alpha"


async def test_an_overlap_keeps_the_old_key_until_it_is_over_even_where_nobody_can_be_asked(
    house, a_directory, tmp_path
):
    old, new = new_secret(Kind.AGENT), new_secret(Kind.AGENT)
    assert await house.does(first_key("alpha", old))
    assert await house.does(rotate("alpha", new, kind=Kind.AGENT, overlap_s=2))
    directory = await a_directory()
    nowhere = ReadPool("postgresql://nobody@127.0.0.1:1/none", size=1)
    await nowhere.start()
    cut_off = await a_directory(of=nowhere)  # it starts from the snapshot of the other
    for one in (directory, cut_off):
        assert (await one.find(key_hash(old))).subject == "alpha"

    await asyncio.sleep(2.1)

    assert await directory.find(key_hash(old)) is None
    with pytest.raises(StoreUnreachable):
        await cut_off.find(key_hash(old))
    for one in (directory, cut_off):
        assert (await one.find(key_hash(new))).subject == "alpha"
    await nowhere.close()


async def test_a_rotation_without_overlap_ends_one_with(house, a_directory):
    first, second, third = (new_secret(Kind.AGENT) for _ in range(3))
    assert await house.does(first_key("alpha", first))
    assert await house.does(rotate("alpha", second, kind=Kind.AGENT, overlap_s=3600))
    assert await house.does(rotate("alpha", third, kind=Kind.AGENT))
    directory = await a_directory()
    assert [await directory.find(key_hash(one)) for one in (first, second)] == [None, None]


async def test_who_has_a_good_key_gets_no_second_first_one(house):
    made = [first_key("alpha", new_secret(Kind.AGENT)) for _ in range(2)]
    assert [await house.does(effect) for effect in made] == [True, False]
    assert not await house.does(rotate("beta", new_secret(Kind.AGENT), kind=Kind.AGENT)), "it has none"
    assert await house.does(first_key("alpha", new_secret(Kind.EXECUTOR), kind=Kind.EXECUTOR))


async def test_in_an_outage_memory_knows_the_operators_as_of_before(house, a_directory):
    await a_directory()  # it leaves a snapshot
    nowhere = ReadPool("postgresql://nobody@127.0.0.1:1/none", size=1)
    await nowhere.start()
    cut_off = await a_directory(of=nowhere)
    assert (await cut_off.find(key_hash(house.tokens["otto"]))).subject == "otto"
    with pytest.raises(StoreUnreachable):
        await cut_off.find(key_hash(new_secret(Kind.OPERATOR)))
    await nowhere.close()


async def test_a_snapshot_holds_no_secret_and_nobody_who_is_shut_out(house, a_directory, tmp_path):
    assert await house.does(disable("otto"))
    await a_directory()
    text = (tmp_path / "credentials-one.json").read_text()
    assert not any(token in text for token in house.tokens.values())
    assert {entry[2] for entry in json.loads(text)} == {"adam", "eve"}


async def test_the_roster_shows_who_there_is_and_which_keys_are_good(house, pool):
    assert await house.does(first_key("alpha", new_secret(Kind.AGENT)))
    assert await house.does(rotate("alpha", new_secret(Kind.AGENT), kind=Kind.AGENT, overlap_s=60))
    assert await house.does(disable("otto"))
    roster = PostgresRoster(pool)

    adam, _, otto = await roster.operators()
    assert (adam.username, adam.role, adam.disabled_at) == ("adam", Role.ADMIN, None)
    assert adam.token_created_at is not None
    assert (otto.disabled_by, otto.token_created_at) == ("adam", None)
    newest, oldest = (await roster.keys(Kind.AGENT))["alpha"]
    assert newest.expires_at is None
    assert oldest.expires_at is not None
