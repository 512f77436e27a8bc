"""What runs inside simulated processes: the real Worker and Client over a faulty store."""

# tidy: this file sleeps because its clock is the simulation's

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from everlong import (
    Client,
    EverlongError,
    QueryFailed,
    StoreError,
    StoreOwned,
    TaskQueue,
    UpdateFailed,
    UpdateRejected,
    UpdateUnfinished,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowNotFound,
    WorkflowPool,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from everlong.client._terms import Terms
from everlong_engine import Engine, RunStarted, SignalReceived
from tests.simulation.carrying import act, carry_out, later
from tests.simulation.language import letters, position, wishes
from tests.simulation.menders import MENDS, Mender
from tests.simulation.plan import APART, Errand
from tests.simulation.reading import read_on, save
from tests.simulation.stewards import hold
from tests.simulation.tenders import TENDS, Tender
from tests.simulation.visitors import VISITS, Visitor

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

__all__ = [
    "Acknowledged",
    "Sender",
    "client_of",
    "client_process",
    "stop_in_order",
    "worker_process",
]

_AGAIN_S: Final = 0.5
_TRIES: Final = 60
_GARBAGE: Final = b"\xd9\xff cut off"
"""A payload that nobody can decode."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Something that a client was told is done."""

    errand: Errand
    sender: int
    execution_id: bytes
    sent_us: int
    """When it was sent first."""
    acknowledged_us: int
    answer: str = ""
    """What a wish came to."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An end that a client saw."""

    workflow_id: str
    stored: bool
    """Whether an execution of that id had ended by then."""


def client_of(process: "Process") -> Client:
    """A client over the process's own engine, as `Client.connect` makes it over a file."""
    chance = Random(f"{process.world.plan.seed}/{process.name}/engine")
    engine = process.loop.run_inline(lambda: Engine(process.store, process.clock, chance))
    engine._users = 1  # pyright: ignore[reportPrivateUsage]
    client = Client.connect("simulated")
    client._engine = engine  # pyright: ignore[reportPrivateUsage]
    return client


class SimulatedWorker(Worker):
    """A worker whose process ends when it can no longer trust the store, as the CLI's does."""

    on_store_failed: Callable[[], None]
    limits_of_code: Sequence[TaskQueue | WorkflowPool] = ()

    def _declared(self) -> list[TaskQueue | WorkflowPool]:
        return list(self.limits_of_code)

    @property
    def has_failed(self) -> bool:
        """Whether its process can no longer trust the store."""
        return self._client.engine.commits.failed is not None

    def store_failed(self, error: StoreError) -> None:
        super().store_failed(error)
        self.on_store_failed()


def worker_process(process: "Process", senders: "list[Sender]") -> None:
    """Begin a worker in a process, and with it the senders of a program that embeds it."""
    world = process.world
    client = client_of(process)
    options: dict[str, Any] = {
        "activities": [act, later, save] if world.flows else [act, later],
        "activity_slots": world.plan.slots,
        "stop_timeout": 1.0,
    }
    process.worker = SimulatedWorker(
        client,
        workflows=[carry_out, read_on] if world.flows else [carry_out],
        queues=["default"],
        cache_size=world.plan.cache_size,
        name=process.name,
        **options,
        **_versions(process),
    )
    if world.plan.queues:
        name = f"{process.name}/apart"
        queues = None if world.plan.helps else [APART]
        process.helper = SimulatedWorker(
            client, workflows=[], queues=queues, name=name, wait=2.0, **options
        )

    def failed() -> None:
        world.reached("store failed: process ended")
        process.stopping = True
        world.later(0, process.kill)

    for worker in (process.worker, process.helper):
        if isinstance(worker, SimulatedWorker):
            worker.limits_of_code = world.declared_limits()
            worker.on_store_failed = failed
            process.loop.spawn(_serve(process, worker))
    for sender in senders:
        process.loop.spawn(sender.go(process, client))


def _versions(process: "Process") -> dict[str, Any]:
    versioning = process.world.plan.versioning
    if not versioning:
        return {}
    return {
        "version": process.version_name,
        "versioning": versioning,
        "wait": 2.0,
    }


async def _serve(process: "Process", worker: SimulatedWorker) -> None:
    world = process.world
    while True:
        try:
            await worker.start()
        except StoreOwned:
            world.reached("second owner refused")
            await asyncio.sleep(_AGAIN_S)
        except StoreError:
            if worker.has_failed:
                worker.on_store_failed()
                return
            world.reached("worker could not start yet")
            await asyncio.sleep(_AGAIN_S)
        else:
            world.told(process, "serves")
            return


async def stop_in_order(process: "Process", worker: Worker) -> None:
    """What SIGTERM does."""
    process.stopping = True
    try:
        if process.helper is not None:
            await process.helper.stop()
        await worker.stop()
    except StoreError:
        process.world.reached("worker could not stop in order")
    process.world.later(0, process.kill)


def client_process(process: "Process", senders: "list[Sender]") -> None:
    client = client_of(process)
    for sender in senders:
        process.loop.spawn(sender.go(process, client))


class Sender:
    """One client's list of errands, done one after the other. Outlives the processes it runs in: a
    killed one is begun anew where it was, with the same request ids."""

    def __init__(self, world: "World", number: int, errands: tuple[Errand, ...]) -> None:
        self.world = world
        self.number = number
        self.errands = errands
        self.at = 0
        self.done = False
        self.acknowledged: list[Acknowledged] = []
        self.seen: list[Seen] = []
        self.visitor = Visitor(world, number)
        self.mender = Mender(world, number)
        self.tender = Tender(world, number)
        self._sent_us = 0
        self._sending = -1

    async def go(self, process: "Process", client: Client) -> None:
        while self.at < len(self.errands):
            errand = self.errands[self.at]
            await asyncio.sleep(errand.after_s)
            # One that was on its way when its process was killed is sent again if it has a request
            # id; nobody could tell otherwise whether it is the same.
            if errand.named or self._sending != self.at:
                await self._do(process, client, errand)
            self.at += 1
        self.done = True

    async def _do(self, process: "Process", client: Client, errand: Errand) -> None:
        if self._sending != self.at:  # Else it was sent before, by a process that was killed.
            self._sending, self._sent_us = self.at, self.world.schedule.now_us
        for _ in range(_TRIES if errand.named else 1):
            try:
                await self._once(process, client, errand)
            except StoreError as error:
                self.world.reached("client told: not stored")
                self.world.told(process, f"{errand.what} {errand.workflow_id}: {error}")
                await asyncio.sleep(_AGAIN_S)
            except (WorkflowNotFound, WorkflowClosed, WorkflowAlreadyStarted) as error:
                self.world.reached(f"client told: {type(error).__name__}")
                return
            except (QueryFailed, TimeoutError):
                self.world.reached(f"{errand.what} not answered")
                return
            except EverlongError as error:
                self.world.reached(f"client told: {type(error).__name__}")
                return
            else:
                return

    async def _once(self, process: "Process", client: Client, errand: Errand) -> None:
        request = errand.text if errand.named else None
        if errand.what == "start":
            await self._start(process, client, errand, request)
            return
        if errand.what == "read":
            handle = await self.tender.begin(client, errand, request)
            self._acknowledge(process, errand, handle)
            return
        if errand.what in TENDS:
            await self.tender.go(process, client, errand, request)
            return
        if errand.what == "poison":
            await self._poison(process, client, errand, request)
            return
        if errand.what in ("pause", "resume"):
            await hold(process, client, errand, request)
            return
        if errand.what in MENDS:
            await self.mender.go(process, client, errand, request)
            return
        if errand.what in VISITS:
            await self.visitor.go(process, client, errand, request)
            return
        handle = client.get_handle(errand.workflow_id, carry_out)
        if errand.what == "result":
            await self._result(handle, errand)
        elif errand.what == "query":
            found = await handle.query(position, timeout=3.0)
            self.world.reached("query answered")
            self.world.told(process, f"{errand.workflow_id} is at {found}")
        elif errand.what == "look":
            await handle.describe()
            self.world.reached("description read")
        elif errand.what == "list":
            await client.list(limit=10)
            self.world.reached("list read")
        else:
            await self._send(process, handle, errand, request)

    async def _start(
        self, process: "Process", client: Client, errand: Errand, request: str | None
    ) -> None:
        handle = await client.start(
            carry_out,
            list(self.world.plan.programs[errand.workflow_id]),
            id=errand.workflow_id,
            if_open=errand.if_open,
            if_closed=errand.if_closed,
            request_id=request,
        )
        self._acknowledge(process, errand, handle)

    async def _poison(
        self, process: "Process", client: Client, errand: Errand, request: str | None
    ) -> None:
        """A start as a program sends it whose types are others."""
        started = RunStarted(
            workflow=carry_out.definition.name,
            arguments=_GARBAGE,
            workflow_id=errand.workflow_id,
            seed=1,
            code="",
            python="",
        )
        result = await client._begin(  # pyright: ignore[reportPrivateUsage]
            client.engine, started, Terms(errand.if_open, errand.if_closed, request), None
        )
        handle: WorkflowHandle[Any] = WorkflowHandle(
            client, errand.workflow_id, execution_id=result.execution_id
        )
        self._acknowledge(process, errand, handle)

    async def _send(
        self, process: "Process", handle: WorkflowHandle[Any], errand: Errand, request: str | None
    ) -> None:
        # First by name, then that very execution: an acknowledgement must say whose it is.
        row = await handle._row()  # pyright: ignore[reportPrivateUsage]
        execution: WorkflowHandle[Any] = WorkflowHandle(
            handle._client,  # pyright: ignore[reportPrivateUsage]
            errand.workflow_id,
            execution_id=row.execution_id,
        )
        match errand.what:
            case "letter":
                await execution.signal(letters, errand.text, request_id=request)
            case "garbage":
                event = SignalReceived(letters.name, _GARBAGE)
                await execution._send(event, request)  # pyright: ignore[reportPrivateUsage]
            case "wish":
                self._acknowledge(process, errand, execution, await _wish(execution, errand))
                return
            case "cancel":
                await execution.cancel("simulated", request_id=request)
            case _:
                await execution.terminate("simulated")
        self._acknowledge(process, errand, execution)

    async def _result(self, handle: WorkflowHandle[Any], errand: Errand) -> None:
        try:
            async with asyncio.timeout(8.0):
                await handle.result()
        except TimeoutError:
            self.world.reached("result not there in time")
            return
        except (WorkflowFailed, WorkflowCancelled, WorkflowTerminated, WorkflowTimedOut):
            pass
        self.world.reached("result seen")
        self.seen.append(Seen(errand.workflow_id, self._has_ended(errand.workflow_id)))

    def _has_ended(self, workflow_id: str) -> bool:
        journal = self.world.journal
        return any(
            journal.executions[one][0].workflow_id == workflow_id for one in journal.was_over
        )

    def _acknowledge(
        self, process: "Process", errand: Errand, handle: WorkflowHandle[Any], answer: str = ""
    ) -> None:
        execution_id = handle._execution_id  # pyright: ignore[reportPrivateUsage]
        assert execution_id is not None
        self.world.told(process, f"acknowledged: {errand.what} {errand.workflow_id} {errand.text}")
        self.world.reached(f"acknowledged: {errand.what}")
        now_us = self.world.schedule.now_us
        self.acknowledged.append(
            Acknowledged(errand, self.number, execution_id, self._sent_us, now_us, answer)
        )


async def _wish(execution: WorkflowHandle[Any], errand: Errand) -> str:
    """What came of it: a result, or the name of what it met. TimeoutError is no answer."""
    try:
        async with asyncio.timeout(8.0):
            return await execution.update(wishes, errand.text, update_id=errand.text)
    except (UpdateRejected, UpdateFailed, UpdateUnfinished, WorkflowClosed) as error:
        return type(error).__name__
