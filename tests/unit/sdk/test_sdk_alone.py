"""The SDK installs alone: agents, executors and auditors get nothing of the service."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import holdfast
import pytest

ROOT = Path(__file__).parents[3]
SDK = ROOT / "sdk"
OWN = {"httpx2", "jwt", "cryptography", "rfc8785"}
MODULES = sorted(
    ".".join(path.relative_to(SDK).with_suffix("").parts).removesuffix(".__init__")
    for path in (SDK / "holdfast").rglob("*.py")
)

BLOCKED = """
import importlib, importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
for module in {modules!r}:
    importlib.import_module(module)
import holdfast
for name in dir(holdfast):
    getattr(holdfast, name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def run(modules, blocked=()) -> set[str]:
    """Import the modules in a fresh interpreter and return the packages that came along."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(modules=modules, blocked=set(blocked))],
        capture_output=True,
        text=True,
        check=False,
        cwd=SDK,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_every_module_loads_where_nothing_of_the_service_is_installed():
    blocked = {
        "services", "intent_queue", "signer", "console", "fastapi", "starlette", "pydantic", "asyncpg", "arq", "redis",
        "orjson", "msgspec", "uvicorn", "uvloop", "cedarpy", "yaml", "prometheus_client", "rich",
    }  # fmt: skip

    assert run([name for name in MODULES if not name.endswith("__main__")], blocked) & blocked == set()


def test_only_what_is_declared_is_imported():
    imported = set()
    for path in (SDK / "holdfast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])

    assert imported - set(sys.stdlib_module_names) - {"holdfast"} == OWN


def test_what_is_imported_is_declared():
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[a-z0-9-]+(\[crypto\])?", each)[0] for each in project["dependencies"]}

    assert declared == {"httpx2", "pyjwt[crypto]", "rfc8785"}  # cryptography comes with pyjwt[crypto]


def test_a_verifier_of_logs_loads_no_http_client():
    loaded = subprocess.run(
        [sys.executable, "-c", "import holdfast.audit.__main__, sys; print('httpx2' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert loaded.stdout.strip() == "False"


def test_the_public_names_are_there():
    for name in dir(holdfast):
        assert getattr(holdfast, name).__name__ == name
    with pytest.raises(AttributeError):
        holdfast.Nothing  # noqa: B018 - the access is the test
