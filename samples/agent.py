"""An agent that survives crashes: each question to the model and each tool is an activity.

    $ python -m samples.agent                  # with a model that only plays, without network
    $ python -m samples.agent --crash          # the process dies between the model and the tool
    $ python -m samples.agent                  # goes on; the model is not asked again

A real agent names a model, such as Agent("openai:gpt-5", …); nothing else changes.
"""

import os
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, ModelMessage, ModelResponse, RunContext, TextPart, ToolCallPart
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

import everlong
from everlong import workflow
from everlong.pydantic_ai import EverlongDurability


class Desk(BaseModel):
    """What the tools know: made by the workflow, so plain data."""

    city: str
    crash: bool = False


def plays(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stands for a model: wants the tool once, then answers with what it said."""
    print("the model is asked", flush=True)
    for part in messages[-1].parts:
        if isinstance(part, ToolReturnPart):
            return ModelResponse(parts=[TextPart(f"Take a coat: {part.content}.")])
    return ModelResponse(parts=[ToolCallPart("forecast", {"day": "tomorrow"})])


agent = Agent(
    FunctionModel(plays),
    name="advisor",
    deps_type=Desk,
    instructions="Say what to wear.",
    capabilities=[EverlongDurability(model={"timeout": 60}, tools={"timeout": 10})],
)


@agent.tool
async def forecast(ctx: RunContext[Desk], day: str) -> str:
    """The weather of a day."""
    if ctx.deps.crash and "--crash" in sys.argv:
        print("the process dies", flush=True)
        os._exit(1)
    return f"3 degrees in {ctx.deps.city} {day}"


@workflow
async def advise(question: str, desk: Desk) -> str:
    result = await agent.run(question, deps=desk)
    return f"{result.output} ({result.usage.requests} requests)"


def main(db: str = "agent.db") -> str:
    crash = "--crash" in sys.argv
    desk = Desk(city="Oslo", crash=crash)
    answer = everlong.run(advise, "What shall I wear?", desk, db=db, id="advice")
    print(answer)
    return answer


if __name__ == "__main__":
    main()
