"""The sums by which each line of an export is bound to those before it."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final
from zlib import crc32

__all__ = ["Line", "sum_behind", "sum_of", "summed", "with_sum"]

Line = dict[str, Any]

_SUM: Final = ', "crc": '


def summed(lines: Iterable[Line]) -> Iterator[str]:
    before = 0
    for line in lines:
        text, before = with_sum(line, before)
        yield text


def with_sum(line: Line, before: int) -> tuple[str, int]:
    text = json.dumps(line, separators=(", ", ": "))[:-1]
    total = crc32(text.encode("ascii"), before)
    return f"{text}{_SUM}{total}}}", total


def sum_of(line: str) -> int:
    return int(line[line.rindex(_SUM) + len(_SUM) : -1])


def sum_behind(text: str, before: int) -> tuple[bool, int]:
    """Whether a line bears a sum, and what it should be."""
    body, comma, _ = text.rpartition(_SUM)
    return bool(comma), crc32(body.encode("utf-8", "surrogatepass"), before)
