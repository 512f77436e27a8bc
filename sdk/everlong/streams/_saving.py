"""Savepoints of a flow, from outside: asked for, listed, found, and not wanted any more."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

from everlong._savepoints import (
    NO_WAY_BACK,
    SAVEPOINTS,
    TAKES,
    Item,
    Savepoint,
    checked_name,
    forgetful,
    item_of,
    savepoint_of,
)
from everlong.exceptions import EverlongError, InvalidArguments, WorkflowClosed
from everlong.streams._names import control_of
from everlong.streams._progress import cursors_in, keeps_states
from everlong.streams._source import Source
from everlong_engine import seconds_us

__all__ = ["Saving"]

_WAIT_S: Final = 30.0


class Saving:
    """The part of a `StreamControl` that has to do with savepoints."""

    def __init__(self, handle: Any, name: str, source: Source[Any] | None) -> None:
        self.handle = handle
        self._name = name
        self._source = source

    async def forgetful(self) -> list[str]:
        """Not public: streams of the flow whose brokers forget what it has read."""
        found = forgetful(await cursors_in(self.handle))
        if self._source is not None and self._source.forgets and self._name not in found:
            found.append(self._name)
        return found

    async def require_no_states(self) -> None:
        """Not public. Raises InvalidArguments: the flow keeps states of keys."""
        if await keeps_states(self.handle):
            raise InvalidArguments(f"{self.handle.workflow_id}: {NO_WAY_BACK}")

    async def savepoint(
        self,
        name: str,
        *,
        stop: bool = False,
        wait: float | timedelta = _WAIT_S,
        request_id: str | None = None,
    ) -> Savepoint:
        """A named point to which the flow, or another, can return: how far its streams were read
        and what it carried, at one moment, as a checkpoint has them. It is stored whole or not.

            point = await orders.control(handle).savepoint("before-v2", stop=True)
            await client.start(consume_v2, from_savepoint=point, id="orders-v2")

        It is taken at a checkpoint at which nothing else is in flight, at once where the loop waits
        right behind one. What people get wrong: without `stop` the flow reads on, so another one
        that starts there reads the same messages again; what a broker forgets comes to one of both,
        so there it takes a stop.

        Args:
            name: under which it is found; one savepoint of the execution has it.
            stop: end the execution with it, in the same append: nothing is read or done behind it.
                It counts as cancelled, and no code of it runs any more.
            wait: seconds (or timedelta) for the flow to come to a checkpoint.
            request_id: the same id takes one savepoint, however often it is repeated.

        Raises:
            InvalidArguments: the name is taken, or is none; or the flow reads what its broker
                forgets, and is to read on.
            WorkflowClosed, WorkflowNotFound: nobody is there to be told.
            EverlongError: the flow came to no checkpoint in time. What was asked for still stands,
                and repeating it with the same request id waits on.
        """
        checked, wait_s = checked_name(name), _seconds(wait)
        here = await self.handle.pinned()
        request = request_id or here.new_request()
        known, following = await _items(here)
        if not any(one.request == request for _, one, _ in known):
            if checked in _live(known):
                raise InvalidArguments(
                    f"{here.workflow_id} has a savepoint {name!r} already: choose another name, or "
                    "delete that one"
                )
            await self.require_no_states()
            if not stop and (takes := await self.forgetful()):
                raise InvalidArguments(TAKES.format(streams=", ".join(map(repr, takes))))
            order = {"name": checked, "request": request, "stop": stop}
            await self._order(here, {"do": "savepoint", "order": order}, request_id)
            known = []
        else:
            following = 0
        number, item, at = await _answer(here, request, following, wait_s)
        return savepoint_of(item, number, at, here.workflow_id)

    async def savepoints(self) -> list[Savepoint]:
        """Those that are kept, the oldest first, also of executions that have ended; those of
        earlier executions too, for a handle that goes by the workflow id."""
        found: list[Savepoint] = []
        for one in await self.handle.kept():
            known, _ = await _items(one)
            found += [
                savepoint_of(item, number, at, one.workflow_id)
                for number, item, at in _live(known).values()
            ]
        return found

    async def find_savepoint(self, name: str) -> Savepoint:
        """The newest of this name.

        Raises:
            InvalidArguments: there is none.
        """
        found = await self.savepoints()
        for one in reversed(found):
            if one.name == name:
                return one
        known = ", ".join(repr(one.name) for one in found) or "none"
        raise InvalidArguments(
            f"{self.handle.workflow_id} has no savepoint {name!r}; there are: {known}"
        )

    async def delete_savepoint(
        self, name: str, *, wait: float | timedelta = _WAIT_S, request_id: str | None = None
    ) -> None:
        """Make a savepoint unknown. Those of an execution that has ended go with it.

        Raises:
            InvalidArguments: there is none of this name, or its execution has ended.
            EverlongError: the flow has not done it in time.
        """
        wait_s = _seconds(wait)
        here = await self.handle.pinned()
        known, following = await _items(here)
        request = request_id or here.new_request()
        if any(one.request == request for _, one, _ in known):
            return
        if name not in _live(known):
            await self.find_savepoint(name)  # Raises, unless it is one of an earlier execution.
            raise InvalidArguments(_ENDED.format(name=name, workflow_id=here.workflow_id))
        try:
            told = {"do": "forget", "name": name, "request": request}
            await self._order(here, told, request_id)
        except WorkflowClosed as error:
            text = _ENDED.format(name=name, workflow_id=here.workflow_id)
            raise InvalidArguments(text) from error
        await _answer(here, request, following, wait_s)

    async def _order(self, here: Any, told: dict[str, Any], request_id: str | None) -> None:
        await here.signal(control_of(self._name), told, request_id=request_id)


_ENDED: Final = (
    "savepoint {name!r} is of an execution of {workflow_id} that has ended: it goes with that, by "
    "its retention"
)

_Numbered = tuple[int, Item, Any]


def _seconds(wait: float | timedelta) -> float:
    return seconds_us(wait, "wait") / 1e6


async def _read(handle: Any, start: int, *, live: bool) -> AsyncIterator[_Numbered]:
    items = handle.subscribe(SAVEPOINTS, start, numbered=True, live=live)
    async for one in items:
        yield one.number, item_of(one.value), one.at


async def _items(handle: Any) -> tuple[list[_Numbered], int]:
    """All of an execution that are there, and the number of the next."""
    found = [one async for one in _read(handle, 0, live=False)]
    return found, found[-1][0] + 1 if found else 0


def _live(items: list[_Numbered]) -> dict[str, _Numbered]:
    """By name, without those that were deleted. What was asked for once is taken once: a run that
    was reset may have heard of it again."""
    found: dict[str, _Numbered] = {}
    requests: set[str] = set()
    for one in items:
        known = one[1].request in requests
        requests.add(one[1].request)
        match one[1].what:
            case _ if known:
                pass
            case "taken":
                found[one[1].name] = one
            case "deleted":
                found.pop(one[1].name, None)
            case "refused":
                pass
    return found


async def _answer(handle: Any, request: str, start: int, wait_s: float) -> _Numbered:
    """What came of a request."""
    try:
        async with asyncio.timeout(wait_s):
            async for one in _read(handle, start, live=True):
                item = one[1]
                if item.request == request and item.what == "refused":
                    raise EverlongError(f"there is no savepoint {item.name!r}: {item.reason}")
                if item.request == request:
                    return one
    except TimeoutError:
        raise EverlongError(
            f"{handle.workflow_id} came to no checkpoint within {wait_s:g} s. A savepoint is taken "
            "at `await checkpoint(…)`, or where the loop waits right behind one, with nothing else "
            "in flight: no task, activity, timer or child. It was asked for, and is taken when the "
            "flow comes there"
        ) from None
    raise EverlongError(f"{handle.workflow_id} has ended without a savepoint")
