"""What flows have read: each batch that the store accepted, held against what lies at the broker.

A batch that is on record is one that the loop has got. So each read must begin where the one before
it has led, or where somebody had it go back to, also over checkpoints, resets and takeovers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from everlong.streams._names import activity_of, control_of
from everlong_engine import unpack
from everlong_engine.model.events import (
    ActivityCompleted,
    ActivityScheduled,
    Event,
    RunCompleted,
    RunStarted,
    SignalReceived,
)
from tests.simulation.flows import Flow
from tests.simulation.language import letters
from tests.simulation.reading import STREAMS

if TYPE_CHECKING:
    from tests.simulation.broker import Broker
    from tests.simulation.journal import Journal, RunBook

__all__ = ["Account", "Readings"]

_READS: Final = activity_of("")


@dataclass(slots=True)
class Account:
    """One execution's reading, as its history tells it."""

    after: dict[str, Any] = field(default_factory=dict[str, Any])
    """The position behind what was taken."""
    taken: list[tuple[str, Any, int | None]] = field(
        default_factory=list[tuple[str, Any, int | None]]
    )
    """(partition, position, value) of what the loop got, in order; None of a dead letter."""
    was_moved: bool = False
    """Whether somebody had it read something again."""
    _moves: list[Any] = field(default_factory=list[Any])
    """Rewinds that were asked for."""

    def follow(self, run: int, events: Sequence[Event], stream: str) -> str | None:
        """Go through one run; what is wrong with it."""
        reads: set[int] = set()
        for event in events:
            match event:
                case RunStarted():
                    stored = dict(event.cursors).get(stream)
                    wire: Any = None if stored is None else unpack(stored)
                    there = {} if wire is None else dict(wire[1])
                    if not self._stands_at(there):
                        return f"run {run} begins at {there}, and {self.after} was read"
                case ActivityScheduled() if event.activity == f"{_READS}{stream}":
                    reads.add(event.activity_id)
                    there = _behind(event, stream)
                    if not self._stands_at(there):
                        return f"run {run} reads behind {there}, and {self.after} was read"
                case ActivityCompleted() if event.activity_id in reads:
                    self._take(unpack(event.result))
                case SignalReceived() if event.signal == control_of(stream):
                    told: Any = unpack(event.payload)
                    if told["do"] == "rewind":
                        self._moves.append(told["named"])
                case _:
                    pass
        return None

    def _take(self, found: Any) -> None:
        _, positions, good, dead, *_ = found
        records = [(*one[:2], int(one[2])) for one in good]
        self.taken += records + [(*one[:2], None) for one, *_ in dead]
        self.after = dict(positions)

    def _stands_at(self, there: dict[str, Any]) -> bool:
        """Whether it is there that it was led to, by what it has read or by who had it go back."""
        if there == self.after:
            return True
        for at, named in enumerate(self._moves):
            moved = {**self.after, **named}
            if {one: place for one, place in moved.items() if place is not None} == there:
                del self._moves[: at + 1]
                self.after, self.was_moved = there, True
                return True
        return False


def _behind(event: ActivityScheduled, stream: str) -> dict[str, Any]:
    """The positions behind which a read is to begin."""
    args, kwargs = STREAMS[stream].definition.parameters.decode(event.arguments)
    after = (*args, *kwargs.values())[0]
    return {} if after is None else dict(after[1])


class Readings:
    """Of all flows of a world."""

    def __init__(self, journal: "Journal", reached: Callable[[str], None]) -> None:
        self._journal = journal
        self._must = journal.must
        self._reached = reached
        self.recorded: defaultdict[str, set[int]] = defaultdict(set)
        """Numbers of the messages in batches that were accepted, whoever read them, by stream."""
        self.broker_of: Callable[[str], Broker]

    # ------------------------------------------------------------------------------ as it comes

    def recorded_one(self, book: "RunBook", event: Event) -> None:
        """An event was accepted."""
        if not isinstance(event, ActivityCompleted):
            return
        scheduled = book.scheduled.get(event.activity_id)
        if scheduled is not None and scheduled.activity.startswith(_READS):
            stream = scheduled.activity.removeprefix(_READS)
            self._batch(book, stream, _behind(scheduled, stream), unpack(event.result))

    def _batch(self, book: "RunBook", stream: str, behind: dict[str, Any], found: Any) -> None:
        """It holds what follows at the broker, and nothing else; the position is its last."""
        _, positions, good, dead, *_ = found
        broker, name = self.broker_of(stream), f"{book.workflow_id}: a batch of {stream}"
        records = [*good, *(one for one, *_ in dead)]
        self._reached("stream: batch recorded")
        if dead:
            self._reached("stream: dead letter recorded")
        self._must(0 < len(records) <= broker.flow.max_messages, f"{name} has {len(records)}")
        again = {broker.number_at(*one[:2]) for one in records} & self.recorded[stream]
        if again:
            self._reached("stream: batch of what was read before")
        self.recorded[stream] |= {broker.number_at(*one[:2]) for one in records}
        for partition, position, value, *_ in records:
            right = broker.value_at(partition, position) == value
            self._must(right, f"{name}: at {partition}/{position} there is no {value!r}")
        if broker.flow.forgets:
            counted = {"0": behind.get("0", 0) + len(records)}
            self._must(positions == counted, f"{name} leads from {behind} to {positions}")
            return
        at = dict(behind)
        for partition in sorted({one[0] for one in records}):
            mine = sorted(one[1] for one in records if one[0] == partition)
            first = at.get(partition, -1) + 1
            right = mine == list(range(first, first + len(mine)))
            self._must(right, f"{name} has {mine} of {partition} behind {first - 1}")
            in_order = [one[1] for one in good if one[0] == partition]
            self._must(in_order == sorted(in_order), f"{name} has {partition} as {in_order}")
            at[partition] = mine[-1]
        self._must(positions == at, f"{name} ends at {at}, and its position is {positions}")

    # -------------------------------------------------------------------------------- in the end

    def account(self, book: "RunBook", flow: Flow) -> Account:
        """What an execution has read, from its last run and those that it goes on with."""
        account, name = Account(), book.workflow_id
        for number, run in enumerate(self._journal.lineage.chain(book)):
            problem = account.follow(number, [event for _, event in run.events], flow.stream)
            if problem is not None:
                self._must(False, f"{name}: {problem}")
                break
        return account

    def has_all(self, book: "RunBook", flow: Flow) -> bool:
        """Whether everything that lies at its broker is on record for it."""
        account = self.account(book, flow)
        return len({one[:2] for one in account.taken}) == self.broker_of(flow.stream).put

    def look_at(self, book: "RunBook", flow: Flow, result: Any, rows: list[Any] | None) -> None:
        """An execution that has ended as asked: each message came once, in its order.

        Args:
            result: what it has returned; None if it was ended otherwise.
            rows: what is in the sink of its rows, if it has one.
        """
        account, name, must = self.account(book, flow), book.workflow_id, self._must
        times = Counter(one[:2] for one in account.taken)
        if account.was_moved:
            self._reached("stream: read again behind a rewind")
        else:
            several = [place for place, count in times.items() if count > 1]
            must(not several, f"{name}: {several} came more than once")
        if not flow.forgets and not account.was_moved:
            for partition in {one[0] for one in account.taken}:
                mine = [one[1] for one in account.taken if one[0] == partition]
                must(sorted(mine) == list(range(len(mine))), f"{name}: of {partition} came {mine}")
        values = [value for _, _, value in account.taken if value is not None]
        if rows is not None:
            stored, read = Counter(value for _, value in rows), Counter(values)
            # What was read last may not be stored yet, where its end was not asked for.
            right = stored == read if result is not None else stored <= read
            must(right, f"{name}: rows of {sorted(stored.elements())}, and {values} was read")
            self._reached("stream: rows beside batches")
        if result is None:
            return
        seen, heard, ticks = result
        must(seen == values, f"{name}: it has seen {seen}, and {values} is recorded")
        told = [
            unpack(event.payload)
            for run in self._journal.lineage.chain(book)
            for _, event in run.events
            if isinstance(event, SignalReceived) and event.signal == letters.name
        ]
        must(heard == told[: len(heard)], f"{name}: it has heard {heard}, and {told} is recorded")
        self._count(book, heard, ticks)

    def _count(self, book: "RunBook", heard: list[str], ticks: int) -> None:
        chain = self._journal.lineage.chain(book)
        self._reached("stream: drained")
        if heard:
            self._reached("stream: letters in the loop")
        if ticks:
            self._reached("stream: ticks in the loop")
        if len(chain) > 1:
            self._reached("stream: begun anew")
        if any(run.repeats is not None for run in chain):
            self._reached("stream: read on behind a reset or as a fork")
        assert isinstance(book.closing, RunCompleted)
