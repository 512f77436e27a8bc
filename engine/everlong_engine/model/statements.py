"""SQL that a user wants stored with an event, or not at all."""

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

__all__ = ["SqlValue", "Statement"]

SqlValue: TypeAlias = bool | int | float | str | bytes | None
"""What every store keeps alike."""


class Statement(Struct, frozen=True):
    """One statement, and the rows of named parameters that it runs with, one after the other."""

    sql: str
    rows: tuple[Mapping[str, SqlValue], ...]
    many: bool = False
    """Written for many rows: then no row means that nothing is to be done."""
