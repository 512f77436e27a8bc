"""Durable agents: pydantic-ai's agents inside workflows.

An agent's loop (ask the model, call the tools that it wants, ask again) runs as workflow code. What
touches the world in it is one activity each: a request to a model, a call of a function tool, a
listing and a call of a tool of an MCP server. `EverlongDurability` plugs into what pydantic-ai
offers to engines for durable execution; outside a workflow the agent is the plain one.

The code of such an activity is made by the agent's loop, so it exists wherever the workflow was
replayed. What is recorded is its name, what it was called with as far as people want to see it, and
its result.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, tzinfo
from importlib import import_module
from sys import modules
from typing import Any, Final, Literal, TypedDict, cast

from pydantic.errors import PydanticUserError
from pydantic_ai import _utils, exceptions
from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.capabilities.abstract import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    CallableOperationBackend,
    DurabilityEngineSpec,
    DurableOperationBackend,
    DurableOperationId,
    JournalOperationNamer,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
    conversation_id_from_run_id,
    replay_scope,
)
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.toolsets import FunctionToolset

from everlong._context import current_run, user_line
from everlong._definitions import ActivityDefinition
from everlong._failures import ExceptionRegistry
from everlong._values import Parameters, Value
from everlong.activity import options_of
from everlong.exceptions import DefinitionError, EverlongError, PayloadError
from everlong.workflow import now, uuid4
from everlong_engine import ActivityOptions, OnCancel, Retry, pack

__all__ = ["EverlongDurability", "UnitOptions"]

_KEY: Final = "everlong"
_NO_METADATA: Final[Mapping[str, Any]] = {}
_Duration = Any  # float | timedelta: a TypedDict that pydantic may look at.


class UnitOptions(TypedDict, total=False):
    """Options of the activities that an agent's work becomes; as those of `@activity`."""

    retry: Retry
    timeout: _Duration
    schedule_to_close: _Duration
    schedule_to_start: _Duration
    heartbeat_timeout: _Duration
    at_most_once: bool
    on_cancel: OnCancel


class EverlongDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes an agent durable inside workflows; outside it is transparent.

        agent = Agent("openai:gpt-5", name="clerk", capabilities=[EverlongDurability()])

        @workflow
        async def handle_mail(text: str) -> str:
            return (await agent.run(text)).output

    Each request to a model, each call of a function tool and each call of an MCP server's tool is
    an activity of its own, named after the agent: `clerk__model.request`,
    `clerk__function_toolset__<agent>.call_tool:weather`. What was done before a crash is not done
    again.

    What people get wrong: the rest of the agent is workflow code. Instructions, output validators
    and hooks run again on replay, so they must not read clocks, files or networks; `deps` must be
    made from what the workflow knows, and a tool that changes `deps` changes them for nobody else
    after a crash. Names are recorded: keep the agent's `name`, and the `id` of each toolset.

    Args:
        model: options of the activities that ask a model.
        tools: of those that call function tools. One tool has its own in its metadata,
            `@agent.tool(metadata={"everlong": {"timeout": 30}})`; with `{"everlong": False}` it
            runs in the workflow itself, as workflow code.
        mcp: of those that ask MCP servers.
        events: of those that hand tool events to `event_stream_handler`.
        models: further models by a name, for `agent.run(…, model="name")` inside a workflow.
        event_stream_handler: sees the events of a model while they stream, inside the activity.
        name: names the activities instead of the agent's own name.

    Raises:
        DefinitionError: an option that there is not, or of a wrong type.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="Everlong",
        durable_unit_noun="activity",
        durable_unit_plural="activities",
        durable_container_noun="workflow",
        codec=JSON_CODEC,
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        wrapped_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        # A unit runs on the worker's loop, the agent on the run's own: neither may close what the
        # other has opened.
        toolset_lifecycles={
            "function": "enter-outside-durable",
            "mcp": "enter-outside-durable",
            "dynamic": "enter-never",
        },
        tool_config_key=_KEY,
    )

    def __init__(
        self,
        *,
        model: UnitOptions | None = None,
        tools: UnitOptions | None = None,
        mcp: UnitOptions | None = None,
        events: UnitOptions | None = None,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name)
        _use_time_of_runs()
        self._model = _options(model, "model")
        self._tools = _options(tools, "tools")
        self._mcp = _options(mcp, "mcp")
        self._events = _options(events, "events")
        self._known: ExceptionRegistry | None = None

    @property
    def in_durable_context(self) -> bool:
        """Whether the caller is workflow code."""
        return current_run() is not None

    def get_default_run_id(self) -> str | None:
        """The same on replay."""
        return str(uuid4()) if self.in_durable_context else None

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """The same on replay."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """The same on replay."""
        return now() if self.in_durable_context else None

    def get_durable_operation_backend(self) -> DurableOperationBackend[ActivityOptions]:
        """Part of pydantic-ai's protocol."""
        config = RoleBasedOperationConfig(
            model=self._model,
            event=self._events,
            capability=ActivityOptions(),
            tool=self._tools,
            resolve_tool=self._options_of_tool,
        )
        return _Activities(JournalOperationNamer(self.name), config, self._exceptions)

    def _options_of_tool(
        self, operation_id: DurableOperationId, tool: object | None, tool_name: str
    ) -> ActivityOptions | Literal[False]:
        kind = getattr(operation_id, "toolset_kind", "function")
        usual = self._mcp if kind == "mcp" else self._tools
        metadata: Mapping[str, Any] = (
            getattr(getattr(tool, "tool_def", None), "metadata", None) or _NO_METADATA
        )
        own: Any = metadata.get(_KEY)
        if own is None or own is False:
            return False if own is False else usual
        return usual.changed(_changes(own, f"the metadata {_KEY!r} of tool {tool_name}"))

    def _exceptions(self) -> ExceptionRegistry:
        """What units raise and the agent's loop tells apart, by class; also what tools raise.

        Not made before the first call: tools are declared behind the agent.
        """
        if self._known is None:
            registry = self._known = ExceptionRegistry((PydanticUserError,))
            registry.register_visible(exceptions)
            for toolset in () if self.agent is None else self.agent.toolsets:
                toolset.apply(lambda leaf: _register_tools(registry, leaf))
        return self._known

    async def wrap_run(
        self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler
    ) -> AgentRunResult[Any]:
        """Part of pydantic-ai's protocol: around one run of the agent."""
        run = current_run()
        if run is None:
            return await super().wrap_run(ctx, handler=handler)
        # What is no unit runs inline: workflow code has no threads.
        with _utils.disable_threads(), replay_scope(is_replaying=lambda: run.info().replaying):
            return await super().wrap_run(ctx, handler=handler)


def _register_tools(registry: ExceptionRegistry, toolset: object) -> None:
    if isinstance(toolset, FunctionToolset):
        for tool in toolset.tools.values():
            module = modules.get(tool.function.__module__)
            if module is not None:
                registry.register_visible(module)


# ------------------------------------------------------------------------------------------- units


async def _unit(call: dict[str, Any]) -> Any:
    """The signature that all units have: what they were called with is for people."""


_PARAMETERS: Final = Parameters(_unit, owner="a unit of an agent")
_RESULT: Final = Value(Any, owner="the result of a unit of an agent")


class _Activities(CallableOperationBackend[ActivityOptions]):
    """Runs each unit as an activity of the run whose code asks for it."""

    def __init__(
        self,
        namer: JournalOperationNamer,
        config: RoleBasedOperationConfig[ActivityOptions],
        exceptions: Callable[[], ExceptionRegistry],
    ) -> None:
        super().__init__(namer=namer, config=config)
        self._exceptions = exceptions

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: ActivityOptions,
    ) -> object:
        """Part of pydantic-ai's protocol."""
        run = current_run()
        if run is None:
            return await body()
        call: dict[str, Any] = {}
        if isinstance(operation_id, ToolsetCallToolId):
            tool, shown = str(cache_key[0]), _shown(cache_key[1])
            # Of function tools the name bears it already.
            name, call = (name if name.endswith(f":{tool}") else f"{name}:{tool}"), shown

        async def unit(call: dict[str, Any]) -> object:
            return await body()

        definition = ActivityDefinition(
            name=name,
            function=unit,
            parameters=_PARAMETERS,
            result=_RESULT,
            options=config,
            exceptions=self._exceptions(),
            is_async=True,
        )
        arguments = _PARAMETERS.encode((call,), {})
        return await run.call_activity(definition, config, arguments, user_line())


def _shown(arguments: object) -> dict[str, Any]:
    """Arguments of a tool, for the history: there they are compared on replay. Those that are no
    plain data are not shown."""
    try:
        pack(arguments)
    except PayloadError:
        return {}
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}


# ----------------------------------------------------------------------------------------- options

_HOPELESS: Final = (
    exceptions.UserError,
    exceptions.UnexpectedModelBehavior,
    exceptions.UsageLimitExceeded,
    PydanticUserError,
)
"""What the next attempt would only meet again."""


def _options(given: UnitOptions | None, owner: str) -> ActivityOptions:
    usual = ActivityOptions().changed(options_of(retry=Retry(non_retryable=_HOPELESS)))
    return usual.changed(_changes(given or {}, f"EverlongDurability({owner}=…)"))


def _changes(given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"{owner} is {given!r}: give a dict of options, such as timeout=30")
    unknown = given.keys() - UnitOptions.__annotations__.keys()
    if unknown:
        names, known = ", ".join(sorted(unknown)), ", ".join(UnitOptions.__annotations__)
        raise DefinitionError(f"{owner}: there is no option {names}. There are {known}")
    retry = given.get("retry")
    if isinstance(retry, Retry):
        given = {**given, "retry": replace(retry, non_retryable=(*retry.names, *_HOPELESS))}
    try:
        return options_of(**given)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{owner}: {error}") from None


# -------------------------------------------------------------------------------------------- time


class _TimeOfRuns(datetime):
    """`datetime` for the one function of pydantic-ai's that stamps messages."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        if current_run() is not None:
            return now().astimezone(tz)
        return datetime.now(tz)  # noqa: TID251 - outside a workflow nobody replays it


def _use_time_of_runs() -> None:
    """Messages bear the time at which they were made. In a workflow it must be the run's: what the
    workflow makes of them may be recorded, and would differ on replay."""
    module: Any = import_module("pydantic_ai._utils")
    if not (hasattr(module, "now_utc") and hasattr(module, "datetime")):
        raise EverlongError(
            "this version of pydantic-ai is none that Everlong knows: its messages would bear "
            "another time on replay. Install everlong[pydantic-ai], which names those that it does"
        )
    module.datetime = _TimeOfRuns
