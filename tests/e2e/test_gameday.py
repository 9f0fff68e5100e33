"""A game day on a real twin: what is closed is called closed, what is open is called open, and a leak is found."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from e2e.bundle import write_bundle

from console.gameday import source
from console.gameday.drills import DRILLS
from console.gameday.judging import Verdict
from console.gameday.play import play
from console.gameday.samples import choose
from console.gameday.twin import open_twin
from console.runtime.failure import CommandFailed
from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.policy_files import read_directory

pytestmark = pytest.mark.integration
BY_NAME = {drill.name: drill for drill in DRILLS}


@contextlib.asynccontextmanager
async def nothing_happens(twin, samples):
    """Break nothing: the tokens that come must be found."""
    yield


async def test_a_gameday_tells_closed_from_open_and_finds_a_token_that_must_not_be(tmp_path):
    policies = write_bundle(tmp_path / "policies", max_per_agent=50)
    with (policies / "holdfast.yaml").open("a") as settings:
        settings.write("fail_modes: {low: {mode: open, max_per_minute: 60}}\n")
    bundle = read_bundle(read_directory(policies))
    policy = Policy.compile(bundle)
    sabotaged = replace(BY_NAME["token"], name="sabotaged", trip=nothing_happens)
    drills = [BY_NAME["evaluation-held-open"], BY_NAME["token"], sabotaged]
    (tmp_path / "twin").mkdir()

    async with open_twin(tmp_path / "twin", policies) as twin:
        samples = choose(bundle, policy, datetime.now(UTC))
        results = await play(twin, samples, drills, policy.settings.fail_modes, lambda _: None)

    by_name = {result.name: result for result in results}
    assert {name: result.verdict for name, result in by_name.items()} == {
        "healthy": Verdict.PASS,
        "evaluation-held-open": Verdict.OPEN,
        "token": Verdict.PASS,
        "sabotaged": Verdict.FAIL,
        "log": Verdict.PASS,
    }, {name: result.why() for name, result in by_name.items()}
    assert any("a token left" in why for why in by_name["sabotaged"].why())
    assert by_name["log"].asked > 10


async def test_the_bundle_of_a_deployment_is_read_and_nothing_of_it_is_touched(service):
    running = await source.from_deployment(service.data)

    assert read_bundle(running).digest == read_bundle(read_directory(service.policies)).digest


async def test_the_bundle_of_a_deployment_that_is_stopped_is_read_from_its_copy(service, tmp_path):
    (tmp_path / "policies-api.bundle").write_bytes((service.data / "policies-api.bundle").read_bytes())

    stopped = await source.from_deployment(tmp_path)

    assert read_bundle(stopped).digest == read_bundle(read_directory(service.policies)).digest
    assert [path.name for path in tmp_path.iterdir()] == ["policies-api.bundle"]
    (tmp_path / "policies-api.bundle").write_bytes(b"sha256:0\nrubbish")
    with pytest.raises(CommandFailed, match="damaged"):
        await source.from_deployment(tmp_path)
