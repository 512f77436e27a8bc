"""Those who hold executions and let them go on: one, all of a type, or everything."""

from typing import TYPE_CHECKING

from everlong import Client, EverlongError, InvalidArguments
from tests.simulation.plan import TYPE, Errand

if TYPE_CHECKING:
    from tests.simulation.world import Process

__all__ = ["hold", "release_all"]


async def hold(process: "Process", client: Client, errand: Errand, request: str | None) -> None:
    """Pause, or resume, as an errand says. Once all is healed nobody pauses any more."""
    world = process.world
    kind = TYPE if errand.text.startswith(TYPE) else None
    if errand.what == "pause" and world.healed_us is not None:
        return
    request_id = None if request is None else f"{errand.what} {request}"
    try:
        if errand.workflow_id:
            handle = client.get_handle(errand.workflow_id)
            if errand.what == "pause":
                await handle.pause(reason="simulated", by="ann", request_id=request_id)
            else:
                await handle.resume(request_id=request_id)
        elif errand.what == "pause":
            await client.pause(type=kind, reason="simulated", by="ann", request_id=request_id)
        else:
            await client.resume(type=kind, request_id=request_id)
    except InvalidArguments:
        world.reached("resume: nothing is paused")
        return
    world.told(process, f"acknowledged: {errand.what} {errand.workflow_id or kind or 'everything'}")
    world.reached(f"acknowledged: {errand.what}")


async def release_all(process: "Process", client: Client) -> None:
    """The operator's: nothing stays held."""
    try:
        for one in await client.paused():
            if one.workflow_id is not None:
                await client.get_handle(one.workflow_id).resume()
            else:
                await client.resume(type=one.type)
    except EverlongError as error:
        process.world.told(process, f"resume: {error}")
