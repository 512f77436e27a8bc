"""States of keys on their way into the store and out of it.

A row holds the state by its declared type, and the timers of its key. It is sealed for its place,
so that nobody who writes to the database can give one key the state of another.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from everlong._values import Value
from everlong.exceptions import InvalidArguments, UndecodablePayload
from everlong_engine import ByDue, EntityLook, EntityRow, OfKeys, RunRow, Target
from everlong_engine.model.limits import ENTITY_STATE_BYTES_MAX

__all__ = ["Kept", "States", "open_row"]

_CONTENT: Final = msgspec.msgpack.Decoder(tuple[bytes, dict[str, int]])
_BYTES_MAX: Final = 2 * ENTITY_STATE_BYTES_MAX
"""Of a state with its timers."""


class Kept:
    """What there is of one key: the bytes of its state, None if it has none, and its timers."""

    __slots__ = ("_built", "state", "timers")

    def __init__(self, state: bytes | None, timers: Mapping[str, int]) -> None:
        self.state = state
        self.timers = dict(timers)
        self._built: Any = None

    def require_fit(self, value: Value) -> None:
        """Raises UndecodablePayload: the state is not of its type."""
        if self.state is not None:
            self._built = value.decode(self.state)

    def build(self, value: Value) -> Any:
        """The state, for somebody to change: each time another object."""
        assert self.state is not None, "there is one"
        built, self._built = self._built, None
        return value.decode(self.state) if built is None else built

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Kept):
            return NotImplemented
        return (self.state, self.timers) == (other.state, other.timers)

    __hash__ = None  # type: ignore[assignment]


def open_row(records: Any, run: RunRow, row: EntityRow) -> Kept:
    """Raises UndecodablePayload: it is sealed for somebody else, or damaged."""
    payload = records.entity(run.execution_id, run, row)
    try:
        if len(payload) > _BYTES_MAX:
            raise msgspec.ValidationError(f"it has {len(payload):,} bytes")
        state, timers = _CONTENT.decode(payload)
    except msgspec.DecodeError as error:
        raise UndecodablePayload(
            f"what is stored for the key {row.key!r:.220} is no state", reason=str(error)
        ) from error
    return Kept(state, timers)


class States:
    """The rows of one execution, as a worker reads and writes them."""

    def __init__(self, client: Any, run: RunRow) -> None:
        self._client = client
        self._run = run

    @classmethod
    async def of(cls, client: Any, workflow_id: str, execution_id: bytes) -> "States":
        target: Target = client.engine.target(client.namespace, workflow_id, execution_id)
        run: RunRow | None = await client.engine.store.latest(target)
        assert run is not None, "a worker has it in hand"
        return cls(client, run)

    async def of_keys(self, keys: Iterable[str]) -> dict[str, Kept]:
        return await self._read(OfKeys(tuple(keys)))

    async def by_due(self, limit: int) -> dict[str, Kept]:
        return await self._read(ByDue(limit))

    async def _read(self, look: EntityLook) -> dict[str, Kept]:
        run = self._run
        rows: list[EntityRow] = await self._client.engine.store.entities(
            run.shard, run.execution_id, look
        )
        records = self._client.records
        return {row.key: open_row(records, run, row) for row in rows}

    @staticmethod
    def check(key: str, kept: Kept) -> None:
        """Raises InvalidArguments: it is too large."""
        size = 0 if kept.state is None else len(kept.state)
        if size > ENTITY_STATE_BYTES_MAX:
            raise InvalidArguments(
                f"the state of the key {key!r} has {size:,} bytes, and a state at most "
                f"{ENTITY_STATE_BYTES_MAX:,}: it is read and written with each message of the key. "
                "Keep less in it, or write what grows to a table of your own"
            )

    def row(self, key: str, kept: Kept) -> EntityRow:
        """What is stored of one that has a state."""
        assert kept.state is not None, "what has no state has no row"
        payload = msgspec.msgpack.encode((kept.state, kept.timers))
        due_us = min(kept.timers.values(), default=None)
        row: EntityRow = self._client.records.entity_row(
            self._run.execution_id, self._run, key, due_us, payload
        )
        return row
