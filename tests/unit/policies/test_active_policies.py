"""The active bundle of a process: followed, believed for its lease, never replaced by a worse one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.decision.archive import ArchiveDamaged, pack, unpack
from services.decision.bundle import digest
from services.policies import ActivePolicies, NoPolicies
from services.policy_keys import TrustedKeys, sign
from services.ports import BundleStale, StoreUnreachable
from services.postgres.bundles import Standing

CATALOG = b"""version: 1
categories:
  kb.read: {description: Look something up, impact: low, effect: read, reversible: true}
executors:
  kb-api: {description: Knowledge base}
actions:
  kb.search: {category: kb.read, executor: kb-api, resource: article}
"""
GOOD = {"catalog.yaml": CATALOG}
BETTER = {"catalog.yaml": CATALOG, "holdfast.yaml": b"version: 1\nlimits: {lease_seconds: 10}\n"}
BAD = {"catalog.yaml": b"version: 1\n"}


class Clock:
    def __init__(self):
        self.at = 1_000.0

    def now(self):
        return datetime(2026, 11, 20, tzinfo=UTC)

    def monotonic(self):
        return self.at


@dataclass
class Bundles:
    """The policy tables in memory."""

    stored: dict[str, bytes] = field(default_factory=dict)
    active: str | None = None
    candidate: str | None = None
    away: bool = False
    archives_read: int = 0
    signed: dict[str, list[str]] = field(default_factory=dict)

    def put(self, files):
        self.stored[digest(files)] = pack(files)
        return digest(files)

    async def standing(self):
        if self.away:
            raise StoreUnreachable("away")
        return Standing(active=self.active, shadow=None if self.candidate is None else 1, candidate=self.candidate)

    async def signatures(self, wanted):
        if self.away:
            raise StoreUnreachable("away")
        return tuple(self.signed.get(wanted, ()))

    async def archive(self, wanted):
        if self.away:
            raise StoreUnreachable("away")
        self.archives_read += 1
        return self.stored.get(wanted)


class Log:
    def __init__(self):
        self.entries = []

    def append(self, entry):
        self.entries.append(entry)

    def of(self, kind):
        return [entry.members["bundle"] for entry in self.entries if entry.kind == kind]


@dataclass
class Scene:
    bundles: Bundles
    clock: Clock
    policies: ActivePolicies
    log: Log
    alarms: list[bool]


@pytest.fixture
async def scene(tmp_path):
    """Return a process that started on the good bundle."""
    bundles, clock, log, alarms = Bundles(), Clock(), Log(), []
    bundles.active = bundles.put(GOOD)
    policies = ActivePolicies(
        bundles, clock=clock, keys=TrustedKeys(None), cache=tmp_path / "copy", on_stale=alarms.append
    )
    await policies.start()
    policies.record_to(log)
    return Scene(bundles, clock, policies, log, alarms)


async def test_a_new_activation_is_taken_over_at_the_next_look(scene):
    scene.bundles.active = scene.bundles.put(BETTER)

    await scene.policies.look()

    assert scene.policies.current().digest == digest(BETTER)
    assert scene.log.of("policy.loaded") == [digest(GOOD), digest(BETTER)]


async def test_within_its_lease_the_bundle_decides_without_its_source(scene):
    scene.bundles.away = True
    scene.clock.at += 30

    with pytest.raises(StoreUnreachable):
        await scene.policies.look()

    scene.policies.check_lease()


async def test_beyond_its_lease_the_bundle_decides_nothing_and_the_alarm_stands(scene):
    scene.bundles.away = True
    scene.clock.at += 30.001

    with pytest.raises(BundleStale):
        scene.policies.check_lease()
    assert scene.policies.trouble() is not None
    assert scene.policies.current().digest == digest(GOOD)


async def test_the_lease_is_renewed_when_the_source_is_heard_again(scene):
    scene.clock.at += 1_000

    await scene.policies.look()

    scene.policies.check_lease()
    assert scene.policies.trouble() is None


async def test_the_lease_is_that_of_the_bundle_in_use(scene):
    scene.bundles.active = scene.bundles.put(BETTER)
    await scene.policies.look()
    scene.clock.at += 11

    with pytest.raises(BundleStale):
        scene.policies.check_lease()


@pytest.mark.parametrize("damage", ["does not compile", "other bytes", "cut off", "missing"])
async def test_a_bad_bundle_never_replaces_the_good_one(scene, damage):
    wanted = scene.bundles.put(BAD if damage == "does not compile" else BETTER)
    if damage == "other bytes":
        scene.bundles.stored[wanted] = pack(GOOD)
    elif damage == "cut off":
        scene.bundles.stored[wanted] = scene.bundles.stored[wanted][:-8]
    elif damage == "missing":
        del scene.bundles.stored[wanted]
    scene.bundles.active = wanted

    await scene.policies.look()
    await scene.policies.look()

    assert scene.policies.current().digest == digest(GOOD)
    assert scene.policies.trouble() is not None
    assert scene.log.of("policy.rejected") == [wanted]
    scene.policies.check_lease()


async def test_the_alarm_falls_when_a_good_bundle_is_active_again(scene):
    scene.bundles.active = scene.bundles.put(BAD)
    await scene.policies.look()
    scene.bundles.active = digest(GOOD)

    await scene.policies.look()

    assert scene.policies.trouble() is None


async def test_an_emptied_store_confirms_nothing(scene):
    scene.bundles.active = None
    scene.clock.at += 31

    await scene.policies.look()

    with pytest.raises(BundleStale):
        scene.policies.check_lease()


async def test_a_restart_in_an_outage_classifies_from_the_copy_and_decides_nothing(scene, tmp_path):
    scene.bundles.away = True
    again = ActivePolicies(scene.bundles, clock=scene.clock, keys=TrustedKeys(None), cache=tmp_path / "copy")

    await again.start()

    assert again.current().digest == digest(GOOD)
    with pytest.raises(BundleStale):
        again.check_lease()
    scene.bundles.away = False
    await again.look()
    again.check_lease()


async def test_a_copy_that_was_tampered_with_is_not_used(scene, tmp_path):
    head, _, archive = (tmp_path / "copy").read_bytes().partition(b"\n")
    (tmp_path / "copy").write_bytes(head + b"\n" + pack(BETTER))
    scene.bundles.away = True

    with pytest.raises(NoPolicies):
        await ActivePolicies(scene.bundles, clock=scene.clock, keys=TrustedKeys(None), cache=tmp_path / "copy").start()
    assert archive == pack(GOOD)


async def test_without_an_activation_nothing_starts(tmp_path):
    with pytest.raises(NoPolicies, match="no policy was ever activated"):
        await ActivePolicies(Bundles(), clock=Clock(), keys=TrustedKeys(None), cache=tmp_path / "copy").start()


async def test_without_a_store_and_without_a_copy_nothing_starts(tmp_path):
    with pytest.raises(NoPolicies):
        await ActivePolicies(Bundles(away=True), clock=Clock(), keys=TrustedKeys(None), cache=tmp_path / "copy").start()


async def test_a_bad_active_bundle_stops_a_start_that_has_no_copy(tmp_path):
    bundles = Bundles()
    bundles.active = bundles.put(BAD)

    with pytest.raises(NoPolicies):
        await ActivePolicies(bundles, clock=Clock(), keys=TrustedKeys(None), cache=tmp_path / "copy").start()


async def test_a_candidate_in_the_shadow_comes_and_goes_beside_the_active_bundle(scene):
    scene.bundles.candidate = scene.bundles.put(BETTER)
    await scene.policies.look()
    assert scene.policies.candidate().policy.digest == digest(BETTER)
    assert scene.policies.current().digest == digest(GOOD)

    scene.bundles.candidate = None
    await scene.policies.look()

    assert scene.policies.candidate() is None


def test_an_archive_gives_back_exactly_its_files():
    assert unpack(pack(BETTER), digest(BETTER)) == BETTER


@pytest.mark.parametrize("archive", [b"", b"x", pack({}), pack(GOOD)[:-1], pack(GOOD) + b"x"])
def test_an_archive_that_is_not_the_bundle_is_refused(archive):
    with pytest.raises(ArchiveDamaged):
        unpack(archive, digest(BETTER))


async def test_a_bundle_that_no_trusted_key_signed_is_never_taken_over(tmp_path):
    """Whoever can write to the store can activate; only a publisher can sign."""
    key = Ed25519PrivateKey.generate()
    trusted = write_keys(tmp_path / "keys.pem", key)
    bundles = Bundles()
    bundles.active = good = bundles.put(GOOD)
    bundles.signed[good] = [sign(key, good)]
    policies = ActivePolicies(bundles, clock=Clock(), keys=trusted, cache=tmp_path / "copy")
    await policies.start()

    bundles.active = better = bundles.put(BETTER)
    bundles.signed[better] = [sign(Ed25519PrivateKey.generate(), better), sign(key, good)]
    await policies.look()
    assert policies.current().digest == good
    assert "no trusted key" in policies.trouble()

    bundles.signed[better].append(sign(key, better))
    await policies.look()
    assert (policies.current().digest, policies.trouble()) == (better, None)


async def test_a_copy_is_used_only_while_its_signature_is_trusted(tmp_path):
    key = Ed25519PrivateKey.generate()
    bundles = Bundles()
    bundles.active = good = bundles.put(GOOD)
    bundles.signed[good] = [sign(key, good)]
    trusted = write_keys(tmp_path / "keys.pem", key)
    await ActivePolicies(bundles, clock=Clock(), keys=trusted, cache=tmp_path / "copy").start()
    bundles.away = True

    again = ActivePolicies(bundles, clock=Clock(), keys=trusted, cache=tmp_path / "copy")
    await again.start()
    assert again.current().digest == good

    others = write_keys(tmp_path / "others.pem", Ed25519PrivateKey.generate())
    for keys in (others, TrustedKeys(tmp_path / "nowhere.pem")):
        with pytest.raises(NoPolicies):
            await ActivePolicies(bundles, clock=Clock(), keys=keys, cache=tmp_path / "copy").start()


def write_keys(path, *keys):
    path.write_bytes(
        b"".join(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys)
    )
    return TrustedKeys(path)
