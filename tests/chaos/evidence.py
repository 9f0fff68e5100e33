"""What must hold after any fault: asked of the database, the log, the ledger and the auditor's command."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
from holdfast.token import VerifyKey, verify_signature

if TYPE_CHECKING:
    from chaos.load import Load
    from e2e.running_service import RunningService

_FINAL = frozenset({"granted", "denied", "expired", "cancelled", "superseded"})


class Evidence:
    """One look at everything, once the service is well again."""

    def __init__(
        self, intents: list[dict[str, Any]], consumed: set[tuple[str, str]], log: list[dict[str, Any]]
    ) -> None:
        self.intents = intents
        self.consumed = consumed
        self.log = log
        voids = [record["void"] | {"in": record["stream"]} for record in log if "void" in record]
        self.voided = {(void.get("stream", void["in"]), void["seq"]) for void in voids}

    @classmethod
    async def gather(cls, service: RunningService) -> Evidence:
        connection = await asyncpg.connect(service.database_url)
        try:
            intents = [
                dict(row)
                for row in await connection.fetch(
                    "SELECT i.*, q.state AS waits FROM intents i LEFT JOIN queue_entries q USING (intent_id)"
                )
            ]
            rows = await connection.fetch("SELECT txn, jti FROM consumptions")
            bodies = await connection.fetch("SELECT body, encode(hash, 'hex') AS hash FROM audit_records")
        finally:
            await connection.close()
        log = [json.loads(bytes(row["body"])) | {"own_hash": row["hash"]} for row in bodies]
        return cls(intents, {(row["txn"], row["jti"]) for row in rows}, log)

    # --- what must hold -------------------------------------------------------------------------------------------

    def every_intent_has_exactly_one_end(self, load: Load) -> None:
        """One stored intent per key, nothing waits, and every id that was told is that intent or was voided."""
        stored = {(row["agent"], row["idempotency_key"]): row for row in self.intents}
        by_id = {row["intent_id"]: row for row in self.intents}
        voided = {
            record["intent_id"]
            for record in self.log
            if (record["stream"], record["seq"]) in self.voided and "intent_id" in record
        }
        for planned in load.plan:
            row = stored[planned.agent, planned.key]
            assert row["status"] in _FINAL, (planned, row["status"])
            assert row["waits"] is None, (planned, row["waits"])
            for intent_id in planned.ids:
                assert intent_id == row["intent_id"] or (intent_id not in by_id and intent_id in voided), planned

    def the_log_ends_every_intent_once(self, load: Load) -> None:
        """Of the decisions that stand, one is final, and it is what the database says.

        A grant that was not released and yet is not void is taken back by the denial that names its token.
        """
        taken_back = {
            record["jti"]
            for record in self.log
            if record["kind"] in {"decision", "signing_failed"} and "jti" in record and record["decision"] == "deny"
        }
        keys = {(planned.agent, planned.key) for planned in load.plan}
        ends: dict[str, list[str]] = {}
        for record in self.log:
            final = record["kind"] == "decision" and record["status"] in _FINAL and record.get("jti") not in taken_back
            if final and (record["stream"], record["seq"]) not in self.voided:
                ends.setdefault(record["intent_id"], []).append(record["status"])
        for row in self.intents:
            if (row["agent"], row["idempotency_key"]) in keys:
                assert ends.get(row["intent_id"]) == [row["status"]], (row["intent_id"], ends.get(row["intent_id"]))

    def nothing_ran_without_a_consumed_token(self, load: Load) -> None:
        lines = load.lines()
        for name in ("txn", "jti", "key"):
            twice = [what for what, count in Counter(line[name] for line in lines).items() if count > 1]
            assert twice == [], f"more than one line for one {name}"
        granted = {(row["intent_id"], row["jti"]) for row in self.intents if row["status"] == "granted"}
        recorded = {
            (record["txn"], record["jti"])
            for record in self.log
            if record["kind"] == "token.consumed" and (record["stream"], record["seq"]) not in self.voided
        }
        for line in lines:
            place = line["txn"], line["jti"]
            assert place in self.consumed, "a line without a consumed token"
            assert place in granted
            assert place in recorded, "a consumption that the log does not hold"

    def every_token_has_its_decision(self, service: RunningService, load: Load) -> None:
        """Whoever holds a token can prove the decision behind it, and that decision stands."""
        keys = tuple(VerifyKey.from_jwk(key) for key in service.get("/.well-known/jwks.json").json()["keys"])
        places = {(record["stream"], record["seq"], record["own_hash"]): record for record in self.log}
        for token in load.tokens():
            claims = verify_signature(token, keys)
            stream, seq, digest = claims.rcp.split(":")
            record = places[stream, int(seq), digest]
            assert (record["kind"], record["decision"], record["status"]) == ("decision", "allow", "granted")
            assert (record["intent_id"], record["jti"]) == (claims.txn, claims.jti)
            assert (stream, int(seq)) not in self.voided, f"{claims.jti} was released, and its decision is void"


async def check(service: RunningService, load: Load) -> None:
    """Check everything at once."""
    evidence = await Evidence.gather(service)
    evidence.every_intent_has_exactly_one_end(load)
    evidence.nothing_ran_without_a_consumed_token(load)
    evidence.every_token_has_its_decision(service, load)
    evidence.the_log_ends_every_intent_once(load)
    verified = service.verify(load.receipts())
    assert verified.returncode == 0, verified.stdout[-2000:] + verified.stderr[-2000:]
    listed = service.get("/v1/operator/queue", headers=service.bearer("operator")).json()
    assert listed["items"] == []
    assert service.faults() == []
