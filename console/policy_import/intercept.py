"""Intercept policies, `version: "1"`. Source: PolicyLayer/Intercept POLICY.md and internal/config, 77f0429.

One Intercept proxy is one agent here, its MCP server one executor, each tool one action. The tools list of the manifest
says which tools there are; each rule of the source is one forbid, so that every rule must pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from console.policy_import.conditions import (
    LISTS,
    NUMERIC,
    Arguments,
    Condition,
    Operator,
    Untranslatable,
)
from console.policy_import.draft import Action, Agent, Category, Draft, Rule, Sample, is_action, is_name
from console.policy_import.durations import seconds
from console.policy_import.samples import calls
from console.policy_import.source import Imported, Refusals, Source, original, visible
from services.decision import cedar
from services.decision.strict_model import Distinct, Items, StrictModel, read_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.strict_json import JSON

    from services.decision.strict_yaml import Node

ANY: Final = "*"
CATEGORY: Final = "imported.tool"
EXECUTOR: Final = "mcp-server"
APPROVERS: Final = "approvers"
DEFAULT: Final = "default"
_MAX_PER_MINUTE: Final = 1_000_000
_DAY_S: Final = 86_400
_RATE = re.compile(r"(?P<count>[1-9][0-9]{0,8})/(?P<window>minute|hour|day)")
_PATH = re.compile(r"(?:args|state)(?:\.[^.]+)+", re.DOTALL)

Words = Annotated[str, Field(max_length=2000)]


def _rate(text: str) -> str:
    if _RATE.fullmatch(text) is None:
        raise ValueError(f"`{text[:40]}` is not a rate limit such as `10/day`")
    return text


def _path(text: str) -> str:
    if _PATH.fullmatch(text) is None:
        raise ValueError(f"the path `{text[:80]}` must start with `args.` or `state.`")
    return text


def _duration(text: str) -> str:
    seconds(text)
    return text


class _Condition(StrictModel):
    path: Annotated[str, AfterValidator(_path)]
    op: Annotated[Operator, Field(strict=False)]
    value: Any


class _State(StrictModel):
    counter: Annotated[str, Field(min_length=1)]
    window: Literal["minute", "hour", "day"]
    increment: int = 1
    increment_from: str | None = None


class _Spend(StrictModel):
    per_call: float | int | None = None
    daily: float | int | None = None


class _Rule(StrictModel):
    name: Annotated[str, Field(min_length=1, max_length=500)]
    action: Literal["evaluate", "deny", "require_approval"] = "evaluate"
    conditions: Items[_Condition] = ()
    rate_limit: Annotated[str, AfterValidator(_rate)] | None = None
    state: _State | None = None
    on_deny: Words | None = None
    approval_timeout: Annotated[str, AfterValidator(_duration)] | None = None
    spend: _Spend | None = None


class _Tool(StrictModel):
    rules: Items[_Rule] | None = None
    spend: _Spend | None = None


class _Approvals(StrictModel):
    webhook: str | Mapping[str, Any] | None = None


class _Policy(StrictModel):
    version: Literal["1"]
    description: Words = ""
    default: Literal["allow", "deny"] | None = None
    hide: Distinct[Annotated[str, Field(min_length=1)]] = ()
    tools: Mapping[str, _Tool] = Field(default_factory=dict)
    spend: _Spend | None = None
    approvals: _Approvals | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A rule with its place. `number` counts from 0 below its tool."""

    tool: str
    number: int
    rule: _Rule
    line: int
    conditions: tuple[Condition, ...]
    state: tuple[JSON, ...]


def convert(source: Source, *, keep: frozenset[str], agent: str) -> Imported:
    """Return the bundle of one policy file. Raises: BundleInvalid, UnknownAllowance."""
    policy, tree = read_model(source.path, source.data, _Policy)
    return _Import(source.path, policy, tree, Draft(source.path, keep), agent).run()


class _Import:
    def __init__(self, path: str, policy: _Policy, tree: Node, draft: Draft, agent: str) -> None:
        self._path = path
        self._policy = policy
        self._tree = tree
        self._draft = draft
        self._agent = agent
        self._limits: list[int] = []
        self._named = [name for name in dict.fromkeys((*policy.tools, *policy.hide)) if name != ANY]

    def run(self) -> Imported:
        """Convert.

        1. Refuse what Intercept itself refuses.
        2. Decide which tools there are: the ceiling.
        3. One forbid for each rule, on the tools that it speaks of.
        4. What cannot be said here forbids.
        """
        # 1. Refuse.
        self._refuse()
        # 2. Ceiling.
        kept = self._keeps_default()
        tools = [name for name in self._named if is_action(name) and (kept or name in self._available())]
        tools += [name for name in self._named if is_action(name) and name not in tools]
        catalogue = [*tools, ANY] if kept else tools
        if not catalogue:
            self._refuse_empty()
        arguments = {name: Arguments(self._conditions_on(name)) for name in catalogue}
        self._catalogue(arguments)
        self._manifest([name for name in catalogue if name == ANY or name in self._available()], kept=kept)
        # 3. Rules.
        for name in self._policy.tools:
            self._tool_rules(name, arguments)
        # 4. What is left.
        self._beyond(kept=kept)
        self._samples(arguments)
        return self._draft.finish()

    # --- what Intercept refuses -------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        refusals = Refusals()
        if not is_name(self._agent):
            refusals.add(self._path, 1, f"`{self._agent[:60]}` cannot name an agent")
        for placed in self._rules():
            for message in _wrong(placed.rule):
                refusals.add(self._path, placed.line, f"the rule `{visible(placed.rule.name)}`: {message}")
        refusals.check()

    def _refuse_empty(self) -> None:
        refusals = Refusals()
        refusals.add(self._path, 1, "the policy names no tool that can be imported: there is nothing to allow or deny")
        refusals.check()

    # --- places -----------------------------------------------------------------------------------------------------

    def _line(self, *path: str | int) -> int:
        return self._tree.at(*path)[0]

    def _rules(self) -> Iterator[_Placed]:
        for name in self._policy.tools:
            yield from self._rules_of(name)

    def _rules_of(self, name: str) -> Iterator[_Placed]:
        tool = self._policy.tools.get(name)
        for number, rule in enumerate((tool.rules if tool else None) or ()):
            conditions, state = [], []
            for index, condition in enumerate(rule.conditions):
                line = self._line("tools", name, "rules", number, "conditions", index)
                root, *path = condition.path.split(".")
                if root == "state":
                    state.append(condition.model_dump(mode="json"))
                    continue
                conditions.append(
                    Condition(
                        path=tuple(path),
                        op=condition.op,
                        value=condition.value,
                        line=line,
                        needs=rule.action == "evaluate" or condition.op is not Operator.EXISTS,
                    )
                )
            yield _Placed(
                tool=name,
                number=number,
                rule=rule,
                line=self._line("tools", name, "rules", number),
                conditions=tuple(conditions),
                state=tuple(state),
            )

    def _conditions_on(self, tool: str) -> Iterator[Condition]:
        for placed in (*self._rules_of(tool), *(self._rules_of(ANY) if tool != ANY else ())):
            yield from placed.conditions

    # --- the ceiling ------------------------------------------------------------------------------------------------

    def _available(self) -> frozenset[str]:
        """Return the tools that are listed and not hidden, and whose listing says something."""
        if ANY in self._policy.hide:
            return frozenset()
        listed = {
            name
            for name, tool in self._policy.tools.items()
            if tool.rules is not None or self._draft.keeps(_listing(name))
        }
        return frozenset(listed - set(self._policy.hide) - {ANY})

    def _keeps_default(self) -> bool:
        policy = self._policy
        for name, tool in policy.tools.items():
            if tool.rules is None and name != ANY:
                message = f"the tool `{visible(name)}` is listed without `rules`"
                self._draft.omission(self._path, self._line("tools", name), _listing(name), message)
        if policy.default == "deny":
            return False
        said = "`default: allow`" if policy.default else "`default` is missing, which is `allow`"
        line = self._line("default") if policy.default else 1
        kept = self._draft.omission(self._path, line, DEFAULT, f"{said}: every tool that is not listed")
        return kept and ANY not in policy.hide

    def _catalogue(self, arguments: dict[str, Arguments]) -> None:
        draft = self._draft
        if self._policy.description:
            draft.remarks.append(visible(self._policy.description))
        draft.categories[CATEGORY] = Category(
            description="A tool of the imported policy",
            comments=(
                "The source does not say what its tools do. Until somebody does, each is taken for the graver:",
                "split this category, and give reads `effect: read` and what can be undone `reversible: true`.",
            ),
        )
        draft.executors[EXECUTOR] = "The MCP server behind the imported proxy"
        for name, typed in arguments.items():
            comments = [f"tools.{visible(name)}, line {self._tool_line(name)}"]
            if name in self._policy.hide:
                comments.append("Hidden in the source: no agent has it.")
            if name == ANY:
                comments = ["Every tool that the source does not list: kept by --keep-allow default."]
            draft.actions[name] = Action(
                category=CATEGORY, executor=EXECUTOR, parameters=typed.parameters(), comments=tuple(comments)
            )
            for path, line, kind, required in typed.typed():
                needs = ", and needs it" if required else ""
                message = f"`{visible(name)}` takes `{visible(path)}` as {kind} only{needs}"
                draft.stricter(self._path, line, message)
        for name in self._named:
            if not is_action(name):
                message = f"the tool `{visible(name)}` cannot be an action's name here: it is left out and denied"
                draft.stricter(self._path, self._tool_line(name), message)

    def _tool_line(self, name: str) -> int:
        if name in self._policy.tools:
            return self._line("tools", name)
        return self._line("hide", self._policy.hide.index(name)) if name in self._policy.hide else 1

    def _manifest(self, tools: list[str], *, kept: bool) -> None:
        spec: dict[str, JSON] = {"tools": list(tools)}
        limits = [
            int(match["count"]) for placed in self._rules_of(ANY) if (match := self._minute_limit(placed)) is not None
        ]
        if limits:
            spec["rateLimit"] = {"maxCallsPerMinute": min(*limits, _MAX_PER_MINUTE)}
        comments = ["The one agent behind the imported proxy. Its tools act on any resource, as in the source."]
        if kept:
            comments.append("`*` is every other tool: the source's `default: allow`, kept on demand.")
        self._draft.agents[self._agent] = Agent(spec=spec, comments=tuple(comments))

    @staticmethod
    def _minute_limit(placed: _Placed) -> re.Match[str] | None:
        match = _RATE.fullmatch(placed.rule.rate_limit or "")
        return match if match is not None and match["window"] == "minute" and placed.tool == ANY else None

    # --- rules ------------------------------------------------------------------------------------------------------

    def _tool_rules(self, name: str, arguments: dict[str, Arguments]) -> None:
        for placed in self._rules_of(name):
            if self._minute_limit(placed) is not None:
                self._draft.remark(
                    "tools",
                    f"`{visible(placed.rule.name)}` is rateLimit.maxCallsPerMinute of agents/{self._agent}.yaml.",
                )
                continue
            on = list(arguments) if name == ANY else [tool for tool in (name,) if tool in arguments]
            groups: dict[tuple[str | None, ...], list[str]] = {}
            for tool in on:
                groups.setdefault(self._statement(placed, arguments[tool]), []).append(tool)
            for form, tools in groups.items():
                self._write(placed, form, tools, whole=len(tools) == len(arguments))
        listed = self._policy.tools[name]
        if listed.spend is not None:
            line = self._line("tools", name, "spend")
            self._forbid_spend(listed.spend, line, [name] if name in arguments else None, whole=name == ANY)

    def _statement(self, placed: _Placed, arguments: Arguments) -> tuple[str | None, ...]:
        """Return effect, condition and what was not carried over: equal for tools that one rule can cover."""
        rule = placed.rule
        lost = [f"state: {original(condition)}" for condition in placed.state]
        if rule.rate_limit is not None:
            lost.append(f"rate_limit: {rule.rate_limit}")
        if rule.spend is not None:
            lost.append(f"spend: {original(rule.spend.model_dump(exclude_none=True))}")
        tests: list[str] = []
        never = False
        for condition in placed.conditions:
            found = arguments.expression(condition)
            if isinstance(found, Untranslatable):
                lost.append(f"{_shown(condition)} ({found.why})")
            elif isinstance(found, str):
                tests.append(found)
            elif not found:
                never = True
        conjunction = " && ".join(dict.fromkeys(tests)) or None
        missing = "; ".join(lost) or None
        if rule.action == "deny":
            return "deny", None, None
        if rule.action == "require_approval" and rule.rate_limit is None:
            # A dropped part of a trigger can only widen it: more is held.
            return ("never" if never else "hold"), conjunction, missing
        if missing is not None or never:
            return "deny", None, missing
        return ("unless" if conjunction else "never"), conjunction, None

    def _write(self, placed: _Placed, form: tuple[str | None, ...], tools: list[str], *, whole: bool) -> None:
        kind, condition, missing = form
        rule, draft = placed.rule, self._draft
        where = f"tools.{visible(placed.tool)}.rules[{placed.number}], line {placed.line}: {visible(rule.name)}"
        if missing is not None:
            self._note_missing(placed, kind, missing)
        if kind == "never":
            draft.remark("tools", f"{where}: the catalogue's parameters say it.")
            return
        if rule.action == "require_approval" and rule.rate_limit is None:
            draft.roles.setdefault(APPROVERS, "Who approves what the source holds with `require_approval`.")
            self._shorten(rule)
        reason = rule.on_deny or rule.name
        if missing is not None:
            reason = f"{reason} (not carried over: {missing})"
        draft.rule(
            "tools",
            Rule(
                id=draft.rule_id(placed.tool, rule.name),
                forbids=True,
                reason=reason,
                approval=APPROVERS if kind == "hold" else None,
                actions=None if whole else tuple(tools),
                when=condition if kind == "hold" else None,
                unless=condition if kind == "unless" else None,
                comments=(where,),
            ),
        )

    def _note_missing(self, placed: _Placed, kind: str | None, missing: str) -> None:
        outcome = "every call that its other conditions hold is held" if kind == "hold" else "every call is denied"
        of = "any tool" if placed.tool == ANY else f"`{visible(placed.tool)}`"
        message = f"the rule `{visible(placed.rule.name)}` of {of} cannot be said here ({visible(missing)}): {outcome}"
        self._draft.stricter(self._path, placed.line, message)

    def _shorten(self, rule: _Rule) -> None:
        if rule.approval_timeout is not None:
            self._limits.append(min(max(seconds(rule.approval_timeout), 1), 7 * _DAY_S))
            self._draft.ttl_seconds = min(self._limits)

    # --- what is left -----------------------------------------------------------------------------------------------

    def _beyond(self, *, kept: bool) -> None:
        policy, draft = self._policy, self._draft
        if policy.spend is not None:
            self._forbid_spend(policy.spend, self._line("spend"), None, whole=True)
        if policy.approvals is not None:
            message = "`approvals`: where people are told is a setting of the service, not of the policy"
            draft.left_out(self._path, self._line("approvals"), message)
        for placed in self._rules():
            rule, line = placed.rule, placed.line
            if rule.state is not None:
                message = f"the counter `{visible(rule.state.counter)}` is not kept: rules here have no memory"
                draft.left_out(self._path, line, message)
            if rule.approval_timeout is not None and seconds(rule.approval_timeout) != draft.ttl_seconds:
                message = f"approval_timeout {rule.approval_timeout}: everything waits {draft.ttl_seconds} s at most"
                draft.stricter(self._path, line, message)
        if not kept:
            return
        # With `*` among the tools, what must stay out needs a rule of its own.
        for name in self._named:
            hidden = name in policy.hide
            unlisted = name in policy.tools and policy.tools[name].rules is None and not draft.keeps(_listing(name))
            if not (hidden or unlisted or not is_action(name)):
                continue
            exact = is_action(name)
            draft.rule(
                "tools",
                Rule(
                    id=draft.rule_id("not-available", name),
                    forbids=True,
                    reason="hidden in the source" if hidden else "not carried over from the source",
                    actions=(name,) if exact else None,
                    when=None if exact else f"context.operation == {cedar.quoted(name)}",
                    comments=(f"line {self._tool_line(name)}",),
                ),
            )

    def _forbid_spend(self, spend: _Spend, line: int, tools: list[str] | None, *, whole: bool) -> None:
        text = original(spend.model_dump(exclude_none=True))
        self._draft.stricter(self._path, line, f"spend {text} cannot be counted here: every such call is denied")
        if tools is None and not whole:
            return
        self._draft.rule(
            "tools",
            Rule(
                id=self._draft.rule_id(*(tools or ["any"]), "spend"),
                forbids=True,
                reason=f"spending limits are not carried over: spend: {text}",
                actions=None if whole or tools is None else tuple(tools),
                comments=(f"spend, line {line}",),
            ),
        )

    def _samples(self, arguments: dict[str, Arguments]) -> None:
        for name in arguments:
            action = "unlisted" if name == ANY else name
            for parameters in calls(self._conditions_on(name)):
                self._draft.sample(Sample(agent=self._agent, action=action, parameters=parameters))
        if ANY not in arguments:
            self._draft.sample(Sample(agent=self._agent, action="a-tool-that-is-not-listed"))


def _listing(tool: str) -> str:
    """Return the name under which a tool without rules can be kept: no tool is mistaken for the default."""
    return f"tools.{tool}"


def _wrong(rule: _Rule) -> Iterator[str]:
    if rule.rate_limit is not None and (rule.conditions or rule.state is not None):
        yield "`rate_limit` cannot be combined with conditions or state"
    if rule.rate_limit is not None and rule.action == "deny":
        yield "`rate_limit` cannot be combined with `action: deny`"
    if rule.action == "deny" and rule.conditions:
        yield "deny rules have no conditions"
    if rule.action == "evaluate" and not rule.conditions and rule.rate_limit is None and rule.spend is None:
        yield "evaluate rules need at least one condition"
    if rule.approval_timeout is not None and rule.action != "require_approval":
        yield "`approval_timeout` belongs to `action: require_approval`"
    if rule.state is not None and not (rule.state.increment_from or "args.").startswith("args."):
        yield "`increment_from` must start with `args.`"
    for condition in rule.conditions:
        yield from _wrong_value(condition)


def _wrong_value(condition: _Condition) -> Iterator[str]:
    op, value = condition.op, condition.value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if op in NUMERIC and not number:
        yield f"`{op}` needs a number"
    if op in LISTS and not isinstance(value, list):
        yield f"`{op}` needs a list"
    if op is Operator.EXISTS and not isinstance(value, bool):
        yield "`exists` needs true or false"
    if op is Operator.REGEX and not isinstance(value, str):
        yield "`regex` needs a string"


def _shown(condition: Condition) -> str:
    return original({"path": ".".join(("args", *condition.path)), "op": str(condition.op), "value": condition.value})
