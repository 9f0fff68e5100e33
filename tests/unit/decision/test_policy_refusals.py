"""What a bundle may not say. Each case changes one thing in a bundle that is accepted."""

# ruff: noqa: E501 - a case holds a whole line of Cedar or YAML

from __future__ import annotations

import re

import bundles
import pytest
from bundles import AGENT, CATALOG, RULES, SETTINGS, errors_of, files

from services.decision import bundle
from services.decision.bundle import digest, read_bundle
from services.decision.rules import MAX_RULES


def test_the_bundle_that_the_cases_change_is_accepted():
    assert errors_of(files()) == []


def test_an_empty_bundle_is_refused():
    assert errors_of({}) == ["catalog.yaml:1: the catalogue is missing: a bundle without one permits nothing"]


def test_a_catalogue_without_actions_is_refused():
    text = "version: 1\ncategories: {}\nexecutors: {}\nactions: {}\n"
    assert errors_of({"catalog.yaml": text.encode()}) == ["catalog.yaml:4: `actions` must not be empty"]


def swapped(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


CASES = [
    # anything the schemas do not know
    ("catalog", swapped(CATALOG, "version: 1", "version: 2"), "catalog.yaml:1: `version` must be 1"),
    ("catalog", swapped(CATALOG, "version: 1", 'version: "1"'), "catalog.yaml:1: `version` must be 1"),
    ("catalog", swapped(CATALOG, "version: 1", "version: 1\nnotes: x"), "catalog.yaml:2: unknown field `notes`"),
    ("catalog", swapped(CATALOG, "impact: high", "impact: grave"), "catalog.yaml:3: `impact` must be"),
    ("catalog", swapped(CATALOG, "effect: read", "effect: look"), "catalog.yaml:4: `effect` must be"),
    ("catalog", swapped(CATALOG, "reversible: false", 'reversible: "false"'), "`reversible` must be true or false"),
    ("catalog", swapped(CATALOG, "max_token_seconds: 45", "max_token_seconds: 45.0"), "must be an integer"),
    ("catalog", swapped(CATALOG, "max_token_seconds: 45", "max_token_seconds: true"), "must be an integer"),
    (
        "catalog",
        swapped(CATALOG, "type: integer", "type: int"),
        "catalog.yaml:16: `type` of `amount_cents` must be one of",
    ),
    ("catalog", swapped(CATALOG, "min: 1, max: 100000000", "min: 2, max: 1"), "catalog.yaml:16: `min` is above `max`"),
    ("catalog", swapped(CATALOG, "log: true", "log: true, personal: true"), "`log` and `personal` exclude each other"),
    ("catalog", swapped(CATALOG, "max_length: 20", "min: 20"), "catalog.yaml:18: unknown field `min`"),
    ("catalog", swapped(CATALOG, 'max: "1.0"', "max: 1.0"), "catalog.yaml:19: `max` must be a string"),
    ("catalog", swapped(CATALOG, 'max: "1.0"', 'max: "1.00001"'), "is not a decimal"),
    ("catalog", swapped(CATALOG, "enum: [EUR, USD]", "enum: [EUR, NO]"), "`NO` is not the same to every reader"),
    ("catalog", swapped(CATALOG, "enum: [EUR, USD]", "enum: []"), "`enum` must not be empty"),
    (
        "catalog",
        swapped(CATALOG, "urgent: {type: boolean, log: true}", "__extn: {type: string}"),
        "`__extn` is reserved",
    ),
    ("catalog", swapped(CATALOG, "    resource: payment\n", ""), "`resource` is missing"),
    ("catalog", swapped(CATALOG, "ticket.create:", '"effect:read":'), "starts like a group of actions"),
    ("catalog", swapped(CATALOG, "ticket.create:", "read:"), "is a verb of the manifests"),
    ("catalog", swapped(CATALOG, "resource: payment\n", "resource: pay/ment\n"), "is not a resource type"),
    # names that nothing defines
    (
        "catalog",
        swapped(CATALOG, "category: finance.refund", "category: finance.other"),
        "catalog.yaml:12: the category `finance.other` is not defined",
    ),
    (
        "catalog",
        swapped(CATALOG, "[payments-api, ledger-api]", "[payments-api, other]"),
        "catalog.yaml:13: the executor `other` is not defined",
    ),
    ("bot", swapped(AGENT, "kb.search", "kb.find"), "agents/bot.yaml:5: the tool `kb.find` is not in the catalogue"),
    (
        "bot",
        AGENT + '  policies: [{effect: allow, resource: "*", action: kb.find}]\n',
        "agents/bot.yaml:7: the action `kb.find` is not in the catalogue",
    ),
    ("refunds", swapped(RULES, '"finance"', '"nobody"'), "rules/refunds.cedar:2: the role `nobody` is not defined"),
    # two overlapping globs of equal specificity
    (
        "catalog",
        swapped(
            CATALOG,
            "logs.*:",
            "log*s: {category: support.read, executor: kb-api, resource: ticket}\n  lo*gs: {category: support.read, executor: kb-api, resource: ticket}\n  log*z: {category: support.read, executor: kb-api, resource: ticket}\n  log*qs: {category: support.read, executor: kb-api, resource: ticket}\n  log*xs*: {category: support.read, executor: kb-api, resource: ticket}\n  logs.*:",
        ),
        "`log*xs*` and `log*qs` are equally specific",
    ),
    (
        "resources",
        'version: 1\nresources:\n  "a/*b": {}\n  "a/*b*": {}\n',
        "resources.yaml:4: `a/*b*` and `a/*b` are equally specific",
    ),
    (
        "resources",
        'version: 1\nresources:\n  "payment/*": {sensitivity: secret}\n',
        "resources.yaml:3: `sensitivity` must be",
    ),
    # the manifest
    ("bot", swapped(AGENT, "holdfast.dev/v1", "holdfast.dev/v2"), "agents/bot.yaml:1: `apiVersion` must be"),
    ("bot", swapped(AGENT, "kind: Agent", "kind: AgentPolicy"), "agents/bot.yaml:2: `kind` must be"),
    ("bot", swapped(AGENT, 'tier: "2"', "tier: 2"), "agents/bot.yaml:3: `tier` must be a string"),
    ("bot", swapped(AGENT, "name: bot", 'name: "b o t"'), "agents/bot.yaml:3: `name` has characters"),
    ("bot", AGENT + "  model: gpt-4\n", "`model` is the older form"),
    ("bot", AGENT + "  environments:\n", "agents/bot.yaml:7: a value is missing"),
    ("bot", AGENT + "  policies:\n", "agents/bot.yaml:7: a value is missing"),
    ("bot", AGENT + '  policies: [{effect: permit, resource: "*", action: read}]\n', "`effect` must be"),
    ("bot", AGENT + '  dataAccess: [{effect: deny, resource: "*", action: read}]\n', "`effect` must be"),
    (
        "bot",
        AGENT + '  dataAccess: [{resource: "*", action: read, rateLimitedBy: callingAgent}]\n',
        "unknown field `rateLimitedBy`",
    ),
    ("bot", AGENT + "  rateLimit: {maxCallsPerMinute: 0}\n", "`maxCallsPerMinute` must be at least 1"),
    ("bot", AGENT + "  rateLimit: {max_calls_per_minute: 1}\n", "unknown field `max_calls_per_minute`"),
    ("bot", AGENT + '  schedule: {timezone: Europe/Nowhere, allow: ["Mon-Fri 09:00-17:00"]}\n', "is not a time zone"),
    ("bot", AGENT + '  schedule: {timezone: ../../etc/passwd, allow: ["Mon-Fri 09:00-17:00"]}\n', "is not a time zone"),
    ("bot", AGENT + '  schedule: {timezone: UTC, allow: ["Mo-Fr 9-17"]}\n', "is not a window"),
    ("bot", AGENT + '  schedule: {timezone: UTC, allow: ["Mon 09:00-09:00"]}\n', "is empty"),
    # rules
    ("refunds", "permit (principal, action, resource);", "rules/refunds.cedar:1: the rule needs an `@id`"),
    ("refunds", '@id("agent:bot:1") permit (principal, action, resource);', "kept for manifests"),
    (
        "refunds",
        RULES + RULES,
        "rules/refunds.cedar:10: the id `big-refunds` stands twice, first at rules/refunds.cedar:2",
    ),
    (
        "refunds",
        '\n\n@id("x")\npermit (principal, action == Action::"kb.serch", resource);',
        "rules/refunds.cedar:3: the rule `x` fails Cedar's strict validation",
    ),
    (
        "refunds",
        '@id("x") forbid (principal, action == Action::"kb.search", resource) when { context.parameters.amount_cents > 1 };',
        "fails Cedar's strict validation",
    ),
    (
        "refunds",
        '@id("x") forbid (principal, action == Action::"payments.refund.create", resource) when { context.parameters.amount_cents > "1" };',
        "fails Cedar's strict validation",
    ),
    (
        "refunds",
        '@id("x") forbid (principal, action == Action::"payments.refund.create", resource) when { context.parameters.note == "x" };',
        "fails Cedar's strict validation",
    ),
    (
        "refunds",
        '@id("x") forbid (principal, action, resource) when { resource.owner == "x" };',
        "fails Cedar's strict validation",
    ),
    ("refunds", '@id("x") permit (principal == User::"x", action, resource);', "fails Cedar's strict validation"),
    (
        "refunds",
        '@id("x") @requires_approval("finance") permit (principal, action, resource);',
        "rules/refunds.cedar:1: `@requires_approval` stands on a forbid only",
    ),
    (
        "refunds",
        '@id("x") @requires_approval("finance:0") forbid (principal, action, resource);',
        'takes "role" or "role:2"',
    ),
    ("refunds", '@id("x") @requires_approval forbid (principal, action, resource);', 'takes "role" or "role:2"'),
    ("refunds", '@id("x") permit (principal == ?principal, action, resource);', "templates"),
    ("refunds", '@id("x") permit (principal, action, resource)', "not Cedar"),
    ("refunds", '@id("x") permit (principal, action, resource) when { "unfinished };', "not Cedar"),
    ("refunds", ";", "not Cedar"),
    # settings
    ("holdfast", SETTINGS + "fail_modes: {low: open}\n", "fail-open needs `max_per_minute`"),
    ("holdfast", SETTINGS + "fail_modes: {low: {mode: open}}\n", "fail-open needs `max_per_minute`"),
    (
        "holdfast",
        SETTINGS + "fail_modes: {medium: {mode: open, max_per_minute: 5}}\n",
        "holdfast.yaml:4: fail-open is refused above low",
    ),
    (
        "holdfast",
        SETTINGS + "fail_modes: {high: {mode: open, max_per_minute: 5}}\n",
        "holdfast.yaml:4: fail-open is refused above low",
    ),
    (
        "holdfast",
        SETTINGS + "fail_modes: {critical: {mode: open, max_per_minute: 5}}\n",
        "holdfast.yaml:4: fail-open is refused above low",
    ),
    ("holdfast", SETTINGS + "fail_modes: {high: open}\n", "holdfast.yaml:4: fail-open is refused above low"),
    ("holdfast", SETTINGS + "fail_modes: {medium: {mode: open}}\n", "holdfast.yaml:4: fail-open is refused above low"),
    ("holdfast", SETTINGS + "preauthorization: {max_seconds: {critical: 1}}\n", "`critical` must be 0"),
    ("holdfast", SETTINGS + "risk: {tiers: {medium: 70}}\n", "the tiers must ascend"),
    ("holdfast", SETTINGS + "risk: {weights: {production: -5}}\n", "`production` must be at least 0"),
    ("holdfast", SETTINGS + "risk: {weights: {impact: {critical: 1}}}\n", "must not descend"),
    ("holdfast", SETTINGS + "queue: {lanes: {high: 4}}\n", "`high` must be at most 3"),
    ("holdfast", SETTINGS + "limits: {evaluation_ms: 0}\n", "`evaluation_ms` must be at least 1"),
    ("holdfast", swapped(SETTINGS, "[alice, bob]", "[alice, alice]"), "`alice` stands twice"),
]


@pytest.mark.parametrize(("stem", "text", "message"), CASES, ids=[case[2][-48:] for case in CASES])
def test_a_bundle_is_refused(stem, text, message):
    errors = errors_of(files(**{stem: text}))
    assert any(message in error for error in errors), errors


BREAK_GLASS = "{name: b, categories: [finance.refund], agents: [bot], environments: [production], people: 2, max_minutes: 30, max_uses: 5}"


@pytest.mark.parametrize("left_out", ["people", "max_minutes", "max_uses", "categories", "agents", "environments"])
def test_break_glass_without_a_bound_is_refused(left_out):
    text = re.sub(rf", {left_out}: (\[[^]]*\]|\d+)", "", BREAK_GLASS)
    assert text != BREAK_GLASS
    assert errors_of(files(holdfast=f"{SETTINGS}break_glass:\n  - {text}\n")) == [
        f"holdfast.yaml:5: `{left_out}` is missing"
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("people: 2", "people: 0", "`people` must be at least 1"),
        ("max_uses: 5", "max_uses: 0", "`max_uses` must be at least 1"),
        ("[finance.refund]", "[finance.other]", "the category `finance.other` is not defined"),
        ("[bot]", "[]", "`agents` must not be empty"),
    ],
)
def test_break_glass_that_means_nothing_is_refused(old, new, message):
    errors = errors_of(files(holdfast=f"{SETTINGS}break_glass:\n  - {swapped(BREAK_GLASS, old, new)}\n"))
    assert any(message in error for error in errors), errors


def test_a_break_glass_name_stands_once():
    text = f"{SETTINGS}break_glass:\n  - {BREAK_GLASS}\n  - {BREAK_GLASS}\n"
    assert errors_of(files(holdfast=text)) == ["holdfast.yaml:6: the break-glass `b` is defined twice"]


def test_an_agent_is_defined_once():
    errors = errors_of({**files(), "agents/other.yaml": AGENT.encode()})
    assert errors == ["agents/other.yaml:3: the agent `bot` is defined twice, first in agents/bot.yaml"]


@pytest.mark.parametrize(
    "path", ["notes.txt", "agents/bot.yml", "agents/sub/bot.yaml", "rules/x.txt", "tests/x.json", "../catalog.yaml"]
)
def test_a_file_that_a_bundle_does_not_have_is_refused(path):
    assert errors_of({**files(), path: b"x"}) == [f"{path}:1: a bundle has no such file"]


def test_the_readme_and_dotfiles_are_no_part_of_the_bundle():
    extra = {"README.md": b"words", ".gitignore": b"*", "agents/.swp": b"\xff"}
    assert read_bundle({**files(), **extra}).digest == read_bundle(files()).digest


def test_files_that_are_not_utf_8_are_refused_everywhere():
    for path in files():
        assert any("not UTF-8" in error for error in errors_of({**files(), path: b"\xff"})), path


def test_findings_of_several_files_come_together():
    errors = errors_of(files(bot="kind: Agent\n", refunds="permit"))
    assert {error.split(":", 1)[0] for error in errors} == {"agents/bot.yaml", "rules/refunds.cedar"}


def test_a_file_beyond_the_bound_is_refused():
    big = b"#" * (bundle.MAX_FILE_BYTES + 1)
    assert errors_of({**files(), "holdfast.yaml": big}) == ["holdfast.yaml:1: the file has more than 4194304 bytes"]


def test_more_rules_than_the_bound_are_refused():
    rules = "".join(f'@id("r{n}") forbid (principal, action, resource);\n' for n in range(MAX_RULES + 1))
    errors = errors_of(files(refunds=rules))
    assert errors == ["rules/refunds.cedar:1: the bundle has more than 5000 rules"]


def test_the_digest_follows_every_byte_and_every_name():
    one = digest({"a": b"bc"})
    assert one == digest({"a": b"bc"})
    assert one.startswith("sha256:")
    assert len({one, digest({"ab": b"c"}), digest({"a": b"bd"}), digest({"a": b"b", "c": b""})}) == 4


SUITE = """suite: s
cases:
  - name: one
    agent: bot
    intent: {action: kb.search, resource: {type: knowledge-base, id: x}}
    expect: {decision: allow}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "resource: {type: knowledge-base, id: x}",
            "resource: {type: knowledge-base}",
            "tests/s.yaml:5: not an intent: `resource` has no `id`",
        ),
        ("{decision: allow}", "{}", "tests/s.yaml:6: a case must expect something"),
        ("{decision: allow}", "{decision: permit}", "`decision` must be"),
        ("{decision: allow}", "{reason_code: FINE}", "`FINE` is not a reason code"),
        ("    expect", "    now: noon\n    expect", "`noon` is not a time"),
        ("    expect", "    now: 2026-11-20T10:00:00\n    expect", "is not a time"),
        ("    expect", "    now: 2026-13-20T10:00:00Z\n    expect", "is not a time"),
        ("{decision: allow}", "{risk: {at_least: 5, at_most: 4}}", "`at_least` is above `at_most`"),
    ],
)
def test_a_test_suite_is_read_strictly(old, new, message):
    errors = errors_of({**files(), "tests/s.yaml": swapped(SUITE, old, new).encode()})
    assert any(message in error for error in errors), errors


def test_null_is_a_value_in_a_test_s_parameters_only():
    suite = swapped(SUITE, "id: x}}", "id: x}, parameters: {extra: null, half: 0.5}}")
    assert errors_of({**files(), "tests/s.yaml": suite.encode()}) == []


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 40_000 + "true" + ")" * 20_000,
        "[" * 5_000 + "]" * 5_000 + ".isEmpty()",
        "{a:" * 5_000 + "1" + "}" * 5_000 + " == 1",
        "!(" * 5_000 + "true" + ")" * 5_000,
        "context" + ".a" * 20_000 + " == 1",
        "context" + '["a"]' * 9_000 + " == 1",
        "1" + "+1" * 20_000 + " == 1",
        "true" + " && true" * 7_000,
        "if true then " * 1_000 + "true" + " else false" * 1_000,
        "[1]" + ".contains(1)" * 4_000,
    ],
)
def test_a_rule_that_is_too_deep_for_the_engine_is_refused_before_it_gets_there(condition):
    rule = f'@id("deep") forbid (principal, action, resource) when {{ {condition} }};'
    (message,) = errors_of(files(refunds=rule))
    assert message.startswith("rules/refunds.cedar:1: ")


def test_a_long_list_in_a_rule_is_not_deep():
    names = ", ".join(f'"n.{number}+*!(["' for number in range(2_000))
    rule = f'@id("long") forbid (principal, action, resource) when {{ [{names}].contains(resource.id) }};'
    assert errors_of(files(refunds=rule)) == []


def test_a_denial_that_reaches_nothing_yet_is_a_precaution():
    text = AGENT + '  policies: [{effect: deny, resource: "invoice/*", action: "deploy.*"}]\n'
    assert bundles.warnings_of(files(bot=text)) == []


def test_the_other_dialect_is_read_with_a_notice():
    manifest = swapped(AGENT, "holdfast.dev/v1", "orloj.dev/v1")
    manifest += '  dataAccess: [{resource: "knowledge-base/*", action: read, rateLimitedBy: callingAgent}]\n'
    assert bundles.warnings_of(files(bot=manifest)) == [
        "agents/bot.yaml:1: `orloj.dev/v1` is read as `holdfast.dev/v1`"
    ]


@pytest.mark.parametrize(
    ("stem", "text", "message"),
    [
        (
            "bot",
            AGENT + '  policies: [{effect: allow, resource: "*", action: "deploy.*"}]\n',
            "agents/bot.yaml:7: the entry has no effect",
        ),
        (
            "bot",
            AGENT + '  policies: [{effect: allow, resource: "invoice/*", action: ticket.create}]\n',
            "the entry has no effect: no such tool takes",
        ),
        ("bot", swapped(AGENT, "logs.*", "metrics.*"), "agents/bot.yaml:5: the tool `metrics.*` matches nothing"),
        (
            "catalog",
            swapped(CATALOG, "resource: ticket}", "resource: ticket, parameters: {title: {type: string}}}"),
            "catalog.yaml:25: the parameter `title` of `ticket.create` is not used",
        ),
        (
            "refunds",
            '@id("x") forbid (principal == Agent::"nobody", action, resource);',
            "can match no agent: nothing is Agent `nobody`",
        ),
        (
            "refunds",
            '@id("x") @note("x") forbid (principal, action, resource);',
            "`@note` of the rule `x` has no meaning",
        ),
        (
            "refunds",
            '@id("x") @requires_approval("security:2") forbid (principal, action, resource);',
            "needs more people than `security` has",
        ),
        (
            "holdfast",
            SETTINGS + "fail_modes: {low: {mode: open, max_per_minute: 60}}\n",
            "holdfast.yaml:4: low-impact reads fail open in production",
        ),
    ],
)
def test_what_is_unlikely_to_be_meant_is_a_warning(stem, text, message):
    warnings = bundles.warnings_of(files(**{stem: text}))
    assert any(message in warning for warning in warnings), warnings
