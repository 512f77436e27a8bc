"""Named SQL: `queries.sql`, split at its names; and multi-row statements of a few fixed lengths.

Every C call into SQLite gives the interpreter lock away and must win it back, which costs up to a
switch interval (5 ms) while the event loop is busy. So a group commit is a handful of statements
with many rows each, not many statements: the number of rows is padded up to one of a few lengths,
which keeps the number of prepared texts small.

Python's sqlite3 looks for an adapter of each parameter that is no int, float, text or bytearray,
and meets an AttributeError on the way, for bytes and None as well: 2,000 instructions each. So
bytes go as a bytearray, and a row that pads has only the one NULL by which it is known.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import chain
from sqlite3 import Connection
from typing import Any, Final

__all__ = ["SQL", "execute_rows"]

_LENGTHS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def _load() -> Mapping[str, str]:
    text = files("everlong_engine.store.sqlite").joinpath("queries.sql").read_text("utf-8")
    found: dict[str, str] = {}
    for block in text.split("-- name: ")[1:]:
        name, _, rest = block.partition("\n")
        lines = [line for line in rest.splitlines() if not line.startswith("--")]
        found[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return found


SQL: Final = _load()
_texts: dict[tuple[str, int, int], str] = {}


def _text(name: str, length: int, width: int) -> str:
    key = (name, length, width)
    text = _texts.get(key)
    if text is None:
        row = "(" + ",".join("?" * width) + ")"
        text = _texts[key] = SQL[name].replace(":rows:", ",".join([row] * length))
    return text


def execute_rows(
    connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """Run a `:rows:` statement over all rows; what it returns, one list."""
    returned: list[tuple[Any, ...]] = []
    width = len(rows[0])
    for begin in range(0, len(rows), _LENGTHS[-1]):
        part = rows[begin : begin + _LENGTHS[-1]]
        length = next(length for length in _LENGTHS if length >= len(part))
        values = [
            bytearray(value) if type(value) is bytes else value
            for value in chain.from_iterable(part)
        ]
        values += [0, None, *[0] * (width - 2)] * (length - len(part))
        returned += connection.execute(_text(name, length, width), values).fetchall()
    return returned
