"""The starter bundles are bundles that a person can start from."""

from __future__ import annotations

import pytest

from console.policy_templates import TEMPLATES, template
from services.decision.bundle import read_bundle
from services.decision.golden import run_suites
from services.decision.lint import lint
from services.decision.policy import Policy


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_no_findings_at_all(name):
    """What warns from the first day teaches people to read past warnings."""
    assert lint(template(name)) == ()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_s_tests_pass_and_see_every_answer(name):
    bundle = read_bundle(template(name))
    results = run_suites(Policy.compile(bundle), bundle)
    assert results.failed == ()
    assert {str(result.answer.decision) for result in results.results} == {"allow", "hold", "deny"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_fails_closed_everywhere(name):
    bundle = read_bundle(template(name))
    modes = bundle.settings.fail_modes
    assert {str(getattr(modes, tier).mode) for tier in ("low", "medium", "high", "critical")} == {"closed"}


def test_there_is_no_other_template():
    with pytest.raises(KeyError):
        template("../coding-agent")
