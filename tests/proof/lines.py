"""The lines of `docs/reliability.jsonl`: what a part recorded, and where and when that was.

`record` writes the first half of a line, `stamped` adds the second. A line that is not as it must
be is refused by its number, for the page is made from this file alone. No clock and no git here:
the stamp is passed in.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["Line", "LineError", "Stamp", "merged", "read", "stamped", "text_of"]

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Invariants = Annotated[tuple[Annotated[int, Field(ge=1, le=14)], ...], Field(min_length=1)]


T = TypeVar("T")


class LineError(Exception):
    """A line that cannot be read: which one, and what is wrong with it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Recorded(_Strict):
    """What `record` wrote: one thing that was tried."""

    part: Text
    invariants: Invariants
    tried: Text
    times: Count
    broken: Count
    seconds: Annotated[float, Field(ge=0)]
    figures: dict[str, int | float | str]
    reproduce: Text


class Stamp(_Strict):
    """Where and when that was."""

    run: Text
    """The part of `python -m tests.proof` that recorded it."""
    quick: bool
    commit: Text
    date: Text
    python: Text
    sqlite: Text
    kernel: Text
    cores: Count


class Line(Recorded, Stamp):
    """Both."""


def read(text: str, name: str) -> list[Line]:
    """All lines of a file.

    Raises:
        LineError: with `name` and the line's number.
    """
    return _each(text, name, Line.model_validate_json)


def stamped(text: str, name: str, stamp: Stamp) -> list[Line]:
    """What `record` wrote, with the stamp; a part that was recorded twice counts by its last.

    Raises:
        LineError: with `name` and the line's number.
    """
    recorded = {one.part: one for one in _each(text, name, Recorded.model_validate_json)}
    return [
        Line.model_construct(**dict(one), **dict(stamp))  # Both halves are checked already.
        for one in recorded.values()
    ]


def merged(old: Iterable[Line], new: Sequence[Line], ran: Iterable[str]) -> list[Line]:
    """Keep the lines of what did not run again; a part's new lines replace all its old ones."""
    again = set(ran)
    recorded = {line.part for line in new}
    kept = [line for line in old if line.run not in again and line.part not in recorded]
    return [*kept, *new]


def text_of(lines: Iterable[Line]) -> str:
    return "".join(
        json.dumps(line.model_dump(mode="json"), ensure_ascii=False) + "\n" for line in lines
    )


def _each(text: str, name: str, parse: Callable[[str], T]) -> list[T]:
    found: list[T] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(parse(line))
        except ValidationError as error:
            raise LineError(f"{name}:{number}: {_first(error)}") from error
    return found


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
