"""Closed-loop load with locust: what it is like for so many agents and executors that each wait for their answers.

Not the latency figure: a user who waits asks less while the server stalls, and locust's own work counts. That figure is
`benchmarks.openloop`'s.

    locust -f benchmarks/locustfile.py AgentAndExecutor --host URL    submit, consume, run, report
    locust -f benchmarks/locustfile.py Floor --host URL               one durable commit

HOLDFAST_BOOTSTRAP names the service's bootstrap.json. gevent patches this process, so nothing else runs in it.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from locust import FastHttpUser, constant_pacing, task

from benchmarks.traffic import ACTION, EXECUTOR, PATH, intent

if TYPE_CHECKING:
    from collections.abc import Mapping

_OK: Final = 200
#: Each user starts a round this often, if the last one is over.
_PACE_S: Final = 0.1
_numbers = itertools.count()


class AgentAndExecutor(FastHttpUser):
    """An agent that asks for permission, and the executor that acts on it."""

    wait_time = constant_pacing(_PACE_S)

    def on_start(self) -> None:
        """Take the credentials."""
        bootstrap = json.loads(Path(os.environ["HOLDFAST_BOOTSTRAP"]).read_text(encoding="utf-8"))
        prefix = os.environ.get("HOLDFAST_AGENTS", "")
        agents = [key for name, key in sorted(bootstrap["agents"].items()) if name.startswith(prefix)]
        self._agent = {"Authorization": f"Bearer {agents[next(_numbers) % len(agents)]}"}
        self._executor = {"Authorization": f"Bearer {bootstrap['executors'][EXECUTOR]}"}

    @task
    def act(self) -> None:
        """Submit, consume, report. The next step is taken only with what the last one must have given."""
        asked = intent(next(_numbers))
        key = {"Idempotency-Key": f"locust-{secrets.token_hex(12)}"}
        granted = self._post(PATH, asked, {**self._agent, **key}, member="token")
        if granted is None:
            return
        action = {"action": ACTION, "resource": asked["resource"], "parameters": asked["parameters"]}
        consumed = self._post(
            "/v1/tokens/consume", {"token": granted["token"], **action}, self._executor, member="consumed"
        )
        if consumed is None:
            return
        path = f"/v1/tokens/{consumed['jti']}/outcome"
        self._post(path, {"status": "succeeded"}, self._executor, name="/v1/tokens/{jti}/outcome")

    def _post(
        self,
        path: str,
        body: Mapping[str, object],
        headers: dict[str, str],
        *,
        member: str | None = None,
        name: str | None = None,
    ) -> dict[str, object] | None:
        """Return the answer's object if it is right; otherwise count a failure and return None."""
        with self.client.post(path, json=body, headers=headers, name=name or path, catch_response=True) as response:
            if response.status_code != _OK:
                response.failure(f"{response.status_code}")
                return None
            document = json.loads(response.text or "{}")
            if member is not None and not document.get(member):
                response.failure(f"200 without `{member}`")
                return None
            return dict(document)


class Floor(FastHttpUser):
    """The same request to a server that decides nothing."""

    wait_time = constant_pacing(_PACE_S)

    @task
    def store(self) -> None:
        """Store one row."""
        self.client.post(PATH, json=intent(next(_numbers)), name=PATH)
