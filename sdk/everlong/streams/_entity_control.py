"""What anybody asks about the keys of an entity, from any process, whoever works at them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from everlong._values import Value
from everlong.exceptions import InvalidArguments, UndecodablePayload
from everlong.streams._entity_context import moment
from everlong.streams._entity_rows import open_row
from everlong_engine import ByKey, EntityLook, EntityRow, OfKeys, RunRow, unpack

__all__ = ["EntityControl", "EntityState"]

S = TypeVar("S")

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class EntityState(Generic[S]):
    """What there is of one key."""

    key: str
    state: S
    timers: Mapping[str, datetime]
    """When those that have not come are due."""


class EntityControl(Generic[S]):
    """The keys of one execution. `Entity.control(handle)` gives one.

    It reads what is committed, with one look into the store; no worker is asked, so none need be
    there. What people get wrong: a message that was read a moment ago may not be in it yet.
    """

    def __init__(self, handle: Any, value: Value | None = None) -> None:
        self.handle = handle
        self._value = value

    async def get(self, key: str) -> S | None:
        """The state of a key; None if it has none.

        Raises:
            WorkflowNotFound: there is no such execution.
            UndecodablePayload: it does not fit today's type, or is sealed, and this client has no
                key for it.
        """
        found = await self.show(key)
        return None if found is None else found.state

    async def show(self, key: str) -> EntityState[S] | None:
        """The state of a key with its timers; None if it has none. Raises as `get`."""
        run, rows = await self._look(OfKeys((_text(key),)))
        return self._state(run, rows[0]) if rows else None

    async def keys(self, *, after: str = "", limit: int = 100) -> list[str]:
        """A page of keys that have a state, in the order of their characters, behind one of them.

        Raises:
            InvalidArguments: a limit below 1.
            WorkflowNotFound: there is no such execution.
        """
        if limit < 1:
            raise InvalidArguments(f"limit={limit}: give 1 or more")
        found: list[str] = []
        while len(found) < limit:
            wanted = min(limit - len(found), _PAGE)
            _, rows = await self._look(ByKey(found[-1] if found else _text(after), wanted))
            found += [row.key for row in rows]
            if not rows:
                break
        return found

    async def states(self) -> AsyncIterator[EntityState[S]]:
        """All keys with their states, page after page; each page is as one moment had it. Raises as
        `get`."""
        after = ""
        while True:
            run, rows = await self._look(ByKey(after, _PAGE))
            if not rows:
                return
            for row in rows:
                yield self._state(run, row)
            after = rows[-1].key

    async def _look(self, look: EntityLook) -> tuple[RunRow, list[EntityRow]]:
        found: tuple[RunRow, list[EntityRow]] = await self.handle.entities(look)
        return found

    def _state(self, run: RunRow, row: EntityRow) -> EntityState[S]:
        try:
            kept = open_row(self.handle.records, run, row)
            assert kept.state is not None, "a row has a state"
            state: Any = (
                unpack(kept.state) if self._value is None else self._value.decode(kept.state)
            )
        except UndecodablePayload as error:
            error.add_note(f"It is the state of the key {row.key!r} of {run.workflow_id}.")
            raise
        timers = {name: moment(due_us) for name, due_us in sorted(kept.timers.items())}
        return EntityState(row.key, state, timers)


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise InvalidArguments(f"{key!r:.80}: a key is a text")
    return key
