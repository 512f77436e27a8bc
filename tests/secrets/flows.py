"""Workflows that carry a secret to every place where something of a program's is stored.

The secret is made anew in each process, so that no source line, which tracebacks show, contains it.
Each place has a text of its own: a search tells which of them are there.
"""

import asyncio
from contextlib import suppress
from secrets import token_hex
from typing import Final

from everlong import (
    ApplicationError,
    Query,
    Retry,
    Signal,
    WorkflowCancelled,
    WorkflowFailed,
    activity,
    approval,
    continue_as_new,
    heartbeat,
    info,
    publish,
    set_memo,
    set_tags,
    side_effect,
    workflow,
)

__all__ = ["FLOWS", "PLACES", "SECRET", "breaks", "courier", "fails", "plant", "waits"]

SECRET: Final = f"canary{token_hex(12)}"

PLACES: Final = (
    "input",
    "argument",
    "result",
    "large",
    "side effect",
    "heartbeat",
    "attempt message",
    "attempt note",
    "failure message",
    "failure note",
    "failure attribute",
    "failure cause",
    "signal",
    "unread signal",
    "rejected signal",
    "question",
    "answer",
    "query that fails",
    "carried state",
    "child argument",
    "child result",
    "child failure",
    "signal to another",
    "cancel of another",
    "published item",
    "approval title",
    "approval data",
    "approval comment",
    "large published item",
    "memo",
    "memo of the start",
    "memo of a child",
    "returned",
    "workflow failure",
    "cancel reason",
    "terminate reason",
    "blocked reason",
)


def plant(place: str) -> str:
    return f"{SECRET} {place}!"


go = Signal("secrets-go", str)
extra = Signal("secrets-extra", str)
number = Signal("secrets-number", int)
told = Query("secrets-told", str)
sulks = Query("secrets-sulks", str)


@activity(name="secrets-carry", retry=Retry(max_attempts=3, delay=0.0, jitter=0.0))
async def carry(text: str) -> str:
    assert text == plant("argument")
    if info().attempt == 1:
        heartbeat(plant("heartbeat"))
        error = ValueError(plant("attempt message"))
        error.add_note(plant("attempt note"))
        raise error
    return plant("result")


@activity(name="secrets-bulk")
async def bulk() -> str:
    return plant("large") * 4_000


@activity(name="secrets-break", retry=Retry(max_attempts=1))
async def break_down() -> None:
    local = plant("local variable")
    error = ValueError(plant("failure message"))
    error.add_note(plant("failure note"))
    error.number = plant("failure attribute")  # type: ignore[attr-defined]
    raise error from KeyError(plant("failure cause"), len(local))


@workflow(name="secrets-ward")
async def ward(text: str) -> str:
    match text:
        case "fails":
            raise ApplicationError(plant("child failure"))
        case "waits":
            await asyncio.sleep(3600)
        case _:
            assert text == plant("child argument")
    return plant("child result")


@workflow(name="secrets-courier")
async def courier(text: str, state: str = "") -> str:
    @told.handler
    def _(question: str = "") -> str:
        return plant("answer")

    @sulks.handler
    def _() -> str:
        raise ValueError(plant("query that fails"))

    if not state:
        await _first_run()
    await go.receive()
    return plant("returned")


async def _first_run() -> None:
    await side_effect(lambda: plant("side effect"))
    await publish("secrets-items", plant("published item"))
    set_memo(plant("memo"))
    set_tags(readable="by everybody")
    await publish("secrets-items", plant("large published item") * 4_000)
    assert await carry(plant("argument")) == plant("result")
    child = ward.options(memo=plant("memo of a child"))
    assert await child(plant("child argument")) == plant("child result")
    with suppress(WorkflowFailed):
        await ward("fails")
    other = await ward.start("waits")
    await other.signal(extra, plant("signal to another"))
    await other.cancel(plant("cancel of another"))
    with suppress(WorkflowCancelled):
        await other.result()
    await bulk()
    with suppress(ValueError):
        await break_down()
    verdict = await approval(plant("approval title"), data=plant("approval data"))
    assert verdict.comment == plant("approval comment")
    await go.receive()
    continue_as_new(state=plant("carried state"))


@workflow(name="secrets-fails")
async def fails() -> None:
    raise ApplicationError(plant("workflow failure"), details=[plant("workflow failure")])


@workflow(name="secrets-waits")
async def waits(text: str, was_cancelled: bool = False) -> str:
    if was_cancelled:
        raise asyncio.CancelledError
    await asyncio.sleep(0.001)
    try:
        return await go.receive()
    except asyncio.CancelledError:
        continue_as_new(was_cancelled=True)  # Its reason is carried.


@workflow(name="secrets-breaks")
async def breaks() -> None:
    def refuse() -> None:
        raise ValueError(plant("blocked reason"))

    await side_effect(refuse)


FLOWS: Final = (courier, fails, waits, breaks, ward)
