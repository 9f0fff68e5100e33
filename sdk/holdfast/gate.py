"""The executor's order of checks, written once for plain code and event loops. Source: design 4.2.

INVARIANT: a `Grant` exists only after every numbered check of `Gate.admit` passed, consumption included.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import rfc8785

from holdfast import strict_json
from holdfast.consumption import Outcome, OutcomeStatus
from holdfast.errors import InvalidIntent, MalformedJSON, ServiceUnavailable, TokenRejected
from holdfast.intent import Action, Intent, Resource
from holdfast.reasons import Mode, ReasonCode
from holdfast.token import Claims, check_claims, check_time, verify_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.consumption import Consumption
    from holdfast.exchange import Outside
    from holdfast.jwks import KeySource
    from holdfast.strict_json import JSON

MAX_LIFETIME_LIMIT_S: Final = 24 * 3600
MAX_MODEL_TOKENS: Final = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the executor is about to run, as its caller says. Nothing of it is trusted or kept."""

    action: str
    resource: Resource
    parameters: Mapping[str, JSON]


@dataclass(slots=True)
class Usage:
    """What running cost, as far as the body said so."""

    model_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A consumed permission to run exactly this, once. Take what you run from here and from nowhere else.

    `parameters` are read back from the canonical bytes that were digested; the caller's objects are not in it.
    """

    claims: Claims
    action: str
    resource: Resource
    parameters: dict[str, JSON]
    deadline: float = field(repr=False)
    monotonic: Callable[[], float] = field(repr=False)
    usage: Usage = field(default_factory=Usage, repr=False)

    @property
    def intent_id(self) -> str:
        """The intent that this grant executes."""
        return self.claims.txn

    def report_model_tokens(self, count: int) -> None:
        """Say how many model tokens running this really used. The outcome's report carries the last number said.

        It takes the place of what the agent announced in its daily limit. Raises: ValueError.
        """
        if type(count) is not int or not 0 <= count <= MAX_MODEL_TOKENS:
            raise ValueError(f"model tokens are a count from 0 to {MAX_MODEL_TOKENS}")
        self.usage.model_tokens = count

    def remaining_s(self) -> float:
        """Return the seconds left to run, for the time-outs of what the body calls. Never negative."""
        return max(0.0, self.deadline - self.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an executor accepts. `environments=None` accepts every environment; `modes` are ways of permission."""

    issuer: str
    audience: str
    environments: frozenset[str] | None
    max_lifetime_s: int
    run_s: float
    modes: frozenset[Mode] = frozenset(Mode)

    def __post_init__(self) -> None:
        """Refuse terms that would let anything in, or nothing."""
        if not self.audience or not self.issuer:
            raise ValueError("a guard stands before one named executor and trusts one issuer")
        if self.environments is not None and not self.environments:
            raise ValueError("no environment at all would refuse everything; None accepts every one")
        if not self.modes or not all(isinstance(mode, Mode) for mode in self.modes):
            raise ValueError("an executor accepts at least one mode, and known ones")
        if not 0 < self.max_lifetime_s <= MAX_LIFETIME_LIMIT_S or not 0 < self.run_s < float("inf"):
            raise ValueError("0 < max_lifetime_s <= one day, and run_s is positive and finite")


class Gate:
    """One way in, over one outside."""

    def __init__(self, outside: Outside, keys: KeySource, terms: Terms, consumption: Consumption) -> None:
        self._outside = outside
        self._keys = keys
        self._terms = terms
        self._consumption = consumption

    async def admit(self, token: object, wanted: Wanted) -> Grant:
        """Walk the order of checks. Whatever is doubtful at any step is a TokenRejected."""
        # 1. One token, from one place. A transport that carries two is refused where it is read (`holdfast.asgi`).
        if not isinstance(token, str):
            raise TokenRejected(ReasonCode.TOKEN_INVALID, "there is not exactly one token")

        # 2. Size and shape. 3. Header bytes of a known key. 4. Signature. 5. Canonical base64 and strict JSON.
        try:
            trusted = await self._keys.for_header(token.partition(".")[0])
        except ServiceUnavailable as error:
            raise TokenRejected(ReasonCode.SERVICE_UNAVAILABLE, str(error)) from error
        claims = verify_signature(token, trusted)

        # 6. Version, issuer, audience, environment, mode. 7. Time, and the lifetime's cap.
        check_claims(
            claims,
            issuer=self._terms.issuer,
            audience=self._terms.audience,
            environments=self._terms.environments,
            now=self._outside.now(),
            max_lifetime_s=self._terms.max_lifetime_s,
        )
        if claims.mode not in self._terms.modes:
            raise TokenRejected(ReasonCode.TOKEN_MISMATCH, f"this executor accepts no token of mode {claims.mode}")

        # 8. Proof of possession. None can be checked here, so a token that demands one is refused.
        if claims.cnf_jkt is not None:
            raise TokenRejected(ReasonCode.TOKEN_INVALID, "the token demands a proof of possession; none is supported")

        # 9. What was approved is what will run: from here on only the copy read back from canonical bytes exists.
        exact = _exact(wanted, self._terms.audience)
        if not hmac.compare_digest(claims.act_hash, exact.digest()) or claims.action != exact.action:
            raise TokenRejected(ReasonCode.TOKEN_MISMATCH, "the token is for another action")

        # 10. Revocation and 11. consumption are one atomic step of whoever consumes: between two there is a gap.
        await self._consumption.consume(self._outside, claims, _report(token, exact))

        # 12. The clock again: consuming may have taken longer than the token lives.
        try:
            check_time(claims, now=self._outside.now())
        except TokenRejected:
            await self.report(claims, OutcomeStatus.FAILED, "not run: expired while it was consumed")
            raise

        # 13. Run with a deadline, and 14. report: the caller's context does both (`holdfast.executor`).
        return Grant(
            claims=claims,
            action=exact.action,
            resource=exact.resource,
            parameters=dict(exact.parameters),
            deadline=self._outside.monotonic() + self._terms.run_s,
            monotonic=self._outside.monotonic,
        )

    async def report(
        self, claims: Claims, status: OutcomeStatus, detail: str, *, model_tokens: int | None = None
    ) -> None:
        """Close the loop. What cannot be told now is kept; nothing is raised."""
        outcome = Outcome(iss=claims.iss, jti=claims.jti, status=status, detail=detail, model_tokens=model_tokens)
        await self._consumption.report(self._outside, outcome)

    async def flush(self) -> int:
        """Tell the service everything that was kept. Returns how many consumptions were settled."""
        settled = total = await self._consumption.flush(self._outside, at_once=True)
        while settled:
            settled = await self._consumption.flush(self._outside)
            total += settled
        return total


def _exact(wanted: Wanted, audience: str) -> Action:
    """Return the action as its canonical bytes say it. Raises: TokenRejected for what has none: no token is for it."""
    try:
        action = Action(action=wanted.action, resource=wanted.resource, parameters=wanted.parameters, executor=audience)
        document = strict_json.loads(action.canonical())
        if isinstance(document, dict):
            del document["executor"]
        intent = Intent.from_json(document)
    except (InvalidIntent, MalformedJSON, TypeError, ValueError, AttributeError) as error:
        raise TokenRejected(ReasonCode.TOKEN_MISMATCH, "what would run has no exact form") from error
    return Action(action=intent.action, resource=intent.resource, parameters=intent.parameters, executor=audience)


def _report(token: str, action: Action) -> bytes:
    return rfc8785.dumps(
        {
            "token": token,
            "action": action.action,
            "resource": {"type": action.resource.type, "id": action.resource.id},
            "parameters": dict(action.parameters),
        }
    )
