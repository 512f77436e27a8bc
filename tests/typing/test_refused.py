# pyright: reportUnnecessaryTypeIgnoreComment=true
"""Users' code that a type checker must refuse, at each line that says `type: ignore`.

`make check` is the test: both checkers complain of a comment that hides nothing. Nothing here runs.
"""

from pathlib import Path

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


async def clients(client: Client) -> None:
    text: int = await client.run(child, 1)  # type: ignore[call-overload]
    await client.run(child, "one")  # type: ignore[call-overload]
    await client.complete(17)  # type: ignore[arg-type]
    handle: WorkflowHandle[int] = client.get_handle("x", child)  # type: ignore[arg-type]
    assert text
    await handle.cancel()


def test_each_of_them_has_lines_that_are_refused() -> None:
    functions = Path(__file__).read_text().split("\nasync def ")[3:]
    assert len(functions) == 6
    assert all("# type: ignore[" in one for one in functions)
