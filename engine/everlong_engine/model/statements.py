"""SQL that a user wants stored with an event, or not at all."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from everlong_engine.model.failure import Failure, bounded

__all__ = ["STATEMENTS_S_MAX", "SqlValue", "Statement", "refusal_of"]

STATEMENTS_S_MAX: Final = 2.0
"""How long the statements of one activity may keep everybody else waiting."""

_SHOWN_CHARS: Final = 200

SqlValue: TypeAlias = bool | int | float | str | bytes | None
"""What every store keeps alike."""


class Statement(Struct, frozen=True):
    """One statement, and the rows of named parameters that it runs with, one after the other."""

    sql: str
    rows: tuple[Mapping[str, SqlValue], ...]
    many: bool = False
    """Written for many rows: then no row means that nothing is to be done."""


def refusal_of(
    text: str, statement: Statement, number: int, of: int, *, retryable: bool = True
) -> Failure:
    """Why it failed, for the activity that wanted it; none of the values that were bound."""
    sql = " ".join(statement.sql.split())
    shown = sql if len(sql) <= _SHOWN_CHARS else f"{sql[:_SHOWN_CHARS]}…"
    return Failure(
        type="everlong.exceptions.StatementFailed",
        message=bounded(f"{text} (statement {number} of {of}: {shown})"),
        retryable=retryable,
    )
