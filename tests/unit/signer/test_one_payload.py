"""One payload per intent, for as long as it lives."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from signer.profile import MemoryFull, OnePayload, OtherPayload

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def admit(memory, digest, *, txn="int_1", jti=None, exp=60, replaces=None, now=0.0):
    memory.admit(txn=txn, jti=jti or f"jti_{digest[0]}", exp=exp, digest=digest, replaces=replaces, now=now)


def test_the_same_payload_may_come_again_until_it_expires():
    memory = OnePayload(capacity=1)
    admit(memory, A)
    admit(memory, A, now=59.9)

    assert memory.holds("int_1", A)
    assert len(memory) == 1


def test_another_payload_for_the_same_intent_is_refused():
    memory = OnePayload(capacity=9)
    admit(memory, A)

    with pytest.raises(OtherPayload):
        admit(memory, B, now=59.9)
    assert memory.holds("int_1", A)
    assert not memory.holds("int_1", B)


def test_after_the_token_has_expired_the_intent_may_have_another():
    memory = OnePayload(capacity=1)
    admit(memory, A)
    admit(memory, B, exp=120, now=60.0)

    assert memory.holds("int_1", B)


def test_a_token_that_was_never_released_can_be_replaced_by_name():
    memory = OnePayload(capacity=9)
    admit(memory, A)
    admit(memory, B, replaces="jti_97")

    assert memory.holds("int_1", B)
    with pytest.raises(OtherPayload):
        admit(memory, A)
    with pytest.raises(OtherPayload):
        admit(memory, C, replaces="jti_97")


@pytest.mark.parametrize("replaces", [None, "", "jti_98", "int_1"])
def test_only_the_right_name_replaces(replaces):
    memory = OnePayload(capacity=9)
    admit(memory, A)

    with pytest.raises(OtherPayload):
        admit(memory, B, replaces=replaces)


def test_a_replacement_has_an_id_of_its_own():
    memory = OnePayload(capacity=9)
    admit(memory, A, jti="jti_same")

    with pytest.raises(OtherPayload):
        admit(memory, B, jti="jti_same", replaces="jti_same")


def test_the_end_of_a_replaced_token_does_not_free_its_replacement():
    memory = OnePayload(capacity=9)
    admit(memory, A, exp=10)
    admit(memory, B, exp=60, replaces="jti_97")

    with pytest.raises(OtherPayload):
        admit(memory, C, now=11.0)


def test_a_replacement_that_is_gone_leaves_nothing_behind():
    memory = OnePayload(capacity=2)
    admit(memory, A, exp=60)
    admit(memory, B, exp=10, replaces="jti_97")
    assert memory.is_full(now=0.0)

    assert not memory.is_full(now=60.0)
    assert len(memory) == 0
    assert memory._payloads == {}


def test_when_full_it_refuses_and_forgets_nobody():
    memory = OnePayload(capacity=2)
    admit(memory, A, txn="int_1")
    admit(memory, A, txn="int_2", exp=30)

    assert memory.is_full(now=29.0)
    with pytest.raises(MemoryFull):
        admit(memory, A, txn="int_3", now=29.0)
    admit(memory, A, txn="int_1", now=29.0)
    with pytest.raises(OtherPayload):
        admit(memory, B, txn="int_1", now=29.0)
    admit(memory, A, txn="int_3", now=30.0)


def test_replacing_does_not_get_around_the_bound():
    memory = OnePayload(capacity=2)
    admit(memory, A)
    admit(memory, B, replaces="jti_97")

    with pytest.raises(MemoryFull):
        admit(memory, C, replaces="jti_98")


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_memory_without_room_is_refused(capacity):
    with pytest.raises(ValueError, match="at least one"):
        OnePayload(capacity=capacity)


class Memory(RuleBasedStateMachine):
    """Against a list of everything ever admitted."""

    def __init__(self):
        super().__init__()
        self.memory = OnePayload(capacity=5)
        self.now = 0
        self.admitted = []  # (txn, digest, jti, exp, replaced)

    def live(self, txn):
        return [entry for entry in self.admitted if entry["txn"] == txn and entry["exp"] > self.now]

    @rule(seconds=st.integers(0, 20))
    def wait(self, seconds):
        self.now += seconds

    @rule(
        txn=st.sampled_from(["int_1", "int_2", "int_3"]),
        payload=st.integers(0, 4),
        life=st.integers(1, 30),
        by_name=st.sampled_from(["none", "right", "wrong"]),
    )
    def ask(self, txn, payload, life, by_name):
        current = [entry for entry in self.live(txn) if not entry["replaced"]]
        replaces = {"none": None, "wrong": "jti_x", "right": current[0]["jti"] if current else "jti_y"}[by_name]
        digest = bytes([payload]) * 32
        jti = f"jti_{txn}_{len(self.admitted)}"
        try:
            self.memory.admit(txn=txn, jti=jti, exp=self.now + life, digest=digest, replaces=replaces, now=self.now)
        except OtherPayload:
            assert current
            assert current[0]["digest"] != digest
            assert by_name != "right"
            return
        except MemoryFull:
            assert sum(entry["exp"] > self.now for entry in self.admitted) >= 5
            return
        if current and current[0]["digest"] == digest:
            return
        assert not current or by_name == "right"
        for entry in current:
            entry["replaced"] = True
        self.admitted.append({"txn": txn, "digest": digest, "jti": jti, "exp": self.now + life, "replaced": False})

    @invariant()
    def every_intent_has_at_most_one_payload_that_counts(self):
        for txn in ("int_1", "int_2", "int_3"):
            current = [entry for entry in self.live(txn) if not entry["replaced"]]
            assert len(current) <= 1
            for entry in current:
                assert self.memory.holds(txn, entry["digest"])

    @invariant()
    def the_memory_is_bounded(self):
        assert len(self.memory) <= 5


TestMemory = Memory.TestCase
