"""`everlong outbox …`: what waits for a broker, what brokers have refused, and what to do then."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from everlong.cli._documents import document
from everlong.cli._durations import ago, now
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, connect
from everlong.cli._screen import Cell, out, write
from everlong.client import Client, OutboxSummary, StoredMessage

__all__ = ["drop_from_outbox", "list_outboxes", "redrive_outbox", "show_outbox"]

T = TypeVar("T")

_SHOWN_CHARS = 80

_Name = Annotated[str, typer.Argument(metavar="OUTBOX", help="Its name in the code.")]
_Positions = Annotated[
    list[int] | None,
    typer.Argument(metavar="[POSITION…]", min=1, help="Messages, as `outbox show` names them."),
]


def list_outboxes(db: Db = DEFAULT_STORE, as_json: Json = False) -> int:
    """Show in which outboxes messages wait, for how long, and what is in the way."""
    found = _asked(db, None, lambda client: client.outboxes())
    if as_json:
        write(document({"outboxes": found}))
    elif found:
        header = ("OUTBOX", "WAITING", "OLDEST", "REFUSED", "WORKER", "FAULT")
        out().table([_row(one) for one in found], header=header)
    else:
        out().say(("nothing waits in an outbox", "dim"))
    return ExitCode.OK


def show_outbox(
    outbox: _Name,
    refused: Annotated[
        bool, typer.Option("--refused", help="What its broker will never take.")
    ] = False,
    after: Annotated[
        int, typer.Option(metavar="POSITION", min=0, help="Only what lies behind it.")
    ] = 0,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="At most.")] = 100,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    as_json: Json = False,
) -> int:
    """Show the messages that wait in an outbox, oldest first, or those that were refused."""
    found = _asked(
        db,
        codecs,
        lambda client: client.outbox_messages(outbox, refused=refused, after=after, limit=limit),
    )
    if as_json:
        write(document({"messages": found}))
    elif found:
        rows = [_message_row(one) for one in found]
        out().table(rows, header=("POSITION", "STORED", "ID", "KEY", "VALUE", "WHY"))
    else:
        out().say(("none", "dim"))
    return ExitCode.OK


def redrive_outbox(
    outbox: _Name,
    positions: _Positions = None,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> int:
    """Let what was refused wait for the broker again: these messages, or all of them."""
    count = _asked(db, None, lambda client: client.redrive_outbox(outbox, positions or None))
    return _told("redriven", count, as_json=as_json)


def drop_from_outbox(
    outbox: _Name,
    positions: _Positions = None,
    refused: Annotated[
        bool, typer.Option("--refused", help="All that its broker will never take.")
    ] = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> int:
    """Take messages out of an outbox for good, unpublished, whether they wait or were refused."""
    if bool(positions) == refused:
        raise Mistake("give the positions of messages, or --refused for all that were refused")
    count = _asked(db, None, lambda client: client.drop_from_outbox(outbox, positions or None))
    return _told("dropped", count, as_json=as_json)


def _told(done: str, count: int, *, as_json: bool) -> int:
    if as_json:
        write(document({done: count}))
    else:
        out().say(f"{done}: {count:,}")
    return ExitCode.OK


def _asked(db: str, codecs: str | None, act: Callable[[Client], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with connect(db, "default", codecs) as client:
            return await act(client)

    return asyncio.run(ask())


def _row(one: OutboxSummary) -> list[Cell]:
    fault = "" if one.fault is None else f"{one.fault} ({one.failures} times)"
    return [
        (one.outbox, "bold"),
        (str(one.waiting), "" if one.waiting else "dim"),
        "" if one.oldest_at is None else ago(one.oldest_at, now()),
        (str(one.refused), "yellow" if one.refused else "dim"),
        one.worker or ("nobody", "yellow" if one.waiting else "dim"),
        (fault, "yellow"),
    ]


def _message_row(one: StoredMessage) -> list[Cell]:
    value = one.fault if one.value is None else _text(one.value)
    return [
        (str(one.position), "bold"),
        ago(one.at, now()),
        one.id,
        "" if one.key is None else _text(one.key),
        value or "",
        (one.refused or "", "yellow"),
    ]


def _text(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
