"""The active bundle of this process: followed in the store, believed for its lease, never replaced by a worse one."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.decision.archive import ArchiveDamaged, unpack
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid
from services.decision.policy import Policy
from services.policy_files import read_directory
from services.policy_keys import NotTrusted
from services.ports import BundleStale, Entry, RecordingFailed, StoreUnreachable
from services.publishing import compile_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.strict_json import JSON

    from services.policy_keys import TrustedKeys
    from services.ports import Clock, Recorder
    from services.postgres.bundles import PostgresBundles, Standing

_log = logging.getLogger(__name__)

INTERVAL_S: Final = 0.4


class NoPolicies(Exception):
    """There is no bundle to start with; the text says what to do."""


class _Refused(Exception):
    """The active bundle of the store may not be used here; the text says why."""


class _NotVouchedFor(_Refused):
    """No trusted key signed it. That can change: a signature may come, or a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The bundle that runs in the shadow. `run` numbers the shadow run."""

    run: int
    policy: Policy


class ActivePolicies:
    """The PolicySource over the store.

    A swap is one assignment on the event loop: a decision under way keeps the policy that it began with. `on_stale` is
    told after every look at the store whether the alarm stands.
    """

    def __init__(
        self,
        bundles: PostgresBundles,
        *,
        clock: Clock,
        keys: TrustedKeys,
        cache: Path,
        on_stale: Callable[[bool], None] = lambda _: None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._bundles = bundles
        self._clock = clock
        self._keys = keys
        self._cache = cache
        self._on_stale = on_stale
        self._interval_s = interval_s
        self._policy: Policy | None = None
        self._candidate: Candidate | None = None
        self._heard_at: float | None = None
        self._rejected: dict[str, str] = {}  # why, by digest; a digest is tried once
        self._unvouched: str | None = None  # the digest that was reported last
        self._alarm: str | None = None
        self._recorder: Recorder | None = None
        self._bad_candidate: int | None = None

    # --- the port -------------------------------------------------------------------------------------------------

    def current(self) -> Policy:
        """Return the last good policy."""
        if self._policy is None:
            raise RuntimeError("the policies are loaded before anything asks for them")
        return self._policy

    def check_lease(self) -> None:
        """Return while `current` may decide. Raises: BundleStale."""
        lease_s = self.current().settings.limits.lease_seconds
        if self._heard_at is None:
            raise BundleStale("the source of the policies has not been heard since the start")
        silent_s = self._clock.monotonic() - self._heard_at
        if silent_s > lease_s:
            raise BundleStale(
                f"the source of the policies has been silent for {silent_s:.0f} s, the lease is {lease_s} s"
            )

    def candidate(self) -> Candidate | None:
        """Return what runs in the shadow."""
        return self._candidate

    def trouble(self) -> str | None:
        """Return why the active bundle of the store is not the one in use here, or why nothing may decide."""
        if self._alarm is not None:
            return self._alarm
        try:
            self.check_lease()
        except BundleStale as stale:
            return str(stale)
        return None

    # --- start ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the active bundle from the store, or the last good one from the cache.

        Raises: NoPolicies when there is neither: without policies nothing starts.
        """
        why = "no policy was ever activated: run `holdfast provision`, or `holdfast policy apply DIR`"
        try:
            await self.look()
        except StoreUnreachable as error:
            why = f"the store of the policies is away, and there is no usable copy here: {error}"
        if self._alarm is not None:
            why = self._alarm
        if self._policy is None:
            self._policy = await asyncio.to_thread(self._read_cache)
            if self._policy is None:
                raise NoPolicies(why)
            _log.warning("the policies are the last good copy, %s: %s", self._policy.digest, why)

    def record_to(self, recorder: Recorder) -> None:
        """Take the log, and tell it what was loaded so far."""
        self._recorder = recorder
        self._announce(self.current())
        for digest, why in self._rejected.items():
            self._record("policy.rejected", {"bundle": digest, "why": why})

    # --- following ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnreachable as error:
                _log.debug("the store of the policies did not answer: %s", error)
            self._on_stale(self.trouble() is not None)
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """Look at the store once, and take over what is active there. Raises: StoreUnreachable."""
        asked_at = self._clock.monotonic()  # before the question: the lease never outlives what was heard
        standing = await self._bundles.standing()
        if standing.active is None:
            # Nothing to follow. A bundle in use stays in use, on its lease: an emptied store confirms nothing.
            self._alarm = None if self._policy is None else "the store names no active bundle"
            return
        if self._policy is not None and standing.active == self._policy.digest:
            self._alarm = None
        else:
            try:
                await self._take_over(standing.active)
            except _NotVouchedFor as refused:
                self._refuse(standing.active, str(refused), known=self._unvouched == standing.active)
                self._unvouched = standing.active
            except _Refused as refused:
                self._refuse(standing.active, str(refused), known=standing.active in self._rejected)
                self._rejected[standing.active] = str(refused)
            else:
                self._alarm = None
        self._heard_at = asked_at
        await self._follow_candidate(standing)

    async def _take_over(self, digest: str) -> None:
        if digest in self._rejected:
            raise _Refused(self._rejected[digest])
        signatures = await self._bundles.signatures(digest)
        await asyncio.to_thread(self._vouch, digest, signatures)
        archive = await self._archive(digest)
        policy = await asyncio.to_thread(_compile, archive, digest)
        # INVARIANT: only what is vouched for and compiled whole, from bytes of this digest, is ever assigned here.
        self._policy = policy
        self._unvouched = None
        _log.info("the policies are %s", digest)
        await asyncio.to_thread(self._write_cache, digest, signatures, archive)
        self._announce(policy)

    def _vouch(self, digest: str, signatures: tuple[str, ...]) -> None:
        try:
            self._keys.vouch(digest, signatures)
        except NotTrusted as error:
            raise _NotVouchedFor(str(error)) from error

    async def _archive(self, digest: str) -> bytes:
        archive = await self._bundles.archive(digest)
        if archive is None:
            raise _Refused(f"the active bundle {digest} is not stored")
        return archive

    def _refuse(self, digest: str, why: str, *, known: bool) -> None:
        self._alarm = why
        if not known:
            kept = "nothing" if self._policy is None else self._policy.digest
            _log.error("the active bundle %s is refused here, and %s stays in use: %s", digest, kept, why)
            self._record("policy.rejected", {"bundle": digest, "why": why})

    async def _follow_candidate(self, standing: Standing) -> None:
        known = self._candidate
        if standing.shadow is None or standing.candidate is None:
            self._candidate = None
        elif (known is None or known.run != standing.shadow) and standing.shadow != self._bad_candidate:
            try:
                archive = await self._archive(standing.candidate)
                policy = await asyncio.to_thread(_compile, archive, standing.candidate)
                self._candidate = Candidate(run=standing.shadow, policy=policy)
            except _Refused as refused:
                self._candidate, self._bad_candidate = None, standing.shadow
                _log.error("the candidate %s does not run in the shadow here: %s", standing.candidate, refused)

    # --- evidence -------------------------------------------------------------------------------------------------

    def _announce(self, policy: Policy) -> None:
        for warning in policy.warnings:
            _log.warning("%s", warning)
        executors: list[JSON] = [*sorted(policy.executors)]
        self._record("policy.loaded", {"bundle": policy.digest, "agents": len(policy.agents), "executors": executors})

    def _record(self, kind: str, members: dict[str, JSON]) -> None:
        if self._recorder is None:
            return
        try:
            self._recorder.append(Entry(kind=kind, at=self._clock.now(), members=members, journal_may_release=True))
        except RecordingFailed as error:
            _log.error("%s of %s could not be recorded: %s", kind, members["bundle"], error)

    # --- the copy for a start in an outage --------------------------------------------------------------------------

    def _read_cache(self) -> Policy | None:
        try:
            head, _, archive = self._cache.read_bytes().partition(b"\n")
            digest, *signatures = head.decode("ascii", "replace").split(" ")
            self._vouch(digest, tuple(signatures))
            return _compile(archive, digest)
        except (OSError, _Refused) as error:
            _log.warning("there is no usable copy of the policies: %s", error)
            return None

    def _write_cache(self, digest: str, signatures: tuple[str, ...], archive: bytes) -> None:
        temporary: str | None = None
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._cache.parent, prefix=".policy-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(" ".join((digest, *signatures)).encode("ascii") + b"\n" + archive)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._cache)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            _log.warning("the copy of the policies could not be written: %s", error)


def load_policy(directory: Path) -> Policy:
    """Read and compile a bundle. Raises: BundleInvalid, with every finding."""
    return Policy.compile(read_bundle(read_directory(directory)))


def _compile(archive: bytes, digest: str) -> Policy:
    try:
        return compile_files(unpack(archive, digest))
    except ArchiveDamaged as error:
        raise _Refused(str(error)) from error
    except BundleInvalid as error:
        raise _Refused(str(error)) from error
