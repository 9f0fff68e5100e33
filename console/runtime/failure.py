"""What a person at the terminal can act on."""

from __future__ import annotations


class CommandFailed(Exception):
    """The command could not do its work. The text says what is wrong and what to do, in whole lines."""
