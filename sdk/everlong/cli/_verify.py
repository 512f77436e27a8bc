"""`everlong verify`: is every history of a store whole?"""

import asyncio
from collections.abc import Sequence
from typing import Any

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect, shown
from everlong.cli._screen import out, write
from everlong.client import Client
from everlong_engine import Problem, id_text

__all__ = ["verify"]


def verify(
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
    codecs: Codecs = None,
) -> int:
    """Check that every history is whole; exit 1 if not.

    Looks for gaps, wrong checksums and orphans in the whole store. With --codecs, also whether
    every payload of the namespace can be opened.
    """

    async def look(client: Client) -> Sequence[Problem]:
        async with client:
            return await client.verify()

    problems = asyncio.run(look(connect(db, namespace, codecs)))
    if as_json:
        found: list[dict[str, Any]] = [
            {"run_id": _run(one), "problem": one.text} for one in problems
        ]
        write(document({"store": shown(db), "ok": not problems, "problems": found}))
    else:
        _show(db, problems)
    return ExitCode.PROBLEM if problems else ExitCode.OK


def _show(db: str, problems: Sequence[Problem]) -> None:
    screen = out()
    for one in problems:
        screen.say(("✗ ", "red"), (f"{_run(one) or 'store'}  ", "dim"), one.text)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        screen.say((f"{count} in {shown(db)}; keep a copy of the file before anything else", "red"))
    else:
        screen.say(("✓ ", "green"), f"{shown(db)}: every history is whole")


def _run(problem: Problem) -> str | None:
    return None if problem.run_id is None else id_text(problem.run_id)
