"""What the signer of an embedded deployment may sign, derived from the policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from services.decision.policy import Policy


def signer_profile(policy: Policy, *, issuer: str) -> JSON:
    """Return the contents of the signer's profile file. Lifetimes are seconds."""
    executors = policy.bundle.catalog.executors
    audiences = {name: executor.max_token_seconds for name, executor in executors.items()}
    return {
        "issuer": issuer,
        "audiences": dict(audiences),
        "max_lifetime_s": max(audiences.values(), default=0),
    }
