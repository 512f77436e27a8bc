"""What a seed brings of streams: flows, what lies at their brokers, and what is done to them.

Each flow has a broker of its own, which keeps its messages (a log) or forgets what is acknowledged
(a queue). Everything here is drawn from chance of its own, so a seed without flows stays as it is.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, Literal, TypeAlias

__all__ = ["FLOWS_MAX", "Away", "Body", "Flow", "Put", "Visit", "flow_visits", "random_flows"]

FLOWS_MAX: Final = 2
_PUT_S: Final = 34.0
"""Until some time behind the last fault there are new messages."""
Body: TypeAlias = Literal["nothing", "act", "sink"]
Visit: TypeAlias = Literal[
    "drain", "rewind", "savepoint", "letter", "pause", "resume", "cancel", "reset", "fork"
]
_COMMON: Final[tuple[Visit, ...]] = ("letter", "letter", "letter", "pause", "resume", "savepoint")
_ENDS: Final[tuple[Visit, ...]] = ("drain", "cancel")
_REWINDS: Final[tuple[Visit, ...]] = ("rewind", "rewind")
_RESETS: Final[tuple[Visit, ...]] = ("reset", "fork")


@dataclass(frozen=True, slots=True)
class Put:
    """Some messages come."""

    at_s: float
    partition: int
    count: int


@dataclass(frozen=True, slots=True)
class Away:
    """The broker is not there for a while."""

    at_s: float
    length_s: float
    forgets: bool
    """Whether it comes back without what it was acknowledged last."""
    silent: bool
    """Whether who waits is not told."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One execution that reads, and its broker. A log is `stream` "log0", a queue "queue0"."""

    name: str
    stream: str
    puts: tuple[Put, ...]
    poison: frozenset[int]
    """Which messages, by their numbers, are not what they should be."""
    aways: tuple[Away, ...]
    lost: float
    """How often a request to the broker is lost, or its answer."""
    slow: float
    """How often one takes seconds."""
    prefetch: int
    at_the_back: bool
    """Whether what comes again comes behind what is new."""
    max_messages: int
    linger_s: float
    body: Body
    anew: bool
    """Whether the loop has a checkpoint."""
    hears: bool
    """Whether letters come in the same loop."""
    ticks: bool
    seconds: float
    """How long the body's activity takes."""
    goes_back: bool
    """Whether it is rewound; else it may be reset. Behind a reset a rewind that was asked for later
    comes again, and leads past what was not read by then."""
    is_kept: bool
    """Whether nobody has it read anything twice: its broker has forgotten it, or its rows would be
    there twice."""

    @property
    def forgets(self) -> bool:
        return self.stream.startswith("queue")

    @property
    def count(self) -> int:
        return sum(one.count for one in self.puts)


def random_flows(chance: Random, *, sinks: bool) -> tuple[Flow, ...]:
    """None in most seeds.

    Args:
        sinks: whether the store takes rows of users.
    """
    if chance.random() > 0.25:
        return ()
    numbers = range(1 + chance.randrange(FLOWS_MAX))
    return tuple(_flow(chance, number, sinks=sinks) for number in numbers)


def _flow(chance: Random, number: int, *, sinks: bool) -> Flow:
    forgets = chance.random() < 0.5
    partitions = 1 if forgets else 1 + chance.randrange(3)
    puts = tuple(
        Put(
            round(_PUT_S * chance.random(), 3),
            chance.randrange(partitions),
            chance.choice((1, 1, 2, 5)),
        )
        for _ in range(chance.randrange(14))
    )
    count = sum(one.count for one in puts)
    poison = frozenset(one for one in range(count) if chance.random() < 0.05)
    aways = tuple(
        Away(
            round(30 * chance.random(), 3),
            round(0.2 + 8 * chance.random() ** 2, 3),
            forgets=chance.random() < 0.5,
            silent=chance.random() < 0.3,
        )
        for _ in range(chance.choice((0, 0, 1, 2)))
    )
    prefetch = chance.choice((1, 2, 5, 50))
    body: Body = chance.choice(("nothing", "act", "sink") if sinks else ("nothing", "act"))
    return Flow(
        name=f"f{number}",
        stream=f"{'queue' if forgets else 'log'}{number}",
        puts=puts,
        poison=poison,
        aways=aways,
        lost=chance.choice((0.0, 0.0, 0.03, 0.15)),
        slow=chance.choice((0.0, 0.0, 0.1)),
        prefetch=prefetch,
        # Marks are of the last messages: what comes behind many others may be unknown by then.
        at_the_back=chance.random() < 0.3 and 2 * prefetch >= count,
        max_messages=chance.choice((1, 2, 5, 100)),
        linger_s=chance.choice((0.0, 0.0, 0.2)),
        body=body,
        anew=chance.random() < 0.8,
        hears=chance.random() < 0.5,
        ticks=chance.random() < 0.3,
        seconds=chance.choice((0.0, 0.0, 0.1, 1.0)),
        goes_back=chance.random() < 0.5,
        is_kept=forgets or body == "sink",
    )


def flow_visits(chance: Random, flow: Flow) -> list[tuple[float, Visit]]:
    """What one sender does to a flow: (seconds behind what it did before, what)."""
    kinds: list[Visit] = list(_COMMON)
    if chance.random() < 0.2:
        kinds.extend(_ENDS)
    if not flow.is_kept:
        kinds.extend(_REWINDS if flow.goes_back else _RESETS)
    return [
        (chance.choice((0.0, 0.5, 2.0, 5.0)), chance.choice(kinds))
        for _ in range(chance.randrange(6))
    ]
