"""A few agents who ask at an even pace until told to stop, and see everything through that they asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.load import AGENTS, Load, _Hands
from e2e.running_service import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos.load import Planned
    from e2e.running_service import RunningService

_MOST = 600
_HANDS_PER_AGENT = 3
_PACE_S = 0.4


class PacedLoad(Load):
    """`Load` for as long as a test needs it, instead of for so many intents."""

    def __init__(self, service: RunningService, ledger: Path, *, name: str, seed: int) -> None:
        super().__init__(service, ledger, name=name, seed=seed, intents=_MOST)
        self._over = asyncio.Event()
        self._asked: list[Planned] = []

    async def ask_until_over(self) -> None:
        """Ask until `stop`."""
        async with _Hands(self._service, self._ledger_path, self.answers) as hands:
            queues = {agent: iter([p for p in self.plan if p.agent == agent]) for agent in AGENTS}
            await asyncio.gather(*(self._ask(hands, mine) for mine in queues.values() for _ in range(_HANDS_PER_AGENT)))
        self.plan = self._asked

    def stop(self) -> None:
        """Let every agent finish what it is asking."""
        self._over.set()

    async def see_through(self) -> None:
        """Follow every intent to its end."""
        async with _Hands(self._service, self._ledger_path, self.answers) as hands, asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(self._see_through(hands, planned) for planned in self.plan))

    async def _ask(self, hands: _Hands, mine: Iterator[Planned]) -> None:
        for planned in mine:
            if self._over.is_set():
                return
            self._asked.append(planned)
            await hands.act(planned)
            try:
                async with asyncio.timeout(_PACE_S):
                    await self._over.wait()
            except TimeoutError:
                continue
