"""The breaker and an independent model of it agree under any sequence of calls, reports, signals and time."""

from __future__ import annotations

from hypothesis import settings
from mutation.breaker_model import machine

from services import breaker

TestBreakerMachine = machine(breaker).TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
