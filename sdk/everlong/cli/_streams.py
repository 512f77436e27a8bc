"""`everlong stream …`: what an operator does with a flow that reads a stream."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._pausing import RequestId
from everlong.cli._screen import out, write
from everlong.cli._sources import load_stream
from everlong.streams import Cursor, DeadLetter, Lag, ParkedKey, Position, StreamControl
from everlong_engine import read_instant

__all__ = ["dead_letters", "drain", "lag", "parked", "position", "redrive", "rewind"]

T = TypeVar("T")

ToTime = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="What was written then or later: 2026-12-24T18:00:00Z."),
]
ToSavepoint = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A savepoint, with what the flow carried there."),
]
Name = Annotated[str, typer.Argument(metavar="STREAM", help="The stream's name in the code.")]


def position(
    workflow_id: WorkflowId,
    stream: Name,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Tell how far an execution has read: the last position of each partition."""
    found = _asked(db, namespace, codecs, workflow_id, stream, lambda it: it.position())
    if as_json:
        write(document({"position": None if found is None else _facts(found)}))
    elif found is None:
        out().say("nothing was read so far")
    else:
        screen = out()
        screen.say((found.identity, "dim"))
        for partition, at in sorted(found.after.items()):
            screen.say(f"{partition:>6}  {at}")
    return ExitCode.OK


def lag(
    workflow_id: WorkflowId,
    declaration: Annotated[
        str,
        typer.Argument(metavar="FILE:NAME", help="Where the stream is declared: orders.py:orders."),
    ],
    at_most: Annotated[int, typer.Option(metavar="N", min=1, help="Stop counting there.")] = 10_000,
    partition: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION", help="That the execution reads; repeat it. Else all."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Without a message, that mean there is none."),
    ] = 1.0,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Count the messages that an execution has not read, and tell how old the first of them is."""
    stream = load_stream(declaration)

    async def ask() -> Lag:
        async with connect(db, namespace, codecs) as client:
            control = stream.control(client.get_handle(workflow_id))
            return await control.lag(at_most=at_most, partitions=partition or None, wait=wait)

    found = asyncio.run(ask())
    if as_json:
        write(document({"stream": stream.name, "lag": asdict(found)}))
        return ExitCode.OK
    count = f"{'more than ' if found.more else ''}{found.messages:,} behind"
    age = "" if found.seconds is None else f", the oldest for {found.seconds:,.1f} s"
    out().say(count + age)
    return ExitCode.OK


def rewind(
    workflow_id: WorkflowId,
    stream: Annotated[
        str,
        typer.Argument(
            metavar="STREAM",
            help="Its name; with --to-time where it is declared: orders.py:orders.",
        ),
    ],
    positions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PARTITION=POSITION…]",
            help="Behind what to go on, such as 0=41; 0=beginning reads all of it again.",
        ),
    ] = None,
    to_time: ToTime = None,
    to_savepoint: ToSavepoint = None,
    keys: Annotated[
        str, typer.Option(metavar="WHICH", help="Of what is read again: same, or fresh.")
    ] = "same",
    partition: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION", help="With --to-time: only this; repeat it."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Of what is to be read, where it was made anew."),
    ] = None,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Go on behind other positions, at a moment, or at a savepoint."""
    chosen = [one for one in (positions or None, to_time, to_savepoint) if one is not None]
    if len(chosen) != 1:
        raise Mistake("give PARTITION=POSITION, such as 0=41, or --to-time, or --to-savepoint")
    to = dict(_position_of(one) for one in positions or ())
    which: Any = keys  # Another text meets an error that says so.
    moment = None if to_time is None else _instant(to_time)
    declared = None if moment is None else load_stream(stream)

    async def act(control: StreamControl) -> None:
        if declared is not None:
            control = declared.control(control.handle)
            await control.rewind(
                to=moment, partitions=partition or None, keys=which, request_id=request_id
            )
        elif to_savepoint is not None:
            point = await control.find_savepoint(to_savepoint)
            await control.rewind(to=point, keys=which, request_id=request_id)
        else:
            await control.rewind(to, identity=identity, keys=which, request_id=request_id)

    _asked(db, namespace, codecs, workflow_id, stream, act)
    name = stream if declared is None else declared.name
    return _told("rewound", workflow_id, name, as_json=as_json)


def _instant(text: str) -> datetime:
    found = read_instant(text)
    if found is None or not found[1]:
        raise Mistake(f"--to-time {text}: write an instant with its zone: 2026-12-24T18:00:00Z")
    return found[0]


def drain(
    workflow_id: WorkflowId,
    stream: Name,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """End the loop behind the batch in work; the workflow goes on behind the loop."""

    def act(control: StreamControl) -> Awaitable[None]:
        return control.drain(request_id=request_id)

    _asked(db, namespace, codecs, workflow_id, stream, act)
    return _told("draining", workflow_id, stream, as_json=as_json)


def dead_letters(
    workflow_id: WorkflowId,
    stream: Name,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List the messages that were set aside, with the reason of each."""
    found = _asked(db, namespace, codecs, workflow_id, stream, lambda it: it.dead_letters())
    if as_json:
        write(document({"items": found}))
        return ExitCode.OK
    screen = out()
    for one in found:
        _show(one)
    if not found:
        screen.say("there are no dead letters")
    return ExitCode.OK


def parked(
    workflow_id: WorkflowId,
    stream: Name,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List the keys whose messages wait behind a poisoned one, with their messages."""

    def act(control: StreamControl) -> Awaitable[list[ParkedKey]]:
        return control.parked()

    found = _asked(db, namespace, codecs, workflow_id, stream, act)
    if as_json:
        write(document({"items": found}))
        return ExitCode.OK
    screen = out()
    for one in found:
        count = len(one.messages)
        screen.say(
            (one.key.decode(errors="backslashreplace"), "bold"),
            f"  {count} message{'' if count == 1 else 's'}",
        )
        for message in one.messages:
            _show(message)
    if not found:
        screen.say("no key is parked")
    return ExitCode.OK


def redrive(
    workflow_id: WorkflowId,
    stream: Name,
    numbers: Annotated[
        list[int] | None,
        typer.Argument(metavar="[NUMBER…]", help="Of dead letters; all unless given."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="A parked key: all of its messages, in order."),
    ] = None,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Give what was set aside to the loop once more: dead letters, or a parked key."""

    def act(control: StreamControl) -> Awaitable[int]:
        return control.redrive(*(numbers or ()), key=key, request_id=request_id)

    count = _asked(db, namespace, codecs, workflow_id, stream, act)
    if as_json:
        write(document({"workflow_id": workflow_id, "stream": stream, "redriven": count}))
    else:
        screen = out()
        screen.say(("✓ ", "green"), f"redriven {count} of ", (workflow_id, "bold"))
    return ExitCode.OK


def _asked(
    db: str,
    namespace: str,
    codecs: str | None,
    workflow_id: str,
    stream: str,
    act: Callable[[StreamControl], Awaitable[T]],
) -> T:
    async def ask() -> T:
        async with connect(db, namespace, codecs) as client:
            return await act(StreamControl(client.get_handle(workflow_id), stream))

    return asyncio.run(ask())


def _position_of(given: str) -> tuple[str, Position | None]:
    partition, equals, at = given.rpartition("=")
    if not (partition and equals and at):
        raise Mistake(f"{given}: write PARTITION=POSITION, such as 0=41 or 0=beginning")
    if at == "beginning":
        return partition, None
    return partition, int(at) if at.removeprefix("-").isdecimal() else at


def _facts(cursor: Cursor) -> dict[str, Any]:
    return {"identity": cursor.identity, "after": dict(cursor.after)}


def _told(what: str, workflow_id: str, stream: str, *, as_json: bool) -> int:
    if as_json:
        write(document({"workflow_id": workflow_id, "stream": stream, "told": what}))
    else:
        out().say(("✓ ", "green"), f"{what} ", (workflow_id, "bold"))
    return ExitCode.OK


def _show(one: DeadLetter) -> None:
    screen = out()
    cut = " (its beginning)" if one.cut else ""
    screen.say((f"{one.number:>6}  ", "bold"), (f"{one.partition}/{one.position}{cut}", "dim"))
    screen.say(one.value.decode(errors="backslashreplace"), indent=8)
    tried = f" (tried {one.attempts} times)" if one.attempts > 1 else ""
    if one.error:
        screen.say((f"{one.error}{tried}", "red"), indent=8)
