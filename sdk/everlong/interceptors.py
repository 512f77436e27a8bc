"""Code around calls: of a client, of workflow code, of activities; and what travels beside them.

An interceptor is an object with some of the methods of `Interceptor`. Each stands around one kind
of call: it sees it, may change its arguments or headers, hands it on with `await next(call)`, and
sees what comes back. Headers are small named values beside the arguments. They are recorded with
the event that they belong to, so that a replay sees the same, and encrypted where payloads are.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self, TypeAlias, TypeVar

from everlong.exceptions import DefinitionError

__all__ = [
    "CallActivity",
    "CallChild",
    "CancelWorkflow",
    "ContextPropagator",
    "ExecuteActivity",
    "ExecuteWorkflow",
    "Interceptor",
    "Next",
    "QueryWorkflow",
    "SignalWorkflow",
    "StartWorkflow",
    "TerminateWorkflow",
    "UpdateWorkflow",
]

C = TypeVar("C")

Next: TypeAlias = Callable[[C], Awaitable[Any]]
"""Hands the call on: to the next interceptor, and behind the last one to what does it."""

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Arguments and headers may be changed with `dataclasses.replace`; the rest is for reading."""

    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithArguments(_Call):
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, Any] = field(default_factory=lambda: _NONE)

    def with_headers(self, headers: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """The same call with further headers; those of these names are replaced.

        Names are texts; values are plain (texts, numbers, bytes, lists, maps), 16 KB together.
        """
        return replace(self, headers={**self.headers, **(headers or {}), **more})


# ------------------------------------------------------------------------------ what a client does


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorkflow(_WithArguments):
    """`client.start` and `client.run`: its result is the handle."""

    workflow: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalWorkflow(_Call):
    """`handle.signal`. It has no headers: what belongs to a signal goes into its value."""

    signal: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateWorkflow(_WithArguments):
    """`handle.update` and `handle.start_update`, whose result in the client is the
    `UpdateHandle`; and, in the workflow, one call of its handler."""

    update: str
    update_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryWorkflow(_WithArguments):
    """`handle.query`; and, in the workflow, one call of its handler."""

    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelWorkflow(_Call):
    """`handle.cancel`."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateWorkflow(_Call):
    """`handle.terminate`."""

    reason: str


# ------------------------------------------------------------------------------ what a worker does


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteWorkflow(_WithArguments):
    """One run of a workflow function. Replayed with it."""

    workflow: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteActivity(_WithArguments):
    """One attempt of an activity."""

    activity: str
    attempt: int
    """1 for the first."""


# ------------------------------------------------------------------------ what workflow code calls


@dataclass(frozen=True, slots=True, kw_only=True)
class CallActivity(_WithArguments):
    """`await activity(…)` in a workflow; `workflow_id` is the caller's."""

    activity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallChild(_WithArguments):
    """`await workflow(…)` or `await workflow.start(…)` in a workflow; `workflow_id` is the
    caller's. The result is the child's, or for `start` only an object to be handed back."""

    workflow: str
    waits: bool
    """Whether its end is waited for."""


class Interceptor:
    """What stands around calls. Derive from it, and write the methods that you need.

    Each method gets the call and `next`, hands on with `await next(call)`, exactly once, and
    returns what comes back. Raising instead refuses the call.

        class Timed(Interceptor):
            async def execute_activity(
                self, call: ExecuteActivity, next: Next[ExecuteActivity]
            ) -> Any:
                began = time.monotonic()
                try:
                    return await next(call)
                finally:
                    logging.info("%s took %.1f s", call.activity, time.monotonic() - began)

    Give the object to `Client.connect(interceptors=[…])`; a worker has its client's, and then its
    own. Of several, the first is the outermost.

    What people get wrong: `execute_workflow`, `handle_update`, `call_activity` and `call_child`
    are workflow code. They run again on replay and must decide the same: no clocks, no chance,
    nothing from outside. For a log line that must not come twice look at `info().replaying`.
    """

    async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
        """In a client: around a start."""
        return await next(call)

    async def signal_workflow(self, call: SignalWorkflow, next: Next[SignalWorkflow]) -> Any:
        """In a client: around the sending of a signal."""
        return await next(call)

    async def update_workflow(self, call: UpdateWorkflow, next: Next[UpdateWorkflow]) -> Any:
        """In a client: around the sending of an update; its result is waited for later."""
        return await next(call)

    async def query_workflow(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
        """In a client: around a query, up to its answer."""
        return await next(call)

    async def cancel_workflow(self, call: CancelWorkflow, next: Next[CancelWorkflow]) -> Any:
        """In a client: around a request to cancel."""
        return await next(call)

    async def terminate_workflow(
        self, call: TerminateWorkflow, next: Next[TerminateWorkflow]
    ) -> Any:
        """In a client: around a termination."""
        return await next(call)

    async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
        """In a workflow: around its function. Begins anew with every run, and on replay."""
        return await next(call)

    async def handle_update(self, call: UpdateWorkflow, next: Next[UpdateWorkflow]) -> Any:
        """In a workflow: around the handler of an update, which has passed its validator."""
        return await next(call)

    async def handle_query(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
        """In a workflow: around the handler of a query. It only looks, and waits for nothing."""
        return await next(call)

    async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
        """In a workflow: around the call of an activity, up to its outcome over all attempts."""
        return await next(call)

    async def call_child(self, call: CallChild, next: Next[CallChild]) -> Any:
        """In a workflow: around the call of a child."""
        return await next(call)

    async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
        """On a worker: around one attempt of an activity, on the worker's loop. Anything may be
        done here that an activity may do."""
        return await next(call)


class ContextPropagator(Interceptor):
    """Carries context variables from a client into workflows, their activities and children.

        tenant: ContextVar[str] = ContextVar("tenant")

        Client.connect("orders.db", interceptors=[ContextPropagator(tenant)])

    A variable that is set where `client.start` is called is set in the workflow, in its activities
    (also those in threads), in its children, and when it begins anew; what the workflow sets
    travels on from there. Updates and queries bring their caller's. What people get wrong: a
    variable that is not set is not carried, whatever its default; and in an activity with
    `process=True` it is not there: pass it as an argument.

    Args:
        variables: those to carry, each under its own name. Their values are plain data.

    Raises:
        DefinitionError: not context variables, or two of the same name.
    """

    def __init__(self, *variables: ContextVar[Any]) -> None:
        self._variables: dict[str, ContextVar[Any]] = {}
        for one in variables:
            if not isinstance(one, ContextVar):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(f"ContextPropagator takes context variables, not {one!r}")
            if one.name in self._variables:
                raise DefinitionError(
                    f"two context variables are called {one.name!r}, and a header has one value"
                )
            self._variables[one.name] = one

    def _outgoing(self, call: Any) -> Any:
        found = {name: one.get(_UNSET) for name, one in self._variables.items()}
        headers = {name: value for name, value in found.items() if value is not _UNSET}
        return call.with_headers(headers) if headers else call

    def _incoming(self, call: _WithArguments) -> None:
        for name, one in self._variables.items():
            if name in call.headers:
                one.set(call.headers[name])

    async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
        """Out."""
        return await next(self._outgoing(call))

    async def update_workflow(self, call: UpdateWorkflow, next: Next[UpdateWorkflow]) -> Any:
        """Out."""
        return await next(self._outgoing(call))

    async def query_workflow(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
        """Out."""
        return await next(self._outgoing(call))

    async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
        """Out."""
        return await next(self._outgoing(call))

    async def call_child(self, call: CallChild, next: Next[CallChild]) -> Any:
        """Out."""
        return await next(self._outgoing(call))

    async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
        """In."""
        self._incoming(call)
        return await next(call)

    async def handle_update(self, call: UpdateWorkflow, next: Next[UpdateWorkflow]) -> Any:
        """In."""
        self._incoming(call)
        return await next(call)

    async def handle_query(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
        """In."""
        self._incoming(call)
        return await next(call)

    async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
        """In."""
        self._incoming(call)
        return await next(call)


_UNSET: Final[Any] = object()
