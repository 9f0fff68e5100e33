"""Whether this process lives, whether it may be sent traffic, and its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.routing import Route

from services.breaker import State
from services.http.wire import Endpoint, json_response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.strict_json import JSON
    from starlette.requests import Request

    from services.boundary import BoundaryState
    from services.metrics import Metrics

_STATE_NUMBERS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2, State.FORCED_OPEN: 3}


class Vitals(Protocol):
    """What health is read from."""

    def boundaries(self) -> Sequence[BoundaryState]:
        """Return every required boundary as of now."""
        ...

    def troubles(self) -> Sequence[str]:
        """Return what else makes the service unfit for traffic, a word each."""
        ...

    def in_journal(self) -> bool:
        """Return whether records go to the journal."""
        ...

    def records_are_refused(self) -> bool:
        """Return whether neither PostgreSQL nor the journal takes records."""
        ...

    def journal_bytes(self) -> int:
        """Return how many journal bytes PostgreSQL does not have yet."""
        ...

    def records(self) -> Mapping[str, int]:
        """Return how many records were made durable since the start, by sink."""
        ...


class HealthEndpoints:
    """`/livez`, `/readyz`, `/metrics`."""

    def __init__(self, *, vitals: Vitals, metrics: Metrics) -> None:
        self._vitals = vitals
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/livez", Endpoint(self._live), methods=["GET"]),
            Route("/readyz", Endpoint(self._ready), methods=["GET"]),
            Route("/metrics", Endpoint(self._figures), methods=["GET"]),
        ]

    async def _live(self, request: Request) -> Response:  # noqa: ARG002 - the same for everybody
        return json_response(200, {"alive": True})

    async def _ready(self, request: Request) -> Response:  # noqa: ARG002 - the same for everybody
        states = self._vitals.boundaries()
        open_ones: list[JSON] = [state.name for state in states if state.state is not State.CLOSED]
        troubles: list[JSON] = list(self._vitals.troubles())
        ready = not open_ones and not troubles
        return json_response(
            200 if ready else 503,
            {
                "ready": ready,
                "boundaries": {state.name: state.state.value for state in states},
                "open": open_ones,
                "troubles": troubles,
            },
            retry_after_s=None if ready else 1,
        )

    async def _figures(self, request: Request) -> Response:  # noqa: ARG002 - the same for everybody
        for state in self._vitals.boundaries():
            self._metrics.boundary_state.labels(state.name).set(_STATE_NUMBERS[state.state])
        self._metrics.recorder_in_journal.set(int(self._vitals.in_journal()))
        self._metrics.recorder_closed.set(int(self._vitals.records_are_refused()))
        self._metrics.journal_bytes.set(self._vitals.journal_bytes())
        for sink, total in self._vitals.records().items():
            self._metrics.records_so_far(sink, total)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)
