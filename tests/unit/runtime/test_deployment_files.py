"""What infra/ says agrees with what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from console.cli.main import MODULES
from services.metrics import METRICS, Metrics
from services.settings import Settings

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
ALERTS = yaml.safe_load((ROOT / "infra/prometheus/alerts.yaml").read_text())
DOCKERFILE = (ROOT / "infra/Dockerfile").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()

COMMANDS = {name for commands in MODULES.values() for name in commands}
OWN = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "holdfast"}
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
SIGNER_VARIABLES = {f"HOLDFAST_SIGNER_{name}" for name in ("SOCKET", "KEY", "PASSPHRASE", "PROFILE")}
SUFFIXES = ("_bucket", "_sum", "_count")


def lock(name):
    """Return the pins of a lock file, `name==version` by name."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith(" "))


def test_compose_runs_every_process_of_a_deployment():
    assert {service["command"][0] for service in OWN.values()} == {
        "api",
        "worker",
        "signer",
        "signer-setup",
        "migrate",
        "provision",
    }


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_service_runs_a_command_that_exists(name):
    assert OWN[name]["command"][0] in COMMANDS


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_container_can_do_no_more_than_it_must(name):
    service = COMPOSE["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    # Our own image names its user itself.
    assert name in OWN or service["user"] not in ("root", "0")


def test_the_image_runs_as_nobody_in_particular():
    assert re.findall(r"(?m)^USER (.*)$", DOCKERFILE)[-1] == "10001"


def test_images_come_from_the_default_registry():
    images = re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)
    images += [service["image"] for service in COMPOSE["services"].values()]

    assert len(images) > 2
    assert not [image for image in images if "." in image.split("/")[0] and "/" in image]


def test_the_signer_has_no_network_and_learns_no_database():
    signer = OWN["signer"]

    assert signer["network_mode"] == "none"
    assert set(signer["environment"]) == SIGNER_VARIABLES


@pytest.mark.parametrize("name", ["api", "worker", "provision"])
def test_a_service_is_told_every_required_setting_and_no_other(name):
    given = {variable.removeprefix("HOLDFAST_").lower() for variable in OWN[name]["environment"]}
    required = {field for field, information in Settings.model_fields.items() if information.is_required()}

    assert required <= given <= set(Settings.model_fields)


def test_the_api_is_healthy_when_it_is_ready():
    assert "/readyz" in OWN["api"]["healthcheck"]["test"][-1]


def test_what_compose_refers_to_is_declared():
    volumes, networks = set(COMPOSE["volumes"]), set(COMPOSE["networks"])
    for service in COMPOSE["services"].values():
        named = {
            volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith(("$", ".", "/"))
        }
        assert named <= volumes
        assert set(service.get("networks", [])) <= networks
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])


def test_only_the_api_is_reachable_and_only_from_this_machine():
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}

    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_no_password_has_a_default():
    text = (ROOT / "infra/compose.yaml").read_text()

    for variable in re.findall(r"\$\{(HOLDFAST_\w+_PASSWORD[^}]*)\}", text):
        assert ":?" in variable


def test_the_image_installs_the_locked_versions_and_no_tools():
    runtime, everything = lock("requirements.runtime.lock"), lock("requirements.lock")

    assert "--require-hashes -r requirements.runtime.lock" in DOCKERFILE
    assert runtime.items() <= everything.items()
    assert "asyncpg" in runtime
    assert not {"pytest", "mypy", "ruff", "locust"} & set(runtime)


def test_what_alerts_on_its_first_event_is_there_before_it():
    """Prometheus sees no increase in a series that begins at one."""
    there = [
        (sample.name, sample.labels)
        for metric in Metrics().registry.collect()
        for sample in metric.samples
        if sample.value == 0
    ]
    alerted = [
        (name, dict(re.findall(r'(\w+)="([^"]*)"', labels)))
        for rule in RULES
        for name, labels in re.findall(r"increase\((\w+)(\{[^}]*\})?\[\w+\]\)+ > 0", rule["expr"])
    ]

    assert len(alerted) >= 5
    for name, labels in alerted:
        assert any(known == name and labels.items() <= having.items() for known, having in there), (name, labels)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_metrics_that_exist(rule):
    named = set(re.findall(r"holdfast_\w+", rule["expr"]))
    series = {name.removesuffix(suffix) for name in named for suffix in SUFFIXES if name.endswith(suffix)}
    plain = {name for name in named if not name.endswith(SUFFIXES)}

    assert named
    assert series | plain <= set(METRICS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert path == "docs/operations.md"
    assert anchor == rule["alert"].lower()
    assert f"\n### {rule['alert']}\n" in OPERATIONS


def test_no_alert_is_named_twice_and_every_runbook_has_its_alert():
    names = [rule["alert"] for rule in RULES]

    assert len(names) == len(set(names))
    assert re.findall(r"(?m)^### (Holdfast\w+)$", OPERATIONS) == names


def test_the_documented_variables_are_those_that_are_read():
    documented = set(re.findall(r"(?m)^\| `(HOLDFAST_\w+)`", OPERATIONS)) - SIGNER_VARIABLES
    read = {f"HOLDFAST_{field.upper()}" for field in Settings.model_fields} - SIGNER_VARIABLES

    assert documented == read
