"""What one seed brings: programs, what clients send, what goes wrong and when. Plain data.

Everything is drawn before the first step, from a source of chance for each part, so that a part
can be taken away (to shrink a failure) without changing the others. Each kind of fault is absent
in about a third of the seeds: faults that always come together hide each other.
"""

from dataclasses import dataclass, field, fields
from random import Random
from typing import Final, Literal, TypeAlias

from tests.simulation.drawing import (
    CHANNELS,
    FEATURES,
    KIDS,
    Feature,
    grown,
    in_a_hurry,
    random_program,
    with_last_words,
    with_rivals,
)
from tests.simulation.flows import Flow, flow_visits, random_flows
from tests.simulation.language import Program
from tests.simulation.line import Rates

__all__ = [
    "APART",
    "FAULT_S",
    "POISON",
    "Errand",
    "Mishap",
    "MishapKind",
    "Plan",
    "draw",
    "program_name",
]

POISON: Final = "poison"
"""How the workflow ids of what nobody can decode begin."""
TYPE: Final = "simulation.carry_out"
Versioning: TypeAlias = Literal["auto", "pinned", "pinned_run"]
_VERSIONING: Final[tuple[Versioning, ...]] = ("auto", "pinned", "pinned", "pinned_run")
FAULT_S: Final = 30.0
"""How long faults go on; then everything is healed, and must come to its end."""

MishapKind: TypeAlias = Literal[
    "kill worker",
    "kill client",
    "stop worker",
    "slow worker",
    "cut off worker",
    "cut off client",
    "set clock",
    "fill disk",
    "evict",
    "restart worker",
    "change code",
    "hand over",
    "hand over to new code",
]
MISHAPS: Final[tuple[MishapKind, ...]] = (
    "kill worker",
    "kill client",
    "stop worker",
    "slow worker",
    "cut off worker",
    "cut off client",
    "set clock",
    "fill disk",
    "evict",
    "restart worker",
    "change code",
)
"""The others come with versions."""
APART: Final = "apart"
"""The task queue of activities that another worker runs."""
HAND_OVERS: Final[tuple[MishapKind, ...]] = ("hand over", "hand over to new code")


What: TypeAlias = Literal[
    "start",
    "poison",
    "letter",
    "garbage",
    "wish",
    "cancel",
    "terminate",
    "query",
    "look",
    "list",
    "result",
    "approve",
    "answer",
    "subscribe",
    "pause",
    "resume",
    "reset",
    "fork",
    "read",
    "drain",
    "rewind",
    "savepoint",
]
"""`wish` is an update, `answer` one by token. A pause, or its end, without a workflow id is that of
the workflow `text`, or of everything. `poison` starts what nobody can decode; `garbage`
is a letter that nobody can. `read` starts a flow."""


@dataclass(frozen=True, slots=True)
class Mishap:
    at_s: float
    kind: MishapKind
    length_s: float
    amount: float
    """-1 to 1: how far a clock is set, and the like."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One thing that a client does, `after_s` behind the one before."""

    after_s: float
    what: What
    workflow_id: str
    text: str = ""
    """What a letter says; the request id of a start that has one."""
    if_open: Literal["use", "fail", "terminate"] = "use"
    if_closed: Literal["allow", "fail", "allow_failed"] = "allow"
    named: bool = True
    """Whether it has a request id, so that it may be repeated."""


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    store: Literal["sqlite", "memory"]
    workers: int
    clients: int
    slots: int
    cache_size: int
    checkpoint_events: int
    steal: bool
    """Whether a stopped owner's lock may be given away, so that it comes back as a zombie."""
    skew_s: float
    """How far the clocks of two processes may differ, each way."""
    fresh: bool
    """Whether healing begins with new processes; else those that live go on."""
    rates: Rates
    programs: dict[str, Program]
    errands: tuple[tuple[Errand, ...], ...]
    """One sender each. The first of a process that also has a worker goes straight to it."""
    mishaps: tuple[Mishap, ...]
    bombs: frozenset[str] = field(default=frozenset())
    mistakes: frozenset[str] = field(default=frozenset())
    features: tuple[Feature, ...] = ()
    versioning: Versioning | None = None
    """What becomes of runs when the code changes; None if workers have no versions."""
    hurry: bool = False
    """Whether executions may end with two things that happen at once."""
    batch: int = 100
    """How many runs are claimed at a time, or judged whose worker is dead."""
    queues: bool = False
    """Whether some activities go through a task queue, from which another worker takes."""
    at_once: int | None = None
    """How many of them the queue lets through at once."""
    at_once_of_key: int | None = None
    """And how many of each key, of which there are two."""
    in_a_second: int | None = None
    """And how many may begin in a second."""
    turns: int | None = None
    """How many executions that wait for no others are under way at once, by the limit of a pool."""
    flows: tuple[Flow, ...] = ()
    """What reads streams."""
    helps: bool = False
    """Whether that other worker takes from all queues: what finds no slot is offered to it."""

    def options(self) -> str:
        """The swarm options, for people."""
        rates = " ".join(
            f"{one.name}={getattr(self.rates, one.name):.3f}"
            for one in fields(self.rates)
            if getattr(self.rates, one.name)
        )
        kinds = sorted({one.kind for one in self.mishaps})
        return (
            f"store={self.store} workers={self.workers} clients={self.clients} slots={self.slots} "
            f"cache={self.cache_size} batch={self.batch} checkpoint={self.checkpoint_events} "
            f"steal={self.steal} skew={self.skew_s} fresh={self.fresh} "
            f"features={','.join(self.features) or 'none'} hurry={self.hurry} "
            f"versioning={self.versioning or 'none'} queues={self.queues} "
            f"at_once={self.at_once}/{self.at_once_of_key} in_a_second={self.in_a_second} "
            f"turns={self.turns} helps={self.helps} "
            f"flows={','.join(one.stream for one in self.flows) or 'none'} "
            f"bombs={len(self.bombs)} mistakes={len(self.mistakes)} rates[{rates}] "
            f"mishaps[{len(self.mishaps)}: {', '.join(kinds)}]"
        )


def draw(seed: int, store: Literal["sqlite", "memory"] | None = None) -> Plan:
    """The plan of a seed."""
    shape = _chance(seed, "shape")
    count = 2 + shape.randrange(5)
    names = [f"w{n}" for n in range(count)]
    bombs = frozenset(names[:1]) if shape.random() < 0.08 else frozenset[str]()
    mistakes = frozenset(names[-1:]) if shape.random() < 0.15 else frozenset[str]()
    work = _chance(seed, "work")
    programs = {
        name: random_program(work, name, bomb=name in bombs, mistake=name in mistakes)
        for name in names
    }
    features = _features(_chance(seed, "features"))
    for name in names if features else ():
        more = _chance(seed, f"features of {name}")
        programs[name] = grown(programs[name], more, name, features, names)
    hurry = _chance(seed, "hurry").random() < 0.25
    for name in names if hurry else ():
        more = _chance(seed, f"hurry of {name}")
        if more.random() < 0.6:
            programs[name] = in_a_hurry(programs[name], more, name)
    rivals = _chance(seed, "rivals")
    for name in names if rivals.random() < 0.3 else ():
        if rivals.random() < 0.6:
            programs[name] = with_rivals(programs[name], name)
    for name in names if "outputs" in features else ():
        more = _chance(seed, f"last words of {name}")
        if more.random() < 0.6:
            programs[name] = with_last_words(programs[name], more, name)
    brief = _brief(_chance(seed, "brief"), names)
    if brief is not None:
        programs[brief] = ()
    workers = shape.choice((1, 1, 2))
    clients = shape.choice((0, 1, 1, 2))
    senders = max(clients, 1) + shape.randrange(2)
    steal = shape.random() < 0.4
    mishaps = _mishaps(_chance(seed, "mishaps"))
    versioned = _chance(seed, "versions")
    versioning = versioned.choice(_VERSIONING) if versioned.random() < 0.3 else None
    if versioning:
        mishaps = tuple(sorted((*mishaps, *_hand_overs(versioned)), key=lambda one: one.at_s))
    changes = any(one.kind in ("change code", "hand over to new code") for one in mishaps)
    needs_new_code = bombs or mistakes or changes
    later = _chance(seed, "later")
    limits = _chance(seed, "limits of queues")
    turns = _chance(seed, "turns")
    kind = store or ("memory" if _chance(seed, "store").random() < 0.25 else "sqlite")
    flows = random_flows(_chance(seed, "flows"), sinks=kind == "sqlite")
    slots = shape.choice((1, 2, 200))
    return Plan(
        seed=seed,
        store=kind,
        workers=workers,
        clients=clients,
        slots=200 if flows else slots,  # A flow that waits for a message has one.
        cache_size=shape.choice((0, 1, 2, 1000, 1000)),
        checkpoint_events=shape.choice((0, 4, 12, 1000)),
        steal=steal,
        skew_s=later.choice((0.0, 0.0, 0.3, 5.0)),
        fresh=bool(needs_new_code) or steal or later.random() < 0.4,
        rates=_rates(_chance(seed, "rates")),
        programs=programs,
        errands=tuple(
            _with_flows(
                seed, flows, n, _all_errands(seed, names, n, features, hurry=hurry, brief=brief)
            )
            for n in range(senders)
        ),
        mishaps=mishaps,
        bombs=bombs,
        mistakes=mistakes,
        features=features,
        versioning=versioning,
        hurry=hurry,
        batch=_chance(seed, "batch").choice((1, 2, 100, 100)),
        queues=_chance(seed, "queues").random() < 0.35,
        at_once=limits.choice((None, None, 1, 2)),
        at_once_of_key=limits.choice((None, None, 1)),
        in_a_second=limits.choice((None, None, None, 1, 5)),
        helps=limits.random() < 0.5,
        turns=turns.choice((1, 2)) if turns.random() < 0.3 else None,
        flows=flows,
    )


def _with_flows(
    seed: int, flows: tuple[Flow, ...], sender: int, errands: tuple[Errand, ...]
) -> tuple[Errand, ...]:
    """With a beginning at which a sender starts its flows, and visits to all of them behind it."""
    made = list(errands)
    chance = _chance(seed, f"flows of {sender}")
    for flow in flows:
        at = 0
        if int(flow.name[1:]) % 2 == sender % 2 or sender == 0:
            named = chance.random() < 0.7
            made.insert(0, Errand(0.0, "read", flow.name, f"r{sender}-{flow.name}", named=named))
        for number, (after_s, what) in enumerate(flow_visits(chance, flow)):
            at = min(at + 1 + chance.randrange(3), len(made))
            text = f"{what} {sender}:{number}" + ("" if what in ("reset", "fork") else flow.name)
            made.insert(at, Errand(after_s, what, flow.name, text, named=chance.random() < 0.7))
    return tuple(made)


def _brief(chance: Random, names: list[str]) -> str | None:
    """The one that is over with its first drive, so that nobody else ever sees it open."""
    return chance.choice(names) if chance.random() < 0.15 else None


def _features(chance: Random) -> tuple[Feature, ...]:
    if chance.random() < 0.3:
        return ()
    return tuple(feature for feature in FEATURES if chance.random() < 0.4)


def _chance(seed: int, part: str) -> Random:
    return Random(f"{seed}/{part}")


def _rates(chance: Random) -> Rates:
    def rate(most: float) -> float:
        return 0.0 if chance.random() < 0.45 else most * chance.random() ** 2

    return Rates(
        lost_before=rate(0.1),
        lost_behind=rate(0.1),
        twice=rate(0.1),
        torn=rate(0.1),
        late=rate(0.1),
        full=0.0,
        broken=rate(0.004),
        dies=rate(0.03),
    )


def _mishaps(chance: Random) -> tuple[Mishap, ...]:
    kinds: list[MishapKind] = [kind for kind in MISHAPS if chance.random() < 0.6]
    if not kinds:
        return ()
    made = [
        Mishap(
            at_s=round(chance.random() * FAULT_S, 3),
            kind=chance.choice(kinds),
            length_s=round(0.2 + 8 * chance.random() ** 2, 3),
            amount=round(2 * chance.random() - 1, 3),
        )
        for _ in range(chance.randrange(9))
    ]
    return tuple(sorted(made, key=lambda one: one.at_s))


def _hand_overs(chance: Random) -> list[Mishap]:
    return [
        Mishap(
            at_s=round(chance.random() * FAULT_S, 3),
            kind=chance.choice(HAND_OVERS),
            length_s=0.0,
            amount=round(2 * chance.random() - 1, 3),
        )
        for _ in range(chance.randrange(4))
    ]


def _all_errands(
    seed: int,
    names: list[str],
    sender: int,
    features: tuple[Feature, ...],
    *,
    hurry: bool,
    brief: str | None,
) -> tuple[Errand, ...]:
    made = list(_errands(_chance(seed, f"sender {sender}"), names, sender))
    if brief is not None:  # At once, as the other senders do, and without a request id.
        made[:0] = [Errand(0.0, "start", brief, named=False)] * 4
    if _chance(seed, "wishes").random() < 0.5:
        chance = _chance(seed, f"wishes of {sender}")
        for number in range(chance.randrange(6)):
            text = f"{chance.choice(('', '', '', 'no'))}{sender}:{number}"
            after_s = chance.choice((0.0, 0.0, 0.2, 1.0))
            wish = Errand(after_s, "wish", chance.choice(names), text)
            made.insert(1 + chance.randrange(len(made)), wish)
    if _chance(seed, "resets").random() < 0.25:
        known = [*names, *KIDS] if "children" in features else names
        _insert_resets(_chance(seed, f"resets of {sender}"), made, known, sender)
    if _chance(seed, "pauses").random() < 0.25:
        _insert_pauses(_chance(seed, f"pauses of {sender}"), made, names, sender)
    if hurry:  # Two letters at a time.
        chance = _chance(seed, f"hurry of {sender}")
        for number in range(chance.randrange(3)):
            name, at = chance.choice(names), 1 + chance.randrange(len(made))
            pair = [Errand(0.0, "letter", name, f"{sender}!{number}.{n}") for n in range(2)]
            made[at:at] = pair
    if "outputs" in features:
        chance = _chance(seed, f"followers of {sender}")
        made += [
            Errand(0.0, "subscribe", name, chance.choice(CHANNELS))
            for name in chance.sample(names, 2)
        ]
    for feature in features:
        chance = _chance(seed, f"{feature} of {sender}")
        for number in range(1 + chance.randrange(4)):
            errand = _errand_of(feature, chance, names, f"{feature}{sender}:{number}")
            made.insert(1 + chance.randrange(len(made)), errand)
    return tuple(made)


def _insert_resets(chance: Random, made: list[Errand], names: list[str], sender: int) -> None:
    """Some of them have letters and wishes close before and behind them."""
    for number in range(1 + chance.randrange(3)):
        name = chance.choice(names)
        what: What = "fork" if chance.random() < 0.25 else "reset"
        after_s = chance.choice((0.0, 0.0, 0.1, 1.0, 3.0))
        named = chance.random() < 0.7
        about = [Errand(after_s, what, name, f"{what} {sender}:{number}", named=named)]
        for n in range(chance.choice((0, 0, 1, 2))):
            kind: What = "wish" if chance.random() < 0.3 else "letter"
            letter = Errand(0.0, kind, name, f"{sender}~{number}.{n}", named=chance.random() < 0.7)
            about.insert(chance.randrange(len(about) + 1), letter)
        at = 1 + chance.randrange(len(made))
        made[at:at] = about


def program_name(workflow_id: str) -> str:
    """The workflow id whose program an execution carries out: a fork has that of another."""
    return workflow_id.partition("~")[0]


def _insert_pauses(chance: Random, made: list[Errand], names: list[str], sender: int) -> None:
    """Each with its end some errands later. Held is one execution, all of the type, or all."""
    for number in range(1 + chance.randrange(3)):
        name, kind = chance.choice([(one, "") for one in names] + [("", TYPE), ("", "")])
        request = f"{kind}/{sender}:{number}"
        named = chance.random() < 0.7
        at = 1 + chance.randrange(len(made))
        made.insert(at, Errand(chance.choice((0.0, 0.2, 1.0)), "pause", name, request, named=named))
        behind = min(at + 1 + chance.randrange(3), len(made))
        after_s = chance.choice((0.0, 0.5, 3.0))
        made.insert(behind, Errand(after_s, "resume", name, request, named=named))


def _errand_of(feature: Feature, chance: Random, names: list[str], text: str) -> Errand:
    after_s = chance.choice((0.0, 0.2, 1.0, 4.0))
    match feature:
        case "children":
            kinds: tuple[What, ...] = ("letter", "cancel", "terminate", "result")
            return Errand(after_s, chance.choice(kinds), chance.choice(KIDS), text)
        case "approvals":
            return Errand(after_s, "approve", "", text, named=chance.random() < 0.7)
        case "tokens":
            return Errand(after_s, "answer", "", text, named=chance.random() < 0.7)
        case "outputs":
            return Errand(after_s, "subscribe", chance.choice(names), chance.choice(CHANNELS))
        case "on_cancel":
            kinds = ("cancel", "letter", "letter")
            return Errand(after_s, chance.choice(kinds), chance.choice(names), text)


def _errands(chance: Random, names: list[str], sender: int) -> tuple[Errand, ...]:
    """A sender starts some executions first, then writes to any of them."""
    mine = [name for n, name in enumerate(names) if n % 2 == sender % 2] or names
    made = [_start(chance, name, f"s{sender}-{name}") for name in mine]
    for number in range(3 + chance.randrange(8)):
        name = chance.choice(names)
        after_s = chance.choice((0.0, 0.0, 0.1, 0.5, 2.0, 4.0))
        draw = chance.random()
        if draw < 0.5:
            text = f"{sender}:{number}"
            what: What = "garbage" if chance.random() < 0.06 else "letter"
            made.append(Errand(after_s, what, name, text, named=chance.random() < 0.7))
        elif draw < 0.6:
            made.append(Errand(after_s, "cancel", name, f"c{sender}:{number}"))
        elif draw < 0.65:
            made.append(Errand(after_s, "terminate", name))
        elif draw < 0.75:
            made.append(Errand(after_s, "query", name))
        elif draw < 0.8:
            made.append(Errand(after_s, "look", name))
        elif draw < 0.82:
            made.append(Errand(after_s, "list", name))
        elif draw < 0.835:
            made.append(Errand(after_s, "poison", f"{POISON}{sender}", f"p{sender}:{number}"))
        elif draw < 0.93:
            made.append(_start(chance, name, f"a{sender}:{number}"))
        else:
            made.append(Errand(after_s, "result", name))
    return tuple(made)


def _start(chance: Random, name: str, request: str) -> Errand:
    return Errand(
        chance.choice((0.0, 0.0, 0.3, 1.0)),
        "start",
        name,
        request,
        if_open=chance.choices(("use", "fail", "terminate"), (6, 2, 1))[0],
        if_closed=chance.choices(("allow", "fail", "allow_failed"), (4, 2, 2))[0],
        named=chance.random() < 0.7,
    )
