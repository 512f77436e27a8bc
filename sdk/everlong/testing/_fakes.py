"""What stands in for activities, and what each attempt was called with.

A fake runs where the activity would: in an attempt of its own, with what comes out of decoding, and
what it returns or raises is encoded like the real thing. What is asked for "on demand" (to fail, to
hang, to be lost) meets the next attempts first, in the order in which it was asked for.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from everlong._definitions import ActivityDefinition
from everlong.activity import Activity
from everlong.exceptions import ApplicationError, DefinitionError, EverlongError
from everlong.worker._activities import ActivityRunner
from everlong.worker._attempts import (
    Attempt,
    AttemptContext,
    Died,
    Launch,
    Pools,
    launch,
    perform,
)
from everlong.worker._intercepting import Around
from everlong_engine import ActivityOptions

__all__ = ["ActivityCall", "Fakes"]

_TIMES_MAX: Final = 10_000
_NOT_FAKED: Final = (
    "activity {name} has no fake, and this Environment has fakes_only=True: give it one with "
    "env.fake({name}, …)"
)
_NO_LIMIT: Final = (
    "env.time_out({name}): this call has no timeout, so the attempt would hang for ever. Give "
    "the activity a timeout, a heartbeat_timeout or a schedule_to_close"
)


@dataclass(frozen=True, slots=True)
class ActivityCall:
    """One attempt of an activity, as a test sees it."""

    workflow_id: str
    args: tuple[Any, ...]
    """What was given for parameters that can be given by position, defaults included."""
    kwargs: dict[str, Any]
    """What was given for the others."""
    attempt: int
    """1 for the first."""
    at: datetime
    """When it began, on the environment's clock."""


@dataclass(frozen=True, slots=True)
class _Fails:
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Hangs:
    pass


@dataclass(frozen=True, slots=True)
class _IsLost:
    pass


@dataclass(slots=True)
class _Plan:
    """What meets the attempts of one activity."""

    demands: "deque[_Fails | _Hangs | _IsLost]" = field(default_factory=deque[Any])
    fake: Callable[..., Any] | None = None
    calls: list[ActivityCall] = field(default_factory=list[ActivityCall])


class Fakes:
    """Those of one environment.

    Args:
        only: an activity without a fake fails.
        hang: waits for ever, on the environment's clock.
        now: what that clock shows.
    """

    def __init__(self, *, only: bool, hang: Callable[[], Any], now: Callable[[], datetime]) -> None:
        self._only = only
        self._hang = hang
        self._now = now
        self._plans: dict[str, _Plan] = {}
        self._around: Around | None = None
        self._launch: Launch = launch
        self.missing: list[str] = []
        """What ran into `only`, for whoever looks at the end."""

    def stand_in_for(self, runner: ActivityRunner) -> None:
        """Take the attempts of a worker that begins. Its interceptors stand around fakes too."""
        bench = runner.bench
        self._around, self._launch = runner.around, bench.launch
        bench.launch = self.launch

    # --------------------------------------------------------------------------- what tests ask

    def put(self, activity: Any, fake: Callable[..., Any]) -> None:
        """Let every attempt from now on be the fake's."""
        definition = definition_of(activity, "fake")
        _require_fit(definition, fake)
        self._plan(definition).fake = fake

    def put_result(self, activity: Any, result: Any) -> None:
        definition = definition_of(activity, "fake")
        definition.result.encode(result)  # Refused here, where the mistake is.
        self._plan(definition).fake = lambda *_, **__: result

    def put_error(self, activity: Any, error: Any) -> None:
        definition = definition_of(activity, "fake")
        raised = _exception(error, "raises")

        def fail(*_: Any, **__: Any) -> Any:
            raise _fresh(raised)

        self._plan(definition).fake = fail

    def demand_failure(self, activity: Any, error: Any, times: int) -> None:
        definition = definition_of(activity, "fail")
        self._demand(definition, _Fails(_exception(error, "error")), times)

    def demand_timeout(self, activity: Any, times: int) -> None:
        self._demand(definition_of(activity, "time_out"), _Hangs(), times)

    def demand_loss(self, activity: Any, times: int) -> None:
        self._demand(definition_of(activity, "lose"), _IsLost(), times)

    def calls(self, activity: Any) -> list[ActivityCall]:
        return list(self._plan(definition_of(activity, "calls")).calls)

    def _demand(
        self, definition: ActivityDefinition, what: "_Fails | _Hangs | _IsLost", times: int
    ) -> None:
        if type(times) is not int or not 1 <= times <= _TIMES_MAX:
            raise ValueError(f"times={times!r}: give a number from 1 to {_TIMES_MAX}")
        self._plan(definition).demands.extend([what] * times)

    def _plan(self, definition: ActivityDefinition) -> _Plan:
        return self._plans.setdefault(definition.name, _Plan())

    # ---------------------------------------------------------------------------- one attempt

    def launch(
        self, attempt: Attempt, activity: AttemptContext, context: Context, pools: Pools
    ) -> "asyncio.Future[Any]":
        """In the place of the worker's own."""
        plan = self._plan(attempt.definition)
        self._record(plan, attempt)
        if plan.demands:
            performing = self._meet(plan.demands.popleft(), attempt)
        elif plan.fake is attempt.definition.function:
            return self._launch(attempt, activity, context, pools)
        elif plan.fake is not None:
            performing = self._perform(attempt, plan.fake)
        elif self._only:
            self.missing.append(attempt.definition.name)
            missing = _NOT_FAKED.format(name=attempt.definition.name)
            performing = self._meet(_Fails(ApplicationError(missing, retryable=False)), attempt)
        else:
            return self._launch(attempt, activity, context, pools)
        task = asyncio.get_running_loop().create_task(performing, context=context)
        attempt.interrupt = task.cancel
        return task

    def _record(self, plan: _Plan, attempt: Attempt) -> None:
        try:
            args, kwargs = attempt.definition.parameters.decode(attempt.scheduled.arguments)
        except EverlongError:
            return  # The attempt itself meets it, and says so.
        plan.calls.append(
            ActivityCall(attempt.place.workflow_id, args, kwargs, attempt.attempt, self._now())
        )

    async def _meet(self, demand: "_Fails | _Hangs | _IsLost", attempt: Attempt) -> Any:
        match demand:
            case _IsLost():
                return Died("it was lost on demand, as if its worker had died")
            case _Fails():
                return await self._perform(attempt, _raising(demand.error))
            case _Hangs() if not _has_limit(attempt.scheduled.options):
                error = _NO_LIMIT.format(name=attempt.definition.name)
                fault = ApplicationError(error, retryable=False)
                return await self._perform(attempt, _raising(fault))
            case _Hangs():
                return await self._perform(attempt, self._hanging)

    async def _perform(self, attempt: Attempt, fake: Callable[..., Any]) -> Any:
        function = _awaiting(fake)
        return await perform(attempt, self._around(attempt, function) if self._around else function)

    async def _hanging(self, *_: Any, **__: Any) -> Any:
        await self._hang()


def definition_of(activity: Any, method: str) -> ActivityDefinition:
    """Raises DefinitionError when it is none."""
    if not isinstance(activity, Activity):
        raise DefinitionError(
            f"env.{method}() takes a function decorated with @activity, not {activity!r}"
        )
    definition: ActivityDefinition = activity.definition
    return definition


def _require_fit(definition: ActivityDefinition, fake: Any) -> None:
    """A fake is called as the activity is; Python itself says whether it can be."""
    if isinstance(fake, Activity) or not callable(fake):
        raise DefinitionError(
            f"env.fake({definition.name}, {fake!r}): give a function, or returns=… or raises=…"
        )
    try:
        signature = inspect.signature(fake)
    except (TypeError, ValueError):
        return  # A builtin that does not tell.
    taken = inspect.signature(definition.function)
    parameters = list(taken.parameters.values())
    if definition.transactional and fake is not definition.function:
        parameters = parameters[1:]  # Whoever calls it does not pass the transaction.
        taken = taken.replace(parameters=parameters)
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    try:
        signature.bind(*placed, **dict.fromkeys(named))
    except TypeError as error:
        raise DefinitionError(
            f"a fake of activity {definition.name} takes what it takes, "
            f"{taken}; this one is {signature}: {error}"
        ) from None


def _exception(error: Any, name: str) -> Exception:
    """An exception, or a class of one that needs no arguments."""
    if isinstance(error, type) and issubclass(error, Exception):
        error = error()
    if not isinstance(error, Exception):
        raise DefinitionError(f"{name}={error!r}: give an exception, such as ValueError('no')")
    return error


def _fresh(error: BaseException) -> BaseException:
    """Raised again and again, one object would collect the tracebacks of all."""
    return error.with_traceback(None)


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise _fresh(error)

    return fail


def _awaiting(fake: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = fake(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return call


def _has_limit(options: ActivityOptions) -> bool:
    limits = (options.start_to_close_us, options.schedule_to_close_us, options.heartbeat_us)
    return any(limit is not None for limit in limits)
