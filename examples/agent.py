# ruff: noqa: INP001 - a script
r"""An agent that refunds a payment: it asks first, waits if it must, and takes any doubt for a no.

HOLDFAST_URL=http://127.0.0.1:8420 HOLDFAST_AGENT_KEY=hfa_… EXECUTOR_URL=http://127.0.0.1:9000 \
        python examples/agent.py pay_123 4200
"""

from __future__ import annotations

import os
import sys

import httpx2
from holdfast import Client, Context, HoldfastError, Refused, Resource


def main(payment: str, amount_cents: int) -> int:
    """Refund the payment. Returns 0 only if the executor did it."""
    with Client(os.environ["HOLDFAST_URL"], os.environ["HOLDFAST_AGENT_KEY"]) as client:
        try:
            authority = client.submit(
                action="payments.refund.create",
                resource=Resource(type="payment", id=payment),
                parameters={"amount_cents": amount_cents, "currency": "EUR"},
                context=Context(environment="production", reason="ticket 881"),
                wait=60,
                on_progress=lambda envelope: sys.stderr.write(f"{envelope['status']}: {envelope.get('detail')}\n"),
            )
        except Refused as no:
            sys.stderr.write(f"refused: {no}\n")
            return 1
        except HoldfastError as unclear:
            sys.stderr.write(f"no usable answer, so nothing is done: {unclear}\n")
            return 2

    response = httpx2.post(
        f"{os.environ['EXECUTOR_URL']}/refunds/{payment}",
        json={"amount_cents": amount_cents, "currency": "EUR"},
        headers={"Authority-Token": authority.token},
    )
    sys.stdout.write(f"{response.status_code} {response.text}\n")
    return 0 if response.is_success else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
