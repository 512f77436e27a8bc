"""What most groups hold, in one statement: one round trip, however many runs it is about.

Each kind of write has its function in the schema (`schema_0003.sql`), and the statement of a group
calls those that it needs. What a function does not do, because there is something to judge, is left
as it is: whoever called decides it with the statements of a transaction. So nothing is refused
here, and there is one place that knows why something is.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import count
from operator import attrgetter
from typing import Any, Final, TypeAlias

from asyncpg import exceptions as pg
from msgspec import Struct
from msgspec.structs import fields

from everlong_engine.model.codec import Blobs, checksum
from everlong_engine.model.events import CODES, CancelRequested
from everlong_engine.model.limits import ATTEMPTS_KEPT
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import (
    Append,
    MarkAttempts,
    Message,
    MessageResult,
    Release,
    StartResult,
    StartRun,
    Write,
    WriteResult,
)
from everlong_engine.store.postgres.appends import (
    ACCEPTED,
    Chain,
    chains_of,
    history_values,
    item_values,
)
from everlong_engine.store.postgres.leases import attempt_values
from everlong_engine.store.postgres.starts import has_conditions, name_lock, start_values
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import tag_values

__all__ = ["OneTrip"]

_CANCEL_REQUESTED: Final = CODES[CancelRequested]
_MAIL_IS_GONE: Final = "EV001"

_Columns: TypeAlias = list[Sequence[Any]]
_Call: TypeAlias = tuple[str, _Columns, _Columns]
"""A function, its arrays, and those of what comes along with what it does."""


class OneTrip:
    """The part of a group that can be done at once."""

    def __init__(self, writes: Sequence[Write]) -> None:
        self._starts: list[tuple[int, StartRun]] = []
        self._marks: list[tuple[int, MarkAttempts]] = []
        self._messages: list[tuple[int, Message]] = []
        self._sleepers: list[tuple[int, Release]] = []
        appends: Chain = []
        names: set[tuple[str, str]] = set()
        attempts: set[tuple[bytes, int, int]] = set()
        judged: set[bytes] = set()
        released: set[bytes] = set()
        behind: set[Target] = set()
        for at, write in enumerate(writes):
            match write:
                case Append() if not _append_says_more(write):
                    appends.append((at, write))
                case StartRun() if _begins_plainly(write):
                    name = (write.run.namespace, write.run.workflow_id)
                    if name not in names:  # The next of that name is judged behind it.
                        names.add(name)
                        self._starts.append((at, write))
                case MarkAttempts():
                    rows = {(write.run_id, one.activity_id, one.attempt) for one in write.attempts}
                    again = len(rows) < len(write.attempts) or not rows.isdisjoint(attempts)
                    if again or write.run_id in judged or not _marks_plainly(write):
                        judged.add(write.run_id)  # And so are those behind it: its word comes last.
                    else:
                        attempts |= rows
                        self._marks.append((at, write))
                case Message() if write.blobs or write.target in behind:
                    behind.add(write.target)  # And so are those behind it, in their order.
                case Message():
                    self._messages.append((at, write))
                case Release():
                    if _falls_asleep(write) and write.run_id not in released:
                        self._sleepers.append((at, write))
                    released.add(write.run_id)
                case _:
                    pass
        self._chains = [chain for chain in chains_of(appends)[0] if _looks_last(chain)]
        self._chains.sort(key=lambda chain: (chain[0][1].shard, chain[0][1].run_id))
        self._sleepers = [one for one in self._sleepers if one[1].run_id not in judged]

    async def go(self, tx: Tx, results: list[WriteResult]) -> set[int]:
        """Do it; which of the writes were done, by their places in the group."""
        calls = self._calls()
        if not calls:
            return set()
        widths = tuple((name, len(columns), len(more)) for name, columns, more in calls)
        values = [value for _, columns, more in calls for value in (*columns, *more)]
        try:
            (row,) = await tx.text(_statement(widths), values)
        except pg.PostgresError as error:
            if error.sqlstate == _MAIL_IS_GONE:  # Nothing was done; whose it is, is judged.
                return set()
            raise
        return self._hand_out(row, results)

    def _calls(self) -> list[_Call]:
        calls: list[_Call] = []
        locks = self._locks()
        if locks:
            calls.append(("lock_together", locks, []))
        if self._starts:
            calls.append(("begin_together", *_beginnings([start for _, start in self._starts])))
        if self._chains:
            calls.append(("append_together", *_appends(self._chains)))
        if self._marks:
            calls.append(("mark_together", _attempts([mark for _, mark in self._marks]), []))
        if self._messages:
            calls.append(("tell_together", _letters([letter for _, letter in self._messages]), []))
        if self._sleepers:
            calls.append(("sleep_together", _sleepers([one for _, one in self._sleepers]), []))
        return calls

    def _locks(self) -> _Columns:
        """None, if nothing is looked at that hangs on a run."""
        leaving = any(one.mail_free or one.closed for chain in self._chains for _, one in chain)
        if not (leaving or self._marks or self._messages or self._sleepers):
            return []
        runs = {(chain[0][1].shard, chain[0][1].run_id) for chain in self._chains}
        runs.update((mark.shard, mark.run_id) for _, mark in self._marks)
        runs.update((one.shard, one.run_id) for _, one in self._sleepers)
        targets = {
            (one.target.shard, one.target.namespace, one.target.workflow_id)
            for _, one in self._messages
        }
        return [*_columns(2, runs), *_columns(3, targets)]

    def _hand_out(self, row: Any, results: list[WriteResult]) -> set[int]:
        done: set[int] = set()
        for (at, start), begun in zip(self._starts, _of(row, "begin_together"), strict=True):
            if begun:
                run = start.run
                results[at] = StartResult(True, run.run_id, run.execution_id, RunStatus.RUNNING)
                done.add(at)
        for chain, appended in zip(self._chains, _of(row, "append_together"), strict=True):
            if appended:
                for at, _ in chain:
                    results[at] = ACCEPTED
                    done.add(at)
        for (at, _), marked in (
            *zip(self._marks, _of(row, "mark_together"), strict=True),
            *zip(self._sleepers, _of(row, "sleep_together"), strict=True),
        ):
            if marked:
                results[at] = ACCEPTED
                done.add(at)
        told = zip(*_of(row, "tell_together"), strict=True)
        for (at, _), one in zip(self._messages, told, strict=True):
            status, run_id, execution_id, owner, place = one
            if place is not None:
                status = RunStatus(status)
                results[at] = MessageResult(status, run_id, execution_id, owner, place)
                done.add(at)
        return done


def _of(row: Any, name: str) -> Any:
    """What a function has said; nothing, if it was not called."""
    return row.get(name) or ()


@cache
def _statement(calls: tuple[tuple[str, int, int], ...]) -> str:
    """The functions are called in their order: each sees what those before it did."""
    numbers = count(1)
    texts: list[str] = []
    for name, width, more in calls:
        text = f"everlong.{name}({_places(numbers, width)})"
        if more:
            text = f"everlong.attach_together({text}, {_places(numbers, more)})"
        texts.append(f"{text} AS {name}")
    return f"SELECT {', '.join(texts)}"


def _places(numbers: "count[int]", width: int) -> str:
    return ", ".join(f"${next(numbers)}" for _ in range(width))


# --------------------------------------------------------------------------- what can be done here


def _says_more(kind: type[Struct], *handled: str) -> Callable[[Any], bool]:
    """Whether a write says anything beside what is done here. Nobody does a field that is new."""
    others = [one for one in fields(kind) if one.name not in handled]
    look = attrgetter(*(one.name for one in others))
    nothing = tuple(one.default for one in others)
    silent: object = nothing if len(others) > 1 else nothing[0]
    return lambda write: look(write) != silent


_append_says_more: Final = _says_more(
    Append,
    *("shard", "run_id", "execution_id", "token", "base", "rows", "append_id", "consumed"),
    *("mail_free", "closed", "closed_us", "blobs", "healthy", "answers", "items", "trims"),
)
_start_says_more: Final = _says_more(
    StartRun,
    *("run", "if_open", "if_closed", "kind", "body", "owner", "first", "blobs", "wake_us"),
)
_mark_says_more: Final = _says_more(
    MarkAttempts, "shard", "run_id", "token", "attempts", "begins", "blobs"
)
_release_says_more: Final = _says_more(
    Release,
    *("shard", "run_id", "execution_id", "token", "base", "wake_us", "reason", "blobs"),
    "waits_with",
)


def _begins_plainly(start: StartRun) -> bool:
    first = start.first
    if _start_says_more(start):
        return False
    return first is None or not (_append_says_more(first) or first.answers)


def _marks_plainly(mark: MarkAttempts) -> bool:
    kept = all(one.attempt <= ATTEMPTS_KEPT for one in mark.attempts)
    return kept and not _mark_says_more(mark)


def _falls_asleep(release: Release) -> bool:
    return not _release_says_more(release) and release.wake_us != 0


def _looks_last(chain: Chain) -> bool:
    """What a leaving append must not leave behind is what no append up to it has fed."""
    fed_behind = False
    for _, append in reversed(chain):
        if append.mail_free and fed_behind:
            return False
        fed_behind = fed_behind or bool(append.consumed)
    return True


# ------------------------------------------------------------------------------------- their arrays


def _columns(width: int, rows: Iterable[tuple[Any, ...]]) -> _Columns:
    found: _Columns = list(zip(*rows, strict=True))
    return found or [()] * width


class _Attached:
    """What starts or appends bring along."""

    def __init__(self) -> None:
        self.blobs: list[tuple[Any, ...]] = []
        self.answers: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.items: list[tuple[Any, ...]] = []
        self.trims: list[tuple[Any, ...]] = []
        self.tags: list[tuple[Any, ...]] = []

    def add(self, of: int, append: Append) -> None:
        shard, execution_id = append.shard, append.execution_id
        self.add_blobs(of, shard, append.run_id, append.blobs)
        for name, answer in append.answers:
            self.answers[of, name] = (of, shard, execution_id, name, answer)
        if append.items:
            self.items += [(of, *item) for item in item_values(append)]
            self.trims += [(of, shard, execution_id, *trim) for trim in append.trims]

    def add_blobs(self, of: int, shard: int, owner_id: bytes, blobs: Blobs | None) -> None:
        if blobs:
            self.blobs += [(of, shard, owner_id, *blob) for blob in blobs.items()]

    def columns(self) -> _Columns:
        """None at all, where there is nothing: then nobody is called for it."""
        if not (self.blobs or self.answers or self.items or self.tags):
            return []
        return [
            *_columns(5, self.blobs),
            *_columns(5, self.answers.values()),
            *_columns(8, self.items),
            *_columns(6, self.trims),
            *_columns(8, self.tags),
        ]


def _beginnings(starts: Iterable[StartRun]) -> tuple[_Columns, _Columns]:
    names: set[int] = set()
    runs: list[tuple[Any, ...]] = []
    mail: list[tuple[Any, ...]] = []
    history: list[tuple[Any, ...]] = []
    more = _Attached()
    for of, start in enumerate(starts, 1):
        run = start.run
        alone = has_conditions(start)
        if alone:
            names.add(name_lock(run))
        runs.append((alone, *start_values(start, RunStatus.RUNNING)))
        if run.tags:
            more.tags += [(of, *values) for values in tag_values(run, run.tags)]
        if start.first is not None:
            history += [(of, *values) for values in history_values(start.first)]
            more.add(of, start.first)
        else:
            check = checksum(0, start.kind, start.body)
            mail.append((of, run.shard, run.execution_id, start.kind, start.body, check))
            more.add_blobs(of, run.shard, run.execution_id, start.blobs)
    columns = [sorted(names), *_columns(17, runs), *_columns(6, mail), *_columns(9, history)]
    return columns, more.columns()


def _appends(chains: Iterable[Chain]) -> tuple[_Columns, _Columns]:
    rows: list[tuple[Any, ...]] = []
    fed: list[tuple[Any, ...]] = []
    history: list[tuple[Any, ...]] = []
    more = _Attached()
    for of, chain in enumerate(chains, 1):
        first, last = chain[0][1], chain[-1][1]
        rows.append(
            (
                first.shard,
                first.run_id,
                first.execution_id,
                first.token,
                first.base,
                last.base + len(last.rows),
                any(append.healthy for _, append in chain),
                any(append.mail_free for _, append in chain),
                None if last.closed is None else int(last.closed),
                last.closed_us,
            )
        )
        for _, append in chain:
            history += [(of, *values) for values in history_values(append)]
            key = (of, append.shard, append.execution_id)
            fed += [(*key, position) for position in append.consumed]
            more.add(of, append)
    return [*_columns(10, rows), *_columns(4, fed), *_columns(9, history)], more.columns()


def _attempts(marks: Iterable[MarkAttempts]) -> _Columns:
    rows: list[tuple[Any, ...]] = []
    attempts: list[tuple[Any, ...]] = []
    for of, mark in enumerate(marks, 1):
        rows.append((mark.shard, mark.run_id, mark.token, mark.begins))
        attempts += [(of, *attempt_values(mark.shard, mark.run_id, one)) for one in mark.attempts]
    return [*_columns(4, rows), *_columns(14, attempts)]


def _letters(messages: Iterable[Message]) -> _Columns:
    return _columns(
        12,
        [
            (
                one.target.shard,
                one.target.namespace,
                one.target.workflow_id,
                one.target.execution_id,
                one.kind,
                one.body,
                checksum(0, one.kind, one.body),
                one.now_us,
                one.kind == _CANCEL_REQUESTED,
                one.request_id,
                None if one.sent is None else one.sent.name,
                None if one.sent is None else one.sent.mark,
            )
            for one in messages
        ],
    )


def _sleepers(releases: Iterable[Release]) -> _Columns:
    return _columns(
        7,
        [
            (
                one.shard,
                one.run_id,
                one.execution_id,
                one.token,
                one.base,
                one.wake_us,
                one.waits_with,
            )
            for one in releases
        ],
    )
