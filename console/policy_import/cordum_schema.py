"""Cordum's safety policy, closed: what it does not know is refused. Source: the format of Cordum e00450ed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from services.decision.strict_model import Items, StrictModel

Words = Annotated[str, Field(min_length=1, max_length=500)]
Prose = Annotated[str, Field(max_length=2000)]
Decision = Literal["allow", "deny", "require_approval", "allow_with_constraints", "throttle"]


class Mcp(StrictModel):
    """Lists of MCP servers and tools."""

    allow_servers: Items[str] = ()
    deny_servers: Items[str] = ()
    allow_tools: Items[str] = ()
    deny_tools: Items[str] = ()
    allow_resources: Items[str] = ()
    deny_resources: Items[str] = ()
    allow_actions: Items[str] = ()
    deny_actions: Items[str] = ()


class Match(StrictModel):
    """What a rule is about. Everything that is given must hold."""

    tenants: Items[Words] = ()
    topics: Items[Words] = ()
    capabilities: Items[str] = ()
    risk_tags: Items[str] = ()
    requires: Items[str] = ()
    pack_ids: Items[str] = ()
    actor_ids: Items[str] = ()
    actor_types: Items[str] = ()
    agent_risk_tiers: Items[str] = ()
    agent_data_classifications: Items[str] = ()
    labels: Mapping[str, Any] = Field(default_factory=dict)
    label_allowlist: Mapping[str, Any] = Field(default_factory=dict)
    label_threshold: Mapping[str, Any] = Field(default_factory=dict)
    secrets_present: bool | None = None
    predicate: str | None = None
    mcp: Mcp | None = None

    def beyond(self) -> Iterator[tuple[str, Any]]:
        """Yield what is asked for beside tenants and topics."""
        for name, value in self.model_dump(mode="json", exclude={"tenants", "topics", "mcp"}).items():
            if value or value is False:
                yield name, value
        if self.mcp is not None and (lists := self.mcp.model_dump(mode="json", exclude_defaults=True)):
            yield "mcp", lists


class Velocity(StrictModel):
    """How often is too often."""

    max_requests: int
    window_seconds: int
    key: str = ""


class JobRule(StrictModel):
    """One rule; the first that matches decides."""

    id: Words
    match: Match = Match()
    velocity: Velocity | None = None
    decision: Decision
    reason: Prose = ""
    constraints: Mapping[str, Any] = Field(default_factory=dict)
    remediations: Items[Mapping[str, Any]] = ()


class ContentMatch(StrictModel):
    """What a content rule is about."""

    topics: Items[Words] = ()
    scanners: Items[str] = ()
    content_patterns: Items[str] = ()
    keywords: Items[str] = ()


class ContentRule(StrictModel):
    """One rule about content."""

    id: Words
    severity: str | None = None
    match: ContentMatch = ContentMatch()
    decision: Literal["allow", "deny", "require_approval", "quarantine", "redact"]
    reason: Prose = ""


class InputPolicy(StrictModel):
    """How input is scanned."""

    fail_mode: Literal["closed", "open"] = "closed"
    max_scan_bytes: int | None = None


class OutputPolicy(StrictModel):
    """How output is scanned."""

    enabled: bool | None = None
    fail_mode: Literal["closed", "open"] = "closed"


class RequireHuman(StrictModel):
    """When findings are softened into questions."""

    min_severity_for_deny: str | None = None
    min_confidence_for_deny: float | int | None = None
    downgrade_when_prompt_only: bool | None = None


class Selector(StrictModel):
    """Whom a policy below the global tier is about."""

    workflow_id: str | None = None
    job_id: str | None = None
    session_id: str | None = None


class Tenant(StrictModel):
    """What one tenant may do."""

    allow_topics: Items[Words] = ()
    deny_topics: Items[Words] = ()
    max_concurrent_jobs: int = 0
    mcp: Mcp | None = None


class Document(StrictModel):
    """safety.yaml, or the fragment of a pack, which has `rules` only."""

    version: Literal["v1"] | None = None
    tier: Literal["global", "workflow", "job"] | None = None
    selector: Selector | None = None
    default_decision: str | None = None
    default_tenant: Words = "default"
    input_policy: InputPolicy | None = None
    rules: Items[JobRule] = ()
    input_rules: Items[ContentRule] = ()
    output_policy: OutputPolicy | None = None
    output_rules: Items[ContentRule] = ()
    require_human: RequireHuman | None = None
    tenants: Mapping[str, Tenant] = Field(default_factory=dict)
