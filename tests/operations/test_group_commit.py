"""Group commit: company never costs anybody their own result.

The store beneath is real. `Faulty` stands before it and fails whole submissions as SQLite does: an
error that rolled everything back, at a call of the test's choice or whenever a chosen write is in
the group.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from everlong_engine.model.errors import StoreError, StoreFailed, StoreFull
from everlong_engine.model.events import RunCompleted
from everlong_engine.model.limits import GROUP_APPENDS_MAX
from everlong_engine.model.writes import (
    AppendResult,
    Ask,
    MessageResult,
    Refusal,
    Resume,
    StartResult,
    Write,
    WriteResult,
)
from everlong_engine.operations.group_commit import GroupCommit
from everlong_engine.store.interface import RunFilter, Store
from everlong_engine.store.sqlite import leases
from everlong_engine.store.sqlite.store import SqliteStore
from tests.support.store_rig import SECOND_US, Rig, refusal

Fault = Callable[[Sequence[Write]], Exception | None]


def sqlite_error(code: int, name: str = "SQLITE_TEST") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as if")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


class Faulty:
    """A store whose submissions fail when `fault` says so; all else is the real one's."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.groups: list[list[Write]] = []
        self.fault: Fault = lambda _: None
        self.answers_lost = 0
        """So many submissions are stored, and fail all the same."""
        self.on_fatal: Callable[[StoreError], None] | None = None

    def submit(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        self.groups.append(list(writes))
        error = self.fault(writes)
        if self.answers_lost:
            self.answers_lost -= 1
            return asyncio.ensure_future(self._lose(self._store.submit(writes)))
        if error is None:
            return self._store.submit(writes)
        future: asyncio.Future[list[WriteResult]] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future

    async def _lose(self, answer: "asyncio.Future[list[WriteResult]]") -> list[WriteResult]:
        await answer
        raise sqlite_error(sqlite3.SQLITE_IOERR_READ)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def sizes(self) -> list[int]:
        return [len(group) for group in self.groups]


def fails_with(error: Exception, times: int = 1_000_000) -> Fault:
    """The next so many submissions fail."""
    left = [times]

    def fault(_: Sequence[Write]) -> Exception | None:
        left[0] -= 1
        return error if left[0] >= 0 else None

    return fault


def fails_beside(culprit: Write, error: Exception) -> Fault:
    return lambda writes: error if culprit in writes else None


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "everlong.db")
    yield store
    await store.close()


@pytest.fixture
def store(real: SqliteStore) -> Faulty:
    return Faulty(real)


@pytest.fixture
async def commits(store: Faulty) -> GroupCommit:
    return GroupCommit(cast(Store, store))


@pytest.fixture
async def rig(real: SqliteStore) -> Rig:
    return Rig(real)


async def together(commits: GroupCommit, *writes: Write) -> list[WriteResult | StoreError]:
    """All queued in one turn of the loop; their results in the order in which they came."""
    results: list[WriteResult | StoreError] = []
    done = asyncio.Event()

    def note(result: WriteResult | StoreError) -> None:
        results.append(result)
        if len(results) == len(writes):
            done.set()

    for write in writes:
        commits.add(write, note)
    await done.wait()
    return results


def created(results: Sequence[object]) -> list[bool]:
    return [isinstance(result, StartResult) and result.created for result in results]


# ---------------------------------------------------------------------------------------- groups


async def test_what_is_queued_together_is_stored_together(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    results = await together(commits, *(rig.start(f"w{number}") for number in range(50)))
    assert created(results) == [True] * 50
    assert store.sizes == [50]


async def test_a_group_is_bounded(commits: GroupCommit, store: Faulty, rig: Rig) -> None:
    count = GROUP_APPENDS_MAX + 10
    await together(commits, *(rig.start(f"w{number}") for number in range(count)))
    assert store.sizes == [GROUP_APPENDS_MAX, 10]


async def test_what_comes_while_a_group_is_stored_goes_next(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    first = asyncio.ensure_future(commits.put(rig.start("first")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert store.sizes == [1]
    rest = together(commits, *(rig.start(f"w{number}") for number in range(5)))
    assert created([await first, *await rest]) == [True] * 6
    assert store.sizes == [1, 5]


async def test_results_come_in_the_order_of_the_writes(commits: GroupCommit, rig: Rig) -> None:
    row = await rig.owned()
    sent = [rig.message(payload=b"%d" % number) for number in range(20)]
    results = await together(commits, *sent, rig.append(row, base=9), rig.append(row))
    positions = [one.position for one in results if isinstance(one, MessageResult)]
    assert positions == sorted(positions, key=lambda one: one or 0)
    assert [one.refusal for one in results if isinstance(one, AppendResult)] == [
        Refusal.FENCED,
        None,
    ]


async def test_order_holds_over_many_groups(commits: GroupCommit, store: Faulty, rig: Rig) -> None:
    row = await rig.owned()
    count = 3 * GROUP_APPENDS_MAX
    appends = [rig.append(row, base=2 + number) for number in range(count)]
    seen: list[int] = []
    for number, append in enumerate(appends):
        commits.add(append, partial(_note, seen, number))
    await commits.drain()
    assert seen == list(range(count))
    assert (await rig.row()).next_seq == 2 + count
    assert store.sizes == [GROUP_APPENDS_MAX] * 3


def _note(seen: list[int], number: int, _: object) -> None:
    seen.append(number)


async def test_drain_waits_for_all_and_returns_at_once_when_idle(
    commits: GroupCommit, rig: Rig
) -> None:
    await commits.drain()
    results: list[object] = []
    for number in range(600):
        commits.add(rig.start(f"w{number}"), results.append)
    await commits.drain()
    assert created(results) == [True] * 600


async def test_who_gives_up_waiting_harms_nobody(commits: GroupCommit, rig: Rig) -> None:
    impatient = asyncio.ensure_future(commits.put(rig.start("impatient")))
    patient = asyncio.ensure_future(commits.put(rig.start("patient")))
    await asyncio.sleep(0)
    impatient.cancel()
    assert created([await patient]) == [True]
    assert (await rig.row("impatient")).workflow_id == "impatient"


async def test_a_receiver_that_fails_keeps_nobody_from_theirs(
    commits: GroupCommit, rig: Rig
) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def broken(_: object) -> None:
        raise RuntimeError("a bug of the receiver")

    results: list[object] = []
    commits.add(rig.start("a"), broken)
    commits.add(rig.start("b"), results.append)
    await commits.drain()
    assert created(results) == [True]
    assert [type(context["exception"]) for context in told] == [RuntimeError]


# ---------------------------------------------------------------------------------------- faults


async def test_a_group_that_fails_once_is_stored_by_its_second_try(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_IOERR_READ), times=1)
    results = await together(commits, *(rig.start(f"w{number}") for number in range(3)))
    assert created(results) == [True] * 3
    assert store.sizes == [3, 3]


async def test_a_group_that_fails_twice_goes_write_by_write(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_IOERR_READ), times=2)
    results = await together(commits, *(rig.start(f"w{number}") for number in range(3)))
    assert created(results) == [True] * 3
    assert store.sizes == [3, 3, 1, 1, 1]


@pytest.mark.parametrize(
    "error",
    [sqlite_error(sqlite3.SQLITE_TOOBIG), OverflowError("int too large"), UnicodeError("half")],
    ids=["SQLite", "integer", "text"],
)
async def test_a_bad_write_fails_nobody_else(
    commits: GroupCommit, store: Faulty, rig: Rig, error: Exception
) -> None:
    starts = [rig.start(f"w{number}") for number in range(5)]
    store.fault = fails_beside(starts[2], error)
    results = await together(commits, *starts)
    assert created(results) == [True, True, False, True, True]
    assert isinstance(results[2], StoreFailed)
    assert await commits.put(rig.start("afterwards"))


async def test_a_write_that_no_database_takes_fails_nobody_else(
    commits: GroupCommit, rig: Rig
) -> None:
    """Not a pretended fault: half a surrogate pair is no text to SQLite."""
    good, bad = await rig.owned("good"), rig.message("good", request_id="\ud800")
    results = await together(commits, rig.append(good), bad, rig.start("other"))
    assert isinstance(results[1], StoreFailed)
    assert (await rig.row("good")).next_seq == 3
    assert (await rig.row("other")).next_seq == 1


async def test_mail_that_is_gone_is_a_conflict_of_one_append(
    commits: GroupCommit, rig: Rig
) -> None:
    good, bad = await rig.owned("good"), await rig.owned("bad")
    results = await together(commits, rig.append(bad, consumed=(99,)), rig.append(good))
    found = [refusal(result) for result in results if isinstance(result, AppendResult)]
    assert found == [Refusal.CONFLICT, None]


async def test_a_lock_that_is_kept_by_others_is_not_waited_for_write_by_write(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_BUSY), times=2)
    results = await together(commits, *(rig.start(f"w{number}") for number in range(3)))
    assert all(isinstance(result, StoreFailed) for result in results)
    assert store.sizes == [3, 3]
    assert created([await commits.put(rig.start())]) == [True]


async def test_what_comes_during_a_repetition_goes_behind_it(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    row = await rig.owned()
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_IOERR_READ), times=2)
    seen: list[str] = []
    commits.add(rig.append(row), lambda _: seen.append("first"))
    await asyncio.sleep(0)
    commits.add(rig.append(row, base=3), lambda _: seen.append("second"))
    await commits.drain()
    assert seen == ["first", "second"]
    assert (await rig.row()).next_seq == 4


# ------------------------------------------------------------------------------ a lost answer

# SQLite always knows whether a commit was done; a database behind a network does not.


@pytest.mark.parametrize("lost", [1, 2], ids=["once", "of the repetition too"])
async def test_what_was_stored_is_known_again_when_the_answer_is_lost(
    commits: GroupCommit, store: Faulty, rig: Rig, lost: int
) -> None:
    here, closing, ended = [await rig.owned(name) for name in ("here", "closing", "ended")]
    store.answers_lost = lost
    done = RunCompleted(b"done")
    results = await together(
        commits,
        rig.start("new"),
        rig.start_here("done", done),
        rig.start_here("done", done),
        rig.start("here", request_id="r"),
        rig.append(here),
        rig.append(here, base=3),
        rig.append(closing, done),
        rig.message("here", b"named", request_id="r"),
        rig.message("here", b"first", sent=rig.sent()),
        rig.message("here", b"second", sent=rig.sent()),
        rig.terminate("ended"),
        Resume(rig.target("here"), rig.now_us),
        Ask(b"q" * 16, rig.target("here"), "status", b"", rig.now_us),
    )
    assert not [one for one in results if isinstance(one, StoreError)]
    assert created(results)[:4] == [True, True, True, False]
    assert [refusal(one) for one in results if isinstance(one, AppendResult)] == [None] * 3
    told = [one for one in results if isinstance(one, MessageResult)][:4]
    assert all(one.duplicate or one.position is not None for one in told)
    loaded = await rig.load("here")
    assert (len(loaded.history), len(loaded.mail)) == (3, 3)
    assert await rig.kinds(closing) == ["RunStarted", "RunCompleted"]
    assert await rig.kinds(ended) == ["RunStarted", "RunTerminated"]
    assert len(await rig.store.list_runs(RunFilter("default", workflow_id="done"), 10, None)) == 2
    assert await rig.problems() == []


async def test_what_is_handed_back_twice_leaves_its_mail_once(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    row, other = await rig.owned(), await rig.owned("other")
    outcome = rig.message()
    store.answers_lost = 1
    results = await together(
        commits,
        rig.release(row, 0, mail=((outcome.kind, outcome.body),)),
        rig.release(other, rig.now_us + SECOND_US),
    )
    assert [refusal(cast(WriteResult, one)) for one in results] == [None, None]
    assert [len(one.mail) for one in await rig.claim()] == [1]
    assert (await rig.row("other")).wake_us == rig.now_us + SECOND_US


async def test_what_was_lost_before_it_was_stored_is_stored_once(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    await rig.owned()
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_IOERR_READ), times=1)
    (result,) = await together(commits, rig.message(sent=rig.sent()))
    assert isinstance(result, MessageResult)
    assert (result.duplicate, result.position is None) == (False, False)


# ----------------------------------------------------------------------------------- a full disk


async def test_a_full_disk_is_an_answer_and_not_an_end(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_FULL))
    results = await together(commits, rig.start("a"), rig.start("b"))
    assert all(isinstance(result, StoreFull) for result in results)
    assert commits.failed is None
    store.fault = lambda _: None
    assert created([await commits.put(rig.start("a"))]) == [True]


async def test_what_still_fits_is_stored(commits: GroupCommit, real: SqliteStore, rig: Rig) -> None:
    """A real limit: the large write is refused, the small ones beside it are not."""
    row = await rig.owned()
    await _limit_pages(real, 45)
    large = rig.start("large", arguments=bytes(1_000_000))
    results = await together(commits, rig.append(row), large, rig.start("small"))
    assert isinstance(results[1], StoreFull)
    assert created(results)[2]
    await _limit_pages(real, 1 << 30)
    assert created([await commits.put(large)]) == [True]
    assert await rig.problems() == []


async def _limit_pages(store: SqliteStore, pages: int) -> None:
    text = f"PRAGMA max_page_count = {pages}"
    await store._writer.run(  # pyright: ignore[reportPrivateUsage]
        lambda tx: tx.execute(text).fetchone()
    )


# ---------------------------------------------------------------------------------- a broken disk


async def test_a_failed_sync_ends_it_all_and_acknowledges_nothing(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    ended: list[StoreError] = []
    commits.on_failed = ended.append
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), times=1)
    results: list[WriteResult | StoreError] = []
    for number in range(GROUP_APPENDS_MAX + 20):  # The last ones are still queued when it fails.
        commits.add(rig.start(f"w{number}"), results.append)
    await commits.drain()
    assert len(results) == GROUP_APPENDS_MAX + 20
    assert all(isinstance(result, StoreFailed) for result in results)
    assert store.sizes == [GROUP_APPENDS_MAX], "it was never tried again"
    assert ended == [commits.failed]


async def test_behind_the_end_everything_is_refused(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    store.fault = fails_with(sqlite_error(sqlite3.SQLITE_CORRUPT), times=1)
    with pytest.raises(StoreFailed):
        await commits.put(rig.start("a"))
    with pytest.raises(StoreFailed):
        await commits.put(rig.start("b"))
    assert len(store.groups) == 1
    await commits.drain()


async def test_a_sync_that_fails_in_a_repetition_ends_it_too(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    errors = [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_READ, 0, sqlite3.SQLITE_IOERR_FSYNC]
    store.fault = lambda _: sqlite_error(code) if errors and (code := errors.pop(0)) else None
    results = await together(commits, *(rig.start(f"w{number}") for number in range(4)))
    assert created(results) == [True, False, False, False]
    assert all(isinstance(result, StoreFailed) for result in results[1:])
    assert store.sizes == [4, 4, 1, 1]


async def test_a_claim_whose_sync_fails_ends_it_too(
    commits: GroupCommit, store: Faulty, rig: Rig
) -> None:
    """Whatever follows a failed sync may report a success that never was."""
    under_way = asyncio.ensure_future(commits.put(rig.start()))
    await asyncio.sleep(0)
    assert store.on_fatal is not None
    store.on_fatal(StoreFailed(reason="the sync of a claim failed"))
    with pytest.raises(StoreFailed, match="sync of a claim"):
        await under_way
    with pytest.raises(StoreFailed, match="sync of a claim"):
        await commits.put(rig.start())


async def test_the_store_reports_a_fatal_error_of_any_write(
    real: SqliteStore, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim_runs(*_: object) -> None:
        raise sqlite_error(sqlite3.SQLITE_IOERR_FSYNC)

    told: list[StoreError] = []
    real.on_fatal = told.append
    monkeypatch.setattr(leases, "claim_runs", claim_runs)
    with pytest.raises(StoreFailed) as caught:
        await rig.claim()
    assert told == [caught.value]
