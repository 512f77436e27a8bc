"""When a start is to begin, and with which others: options of `everlong start`."""

import re
from typing import Annotated, Any, Final

import typer

from everlong.cli._exits import Mistake
from everlong.starts import Debounce, Dedup
from everlong_engine import read_instant

__all__ = [
    "DebounceAtMost",
    "DebounceKey",
    "Debounced",
    "DedupKey",
    "DedupWithin",
    "beginning",
    "seen_lately",
    "together",
]

Debounced = Annotated[
    str | None,
    typer.Option(
        "--debounce", metavar="TIME", help="Begin when no more starts have come for that long."
    ),
]
DebounceKey = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Which starts of the workflow that means.")
]
DebounceAtMost = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long the first of them waits at most.")
]
DedupKey = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Find the execution of an earlier start with this key."),
]
DedupWithin = Annotated[str | None, typer.Option(metavar="TIME", help="For how long that is so.")]

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd]?)", re.ASCII)


def beginning(after: str | None, at: str | None) -> dict[str, Any]:
    """Keywords of `Client.start`. Raises Mistake."""
    if after is not None and at is not None:
        raise Mistake("give --after or --at, not both")
    found: dict[str, Any] = {}
    if after is not None:
        found["start_delay"] = _seconds(after, "--after")
    if at is not None:
        instant = read_instant(at)
        if instant is None or not instant[1]:
            raise Mistake(f"--at {at}: write an instant with its zone: 2026-12-24T18:00:00Z")
        found["start_at"] = instant[0]
    return found


def together(span: str | None, key: str | None, at_most: str | None) -> dict[str, Any]:
    """Likewise."""
    if span is None:
        if key is not None or at_most is not None:
            raise Mistake("say for how long, too: --debounce TIME")
        return {}
    most_s = None if at_most is None else _seconds(at_most, "--debounce-at-most")
    try:
        found = Debounce(_seconds(span, "--debounce"), key=key or "", at_most=most_s)
    except (ValueError, TypeError) as error:
        raise Mistake(str(error)) from error
    return {"debounce": found}


def seen_lately(key: str | None, within: str | None) -> dict[str, Any]:
    """Likewise."""
    if key is None and within is None:
        return {}
    if key is None or within is None:
        raise Mistake("--dedup-key and --dedup-within go together")
    try:
        return {"dedup": Dedup(key, within=_seconds(within, "--dedup-within"))}
    except (ValueError, TypeError) as error:
        raise Mistake(str(error)) from error


def _seconds(text: str, option: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Mistake(f"{option} {text}: write seconds, or a time such as 30s, 15m, 1h or 2d")
    return float(match[1]) * _UNITS[match[2]]
