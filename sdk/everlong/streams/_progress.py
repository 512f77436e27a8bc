"""How far an execution has read its streams, as anybody finds it in the store."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from everlong._definitions import ENTITY, OWN
from everlong.exceptions import UndecodablePayload
from everlong.streams._moves import moved
from everlong.streams._names import activity_of, control_of, keys_of, part_of
from everlong.streams._parts import Part, part_from
from everlong_engine.model.payload import unpack

__all__ = ["Progress", "carried_in", "cursors_in", "keeps_states", "part_in", "progress_in"]

_READS: Final = activity_of("")
_LOOKS_MAX: Final = 50
_TELLS: Final = control_of("")


async def part_in(handle: Any, name: str) -> Part | None:
    """Which part of a stream's partitions an execution reads; None: all, or those that it names.

    Raises:
        UndecodablePayload: it is sealed, and this client has no key.
    """
    stored = (await carried_in(handle)).get(part_of(name))
    try:
        return part_from(stored)
    except ValueError as error:  # A note stands where something is sealed.
        raise UndecodablePayload(
            f"which partitions {handle.workflow_id} reads of {name!r} cannot be read here. Connect "
            "with the codecs that its workers have (`codecs=`, `--codecs`)",
            reason="it is sealed, or is no part",
        ) from error


async def cursors_in(handle: Any) -> dict[str, Any]:
    """By the names of streams; where something is sealed a note stands."""
    carried = await carried_in(handle)
    return {name: wire for name, wire in carried.items() if not name.startswith(OWN)}


async def carried_in(handle: Any) -> dict[str, Any]:
    """The same, with what else stands among the cursors. Of fresh keys only that there are some, if
    they came since the run began."""
    return (await progress_in(handle)).carried


@dataclass(slots=True)
class Progress:
    carried: dict[str, Any]
    """Cursors by the names of streams, and what else stands among them."""
    read_at: dict[str, datetime]
    """When the last batch of each stream came, of those that came since its run began."""
    reads: set[str]
    """Streams of which it asked for a batch since its run began."""


async def progress_in(handle: Any) -> Progress:
    """All that its current run tells of its streams."""
    waiting, history = await _found(handle)
    if waiting is not None:
        stored = dict(waiting.cursors)
        return Progress({name: unpack(data) for name, data in stored.items()}, {}, set())
    read_at: dict[str, datetime] = {}
    cursors: dict[str, Any] = {}
    reads: dict[int, str] = {}
    for event in history:
        fields = event.fields
        match event.kind:
            case "RunStarted":
                cursors = dict(fields.get("cursors", ()))
            case "ActivityScheduled" if fields["activity"].startswith(_READS):
                reads[fields["activity_id"]] = fields["activity"].removeprefix(_READS)
            case "ActivityCompleted" if fields["activity_id"] in reads:
                wire = [*fields["result"][:2], *fields["result"][4:]]
                name = reads[fields["activity_id"]]
                cursors[name], read_at[name] = wire, event.at
            case "SignalReceived" if fields["signal"].startswith(_TELLS):
                name = fields["signal"].removeprefix(_TELLS)
                if (to := moved(fields["payload"], cursors.get(name))) is not None:
                    cursors[name] = to
                match fields["payload"]:
                    case {"keys": "fresh"}:
                        cursors.setdefault(keys_of(name), [])
                    case _:
                        pass
            case _:
                pass
    return Progress(cursors, read_at, set(reads.values()))


async def keeps_states(handle: Any) -> bool:
    """Whether it is the flow of a keyed entity, whose states only go forward."""
    waiting, history = await _found(handle)
    if waiting is not None:
        return any(name.startswith(ENTITY) for name in dict(waiting.cursors))
    for event in history:
        match event.kind:
            case "RunStarted":
                if any(name.startswith(ENTITY) for name in dict(event.fields.get("cursors", ()))):
                    return True
            case "ActivityScheduled" if event.fields["activity"].startswith(ENTITY):
                return True
            case _:
                pass
    return False


async def _found(handle: Any) -> tuple[Any, list[Any]]:
    """With what the current run is to begin, between a checkpoint and the run behind it; else its
    history. One of both is there: where neither is, a run has begun anew between the two looks."""
    for _ in range(_LOOKS_MAX):
        if (waiting := await handle.waiting_start()) is not None:
            return waiting, []
        if history := await handle.history():
            return None, history
    return None, []
