"""The fault matrix: which dependency, broken how, at which step of an intent; and which combinations mean nothing.

A *step* is where the intent is when the fault begins: the proxy in front of the dependency sees the step's first bytes
pass and breaks it there. `record` and `sign` break on the question, `release` on its answer: the commit or the
signature was made, and nobody hears of it in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Dependency(StrEnum):
    POSTGRESQL = "PostgreSQL"
    LEASE = "policy lease"
    VALKEY = "Valkey"
    SIGNER = "signer"
    CLASSIFIER = "remote classifier"
    WORKER = "worker"
    DISK = "disk of the data directory"


class Fault(StrEnum):
    STOPPED = "stopped"
    KILLED = "killed"
    AWAY = "killed, stays away"
    SLOW = "slow"
    REFUSING = "refusing"
    CORRUPT = "corrupt"
    FULL = "disk full"


class Step(StrEnum):
    CLASSIFY = "classify"
    RISK = "risk"
    EVALUATE = "evaluate"
    RECORD = "record"
    SIGN = "sign"
    RELEASE = "release"


HOW: Mapping[Fault, str] = {
    Fault.STOPPED: "SIGSTOP to the process and all below it; for the lease, a lock on its table",
    Fault.KILLED: "SIGKILL to the process and all below it; the supervisor starts it again",
    Fault.AWAY: "SIGKILL, and the program does not start until the fault is over",
    Fault.SLOW: "every message of the step is held for longer than the step's deadline, and then delivered",
    Fault.REFUSING: "connections are cut and new ones refused; the disk refuses every write; the lease's query fails",
    Fault.CORRUPT: "what the step's questions (`record`, `sign`) or answers say is inverted; of a signature, one bit. "
    "PostgreSQL's framing of answers is kept: asyncpg 0.32 never returns from a message of negative length",
    Fault.FULL: "a file fills the disk that holds the data directory",
}


#: The process that is the dependency, as the supervisor calls it.
CHILDREN: Mapping[Dependency, str] = {
    Dependency.POSTGRESQL: "postgres",
    Dependency.VALKEY: "valkey",
    Dependency.SIGNER: "signer",
    Dependency.CLASSIFIER: "classifier",
    Dependency.WORKER: "worker",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How one dependency is used at one step.

    `trusted_s` is for how long the service may, by design, act on the dependency's last sign of life: 0 where it is
    asked each time. `agents` are those whose tokens need it, None for everybody's; () where no token does.
    `codes` are what an intent that could not be decided may be told in the fault.
    """

    how: str
    codes: frozenset[str]
    trusted_s: float = 0.0
    agents: tuple[str, ...] | None = None
    executes: bool = True


_STORE = frozenset({"EVALUATION_UNAVAILABLE", "AUDIT_UNAVAILABLE", "SERVICE_UNAVAILABLE"})
#: A beat each 0.5 s with a deadline of 1 s, and what a busy machine adds.
_HEARTBEAT_S = 2.0
LEASE_S = 4

USES: Mapping[Dependency, Mapping[Step, Use]] = {
    Dependency.POSTGRESQL: {
        Step.EVALUATE: Use(how="heartbeat, orders, stored intents", codes=_STORE, trusted_s=_HEARTBEAT_S),
        Step.RECORD: Use(how="the commit is asked for", codes=_STORE, executes=False),
        Step.RELEASE: Use(how="the commit is acknowledged", codes=_STORE, executes=False),
    },
    Dependency.LEASE: {
        Step.EVALUATE: Use(
            how="the source of the policies is heard", codes=frozenset({"EVALUATION_UNAVAILABLE"}), trusted_s=LEASE_S
        ),
    },
    Dependency.VALKEY: {
        Step.RISK: Use(
            how="what other processes know of the agent, which can only add",
            codes=frozenset({"EVALUATION_UNAVAILABLE"}),
            agents=(),
        ),
        Step.EVALUATE: Use(
            how="counters of agents with limits", codes=frozenset({"EVALUATION_UNAVAILABLE"}), agents=("metered",)
        ),
    },
    Dependency.SIGNER: {
        Step.SIGN: Use(how="the signature is asked for", codes=frozenset({"SIGNING_UNAVAILABLE"})),
        Step.RELEASE: Use(how="the signature comes back", codes=frozenset({"SIGNING_UNAVAILABLE"})),
    },
    Dependency.CLASSIFIER: {
        Step.CLASSIFY: Use(how="asked for each intent", codes=frozenset({"CLASSIFICATION_UNAVAILABLE"})),
    },
    Dependency.WORKER: {
        Step.CLASSIFY: Use(how="decides what waited", codes=frozenset(), agents=()),
        Step.EVALUATE: Use(how="decides what waited", codes=frozenset(), agents=()),
        Step.RECORD: Use(how="records the late decision", codes=frozenset(), agents=()),
        Step.RELEASE: Use(how="hears that it is recorded", codes=frozenset(), agents=()),
    },
    Dependency.DISK: {
        Step.RECORD: Use(how="journal, and what PostgreSQL and Valkey write", codes=_STORE, executes=False),
    },
}

UNUSED: Mapping[Dependency, str] = {
    Dependency.POSTGRESQL: "the catalogue and the policies are in memory; signer and classifier know no database",
    Dependency.LEASE: "only an evaluation needs policies that were heard of lately",
    Dependency.VALKEY: "limits and the memory of agents are all it holds; wake-ups only hasten",
    Dependency.SIGNER: "asked for signatures alone",
    Dependency.CLASSIFIER: "asked for categories alone",
    Dependency.WORKER: "what it decides is minted by the API when it is claimed, and the risk needs no other process",
    Dependency.DISK: "nothing else of an intent is written",
}

IMPOSSIBLE: Mapping[tuple[Dependency, Fault], str] = {
    (Dependency.POSTGRESQL, Fault.FULL): "see the disk: it is the same one",
    (Dependency.VALKEY, Fault.FULL): "see the disk: it is the same one",
    (Dependency.SIGNER, Fault.FULL): "it writes nothing while it signs",
    (Dependency.CLASSIFIER, Fault.FULL): "its disk is not ours",
    (Dependency.WORKER, Fault.FULL): "see the disk: it is the same one",
    (Dependency.LEASE, Fault.KILLED): "the source is PostgreSQL: see there",
    (Dependency.LEASE, Fault.AWAY): "the source is PostgreSQL: see there",
    (Dependency.LEASE, Fault.SLOW): "late is silent: see stopped",
    (Dependency.LEASE, Fault.FULL): "it is only read",
    (Dependency.LEASE, Fault.CORRUPT): "a bundle of another digest is refused whole, and the last good one goes on: "
    "tests/unit/policies",
    (Dependency.WORKER, Fault.SLOW): "nobody waits for an answer of its",
    (Dependency.WORKER, Fault.REFUSING): "nobody connects to it",
    (Dependency.WORKER, Fault.CORRUPT): "nobody reads an answer of its",
    (Dependency.DISK, Fault.STOPPED): "a disk that hangs cannot be made without the kernel's help; a late fsync is "
    "tests/unit/recording",
    (Dependency.DISK, Fault.SLOW): "likewise",
    (Dependency.DISK, Fault.KILLED): "it is no process",
    (Dependency.DISK, Fault.AWAY): "it is no process",
    (Dependency.DISK, Fault.CORRUPT): "a damaged journal stays closed until a human looks: tests/unit/recording",
}

#: Worker, killed for long: what is in its hands waits for the lease in any case, so one step stands for all.
_ONE_STEP = {(Dependency.WORKER, Fault.AWAY): Step.RECORD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    dependency: Dependency
    fault: Fault
    step: Step

    @property
    def name(self) -> str:
        return f"{self.dependency}: {self.fault} at {self.step}"

    @property
    def use(self) -> Use:
        return USES[self.dependency][self.step]


def cells() -> Iterator[Cell]:
    """Return every combination that means something."""
    for dependency in Dependency:
        for fault in Fault:
            if (dependency, fault) in IMPOSSIBLE:
                continue
            only = _ONE_STEP.get((dependency, fault))
            for step in USES[dependency]:
                if only is None or step is only:
                    yield Cell(dependency=dependency, fault=fault, step=step)


#: What every run of the tests plays; the rest is for `make chaos`.
SMALL = frozenset(
    {
        (Dependency.POSTGRESQL, Fault.SLOW, Step.RELEASE),
        (Dependency.SIGNER, Fault.CORRUPT, Step.RELEASE),
        (Dependency.CLASSIFIER, Fault.REFUSING, Step.CLASSIFY),
    }
)
