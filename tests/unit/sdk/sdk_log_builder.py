"""Builds streams as a service writes them, and as a forger would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast.audit.record import GENESIS, Receipt, canonical, leaf_hash, seal_message, timestamp
from holdfast.token import b64url

START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
ACT = "sha-256:" + "A" * 43


class Stream:
    """One stream: `records` are the bodies with their seals."""

    def __init__(self, name="a", *, predecessor: object = None, start=START, **opening):
        self.name = "str_" + name * 26
        self.key = Ed25519PrivateKey.generate()
        self.records: list[tuple[bytes, bytes | None]] = []
        self.head: Receipt | None = None
        self.at = start
        members = {"lane": "0", "seal_key": b64url(self.key.public_key().public_bytes_raw())}
        if isinstance(predecessor, Receipt):
            predecessor = as_json(predecessor)
        if predecessor is not None:
            members["predecessor"] = predecessor
        self.add("stream.open", **(members | opening))

    def add(self, kind="note", *, seal=True, after_s=1.0, raw=None, **members) -> Receipt:
        """Append a record. `raw` overrides what the chain writes."""
        self.at += timedelta(seconds=after_s)
        chained = {
            "stream": self.name,
            "seq": len(self.records),
            "prev": self.head.hash if self.head else GENESIS,
            "at": timestamp(self.at),
            "kind": kind,
        }
        body = canonical({**members, **chained, **(raw or {})})
        self.head = Receipt(stream=self.name, seq=len(self.records), hash=leaf_hash(body))
        self.records.append((body, self.key.sign(seal_message(self.head)) if seal else None))
        return self.head

    def allow(self, intent_id="int_1", act_hash=ACT, **members) -> Receipt:
        return self.add("decision", **({"intent_id": intent_id, "decision": "allow", "act_hash": act_hash} | members))

    def consume(self, allow: Receipt, txn="int_1", **members) -> Receipt:
        said = {
            "iss": "https://holdfast.test",
            "txn": txn,
            "jti": "jti_" + "1" * 32,
            "executor": "payments-api",
            "act_hash": ACT,
            "decision": as_json(allow),
        }
        return self.add("token.consumed", **(said | members))

    def void(self, target: Receipt, kind="decision.void") -> Receipt:
        return self.add(kind, void={"seq": target.seq, "hash": target.hash}, why="not released")

    def close(self) -> Receipt:
        return self.add("stream.close")


def as_json(receipt: Receipt) -> dict:
    return {"stream": receipt.stream, "seq": receipt.seq, "hash": receipt.hash}
