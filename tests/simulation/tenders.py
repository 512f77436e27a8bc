"""Clients that begin flows, and tell them to end, to go back, or to note where they stand."""

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final

from everlong import Client, EverlongError, InvalidArguments, WorkflowHandle
from everlong.streams import Position, StreamControl
from tests.simulation.plan import Errand, program_name
from tests.simulation.reading import STREAMS, read_on

if TYPE_CHECKING:
    from tests.simulation.judge import Judge
    from tests.simulation.world import Process, World

__all__ = ["TENDS", "Tender", "end_flow"]

TENDS: Final = ("read", "drain", "rewind", "savepoint")


class Tender:
    """One sender's. Like the sender it outlives the processes it runs in, and what it has chosen
    once it asks for again."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._chance = Random(f"{world.plan.seed}/tender {number}")
        self._chosen: dict[str, dict[int, int | None]] = {}

    async def begin(
        self, client: Client, errand: Errand, request: str | None
    ) -> WorkflowHandle[Any]:
        name = errand.workflow_id
        return await client.start(
            read_on, name, id=name, if_open="use", if_closed="fail", request_id=request
        )

    async def go(
        self, process: "Process", client: Client, errand: Errand, request: str | None
    ) -> None:
        world, flow = self._world, self._world.flows[errand.workflow_id]
        control = STREAMS[flow.stream].control(client.get_handle(flow.name))
        match errand.what:
            case "drain":
                await control.drain(request_id=request)
            case "rewind":
                if world.healed_us is not None:
                    return
                try:
                    place = await self._place(errand, control)
                    await control.rewind(place, request_id=request)
                except InvalidArguments:
                    world.reached("rewind: nothing was read")
                    return
            case _:
                try:
                    await control.savepoint(errand.text, wait=3.0, request_id=request)
                except InvalidArguments:
                    world.reached("savepoint refused")
                    return
                except EverlongError as error:
                    world.told(process, f"savepoint {flow.name}: {error}")
                    world.reached("savepoint not there in time")
                    return
        world.told(process, f"acknowledged: {errand.what} {flow.name}")
        world.reached(f"acknowledged: {errand.what}")

    async def _place(self, errand: Errand, control: StreamControl) -> dict[int, int | None]:
        """Somewhere in what was read by the time when this was asked first."""
        if errand.text not in self._chosen:
            now = await control.position()
            read: Mapping[str, Position] = {} if now is None else now.after
            partition = self._chance.choice(sorted(read) or ["0"])
            place = self._chance.randrange(-1, int(read.get(partition, -1)) + 1)
            self._chosen[errand.text] = {int(partition): None if place < 0 else place}
        return self._chosen[errand.text]


async def end_flow(
    world: "World", client: Client, execution_id: bytes, number: int, judge: "Judge"
) -> None:
    """The operator's: a flow that has read everything is asked to end. There are no faults, so
    everything is read before long."""
    book = world.journal.last_run(execution_id)
    flow = world.flows[program_name(book.workflow_id)]
    if world.journal.readings.has_all(book, flow):
        await STREAMS[flow.stream].control(client.get_handle(book.workflow_id)).drain()
    else:
        judge.may_wait_for_messages(book, number)
