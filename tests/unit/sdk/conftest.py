from __future__ import annotations

import pytest
from holdfast.client import AsyncClient, Client
from holdfast.errors import HoldfastError
from holdfast.intent import Intent, Resource
from holdfast.submission import Patience
from sdk_fake_service import AGENT_KEY, BASE_URL, EXECUTOR, FakeService

AT_ONCE = Patience(timeout_s=5, attempts=3, first_pause_s=0, longest_pause_s=0)


class Agent:
    """Either client behind the same coroutine methods."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        method = getattr(self.client, name)

        async def call(*args, **kwargs):
            result = method(*args, **kwargs)
            return await result if isinstance(self.client, AsyncClient) else result

        return call

    async def refused(self, *args, **kwargs) -> HoldfastError:
        """Submit, and return the error. An authority is a failed test."""
        with pytest.raises(HoldfastError) as caught:
            await self.submit(*args, **kwargs)
        return caught.value


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def refund() -> Intent:
    return Intent(
        action="payments.refund.create",
        resource=Resource(type="payment", id="pay_123"),
        parameters={"amount_cents": 4200, "currency": "EUR"},
        executor=EXECUTOR,
    )


@pytest.fixture(params=[Client, AsyncClient], ids=["plain", "async"])
def new_agent(request, service):
    def build(**options) -> Agent:
        defaults = {"transport": service.transport(), "patience": AT_ONCE}
        return Agent(request.param(BASE_URL, AGENT_KEY, **(defaults | options)))

    return build


@pytest.fixture
def agent(new_agent) -> Agent:
    return new_agent()
