"""Changing the policy: upload, activate, roll back, shadow. Each is one transaction with its record.

PublishingFailed
├── UnknownBundle       no bundle of that digest is stored
├── StaleActivation     another bundle is active than the caller believes
├── NothingToRollBack   the history holds no earlier bundle
├── NotVouchedFor       keys are configured, and none of them signed the bundle
└── NotPublished        it could not be recorded, or the stored bytes are damaged

What does not compile is BundleInvalid, and changes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.decision.archive import ArchiveDamaged, pack, unpack
from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.policy_keys import NotTrusted
from services.ports import ActivateBundle, Entry, PutBundle, RecordingFailed, SetShadow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.strict_json import JSON

    from services.decision.bundle import Bundle
    from services.policy_keys import TrustedKeys
    from services.ports import Clock, Effect, Recorder
    from services.postgres.bundles import Activation, PostgresBundles


class PublishingFailed(Exception):
    """Nothing was changed; the text says why."""


class UnknownBundle(PublishingFailed):
    """No bundle of that digest is stored."""


class StaleActivation(PublishingFailed):
    """Another bundle is active than the caller believes."""


class NothingToRollBack(PublishingFailed):
    """The history holds no earlier bundle."""


class NotVouchedFor(PublishingFailed):
    """Keys are configured, and none of them signed the bundle."""


class NotPublished(PublishingFailed):
    """It could not be recorded, or the stored bytes are damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """A change of the active bundle. `policy` is the new one, `before` the digest that it replaced."""

    policy: Policy
    before: str | None


class Publisher:
    """Writes through the recorder; reads what it checks from the store. Raises StoreUnreachable where it reads."""

    def __init__(self, *, bundles: PostgresBundles, recorder: Recorder, clock: Clock, keys: TrustedKeys) -> None:
        self._bundles = bundles
        self._keys = keys
        self._recorder = recorder
        self._clock = clock

    async def upload(self, bundle: Bundle, *, by: str, signatures: tuple[str, ...] = ()) -> bool:
        """Store a bundle with its signatures, and return whether anything is new here.

        Raises: NotVouchedFor, NotPublished.
        """
        stored = await self._bundles.signatures(bundle.digest)
        vouched = await self._vouched(bundle.digest, (*stored, *signatures))
        if set(signatures) <= set(stored) and await self._bundles.archive(bundle.digest) is not None:
            return False
        archive = await asyncio.to_thread(pack, bundle.files)
        members: dict[str, JSON] = {"bundle": bundle.digest, "files": len(bundle.files), "by": by, **vouched}
        effect = PutBundle(
            digest=bundle.digest,
            archive=archive,
            uploaded_at=self._clock.now(),
            uploaded_by=by,
            signatures=signatures,
        )
        # Refused means that another upload of the same content was first.
        return await self._record("policy.uploaded", members, effect)

    async def activate(self, digest: str, *, by: str, reason: str, expect_active: str | None) -> Activated:
        """Make a stored bundle the active one.

        Raises: UnknownBundle, BundleInvalid, NotVouchedFor, StaleActivation, NotPublished.
        """
        policy = await self.compiled(digest)
        effect = ActivateBundle(
            digest=digest,
            expect_active=expect_active,
            activated_at=self._clock.now(),
            activated_by=by,
            reason=reason,
        )
        await self._activate("policy.activated", effect)
        return Activated(policy=policy, before=expect_active)

    async def rollback(self, *, by: str, reason: str) -> Activated:
        """Activate again what was active before the last activation that stands.

        Raises: NothingToRollBack, BundleInvalid, NotVouchedFor, StaleActivation, NotPublished.
        """
        standing = standing_activations(await self._bundles.activations())
        earlier = [activation for activation in standing[:-1] if activation.digest != standing[-1].digest]
        if not earlier:
            raise NothingToRollBack("no earlier bundle was active")
        target, last = earlier[-1], standing[-1]
        policy = await self.compiled(target.digest)
        effect = ActivateBundle(
            digest=target.digest,
            expect_active=last.digest,
            activated_at=self._clock.now(),
            activated_by=by,
            reason=reason,
            rolled_back_from=last.id,
        )
        await self._activate("policy.rolled_back", effect)
        return Activated(policy=policy, before=last.digest)

    async def shadow(self, digest: str | None, *, by: str) -> None:
        """Evaluate a stored bundle beside the active one from now on; None ends it.

        Raises: UnknownBundle, BundleInvalid, NotPublished.
        """
        members: dict[str, JSON] = {"by": by}
        if digest is not None:
            await self.compiled(digest)
            members["bundle"] = digest
        effect = SetShadow(digest=digest, started_at=self._clock.now(), started_by=by)
        kind = "policy.shadow_stopped" if digest is None else "policy.shadow_started"
        if not await self._record(kind, members, effect):
            raise UnknownBundle(f"no bundle `{digest}` is stored")

    async def compiled(self, digest: str) -> Policy:
        """Return a stored bundle, compiled. Raises: UnknownBundle, BundleInvalid, NotPublished if it is damaged."""
        return await compiled(self._bundles, digest)

    async def _vouched(self, digest: str, signatures: tuple[str, ...]) -> dict[str, JSON]:
        """Return what the record says of who vouches for a bundle. Raises: NotVouchedFor."""
        try:
            key_id = await asyncio.to_thread(self._keys.vouch, digest, signatures)
        except NotTrusted as error:
            raise NotVouchedFor(str(error)) from error
        return {} if key_id is None else {"key_id": key_id}

    async def _activate(self, kind: str, effect: ActivateBundle) -> None:
        # INVARIANT: what was vouched for once is asked again at every activation, also at one that goes back.
        vouched = await self._vouched(effect.digest, await self._bundles.signatures(effect.digest))
        members: dict[str, JSON] = {"bundle": effect.digest, "by": effect.activated_by, "reason": effect.reason}
        members.update(vouched)
        if effect.expect_active is not None:
            members["before"] = effect.expect_active
        if not await self._record(kind, members, effect):
            active = (await self._bundles.standing()).active
            raise StaleActivation(f"the active bundle is {active or 'none'}, not {effect.expect_active or 'none'}")

    async def _record(self, kind: str, members: Mapping[str, JSON], effect: Effect) -> bool:
        """Return whether the effect was applied. Raises: NotPublished."""
        try:
            entry = Entry(kind=kind, at=self._clock.now(), members=members, effect=effect)
            return (await self._recorder.append(entry).settled()).applied
        except RecordingFailed as error:
            raise NotPublished(f"it could not be recorded: {error}") from error


async def compiled(bundles: PostgresBundles, digest: str) -> Policy:
    """Return a stored bundle, compiled. Raises: UnknownBundle, BundleInvalid, NotPublished if it is damaged."""
    return await asyncio.to_thread(compile_files, await stored_files(bundles, digest))


async def stored_files(bundles: PostgresBundles, digest: str) -> dict[str, bytes]:
    """Return a stored bundle's files. Raises: UnknownBundle, NotPublished if they are damaged."""
    archive = await bundles.archive(digest)
    if archive is None:
        raise UnknownBundle(f"no bundle `{digest}` is stored")
    try:
        return await asyncio.to_thread(unpack, archive, digest)
    except ArchiveDamaged as error:
        raise NotPublished(f"the stored bundle {digest} is damaged: {error}") from error


def compile_files(files: Mapping[str, bytes]) -> Policy:
    """Return the policy of these files. Raises: BundleInvalid."""
    return Policy.compile(read_bundle(files))


def standing_activations(history: Sequence[Activation]) -> list[Activation]:
    """Return the activations that no rollback took back, oldest first. The last one's digest is active."""
    standing: list[Activation] = []
    for activation in history:
        if activation.rolled_back_from is None:
            standing.append(activation)
            continue
        while standing and standing[-1].digest != activation.digest:
            standing.pop()
        if not standing:
            standing.append(activation)
    return standing
