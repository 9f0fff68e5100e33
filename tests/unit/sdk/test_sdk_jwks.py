"""Keys: fetched when needed, one fetch at a time, never trusted too long, and never an empty set."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest
from holdfast.errors import ServiceUnavailable
from holdfast.exchange import Answer
from holdfast.jwks import FetchedKeys, Freshness, PinnedKeys, parse_jwks
from sdk_fake_service import AGENT_KEY, ManualOutside, SigningKey


@pytest.fixture
def outside(service):
    return ManualOutside(service, AGENT_KEY)


@pytest.fixture
def keys(outside):
    return FetchedKeys(outside)


def fetches(service) -> int:
    return sum(request.url.path.endswith("jwks.json") for request in service.seen)


async def test_a_fresh_set_is_fetched_once(keys, service):
    for _ in range(3):
        assert await keys.for_header(service.key.public.header_segment) == (service.key.public,)

    assert fetches(service) == 1


async def test_a_set_that_is_no_longer_fresh_is_fetched_again(keys, outside, service):
    await keys.for_header(service.key.public.header_segment)
    outside.elapsed += 300
    service.key = SigningKey()

    assert await keys.for_header(service.key.public.header_segment) == (service.key.public,)


async def test_an_unknown_key_causes_a_fetch_but_not_a_flood(keys, outside, service):
    await keys.for_header(service.key.public.header_segment)
    outside.elapsed += 11
    for _ in range(100):
        await keys.for_header("unknown")
    assert fetches(service) == 2

    outside.elapsed += 11
    await keys.for_header("unknown")
    assert fetches(service) == 3


async def test_a_rotated_key_is_found_without_waiting_for_the_set_to_age(keys, outside, service):
    await keys.for_header(service.key.public.header_segment)
    outside.elapsed += 11
    service.key = SigningKey()

    assert service.key.public in await keys.for_header(service.key.public.header_segment)


async def test_while_the_service_is_away_the_old_set_serves_and_then_nothing_does(keys, outside, service):
    header = service.key.public.header_segment
    await keys.for_header(header)
    service.lie("jwks.json", *[httpx2.ConnectError("away")] * 10)

    outside.elapsed = 3600
    assert await keys.for_header(header)
    outside.elapsed = 3602
    with pytest.raises(ServiceUnavailable, match="no trustworthy key set"):
        await keys.for_header(header)


async def test_a_service_that_is_away_is_not_asked_again_at_once(keys, outside, service):
    service.lie("jwks.json", httpx2.ConnectError("away"))
    for _ in range(5):
        with pytest.raises(ServiceUnavailable):
            await keys.for_header("any")
    assert fetches(service) == 1

    outside.elapsed += 1
    assert await keys.for_header("any")


async def test_many_at_once_share_one_fetch(service):
    class Slow(ManualOutside):
        asked = 0

        async def exchange(self, request):
            Slow.asked += 1
            await asyncio.sleep(0)
            return await super().exchange(request)

        def lock(self):
            return asyncio.Lock()

    keys = FetchedKeys(Slow(service, AGENT_KEY))
    await asyncio.gather(*(keys.for_header(service.key.public.header_segment) for _ in range(20)))

    assert Slow.asked == 1


GOOD = SigningKey().public.to_jwk()
BAD_SETS = [
    b"",
    b"[]",
    b"{}",
    b"null",
    b'{"keys": {}}',
    b'{"keys": []}',
    b'{"keys": [1]}',
    b'{"keys": [], "keys": []}',
    b"<html>",
    json.dumps({"keys": [GOOD, "x"]}).encode(),
    json.dumps({"keys": [{**GOOD, "x": "AAAA"}]}).encode(),
    json.dumps({"keys": [{**GOOD, "kid": "other"}]}).encode(),
    json.dumps({"keys": [{**GOOD, "d": "secret"}]}).encode(),
    json.dumps({"keys": [{**GOOD, "alg": "RS256"}]}).encode(),
    json.dumps({"keys": [{**GOOD, "x": "é"}]}).encode(),
    json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}).encode(),
    json.dumps({"keys": [GOOD] * 65}).encode(),
]


@pytest.mark.parametrize("body", BAD_SETS, ids=lambda body: body[:40])
async def test_a_set_that_cannot_be_read_is_an_error_and_never_an_empty_set(keys, service, body):
    with pytest.raises(ServiceUnavailable):
        parse_jwks(body)
    service.lie("jwks.json", httpx2.Response(200, content=body))
    with pytest.raises(ServiceUnavailable):
        await keys.for_header("any")


@pytest.mark.parametrize("body", BAD_SETS, ids=lambda body: body[:40])
async def test_a_bad_set_does_not_replace_a_good_one(keys, outside, service, body):
    await keys.for_header("any")
    outside.elapsed += 400
    service.lie("jwks.json", httpx2.Response(200, content=body))

    assert await keys.for_header("any") == (service.key.public,)


@pytest.mark.parametrize("status", [201, 204, 301, 404, 500])
async def test_another_status_than_200_brings_no_keys(keys, service, status):
    service.lie("jwks.json", httpx2.Response(status, json={"keys": [GOOD]}))

    with pytest.raises(ServiceUnavailable, match=str(status)):
        await keys.for_header("any")


def test_a_key_of_another_kind_is_passed_over():
    other = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}

    assert [key.to_jwk() for key in parse_jwks(json.dumps({"keys": [other, GOOD]}).encode())] == [GOOD]


def test_no_pinned_keys_are_refused():
    with pytest.raises(ValueError, match="empty"):
        PinnedKeys([])
    with pytest.raises(ServiceUnavailable):
        PinnedKeys.from_jwks(b'{"keys": []}')


@pytest.mark.parametrize(
    "limits",
    [{"fresh_s": 0}, {"fresh_s": 100, "max_stale_s": 50}, {"max_stale_s": 10**9}, {"cooldown_s": -1}, {"timeout_s": 0}],
    ids=str,
)
def test_limits_that_never_expire_are_refused(limits):
    with pytest.raises(ValueError, match=r".+"):
        Freshness(**limits)


async def test_staleness_counts_from_when_the_keys_were_asked_for(outside, service):
    """A slow answer is an old answer."""
    keys = FetchedKeys(outside, Freshness(fresh_s=10, max_stale_s=20))

    async def slow(request):
        outside.elapsed += 15
        return Answer(status=200, body=json.dumps({"keys": [service.key.public.to_jwk()]}).encode())

    outside.exchange = slow
    await keys.for_header("any")

    assert keys._age() == 15
