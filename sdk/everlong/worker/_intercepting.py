"""Interceptors around attempts of activities, wherever their code runs.

The interceptors themselves run on the worker's loop, in the attempt's context; what they set there
is seen by the code of the activity, in a thread too. Into a process only arguments go.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Self, TypeAlias

from everlong._context import CompletedElsewhere
from everlong._failures import decode_failure
from everlong._interception import Methods, headers_of, through
from everlong.interceptors import ExecuteActivity
from everlong.worker._attempts import (
    Attempt,
    AttemptContext,
    Died,
    Later,
    Pools,
    Raised,
    Succeeded,
    perform,
)
from everlong.worker._pool import ProcessDied, ProcessPool, perform_in_process
from everlong_engine import Failure, unpack

__all__ = ["Around"]

Function: TypeAlias = Callable[..., Awaitable[Any]]


class Around:
    """Those of one worker."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    @classmethod
    def of(cls, methods: Methods) -> Self | None:
        """None where nobody stands around attempts."""
        return cls(methods) if methods else None

    def __call__(self, attempt: Attempt, function: Function) -> Function:
        """A function with all of them around it."""

        async def end(call: ExecuteActivity) -> Any:
            return await function(*call.args, **call.kwargs)

        async def called(*args: Any, **kwargs: Any) -> Any:
            call = ExecuteActivity(
                workflow_id=attempt.place.workflow_id,
                activity=attempt.definition.name,
                attempt=attempt.attempt,
                args=args,
                kwargs=kwargs,
                headers=headers_of(attempt.scheduled.headers),
            )
            return await through(self._methods, call, end)

        return called

    def launch(
        self, attempt: Attempt, activity: AttemptContext, context: Context, pools: Pools
    ) -> "asyncio.Future[Any]":
        """In the place of a worker's own."""
        loop = asyncio.get_running_loop()
        definition = attempt.definition
        if definition.is_async:
            performing: Any = perform(attempt, self(attempt, definition.function))
        elif definition.process:
            performing = self._in_process(attempt, activity, pools.processes())
        else:
            activity.loop = loop
            performing = perform(
                attempt, self(attempt, partial(_in_thread, attempt, activity, pools))
            )
        task: asyncio.Future[Any] = loop.create_task(performing, context=context)
        attempt.interrupt = partial(_interrupt, task, activity, process=definition.process)
        return task

    async def _in_process(
        self, attempt: Attempt, activity: AttemptContext, pool: ProcessPool
    ) -> Succeeded | Raised | Died | Later:
        definition = attempt.definition
        function = definition.function
        place = (function.__module__, function.__qualname__)
        failure: Failure | None = None
        died = ""

        async def there(*args: Any, **kwargs: Any) -> Any:
            nonlocal failure, died
            arguments = definition.parameters.encode(args, kwargs)
            try:
                ok, data = await perform_in_process(pool, *place, arguments, activity)
            except ProcessDied as error:
                died = str(error)
                raise
            if ok is None:
                raise CompletedElsewhere
            if ok:
                return definition.result.decode(data)
            failure = Failure.from_wire(unpack(data))
            raise decode_failure(failure, definition.exceptions, strict=False)

        outcome = await perform(attempt, self(attempt, there))
        if not isinstance(outcome, Raised):
            return outcome
        if died:
            return Died(died)
        if failure is not None and outcome.failure.type == failure.type:
            return Raised(failure)  # With the traceback from where it was raised.
        return outcome


def _interrupt(task: "asyncio.Future[Any]", activity: AttemptContext, *, process: bool) -> None:
    """Ask the code to end, as far as it can be asked: not what runs in a thread or a process."""
    work = activity.work
    if work is None or (not process and work.cancel()):
        task.cancel()


async def _in_thread(
    attempt: Attempt, activity: AttemptContext, pools: Pools, *args: Any, **kwargs: Any
) -> Any:
    function = partial(attempt.definition.function, *args, **kwargs)
    context = copy_context()  # With what the interceptors have set.
    work: Future[Any] = pools.threads().submit(lambda: context.run(_boxed, function))
    activity.work = work
    value, error = await asyncio.wrap_future(work)
    if error is not None:
        raise error
    return value


def _boxed(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """No exception through a future: some would end the loop that waits for it."""
    try:
        return function(), None
    except BaseException as error:
        return None, error
