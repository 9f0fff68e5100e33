"""What a candidate would have answered to intents that were decided already."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from services.decision.cedar import action_groups
from services.decision.pattern import MostSpecific
from services.decision.replay import Difference, answer, question, signals_of
from services.decision.verdict import Deny

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.reasons import Decision
    from holdfast.strict_json import JSON

    from services.decision.bundle import Bundle
    from services.decision.policy import Policy, Request
    from services.decision.replay import Answer, Recorded
    from services.decision.rules import Rule

#: Differences that are kept whole; the rest is only counted. A looser one displaces a stricter one.
MAX_KEPT: Final = 10_000


class Sameness:
    """Tells where two bundles say the same, so that one evaluation answers for both.

    INVARIANT: yes only where everything that an answer depends on is equal.
    """

    def __init__(self, old: Bundle, new: Bundle) -> None:
        self._old = old
        self._new = new
        self._actions = MostSpecific(old.catalog.actions), MostSpecific(new.catalog.actions)
        self._changed = _changed(old.rules, new.rules)
        self._known: dict[tuple[str, str], tuple[bool, bool]] = {}
        before, after = old.settings, new.settings
        self._circumstances = (old.resources, before.environment, before.risk) == (
            new.resources,
            after.environment,
            after.risk,
        )

    def of(self, agent: str, operation: str) -> tuple[bool, bool]:
        """Return whether every such intent is one question to both bundles, and whether one question has one answer.

        The question depends on the action's own entry in the catalogue with its category, on resources and settings;
        the answer on entry and category, the agent's manifest, and every rule whose scope can match. A manifest's globs
        are about each action alone, so the rest of the catalogue is not looked at; approvals are never replayed.
        """
        key = agent, operation
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._compare(agent, operation)
        return found

    def _compare(self, agent: str, operation: str) -> tuple[bool, bool]:
        action = self._actions[0].find(operation)
        if action != self._actions[1].find(operation):
            return False, False
        if action is None:
            return True, True  # to both it is unclassified
        name, catalogued = action
        category, category_now = (bundle.catalog.categories[catalogued.category] for bundle in (self._old, self._new))
        groups = action_groups(catalogued.category, category)
        if groups != action_groups(catalogued.category, category_now):
            return False, False
        asks = self._circumstances and category.reversible == category_now.reversible
        return asks, self._answers_alike(agent, frozenset({name, *groups}))

    def _answers_alike(self, agent: str, actions: frozenset[str]) -> bool:
        manifest = self._old.manifests.get(agent)
        if manifest != self._new.manifests.get(agent):
            return False
        if manifest is None:
            return True
        principals = frozenset({("Agent", agent), *(("AgentGroup", group) for group in manifest.metadata.groups)})
        return not any(rule.may_match(actions, principals) for rule in self._changed)


def _changed(old: Sequence[Rule], new: Sequence[Rule]) -> list[Rule]:
    """Return the rules that stand in one of the bundles only."""
    before, after = {rule.text for rule in old}, {rule.text for rule in new}
    return [*(rule for rule in old if rule.text not in after), *(rule for rule in new if rule.text not in before)]


class Simulation:
    """Compares two policies over intents, one by one. With `sameness`, what must be alike is evaluated once."""

    def __init__(self, old: Policy, new: Policy, sameness: Sameness | None = None) -> None:
        self.old = old
        self.new = new
        self._sameness = sameness
        self.replayed = 0
        self.unreadable = 0
        self.looser = 0
        self.stricter = 0
        self.other = 0  # the same decision, for another reason
        self.matrix: Counter[tuple[Decision, Decision]] = Counter()
        self._loose: list[Difference] = []
        self._rest: list[Difference] = []

    def add(self, recorded: Recorded | None) -> None:
        """Replay one intent; None counts one that cannot be read."""
        if recorded is None:
            self.unreadable += 1
            return
        old, new = self._answers(recorded)
        self.replayed += 1
        self.matrix[old.decision, new.decision] += 1
        if (old.decision, old.reason_code) == (new.decision, new.reason_code):
            return
        difference = Difference(
            intent_id=recorded.intent_id, agent=recorded.agent, action=recorded.intent.action, old=old, new=new
        )
        looser = difference.looseness > 0
        if looser:
            self.looser += 1
        elif difference.looseness < 0:
            self.stricter += 1
        else:
            self.other += 1
        kept = self._loose if looser else self._rest
        if len(kept) < MAX_KEPT:
            kept.append(difference)

    def _answers(self, recorded: Recorded) -> tuple[Answer, Answer]:
        signals = signals_of(recorded.risk, self.old)
        asked = question(self.old, recorded, signals)
        old = answer(self.old, asked)
        sameness = self._sameness
        asks_alike, answers_alike = (
            (False, False) if sameness is None else sameness.of(recorded.agent, recorded.intent.action)
        )
        asked_now = asked if asks_alike else question(self.new, recorded, signals)
        if answers_alike and (asks_alike or self._is_one_question(asked, asked_now)):
            return old, old
        return old, answer(self.new, asked_now)

    def _is_one_question(self, asked: Request | Deny, asked_now: Request | Deny) -> bool:
        if isinstance(asked, Deny) or isinstance(asked_now, Deny):
            return asked == asked_now
        seen = self.old.seen(asked)
        return seen is not None and seen == self.new.seen(asked_now)

    def differences(self) -> list[Difference]:
        """Return what differs: looser changes first, from deny to allow before anything else, then stricter ones."""
        loose = sorted(self._loose, key=lambda found: (-found.looseness, found.intent_id))
        return loose + sorted(self._rest, key=lambda found: (found.looseness, found.intent_id))

    def to_json(self, *, limit: int) -> dict[str, JSON]:
        """Return the report, with at most `limit` differences."""
        return {
            "old": self.old.digest,
            "new": self.new.digest,
            "replayed": self.replayed,
            "unreadable": self.unreadable,
            "looser": self.looser,
            "stricter": self.stricter,
            "other_reason": self.other,
            "matrix": [
                {"old": old.value, "new": new.value, "count": count}
                for (old, new), count in sorted(self.matrix.items())
            ],
            "differences": [difference_json(found) for found in self.differences()[:limit]],
        }


def difference_json(difference: Difference) -> dict[str, JSON]:
    """Return the wire form of a difference."""
    return {
        "intent_id": difference.intent_id,
        "agent": difference.agent,
        "action": difference.action,
        "change": change_name(difference.looseness),
        "old": answer_json(difference.old),
        "new": answer_json(difference.new),
    }


def change_name(looseness: int) -> str:
    """Return `looser`, `stricter`, or `other` for the same decision with another reason."""
    if looseness == 0:
        return "other"
    return "looser" if looseness > 0 else "stricter"


def answer_json(answer: Answer) -> dict[str, JSON]:
    """Return the wire form of an answer."""
    return {
        "decision": answer.decision.value,
        "reason_code": answer.reason_code.value,
        "determining": [*answer.determining],
    }
