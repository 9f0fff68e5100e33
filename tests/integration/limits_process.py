"""One replica of its own: charges as many intents at once as it is told, and prints how many were let through."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

from services.decision.manifest import RateLimit
from services.limits import ValkeyLimits
from services.ports import Charge


async def main(url: str, name: str, intents: int, calls: int, tokens: int) -> int:
    limits = ValkeyLimits(url)
    limit = RateLimit(maxCallsPerMinute=calls, maxTokensPerDay=tokens)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)

    async def one(number: int) -> int:
        now = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
        charge = Charge(agent="racer", intent_id=f"int_{name}_{number}", limit=limit, model_tokens=7, now=now)
        return await limits.charge(charge)

    answers: list[int] = []
    for start in range(0, intents, 20):
        answers += await asyncio.gather(*(one(start + n) for n in range(20)))
    await limits.close()
    return answers.count(0)


if __name__ == "__main__":
    url, name, *numbers = sys.argv[1:]
    sys.stdout.write(str(asyncio.run(main(url, name, *map(int, numbers)))))
