"""Child processes of the queue's tests."""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_PR_SET_PDEATHSIG = 1


def die_with_parent():
    """Run in the child: a killed test run leaves no server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
