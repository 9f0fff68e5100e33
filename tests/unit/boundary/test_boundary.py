"""A boundary keeps every one of its rules."""

from __future__ import annotations

import pytest
from mutation.boundary_rules import RULES

from services import boundary


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_the_rule_holds(rule):
    await rule(boundary)
