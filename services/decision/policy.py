"""The policy of one bundle: classify, assess, admit, evaluate. Pure: the same question has the same answer.

A `Policy` never changes and may be shared between threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC
from types import MappingProxyType
from typing import TYPE_CHECKING

from holdfast.intent import Intent, Resource
from holdfast.reasons import Cause, ReasonCode

from services.decision import parameters
from services.decision.catalog import Effect, Impact, ResourceFacts, Sensitivity
from services.decision.evaluation import ActionScope, AgentScope, EvaluationFailed, Evaluator, Question
from services.decision.manifest_rules import ActionScopes, compile_manifest, rule_id
from services.decision.parameters import Logged, ParametersInvalid
from services.decision.pattern import MostSpecific, matches
from services.decision.risk import Circumstances, Factor, Risk, Scale, Signals, Tier
from services.decision.schedule import WEEKDAYS
from services.decision.verdict import Allow, ApprovalNeeded, Deny, Hold, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from services.decision.bundle import Bundle
    from services.decision.catalog import CatalogAction, Category, Executor
    from services.decision.cedar import CedarJSON
    from services.decision.finding import Finding
    from services.decision.manifest import Manifest, RateLimit
    from services.decision.rules import Rule
    from services.decision.schedule import Schedule
    from services.decision.settings import Settings
    from services.decision.verdict import Verdict

__all__ = ["Classified", "Factor", "Logged", "Policy", "Request", "Risk", "Signals", "Tier"]

_IMPACTS = tuple(Impact)  # in ascending order
_UNKNOWN_RESOURCE = ResourceFacts()
_QUIET = Signals()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """What a classifier in front of the catalogue said instead of the catalogue's category."""

    category: str
    confidence_percent: int
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """What the catalogue says of an intent. `action` is the catalogue's name or glob.

    `category` is always the catalogue's; under a `dispute` the impact is the graver of the two.

    `environment` is the resource's own where resources.yaml gives it one, so that an agent cannot talk it down.
    `parameters` are the declared ones, as rules see them.
    """

    category: str
    impact: Impact
    effect: Effect
    reversible: bool
    taxonomy: str | None
    action: str
    executor: str
    environment: str
    sensitivity: Sensitivity
    labels: tuple[str, ...] = ()
    proof_of_possession: bool = False
    parameters: Mapping[str, CedarJSON] = field(default_factory=dict)
    dispute: Dispute | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to the policy. `approvals` are usernames of those who approved this very intent.

    `intent_id` is for whoever counts; no rule sees it. `undisputed_risk` is the risk of the catalogue's own
    classification, and is needed where that is disputed.
    """

    agent: str
    intent: Intent
    classified: Classified
    risk: Risk
    now: datetime
    approvals: tuple[str, ...] = ()
    drained: bool = False
    queue_age_s: int = 0
    intent_id: str = ""
    undisputed_risk: Risk | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Agent:
    manifest: Manifest
    scope: AgentScope
    schedule: Schedule | None


class Policy:
    """A compiled bundle. Build it with `compile`."""

    def __init__(self, bundle: Bundle) -> None:
        catalog = bundle.catalog
        scopes = ActionScopes(catalog)
        self.digest = bundle.digest
        self.settings: Settings = bundle.settings
        self.warnings: tuple[Finding, ...] = bundle.warnings
        self.executors: Mapping[str, Executor] = MappingProxyType(dict(catalog.executors))
        self.agents = frozenset(bundle.manifests)
        self.rules: tuple[Rule, ...] = bundle.rules
        self._categories: Mapping[str, Category] = catalog.categories
        self._catalog: MostSpecific[CatalogAction] = MostSpecific(catalog.actions)
        self._declared: Mapping[str, CatalogAction] = catalog.actions
        self._resources: MostSpecific[ResourceFacts] = MostSpecific(bundle.resources)
        self._risk = Scale(bundle.settings.risk)
        self._roles = {role: frozenset(people) for role, people in bundle.settings.approvals.roles.items()}
        self._holding = {rule.id: rule for rule in bundle.rules if rule.approval is not None}
        self._actions = {
            name: ActionScope(name, action, catalog.categories[action.category])
            for name, action in catalog.actions.items()
        }
        self._raised: dict[tuple[str, Impact], ActionScope] = {}
        self._agents = {
            name: _Agent(
                manifest=manifest,
                scope=AgentScope.of(manifest, _manifest_rules(bundle, name, scopes)),
                schedule=manifest.spec.schedule.compiled() if manifest.spec.schedule else None,
            )
            for name, manifest in bundle.manifests.items()
        }
        self._evaluator = Evaluator(bundle.rules)

    @classmethod
    def compile(cls, bundle: Bundle) -> Policy:
        """Return the policy of a bundle that `read_bundle` accepted. Raises: BundleInvalid."""
        return cls(bundle)

    # --- classify ---------------------------------------------------------------------------------------------------

    def classify(self, intent: Intent) -> Classified | Deny:
        """Return what the catalogue says of the intent, or why it does not fit. Source: docs/policy.md."""
        found = self._catalog.find(intent.action)
        if found is None:
            return Deny(
                reason_code=ReasonCode.INTENT_UNCLASSIFIED,
                detail=f"the catalogue has no action `{_shown(intent.action)}`",
            )
        pattern, action = found
        try:
            visible = parameters.for_rules(
                action.parameters, intent.parameters, additional=action.additional_parameters
            )
            executor = _executor(action, intent)
            _check_resource(action, intent)
        except ParametersInvalid as misfit:
            return Deny(reason_code=ReasonCode.PARAMETERS_INVALID, detail=str(misfit))
        category = self._categories[action.category]
        facts = self._facts(intent)
        return Classified(
            category=action.category,
            impact=category.impact,
            effect=category.effect,
            reversible=category.reversible,
            taxonomy=category.taxonomy,
            action=pattern,
            executor=executor,
            environment=facts.environment or intent.context.environment or self.settings.environment,
            sensitivity=facts.sensitivity,
            labels=facts.labels,
            proof_of_possession=action.proof_of_possession,
            parameters=visible,
        )

    def has_category(self, name: str) -> bool:
        """Return whether the catalogue has this category."""
        return name in self._categories

    def impact_of(self, category: str) -> Impact | None:
        """Return the impact of a category; None if the catalogue has none of that name."""
        found = self._categories.get(category)
        return None if found is None else found.impact

    def disputed(self, classified: Classified, dispute: Dispute) -> Classified:
        """Return the classification under a dispute: the graver impact. Raises: KeyError for an unknown category."""
        graver = max(classified.impact, self._categories[dispute.category].impact, key=_IMPACTS.index)
        return replace(classified, impact=graver, dispute=dispute)

    def undisputed(self, classified: Classified) -> Classified:
        """Return what the catalogue alone says. Raises: KeyError for another bundle's classification."""
        return replace(classified, impact=self._categories[classified.category].impact, dispute=None)

    def known_answer(self) -> tuple[Intent, str] | None:
        """Return an intent of the catalogue's first action (a plain name before a glob) and its category."""
        for name in sorted(self._declared, key=lambda name: ("*" in name, name)):
            kind = self._declared[name].resource
            resource = Resource(type="canary" if kind == "*" else kind, id="canary")
            return Intent(action=name.replace("*", "canary"), resource=resource), self._declared[name].category
        return None

    def _facts(self, intent: Intent) -> ResourceFacts:
        found = self._resources.find(str(intent.resource))
        return found[1] if found else _UNKNOWN_RESOURCE

    # --- assess -----------------------------------------------------------------------------------------------------

    def assess(
        self, intent: Intent, classified: Classified, *, agent: str, signals: Signals = _QUIET, now: datetime
    ) -> Risk:
        """Return the risk, derived by the service. What the agent says can only have added to it."""
        circumstances = Circumstances(
            impact=classified.impact,
            reversible=classified.reversible,
            environment=classified.environment,
            claimed_environment=intent.context.environment,
            sensitivity=classified.sensitivity,
        )
        return self._risk.assess(circumstances, signals, agent=agent, now=now)

    # --- admit ------------------------------------------------------------------------------------------------------

    def admit(self, request: Request) -> Deny | None:
        """Return why the agent's manifest does not admit the request; None when it does.

        Tools and models are a ceiling that no rule lifts.
        """
        agent = self._agents.get(request.agent)
        if agent is None:
            return _not_available(f"no manifest names the agent `{_shown(request.agent)}`")
        operation, model = request.intent.action, request.intent.context.model
        if not any(matches(tool, operation) for tool in agent.manifest.spec.tools):
            return _not_available(f"`{request.agent}` has no tool `{_shown(operation)}`")
        if model is not None and model not in agent.manifest.models:
            return _not_available(f"`{request.agent}` may not use the model `{_shown(model)}`")
        environments = agent.manifest.spec.environments
        if environments is not None and request.classified.environment not in environments:
            return _outside(request.agent, "environments", f"may not act in `{_shown(request.classified.environment)}`")
        if agent.schedule is not None and not agent.schedule.contains(request.now):
            return _outside(request.agent, "schedule", "may not act at this time")
        return None

    def rate_limit(self, agent: str) -> RateLimit | None:
        """Return the agent's limits; None when its manifest sets none. Raises: KeyError for an unknown agent."""
        return self._agents[agent].manifest.spec.rate_limit

    # --- evaluate ---------------------------------------------------------------------------------------------------

    def evaluate(self, request: Request) -> Verdict:
        """Answer one request.

        1. The manifest's ceiling, again: nothing below can lift it.
        2. Cedar over the slice. An error of any rule, even beside a matching forbid, leaves the question open.
        3. A matching forbid without approval denies, whatever else says.
        4. Holding forbids hold until enough people approved; a permit is needed beside them.
        5. Without a permit, nothing is allowed.

        Where the classification is disputed, both are answered and the stricter answer stands: INVARIANT: a dispute
        never allows what the catalogue alone would not.
        """
        verdict = self._evaluate(request)
        if request.classified.dispute is None:
            return verdict
        if request.undisputed_risk is None:
            return _unavailable("the risk of the catalogue's own classification is not known")
        own = replace(request, classified=self.undisputed(request.classified), risk=request.undisputed_risk)
        return _stricter(verdict, self._evaluate(own))

    def _evaluate(self, request: Request) -> Verdict:
        # 1. Ceiling.
        if (refused := self.admit(request)) is not None:
            return refused
        agent, action = self._agents[request.agent].scope, self._scope(request.classified)
        if action is None:
            return _unavailable("the intent was classified by another bundle")
        # 2. Cedar.
        try:
            return self._decide(agent, action, request)
        except EvaluationFailed as failure:
            return _unavailable(f"the policies could not be evaluated: {failure}")

    def _scope(self, classified: Classified) -> ActionScope | None:
        if classified.dispute is None:
            return self._actions.get(classified.action)
        key = classified.action, classified.impact
        found = self._raised.get(key)
        if found is None and (action := self._declared.get(classified.action)) is not None:
            category = self._categories[action.category].model_copy(update={"impact": classified.impact})
            found = self._raised[key] = ActionScope(classified.action, action, category)
        return found

    def _decide(self, agent: AgentScope, action: ActionScope, request: Request) -> Verdict:
        question = self._question(request)
        matched = self._evaluator.matched(agent, action, question)
        if matched.allowed:
            return Allow(determining=_ids(matched.rules))
        # 3. Forbidden.
        if forbids := [rule for rule in matched.rules if rule.approval is None]:
            return _forbidden(forbids)
        # 4. Held, or lifted; only an intent that some rule permits can wait for people.
        permits = self._evaluator.permits(agent, action, question) if matched.rules else matched
        if permits.allowed:
            needed = [rule for rule in matched.rules if not self._is_lifted(rule, request.approvals)]
            return _held(needed) if needed else Allow(determining=_ids(permits.rules))
        # 5. No permit.
        return _no_permit()

    def _is_lifted(self, rule: Rule, approvals: tuple[str, ...]) -> bool:
        if rule.approval is None:
            return False
        return len(self.approvers(rule.approval.role) & frozenset(approvals)) >= rule.approval.count

    def scene(self, request: Request) -> tuple[AgentScope, ActionScope, Question] | None:
        """Return what Cedar is asked about a request; None if the bundle does not know its agent or action."""
        agent, action = self._agents.get(request.agent), self._actions.get(request.classified.action)
        return None if agent is None or action is None else (agent.scope, action, self._question(request))

    def seen(self, request: Request) -> tuple[str, Question] | None:
        """Return what the answer to a request depends on beside manifest, rules, agent, action, model and time.

        None where that cannot be told: nothing may then be taken for the same.
        """
        scene = self.scene(request)
        if scene is None or request.classified.dispute is not None:
            return None
        try:
            return request.classified.environment, self._evaluator.seen(*scene)
        except EvaluationFailed:
            return None

    def _question(self, request: Request) -> Question:
        intent, classified, now = request.intent, request.classified, request.now
        context: dict[str, CedarJSON] = {
            "operation": intent.action,
            "environment": classified.environment,
            "executor": classified.executor,
            "parameters": dict(classified.parameters),
            "risk": {"score": request.risk.score, "tier": str(request.risk.tier)},
            "time": {"epoch": int(now.timestamp()), **_utc_hour(now)},
            "drained": request.drained,
            "queue_age_seconds": request.queue_age_s,
        }
        if intent.context.on_behalf_of is not None:
            context["on_behalf_of"] = intent.context.on_behalf_of
        if intent.context.model is not None:
            context["model"] = intent.context.model
        return Question(
            resource_id=str(intent.resource),
            resource={
                "type": intent.resource.type,
                "id": intent.resource.id,
                "sensitivity": str(classified.sensitivity),
                "labels": list(classified.labels),
            },
            context=context,
        )

    # --- who may approve --------------------------------------------------------------------------------------------

    def holding(self, ids: Iterable[str]) -> tuple[Rule, ...]:
        """Return the rules among `ids` that people may lift."""
        return tuple(self._holding[name] for name in sorted(set(ids)) if name in self._holding)

    def approvers(self, role: str) -> frozenset[str]:
        """Return who has an approval role; nobody has an unknown one."""
        return self._roles.get(role, frozenset())

    def owner(self, agent: str) -> str | None:
        """Return who owns an agent; None if its manifest does not say, or there is none."""
        found = self._agents.get(agent)
        return None if found is None else found.manifest.metadata.owner or None

    # --- around a decision ------------------------------------------------------------------------------------------

    def lane(self, classified: Classified) -> int:
        """Return the lane in which an intent of this impact waits."""
        return self.settings.queue.lanes.of(classified.impact)

    def token_lifetime_s(self, executor: str) -> int:
        """Return how long an ordinary token for the executor lives. Raises: KeyError for an unknown executor."""
        return self.executors[executor].max_token_seconds

    def logged(self, intent: Intent, classified: Classified) -> Logged:
        """Return what the audit record says of the parameters. Raises: KeyError for another bundle's action."""
        return parameters.logged(self._declared[classified.action].parameters, intent.parameters)

    def manifest_rules(self, agent: str) -> tuple[Rule, ...]:
        """Return the Cedar that the agent's manifest compiled to. Raises: KeyError for an unknown agent."""
        return self._agents[agent].scope.rules


def _manifest_rules(bundle: Bundle, agent: str, scopes: ActionScopes) -> tuple[Rule, ...]:
    path = bundle.manifest_paths[agent]
    return compile_manifest(bundle.manifests[agent], path, bundle.trees[path], scopes)


def _stricter(one: Verdict, other: Verdict) -> Verdict:
    """Return the verdict that permits less; of two holds, one that asks for what both ask for."""
    if isinstance(one, Hold) and isinstance(other, Hold):
        return replace(
            one,
            needed=tuple(dict.fromkeys((*one.needed, *other.needed))),
            determining=tuple(sorted({*one.determining, *other.determining})),
        )
    for kind in (Deny, Unavailable, Hold):
        for verdict in (one, other):
            if isinstance(verdict, kind):
                return verdict
    return one


def _executor(action: CatalogAction, intent: Intent) -> str:
    if intent.executor is None:
        return action.executor[0]
    if intent.executor not in action.executor:
        raise ParametersInvalid(f"the action does not run on the executor `{_shown(intent.executor)}`")
    return intent.executor


def _check_resource(action: CatalogAction, intent: Intent) -> None:
    if action.resource not in ("*", intent.resource.type):
        raise ParametersInvalid(f"the action is for resources of type `{action.resource}`")


def _utc_hour(now: datetime) -> dict[str, CedarJSON]:
    utc = now.astimezone(UTC)
    return {"hour": utc.hour, "weekday": WEEKDAYS[utc.weekday()]}


def _ids(rules: tuple[Rule, ...] | list[Rule]) -> tuple[str, ...]:
    return tuple(sorted(rule.id for rule in rules))


def _not_available(detail: str) -> Deny:
    return Deny(reason_code=ReasonCode.ACTION_NOT_AVAILABLE, detail=detail)


def _outside(agent: str, part: str, what: str) -> Deny:
    return Deny(reason_code=ReasonCode.POLICY_DENIED, detail=f"`{agent}` {what}", determining=(rule_id(agent, part),))


def _forbidden(rules: list[Rule]) -> Deny:
    reasons = dict.fromkeys(rule.reason or f"the rule `{rule.id}` forbids it" for rule in _by_id(rules))
    return Deny(reason_code=ReasonCode.POLICY_DENIED, detail="; ".join(reasons), determining=_ids(rules))


def _held(rules: list[Rule]) -> Hold:
    needed = tuple(
        ApprovalNeeded(rule=rule.id, role=rule.approval.role, count=rule.approval.count)
        for rule in _by_id(rules)
        if rule.approval is not None
    )
    reasons = dict.fromkeys(rule.reason or f"the rule `{rule.id}` needs approval" for rule in _by_id(rules))
    return Hold(determining=_ids(rules), needed=needed, detail="; ".join(reasons))


def _by_id(rules: list[Rule]) -> list[Rule]:
    return sorted(rules, key=lambda rule: rule.id)


def _no_permit() -> Deny:
    return Deny(reason_code=ReasonCode.NO_MATCHING_POLICY, detail="no policy permits it")


def _unavailable(detail: str) -> Unavailable:
    return Unavailable(reason_code=ReasonCode.EVALUATION_UNAVAILABLE, cause=Cause.POLICY_ERROR, detail=detail)


def _shown(text: str) -> str:
    return text[:128].encode("ascii", "backslashreplace").decode("ascii")
