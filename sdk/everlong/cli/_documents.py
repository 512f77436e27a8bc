"""`--json`: one document on standard output, for programs.

Instants are ISO-8601 in UTC, durations seconds, bytes base64. Everything beyond ASCII is escaped,
so the text can do nothing to a terminal, and it is never coloured.
"""

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from typing import Any, cast

from msgspec import Struct

__all__ = ["as_plain", "document", "document_line", "for_people", "named", "one_line"]


def document(value: object) -> str:
    """A whole document, indented."""
    return json.dumps(as_plain(value), indent=2, allow_nan=False)


def document_line(value: object) -> str:
    """One of several documents, each on a line of its own."""
    return json.dumps(as_plain(value), allow_nan=False)


def one_line(value: object) -> str:
    """A value for people: short JSON, not yet made harmless (see `_neutral`)."""
    return json.dumps(as_plain(value), ensure_ascii=False, allow_nan=False)


def named(values: Mapping[str, object]) -> str:
    """Values by their names in one line, for people."""
    return "  ".join(f"{name}={one_line(value)}" for name, value in sorted(values.items()))


def for_people(value: object) -> str:
    """A value over several lines; a text is itself. Not yet made harmless."""
    if isinstance(value, str):
        return value
    return json.dumps(as_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def as_plain(value: Any) -> Any:
    """What JSON can hold. Loses what kind of thing it was, never what it says."""
    match value:
        case Enum():
            return as_plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime():
            return _instant(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return b64encode(value).decode("ascii")
        case _:
            return _composed(value)


def _composed(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {_key(key): as_plain(one) for key, one in items}
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in cast("list[object]", value)]
    if isinstance(value, set | frozenset):
        return sorted((as_plain(one) for one in cast("set[object]", value)), key=repr)
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Struct):
        return {name: as_plain(getattr(value, name)) for name in value.__struct_fields__}
    return str(value)


def _key(key: object) -> str:
    plain = as_plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _instant(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
