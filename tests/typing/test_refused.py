# pyright: reportUnnecessaryTypeIgnoreComment=true
"""Users' code that a type checker must refuse, at each line that says `type: ignore`.

`make check` is the test: both checkers complain of a comment that hides nothing. Nothing here runs.
"""

from pathlib import Path

import everlong
from everlong import (
    Client,
    Output,
    Query,
    Signal,
    Update,
    WorkflowHandle,
    activity,
    get_handle,
    map_all,
    publish,
    saga,
    workflow,
)
from everlong.testing import Environment

number = Signal("refused-number", int)
status = Query("refused-status", str)
size = Update("refused-size", int)
items = Output("refused-items", int)


@activity(name="refused-double")
async def double(value: int) -> int:
    return 2 * value


@activity(name="refused-shout")
def shout(text: str) -> str:
    return text.upper()


@workflow(name="refused-child")
async def child(value: int) -> str:
    return str(value)


@workflow(name="refused-pair")
async def pair(value: int, text: str = "") -> str:
    return value * text


async def arguments_of_activities() -> None:
    await double("one")  # type: ignore[arg-type]
    await double()  # type: ignore[call-arg]
    await double(1, 2)  # type: ignore[call-arg]
    await double.options(timeout=1)(valu=1)  # type: ignore[call-arg]
    await shout(1)  # type: ignore[arg-type]


async def results_of_activities() -> None:
    text: str = await double(1)  # type: ignore[assignment]
    value: int = await shout(text)  # type: ignore[assignment]
    assert value


def options_of_activities() -> None:
    double.options(on_cancel="perhaps")  # type: ignore[arg-type]
    double.options(timeout="long")  # type: ignore[arg-type]
    double.options(attempts=3)  # type: ignore[call-arg]


async def children() -> None:
    await child("one")  # type: ignore[arg-type]
    await child.start("one")  # type: ignore[arg-type]
    await child.start()  # type: ignore[call-arg]
    await child.options(id="x").start("one")  # type: ignore[arg-type]
    await child.options(on_parent_close="stay")(1)  # type: ignore[arg-type]
    handle = await child.start(1)
    value: int = await handle  # type: ignore[assignment]
    other: int = await get_handle("other", child).result()  # type: ignore[assignment]
    await handle.signal(number, "one")  # type: ignore[misc]
    assert value + other


async def steps_of_workflows() -> None:
    await map_all(double, ["one"])  # type: ignore[arg-type]
    async with saga() as s:
        s.undo(double, "one")  # type: ignore[arg-type]
        s.undo(double)  # type: ignore[call-arg]
    text: str = await number.receive()  # type: ignore[assignment]
    await items.publish(text)  # type: ignore[arg-type]
    await publish(items, text)  # type: ignore[misc]


async def messages(handle: WorkflowHandle[int]) -> None:
    await handle.signal(number, "one")  # type: ignore[misc]
    await handle.signal(number)  # type: ignore[arg-type]
    value: int = await handle.query(status)  # type: ignore[arg-type]
    text: str = await handle.update(size)  # type: ignore[arg-type]
    text = await handle.result()  # type: ignore[assignment]
    async for item in handle.subscribe(items):
        text = item  # type: ignore[assignment]
    assert value
    assert text


async def starts(client: Client) -> None:
    await client.start(child, "one")  # type: ignore[arg-type]
    await client.start(child, value="one")  # type: ignore[call-overload]
    await client.start(child)  # type: ignore[call-arg, arg-type]
    await client.start(child, 1, 2)  # type: ignore[call-arg, arg-type]
    await client.start(child, valu=1)  # type: ignore[call-overload]
    await client.start(child, "one", id="x")  # type: ignore[call-arg, arg-type]
    await client.start(child, 1, 2, id="x")  # type: ignore[call-arg]
    await client.start(child, 1, id=17)  # type: ignore[call-arg]
    await client.start(child, 1, if_open="perhaps")  # type: ignore[call-arg]
    await client.start(pair, "one", text="two", id="x")  # type: ignore[call-arg, arg-type]
    await client.start(pair, 1, 2, id="x", run_timeout=1)  # type: ignore[call-arg, arg-type]


async def runs(client: Client) -> None:
    text: int = await client.run(child, 1)  # type: ignore[arg-type]
    await client.run(child, "one")  # type: ignore[arg-type]
    await client.run(child)  # type: ignore[call-arg, arg-type]
    await client.run(child, "one", id="x")  # type: ignore[call-arg, arg-type]
    await client.run(child, valu=1)  # type: ignore[call-overload]
    everlong.run(child, "one")  # type: ignore[arg-type]
    everlong.run(child)  # type: ignore[call-arg, arg-type]
    everlong.run(child, "one", db="x.db")  # type: ignore[call-arg, arg-type]
    everlong.run(child, 1, 2, id="x")  # type: ignore[call-arg]
    assert text


async def clients(client: Client) -> None:
    await client.complete(17)  # type: ignore[arg-type]
    handle: WorkflowHandle[int] = client.get_handle("x", child)  # type: ignore[arg-type]
    await handle.cancel()


async def fakes(env: Environment) -> None:
    env.fake(double, lambda value: f"{value}")  # type: ignore[arg-type, return-value]
    env.fake(double, lambda: 2)  # type: ignore[arg-type, misc]
    env.fake(double, returns="two")  # type: ignore[misc]
    env.fake(double, raises=KeyboardInterrupt())  # type: ignore[call-overload]
    env.fake(child, lambda value: value)  # type: ignore[call-overload]
    env.fail(double, "no exception")  # type: ignore[arg-type]
    await env.advance(days="one")  # type: ignore[arg-type]


def test_each_of_them_has_lines_that_are_refused() -> None:
    functions = Path(__file__).read_text().split("\nasync def ")[4:]
    assert len(functions) == 9
    assert all("# type: ignore[" in one for one in functions)
