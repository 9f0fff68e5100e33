"""Who acts in the story, and what they ask: twenty agents on the shipped policies, five hundred intents."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast.intent import Context, Intent, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from holdfast.strict_json import JSON

_MANIFEST: Final = """\
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {{name: {name}, owner: fleet, groups: [fleet]}}
spec:
  tools: [{tools}]
"""

#: The fleet's agents by role, with the tools that their manifests list.
_ROLES: Final[Mapping[str, tuple[int, str]]] = {
    "deployer": (3, '"deploy.*", services.scale, services.read'),
    "migrator": (1, "database.migrate, services.read"),
    "access": (4, '"access.*"'),
    "support": (6, "kb.search, ticket.create, customer.read"),
    "research": (6, "kb.search, kb.read"),
}

INTENTS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One intent of the story. `forbidden` says that policy will deny it, whenever it is asked."""

    agent: str
    intent: Intent
    key: str
    what: str
    forbidden: bool = False


def agents() -> list[str]:
    """Return the names of the twenty agents."""
    return [f"fleet-{role}-{number}" for role, (count, _) in _ROLES.items() for number in range(1, count + 1)]


def write_policies(shipped: Path, target: Path) -> None:
    """Copy the shipped bundle and add a manifest for every agent of the fleet."""
    shutil.copytree(shipped, target)
    for name in agents():
        role = name.split("-")[1]
        (target / "agents" / f"{name}.yaml").write_text(
            _MANIFEST.format(name=name, tools=_ROLES[role][1]), encoding="utf-8"
        )


def prelude() -> list[Planned]:
    """Return one harmless intent for each agent, for the time before the outage."""
    asks: Mapping[str, Callable[[int], Intent]] = {
        "deployer": _read_service,
        "migrator": _read_service,
        "access": _read_account,
        "support": _search,
        "research": _search,
    }
    return [
        Planned(agent=name, intent=asks[name.split("-")[1]](0), key=f"prelude-{name}", what="prelude")
        for name in agents()
    ]


def outage() -> list[Planned]:
    """Return the five hundred intents of the outage, the important ones spread among the routine."""
    important = [
        *(_plan("fleet-deployer", n, 3, "production deployment", _deploy(n)) for n in range(3)),
        *(_plan("fleet-deployer", n, 3, "scaling", _scale(n)) for n in range(2)),
        _plan("fleet-migrator", 0, 1, "database migration", _migrate()),
        *(
            _plan("fleet-access", n, 4, "access change", _grant(n, role="owner"), forbidden=True)
            if n % 3 == 0
            else _plan("fleet-access", n, 4, "access change", _grant(n, role="viewer"))
            for n in range(12)
        ),
    ]
    routine: list[Planned] = []
    asks: list[tuple[str, int, Callable[[int], Intent]]] = [
        ("fleet-support", 6, _search),
        ("fleet-research", 6, _search),
        ("fleet-support", 6, _ticket),
        ("fleet-support", 6, _customer),
    ]
    for n in range(INTENTS - len(important)):
        role, count, ask = asks[n % len(asks)]
        routine.append(_plan(role, n // len(asks), count, "routine", ask(n)))
    plan = list(routine)
    every = len(routine) // len(important)
    for n, planned in enumerate(important):
        plan.insert(n * every + n + every // 2, planned)
    return plan


def _plan(role: str, n: int, count: int, what: str, intent: Intent, *, forbidden: bool = False) -> Planned:
    name = f"{role}-{n % count + 1}"
    key = f"outage-{what.replace(' ', '-')}-{intent.action}-{n}"
    return Planned(agent=name, intent=intent, key=key, what=what, forbidden=forbidden)


def _intent(action: str, kind: str, name: str, environment: str = "production", **parameters: JSON) -> Intent:
    return Intent(
        action=action,
        resource=Resource(type=kind, id=name),
        parameters=parameters,
        context=Context(environment=environment),
    )


def _deploy(n: int) -> Intent:
    return _intent("deploy.release", "service", ("checkout", "catalogue", "mail")[n], version=f"2026.11.{n}")


def _scale(n: int) -> Intent:
    return _intent("services.scale", "service", ("checkout", "search")[n], replicas=12 + n)


def _migrate() -> Intent:
    return _intent("database.migrate", "database", "prod-orders", migration="0042_add_index", destructive=False)


def _grant(n: int, *, role: str) -> Intent:
    return _intent("access.grant", "account", f"user-{n}", role=role, hours=4)


def _read_service(n: int) -> Intent:
    return _intent("services.read", "service", f"service-{n}")


def _read_account(n: int) -> Intent:
    return _intent("access.read", "account", f"user-{n}")


def _search(n: int) -> Intent:
    return _intent("kb.search", "knowledge-base", "handbook", query=f"question {n}")


def _ticket(n: int) -> Intent:
    return _intent("ticket.create", "ticket", "new", title=f"ticket {n}", severity="normal")


def _customer(n: int) -> Intent:
    return _intent("customer.read", "customer", f"customer-{n}")
