"""From an intent to its category, executor, environment and typed parameters."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import rfc8785
from bundles import CATALOG, ask, intent, policy
from holdfast.intent import Context
from holdfast.reasons import ReasonCode

from services.decision.policy import Classified
from services.decision.verdict import Allow, Deny

POLICY = policy()


def test_an_intent_is_classified_by_the_catalogue():
    classified = POLICY.classify(intent())
    assert isinstance(classified, Classified)
    assert (classified.category, classified.impact, classified.effect) == ("finance.refund", "high", "external")
    assert (classified.action, classified.executor) == ("payments.refund.create", "payments-api")
    assert (classified.sensitivity, classified.labels) == ("confidential", ("pci",))
    assert not classified.reversible
    assert classified.proof_of_possession


def test_an_action_outside_the_catalogue_is_unclassified():
    for name in (
        "shell.run",
        "payments.refund.create2",
        "payments.refund",
        "PAYMENTS.REFUND.CREATE",
        "*",
        "logs",
        "logs*",
    ):
        verdict = POLICY.classify(intent(name, "ticket/1"))
        assert isinstance(verdict, Deny), name
        assert verdict.reason_code is ReasonCode.INTENT_UNCLASSIFIED


def test_a_glob_classifies_every_name_it_matches():
    for name in ("logs.", "logs.query", "logs.a.b/c", "logs.*"):
        classified = POLICY.classify(intent(name, "host/1"))
        assert isinstance(classified, Classified)
        assert classified.action == "logs.*"


def test_the_most_specific_pattern_wins():
    text = "".join(
        f'  "{pattern}": {{category: {category}, executor: kb-api, resource: "*"}}\n'
        for pattern, category in (
            ("*", "finance.refund"),
            ("a.*", "support.write"),
            ("a.*.z", "support.read"),
            ("a.b.*", "finance.refund"),
            ("a.exact", "support.read"),
        )
    )
    of = policy(catalog=CATALOG + text)
    for name, pattern in (
        ("a.exact", "a.exact"),  # exact
        ("a.b.z", "a.b.*"),  # longest literal prefix
        ("a.c.z", "a.*.z"),  # longest literal text
        ("a.c.y", "a.*"),
        ("other", "*"),
    ):
        classified = of.classify(intent(name, "x/1"))
        assert isinstance(classified, Classified)
        assert classified.action == pattern, name


@pytest.mark.parametrize(
    "given",
    [
        {"amount_cents": ...},
        {"currency": ...},
        {"amount_cents": "4200"},
        {"amount_cents": 4200.0},
        {"amount_cents": True},
        {"amount_cents": None},
        {"amount_cents": 0},
        {"amount_cents": -1},
        {"amount_cents": 100_000_001},
        {"amount_cents": 2**63},
        {"amount_cents": [4200]},
        {"currency": "eur"},
        {"currency": "GBP"},
        {"note": "x" * 21},
        {"note": None},
        {"rate": 0.5},
        {"rate": "0.12345"},
        {"rate": "1.0001"},
        {"rate": "-0.1"},
        {"rate": ".5"},
        {"rate": "1e-1"},
        {"rate": "0,5"},
        {"rate": "00.5"},
        {"rate": ""},
        {"tags": "a"},
        {"tags": ["a", 1]},
        {"tags": ["a", "b", "c", "d"]},
        {"tags": ["123456789"]},
        {"tags": [None]},
        {"target": []},
        {"target": {}},
        {"target": {"iban": 1}},
        {"target": {"iban": "DE02", "bank": None}},
        {"urgent": 1},
        {"urgent": "true"},
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(given):
    verdict = POLICY.classify(intent(**given))
    assert isinstance(verdict, Deny)
    assert verdict.reason_code is ReasonCode.PARAMETERS_INVALID
    assert next(iter(given)) in verdict.detail


def test_parameters_that_fit_reach_the_rules_in_their_cedar_form():
    classified = POLICY.classify(
        intent(note="thanks", rate="0.5", tags=["a", "b"], target={"iban": "DE02"}, urgent=False)
    )
    assert isinstance(classified, Classified)
    assert classified.parameters == {
        "amount_cents": 4200,
        "currency": "EUR",
        "note": "thanks",
        "rate": {"__extn": {"fn": "decimal", "arg": "0.5000"}},
        "tags": ["a", "b"],
        "target": {"iban": "DE02"},
        "urgent": False,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [("-5", "-5.0000"), ("-0.0", "-0.0000"), ("12.3400", "12.3400"), ("922337203685477", "922337203685477.0000")],
)
def test_a_decimal_keeps_its_sign_and_its_places(text, shown):
    of = policy(catalog=CATALOG.replace('{type: decimal, min: "0.0", max: "1.0"}', "{type: decimal}"))
    classified = of.classify(intent(rate=text))
    assert isinstance(classified, Classified)
    assert classified.parameters["rate"] == {"__extn": {"fn": "decimal", "arg": shown}}
    assert isinstance(ask(of, intent(rate=text)), Allow)


def test_undeclared_parameters_never_reach_the_rules():
    classified = POLICY.classify(
        intent(half=0.5, nothing=None, __extn={"fn": "decimal", "arg": "1.0"}, target={"iban": "DE02", "extra": 0.5})
    )
    assert isinstance(classified, Classified)
    assert classified.parameters == {"amount_cents": 4200, "currency": "EUR", "target": {"iban": "DE02"}}


def test_undeclared_parameters_are_refused_where_the_catalogue_says_so():
    verdict = POLICY.classify(intent("kb.search", "knowledge-base/a", anything=1))
    assert isinstance(verdict, Deny)
    assert verdict.reason_code is ReasonCode.PARAMETERS_INVALID
    assert "anything" in verdict.detail


def test_another_type_of_resource_is_refused():
    verdict = POLICY.classify(intent(resource="invoice/1"))
    assert isinstance(verdict, Deny)
    assert verdict.reason_code is ReasonCode.PARAMETERS_INVALID


def test_the_executor_is_one_of_the_action_s():
    chosen = POLICY.classify(replace(intent(), executor="ledger-api"))
    assert isinstance(chosen, Classified)
    assert chosen.executor == "ledger-api"
    for other in ("kb-api", "nowhere", "payments-api "):
        verdict = POLICY.classify(replace(intent(), executor=other))
        assert isinstance(verdict, Deny), other
        assert verdict.reason_code is ReasonCode.PARAMETERS_INVALID


def test_an_agent_cannot_talk_a_resource_out_of_its_environment():
    for claimed in (None, "staging", "production"):
        classified = POLICY.classify(replace(intent(), context=Context(environment=claimed)))
        assert isinstance(classified, Classified)
        assert classified.environment == "production"


def test_elsewhere_the_intent_names_the_environment_or_the_default_holds():
    for claimed, environment in (("staging", "staging"), (None, "production")):
        classified = POLICY.classify(replace(intent("ticket.create", "ticket/1"), context=Context(environment=claimed)))
        assert isinstance(classified, Classified)
        assert classified.environment == environment


def test_the_most_specific_resource_facts_win():
    classified = POLICY.classify(intent(resource="payment/vip-1"))
    assert isinstance(classified, Classified)
    assert (classified.sensitivity, classified.labels) == ("restricted", ("pci", "vip"))


def hexadecimal(value: object) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def test_each_parameter_has_one_way_into_the_log():
    given = intent(note="thanks", tags=["a"], target={"iban": "DE02", "bank": "x"}, half=0.5, nothing=None)
    classified = POLICY.classify(given)
    assert isinstance(classified, Classified)
    logged = POLICY.logged(given, classified)
    assert logged.clear == {"amount_cents": 4200}
    # One personal field makes the whole of `target` personal.
    assert sorted(logged.personal) == ["note", "target"]
    assert logged.digests == {
        "currency": hexadecimal("EUR"),
        "tags": hexadecimal(["a"]),
        "half": hexadecimal(0.5),
        "nothing": hexadecimal(None),
    }


def test_a_value_that_the_log_cannot_hold_goes_as_a_digest():
    text = CATALOG.replace(
        "urgent: {type: boolean, log: true}",
        "urgent: {type: boolean, log: true}\n      extra: {type: object, fields: {seen: {type: string}}, log: true}",
    )
    of = policy(catalog=text)
    for value in ({"half": 0.5}, {"nothing": None}, {"camelCase": 1}):
        given = intent(extra=value)
        classified = of.classify(given)
        assert isinstance(classified, Classified)
        logged = of.logged(given, classified)
        assert "extra" not in logged.clear
        assert logged.digests["extra"] == hexadecimal(value)


def test_a_field_may_be_logged_on_its_own():
    text = CATALOG.replace(
        "urgent: {type: boolean, log: true}",
        "shipment: {type: object, fields: {parcels: {type: integer, log: true}, to: {type: string}}}",
    )
    of = policy(catalog=text)
    given = intent(shipment={"parcels": 2, "to": "somewhere"})
    classified = of.classify(given)
    assert isinstance(classified, Classified)
    logged = of.logged(given, classified)
    assert logged.clear == {"amount_cents": 4200, "shipment.parcels": 2}
    assert logged.digests["shipment"] == hexadecimal({"parcels": 2, "to": "somewhere"})


def test_lanes_and_lifetimes_come_from_the_bundle():
    classified = POLICY.classify(intent())
    assert isinstance(classified, Classified)
    assert POLICY.lane(classified) == 1
    assert [POLICY.token_lifetime_s(name) for name in ("payments-api", "kb-api")] == [45, 60]
    assert not POLICY.executors["ledger-api"].preauthorized
    with pytest.raises(KeyError):
        POLICY.token_lifetime_s("nowhere")
