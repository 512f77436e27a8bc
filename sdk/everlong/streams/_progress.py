"""How far an execution has read its streams, as anybody finds it in the store."""

from typing import Any, Final

from everlong._definitions import OWN
from everlong.streams._moves import moved
from everlong.streams._names import activity_of, control_of
from everlong_engine.model.payload import unpack

__all__ = ["cursors_in"]

_READS: Final = activity_of("")
_TELLS: Final = control_of("")


async def cursors_in(handle: Any) -> dict[str, Any]:
    """By the names of streams; where something is sealed a note stands."""
    waiting = await handle.waiting_start()
    if waiting is not None:  # Between a checkpoint and the run behind it.
        stored = dict(waiting.cursors)
        return {name: unpack(data) for name, data in stored.items() if not name.startswith(OWN)}
    cursors: dict[str, Any] = {}
    reads: dict[int, str] = {}
    for event in await handle.history():
        fields = event.fields
        match event.kind:
            case "RunStarted":
                cursors = {
                    name: wire
                    for name, wire in dict(fields.get("cursors", ())).items()
                    if not name.startswith(OWN)
                }
            case "ActivityScheduled" if fields["activity"].startswith(_READS):
                reads[fields["activity_id"]] = fields["activity"].removeprefix(_READS)
            case "ActivityCompleted" if fields["activity_id"] in reads:
                wire = [*fields["result"][:2], *fields["result"][4:]]
                cursors[reads[fields["activity_id"]]] = wire
            case "SignalReceived" if fields["signal"].startswith(_TELLS):
                name = fields["signal"].removeprefix(_TELLS)
                if (to := moved(fields["payload"], cursors.get(name))) is not None:
                    cursors[name] = to
            case _:
                pass
    return cursors
