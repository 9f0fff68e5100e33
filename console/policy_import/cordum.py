"""Cordum safety policies and the fragments of packs. Source: the format of Cordum e00450ed, config/safety.yaml.

A job's topic is the operation. Rules of the source are read in order and the first that matches decides; here a forbid
gives way to an earlier rule that is milder. Where a match asks for what cannot be known here, an allow does not apply
and a denial always does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from console.policy_import.cordum_schema import ContentRule, Document, JobRule, Match, Tenant
from console.policy_import.draft import Action, Agent, Category, Draft, Rule, Sample, is_action, is_name, slug
from console.policy_import.source import Imported, Refusals, Source, original, visible
from services.decision import cedar
from services.decision.strict_model import read_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.decision.strict_yaml import Node

EXECUTOR: Final = "job-runner"
CATEGORY: Final = "imported.job"
APPROVERS: Final = "approvers"
DEFAULT: Final = "default_decision"
#: How strict a decision is; what cannot be enforced here is a denial.
_STRICTNESS: Final = {"allow": 0, "require_approval": 1, "allow_with_constraints": 2, "throttle": 2, "deny": 2}
_SPECIAL: Final = frozenset("?[\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """When a match may hold, and when it surely does, as Cedar; `lost` is what could not be said."""

    may: str
    surely: str
    lost: tuple[str, ...] = ()


def convert(source: Source, *, keep: frozenset[str], agent: str) -> Imported:
    """Return the bundle of one safety policy or fragment. Raises: BundleInvalid, UnknownAllowance."""
    document, tree = read_model(source.path, source.data, Document)
    return _Import(source.path, document, tree, Draft(source.path, keep), agent).run()


class _Import:
    def __init__(self, path: str, document: Document, tree: Node, draft: Draft, agent: str) -> None:
        self._path = path
        self._document = document
        self._tree = tree
        self._draft = draft
        self._agent = agent
        #: A fragment of a pack has rules and nothing else.
        self._fragment = document.model_fields_set == {"rules"}
        self._tenant = document.default_tenant

    def run(self) -> Imported:
        """Convert: topics, agents of each tenant, rules in order, tenants, content rules, the rest."""
        self._refuse()
        self._catalogue()
        self._agents()
        self._rules()
        for name, tenant in self._document.tenants.items():
            self._tenant_rules(name, tenant)
        self._content()
        self._rest()
        return self._draft.finish()

    def _line(self, *path: str | int) -> int:
        return self._tree.at(*path)[0]

    def _refuse(self) -> None:
        refusals, seen = Refusals(), set[str]()
        if not is_name(self._agent):
            refusals.add(self._path, 1, f"`{self._agent[:60]}` cannot name an agent")
        for index, rule in enumerate(self._document.rules):
            if rule.id in seen:
                refusals.add(
                    self._path, self._line("rules", index, "id"), f"the rule `{visible(rule.id)}` stands twice"
                )
            seen.add(rule.id)
        refusals.check()

    # --- the world --------------------------------------------------------------------------------------------------

    def _topics(self) -> list[str]:
        document = self._document
        matches: list[Match] = [rule.match for rule in document.rules]
        topics = [topic for match in matches for topic in match.topics]
        for content in (*document.input_rules, *document.output_rules):
            topics += content.match.topics
        for tenant in document.tenants.values():
            topics += [*tenant.allow_topics, *tenant.deny_topics]
        return list(dict.fromkeys(topics))

    def _catalogue(self) -> None:
        draft = self._draft
        draft.remarks.append("A job's topic is the action; rules tell topics apart by `context.operation`.")
        draft.categories[CATEGORY] = Category(
            description="A job of the imported policy",
            comments=("The source does not say what its jobs do: each is taken for the graver.",),
        )
        draft.executors[EXECUTOR] = "Whoever runs the jobs"
        for topic in self._topics():
            if _is_plain(topic) and is_action(topic):
                draft.actions[topic] = Action(category=CATEGORY, executor=EXECUTOR)
        comments = ("Every other topic. Only what the rules permit is allowed.",)
        draft.actions["*"] = Action(category=CATEGORY, executor=EXECUTOR, comments=comments)

    def _agents(self) -> None:
        tenants = [tenant for rule in self._document.rules for tenant in rule.match.tenants]
        for tenant in dict.fromkeys((self._tenant, *self._document.tenants, *tenants)):
            name = self._agent if tenant == self._tenant else f"{self._agent}-{slug(tenant)}"
            self._draft.agents[name] = Agent(
                spec={"tools": ["*"], "policies": []},
                groups=(_group(tenant),),
                comments=(
                    f"Whoever submits jobs of the tenant {visible(tenant)}. The rules permit; nothing else does.",
                ),
            )
            for topic in (*self._topics(), "unlisted"):
                operation = "".join("x" if character in "*?" else character for character in topic)
                self._draft.sample(
                    Sample(agent=name, action=operation[:128] or "unlisted", resource=("job", "example"))
                )

    # --- rules ------------------------------------------------------------------------------------------------------

    def _rules(self) -> None:
        milder: list[tuple[int, str]] = []
        for index, rule in enumerate(self._document.rules):
            line = self._line("rules", index)
            found = self._range(rule)
            strictness = _STRICTNESS[rule.decision]
            unless = " || ".join(text for level, text in milder if level < strictness) or None
            where = (f"rules[{index}], line {line}: {visible(rule.id)}",)
            if found.lost:
                outcome = "never applies" if rule.decision == "allow" else "always applies"
                lost = visible("; ".join(found.lost))
                message = f"the rule `{visible(rule.id)}` cannot be said here ({lost}): it {outcome}"
                self._draft.stricter(self._path, line, message)
            if rule.decision == "allow":
                if not self._allows(rule, line, found, where):
                    continue
            elif strictness == _STRICTNESS["deny"]:
                self._denies(rule, line, found, unless, where)
            else:
                self._holds(rule, found, unless, where)
            if found.surely != "false":
                milder.append((strictness, found.surely))
            if rule.remediations:
                self._draft.left_out(
                    self._path, line, f"the remediations of `{visible(rule.id)}` are advice, not rules"
                )

    def _allows(self, rule: JobRule, line: int, found: Range, where: tuple[str, ...]) -> bool:
        if self._fragment or not rule.match.topics:
            what = "is an allow of a pack" if self._fragment else "allows without naming a topic"
            if not self._draft.omission(self._path, line, _allowance(rule), f"the rule `{visible(rule.id)}` {what}"):
                return False
        if found.surely != "false":
            rule_id = self._draft.rule_id(rule.id)
            self._draft.rule(
                "rules",
                Rule(id=rule_id, forbids=False, when=_when(found.surely), comments=(*where, visible(rule.reason))),
            )
        return True

    def _denies(self, rule: JobRule, line: int, found: Range, unless: str | None, where: tuple[str, ...]) -> None:
        lost = list(found.lost)
        if rule.decision != "deny":
            lost.append(f"decision: {rule.decision}")
            constraints = original(dict(rule.constraints)) if rule.constraints else "none"
            message = f"`{rule.decision}` of `{visible(rule.id)}` cannot be enforced here: it denies"
            self._draft.stricter(self._path, line, message)
            lost.append(f"constraints: {constraints}")
        self._draft.rule(
            "rules",
            Rule(
                id=self._draft.rule_id(rule.id),
                forbids=True,
                reason=_reason(rule.reason or rule.id, lost),
                when=_when(found.may),
                unless=unless,
                comments=where,
            ),
        )

    def _holds(self, rule: JobRule, found: Range, unless: str | None, where: tuple[str, ...]) -> None:
        draft = self._draft
        draft.roles.setdefault(APPROVERS, "Who decides what the source sends to a person.")
        draft.rule(
            "rules",
            Rule(
                id=draft.rule_id(rule.id),
                forbids=True,
                reason=_reason(rule.reason or rule.id, found.lost),
                approval=APPROVERS,
                when=_when(found.may),
                unless=unless,
                comments=where,
            ),
        )
        if found.surely != "false":
            # Only what something permits can wait for people.
            draft.rule("rules", Rule(id=draft.rule_id(rule.id, "permit"), forbids=False, when=_when(found.surely)))

    def _range(self, rule: JobRule) -> Range:
        match = rule.match
        lost = [f"{name}: {original(value)}" for name, value in match.beyond()]
        if rule.velocity is not None:
            lost.append(f"velocity: {original(rule.velocity.model_dump())}")
        if self._document.tier not in (None, "global"):
            lost.append(f"tier: {self._document.tier}")
        may, surely = _topics_match(match.topics)
        if match.tenants:
            groups = " || ".join(f"principal in AgentGroup::{cedar.quoted(_group(one))}" for one in match.tenants)
            may, surely = _both(may, groups), _both(surely, groups)
        return Range(may=may, surely="false" if lost else surely, lost=tuple(lost))

    # --- tenants ----------------------------------------------------------------------------------------------------

    def _tenant_rules(self, name: str, tenant: Tenant) -> None:
        line = self._line("tenants", name)
        principal = f"principal in AgentGroup::{cedar.quoted(_group(name))}"
        if tenant.deny_topics:
            reason = f"the tenant {visible(name)} denies the topic"
            self._tenant_rule(name, "deny-topics", principal, reason, line, when=_topics_match(tenant.deny_topics)[0])
        if tenant.allow_topics:
            reason = f"the tenant {visible(name)} does not list the topic"
            self._tenant_rule(
                name, "allow-topics", principal, reason, line, unless=_topics_match(tenant.allow_topics)[1]
            )
        lost = []
        if tenant.max_concurrent_jobs:
            lost.append(f"max_concurrent_jobs: {tenant.max_concurrent_jobs}")
        if tenant.mcp is not None and any(tenant.mcp.model_dump().values()):
            lost.append(f"mcp: {original(tenant.mcp.model_dump(mode='json', exclude_defaults=True))}")
        if lost:
            message = (
                f"the tenant `{visible(name)}` cannot be said here ({'; '.join(lost)}): all of its jobs are denied"
            )
            self._draft.stricter(self._path, line, message)
            self._tenant_rule(name, "limits", principal, _reason(f"limits of the tenant {visible(name)}", lost), line)

    def _tenant_rule(
        self,
        name: str,
        part: str,
        principal: str,
        reason: str,
        line: int,
        *,
        when: str | None = None,
        unless: str | None = None,
    ) -> None:
        self._draft.rule(
            "tenants",
            Rule(
                id=self._draft.rule_id("tenant", name, part),
                forbids=True,
                reason=reason,
                principal=principal,
                when=_when(when),
                unless=unless,
                comments=(f"tenants.{visible(name)}, line {line}",),
            ),
        )

    # --- content ----------------------------------------------------------------------------------------------------

    def _content(self) -> None:
        document = self._document
        for index, rule in enumerate(document.input_rules):
            self._content_rule("input_rules", index, rule)
        enabled = document.output_policy is None or document.output_policy.enabled is not False
        for index, rule in enumerate(document.output_rules):
            if enabled:
                self._content_rule("output_rules", index, rule)
            else:
                line = self._line("output_rules", index)
                self._draft.left_out(self._path, line, f"the rule `{visible(rule.id)}`: `output_policy` is not enabled")

    def _content_rule(self, part: str, index: int, rule: ContentRule) -> None:
        """Forbid, or hold, every job that the rule may be about: nothing here looks into content."""
        line, draft = self._line(part, index), self._draft
        if rule.decision == "allow":
            draft.left_out(self._path, line, f"the rule `{visible(rule.id)}` looks into content and allows")
            return
        holds = rule.decision == "require_approval"
        outcome = f"every such job is {'held' if holds else 'denied'}"
        text = original(rule.match.model_dump(mode="json", exclude_defaults=True))
        message = f"the rule `{visible(rule.id)}` looks into content ({visible(text)}): {outcome}"
        draft.stricter(self._path, line, message)
        if holds:
            draft.roles.setdefault(APPROVERS, "Who decides what the source sends to a person.")
        draft.rule(
            "content",
            Rule(
                id=draft.rule_id(part, rule.id),
                forbids=True,
                reason=_reason(rule.reason or rule.id, [f"match: {text}", f"decision: {rule.decision}"]),
                approval=APPROVERS if holds else None,
                when=_when(_topics_match(rule.match.topics)[0]),
                comments=(f"{part}[{index}], line {line}",),
            ),
        )

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        document, draft = self._document, self._draft
        if document.default_decision == "allow":
            message = "`default_decision: allow`: every job that no rule matches"
            if draft.omission(self._path, self._line(DEFAULT), DEFAULT, message):
                comments = ("default_decision: allow, kept on demand",)
                draft.rule("rules", Rule(id=draft.rule_id("default-decision"), forbids=False, comments=comments))
        elif document.default_decision not in (None, "", "deny"):
            message = f"`default_decision: {visible(document.default_decision)}` is a denial"
            draft.stricter(self._path, self._line(DEFAULT), message)
        for part in ("input_policy", "output_policy"):
            policy = getattr(document, part)
            if policy is None:
                continue
            if policy.fail_mode == "open":
                message = f"`{part}.fail_mode: open`: what cannot be scanned is not allowed here"
                draft.stricter(self._path, self._line(part, "fail_mode"), message)
            draft.left_out(self._path, self._line(part), f"`{part}` is about scanning content, which is not done here")
        for part in ("require_human", "selector"):
            if getattr(document, part) is not None:
                draft.left_out(self._path, self._line(part), f"`{part}`: what it would soften stays as strict as it is")


def _allowance(rule: JobRule) -> str:
    """Return the name under which an allow can be kept: no rule is mistaken for the default."""
    return rule.id if rule.id != DEFAULT else f"rules.{rule.id}"


def _group(tenant: str) -> str:
    return f"tenant-{slug(tenant)}"


def _is_plain(topic: str) -> bool:
    return not (_SPECIAL | {"*"}) & set(topic)


def _topics_match(topics: Sequence[str]) -> tuple[str, str]:
    """Return when one of the patterns may match, and when it surely does. No pattern is every topic.

    `*` of the source stops at a slash, that of Cedar does not.
    """
    if not topics:
        return "true", "true"
    may, surely = [], []
    for topic in topics:
        if _is_plain(topic):
            test = f"context.operation == {cedar.quoted(topic)}"
            may.append(test)
            surely.append(test)
        elif not _SPECIAL & set(topic):
            test = f"context.operation like {cedar.like(topic)}"
            may.append(test)
            if "/" not in topic:
                surely.append(f'({test} && !(context.operation like "*/*"))')
        else:
            literal = topic[: min(topic.index(one) for one in _SPECIAL | {"*"} if one in topic)]
            may.append(f"context.operation like {cedar.like(literal + '*')}")
    return " || ".join(dict.fromkeys(may)), " || ".join(dict.fromkeys(surely)) or "false"


def _both(first: str, second: str) -> str:
    if "false" in (first, second):
        return "false"
    return second if first == "true" else f"{_wrapped(first)} && {_wrapped(second)}"


def _wrapped(text: str) -> str:
    return f"({text})" if "||" in text else text


def _when(text: str | None) -> str | None:
    return None if text == "true" else text


def _reason(text: str, lost: Iterable[str]) -> str:
    missing = "; ".join(lost)
    return f"{text} (not carried over: {missing})" if missing else text
