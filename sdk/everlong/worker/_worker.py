"""`Worker`: claims what is due, hosts it, and leaves in order.

One loop waits until something may be claimed: another process started a flow or left mail, a
sleeping run is due, or a second has passed. Everything else is driven by what arrives.
"""

import asyncio
import logging
import os
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from everlong import registry
from everlong._definitions import WorkflowDefinition
from everlong._replay import anyio_adapter, asyncio_adapter, guard
from everlong._replay.history import replay
from everlong._replay.run import WorkflowRun
from everlong.activity import Activity
from everlong.client import Client
from everlong.exceptions import (
    DefinitionError,
    EverlongError,
    QueryFailed,
    StoreError,
    WorkflowNotFound,
)
from everlong.worker._activities import ActivityRunner
from everlong.worker._deadlines import Deadlines
from everlong.worker._keeper import RunKeeper
from everlong.worker._owned import Incoming, OwnedRun, Superseded
from everlong.workflow import Workflow
from everlong_engine import (
    Answer,
    Engine,
    IfClosed,
    IfOpen,
    Input,
    MailRow,
    NewRun,
    Question,
    RunStarted,
    RunStatus,
    StartResult,
    Wants,
    WorkerRow,
    id_text,
    limits,
    seconds_us,
)

__all__ = ["Worker"]

logger = logging.getLogger("everlong")

_POLL_S: Final = 1.0
_QUEUE: Final = "default"


class Worker:
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
        activity_slots: how many attempts may run at once.
        threads: how many of them in threads (activities that are a plain def).
        processes: how many in processes (activities with process=True).
        cache_size: how many runs stay in memory; the others sleep in the store.
        name: how `doctor` and histories call it.
        stop_timeout: seconds (or timedelta) that running activities get to end when it stops;
            what has not ended then is handed back and begins again elsewhere. (A thread cannot be
            stopped: it goes on until the process ends, and does not keep it alive.)

    Raises:
        StoreOwned: another process has workers on the file.
        DefinitionError: something given is not a workflow or an activity.
    """

    def __init__(
        self,
        client: Client,
        *,
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        activities: Iterable[Activity[Any, Any]] | None = None,
        activity_slots: int = 200,
        threads: int = 32,
        processes: int | None = None,
        cache_size: int = limits.CACHED_RUNS_MAX,
        name: str | None = None,
        stop_timeout: float | timedelta = 10.0,
    ) -> None:
        for option, value, least in (
            ("activity_slots", activity_slots, 1),
            ("threads", threads, 1),
            ("cache_size", cache_size, 0),
        ):
            if value < least:
                raise ValueError(f"Worker({option}={value}) must be at least {least}")
        self._client = client
        self._given_workflows = None if workflows is None else tuple(workflows)
        self._given_activities = None if activities is None else tuple(activities)
        self._slots = activity_slots
        self._threads = threads
        self._processes = processes or os.cpu_count() or 1
        self._cache_size = cache_size
        self._stop_timeout_s = seconds_us(stop_timeout, "stop_timeout") / 1e6
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._workflows: dict[str, WorkflowDefinition] = {}
        self._keeper: RunKeeper | None = None
        self._held: Engine | None = None
        self._worker_id = b""
        self._wake = asyncio.Event()
        self._next_look_us = 0
        self._full = False
        """The last look found no room: a run that leaves is news."""
        self._claims: asyncio.Task[None] | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None

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
        self._workflows = self._hosted_workflows()
        guard.install()
        asyncio_adapter.install_as_completed()
        anyio_adapter.install()
        engine = self._held = self._client.engine
        now_us = engine.clock.now_us()
        self._worker_id = engine.ids.next(now_us)
        self._failed = asyncio.get_running_loop().create_future()
        engine.attach(self)
        engine.share()
        try:
            alive = [host.worker_id for host in engine.hosts if isinstance(host, Worker)]
            while await engine.store.take_over(alive, now_us, limits.CLAIM_RUNS_MAX):
                pass
            await engine.store.register(self._as_row(now_us), _QUEUE)
            await engine.store.resume_blocked(tuple(self._workflows), now_us)
        except BaseException:
            await self._leave(engine)
            raise
        self._keeper = RunKeeper(
            engine,
            self._client.records,
            self._worker_id,
            self._workflows,
            registry.signals,
            self._cache_size,
            self._make_runner,
        )
        self._keeper.on_room = self._room_again
        self._keeper.on_asleep = self._fell_asleep
        self._claims = asyncio.get_running_loop().create_task(self._claim_for_ever())

    async def stop(self) -> None:
        """Finish or hand back: activities get `stop_timeout`, then every run is released."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        engine = self._engine
        if self._claims is not None:
            self._claims.cancel()
            await asyncio.wait([self._claims])
        try:
            await self._hand_back(keeper, engine)
        finally:
            keeper.activities.close()
            await self._leave(engine)

    async def _hand_back(self, keeper: RunKeeper, engine: Engine) -> None:
        if engine.commits.failed is not None:
            keeper.abandon()
            return
        # Still reachable for outcomes while activities end.
        await keeper.activities.finish_or_time_out(self._stop_timeout_s)
        await keeper.release_all()
        await engine.store.bury(self._worker_id)
        # A claim that was cut off, or a suspect that waited for its turn, is freed for others.
        alive = [host.worker_id for host in engine.hosts if isinstance(host, Worker)]
        alive.remove(self._worker_id)
        while await engine.store.take_over(alive, engine.clock.now_us(), limits.CLAIM_RUNS_MAX):
            pass

    async def _leave(self, engine: Engine) -> None:
        try:
            await engine.detach(self)
        finally:
            await engine.close()

    @property
    def _engine(self) -> Engine:
        """Its own hold on it: the client may be closed while the worker still runs."""
        assert self._held is not None, "a worker that has not started asks nothing"
        return self._held

    async def run(self, *, on_ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT; the first ends in order, the second at once.

        Args:
            on_ready: called once it claims, and a signal would end it in order; for supervisors.

        Raises:
            StoreFailed: the disk can no longer be trusted; nothing was acknowledged since.
        """
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        signals = 0

        def stop(*_: Any) -> None:
            # Not through the loop: a workflow that never yields would keep the second one out too.
            nonlocal signals
            signals += 1
            if signals > 1:
                os.write(2, b"second signal: leaving at once; the next worker takes over\n")
                os._exit(130)
            loop.call_soon_threadsafe(asked.set)

        await self.start()
        assert self._failed is not None
        before: dict[int, Any] = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, stop)
            if on_ready is not None:
                on_ready()
            waiting = loop.create_task(asked.wait())
            ends: list[asyncio.Future[Any]] = [waiting, self._failed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        finally:
            await self.stop()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, before.get(number, signal.SIG_DFL))
        if self._failed.done():
            self._failed.result()

    def store_failed(self, error: StoreError) -> None:
        """Part of the engine's protocol."""
        if self._keeper is not None:
            self._keeper.abandon()
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # Seen, also when nobody awaits `run`.

    def _hosted_workflows(self) -> dict[str, WorkflowDefinition]:
        given = self._given_workflows
        if given is None:
            given = tuple(registry.workflows.values())
        found: dict[str, WorkflowDefinition] = {}
        for one in given:
            if not isinstance(one, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(
                    f"Worker(workflows=…): {one!r} is not decorated with @workflow"
                )
            found[one.definition.name] = one.definition
        for other in self._given_activities or ():
            if not isinstance(other, Activity):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(
                    f"Worker(activities=…): {other!r} is not decorated with @activity"
                )
        return found

    def _as_row(self, now_us: int) -> WorkerRow:
        return WorkerRow(
            worker_id=self._worker_id,
            name=self.name,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_us=now_us,
            beat_us=now_us,
            dead=False,
            types=tuple(self._workflows),
        )

    def _make_runner(
        self, deadlines: Deadlines, deliver: Callable[[OwnedRun, Incoming], None]
    ) -> ActivityRunner:
        return ActivityRunner(
            self._engine,
            self._client.records,
            self.name,
            deadlines,
            deliver,
            slots=self._slots,
            threads=self._threads,
            processes=self._processes,
        )

    # --------------------------------------------------------------------------------- claiming

    async def _claim_for_ever(self) -> None:
        wants = Wants(self._worker_id, _QUEUE, tuple(self._workflows))
        store, clock = self._engine.store, self._engine.clock
        while True:
            wait_s = _POLL_S
            self._wake.clear()
            try:
                claimed = await self._claim(wants)
                if claimed == 0:
                    next_us = await store.next_wake(wants)
                    if next_us is not None:
                        wait_s = min(max((next_us - clock.now_us()) / 1e6, 0.001), _POLL_S)
                    if self._full:
                        wait_s = _POLL_S
                else:
                    wait_s = 0.0
            except (EverlongError, sqlite3.Error) as error:
                logger.warning("cannot claim runs now: %s", error)
            except Exception:
                # Ours. A worker that claims nothing any more looks healthy, and is not.
                logger.exception("claiming failed; trying again")
            self._next_look_us = clock.now_us() + round(wait_s * 1e6)
            if wait_s:
                try:
                    # Not `wait_for`: before 3.12 it can swallow a cancellation that races.
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(0)

    def _fell_asleep(self, wake_us: int) -> None:
        if wake_us < self._next_look_us:
            self._wake.set()  # Look anew: the wait was chosen without it.

    def _room_again(self) -> None:
        if self._full:
            self._wake.set()

    async def _claim(self, wants: Wants) -> int:
        keeper = self._keeper
        if keeper is None or not wants.types:
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
    def worker_id(self) -> bytes:
        """Its name in leases."""
        return self._worker_id

    def deliver(self, mail: MailRow) -> bool:
        """Part of the engine's protocol."""
        return self._keeper is not None and self._keeper.deliver(mail)

    def wake(self) -> None:
        """Part of the engine's protocol."""
        self._wake.set()

    def terminated(self, execution_id: bytes) -> None:
        """Part of the engine's protocol."""
        if self._keeper is not None:
            self._keeper.terminated(execution_id)

    def ask(self, question: Question) -> None:
        """Part of the engine's protocol."""
        task = asyncio.get_running_loop().create_task(self._answer(question))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _answer(self, question: Question) -> None:
        records = self._client.records
        try:
            arguments = records.asked(question)
            answer = await self.query(
                question.namespace, question.workflow_id, None, question.query, arguments
            )
            reply = Answer(question.question_id, True, records.answer(question, answer))
        except EverlongError as error:
            reply = Answer(question.question_id, False, records.refusal(question, error))
        except Exception as error:
            logger.exception("%s: a query could not be answered", question.workflow_id)
            fault = EverlongError(f"the worker cannot answer: {type(error).__name__}: {error}")
            reply = Answer(question.question_id, False, records.refusal(question, fault))
        try:
            await self._engine.commits.put(reply)
        except StoreError as error:
            logger.warning("an answer could not be stored: %s", error)

    # ------------------------------------------------------------------- what clients here ask

    def hosts(self, kind: str) -> bool:
        """Whether a workflow of this name can begin here, now."""
        keeper = self._keeper
        return keeper is not None and kind in self._workflows and keeper.may_begin

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
        return None if run is None or run.tentative else run

    def send(
        self, run: OwnedRun, event: Input, on_done: Callable[[EverlongError | None], None]
    ) -> None:
        """Put a message straight into a run's mailbox."""
        assert self._keeper is not None
        self._keeper.receive(run, Incoming(event, on_done=on_done))

    async def query(
        self,
        namespace: str,
        workflow_id: str,
        execution_id: bytes | None,
        name: str,
        arguments: bytes,
    ) -> bytes:
        """Answer a query of any execution that this worker hosts, open or closed.

        Raises:
            QueryFailed: there is no such query, its handler raised, or the run is blocked.
        """
        engine = self._engine
        for _ in range(_QUERY_TRIES):
            keeper = self._keeper
            if keeper is None:
                raise QueryFailed(workflow_id=workflow_id, query=name, reason="the worker stops")
            run = keeper.cache.find(namespace, workflow_id, execution_id)
            if run is not None and not (run.loading or run.releasing):
                try:
                    return await keeper.query(run, name, arguments)
                except Superseded:
                    continue
            if run is None:
                row = await engine.store.latest(engine.target(namespace, workflow_id, execution_id))
                if row is None:
                    raise WorkflowNotFound(workflow_id=workflow_id)
                if row.type not in self._workflows:
                    other = self._neighbour_for(row.type, workflow_id, name)
                    return await other.query(namespace, workflow_id, execution_id, name, arguments)
                if row.status is not RunStatus.RUNNING:
                    return await self._query_at_rest(row.shard, row.run_id, name, arguments)
                with keeper.loading.claiming(), keeper.cache.pinned(row.execution_id):
                    loaded = await engine.store.claim_run(self._worker_id, row.shard, row.run_id)
                    if loaded is not None:
                        keeper.loading.adopt(loaded)
                        run = keeper.cache.get(row.execution_id)
                        if run is not None and run.may_be_fed():
                            with suppress(Superseded):
                                return await keeper.query(run, name, arguments)
                if loaded is not None:
                    continue
            await asyncio.sleep(0.01)
        raise QueryFailed(workflow_id=workflow_id, query=name, reason="the run is busy; ask again")

    def _neighbour_for(self, kind: str, workflow_id: str, query: str) -> "Worker":
        """Another worker of this process, which hosts what this one does not."""
        for host in self._engine.hosts:
            if isinstance(host, Worker) and kind in host._workflows:
                return host
        raise QueryFailed(
            workflow_id=workflow_id, query=query, reason=f"no worker here hosts {kind}"
        )

    async def _query_at_rest(self, shard: int, run_id: bytes, name: str, arguments: bytes) -> bytes:
        """A closed run still answers, from a replay; so does a blocked one, if it replays."""
        loaded = await self._engine.store.load(shard, run_id)
        assert loaded is not None
        definition = self._workflows[loaded.row.type]
        code = WorkflowRun(definition, id_text(run_id), registry.signals)
        code.loop.conceals = self._client.records.conceals
        try:
            replay(code, self._client.records.opened(loaded).history)
            return code.answer(name, arguments)
        except QueryFailed:
            raise
        except EverlongError as error:
            raise QueryFailed(
                workflow_id=loaded.row.workflow_id, query=name, reason=str(error)
            ) from error
        finally:
            code.discard()


_QUERY_TRIES: Final = 200
