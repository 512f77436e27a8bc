"""`run`: a workflow from a plain script, with everything it needs in one process."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, TypeVarTuple, overload

from everlong.client import Client, WorkflowHandle
from everlong.codec import Codec
from everlong.exceptions import WorkflowFault
from everlong.interceptors import Interceptor
from everlong.worker import Worker
from everlong.workflow import Workflow

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
Ts = TypeVarTuple("Ts")

_LOOK_S: Final = 0.5


# As in `client.start`: with no options, or by position, type checkers see every argument.
@overload
def run(workflow: "Workflow[P, R]", /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def run(
    workflow: Callable[[*Ts], Coroutine[object, None, R]],
    /,
    *args: *Ts,
    db: str | Path = "everlong.db",
    id: str | None = None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
) -> R: ...
@overload
def run(
    workflow: "Workflow[..., R]",
    /,
    *,
    db: str | Path,
    id: str | None = None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
    **kwargs: Any,
) -> R: ...
@overload
def run(
    workflow: "Workflow[..., R]",
    /,
    *,
    db: str | Path = "everlong.db",
    id: str | None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
    **kwargs: Any,
) -> R: ...
@overload
def run(
    workflow: "Workflow[Concatenate[A, ...], R]",
    first: A,
    /,
    *,
    db: str | Path,
    id: str | None = None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
    **kwargs: Any,
) -> R: ...
@overload
def run(
    workflow: "Workflow[Concatenate[A, ...], R]",
    first: A,
    /,
    *,
    db: str | Path = "everlong.db",
    id: str | None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
    **kwargs: Any,
) -> R: ...
@overload
def run(
    workflow: "Workflow[Concatenate[A, B, ...], R]",
    first: A,
    second: B,
    /,
    *,
    db: str | Path,
    id: str | None = None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
    **kwargs: Any,
) -> R: ...
@overload
def run(
    workflow: "Workflow[Concatenate[A, B, ...], R]",
    first: A,
    second: B,
    /,
    *,
    db: str | Path = "everlong.db",
    id: str | None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
    **kwargs: Any,
) -> R: ...
def run(  # type: ignore[misc]  # its options stand beside the workflow's own
    workflow: "Workflow[..., R]",
    /,
    *args: Any,
    db: str | Path = "everlong.db",
    id: str | None = None,
    codecs: Sequence[Codec] = (),
    interceptors: Sequence[Interceptor] = (),
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
        connected = Client.connect(db, codecs=codecs, interceptors=interceptors)
        async with connected as client, Worker(client):
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
