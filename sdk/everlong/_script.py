"""`run`: a workflow from a plain script, with everything it needs in one process."""

import asyncio
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from everlong.client import Client
from everlong.worker import Worker
from everlong.workflow import Workflow

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")


def run(
    workflow: "Workflow[..., R]",
    /,
    *args: Any,
    db: str | Path = "everlong.db",
    id: str | None = None,
    **kwargs: Any,
) -> R:
    """Run a workflow to its end and return its result. For scripts; not inside a running loop.

    Run the script again after a crash: under the same `id` (the workflow's name unless given) an
    execution that is open goes on where it stood. One that has ended is started anew.

        print(everlong.run(order, 17, db="orders.db"))

    Raises:
        WorkflowFailed and the like: see `WorkflowHandle.result`.
        StoreOwned: another process has workers on the file.
    """

    async def main() -> R:
        async with Client.connect(db) as client, Worker(client):
            name = id or workflow.definition.name
            handle = await client.start(workflow, *args, id=name, **kwargs)
            return await handle.result()

    return asyncio.run(main())
