"""Policy on a running service: two API processes, the command line, and a store that goes away."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from integration.runtime_processes import PATIENCE_S, children_of
from unit.policies.policy_bundles import LOOSER, RULES, files, write

from services.policy_keys import sign

pytestmark = pytest.mark.integration

HOLDFAST = (sys.executable, "-P", "-m", "console.cli.main")
SETTINGS = b"version: 1\napprovals: {roles: {finance: [alice]}}\nlimits: {lease_seconds: 1}\n"
INTENT = {
    "action": "refund.create",
    "resource": {"type": "payment", "id": "p1"},
    "parameters": {"amount_cents": 4500},
    "context": {"model": "gpt-4"},
}


NUMBERS = itertools.count(2)


def environment(**more):
    return {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")} | more


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.05)


class Service:
    """`holdfast up`, and a second API process beside it."""

    def __init__(self, data: Path, policies: Path, base_url: str) -> None:
        self.data = data
        self.policies = policies
        self.base_url = base_url
        self.client = httpx2.Client(trust_env=False, timeout=PATIENCE_S)
        self.bootstrap = json.loads((data / "bootstrap.json").read_text())
        self.runtime = json.loads((data / "runtime.json").read_text())

    def cli(self, *arguments, expect=0):
        command = [*HOLDFAST, *arguments, "--data-dir", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=60)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, base_url=None, intent=None):
        """Submit an intent; each is about another payment, because the same action waits only once."""
        key = self.bootstrap["agents"]["bot"]
        return self.client.post(
            f"{base_url or self.base_url}/v1/intents",
            json=intent or {**INTENT, "resource": {"type": "payment", "id": f"p{next(NUMBERS)}"}},
            headers={"Authorization": f"Bearer {key}"},
        ).json()

    def operator(self, method, path, **more):
        headers = {"Authorization": f"Bearer {self.bootstrap['operator']['token']}"}
        return self.client.request(method, self.base_url + path, headers=headers, **more)

    def in_use(self, base_url=None):
        return self.submit(base_url)["policy"]["bundle"]

    def ready(self, base_url=None):
        return self.client.get(f"{base_url or self.base_url}/readyz").json()

    @contextmanager
    def second_api(self):
        with (self.data / "log" / "second.log").open("ab") as log:
            command = [*HOLDFAST, "api", "--port", "0"]
            settings = {
                "HOLDFAST_DATABASE_URL": self.runtime["database_url"],
                "HOLDFAST_BROKER_URL": self.runtime["broker_url"],
                "HOLDFAST_SIGNER_SOCKET": self.runtime["signer_socket"],
                "HOLDFAST_DATA_DIR": str(self.data),
                "HOLDFAST_ISSUER": self.base_url,
                "HOLDFAST_INSTANCE": "second",
            }
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(**settings))
        path = self.data / "log" / "second.log"
        try:
            until(lambda: "Uvicorn running on " in path.read_text())
            port = path.read_text().split("Uvicorn running on http://127.0.0.1:")[1].split()[0]
            url = f"http://127.0.0.1:{port}"
            until(lambda: self.ready(url)["ready"])
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


@contextmanager
def running(directory, bundle):
    policies = write(directory / "policies", bundle)
    data = directory / "data"
    command = [*HOLDFAST, "up", "--data-dir", str(data), "--policies", str(policies), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd="/") as supervisor:
        try:
            ready = next((line for line in supervisor.stdout if "ready at" in line), "the start failed")
            yield Service(data, policies, ready.rpartition(" ")[2].strip())
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("policy service"), files()) as found:
        yield found


def test_the_way_of_a_candidate_from_its_shadow_to_its_rollback(service, tmp_path):
    """Two API processes see every change; explain, simulate and diff say what it is about."""
    candidate = write(tmp_path / "candidate", files(rules=LOOSER.replace("> 1000", "> 90000")))
    with service.second_api() as second:
        first_bundle = service.in_use()
        assert service.in_use(second) == first_bundle

        held = service.submit()
        assert held["reason_code"] == "APPROVAL_REQUIRED"
        explained = json.loads(service.cli("explain", held["intent_id"], "--json"))
        assert explained["determining"] == ["big-refunds"]
        assert explained["as_recorded"]
        assert "big-refunds" in service.cli("explain", held["intent_id"])

        simulated = json.loads(
            service.cli("policy", "simulate", str(candidate), "--fail-on-looser", "--json", expect=3)
        )
        assert simulated["looser"] == simulated["replayed"] > 0
        assert {found["new"]["decision"] for found in simulated["differences"]} == {"allow"}
        assert "rules/big-refunds" in service.cli("policy", "diff", "active", str(candidate))

        service.cli("policy", "shadow", "start", str(candidate))

        waiting = service.submit(intent=INTENT)["intent_id"]
        asked = {waiting}

        def both_report():
            asked.update(service.submit(api)["intent_id"] for api in (None, second))
            service.submit(intent=INTENT)  # waits already, and is no intent of its own
            report = json.loads(service.cli("policy", "shadow", "report", "--json"))
            differing = [found["intent_id"] for found in report["differences"]]
            assert set(differing) <= asked
            assert all(differing.count(one) == 1 for one in differing if one != waiting)
            return {one["instance"] for one in report["processes"] if one["looser"]} == {"api", "second"}

        until(both_report)
        assert service.submit()["reason_code"] == "APPROVAL_REQUIRED"
        service.cli("policy", "shadow", "stop")

        service.cli("policy", "apply", str(candidate), "--reason", "larger refunds")
        until(lambda: service.in_use() == service.in_use(second) != first_bundle)
        assert service.submit()["decision"] == "allow"
        assert service.submit(second)["decision"] == "allow"

        service.cli("policy", "rollback")
        until(lambda: service.in_use() == service.in_use(second) == first_bundle)
        assert service.submit()["reason_code"] == "APPROVAL_REQUIRED"
    assert "intact" in service.cli("audit", "verify")


def test_a_bad_candidate_changes_nothing(service, tmp_path):
    before = service.in_use()
    broken = write(tmp_path / "broken", files(rules="permit (principal, action, resource);"))
    failing = write(tmp_path / "failing", files(rules=RULES.replace("<= 5000", "<= 5")))
    untested = write(tmp_path / "untested", {k: v for k, v in files().items() if not k.startswith("tests/")})

    assert "rules/refunds.cedar:1" in service.cli("policy", "apply", str(broken), expect=1)
    assert "a small refund is allowed" in service.cli("policy", "apply", str(failing), expect=1)
    assert "no tests" in service.cli("policy", "apply", str(untested), expect=1)

    assert json.loads(service.cli("policy", "list", "--json"))["active"] == before
    assert service.in_use() == before


def test_operators_publish_over_http_and_viewers_only_look(service):
    viewer = json.loads(service.cli("operators", "create", "vera", "--role", "viewer", "--json"))["token"]
    upload = {"files": {path: data.decode() for path, data in files(rules=LOOSER).items()}}
    headers = {"Authorization": f"Bearer {viewer}"}
    refused = service.client.post(f"{service.base_url}/v1/operator/policy", json=upload, headers=headers)
    assert (refused.status_code, refused.json()["reason_code"]) == (403, "FORBIDDEN")
    seen = service.client.get(f"{service.base_url}/v1/operator/policy", headers=headers)
    active = seen.json()["active"]

    digest = service.operator("POST", "/v1/operator/policy", json=upload).json()["digest"]
    late = {"reason": "late", "expect_active": digest}
    stale = service.operator("POST", f"/v1/operator/policy/{digest}/activate", json=late)
    assert (stale.status_code, stale.json()["reason_code"]) == (409, "SUPERSEDED")
    done = service.operator(
        "POST", f"/v1/operator/policy/{digest}/activate", json={"reason": "now", "expect_active": active}
    )
    assert done.json()["active"] == digest
    until(lambda: service.in_use() == digest)
    assert service.operator("POST", "/v1/operator/policy/rollback", json={"reason": "back"}).json()["active"] == active
    until(lambda: service.in_use() == active)

    key = Ed25519PrivateKey.generate()
    signed = service.operator("POST", "/v1/operator/policy", json={**upload, "signatures": [sign(key, digest)]})
    assert (signed.status_code, signed.json()["new"]) == (201, True)
    for malformed in ("x", [1], ["x"]):
        refused = service.operator("POST", "/v1/operator/policy", json={**upload, "signatures": malformed})
        assert refused.status_code == 400

    wrong = {"files": {"catalog.yaml": "version: 1\n"}}
    invalid = service.operator("POST", "/v1/operator/policy", json=wrong)
    assert invalid.status_code == 400
    assert any("catalog.yaml" in finding for finding in invalid.json()["findings"])


def test_an_agent_explains_its_own_decisions_only(service):
    held = service.submit()
    path = f"{service.base_url}/v1/intents/{held['intent_id']}/explain"
    own = service.client.get(path, headers={"Authorization": f"Bearer {service.bootstrap['agents']['bot']}"})
    assert own.json()["determining"] == ["big-refunds"]

    stranger = json.loads(service.cli("agents", "create", "stranger", "--json"))["token"]
    assert service.client.get(path, headers={"Authorization": f"Bearer {stranger}"}).status_code == 404
    assert service.operator("GET", f"/v1/operator/decisions/{held['intent_id']}").json()["agent"] == "bot"


def test_an_activation_lets_the_signer_sign_for_new_executors(service, tmp_path):
    """The signer follows the command line, never the service."""
    reads = b"{category: kb.read, executor: %s"
    catalog = files()["catalog.yaml"].replace(reads % b"payments-api", reads % b"kb-api")
    catalog = catalog.replace(b"executors:\n", b"executors:\n  kb-api: {description: Knowledge}\n")
    service.cli("policy", "apply", str(write(tmp_path / "more", {**files(), "catalog.yaml": catalog})))
    reading = {"action": "kb.search", "resource": {"type": "article", "id": "a"}}

    def granted_for_the_new_executor():
        token = service.submit(intent=reading)["token"]
        return token is not None and claims(token)["aud"] == "kb-api"

    until(granted_for_the_new_executor)
    service.cli("policy", "rollback")


def test_a_store_that_is_gone_for_longer_than_the_lease_stops_every_decision(tmp_path):
    """And the alarm stands in `/readyz`, in the metrics and in the log, until the store is heard again."""
    with running(tmp_path, {**files(), "holdfast.yaml": SETTINGS}) as service:
        postgres = service.runtime["children"]["postgres"]
        everything = _tree(postgres)
        for pid in everything:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: "policy_stale" in service.ready()["troubles"])
            assert service.submit()["reason_code"] == "EVALUATION_UNAVAILABLE"
            until(lambda: "holdfast_policy_stale 1.0" in service.client.get(f"{service.base_url}/metrics").text)
        finally:
            for pid in everything:
                os.kill(pid, signal.SIGCONT)
        until(lambda: service.ready()["ready"])
        assert service.submit()["reason_code"] == "APPROVAL_REQUIRED"


def _tree(pid):
    return [pid, *children_of(pid)]


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
