"""Agents of pydantic-ai inside workflows: what is recorded, repeated, and refused."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ModelRetry,
    RunContext,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel as PlayedModel
from pydantic_ai.toolsets import FunctionToolset

from everlong import (
    DefinitionError,
    ForbiddenCall,
    Replayer,
    Retry,
    Signal,
    WorkflowFailed,
    WorkflowHandle,
    activity,
    checkpoint,
    workflow,
)
from everlong.pydantic_ai import EverlongDurability
from everlong.testing import Environment
from tests.support.hosting import AT_ONCE, ONCE, of_kind

REQUEST = "clerk__model.request"


class Mood(BaseModel):
    word: str
    level: int = 3


class OutOfPaper(Exception):
    """A tool's own."""


class Played:
    """A model that wants given tools one after the other, then says what came of the last."""

    def __init__(self, *wants: tuple[str, dict[str, Any]]) -> None:
        self.wants = wants
        self.asked: list[int] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked.append(len(messages))
        returned = [
            part
            for message in messages
            for part in message.parts
            if isinstance(part, ToolReturnPart)
        ]
        if len(returned) < len(self.wants):
            return ModelResponse(parts=[ToolCallPart(*self.wants[len(returned)])])
        last = returned[-1].content if returned else "nothing"
        return ModelResponse(parts=[TextPart(f"in the end {last}")])


def clerk(
    played: Played, durability: EverlongDurability[Any] | None = None, **more: Any
) -> "Agent[Any, str]":
    capabilities = [durability or EverlongDurability[Any](tools={"retry": AT_ONCE})]
    return Agent(FunctionModel(played), name="clerk", capabilities=capabilities, **more)


async def names(handle: WorkflowHandle[Any]) -> list[str]:
    return [event.fields["activity"] for event in await of_kind(handle, "ActivityScheduled")]


async def test_outside_a_workflow_it_is_the_plain_agent() -> None:
    played = Played(("weather", {"city": "Oslo"}))
    agent = clerk(played, deps_type=list)

    @agent.tool
    def weather(ctx: RunContext[list[str]], city: str) -> str:
        ctx.deps.append(city)
        return f"cold in {city}"

    seen: list[str] = []
    result = await agent.run("how is it?", deps=seen)
    assert result.output == "in the end cold in Oslo"
    assert seen == ["Oslo"]
    async with agent.run_stream("again", deps=seen, model=PlayedModel(call_tools=[])) as stream:
        assert await stream.get_output()


@pytest.mark.parametrize("always_replay", [False, True])
async def test_each_request_and_each_tool_is_an_activity(always_replay: bool) -> None:
    threads: list[str] = []
    agent = clerk(Played(("weather", {"city": "Oslo"}), ("coat", {"degrees": 3})), deps_type=str)

    @agent.instructions
    def instructions() -> str:
        return "Be kind."

    @agent.tool
    def weather(ctx: RunContext[str], city: str) -> int:
        threads.append(threading.current_thread().name)
        return len(f"{city} {ctx.deps}")

    @agent.tool_plain
    async def coat(degrees: int) -> str:
        return f"a coat for {degrees}"

    @workflow
    async def ag_asks(question: str) -> dict[str, Any]:
        result = await agent.run(question, deps="ann")
        return {
            "output": result.output,
            "requests": result.usage.requests,
            "run": result.run_id,
            "messages": result.all_messages_json().decode(),
        }

    async with Environment(always_replay=always_replay) as env:
        handle = await env.client.start(ag_asks, "What shall I wear?", id="w")
        answer = await handle.result()
        assert answer["output"] == "in the end a coat for 3"
        assert answer["requests"] == 3
        assert '"Be kind."' in answer["messages"]
        toolset = "clerk__function_toolset__<agent>.call_tool"
        assert await names(handle) == [
            REQUEST,
            f"{toolset}:weather",
            REQUEST,
            f"{toolset}:coat",
            REQUEST,
        ]
        calls = [one.fields["arguments"] for one in await of_kind(handle, "ActivityScheduled")]
        assert calls[1] == {"call": {"city": "Oslo"}}
        Replayer([ag_asks]).replay(await env.client.export("w"))
    assert threads
    assert "MainThread" not in threads


async def test_a_request_is_not_repeated_after_a_crash() -> None:
    played = Played(("weather", {"city": "Oslo"}))
    agent = clerk(played)
    entered, release = asyncio.Event(), asyncio.Event()
    attempts: list[str] = []

    @agent.tool_plain
    async def weather(city: str) -> str:
        attempts.append(city)
        entered.set()
        if len(attempts) == 1:
            await release.wait()
        return f"cold in {city}"

    @workflow
    async def ag_crashes() -> str:
        return (await agent.run("how is it?")).output

    async with Environment() as env:
        handle = await env.client.start(ag_crashes)
        await entered.wait()
        assert len(played.asked) == 1
        await env.restart_worker()
        assert await handle.result() == "in the end cold in Oslo"
    assert len(played.asked) == 2
    assert attempts == ["Oslo", "Oslo"]


async def test_what_a_tool_wants_of_the_model_is_told_to_it() -> None:
    played = Played(("weather", {"city": "?"}), ("weather", {"city": "Oslo"}))
    agent = clerk(played)

    @agent.tool_plain
    def weather(city: str) -> str:
        if city == "?":
            raise ModelRetry("Name a city")
        return f"cold in {city}"

    @workflow
    async def ag_retries() -> str:
        return (await agent.run("how is it?")).output

    async with Environment(always_replay=True) as env:
        handle = await env.client.start(ag_retries)
        assert await handle.result() == "in the end cold in Oslo"
        scheduled = await of_kind(handle, "ActivityScheduled")
        assert [len(one.attempts) for one in scheduled] == [0] * 5  # None of them has failed.


async def test_a_failed_attempt_is_tried_again_and_its_end_is_an_exception() -> None:
    played = Played(("flaky", {}), ("hopeless", {}))
    agent = clerk(played)
    tries: list[int] = []

    @agent.tool_plain
    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("away")
        return "here"

    @agent.tool_plain(metadata={"everlong": {"retry": Retry(max_attempts=2, delay=0)}})
    def hopeless() -> str:
        raise OutOfPaper("tray 2")

    @workflow
    async def ag_fails() -> str:
        try:
            await agent.run("print it")
        except OutOfPaper as error:
            return f"caught {error}"
        return "never"

    async with Environment() as env:
        assert await env.client.run(ag_fails) == "caught tray 2"
    assert len(tries) == 3


async def test_a_mistake_in_the_program_is_not_tried_again() -> None:
    agent = clerk(Played(("bad", {})))

    @agent.tool_plain
    def bad() -> str:
        raise UserError("used wrongly")

    @workflow
    async def ag_mistake() -> None:
        await agent.run("do it")

    async with Environment() as env:
        with pytest.raises(WorkflowFailed, match="used wrongly") as caught:
            await env.client.run(ag_mistake)
    assert isinstance(caught.value.__cause__, UserError)


async def test_options_are_those_of_the_kind_and_then_of_the_tool() -> None:
    durability: EverlongDurability[Any] = EverlongDurability(
        model={"timeout": 60}, tools={"timeout": 10, "retry": ONCE}
    )
    agent = clerk(Played(("slow", {}), ("inline", {"n": 1}), ("usual", {})), durability)
    loops: list[bool] = []

    @agent.tool_plain(metadata={"everlong": {"timeout": 30}})
    async def slow() -> str:
        return "slow"

    @agent.tool_plain(metadata={"everlong": False})
    async def inline(n: int) -> int:
        loops.append(hasattr(asyncio.get_running_loop(), "everlong_run"))
        return n + 1

    @agent.tool_plain
    async def usual() -> str:
        return "usual"

    @workflow
    async def ag_options() -> str:
        return (await agent.run("go")).output

    async with Environment() as env:
        handle = await env.client.start(ag_options)
        assert await handle.result() == "in the end usual"
        found = {
            event.fields["activity"].rpartition(":")[2]: event.fields["options"]
            for event in await of_kind(handle, "ActivityScheduled")
        }
    assert found[REQUEST]["start_to_close_us"] == 60_000_000
    assert found["slow"]["start_to_close_us"] == 30_000_000
    assert found["slow"]["max_attempts"] == 1
    assert found["usual"]["start_to_close_us"] == 10_000_000
    assert "inline" not in found
    assert loops == [True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeuot": 3}, r"EverlongDurability\(model=…\): there is no option timeuot. There are"),
        ({"timeout": -1}, r"EverlongDurability\(model=…\): timeout"),
        ({"retry": 3}, "give a Retry"),
        ("fast", "give a dict of options"),
    ],
)
def test_options_that_will_not_do_are_refused(options: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        EverlongDurability(model=options)


def test_an_agent_needs_a_name() -> None:
    with pytest.raises(UserError, match="unique `name` in order to be used with Everlong"):
        Agent(PlayedModel(), capabilities=[EverlongDurability()])


async def test_typed_outputs_and_histories_go_through_the_workflow() -> None:
    agent = Agent(
        PlayedModel(custom_output_args={"word": "calm"}),
        name="clerk",
        output_type=Mood,
        capabilities=[EverlongDurability()],
    )
    answer = Signal("agents-answer", str)

    @workflow
    async def ag_talks() -> list[Mood]:
        first = await agent.run("how are you?")
        text = await answer.receive()
        second = await agent.run(text, message_history=first.all_messages())
        assert len(second.all_messages()) > len(first.all_messages())
        return [first.output, second.output]

    async with Environment(always_replay=True) as env:
        handle = await env.client.start(ag_talks)
        await handle.signal(answer, "and now?")
        assert await handle.result() == [Mood(word="calm"), Mood(word="calm")]


async def test_a_conversation_is_carried_over_checkpoints() -> None:
    agent = clerk(Played())

    @workflow
    async def ag_carries(rounds: int = 0, said: bytes = b"[]") -> int:
        messages = ModelMessagesTypeAdapter.validate_json(said)
        while rounds < 3:
            result = await agent.run(f"round {rounds}", message_history=messages)
            messages, rounds = result.all_messages(), rounds + 1
            await checkpoint(rounds=rounds, said=result.all_messages_json())
        return len(messages)

    async with Environment(amnesia=True) as env:
        assert await env.client.run(ag_carries) == 6


async def test_another_model_is_named_by_the_workflow() -> None:
    other = PlayedModel(custom_output_text="the other one")
    durability: EverlongDurability[Any] = EverlongDurability(models={"other": other})
    agent = clerk(Played(), durability)

    @workflow
    async def ag_named() -> str:
        return (await agent.run("hello", model="other")).output

    async with Environment(always_replay=True) as env:
        handle = await env.client.start(ag_named)
        assert await handle.result() == "the other one"
        assert await names(handle) == [f"{REQUEST}.other"]


async def test_an_event_stream_handler_runs_in_activities() -> None:
    seen: list[str] = []

    async def watch(ctx: RunContext[Any], events: AsyncIterable[Any]) -> None:
        assert not hasattr(asyncio.get_running_loop(), "everlong_run")
        seen.extend([type(event).__name__ async for event in events])

    agent = Agent(
        PlayedModel(),
        name="clerk",
        capabilities=[EverlongDurability(event_stream_handler=watch)],
    )

    @agent.tool_plain
    async def weather() -> str:
        return "cold"

    @workflow
    async def ag_streams() -> str:
        return (await agent.run("how is it?")).output

    async with Environment() as env:
        handle = await env.client.start(ag_streams)
        assert "cold" in await handle.result()
        assert f"{REQUEST}_stream" in await names(handle)
        assert "clerk__event_stream_handler" in await names(handle)
    assert "PartStartEvent" in seen
    assert "FunctionToolCallEvent" in seen


async def test_what_a_workflow_cannot_carry_is_refused_with_the_way_out() -> None:
    agent = clerk(Played())

    @workflow
    async def ag_other_model() -> None:
        await agent.run("hello", model=PlayedModel())

    @workflow
    async def ag_other_tools() -> None:
        await agent.run("hello", toolsets=[FunctionToolset([len], id="late")])

    @workflow
    async def ag_sync() -> None:
        agent.run_sync("hello")

    async with Environment() as env:
        for one, words in ((ag_other_model, "models="), (ag_other_tools, "toolset")):
            with pytest.raises(WorkflowFailed, match=words):
                await env.client.run(one)
        with pytest.raises(ForbiddenCall, match="use await"):
            await env.client.run(ag_sync)


async def test_an_agent_inside_an_activity_is_the_plain_one() -> None:
    agent = clerk(Played(("weather", {})))

    @agent.tool_plain
    async def weather() -> str:
        return "cold"

    @activity
    async def ag_asks_there() -> str:
        return (await agent.run("how is it?")).output

    @workflow
    async def ag_delegates() -> str:
        return await ag_asks_there()

    async with Environment() as env:
        handle = await env.client.start(ag_delegates)
        assert await handle.result() == "in the end cold"
        assert await names(handle) == ["ag_asks_there"]


async def test_several_agents_at_once_are_told_apart(tmp_path: Path) -> None:
    agent = clerk(Played(("echo", {"n": 1})))

    @agent.tool_plain
    async def echo(n: int) -> int:
        return n

    @workflow
    async def ag_gathers() -> list[str]:
        results = await asyncio.gather(*(agent.run(f"{n}") for n in range(4)))
        assert len({one.run_id for one in results}) == 4
        return [one.output for one in results]

    async with Environment(always_replay=True) as env:
        assert await env.client.run(ag_gathers) == ["in the end 1"] * 4


async def test_calls_of_an_mcp_server_are_activities(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    server = Path(__file__).with_name("mcp_server.py")
    transport = StdioTransport(
        sys.executable, [str(server)], env={"STOCK_CALLS": str(calls)}, keep_alive=False
    )
    agent = clerk(
        Played(("in_stock", {"item": "coat"})), toolsets=[MCPToolset(transport, id="stock")]
    )

    @workflow
    async def ag_mcp() -> str:
        return (await agent.run("how many?")).output

    async with Environment() as env:
        handle = await env.client.start(ag_mcp, id="m")
        assert "7 of coat" in await handle.result()
        found = await names(handle)
        assert "clerk__mcp_server__stock.get_tools" in found
        assert "clerk__mcp_server__stock.call_tool:in_stock" in found
        Replayer([ag_mcp]).replay(await env.client.export("m"))
    assert calls.read_text() == "coat\n"
