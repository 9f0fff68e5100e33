"""The `holdfast` command: what it knows, what it answers to a mistake, and what it imports."""

import argparse
import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from console.cli import main as command_line
from console.runtime.failure import CommandFailed


@pytest.mark.parametrize("module", sorted(command_line.MODULES))
def test_a_module_registers_the_commands_it_is_listed_with(module):
    subparsers = argparse.ArgumentParser().add_subparsers()

    importlib.import_module(module).register(subparsers)

    assert set(subparsers.choices) == set(command_line.MODULES[module])


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["up", "--port", "70000"], ["up", "--port", "-1"], ["api", "--fd"]]
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        command_line.main(arguments)

    assert exited.value.code == 2
    assert capsys.readouterr().err.startswith("usage: holdfast")


def test_an_abbreviated_option_is_not_guessed(capsys):
    with pytest.raises(SystemExit) as exited:
        command_line.main(["up", "--data", "d"])

    assert exited.value.code == 2
    assert "--data" in capsys.readouterr().err


@pytest.fixture
def commanded(monkeypatch):
    """Let the command line have one command, which does as it is told."""

    def install(run):
        def register(subparsers):
            subparsers.add_parser("act").set_defaults(run=run)

        monkeypatch.setitem(sys.modules, "acting", SimpleNamespace(register=register))
        monkeypatch.setattr(command_line, "MODULES", {"acting": {"act": "act"}})

    return install


def test_a_failure_is_one_line_and_status_1(commanded, capsys):
    def run(arguments):
        raise CommandFailed("the disk is full")

    commanded(run)

    assert command_line.main(["act"]) == 1
    assert capsys.readouterr().err == "holdfast: the disk is full\n"


def test_an_interrupt_has_its_own_status(commanded):
    def run(arguments):
        raise KeyboardInterrupt

    commanded(run)

    assert command_line.main(["act"]) == 130


def test_a_command_s_status_is_the_exit_code(commanded):
    commanded(lambda arguments: 7)

    assert command_line.main(["act"]) == 7


def test_asking_for_the_version_loads_no_service():
    script = (
        "import sys; from console.cli.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: print(sorted(name for name in sys.modules if name.partition('.')[0] in "
        "('services', 'signer', 'intent_queue', 'asyncpg', 'pydantic')))"
    )

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert printed.splitlines()[0].startswith("holdfast ")
    assert printed.splitlines()[1] == "[]"
