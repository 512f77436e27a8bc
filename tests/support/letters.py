"""Letters for a store: what an append leaves in outboxes."""

from msgspec.structs import replace

from everlong_engine.model.letters import Letter, check_of_letter
from everlong_engine.model.runs import NewRun, RunRow

__all__ = ["letter"]


def letter(
    row: RunRow | NewRun, seq: int, number: int = 0, *, outbox: str = "paid", payload: bytes = b"x"
) -> Letter:
    """One of a run, as the SDK makes it."""
    made = Letter(
        outbox=outbox,
        shard=row.shard,
        execution_id=row.execution_id,
        run_id=row.run_id,
        seq=seq,
        number=number,
        at_us=1_800_000_000_000_000 + seq,
        payload=payload,
        checksum=0,
    )
    return replace(made, checksum=check_of_letter(made))
