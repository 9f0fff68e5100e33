"""Orloj's own resources, closed: what they do not know is refused. Source: OrlojHQ/orloj dbbf19a, openapi/schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from services.decision.strict_model import Items, StrictModel

CLASSES: Final = ("read", "write", "delete", "admin")

OperationClass = Literal["read", "write", "delete", "admin"]
Verdict = Literal["allow", "deny", "approval_required"]
Words = Annotated[str, Field(min_length=1, max_length=100_000)]


class Metadata(StrictModel):
    """What names a resource."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    namespace: str | None = None
    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)


class Resource(StrictModel):
    """What every document starts with."""

    api_version: Literal["orloj.dev/v1"] | None = Field(default=None, alias="apiVersion")
    metadata: Metadata


class _Memory(StrictModel):
    ref: str


class _AgentLimits(StrictModel):
    max_steps: int | None = None
    timeout: str | None = None


class _AgentSpec(StrictModel):
    model_ref: Words | None = None
    prompt: Words | None = None
    tools: Items[Words] = ()
    allowed_tools: Items[Words] = ()
    roles: Items[Words] = ()
    memory: _Memory | None = None
    limits: _AgentLimits | None = None
    fallback_model_refs: Items[Words] = ()


class AgentResource(Resource):
    """kind: Agent."""

    kind: Literal["Agent"]
    spec: _AgentSpec


class _RoleSpec(StrictModel):
    description: str | None = None
    permissions: Items[Words] = ()


class AgentRole(Resource):
    """kind: AgentRole."""

    kind: Literal["AgentRole"]
    spec: _RoleSpec


class _OperationRule(StrictModel):
    operation_class: Literal["read", "write", "delete", "admin", "*"]
    verdict: Verdict


class _PermissionSpec(StrictModel):
    tool_ref: Words | None = None
    action: Literal["invoke"] = "invoke"
    match_mode: Literal["all", "any"] = "all"
    apply_mode: Literal["global", "scoped"] = "global"
    target_agents: Items[Words] = ()
    required_permissions: Items[Words] = ()
    operation_rules: Items[_OperationRule] = ()


class ToolPermission(Resource):
    """kind: ToolPermission."""

    kind: Literal["ToolPermission"]
    spec: _PermissionSpec


class _PolicySpec(StrictModel):
    apply_mode: Literal["scoped", "global"] = "scoped"
    target_systems: Items[Words] = ()
    target_tasks: Items[Words] = ()
    target_agents: Items[Words] = ()
    allowed_models: Items[Words] = ()
    blocked_tools: Items[Words] = ()
    max_tokens_per_run: Annotated[int, Field(ge=1, le=10**15)] | None = None


class AgentPolicy(Resource):
    """kind: AgentPolicy."""

    kind: Literal["AgentPolicy"]
    spec: _PolicySpec


class _Retry(StrictModel):
    max_attempts: int | None = None
    backoff: str | None = None
    max_backoff: str | None = None
    jitter: str | None = None


class _Runtime(StrictModel):
    timeout: str | None = None
    isolation_mode: str | None = None
    retry: _Retry | None = None


class _Auth(StrictModel):
    profile: str | None = None
    secret_ref: str | None = Field(default=None, alias="secretRef")


class _ToolSpec(StrictModel):
    type: str | None = None
    endpoint: str | None = None
    capabilities: Items[str] = ()
    operation_classes: Items[OperationClass] = ()
    risk_level: Literal["low", "medium", "high", "critical"] | None = None
    runtime: _Runtime | None = None
    auth: _Auth | None = None


class ToolResource(Resource):
    """kind: Tool."""

    kind: Literal["Tool"]
    spec: _ToolSpec


class _ApprovalSpec(StrictModel):
    task_ref: str | None = None
    tool: str | None = None
    operation_class: str | None = None
    agent: str | None = None
    input: Any = None
    reason: str | None = None
    ttl: str | None = None


class _ApprovalStatus(StrictModel):
    phase: str | None = None
    decision: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None
    expires_at: str | None = None


class ToolApproval(Resource):
    """kind: ToolApproval: something that happened, not a policy."""

    kind: Literal["ToolApproval"]
    spec: _ApprovalSpec
    status: _ApprovalStatus | None = None


KINDS: Final[dict[str, type[Resource]]] = {
    "Agent": AgentResource,
    "AgentRole": AgentRole,
    "ToolPermission": ToolPermission,
    "AgentPolicy": AgentPolicy,
    "Tool": ToolResource,
    "ToolApproval": ToolApproval,
}
