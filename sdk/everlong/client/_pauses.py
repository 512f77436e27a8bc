"""What a pause says, on its way into the store and out of it."""

from everlong._records import Records
from everlong._texts import storable
from everlong.client._connected import Connected
from everlong.client._views import Pause, instant
from everlong.exceptions import InvalidArguments
from everlong_engine import MOVER, PauseRow, RunRow, RunStatus

__all__ = ["checked_reason", "held_by", "shown"]

_BY_CHARS_MAX = 200
_REASON_CHARS_MAX = 4_000


def checked_reason(reason: str, by: str) -> tuple[str, str]:
    """Raises InvalidArguments."""
    for name, text, most in (("reason", reason, _REASON_CHARS_MAX), ("by", by, _BY_CHARS_MAX)):
        if type(text) is not str or len(text) > most:
            raise InvalidArguments(f"{name} is a text of up to {most} characters")
        storable(text, name)
    if by == MOVER:
        raise InvalidArguments(f"by={by!r}: that is how executions are held that are being moved")
    return reason, by


def shown(records: Records, row: PauseRow) -> Pause:
    return Pause(
        workflow_id=row.workflow_id,
        type=row.type,
        since=instant(row.since_us),
        by=row.by,
        reason=records.shown_pause_reason(row),
    )


async def held_by(client: Connected, row: RunRow) -> Pause | None:
    """Who holds a run; its own pause first."""
    if row.status not in (RunStatus.PAUSED, RunStatus.BLOCKED):
        return None
    found = await client.engine.store.pause_of(row)
    return shown(client.records, found[0]) if found else None
