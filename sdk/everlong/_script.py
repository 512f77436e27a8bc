"""`run`: a workflow from a plain script, with everything it needs in one process."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from everlong.client import Client, WorkflowHandle
from everlong.codec import Codec
from everlong.exceptions import WorkflowFault
from everlong.worker import Worker
from everlong.workflow import Workflow

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_S: Final = 0.5


def run(
    workflow: "Workflow[..., R]",
    /,
    *args: Any,
    db: str | Path = "everlong.db",
    id: str | None = None,
    codecs: Sequence[Codec] = (),
    **kwargs: Any,
) -> R:
    """Run a workflow to its end and return its result. For scripts; not inside a running loop.

    Run the script again after a crash: under the same `id` (the workflow's name unless given) an
    execution that is open goes on where it stood. One that has ended is started anew.

        print(everlong.run(order, 17, db="orders.db"))

    Raises:
        WorkflowFailed and the like: see `WorkflowHandle.result`.
        WorkflowFault: the run is blocked by a fault in its code. Fix it and run the script again.
        StoreOwned: another process has workers on the file.
    """

    async def main() -> R:
        async with Client.connect(db, codecs=codecs) as client, Worker(client):
            name = id or workflow.definition.name
            handle = await client.start(workflow, *args, id=name, **kwargs)
            return await _result_or_fault(handle)

    return asyncio.run(main())


async def _result_or_fault(handle: WorkflowHandle[R]) -> R:
    """A blocked run waits for its code to be fixed; a script should not wait with it."""
    result = asyncio.get_running_loop().create_task(handle.result())
    while True:
        await asyncio.wait([result], timeout=_LOOK_S)
        if result.done():
            return result.result()
        seen = await handle.describe()
        if seen.status == "blocked":
            result.cancel()
            raise WorkflowFault(
                f"{handle.workflow_id!r} is blocked, and goes on where it stands once its code is "
                f"fixed. {seen.reason}",
                workflow_id=handle.workflow_id,
                run_id=seen.run_id,
            )
