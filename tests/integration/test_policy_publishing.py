"""Uploads and activations on a real PostgreSQL."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from integration.recording_postgres import Postgres

from services.decision.bundle import digest, read_bundle
from services.decision.finding import BundleInvalid
from services.policies import ActivePolicies
from services.policy_keys import TrustedKeys, sign
from services.postgres.bundles import PostgresBundles
from services.postgres.pool import ReadPool
from services.provision import open_publisher
from services.publishing import NothingToRollBack, NotPublished, NotVouchedFor, StaleActivation, UnknownBundle
from services.system import SystemClock

pytestmark = pytest.mark.integration

CATALOG = b"""version: 1
categories:
  kb.read: {description: Look something up, impact: low, effect: read, reversible: true}
executors:
  kb-api: {description: Knowledge base}
actions:
  kb.search: {category: kb.read, executor: kb-api, resource: article}
"""
A = {"catalog.yaml": CATALOG}
B = {"catalog.yaml": CATALOG, "holdfast.yaml": b"version: 1\nenvironment: staging\n"}
C = {"catalog.yaml": CATALOG, "holdfast.yaml": b"version: 1\nenvironment: test\n"}


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def url(server):
    return await server.database()


@pytest.fixture
async def publisher(url, tmp_path):
    async with open_publisher(url, tmp_path, TrustedKeys(None)) as found:
        yield found


@pytest.fixture
async def bundles(url):
    pool = ReadPool(url, size=2)
    await pool.start()
    yield PostgresBundles(pool)
    await pool.close()


async def apply(publisher, bundles, files):
    await publisher.upload(read_bundle(files), by="test")
    active = (await bundles.standing()).active
    await publisher.activate(digest(files), by="test", reason="because", expect_active=active)


async def records(url):
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT convert_from(body, 'UTF8')::jsonb->>'kind' AS kind FROM audit_records")
        return [row["kind"] for row in rows if row["kind"].startswith("policy.")]
    finally:
        await connection.close()


async def test_an_activation_is_stored_with_its_record(publisher, bundles, url):
    await apply(publisher, bundles, A)

    history = await bundles.activations()
    assert (await bundles.standing()).active == digest(A)
    assert [(line.digest, line.activated_by, line.reason) for line in history] == [(digest(A), "test", "because")]
    assert sorted(await records(url)) == ["policy.activated", "policy.uploaded"]


async def test_the_same_content_is_stored_once(publisher, bundles, url):
    assert await publisher.upload(read_bundle(A), by="test")
    assert not await publisher.upload(read_bundle(A), by="test")

    assert len(await bundles.bundles()) == 1
    assert await records(url) == ["policy.uploaded"]


async def test_who_believes_another_bundle_to_be_active_changes_nothing(publisher, bundles):
    await apply(publisher, bundles, A)
    await apply(publisher, bundles, B)
    await publisher.upload(read_bundle(C), by="test")

    with pytest.raises(StaleActivation, match=digest(B)):
        await publisher.activate(digest(C), by="test", reason="late", expect_active=digest(A))

    assert (await bundles.standing()).active == digest(B)
    assert len(await bundles.activations()) == 2


async def test_of_two_activations_at_once_exactly_one_wins(publisher, bundles, url, tmp_path):
    await apply(publisher, bundles, A)
    await publisher.upload(read_bundle(B), by="test")
    await publisher.upload(read_bundle(C), by="test")
    async with open_publisher(url, tmp_path / "other", TrustedKeys(None)) as other:
        outcomes = await asyncio.gather(
            publisher.activate(digest(B), by="one", reason="race", expect_active=digest(A)),
            other.activate(digest(C), by="two", reason="race", expect_active=digest(A)),
            return_exceptions=True,
        )

    assert sorted(isinstance(outcome, StaleActivation) for outcome in outcomes) == [False, True]
    assert len(await bundles.activations()) == 2


async def test_a_rollback_goes_back_step_by_step_and_never_forth(publisher, bundles):
    for files in (A, B, C):
        await apply(publisher, bundles, files)

    await publisher.rollback(by="test", reason="bad")
    assert (await bundles.standing()).active == digest(B)
    await publisher.rollback(by="test", reason="worse")
    assert (await bundles.standing()).active == digest(A)
    with pytest.raises(NothingToRollBack):
        await publisher.rollback(by="test", reason="nothing left")
    back = [line.rolled_back_from is not None for line in await bundles.activations()]
    assert back == [False, False, False, True, True]


async def test_a_bundle_that_is_not_stored_is_not_activated(publisher):
    with pytest.raises(UnknownBundle):
        await publisher.activate(digest(A), by="test", reason="why", expect_active=None)


async def test_damaged_bytes_are_never_activated_and_never_taken_over(publisher, bundles, url, tmp_path):
    await apply(publisher, bundles, A)
    policies = ActivePolicies(bundles, clock=SystemClock(), keys=TrustedKeys(None), cache=tmp_path / "copy")
    await policies.start()
    await publisher.upload(read_bundle(B), by="test")
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE policy_bundles SET archive = 'junk' WHERE digest = $1", digest(B))
    with pytest.raises(NotPublished):
        await publisher.activate(digest(B), by="test", reason="why", expect_active=digest(A))
    await connection.execute(
        "INSERT INTO policy_activations (digest, activated_at, activated_by, reason) VALUES ($1, now(), 'x', 'x')",
        digest(B),
    )
    await connection.close()

    await policies.look()

    assert policies.current().digest == digest(A)
    assert policies.trouble() is not None


async def test_what_does_not_compile_is_not_even_an_upload():
    with pytest.raises(BundleInvalid):
        read_bundle({"catalog.yaml": b"version: 1\n"})


async def test_the_shadow_names_a_stored_bundle(publisher, bundles):
    with pytest.raises(UnknownBundle):
        await publisher.shadow(digest(A), by="test")
    await publisher.upload(read_bundle(A), by="test")
    await publisher.shadow(digest(A), by="test")
    assert (await bundles.standing()).candidate == digest(A)
    await publisher.shadow(None, by="test")
    assert (await bundles.standing()).candidate is None


async def test_with_keys_nothing_is_published_that_none_of_them_signed(publisher, bundles, url, tmp_path):
    """Upload, activation and the way back, each asked against the keys of that moment; the record names the key."""
    await apply(publisher, bundles, A)
    keys, ours, theirs = tmp_path / "keys.pem", Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    keys.write_bytes(ours.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    async with open_publisher(url, tmp_path / "signed", TrustedKeys(keys)) as strict:
        for signatures in ((), (sign(theirs, digest(B)),), (sign(ours, digest(C)),)):
            with pytest.raises(NotVouchedFor):
                await strict.upload(read_bundle(B), by="test", signatures=signatures)
        assert await bundles.archive(digest(B)) is None

        assert await strict.upload(read_bundle(B), by="test", signatures=(sign(ours, digest(B)),))
        assert not await strict.upload(read_bundle(B), by="test", signatures=(sign(ours, digest(B)),))
        await strict.activate(digest(B), by="test", reason="because", expect_active=digest(A))

        with pytest.raises(NotVouchedFor):
            await strict.rollback(by="test", reason="back to what nobody signed")
        assert await strict.upload(read_bundle(A), by="test", signatures=(sign(ours, digest(A)),))
        await strict.rollback(by="test", reason="signed meanwhile")

        keys.unlink()
        with pytest.raises(NotVouchedFor, match="cannot be used"):
            await strict.activate(digest(B), by="test", reason="because", expect_active=digest(A))
    assert (await bundles.standing()).active == digest(A)
    assert await bundles.signatures(digest(B)) == (sign(ours, digest(B)),)
    connection = await asyncpg.connect(url)
    named = await connection.fetchval(
        "SELECT count(*) FROM audit_records WHERE convert_from(body, 'UTF8')::jsonb->>'key_id' = $1",
        sign(ours, digest(A)).partition(":")[0],
    )
    await connection.close()
    assert named == 4


async def test_an_unsigned_bundle_in_the_store_cannot_be_activated_once_there_are_keys(
    publisher, bundles, url, tmp_path
):
    await apply(publisher, bundles, A)
    await publisher.upload(read_bundle(B), by="test")
    async with open_publisher(url, tmp_path / "signed", TrustedKeys(tmp_path / "nowhere.pem")) as strict:
        with pytest.raises(NotVouchedFor):
            await strict.activate(digest(B), by="test", reason="because", expect_active=digest(A))
