"""The intent as agents send it, and the digest that binds a token to it."""

from dataclasses import replace

import pytest
from holdfast.errors import InvalidIntent
from holdfast.intent import Action, Context, Intent, Priority, Resource
from hypothesis import given
from hypothesis import strategies as st

RESOURCE = Resource(type="payment", id="pay_1")
SMALLEST = {"action": "payments.refund.create", "resource": {"type": "payment", "id": "pay_1"}}
WHOLE = SMALLEST | {
    "parameters": {"amount_cents": 4200, "tags": ["a", {"b": None}]},
    "executor": "payments-api",
    "context": {
        "environment": "production",
        "reason": "ticket 881",
        "on_behalf_of": "user:alice",
        "model": "m",
        "session": "s-1",
        "model_tokens": 0,
    },
    "priority": "high",
    "queue": False,
    "expires_in": 900,
    "callback_url": "https://agent.example/hook",
}
MEMBERS = sorted(WHOLE)
CONTEXT_MEMBERS = sorted(WHOLE["context"])

parameters = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    max_size=6,
)


def test_the_smallest_intent_has_the_defaults_of_the_contract():
    assert Intent.from_json(SMALLEST) == Intent(action="payments.refund.create", resource=RESOURCE)
    assert Intent.from_json(SMALLEST).priority is Priority.NORMAL
    assert Intent.from_json(SMALLEST).queue is True


def test_a_whole_intent_is_read_and_written_again_unchanged():
    intent = Intent.from_json(WHOLE)

    assert intent.context == Context(**WHOLE["context"])
    assert intent.to_json() == WHOLE


@pytest.mark.parametrize("member", ["action", "resource"])
def test_what_is_required_may_not_be_missing(member):
    document = {name: value for name, value in WHOLE.items() if name != member}

    with pytest.raises(InvalidIntent, match=member):
        Intent.from_json(document)


@pytest.mark.parametrize("where", [(), ("resource",), ("context",)])
def test_an_unknown_member_is_refused_at_every_level(where):
    document = WHOLE | {name: WHOLE[name] | {"surprise": 1} for name in where}
    if not where:
        document["surprise"] = 1

    with pytest.raises(InvalidIntent, match="surprise"):
        Intent.from_json(document)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("wrong", [[], 1.5, 10**15, -1, True, "", {"x": 1}])
def test_no_member_is_coerced(member, wrong):
    fits = {("parameters", "{'x': 1}"), ("queue", "True")}
    if (member, repr(wrong)) in fits:
        assert Intent.from_json(WHOLE | {member: wrong})
        return

    with pytest.raises(InvalidIntent):
        Intent.from_json(WHOLE | {member: wrong})


@pytest.mark.parametrize("member", CONTEXT_MEMBERS)
@pytest.mark.parametrize("wrong", [[], 1.5, 10**15, -1, True, "", "a\nb", {"x": 1}])
def test_no_circumstance_is_coerced(member, wrong):
    with pytest.raises(InvalidIntent, match=member):
        Intent.from_json(WHOLE | {"context": WHOLE["context"] | {member: wrong}})


@pytest.mark.parametrize("wrong", [None, [], "x", 1, True])
def test_what_is_not_an_object_is_not_an_intent(wrong):
    with pytest.raises(InvalidIntent):
        Intent.from_json(wrong)


@pytest.mark.parametrize("wrong", ["", "a b", "-a", "a/b", "ä", "a" * 65, "a\n"])
def test_a_resource_type_is_a_plain_word(wrong):
    with pytest.raises(InvalidIntent, match="type"):
        Intent.from_json(WHOLE | {"resource": {"type": wrong, "id": "1"}})


@pytest.mark.parametrize("wrong", ["", "a\x00", "a\x7f", "a\r\n", "a" * 513])
def test_a_resource_id_has_no_control_characters_and_an_end(wrong):
    with pytest.raises(InvalidIntent, match="id"):
        Intent.from_json(WHOLE | {"resource": {"type": "t", "id": wrong}})


def action(**changes):
    whole = {"action": "a", "resource": RESOURCE, "parameters": {"x": 1}, "executor": "e"}
    return Action(**(whole | changes))


@pytest.mark.parametrize(
    "changed",
    [
        action(action="b"),
        action(resource=replace(RESOURCE, id="pay_2")),
        action(resource=replace(RESOURCE, type="refund")),
        action(parameters={"x": 2}),
        action(parameters={"x": "1"}),
        action(parameters={"x": True}),
        action(parameters={"x": None}),
        action(parameters={}),
        action(parameters={"x": 1, "y": 1}),
        action(executor="f"),
    ],
)
def test_every_member_of_an_action_is_bound(changed):
    assert changed.digest() != action().digest()


@given(parameters, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(members, random):
    shuffled = list(members.items())
    random.shuffle(shuffled)

    assert action(parameters=members).digest() == action(parameters=dict(shuffled)).digest()


@given(parameters, parameters)
def test_equal_digests_mean_equal_parameters(left, right):
    same_digest = action(parameters=left).digest() == action(parameters=right).digest()

    assert same_digest == (action(parameters=left).canonical() == action(parameters=right).canonical())


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), 10**5000, float("nan"), float("inf"), "\ud800", {"\ud800": 1}, {1: 2}, {1}, b"x", object()],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_canonical_form_has_no_digest(value):
    with pytest.raises(InvalidIntent):
        action(parameters={"x": value}).digest()


def test_parameters_nested_without_end_have_no_digest():
    endless: dict[str, object] = {}
    endless["x"] = endless

    with pytest.raises(InvalidIntent):
        action(parameters=endless).digest()
