"""What is said of an activity that is completed elsewhere: complete, fail."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._messages import RequestId
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import out, write
from everlong.client import Client

__all__ = ["complete", "fail"]

Token = Annotated[
    str,
    typer.Argument(metavar="TOKEN", help="What the activity has handed out."),
]


def complete(
    token: Token,
    result: Annotated[str, typer.Argument(metavar="[JSON]", help="Its result, as JSON.")] = "null",
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Give an activity that was left with complete_later its result.

    It is stored for good when this returns. The first answer wins.
    """
    try:
        value = json.loads(result)
    except ValueError as error:
        text = f"the result is not JSON: {error}. A text stands in quotes"
        raise Mistake(text) from error
    return _answer(
        lambda client: client.complete(token, value, request_id=request_id),
        "completed",
        db,
        namespace,
        codecs,
        as_json=as_json,
    )


def fail(
    token: Token,
    error: Annotated[str, typer.Argument(metavar="TEXT", help="What went wrong.")],
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Let an activity that was left with complete_later fail. That is final: nothing is retried."""
    return _answer(
        lambda client: client.fail(token, error, request_id=request_id),
        "failed",
        db,
        namespace,
        codecs,
        as_json=as_json,
    )


def _answer(
    act: Callable[[Client], Awaitable[None]],
    word: str,
    db: str,
    namespace: str,
    codecs: str | None,
    *,
    as_json: bool,
) -> int:
    async def main() -> None:
        async with connect(db, namespace, codecs) as client:
            await act(client)

    asyncio.run(main())
    if as_json:
        write(document({"action": word}))
    else:
        out().say(("✓ ", "green"), f"the activity is {word}")
    return ExitCode.OK
