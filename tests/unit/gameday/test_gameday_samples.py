"""The intents of a game day are ones that the bundle's agents may really submit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from e2e.bundle import write_bundle

from console.gameday.classifier import Agreeing
from console.gameday.samples import choose
from services.decision.bundle import read_bundle
from services.decision.catalog import Impact
from services.decision.policy import Policy
from services.policy_files import read_directory

SHIPPED = Path(__file__).parents[3] / "policies"
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)


def chosen(directory, now=NOW):
    bundle = read_bundle(read_directory(directory))
    return choose(bundle, Policy.compile(bundle), now)


def test_the_shipped_bundle_gives_one_of_each_impact_from_its_tests_and_one_with_limits():
    samples = chosen(SHIPPED)

    assert [sample.impact for sample in samples[:4]] == list(Impact)
    assert all(sample.origin.startswith("tests/") for sample in samples[:4])
    assert not any(sample.held for sample in samples)
    assert any(sample.limited for sample in samples)


def test_a_bundle_without_tests_gives_them_from_its_catalogue(tmp_path):
    samples = chosen(write_bundle(tmp_path / "policies", max_per_agent=5))

    assert {sample.impact for sample in samples} == {Impact.LOW, Impact.MEDIUM, Impact.HIGH, Impact.CRITICAL}
    assert {sample.origin for sample in samples} == {"the catalogue"}
    assert all(sample.intent.queue for sample in samples)


def test_what_no_agent_may_do_is_not_asked(tmp_path):
    directory = write_bundle(tmp_path / "policies", max_per_agent=5)
    for agent in (directory / "agents").iterdir():
        agent.write_text(agent.read_text().replace('"money.*", "doom.*"', '"note.read"'))

    assert {sample.impact for sample in chosen(directory)} <= {Impact.LOW, Impact.MEDIUM}


def test_an_agent_is_asked_where_its_manifest_lets_it_act(tmp_path):
    """In its own environments, and on the resources that it names."""
    directory = write_bundle(tmp_path / "policies", max_per_agent=5)
    for agent in (directory / "agents").iterdir():
        agent.unlink()
    (directory / "agents" / "alpha.yaml").write_text(
        """
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: alpha}
spec:
  tools: ["note.*", doom.launch]
  environments: [laboratory]
  policies: [{effect: allow, resource: "*/bench-*", action: "*"}]
"""
    )

    samples = chosen(directory)

    assert samples
    assert {sample.intent.context.environment for sample in samples} == {"laboratory"}
    assert {sample.intent.resource.id for sample in samples} == {"bench-gameday"}


def test_the_stand_in_for_a_classifier_says_what_the_catalogue_says():
    agreeing = Agreeing(read_bundle(read_directory(SHIPPED)))

    assert agreeing.answer({"action": "kb.search"})[1]["category"] == "knowledge.read"
    for unknown in ({"action": "no.such"}, {"action": 7}, {}, [], None):
        assert agreeing.answer(unknown)[0] == 422
