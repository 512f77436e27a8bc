"""`everlong lint`: what is wrong with workflows and activities, from their source alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from everlong._lint import RULES, Finding, Unreadable, lint as find
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import Json
from everlong.cli._screen import out, write

__all__ = ["lint"]


def lint(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Python files, or folders of them."),
    ],
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="CODE", help="Not this one, such as EV101; repeatable."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Find what would go wrong later, without running anything; exit 1 if something is found.

    # everlong: ignore[EV006] on a line accepts what is found there.
    """
    unwanted = ignore or []
    for code in unwanted:
        if code not in RULES:
            raise Mistake(f"--ignore {code}: there is no such code, only {', '.join(RULES)}")
    try:
        found = find(map(Path, files), ignore=unwanted)
    except Unreadable as error:
        raise Mistake(str(error)) from error
    if as_json:
        write(document({"ok": not found, "findings": [_facts(one) for one in found]}))
    else:
        _show(found)
    return ExitCode.PROBLEM if found else ExitCode.OK


def _facts(one: Finding) -> dict[str, object]:
    return {
        "file": str(one.path),
        "line": one.line,
        "column": one.column,
        "code": one.rule.code,
        "message": one.message,
        "fix": one.rule.fix,
    }


def _show(found: Sequence[Finding]) -> None:
    screen = out()
    for one in found:
        where = f"{one.path}:{one.line}:{one.column}: "
        screen.say((where, "bold"), (f"{one.rule.code} ", "red"), one.message)
        screen.say((one.rule.fix, "dim"), indent=4)
    if found:
        files = len({one.path for one in found})
        mistakes = "1 finding" if len(found) == 1 else f"{len(found)} findings"
        screen.say((f"{mistakes} in {'1 file' if files == 1 else f'{files} files'}", "red"))
    else:
        screen.say(("✓ ", "green"), "nothing found")
