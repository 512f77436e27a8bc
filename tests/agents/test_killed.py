"""A real process with an agent, killed at once while a tool is at work."""

import signal
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path
from typing import Any

from tests.support.other_process import ROOT

PROGRAM = """
import asyncio, sys
from pydantic_ai import Agent, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from everlong import Client, Worker, workflow
from everlong.pydantic_ai import EverlongDurability

def plays(messages, info):
    print("asked", len(messages), flush=True)
    if len(messages) == 1:
        return ModelResponse(parts=[ToolCallPart("work", {"item": "x"})])
    return ModelResponse(parts=[TextPart(f"done: {messages[-1].parts[0].content}")])

agent = Agent(FunctionModel(plays), name="killed", capabilities=[EverlongDurability()])

@agent.tool_plain
async def work(item: str) -> str:
    print("at work", flush=True)
    if sys.argv[2] == "first":
        await asyncio.Event().wait()
    return item.upper()

@workflow
async def ag_killed() -> str:
    return (await agent.run("do it")).output

async def main() -> None:
    async with Client.connect(sys.argv[1]) as client, Worker(client):
        handle = await client.start(ag_killed, id="killed")
        print(await handle.result(), flush=True)

asyncio.run(main())
"""


async def test_after_kill_9_the_model_is_not_asked_again(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    async def begin(part: str) -> Any:
        command = [sys.executable, str(program), str(tmp_path / "db"), part]
        return await create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)

    first = await begin("first")
    assert await first.stdout.readline() == b"asked 1\n"
    assert await first.stdout.readline() == b"at work\n"
    first.send_signal(signal.SIGKILL)
    await first.wait()
    second = await begin("second")
    out, _ = await second.communicate()
    assert out.decode().split("\n")[:3] == ["at work", "asked 3", "done: X"]
