"""The executors' side: consume a token exactly once, and say what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import InvalidIntent, TokenRejected
from holdfast.intent import Action
from holdfast.reasons import ReasonCode
from holdfast.token import check_claims, verify_signature

from services.boundary import BoundaryUnavailable
from services.judgement import stopped_by
from services.ports import ConsumeToken, Entry, LimitsUnreachable, ReportOutcome, StoreUnreachable, TokenState
from services.settling import committed
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.intent import Resource
    from holdfast.strict_json import JSON
    from holdfast.token import Claims

    from services.boundary import Boundary
    from services.ports import (
        Clock,
        Consumed,
        Limits,
        Recorder,
        StandingOrders,
        TokenSigner,
        TokenStore,
    )

MAX_LIFETIME_S = 3600
_INVALID = "the token is not valid"

_REFUSALS: Mapping[TokenState, tuple[int, ReasonCode, str]] = {
    TokenState.CONSUMED: (409, ReasonCode.TOKEN_CONSUMED, "the token was consumed already"),
    TokenState.REVOKED: (403, ReasonCode.TOKEN_REVOKED, "the token was revoked"),
    TokenState.UNKNOWN: (403, ReasonCode.TOKEN_REVOKED, "no permission stands behind the token"),
}


class Consumption:
    """Consumes tokens and takes outcomes."""

    def __init__(
        self,
        *,
        issuer: str,
        recorder: Recorder,
        signer: TokenSigner,
        store: TokenStore,
        limits: Limits,
        orders: StandingOrders,
        audit: Boundary,
        clock: Clock,
    ) -> None:
        self._orders = orders
        self._issuer = issuer
        self._recorder = recorder
        self._signer = signer
        self._store = store
        self._limits = limits
        self._audit = audit
        self._clock = clock

    async def consume(
        self, executor: str, token: str, *, action: str, resource: Resource, parameters: Mapping[str, JSON]
    ) -> dict[str, JSON]:
        """Consume `token` for exactly this action; one of any number of racing calls returns.

        Raises: Problem 401 TOKEN_INVALID, 403 TOKEN_MISMATCH, TOKEN_REVOKED, EMERGENCY_HALT or AGENT_SUSPENDED, 409
        TOKEN_CONSUMED, 503.
        """
        # 1. Whose token is it, for whom, and is it in time?
        claims = self._verify(token, executor)
        # 2. Is it for what will run?
        self._same_action(claims, Action(action=action, resource=resource, parameters=parameters, executor=executor))
        # 3. Has somebody stopped it since? A halt is in force on tokens that are out, too.
        self._not_stopped(claims)
        # 4. What is known of it? A cheap look, so that a common repeat writes nothing.
        state = await self._state(claims)
        if state is not TokenState.FRESH:
            raise _refusal(state)
        # 5. Consume it: the database lets one caller through, and the log says so before anybody acts.
        if not await self._commit(_entry(claims, executor, self._clock)):
            state = await self._state(claims)
            raise _refusal(TokenState.CONSUMED if state is TokenState.FRESH else state)
        # 6. The clock again: committing took time.
        if self._clock.now().timestamp() >= claims.exp:
            raise Problem(401, ReasonCode.TOKEN_INVALID, _INVALID)
        return {
            "consumed": True,
            "txn": claims.txn,
            "jti": claims.jti,
            "sub": claims.sub,
            "aud": claims.aud,
            "action": claims.action,
            "act_hash": claims.act_hash,
            "category": claims.category,
            "env": claims.env,
            "risk": claims.risk,
            "mode": claims.mode,
            "exp": claims.exp,
        }

    async def report(
        self, executor: str, jti: str, *, outcome: str, detail: str | None, model_tokens: int | None = None
    ) -> dict[str, JSON]:
        """Record what became of a consumed token, and correct the agent's counter. The same report may come twice.

        Raises: Problem 404 if this executor did not consume it, 409 if another outcome stands, 503.
        """
        try:
            consumed = await self._store.consumed(self._issuer, jti)
        except StoreUnreachable as error:
            raise _away("the token's state cannot be read now") from error
        if consumed is None or consumed.executor != executor:
            raise Problem(404, ReasonCode.NOT_FOUND, "this executor consumed no such token")
        at = self._clock.now()
        members: dict[str, JSON] = {"jti": jti, "executor": executor, "outcome": outcome}
        if detail is not None:
            members["detail"] = detail
        if model_tokens is not None:
            members["model_tokens"] = model_tokens
        effect = ReportOutcome(iss=self._issuer, jti=jti, executor=executor, outcome=outcome, outcome_at=at)
        if not await self._commit(Entry(kind="token.outcome", at=at, members=members, effect=effect)):
            raise Problem(409, ReasonCode.OUTCOME_CONFLICT, "another outcome was reported before")
        if model_tokens is not None:
            await self._correct(consumed, model_tokens)
        return {"recorded": True, "jti": jti, "status": outcome}

    async def _correct(self, consumed: Consumed, model_tokens: int) -> None:
        # Only after the log has it. A report that is sent again is recorded again, and corrects once.
        if consumed.agent is None:
            return
        try:
            await self._limits.correct(consumed.agent, consumed.intent_id, model_tokens=model_tokens)
        except LimitsUnreachable as error:
            detail = "the outcome is recorded, but the agent's counter cannot be corrected now: send the report again"
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2) from error

    def _verify(self, token: str, executor: str) -> Claims:
        try:
            claims = verify_signature(token, self._signer.verify_keys())
            check_claims(
                claims,
                issuer=self._issuer,
                audience=executor,
                environments=None,
                now=self._clock.now().timestamp(),
                max_lifetime_s=MAX_LIFETIME_S,
            )
        except TokenRejected as error:
            if error.code == ReasonCode.TOKEN_MISMATCH:
                raise Problem(403, ReasonCode.TOKEN_MISMATCH, error.detail) from error
            # One text for every way a token can be bad: a prober learns nothing.
            raise Problem(401, ReasonCode.TOKEN_INVALID, _INVALID) from error
        if claims.cnf_jkt is not None:
            raise Problem(403, ReasonCode.TOKEN_MISMATCH, "the token asks for a proof of possession")
        return claims

    @staticmethod
    def _same_action(claims: Claims, action: Action) -> None:
        try:
            digest = action.digest()
        except InvalidIntent as error:
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, str(error)) from error
        if digest != claims.act_hash or action.action != claims.action:
            raise Problem(403, ReasonCode.TOKEN_MISMATCH, "the token is for another action or other arguments")

    def _not_stopped(self, claims: Claims) -> None:
        try:
            self._orders.check()
        except StoreUnreachable as error:
            raise _away("the operators' orders are not known now") from error
        stopped = stopped_by(self._orders.current(), claims.sub, category=claims.category, executor=claims.aud)
        if stopped is not None:
            raise Problem(403, stopped.reason_code, stopped.detail)

    async def _state(self, claims: Claims) -> TokenState:
        try:
            return await self._store.state(claims.iss, claims.txn, claims.jti)
        except StoreUnreachable as error:
            raise _away("the token's state cannot be read now") from error

    async def _commit(self, entry: Entry) -> bool:
        """Record on a commit alone. Returns whether the effect was applied. Raises: Problem 503."""
        try:
            return (await committed(self._recorder, self._audit, entry)).applied
        except BoundaryUnavailable as error:
            raise _away("it could not be recorded") from error


def _entry(claims: Claims, executor: str, clock: Clock) -> Entry:
    at = clock.now()
    stream, seq, digest = claims.rcp.split(":")
    return Entry(
        kind="token.consumed",
        at=at,
        members={
            "iss": claims.iss,
            "txn": claims.txn,
            "jti": claims.jti,
            "executor": executor,
            "act_hash": claims.act_hash,
            "decision": {"stream": stream, "seq": int(seq), "hash": digest},
        },
        effect=ConsumeToken(iss=claims.iss, txn=claims.txn, jti=claims.jti, executor=executor, consumed_at=at),
    )


def _refusal(state: TokenState) -> Problem:
    status, reason_code, detail = _REFUSALS[state]
    return Problem(status, reason_code, detail)


def _away(detail: str) -> Problem:
    return Problem(503, ReasonCode.AUDIT_UNAVAILABLE, detail, retry_after_s=2)
