"""`Worker`: claims what is due, hosts it, and leaves in order.

One loop waits until something may be claimed: another process started a flow or left mail, a
sleeping run is due, or a second has passed. Everything else is driven by what arrives.
"""

import asyncio
import logging
import os
import socket
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from msgspec.structs import replace

from everlong import registry
from everlong._definitions import (
    OWN,
    QUEUE,
    ActivityDefinition,
    Versioning,
    WorkflowDefinition,
    check_version,
    check_versioning,
    queue_name,
)
from everlong._interception import Hooks, hooks_for_workflows
from everlong._replay import anyio_adapter, asyncio_adapter, guard
from everlong.activity import Activity
from everlong.client import Client
from everlong.exceptions import EverlongError, StoreError
from everlong.interceptors import Interceptor
from everlong.pools import WorkflowPool
from everlong.queues import TaskQueue
from everlong.worker._activities import ActivityRunner
from everlong.worker._answering import Answering
from everlong.worker._attempts import Pools
from everlong.worker._balance import FlowBalance
from everlong.worker._bench import Bench
from everlong.worker._deadlines import Deadlines
from everlong.worker._fleet import FleetView
from everlong.worker._hand_over import attach, hand_over
from everlong.worker._hosted import hosted_activities, hosted_workflows
from everlong.worker._intercepting import Around
from everlong.worker._keeper import RunKeeper
from everlong.worker._limits import declare_limits
from everlong.worker._owned import Incoming, OwnedRun
from everlong.worker._serving import serve
from everlong.worker._tasks import TaskTaker
from everlong.worker._versions import Versions
from everlong.workflow import Workflow
from everlong_engine import (
    Alarm,
    Engine,
    IfClosed,
    IfOpen,
    Input,
    MailRow,
    NewRun,
    RunStarted,
    StartResult,
    TaskWants,
    Wants,
    WorkerRow,
    limits,
    seconds_us,
)

__all__ = ["Worker"]

logger = logging.getLogger("everlong")

_AGAIN_US: Final = 1_000_000
_LEAST_US: Final = 1_000
_BEGIN_AGAIN_S: Final = 0.5
_QUIET_S: Final = 30
"""How long a server is left alone where nothing is due and nobody has committed anything."""


def _check_least(least: int, **options: int) -> None:
    for option, value in options.items():
        if value < least:
            raise ValueError(f"Worker({option}={value}) must be at least {least}")


def _list_of(queues: Iterable[str]) -> Iterable[str]:
    if isinstance(queues, str):
        raise TypeError(f"Worker(queues={queues!r}): give a list of names, such as [{queues!r}]")
    return queues


class Worker(Answering):
    """Runs workflows and activities; one process at a time may have workers on a SQLite file.

    What people get wrong: a worker hosts what has been imported when it starts. A run of a workflow
    that no worker hosts waits, visible in `everlong list`; it is not failed.

        async with Worker(client):
            handle = await client.start(order, 17, id="order-17")
            print(await handle.result())

        await Worker(client).run()       # a program of its own: until SIGTERM or SIGINT

    Args:
        client: the store to serve.
        workflows, activities: what to host; everything imported so far unless given.
        queues: the task queues that it takes from; all of them unless given. Workflows are in
            "default": without it in the list, a worker runs activities only.
        activity_slots: how many attempts may run at once.
        threads: how many of them in threads (activities that are a plain def).
        processes: how many in processes (activities with process=True).
        cache_size: how many runs stay in memory; the others sleep in the store.
        name: how `doctor` and histories call it.
        version: the version of the code that it hosts, for runs that are pinned to theirs; by
            default each workflow's own, a digest of its source (not of what it calls).
        versioning: what applies to workflows that do not say it themselves: see `@workflow`.
        wait: seconds (or timedelta) to wait while another process has workers on the file, so that
            a new process takes over at once when the old one has stopped.
        stop_timeout: seconds (or timedelta) that running activities get to end when it stops;
            what has not ended then is handed back and begins again elsewhere. (A thread cannot be
            stopped: it goes on until the process ends, and does not keep it alive.)
        interceptors: what stands around workflow code and attempts, inside those of the client.

    Raises:
        StoreOwned: another process has workers on the file.
        DefinitionError: something given is not a workflow or an activity, or names no version.
    """

    def __init__(
        self,
        client: Client,
        *,
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        activities: Iterable[Activity[Any, Any]] | None = None,
        queues: Iterable[str] | None = None,
        activity_slots: int = 200,
        threads: int = 32,
        processes: int | None = None,
        cache_size: int = limits.CACHED_RUNS_MAX,
        name: str | None = None,
        version: str | None = None,
        versioning: Versioning = "auto",
        wait: float | timedelta = 0.0,
        stop_timeout: float | timedelta = 10.0,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        if version is not None:
            check_version(version, "Worker(version=…)")
        check_versioning(versioning, "Worker")
        _check_least(1, activity_slots=activity_slots, threads=threads)
        _check_least(0, cache_size=cache_size)
        self._client = client
        self._hooks = Hooks((*client.hooks.interceptors, *interceptors))
        self._hooks_of_runs = hooks_for_workflows(self._hooks)
        self._given_workflows = None if workflows is None else tuple(workflows)
        self._given_activities = None if activities is None else tuple(activities)
        self._queues = None if queues is None else tuple(map(queue_name, _list_of(queues)))
        self._slots = activity_slots
        self._threads = threads
        self._processes = processes or os.cpu_count() or 1
        self._cache_size = cache_size
        self._stop_timeout_s = seconds_us(stop_timeout, "stop_timeout") / 1e6
        self._wait_s = seconds_us(wait, "wait") / 1e6
        self._version = version
        self._versioning: Versioning = versioning
        self._versions = Versions({}, None, versioning, self._is_newest)
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._workflows: dict[str, WorkflowDefinition] = {}
        self._activities: dict[str, ActivityDefinition] = {}
        self._keeper: RunKeeper | None = None
        self._taker: TaskTaker | None = None
        self._held: Engine | None = None
        self._worker_id = b""
        self._fleet: FleetView
        self._started_us = 0
        self._wake = asyncio.Event()
        self._alarm: Alarm
        self._next_look_us: int | None = 0
        """When the next look into the store is due; None when nothing there is asleep."""
        self._versions_changed = False
        self._has_orphans = False
        self._full = False
        """The last look found no room: a run that leaves is news."""
        self._claims: asyncio.Task[None] | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None
        self._beginning_anew: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------ starting, stopping

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to claim. `async with` does this."""
        if self._keeper is not None:
            raise EverlongError("this Worker is running already: make a new one")
        self._activities = hosted_activities(self._given_activities)
        self._workflows = hosted_workflows(self._given_workflows) if self._takes("") else {}
        self._versions = Versions(self._workflows, self._version, self._versioning, self._is_newest)
        guard.install()
        asyncio_adapter.install_as_completed()
        anyio_adapter.install()
        engine = self._held = self._client.engine
        self._started_us = engine.clock.now_us()
        self._worker_id = engine.ids.next(self._started_us)
        self._fleet = FleetView(engine)
        self._failed = asyncio.get_running_loop().create_future()
        await attach(engine, self, self._wait_s)
        engine.share()
        try:
            await self._free_orphans(engine)
            await self._begin(engine)
        except BaseException:
            await self._leave(engine)
            raise

    async def _begin(self, engine: Engine) -> None:
        """Under a new name, with nothing in hand."""
        now_us = engine.clock.now_us()
        await engine.store.register(self._as_row(now_us))
        await declare_limits(engine, self._declared(), self.name)
        await self._fleet.look()
        await engine.store.resume_blocked(self._versions.wants(self._worker_id), now_us)
        self._keeper = RunKeeper(
            engine,
            self._client.records,
            self._worker_id,
            self._versions,
            self._cache_size,
            self._make_runner,
        )
        self._keeper.hooks = self._hooks_of_runs
        self._keeper.on_room = self._room_again
        self._keeper.on_asleep = self._fell_asleep
        bench, name = self._keeper.activities.bench, self.name
        wants = TaskWants(self._worker_id, name, tuple(self._activities), self._queues)
        taker = TaskTaker(engine, self._client.records, wants, bench, self._activities)
        self._taker = taker
        self._claims = asyncio.get_running_loop().create_task(self._claim_for_ever())
        FlowBalance(self._keeper, self.wake).start(self._fleet)
        self._keeper.turns.look_around()
        taker.start()
        engine.versions_changed()  # Older ones let go of what follows.

    def _declared(self) -> list[TaskQueue | WorkflowPool]:
        return [one for one, _ in (*registry.queues.values(), *registry.pools.values())]

    def _takes(self, queue: str) -> bool:
        """Whether it takes from a task queue; "" for that of workflows."""
        return self._queues is None or (queue or QUEUE) in self._queues

    async def _free_orphans(self, engine: Engine, *, leaving: bool = False) -> None:
        """Judge and free a batch of what is owned by workers that are gone.

        A worker that dies leaves thousands: the first of them are driven before the last is judged.
        """
        alive = [host.worker_id for host in engine.hosts if isinstance(host, Worker)]
        if leaving:
            alive.remove(self._worker_id)
        now_us, most = engine.clock.now_us(), limits.CLAIM_RUNS_MAX
        self._has_orphans = await engine.store.take_over(alive, now_us, most) == most

    def _is_newest(self, kind: str) -> bool:
        """Whether no worker that came later has another version of a workflow."""
        mine = self._versions.names[kind]
        for host in reversed(self._engine.hosts):
            if isinstance(host, Worker) and kind in host._versions.names:
                if host._versions.names[kind] != mine:
                    return False
                break
        return self._fleet.allows(kind, mine)

    async def stop(self) -> None:
        """Finish or hand back: activities get `stop_timeout`, then every run is released."""
        if self._beginning_anew is not None:
            self._beginning_anew.cancel()
            await asyncio.wait([self._beginning_anew])
            if self._keeper is None:
                await self._leave(self._engine)
                return
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        engine = self._engine
        if self._claims is not None:
            self._claims.cancel()
            await asyncio.wait([self._claims])
        assert self._taker is not None, "it comes with the keeper"
        await self._taker.stop_taking()
        try:
            await self._hand_back(keeper, self._taker, engine)
        finally:
            keeper.activities.close()
            await self._leave(engine)

    async def _hand_back(self, keeper: RunKeeper, taker: TaskTaker, engine: Engine) -> None:
        if engine.commits.failed is not None:
            taker.abandon()
            keeper.abandon()
            return
        # Still reachable for outcomes while activities end.
        await keeper.activities.bench.finish_or_time_out(self._stop_timeout_s)
        taker.hand_back()
        await keeper.release_all()
        await engine.store.bury(self._worker_id)
        # A claim that was cut off, or a suspect that waited for its turn, is freed for others.
        self._has_orphans = True
        while self._has_orphans:
            await self._free_orphans(engine, leaving=True)

    async def _leave(self, engine: Engine) -> None:
        try:
            await engine.detach(self)
        finally:
            await engine.close()

    async def run(
        self, *, on_ready: Callable[[], None] | None = None, beside: "Sequence[Worker]" = ()
    ) -> None:
        """Serve until SIGTERM or SIGINT; the first ends in order, the second at once.

        Args:
            on_ready: called once it claims, and a signal would end it in order; for supervisors.
            beside: workers with older versions, for runs that are pinned to them. They begin before
                this one and end before it, so that what follows always belongs to this one.

        Raises:
            StoreFailed: the disk can no longer be trusted; nothing was acknowledged since.
        """
        await serve((*beside, self), lambda: self._failed, on_ready)

    @property
    def has_begun(self) -> bool:
        """Part of the engine's protocol."""
        return self._keeper is not None

    def lease_lost(self) -> None:
        """Part of the engine's protocol: what it has may be another's by now."""
        if self._keeper is None or self._beginning_anew is not None:
            return
        if self._taker is not None:
            self._taker.abandon()
        self._keeper.abandon()
        self._beginning_anew = asyncio.get_running_loop().create_task(self._begin_anew())
        self._beginning_anew.add_done_callback(self._has_begun_anew)

    async def _begin_anew(self) -> None:
        """Let go, and go on as another: nobody need wait for the lease of the one before."""
        engine, keeper, before = self._engine, self._keeper, self._worker_id
        assert keeper is not None, "it has just been abandoned"
        if self._claims is not None:
            self._claims.cancel()
            await asyncio.wait([self._claims])
        keeper.activities.close()
        self._keeper = self._taker = None
        self._worker_id = engine.ids.next(engine.clock.now_us())
        while True:
            try:
                await engine.store.bury(before)
                await self._begin(engine)
            except StoreError as error:
                logger.warning("cannot begin anew yet: %s", error)
                await engine.alarms.pause(_BEGIN_AGAIN_S)
            else:
                logger.info("a worker whose lease was lost goes on as %s", self.name)
                return

    def _has_begun_anew(self, done: "asyncio.Task[None]") -> None:
        self._beginning_anew = None
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.critical("a worker cannot go on", exc_info=error)
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)
                self._failed.exception()  # Seen, also when nobody awaits `run`.

    def store_failed(self, error: StoreError) -> None:
        """Part of the engine's protocol."""
        if self._taker is not None:
            self._taker.abandon()
        if self._keeper is not None:
            self._keeper.abandon()
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # Seen, also when nobody awaits `run`.

    def _as_row(self, now_us: int) -> WorkerRow:
        return WorkerRow(
            worker_id=self._worker_id,
            name=self.name,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_us=self._started_us,
            beat_us=now_us,
            dead=False,
            types=tuple(self._versions.names),
            versions=tuple(self._versions.names.values()),
            queues=self._queues,
            slots=self._slots,
        )

    def _make_runner(
        self, deadlines: Deadlines, deliver: Callable[[OwnedRun, Incoming], None]
    ) -> ActivityRunner:
        engine, records, beside = self._engine, self._client.records, self._client
        around = Around.of(self._hooks.execute_activity)
        pools = Pools(self._threads, self._processes)
        pools.client_of = partial(Client.beside, engine, records, beside.path, beside.hooks)
        bench = Bench(engine, self._slots, pools, around)
        may_help = self._fleet.may_help
        return ActivityRunner(
            engine, records, self.name, deadlines, deliver, bench, may_help, around=around
        )

    # --------------------------------------------------------------------------------- claiming

    async def _claim_for_ever(self) -> None:
        store, clock = self._engine.store, self._engine.clock
        while True:
            next_us: int | None = None
            self._wake.clear()
            try:
                if await self._fleet.look():
                    self._versions_changed = True
                wants = self._versions.wants(self._worker_id, self._fleet.number)
                if self._versions_changed and self._keeper is not None:
                    self._versions_changed = False
                    left = await hand_over(self._keeper)
                    self._versions_changed = self._versions_changed or left
                claimed = await self._claim(wants)
                if self._has_orphans:
                    await self._free_orphans(self._engine)
                    continue
                if claimed:
                    await asyncio.sleep(0)
                    continue
                if not self._full:
                    next_us = await store.next_wake(wants)
                again_us = self._fleet.again_us
                if self._versions_changed:  # What is at work here is to leave when it sleeps.
                    again_us = clock.now_us() + _AGAIN_US
                if again_us is not None:
                    next_us = again_us if next_us is None else min(next_us, again_us)
            except (EverlongError, sqlite3.Error) as error:
                logger.warning("cannot claim runs now: %s", error)
                next_us = clock.now_us() + _AGAIN_US
            except Exception:
                # Ours. A worker that claims nothing any more looks healthy, and is not.
                logger.exception("claiming failed; trying again")
                next_us = clock.now_us() + _AGAIN_US
            if next_us is not None:
                next_us = max(next_us, clock.now_us() + _LEAST_US)
            self._next_look_us = next_us
            self._set_alarm(next_us, _QUIET_S if self._engine.shared else 0)
            try:
                await self._wake.wait()
            finally:
                self._alarm.cancel()

    def _set_alarm(self, next_us: int | None, quiet: int) -> None:
        call = partial(self._ring, next_us, quiet)
        self._alarm = self._engine.alarms.at(next_us, call)

    def _ring(self, next_us: int | None, quiet: int) -> None:
        """Each second, for the clock may have been set. A server is not asked for that: what others
        have committed there is seen by whoever watches it."""
        if quiet > 0 and (next_us is None or self._engine.clock.now_us() < next_us):
            self._set_alarm(next_us, quiet - 1)
        else:
            self._wake.set()

    def versions_changed(self) -> None:
        """Part of the engine's protocol: a worker has come, or a run was pinned."""
        self._versions_changed = True
        self._wake.set()

    def others_committed(self) -> None:
        """Part of the engine's protocol: a run that is pinned may have been pinned anew."""
        if self._keeper is not None and self._keeper.has_pinned:
            self.versions_changed()
        if self._engine.shared:
            self.wake()  # Of what has no owner only a claim hears; so of who has come.

    def _fell_asleep(self, wake_us: int) -> None:
        if self._next_look_us is None or wake_us < self._next_look_us:
            self._wake.set()  # Look anew: the wait was chosen without it.

    def _room_again(self) -> None:
        if self._full:
            self._wake.set()

    async def _claim(self, wants: Wants) -> int:
        keeper = self._keeper
        if keeper is None or not (wants.types or wants.pinned):
            return 0
        held = keeper.loading.in_hand()
        if held is not None:
            keeper.loading.in_doubt = False  # Until a claim fails, be it this one.
            await self._take(keeper, replace(wants, held=held), 0)
        room = min(keeper.room, limits.CLAIM_RUNS_MAX)
        self._full = room <= 0
        if self._full:
            return 0
        return await self._take(keeper, wants, room)

    async def _take(self, keeper: RunKeeper, wants: Wants, limit: int) -> int:
        engine = self._engine
        with keeper.loading.claiming():
            loaded = await engine.store.claim(wants, engine.clock.now_us(), limit)
            if loaded:
                engine.keep_looking()
            for run in loaded:
                try:
                    keeper.loading.adopt(run)
                except Exception:
                    # Ours, not the user's. It must not stop the other runs; a restart tries again.
                    logger.exception("%s could not be taken in hand", run.row.workflow_id)
                await asyncio.sleep(0)  # Replays are work: let what is running have its turn.
        return len(loaded)

    # ----------------------------------------------------------------- what the engine asks of it

    @property
    def versions(self) -> dict[str, str]:
        """Its version of each workflow that it was given, once it has started."""
        names = self._versions.names
        return {kind: name for kind, name in names.items() if not kind.startswith(OWN)}

    def deliver(self, mail: MailRow) -> bool:
        """Part of the engine's protocol."""
        return self._keeper is not None and self._keeper.deliver(mail)

    def wake(self) -> None:
        """Part of the engine's protocol."""
        self._wake.set()
        self.tasks_changed()

    def tasks_changed(self) -> None:
        """Part of the engine's protocol."""
        if self._taker is not None:
            self._taker.wake()

    def terminated(self, execution_id: bytes, run_id: bytes) -> None:
        """Part of the engine's protocol."""
        if self._keeper is not None:
            self._keeper.terminated(execution_id, run_id)

    def look_at(self, execution_id: bytes) -> None:
        """Part of the engine's protocol."""
        if self._keeper is not None:
            self._keeper.look_at(execution_id)

    def hosts(self, kind: str) -> bool:
        """Whether a workflow of this name can begin here, now."""
        keeper = self._keeper
        if keeper is None or kind not in self._workflows or self._workflows[kind].turns is not None:
            return False  # What is in a pool takes its turn there.
        return keeper.may_begin and self._is_newest(kind)

    def begin(
        self,
        new: NewRun,
        started: RunStarted,
        if_open: IfOpen,
        if_closed: IfClosed,
        on_result: Callable[[StartResult | StoreError], None],
    ) -> None:
        """Start an execution in this process."""
        assert self._keeper is not None
        self._keeper.begin(new, started, if_open, if_closed, on_result)

    def owned_run(
        self, namespace: str, workflow_id: str, execution_id: bytes | None
    ) -> OwnedRun | None:
        """The open run of an execution, if it is in this worker's hands."""
        if self._keeper is None:
            return None
        run = self._keeper.cache.find(namespace, workflow_id, execution_id)
        return None if run is None or run.tentative or run.paused else run

    def send(
        self, run: OwnedRun, event: Input, on_done: Callable[[EverlongError | None], None]
    ) -> None:
        """Put a message straight into a run's mailbox."""
        assert self._keeper is not None
        self._keeper.receive(run, Incoming(event, on_done=on_done))
