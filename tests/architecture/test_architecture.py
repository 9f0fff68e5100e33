"""The architecture, as far as import contracts cannot say it."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

from services.metrics import METRICS, Metrics

ROOT = Path(__file__).parents[2]
PACKAGES = ("holdfast", "services", "intent_queue", "signer", "console")
FOLDERS = (ROOT / "sdk" / "holdfast", *(ROOT / name for name in PACKAGES[1:]))


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_resolves_inside_the_checkout(name):
    """Generic top-level names must never be somebody else's."""
    assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


def test_only_the_sdk_is_publishable():
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sdk = tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text())
    assert "Private :: Do Not Upload" in service["project"]["classifiers"]
    assert "Private :: Do Not Upload" not in sdk["project"].get("classifiers", [])


def test_every_exception_is_caught_in_two_places_only():
    """`except Exception` stands at the boundary and at the top of the authorizer, nowhere else."""
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name) and node.type.id == "Exception":
                found.add(path.relative_to(ROOT).as_posix())
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), path
    assert found == {"services/boundary.py", "services/authorizer.py"}


def test_no_security_check_is_an_assert():
    """`python -O` removes them."""
    for path in sources():
        asserts = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert asserts == [], path


def test_no_module_is_a_room_for_everything():
    names = {"utils", "util", "common", "core", "helpers", "helper", "manager", "misc"}
    assert [path for path in sources() if path.stem in names] == []


def test_sql_is_never_formatted():
    """SQL is a constant; values are parameters."""
    words = ("select ", "insert ", "update ", "delete ")
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value for part in node.values if isinstance(part, ast.Constant)).lower()
                assert not text.lstrip().startswith(words), f"{path}:{node.lineno}"


def test_every_decision_metric_is_declared_once():
    published = {family.name for family in Metrics().registry.collect()}
    declared = {name.removesuffix("_total") for name in METRICS}
    assert published == declared


def test_the_lock_holds_a_hash_for_every_requirement():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert requirements
    assert all(line.endswith("\\") for line in requirements)
