"""What both stores need of pauses: the notice for owners, and the answer that is kept."""

from typing import Final

from everlong_engine.model.codec import encode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import RunTerminated
from everlong_engine.model.payload import pack, unpack
from everlong_engine.model.writes import ManyResult

__all__ = ["NOTICE", "PAUSED_ELSEWHERE", "many_result", "many_wire"]

PAUSED_ELSEWHERE: Final = "it was paused in the store that it was exported from"

NOTICE: Final = encode_event(RunTerminated(""), {})
"""As for a termination: it says that the run's row is to be looked at, and nothing else."""


def many_wire(result: ManyResult) -> bytes:
    """What a request about many executions was answered, to be kept."""
    return pack([result.executions, result.found])


def many_result(told: object) -> ManyResult:
    """The answer again. Raises UndecodablePayload."""
    match unpack(told) if isinstance(told, bytes) else None:
        case [int(executions), bool(found)]:
            return ManyResult(executions, (), found, duplicate=True)
        case _:
            raise UndecodablePayload(reason="the answer to a request cannot be read")
