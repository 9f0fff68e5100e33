"""`holdfast up`, end to end, as a person at a terminal meets it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from runtime_processes import PATIENCE_S, alive, children_of, told_to, until

pytestmark = pytest.mark.integration

CATALOG = """\
version: 1
categories:
  kb.read: {description: Look something up, impact: low, effect: read, reversible: true}
executors:
  kb-api: {description: Knowledge base}
actions:
  kb.search: {category: kb.read, executor: kb-api, resource: article}
"""
AGENT = """\
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: reader, owner: support}
spec:
  tools: [kb.search]
"""
HOLDFAST = (sys.executable, "-P", "-m", "console.cli.main")


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Return a small bundle."""
    directory = tmp_path_factory.mktemp("policies of ours")
    (directory / "agents").mkdir()
    (directory / "catalog.yaml").write_text(CATALOG)
    (directory / "agents" / "reader.yaml").write_text(AGENT)
    return directory


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}


def up(data, policies, *, port=0):
    """Run `holdfast up` to its end: for starts that are refused."""
    command = [*HOLDFAST, "up", "--data-dir", str(data), "--policies", str(policies), "--port", str(port)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment(), cwd="/"
    )


@contextmanager
def running(data, policies):
    """Lend a running supervisor and its base URL."""
    command = [*HOLDFAST, "up", "--data-dir", str(data), "--policies", str(policies), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd="/") as supervisor:
        try:
            ready = next((line for line in supervisor.stdout if "ready at" in line), "the start failed")
            yield supervisor, ready.rpartition(" ")[2].strip()
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.communicate(timeout=PATIENCE_S)


def post(data, path, body):
    bootstrap = json.loads((data / "bootstrap.json").read_text())
    headers = {"Authorization": f"Bearer {bootstrap['operator']['token']}"}
    url = f"{json.loads((data / 'runtime.json').read_text())['base_url']}/v1/operator/{path}"
    with httpx2.Client(trust_env=False, timeout=PATIENCE_S) as client:
        return client.post(url, json=body, headers=headers)


def get(url):
    with httpx2.Client(trust_env=False, timeout=PATIENCE_S) as client:
        return client.get(url)


def runtime(data):
    return json.loads((data / "runtime.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("up") / "data of ours"


@pytest.fixture(scope="module")
def service(data, policies):
    with running(data, policies) as (_, url):
        yield url


def test_it_is_ready_and_hands_out_the_first_credentials(service, data):
    assert get(f"{service}/readyz").status_code == 200
    bootstrap = json.loads((data / "bootstrap.json").read_text())
    assert bootstrap["base_url"] == service
    assert list(bootstrap["agents"]) == ["reader"]
    assert list(bootstrap["executors"]) == ["kb-api"]
    for private in ("bootstrap.json", "runtime.json", "postgres.password", "signer/passphrase", "signer/profile.json"):
        assert stat.S_IMODE((data / private).stat().st_mode) == 0o600, private


def test_an_agent_s_intent_is_granted(service, data):
    key = json.loads((data / "bootstrap.json").read_text())["agents"]["reader"]
    intent = {"action": "kb.search", "resource": {"type": "article", "id": "a1"}}

    with httpx2.Client(trust_env=False, timeout=PATIENCE_S) as client:
        answer = client.post(f"{service}/v1/intents", json=intent, headers={"Authorization": f"Bearer {key}"})

    assert answer.status_code == 200
    assert answer.json()["token"]


def test_a_second_start_on_the_same_data_directory_is_refused(service, data, policies):
    refused = up(data, policies)

    assert refused.returncode == 1
    assert f"in use by another holdfast (pid {runtime(data)['pid']})" in refused.stderr
    assert get(f"{service}/readyz").status_code == 200


def test_a_port_that_is_taken_is_said(service, tmp_path, policies):
    port = service.rpartition(":")[2]

    refused = up(tmp_path / "other", policies, port=port)

    assert refused.returncode == 1
    assert f"port {port} on 127.0.0.1 is already in use" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "other" / "postgres").exists()


@pytest.mark.parametrize("name", ["api", "worker", "signer", "valkey", "postgres"])
async def test_a_child_that_is_killed_comes_back_and_the_service_is_ready_again(service, data, name):
    before = runtime(data)["children"][name]

    os.kill(before, signal.SIGKILL)

    await until(lambda: runtime(data)["children"][name] != before)
    await until(lambda: get(f"{service}/readyz").status_code == 200)
    assert runtime(data)["base_url"] == service


def test_two_run_at_once(service, tmp_path, policies):
    with running(tmp_path / "second", policies) as (_, url):
        assert url != service
        assert get(f"{url}/readyz").status_code == 200
        assert get(f"{service}/readyz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_with_status_0(tmp_path, policies, number):
    data = tmp_path / "d"
    with running(data, policies) as (supervisor, _):
        state = runtime(data)
        below = children_of(supervisor.pid)
        supervisor.send_signal(number)
        output, _ = supervisor.communicate(timeout=PATIENCE_S)

    assert supervisor.returncode == 0
    assert "was killed" not in output
    assert set(state["children"]) == {"postgres", "valkey", "signer", "api", "worker"}
    assert set(state["children"].values()) <= below
    assert not [pid for pid in below if alive(pid)]
    assert not (data / "runtime.json").exists()
    assert not Path(state["signer_socket"]).parent.exists()


async def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_works(tmp_path, policies):
    data = tmp_path / "d"
    with running(data, policies) as (supervisor, _):
        below = children_of(supervisor.pid)
        assert len(below) >= 5
        supervisor.kill()
        supervisor.communicate(timeout=PATIENCE_S)
        await until(lambda: not any(alive(pid) for pid in below))
        left = Path(runtime(data)["signer_socket"])

    with running(data, policies) as (_, url):
        assert get(f"{url}/readyz").status_code == 200
        assert not left.exists()  # noqa: ASYNC240 - the test has nothing else to do


def test_bad_policies_are_refused_with_file_and_line_before_anything_starts(tmp_path, policies):
    """The port is taken too, and that is not even noticed."""
    bad = tmp_path / "bad"
    shutil.copytree(policies, bad)
    (bad / "catalog.yaml").write_text(CATALOG.replace("category: kb.read", "category: kb.reed"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        refused = up(tmp_path / "d", bad, port=probe.getsockname()[1])

    assert refused.returncode == 1
    assert f"{bad}/catalog.yaml:7: " in refused.stderr
    assert "kb.reed" in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "d" / "postgres").exists()


@pytest.mark.parametrize("made", [True, False])
def test_no_policies_are_refused(tmp_path, made):
    nowhere = tmp_path / "nowhere"
    if made:
        nowhere.mkdir()

    refused = up(tmp_path / "d", nowhere)

    assert refused.returncode == 1
    assert str(nowhere) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "d" / "postgres").exists()


def test_no_policies_named_is_refused(tmp_path):
    command = [*HOLDFAST, "up", "--data-dir", str(tmp_path / "d"), "--port", "0"]

    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd="/")

    assert refused.returncode == 1
    assert "--policies" in refused.stderr
    assert not (tmp_path / "d").exists()


async def test_an_existing_database_and_broker_are_used_instead(service, data, tmp_path, policies):
    """The running service's own servers stand in for a deployment's."""
    given = runtime(data)
    command = [*HOLDFAST, "up", "--data-dir", str(tmp_path / "d"), "--policies", str(policies), "--port", "0"]
    told = environment() | {
        "HOLDFAST_DATABASE_URL": given["database_url"],
        "HOLDFAST_BROKER_URL": given["broker_url"],
    }
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=told, cwd="/")
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"ready at" not in await process.stdout.readline():
                assert process.returncode is None
        children = runtime(tmp_path / "d")["children"]
        assert set(children) == {"signer", "api", "worker"}
        assert given["database_url"] in told_to(children["worker"])
        assert given["database_url"] not in told_to(children["signer"])
        assert not (tmp_path / "d" / "postgres").exists()
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_a_boundary_that_is_held_open_over_a_restart_can_be_reset_after_it(tmp_path, policies):
    """It cannot be let go of before the service runs, so the service must not wait for that."""
    data = tmp_path / "data"
    with running(data, policies):
        assert post(data, "boundaries/evaluation/force-open", {"reason": "drill"}).status_code == 201
    with running(data, policies) as (_, url):
        assert get(f"{url}/readyz").json()["boundaries"]["evaluation"] == "forced_open"
        assert post(data, "boundaries/evaluation/reset", {"reason": "over"}).status_code == 200


def test_reads_that_fail_open_in_production_are_warned_of_at_the_start(tmp_path, policies):
    open_ones = tmp_path / "policies"
    shutil.copytree(policies, open_ones)
    modes = "fail_modes: {low: {mode: open, max_per_minute: 5}}"
    (open_ones / "holdfast.yaml").write_text(f"version: 1\nenvironment: production\n{modes}\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = up(tmp_path / "data", open_ones, port=taken.getsockname()[1])

    assert "warning: holdfast.yaml:3: low-impact reads fail open in production" in refused.stdout


def test_a_process_whose_journal_cannot_be_continued_says_so_in_one_line(tmp_path, policies):
    """A traceback at three in the morning names a line of code, not what to do."""
    data = tmp_path / "data"
    with running(data, policies):
        api = runtime(data)["children"]["api"]
        told = dict(
            entry.split("=", 1) for entry in Path(f"/proc/{api}/environ").read_text().split("\0") if "=" in entry
        )
        second = subprocess.run(
            [*HOLDFAST, "api", "--port", "0"],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=told, cwd="/",
        )  # fmt: skip

    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert second.stderr.splitlines()[-1] == (
        f"refusing to start with the journal `{data}/journal/api`: another process uses `{data}/journal/api` "
        "(docs/audit.md, when a human has to look)"
    )


def test_deadlines_shorter_than_the_defaults_of_the_parts_start_too(tmp_path, policies):
    """What lint admits must start: the deadlines of a bundle may be below a signer's attempt and a commit's hedge."""
    strict = tmp_path / "policies"
    shutil.copytree(policies, strict)
    (strict / "holdfast.yaml").write_text("version: 1\nlimits: {signing_ms: 200, audit_ms: 200}\n")
    with running(tmp_path / "data", strict) as (_, url):
        assert get(f"{url}/livez").status_code == 200
