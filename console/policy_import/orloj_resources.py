"""Orloj's own resources: Agent, AgentRole, ToolPermission, AgentPolicy, Tool, ToolApproval.

Everything in them is known before a call is made, so each tool of each agent gets one answer: it is a tool of the
agent, it needs an approval, or it is none of its tools. Source: OrlojHQ/orloj dbbf19a, docs on governance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from console.policy_import.draft import Action, Agent, Category, Draft, Rule, Sample, is_action, is_name
from console.policy_import.orloj_schema import (
    CLASSES,
    KINDS,
    AgentPolicy,
    AgentResource,
    AgentRole,
    Resource,
    ToolApproval,
    ToolPermission,
    ToolResource,
)
from console.policy_import.source import Imported, Refusals, visible
from services.decision import cedar
from services.decision.strict_model import read_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.strict_json import JSON

    from services.decision.strict_yaml import Node

EXECUTOR: Final = "agent-tools"
APPROVERS: Final = "approvers"

R_co = TypeVar("R_co", bound=Resource, covariant=True)

_STRICTNESS: Final = ("allow", "hold", "deny")
_PERMISSION: Final = str.maketrans({"-": "_", "/": "_", "\\": "_"})


@dataclass(frozen=True, slots=True)
class _Read(Generic[R_co]):
    path: str
    value: R_co
    tree: Node

    def line(self, *path: str | int) -> int:
        return self.tree.at(*path)[0]

    @property
    def name(self) -> str:
        return self.value.metadata.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What one agent may do with one tool. `verdict` is allow, hold or deny; `why` says which resource decided."""

    verdict: str
    why: str


def same(name: str) -> str:
    """Return the form in which names compare."""
    return name.lower()


def permission(text: str) -> str:
    """Return the form in which permissions compare."""
    return text.lower().translate(_PERMISSION)


def convert(parts: Sequence[tuple[str, str, int, bytes]], *, keep: frozenset[str]) -> Imported:
    """Return one bundle from documents as (path, kind, line, bytes). Raises: BundleInvalid, UnknownAllowance."""
    refusals = Refusals()
    for path, kind, line, _ in parts:
        if kind not in KINDS:
            refusals.add(path, line, f"the kind `{kind[:60]}` cannot be imported: {', '.join(KINDS)} can")
    refusals.check()
    read = [_Read(path, *read_model(path, data, KINDS[kind])) for path, kind, _, data in parts]
    origin = parts[0][0] if len(parts) == 1 else f"{len(parts)} Orloj resources"
    return _Import(read, Draft(origin, keep)).run()


class _Import:
    def __init__(self, read: Sequence[_Read[Resource]], draft: Draft) -> None:
        self._draft = draft
        self._read = read
        self._agents = list(_of(read, AgentResource))
        self._roles = {same(role.name): role for role in _of(read, AgentRole)}
        self._permissions = list(_of(read, ToolPermission))
        self._policies = list(_of(read, AgentPolicy))
        self._tools = {same(tool.name): tool for tool in _of(read, ToolResource)}
        self._spelled: dict[str, str] = {}

    def run(self) -> Imported:
        """Convert: refuse what is contradictory, name the tools, answer for each agent and tool, then the policies."""
        self._refuse()
        self._catalogue()
        for agent in self._agents:
            self._agent(agent)
        for policy in self._policies:
            self._policy(policy)
        for approval in _of(self._read, ToolApproval):
            message = f"the approval `{visible(approval.name)}` is something that happened, not a policy"
            self._draft.left_out(approval.path, approval.line("metadata", "name"), message)
        return self._draft.finish()

    def _refuse(self) -> None:
        refusals, seen = Refusals(), set[tuple[type[Resource], str]]()
        for one in self._read:
            line = one.line("metadata", "name")
            key = type(one.value), same(one.name)
            if key in seen:
                refusals.add(one.path, line, f"the {type(one.value).__name__} `{visible(one.name)}` is defined twice")
            seen.add(key)
            if isinstance(one.value, AgentResource) and not is_name(one.name):
                refusals.add(one.path, line, f"`{visible(one.name)}` cannot name an agent")
        for agent in self._agents:
            for index, role in enumerate(agent.value.spec.roles):
                if same(role) not in self._roles:
                    line = agent.line("spec", "roles", index)
                    refusals.add(agent.path, line, f"the role `{visible(role)}` is in none of the files")
        refusals.check()

    # --- tools ------------------------------------------------------------------------------------------------------

    def _catalogue(self) -> None:
        draft = self._draft
        draft.executors[EXECUTOR] = "The tools behind the imported agents"
        for name, tool in self._tools.items():
            self._spelled[name] = tool.name
        for agent in self._agents:
            for index, name in enumerate(agent.value.spec.tools):
                spelled = self._spelled.setdefault(same(name), name)
                if spelled != name:
                    message = f"names compare exactly here: calls say `{visible(spelled)}`, not `{visible(name)}`"
                    draft.stricter(agent.path, agent.line("spec", "tools", index), message)
        first = self._read[0]
        for name, spelled in self._spelled.items():
            known = self._tools.get(name)
            place = (known.path, known.line("metadata", "name")) if known else (first.path, 1)
            if not is_action(spelled):
                message = f"the tool `{visible(spelled)}` cannot be an action's name here: it is left out and denied"
                draft.stricter(*place, message)
                continue
            self._action(name, spelled, known)
        if not draft.actions:
            refusals = Refusals()
            refusals.add(first.path, 1, "no agent lists a tool: there is nothing to allow or deny")
            refusals.check()

    def _action(self, name: str, spelled: str, known: _Read[ToolResource] | None) -> None:
        draft = self._draft
        effect, impact = "external", "high"
        comments = ["In none of the files: what it does is not known, so it is taken for the graver."]
        if known is not None:
            spec = known.value.spec
            classes = self._classes(name)
            effect = "read" if set(classes) == {"read"} else "external"
            impact = spec.risk_level or ("medium" if effect == "read" else "high")
            comments = [f"{visible(known.path.rsplit('/', 1)[-1])}, line {known.line('metadata', 'name')}"]
            said = [f"type {spec.type}", f"endpoint {spec.endpoint}", f"risk_level {spec.risk_level}"]
            comments += [visible(", ".join(text for text in said if not text.endswith(" None")))]
            for part in ("runtime", "auth", "capabilities"):
                if part in spec.model_fields_set:
                    message = f"`{part}` of the tool `{visible(spelled)}` belongs to whoever runs it"
                    draft.left_out(known.path, known.line("spec", part), message)
        category = f"tool.{'read' if effect == 'read' else 'write'}.{impact}"
        draft.categories.setdefault(
            category,
            Category(
                description=f"Tools that {'read' if effect == 'read' else 'write or may write'}, {impact} risk",
                impact=impact,
                effect=effect,
                reversible=effect == "read",
            ),
        )
        draft.actions[spelled] = Action(category=category, executor=EXECUTOR, comments=tuple(filter(None, comments)))

    def _classes(self, tool: str) -> Sequence[str]:
        """Return the operation classes that a tool declares, or that were kept; all of them where nobody says."""
        known = self._tools.get(tool)
        if known is None:
            return CLASSES
        spec = known.value.spec
        if spec.operation_classes:
            return spec.operation_classes
        if self._draft.keeps(_classes_of(known)):
            return ("write",) if spec.risk_level in ("high", "critical") else ("read",)
        return CLASSES

    # --- agents -----------------------------------------------------------------------------------------------------

    def _agent(self, agent: _Read[AgentResource]) -> None:
        spec, draft = agent.value.spec, self._draft
        self._note_omission(agent)
        tools: list[JSON] = []
        comments = [f"From {visible(agent.path.rsplit('/', 1)[-1])}, line {agent.line('metadata', 'name')}."]
        model = next(iter(self._models_of(agent)), None)
        for tool in dict.fromkeys(map(same, spec.tools)):
            spelled = self._spelled[tool]
            if spelled not in draft.actions:
                continue
            answer = self._answer(agent, tool)
            draft.sample(Sample(agent=agent.name, action=spelled, model=model))
            draft.sample(Sample(agent=agent.name, action=spelled))
            if answer.verdict == "deny":
                comments.append(f"Without `{visible(spelled)}`: {answer.why}.")
                continue
            tools.append(spelled)
            if answer.verdict == "hold":
                self._hold(agent, spelled, answer)
        draft.sample(Sample(agent=agent.name, action="a-tool-that-is-not-listed"))
        for part in ("prompt", "memory", "limits"):
            if part in spec.model_fields_set:
                message = f"`{part}` of the agent `{agent.name}` belongs to whoever runs it"
                draft.left_out(agent.path, agent.line("spec", part), message)
        written: dict[str, JSON] = {"tools": tools, **self._model_spec(agent), **self._token_limit(agent)}
        draft.agents[agent.name] = Agent(spec=written, comments=tuple(comments))

    def _note_omission(self, agent: _Read[AgentResource]) -> None:
        spec = agent.value.spec
        beforehand = set(map(same, spec.allowed_tools))
        free = [tool for tool in spec.tools if not spec.roles and same(tool) not in beforehand]
        if free:
            listed = ", ".join(f"`{visible(tool)}`" for tool in free)
            message = f"`{agent.name}` has no roles, so nothing is asked of it for {listed}"
            self._draft.omission(agent.path, agent.line("spec"), agent.name, message)

    def _models_of(self, agent: _Read[AgentResource]) -> list[str]:
        """Return the models that calls may name: those of every policy about the agent, or its own."""
        spec = agent.value.spec
        allowed = [set(policy.value.spec.allowed_models) for policy in self._limiting(agent)]
        if allowed:
            return sorted(set.intersection(*allowed))
        return list(dict.fromkeys((*([spec.model_ref] if spec.model_ref else []), *spec.fallback_model_refs)))

    def _model_spec(self, agent: _Read[AgentResource]) -> dict[str, JSON]:
        models = self._models_of(agent)
        return {"models": list(models)} if models or self._limiting(agent) else {}

    def _token_limit(self, agent: _Read[AgentResource]) -> dict[str, JSON]:
        limits = [policy.value.spec.max_tokens_per_run for policy in self._policies if self._concerns(policy, agent)]
        tokens = [limit for limit in limits if limit is not None]
        return {"rateLimit": {"maxTokensPerDay": min(tokens)}} if tokens else {}

    def _limiting(self, agent: _Read[AgentResource]) -> list[_Read[AgentPolicy]]:
        return [one for one in self._policies if one.value.spec.allowed_models and self._concerns(one, agent)]

    def _hold(self, agent: _Read[AgentResource], tool: str, answer: _Answer) -> None:
        draft = self._draft
        draft.roles.setdefault(APPROVERS, "Who decides the tool approvals of the source.")
        draft.rule(
            "approvals",
            Rule(
                id=draft.rule_id("approval", agent.name, tool),
                forbids=True,
                reason=answer.why,
                approval=APPROVERS,
                principal=f"principal == Agent::{cedar.quoted(agent.name)}",
                actions=(tool,),
            ),
        )

    def _answer(self, agent: _Read[AgentResource], tool: str) -> _Answer:
        """Answer as Orloj does, without what it allows by omission.

        1. What is allowed beforehand asks for no permission, and neither does an agent without roles.
        2. Otherwise the permissions of its roles must do.
        3. Then each operation class of the tool has its say: deny, then approval, then allow.
        """
        spec = agent.value.spec
        concerned = [one for one in self._permissions if self._gates(one, tool, agent)]
        verdicts = [self._by_class(one, tool) for one in concerned if one.value.spec.operation_rules]
        # 1. No permission asked.
        if tool not in set(map(same, spec.allowed_tools)):
            if not spec.roles:
                if not self._draft.keeps(agent.name):
                    return _Answer(verdict="deny", why="the agent has no roles, and an omission allows nothing here")
            # 2. Permissions.
            elif (missing := self._missing(agent, tool, concerned)) is not None:
                return _Answer(verdict="deny", why=missing)
        # 3. Operation classes.
        allowed = _Answer(verdict="allow", why="")
        return max((allowed, *verdicts), key=lambda answer: _STRICTNESS.index(answer.verdict))

    @staticmethod
    def _gates(one: _Read[ToolPermission], tool: str, agent: _Read[AgentResource]) -> bool:
        spec = one.value.spec
        targets = set(map(same, spec.target_agents))
        return same(spec.tool_ref or one.name) == tool and (spec.apply_mode == "global" or same(agent.name) in targets)

    def _missing(
        self, agent: _Read[AgentResource], tool: str, concerned: Iterable[_Read[ToolPermission]]
    ) -> str | None:
        """Return which permission the agent's roles lack; None if they do."""
        held = {
            permission(text)
            for role in agent.value.spec.roles
            for text in self._roles[same(role)].value.spec.permissions
        }
        gates = list(concerned)
        own = f"tool:{tool}:invoke"
        if not gates and permission(own) not in held:
            return f"no role grants {visible(own)}"
        for gate in gates:
            asked = gate.value.spec.required_permissions or (own,)
            lacking = [text for text in asked if permission(text) not in held]
            if lacking and (gate.value.spec.match_mode == "all" or len(lacking) == len(asked)):
                return f"no role grants {visible(lacking[0])}, which {visible(gate.name)} asks for"
        return None

    def _by_class(self, one: _Read[ToolPermission], tool: str) -> _Answer:
        rules = one.value.spec.operation_rules
        known = self._tools.get(tool)
        if known is not None and not known.value.spec.operation_classes:
            default = "write" if known.value.spec.risk_level in ("high", "critical") else "read"
            message = f"`{visible(known.name)}` has no `operation_classes`, which counts as `{default}` only"
            self._draft.omission(known.path, known.line("spec"), _classes_of(known), message)
        answers = [_Answer(verdict="allow", why="")]
        for operation in self._classes(tool):
            verdicts = [rule.verdict for rule in rules if rule.operation_class in (operation, "*")]
            if not verdicts and not self._unlisted(one, operation):
                answers.append(_Answer(verdict="deny", why=f"{visible(one.name)} does not list the class {operation}"))
            elif "deny" in verdicts:
                answers.append(_Answer(verdict="deny", why=f"{visible(one.name)} denies the class {operation}"))
            elif "approval_required" in verdicts:
                why = f"{visible(one.name)} asks for approval of the class {operation}"
                answers.append(_Answer(verdict="hold", why=why))
        return max(answers, key=lambda answer: _STRICTNESS.index(answer.verdict))

    def _unlisted(self, one: _Read[ToolPermission], operation: str) -> bool:
        name = f"{one.name}:{operation}"
        message = f"`{visible(one.name)}` does not list the operation class `{operation}`"
        return self._draft.omission(one.path, one.line("spec", "operation_rules"), name, message)

    # --- policies ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _concerns(policy: _Read[AgentPolicy], agent: _Read[AgentResource]) -> bool:
        """Tell whether a policy may be about an agent: who belongs to a system or a task is not in these files."""
        spec = policy.value.spec
        if spec.apply_mode == "global" or spec.target_systems or spec.target_tasks:
            return True
        return same(agent.name) in set(map(same, spec.target_agents))

    def _policy(self, policy: _Read[AgentPolicy]) -> None:
        spec, draft, name = policy.value.spec, self._draft, visible(policy.name)
        line = policy.line("spec")
        concerned = [agent for agent in self._agents if self._concerns(policy, agent)]
        if not concerned:
            draft.left_out(policy.path, line, f"the policy `{name}` is about none of the agents")
            return
        if spec.apply_mode == "scoped" and (spec.target_systems or spec.target_tasks):
            message = f"the policy `{name}` is about systems or tasks, which are not known here: it is about everybody"
            draft.stricter(policy.path, line, message)
        for index, blocked in enumerate(spec.blocked_tools):
            spelled = self._spelled.get(same(blocked))
            if spelled is None or spelled not in draft.actions:
                message = f"`{visible(blocked)}` is blocked and no agent has it"
                draft.left_out(policy.path, policy.line("spec", "blocked_tools", index), message)
                continue
            self._block(policy, spelled, concerned)
        if spec.allowed_models:
            self._models(policy, concerned)
        if spec.max_tokens_per_run is not None:
            message = f"max_tokens_per_run {spec.max_tokens_per_run} is counted over the whole day"
            draft.stricter(policy.path, policy.line("spec", "max_tokens_per_run"), message)

    def _block(self, policy: _Read[AgentPolicy], tool: str, concerned: Sequence[_Read[AgentResource]]) -> None:
        everybody = len(concerned) == len(self._agents)
        for agent in [None] if everybody else concerned:
            self._draft.rule(
                "policies",
                Rule(
                    id=self._draft.rule_id(policy.name, "blocks", tool),
                    forbids=True,
                    reason=f"blocked by {visible(policy.name)}",
                    principal=None if agent is None else f"principal == Agent::{cedar.quoted(agent.name)}",
                    actions=(tool,),
                    comments=(f"AgentPolicy {visible(policy.name)}, blocked_tools",),
                ),
            )

    def _models(self, policy: _Read[AgentPolicy], concerned: Sequence[_Read[AgentResource]]) -> None:
        models = sorted(set(policy.value.spec.allowed_models))
        message = f"the policy `{visible(policy.name)}` allows some models only: calls must name theirs"
        self._draft.stricter(policy.path, policy.line("spec", "allowed_models"), message)
        listed = ", ".join(map(cedar.quoted, models))
        for agent in concerned:
            self._draft.rule(
                "policies",
                Rule(
                    id=self._draft.rule_id(policy.name, "models", agent.name),
                    forbids=True,
                    reason=f"{visible(policy.name)} allows other models only",
                    principal=f"principal == Agent::{cedar.quoted(agent.name)}",
                    unless=f"context has model && [{listed}].contains(context.model)",
                    comments=(f"AgentPolicy {visible(policy.name)}, allowed_models",),
                ),
            )


def _classes_of(tool: _Read[ToolResource]) -> str:
    """Return the name under which a tool's missing operation classes can be kept."""
    return f"{tool.name}:operation_classes"


def _of(read: Iterable[_Read[Resource]], kind: type[R_co]) -> Iterator[_Read[R_co]]:
    for one in read:
        if isinstance(one.value, kind):
            yield _Read(one.path, one.value, one.tree)
