"""A process that stood still does not blame the store for longer than the store takes to answer."""

from __future__ import annotations

from dataclasses import dataclass

from world import World

from services.breaker import State
from services.ports import StoreUnreachable
from services.upkeep import Upkeep


@dataclass
class Lane:
    """Where records go."""

    in_journal: bool = False


def upkeep_of(boundaries, lane) -> Upkeep:
    upkeep = Upkeep(lane=lane, signer=None, clock=None)
    upkeep.watch(boundaries, None, policies=None, classifier=None, bounds=None)
    return upkeep


def test_an_open_audit_boundary_is_probed_as_soon_as_the_store_answers():
    boundaries = World().boundaries
    boundaries.audit.dependency_is_gone("every deadline passed while the process stood still")

    upkeep_of(boundaries, Lane()).on_beat(None)

    assert boundaries.audit.state.state is State.HALF_OPEN


def test_while_records_go_to_the_journal_a_store_that_answers_reads_takes_no_records():
    boundaries = World().boundaries
    boundaries.audit.dependency_is_gone("no commit")

    upkeep_of(boundaries, Lane(in_journal=True)).on_beat(None)

    assert boundaries.audit.state.state is State.OPEN


def test_a_store_that_does_not_answer_opens_nothing_again():
    boundaries = World().boundaries
    boundaries.audit.dependency_is_gone("no commit")

    upkeep_of(boundaries, Lane()).on_beat(StoreUnreachable("no answer"))

    assert boundaries.audit.state.state is State.OPEN
