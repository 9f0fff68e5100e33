"""Who may change what about operators and keys: the rules alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from holdfast.reasons import ReasonCode

from services.credentials import Role, hash_password
from services.operators import CallerChange, Change, Operator, caller_refusal, refusal

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def operator(username: str, role: Role, *, disabled: bool = False) -> Operator:
    return Operator(
        username=username,
        role=role,
        created_at=NOW,
        disabled_at=NOW if disabled else None,
        disabled_by="adam" if disabled else None,
    )


ADAM, EVE = operator("adam", Role.ADMIN), operator("eve", Role.ADMIN)
OTTO, GONE = operator("otto", Role.OPERATOR), operator("gone", Role.ADMIN, disabled=True)


def why_not(change: Change, of: Operator, *, by: Operator = ADAM, among=(ADAM, EVE, OTTO, GONE)):
    found = refusal(change, by=by.username, role=by.role, of=of, among=among)
    return None if found is None else found.code


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.APPROVER, None])
@pytest.mark.parametrize("change", Change)
def test_who_is_no_administrator_changes_nobody_else(role, change):
    found = refusal(change, by="paul", role=role, of=OTTO, among=(ADAM, OTTO))
    assert found is not None
    assert found.code is ReasonCode.FORBIDDEN


@pytest.mark.parametrize("change", [Change.ROLE, Change.ROTATE, Change.DISABLE])
def test_an_administrator_changes_others(change):
    assert why_not(change, OTTO) is None
    assert why_not(change, EVE) is None


def test_everybody_rotates_a_token_of_their_own_and_does_nothing_else_about_themselves():
    for role in Role:
        own = operator("otto", role)
        assert why_not(Change.ROTATE, own, by=own) is None
    for change in (Change.ROLE, Change.DISABLE, Change.ENABLE):
        assert why_not(change, OTTO, by=OTTO) is ReasonCode.FORBIDDEN


def test_nobody_changes_their_own_role_in_whatever_letter_case():
    assert why_not(Change.ROLE, ADAM) is ReasonCode.FORBIDDEN
    assert why_not(Change.ROLE, ADAM, by=operator("Adam", Role.ADMIN)) is ReasonCode.FORBIDDEN


def test_the_last_administrator_is_not_disabled_and_one_who_is_shut_out_does_not_count():
    assert why_not(Change.DISABLE, ADAM) is None
    assert why_not(Change.DISABLE, ADAM, among=(ADAM, OTTO, GONE)) is ReasonCode.CONFLICT
    assert why_not(Change.DISABLE, ADAM, among=()) is ReasonCode.CONFLICT


def test_only_who_is_shut_out_is_let_in_and_only_who_is_in_is_shut_out():
    assert why_not(Change.ENABLE, GONE) is None
    assert why_not(Change.ENABLE, OTTO) is ReasonCode.CONFLICT
    assert why_not(Change.DISABLE, GONE) is ReasonCode.CONFLICT
    assert why_not(Change.ROTATE, GONE) is ReasonCode.CONFLICT


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        (CallerChange.CREATE, {Role.ADMIN}),
        (CallerChange.ROTATE, {Role.ADMIN}),
        (CallerChange.SUSPEND, {Role.OPERATOR, Role.APPROVER, Role.ADMIN}),
        (CallerChange.RESUME, {Role.APPROVER, Role.ADMIN}),
    ],
)
def test_what_is_done_to_an_agent_takes_the_role_for_it(change, needs):
    fits = {"suspended": change is CallerChange.RESUME, "has_key": change is not CallerChange.CREATE}
    for role in (*Role, None):
        found = caller_refusal(change, role=role, **fits)
        assert (found is None) == (role in needs)
        assert found is None or found.code is ReasonCode.FORBIDDEN


@pytest.mark.parametrize(
    ("change", "suspended", "has_key"),
    [
        (CallerChange.CREATE, False, True),
        (CallerChange.ROTATE, False, False),
        (CallerChange.SUSPEND, True, True),
        (CallerChange.RESUME, False, True),
    ],
)
def test_what_does_not_fit_an_agent_as_it_is_conflicts(change, suspended, has_key):
    found = caller_refusal(change, role=Role.ADMIN, suspended=suspended, has_key=has_key)
    assert found is not None
    assert found.code is ReasonCode.CONFLICT


def test_a_password_is_kept_salted_and_never_as_it_is():
    kept = hash_password("correct horse")
    assert "correct horse" not in kept
    assert kept != hash_password("correct horse")
