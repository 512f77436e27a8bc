"""`Environment`: the whole product in one test, on a clock that jumps.

Nothing here imitates the engine. The store is SQLite in memory, the worker and the client are the
production ones; what differs is the clock, and what a worker runs in an activity's place.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, overload

from everlong._context import activity_context, current_run
from everlong._replay.modes import Modes, current
from everlong.activity import Activity
from everlong.client import Client
from everlong.codec import Codec
from everlong.exceptions import DefinitionError, EverlongError, StatementFailed
from everlong.interceptors import Interceptor
from everlong.testing._fakes import ActivityCall, Fakes
from everlong.testing._stuck import Watch
from everlong.testing._worker import WatchedWorker
from everlong.workflow import Workflow
from everlong_engine import Failure, SqlValue, limits, seconds_us
from everlong_engine.virtual import VirtualEngine, VirtualTime

__all__ = ["Environment"]

P = ParamSpec("P")
R = TypeVar("R")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_RETENTION: Final = timedelta(microseconds=limits.RETENTION_US)
_UNSET: Final[Any] = object()
_NOT_OPEN: Final = "this Environment is not open: use `async with Environment() as env`"


class Environment:
    """A store in memory with a client and a worker, and a clock that the test owns.

    Time stands still while anything is going on. When every workflow waits, no activity runs, and
    the test itself waits for a result, an update's answer or a published item, time jumps to what
    is due next: a sleep of thirty days takes as long as what happens in it. What people get wrong:
    while the test does anything else, time does not move; `await env.advance(days=1)` moves it.

        async with Environment() as env:
            env.fake(charge, lambda order: "receipt-1")
            assert await env.client.run(subscribe, "customer-1", months=12) == "done"
            assert len(env.calls(charge)) == 12

    A run that a fault blocks fails whoever waits for it with that fault. When nothing will ever
    happen and somebody waits all the same, `Stuck` is raised after `patience`.

    Args:
        workflows, activities: what to host; everything imported so far unless given.
        start: what the clock shows at first; the same instant in each test unless given.
        fakes_only: an activity without a fake does not run; it fails, and so does the test.
        always_replay: replay every history in fresh code behind each of its inputs, and keep no run
            in memory.
        amnesia: begin anew at each checkpoint that may.
        activity_slots, cache_size: those of the worker.
        retention, codecs, interceptors, namespace: those of the client.
        seed: where ids and the jitter of retries come from; the same ones each time.
        patience: real seconds without any news until `Stuck`; None to wait for ever.
    """

    client: Client
    """For starts, handles, lists: an ordinary client of the environment's store."""

    def __init__(
        self,
        *,
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        activities: Iterable[Activity[Any, Any]] | None = None,
        start: datetime = _START,
        fakes_only: bool = False,
        always_replay: bool | None = None,
        amnesia: bool | None = None,
        activity_slots: int = 200,
        cache_size: int | None = None,
        retention: timedelta | float | None = _RETENTION,
        codecs: Sequence[Codec] = (),
        interceptors: Sequence[Interceptor] = (),
        namespace: str = "default",
        seed: int = 0,
        patience: float | None = 10.0,
    ) -> None:
        if start.tzinfo is None:
            raise ValueError(f"start={start!r} has no time zone: give an aware datetime, UTC best")
        if patience is not None and patience <= 0:
            raise ValueError(f"patience={patience!r}: give seconds, more than 0, or None")
        self._modes = _modes(always_replay, amnesia)
        if cache_size is None:
            cache_size = 0 if self._modes.always_replay else limits.CACHED_RUNS_MAX
        self._options: dict[str, Any] = {
            "workflows": None if workflows is None else tuple(workflows),
            "activities": None if activities is None else tuple(activities),
            "activity_slots": activity_slots,
            "cache_size": cache_size,
            "name": "test",
        }
        start_us = (start - _EPOCH) // timedelta(microseconds=1)
        client = VirtualClient.connect(
            "virtual",
            namespace=namespace,
            retention=retention,
            codecs=codecs,
            interceptors=interceptors,
        )
        client.begin = lambda: VirtualEngine.begin(start_us, Random(seed))
        self.client = client
        self._fakes = Fakes(only=fakes_only, hang=self._hang, now=lambda: self.now)
        self._asleep: Counter[object] = Counter()
        self._patience_s = patience
        self._watch: Watch | None = None
        self._worker: WatchedWorker | None = None

    # ------------------------------------------------------------------------ opening, closing

    async def __aenter__(self) -> Self:
        if self._worker is not None:
            raise EverlongError("this Environment is open already: make a new one")
        await self.client.__aenter__()
        engine = self.client.engine
        assert isinstance(engine, VirtualEngine)
        self._watch = Watch(self.client, engine, self._patience_s)
        engine.is_working = self._is_working
        engine.time.on_rest = self._on_rest
        try:
            self._worker = await self._begin_worker()
        except BaseException:
            self._watch = None
            await self.client.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        worker, self._worker = self._worker, None
        watch, self._watch = self._watch, None
        try:
            if watch is not None:
                watch.stop()
            if worker is not None:
                await worker.crash()  # Nobody waits for what is left.
        finally:
            await self.client.__aexit__(kind, error, trace)
        if error is None and self._fakes.missing:
            names = ", ".join(dict.fromkeys(self._fakes.missing))
            raise EverlongError(f"activities ran without a fake, with fakes_only=True: {names}")

    @property
    def _engine(self) -> VirtualEngine:
        if self._watch is None:
            raise EverlongError(_NOT_OPEN)
        engine = self.client.engine
        assert isinstance(engine, VirtualEngine)
        return engine

    async def _begin_worker(self) -> WatchedWorker:
        assert self._watch is not None
        worker = WatchedWorker(
            self.client, self._fakes, self._modes, self._watch.blocked, **self._options
        )
        await worker.start()
        return worker

    async def restart_worker(
        self, *, in_order: bool = False, workflows: Iterable[Workflow[Any, Any]] | None = None
    ) -> None:
        """Kill the worker and begin another, as after a crash: attempts that were at work are lost,
        and every run is replayed.

        Args:
            in_order: stop it as SIGTERM does: activities may end, and nothing is lost.
            workflows: what the next one hosts instead, such as the same workflow after a change.

        Raises:
            EverlongError: the environment is not open.
        """
        worker = self._worker
        if worker is None:
            raise EverlongError(_NOT_OPEN)
        if workflows is not None:
            self._options["workflows"] = tuple(workflows)
        if in_order:
            await worker.stop()
        else:
            await worker.crash()
        assert self._watch is not None
        self._watch.forget_blocked()
        self._worker = await self._begin_worker()

    # ---------------------------------------------------------------------------------- the clock

    @property
    def now(self) -> datetime:
        """What the clock shows, UTC."""
        return _EPOCH + timedelta(microseconds=self._engine.clock.now_us())

    async def advance(
        self,
        duration: float | timedelta = 0.0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock, through everything that is due on the way, and wait until all rests.

        Real activities that begin on the way are waited for; the clock stands still meanwhile.

            await env.advance(days=1, hours=12)

        Args:
            duration: seconds or a timedelta; what is given by name is added.
        """
        await self._engine.time.advance(_duration_us(duration, days, hours, minutes, seconds))

    async def settled(self) -> None:
        """Wait until every workflow waits and no activity runs, without moving the clock."""
        await self._engine.time.advance(0)

    async def sleep(
        self,
        duration: float | timedelta = 0.0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Wait on the environment's clock: in a fake that takes its time, or in a task of the test
        that does something later. Time moves on by itself until then, like for a workflow's sleep.

            async def slow(order: Order) -> str:
                await env.sleep(minutes=5)
                return "receipt-1"
        """
        if current_run() is not None:
            raise EverlongError("env.sleep() is for fakes and tests; in a workflow use asyncio's")
        await self._sleep(_duration_us(duration, days, hours, minutes, seconds))

    def skipping(self, on: bool) -> AbstractContextManager[None]:
        """Say whether time moves by itself when somebody waits for it; `advance` always moves it.

        Takes effect at once. In a `with` statement it is taken back at the end.

            with env.skipping(False):
                ...
        """
        time = self._engine.time
        before, time.is_skipping = time.is_skipping, on
        time.nudge()
        return _TakenBack(time, before)

    async def _hang(self) -> None:
        await self._sleep(None)

    async def _sleep(self, duration_us: int | None) -> None:
        attempt = activity_context.get()
        if attempt is not None:
            self._asleep[attempt] += 1
        try:
            await self._engine.time.sleep(duration_us)
        finally:
            if attempt is not None:
                self._asleep[attempt] -= 1
                self._asleep += Counter()  # Without those that are awake.

    def _is_working(self) -> bool:
        worker = self._worker
        if worker is None:
            return False
        # Who reads a stream waits for others, like a workflow.
        working = sum(not attempt.definition.waits for attempt in worker.at_work())
        return working > len(self._asleep)

    def _on_rest(self) -> bool:
        if self._worker is not None:
            self._worker.tidy()
        return self._watch is not None and self._watch.tell_of_blocked()

    # ------------------------------------------------------------------------------ activities

    def sql(self, statement: str, /, **values: SqlValue) -> list[tuple[Any, ...]]:
        """Run one statement on the tables that transactional activities write to.

            env.sql("create table orders (id integer primary key)")
            assert env.sql("select count(*) from orders where id = :id", id=17) == [(1,)]

        Returns:
            the rows that it gives.

        Raises:
            StatementFailed: SQLite's error, or it touches what is Everlong's.
        """
        found = self._engine.sql(statement, values)
        if isinstance(found, Failure):
            raise StatementFailed(found.message)
        return found

    @overload
    def fake(self, activity: "Activity[P, R]", by: Callable[P, Awaitable[R]], /) -> None: ...
    @overload
    def fake(self, activity: "Activity[P, R]", by: Callable[P, R], /) -> None: ...
    @overload
    def fake(self, activity: "Activity[..., R]", /, *, returns: R) -> None: ...
    @overload
    def fake(
        self, activity: "Activity[..., Any]", /, *, raises: Exception | type[Exception]
    ) -> None: ...
    def fake(
        self, activity: Any, by: Any = _UNSET, /, *, returns: Any = _UNSET, raises: Any = _UNSET
    ) -> None:
        """Let something else run wherever this activity would; from now on, until the next `fake`.

            env.fake(charge, lambda order: f"receipt-{order.id}")     # or an async function
            env.fake(charge, returns="receipt-1")
            env.fake(charge, raises=PaymentDeclined("no funds"))

        Options of the activity (retries, timeouts) hold for its fake. What it gets and gives
        goes through encoding, as in production. `env.fake(charge, charge.function)` brings the real
        one back.

        Raises:
            DefinitionError: this is no activity, or a call of it does not fit the fake.
            NotSerializable, InvalidArguments: the result cannot be what the activity returns.
        """
        given = [one for one in (by, returns, raises) if one is not _UNSET]
        if len(given) != 1:
            raise DefinitionError(
                "env.fake(activity, …) takes one more: a function, returns=… or raises=…"
            )
        if by is not _UNSET:
            self._fakes.put(activity, by)
        elif returns is not _UNSET:
            self._fakes.put_result(activity, returns)
        else:
            self._fakes.put_error(activity, raises)

    def fail(
        self,
        activity: "Activity[..., Any]",
        error: Exception | type[Exception],
        /,
        *,
        times: int = 1,
    ) -> None:
        """Let the next attempts fail with an exception; whether they are repeated is the retry
        policy's affair. Demands are met in order, before any fake."""
        self._fakes.demand_failure(activity, error, times)

    def time_out(self, activity: "Activity[..., Any]", /, *, times: int = 1) -> None:
        """Let the next attempts hang until one of the activity's timeouts ends them."""
        self._fakes.demand_timeout(activity, times)

    def lose(self, activity: "Activity[..., Any]", /, *, times: int = 1) -> None:
        """Let the next attempts be lost, as if the process that ran them had died."""
        self._fakes.demand_loss(activity, times)

    def calls(self, activity: "Activity[..., Any]", /) -> list[ActivityCall]:
        """Every attempt of the activity so far, faked or real, in order."""
        return self._fakes.calls(activity)


class VirtualClient(Client):
    """A client of an engine in memory."""

    begin: Callable[[], VirtualEngine]

    async def __aenter__(self) -> Self:
        if self._engine is None:
            engine = self._engine = self.begin()
            engine.keep_closed_for(self._retention_us)
        return self


class _TakenBack(AbstractContextManager[None]):
    def __init__(self, time: VirtualTime, before: bool) -> None:
        self._time = time
        self._before = before

    def __exit__(self, *_: object) -> None:
        self._time.is_skipping = self._before
        self._time.nudge()


def _modes(always_replay: bool | None, amnesia: bool | None) -> Modes:
    """Those that are in use, unless the environment's own say otherwise."""
    now = current()
    return replace(
        now,
        always_replay=now.always_replay if always_replay is None else always_replay,
        forgets=now.forgets if amnesia is None else amnesia,
    )


def _duration_us(
    duration: float | timedelta, days: float, hours: float, minutes: float, seconds: float
) -> int:
    named = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return seconds_us(duration, "duration") + seconds_us(named, "duration")
