"""`everlong count`: how many runs a filter means, by a field if one is given."""

import asyncio
from typing import Annotated, Any

import typer

from everlong.cli._documents import document, one_line
from everlong.cli._exits import ExitCode
from everlong.cli._list import Filter
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import STATUS, Cell, cropped, out, write
from everlong.client import Client

__all__ = ["count"]

_VALUE_CHARS_MAX = 100


def count(
    filter: Filter = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Of each: status, type, queue, id or tag.NAME."),
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Count runs."""

    async def look(client: Client) -> list[tuple[Any, int]]:
        async with client:
            if by is None:
                return [(None, await client.count(filter))]
            return list((await client.count(filter, group_by=by)).items())

    groups = asyncio.run(look(connect(db, namespace, codecs)))
    total = sum(number for _, number in groups)
    if by is None and as_json:
        write(document({"count": total}))
    elif by is None:
        out().say(str(total))
    elif as_json:
        listed = [{"value": value, "count": number} for value, number in groups]
        write(document({"count": total, "by": by, "groups": listed}))
    else:
        out().table([_row(value, number) for value, number in groups])
    return ExitCode.OK


def _row(value: Any, number: int) -> list[Cell]:
    style = STATUS[value][1] if isinstance(value, str) and value in STATUS else ""
    shown = value if isinstance(value, str) else "(not set)" if value is None else one_line(value)
    return [(str(number), "bold"), (cropped(shown, _VALUE_CHARS_MAX), style)]
