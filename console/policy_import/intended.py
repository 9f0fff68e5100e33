"""Intended's three policy shapes: `kind: Policy`, the flat one with an `outcome`, and `policy:` with a `decision`.

Nothing is permitted unless a policy of the source decides about it; what is outside every scope is denied.
Source: Intended's public pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from console.policy_import.draft import Action, Agent, Category, Draft, Rule, Sample, is_action, is_name, slug
from console.policy_import.durations import seconds
from console.policy_import.source import Imported, Refusals, Source, documents, original, visible
from services.decision import cedar
from services.decision.schedule import WEEKDAYS, Window
from services.decision.strict_model import Items, StrictModel, read_model
from services.decision.strict_yaml import compose

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.strict_json import JSON

    from services.decision.strict_yaml import Node

EXECUTOR: Final = "imported-executor"
SERVICE: Final = "service"
CATEGORY: Final = "imported.action"
_WEEK_S: Final = 7 * 86_400

Words = Annotated[str, Field(min_length=1, max_length=500)]
Prose = Annotated[str, Field(max_length=2000)]


def _duration(text: str) -> str:
    seconds(text)
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class _Approval(StrictModel):
    type: Literal["approval"]
    required: Annotated[int, Field(ge=1, le=99)]
    people: Annotated[Items[Words], Field(min_length=1, alias="from")]


class _TimeWindow(StrictModel):
    type: Literal["time-window"]
    allow: Words


class _ScopedRule(StrictModel):
    action: Words
    effect: Literal["allow", "deny"]
    conditions: Items[Annotated[_Approval | _TimeWindow, Field(discriminator="type")]] = ()


class _Scope(StrictModel):
    environments: Items[Words] = ("*",)
    services: Items[Words] = ("*",)


class _Audit(StrictModel):
    level: str | None = None
    include_decision_token: bool | None = Field(default=None, alias="include-decision-token")


class _ScopedSpec(StrictModel):
    scope: _Scope = _Scope()
    rules: Items[_ScopedRule]
    fallback: Literal["allow", "deny"]
    audit: _Audit | None = None


class _Metadata(StrictModel):
    name: Words
    description: Prose = ""
    labels: Mapping[str, str] = Field(default_factory=dict)


class ScopedPolicy(StrictModel):
    """Shape A."""

    api_version: Literal["meritt.io/v1"] = Field(alias="apiVersion")
    kind: Literal["Policy"]
    metadata: _Metadata
    spec: _ScopedSpec


class _Reviewer(StrictModel):
    role: Words


class _Escalation(StrictModel):
    type: Words | None = None
    reviewers: Annotated[Items[_Reviewer], Field(min_length=1)]
    timeout: Duration | None = None
    timeout_outcome: Literal["allow", "deny", "escalate"] | None = None


class _FlatConditions(StrictModel):
    action: Words
    environment: Words | None = None
    risk_score_min: Annotated[float | int, Field(ge=0)] | None = None


class FlatPolicy(StrictModel):
    """Shape B."""

    name: Words
    version: Any = None
    description: Prose = ""
    domain: Words | None = None
    category: Words | None = None
    conditions: _FlatConditions
    outcome: Literal["allow", "deny", "escalate"]
    escalation: _Escalation | None = None


class _Decision(StrictModel):
    intent: Words
    decision: Literal["allow", "deny", "escalate"]
    escalation: _Escalation | None = None


class DecisionPolicy(StrictModel):
    """Shape C."""

    policy: _Decision


def convert(sources: Sequence[Source], *, keep: frozenset[str], agent: str) -> Imported:
    """Return one bundle from all documents. Raises: BundleInvalid, UnknownAllowance."""
    refusals = Refusals()
    if not is_name(agent):
        refusals.add(sources[0].path, 1, f"`{agent[:60]}` cannot name an agent")
    refusals.check()
    draft = Draft(sources[0].path if len(sources) == 1 else f"{len(sources)} Intended policies", keep)
    conversion = _Import(draft, agent)
    for source in sources:
        for data in documents(source):
            conversion.document(source.path, data)
    return conversion.finish()


class _Import:
    def __init__(self, draft: Draft, agent: str) -> None:
        self._draft = draft
        self._agent = agent
        self._refusals = Refusals()
        self._timeouts: list[int] = []
        self._path = ""
        draft.executors[EXECUTOR] = "Whoever runs the imported actions"

    def finish(self) -> Imported:
        self._refusals.check()
        tools: list[JSON] = list(self._draft.actions)
        comments = ("Whoever asked Intended. The rules permit; nothing else does.",)
        self._draft.agents[self._agent] = Agent(spec={"tools": tools, "policies": []}, comments=comments)
        return self._draft.finish()

    def document(self, path: str, data: bytes) -> None:
        self._path = path
        keys = compose(path, data).value
        if isinstance(keys, dict) and "policy" in keys:
            self._decision(*read_model(path, data, DecisionPolicy))
        elif isinstance(keys, dict) and "outcome" in keys:
            self._flat(*read_model(path, data, FlatPolicy))
        else:
            self._scoped(*read_model(path, data, ScopedPolicy))

    def _action(self, name: str, line: int, *, category: str = CATEGORY, resource: str = "*") -> bool:
        if not is_action(name):
            self._refusals.add(self._path, line, f"`{visible(name)}` cannot be an action's name here")
            return False
        self._declare(name, line, category=category, resource=resource)
        return True

    def _declare(self, name: str, line: int, *, category: str, resource: str) -> None:
        self._draft.categories.setdefault(
            category,
            Category(
                description="An action of the imported policies",
                comments=("The source does not say how much harm it can do: it is taken for the graver.",),
            ),
        )
        comment = f"{visible(self._path.rsplit('/', 1)[-1])}, line {line}"
        self._draft.actions.setdefault(
            name, Action(category=category, executor=EXECUTOR, resource=resource, comments=(comment,))
        )

    # --- shape A ----------------------------------------------------------------------------------------------------

    def _scoped(self, policy: ScopedPolicy, tree: Node) -> None:
        name, spec, draft = policy.metadata.name, policy.spec, self._draft
        where = _conjunction([_environments(spec.scope.environments), _services(spec.scope.services)])
        if policy.metadata.description:
            draft.remark("policies", f"{visible(name)}: {visible(policy.metadata.description)}")
        if spec.audit is not None:
            draft.left_out(self._path, tree.at("spec", "audit")[0], "`audit`: here every decision is recorded in full")
        for index, rule in enumerate(spec.rules):
            line = tree.at("spec", "rules", index)[0]
            action = f"{SERVICE}.{rule.action}"
            if not self._action(action, line, resource=SERVICE):
                continue
            message = f"the action `{visible(rule.action)}` is called `{visible(action)}` here"
            draft.stricter(self._path, line, message)
            if sum(other.action == rule.action for other in spec.rules) > 1:
                message = f"several rules of `{visible(name)}` are about `{visible(rule.action)}`: all of them apply"
                draft.stricter(self._path, line, message)
            self._scoped_rule(name, rule, line, where)
            environments = [one for one in spec.scope.environments if one != "*"] or ["production"]
            for environment in (*environments, "elsewhere"):
                for now in ("2026-11-20T12:00:00Z", "2026-11-21T03:00:00Z"):
                    resource = (
                        SERVICE,
                        spec.scope.services[0].replace("*", "checkout") if spec.scope.services else "x",
                    )
                    draft.sample(
                        Sample(agent=self._agent, action=action, resource=resource, environment=environment, now=now)
                    )
        if spec.fallback == "allow":
            line = tree.at("spec", "fallback")[0]
            message = f"`{visible(name)}` has `fallback: allow`: every action of its scope that has no rule"
            if draft.omission(self._path, line, name, message):
                self._declare(f"{SERVICE}.*", line, category=CATEGORY, resource=SERVICE)
                draft.rule(
                    "policies",
                    Rule(
                        id=draft.rule_id(name, "fallback"),
                        forbids=False,
                        actions=(f"{SERVICE}.*",),
                        when=where,
                        comments=(f"{visible(name)}, line {line}: fallback, kept on demand",),
                    ),
                )
                draft.sample(Sample(agent=self._agent, action=f"{SERVICE}.unlisted", resource=(SERVICE, "checkout")))

    def _scoped_rule(self, name: str, rule: _ScopedRule, line: int, where: str | None) -> None:
        draft, action = self._draft, (f"{SERVICE}.{rule.action}",)
        comments = (f"{visible(name)}, line {line}: {rule.effect} {visible(rule.action)}",)
        windows, said = [], True
        for condition in rule.conditions:
            if isinstance(condition, _TimeWindow):
                window = self._window(condition.allow, line)
                said = said and window is not None
                windows.append(window or "false")
        if rule.effect == "deny" and (windows or not rule.conditions):
            text = f"`{visible(name)}` denies it"
            lost = "" if said else f" (not carried over: {original(_plain(rule))})"
            draft.rule(
                "policies",
                Rule(
                    id=draft.rule_id(name, rule.action),
                    forbids=True,
                    reason=f"{text}{' outside its hours' if windows else ''}{lost}",
                    actions=action,
                    when=where,
                    unless=_conjunction(windows) if windows and said else None,
                    comments=comments,
                ),
            )
        if (rule.effect == "deny" and not rule.conditions) or not said:
            return
        draft.rule(
            "policies",
            Rule(
                id=draft.rule_id(name, rule.action, "permit"),
                forbids=False,
                actions=action,
                when=_conjunction([where, *windows]),
                comments=comments,
            ),
        )
        for condition in rule.conditions:
            if isinstance(condition, _Approval):
                role = self._role(condition.people)
                self._hold(name, rule.action, action, where, f"{role}:{condition.required}", comments)

    def _window(self, text: str, line: int) -> str | None:
        """Return the Cedar of a time window in UTC, in whole hours inside it; None if there is none."""
        hours, _, zone = text.rpartition(" ")
        try:
            window = Window.parse(hours)
        except ValueError:
            window = None
        if zone != "UTC" or window is None or window.start > window.end:
            message = f"the time window `{visible(text)}` cannot be said here: it is never open"
            self._draft.stricter(self._path, line, message)
            return None
        first, last = -(-window.start // 60), window.end // 60
        if (first * 60, last * 60) != (window.start, window.end):
            message = f"the time window `{visible(text)}` is kept in whole hours: from {first}:00 to {last}:00"
            self._draft.stricter(self._path, line, message)
        days = ", ".join(cedar.quoted(WEEKDAYS[day]) for day in sorted(window.days))
        return f"[{days}].contains(context.time.weekday) && context.time.hour >= {first} && context.time.hour < {last}"

    # --- shapes B and C ---------------------------------------------------------------------------------------------

    def _flat(self, policy: FlatPolicy, tree: Node) -> None:
        conditions, line = policy.conditions, tree.at("conditions")[0]
        parts = [slug(part.lower()) for part in (policy.domain, policy.category) if part]
        if not self._action(conditions.action, line, category=".".join(parts) or CATEGORY):
            return
        where = _environments((conditions.environment,)) if conditions.environment else None
        carried = True
        if conditions.risk_score_min is not None:
            carried = policy.outcome != "allow"
            outcome = "it counts always" if carried else "it permits nothing"
            message = f"risk_score_min of `{visible(policy.name)}`: risk is counted otherwise here, so {outcome}"
            self._draft.stricter(self._path, tree.at("conditions", "risk_score_min")[0], message)
        comments = tuple(text for text in (f"{visible(policy.name)}, line {line}", visible(policy.description)) if text)
        self._decide(
            policy.name, conditions.action, where, policy.outcome if carried else "nothing", policy.escalation, comments
        )
        self._check_escalation(policy.outcome, policy.escalation, tree, ("escalation",))
        for environment in (conditions.environment or "production", "elsewhere"):
            self._draft.sample(Sample(agent=self._agent, action=conditions.action, environment=environment))

    def _decision(self, policy: DecisionPolicy, tree: Node) -> None:
        said, line = policy.policy, tree.at("policy")[0]
        if not self._action(said.intent, line):
            return
        self._decide(said.intent, said.intent, None, said.decision, said.escalation, (f"policy, line {line}",))
        self._check_escalation(said.decision, said.escalation, tree, ("policy", "escalation"))
        self._draft.sample(Sample(agent=self._agent, action=said.intent))

    def _check_escalation(
        self, outcome: str, escalation: _Escalation | None, tree: Node, place: tuple[str, ...]
    ) -> None:
        line = tree.at(*place)[0]
        if outcome == "escalate" and escalation is None:
            self._refusals.add(self._path, line, "`escalate` needs an `escalation` with reviewers")
        if escalation is None:
            return
        if escalation.timeout is not None:
            self._timeouts.append(min(max(seconds(escalation.timeout), 1), _WEEK_S))
            self._draft.ttl_seconds = min(self._timeouts)
            message = f"timeout {escalation.timeout}: everything waits as long as the shortest timeout says"
            self._draft.stricter(self._path, line, message)
        if escalation.timeout_outcome == "allow":
            message = "`timeout_outcome: allow`: what nobody answers is denied here, always"
            self._draft.stricter(self._path, line, message)

    def _decide(
        self,
        name: str,
        action: str,
        where: str | None,
        outcome: str,
        escalation: _Escalation | None,
        comments: tuple[str, ...],
    ) -> None:
        draft = self._draft
        if outcome == "deny":
            rule = Rule(
                id=draft.rule_id(name),
                forbids=True,
                reason=f"`{visible(name)}` denies it",
                actions=(action,),
                when=where,
                comments=comments,
            )
            draft.rule("policies", rule)
        if outcome in ("allow", "escalate"):
            rule = Rule(
                id=draft.rule_id(name, "permit"), forbids=False, actions=(action,), when=where, comments=comments
            )
            draft.rule("policies", rule)
        if outcome == "escalate" and escalation is not None:
            people = [reviewer.role for reviewer in escalation.reviewers]
            for role in [self._role(people)] if escalation.type == "single" else [self._role([one]) for one in people]:
                self._hold(name, action, (action,), where, role, comments)

    # --- both -------------------------------------------------------------------------------------------------------

    def _role(self, people: Iterable[str]) -> str:
        names = list(dict.fromkeys(slug(one.removeprefix("role:")) for one in people))
        role = "-or-".join(names)[:120]
        self._draft.roles.setdefault(role, f"Everybody who is {' or '.join(names)} in the source.")
        return role

    def _hold(
        self,
        name: str,
        action: str,
        actions: tuple[str, ...],
        where: str | None,
        approval: str,
        comments: tuple[str, ...],
    ) -> None:
        self._draft.rule(
            "policies",
            Rule(
                id=self._draft.rule_id(name, action, "approval"),
                forbids=True,
                reason=f"`{visible(name)}` asks for approval",
                approval=approval,
                actions=actions,
                when=where,
                comments=comments,
            ),
        )


def _plain(rule: _ScopedRule) -> JSON:
    plain: JSON = rule.model_dump(mode="json", by_alias=True)
    return plain


def _conjunction(parts: Iterable[str | None]) -> str | None:
    said = [part for part in parts if part is not None]
    if len(said) == 1:
        return said[0]
    return " && ".join(f"({part})" if "||" in part else part for part in said) or None


def _environments(names: Sequence[str]) -> str | None:
    return _any_of("context.environment", names)


def _services(patterns: Sequence[str]) -> str | None:
    return _any_of("resource.id", patterns)


def _any_of(text: str, patterns: Sequence[str]) -> str | None:
    """Return the Cedar under which `text` is one of the patterns; None for any. No pattern at all is never."""
    if "*" in patterns:
        return None
    tests = [
        f"{text} like {cedar.like(pattern)}" if "*" in pattern else f"{text} == {cedar.quoted(pattern)}"
        for pattern in patterns
    ]
    return " || ".join(tests) or "false"
