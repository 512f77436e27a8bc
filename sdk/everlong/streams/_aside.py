"""What one step of a loop sets aside: dead letters, and what waits behind a parked key."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from everlong._context import RunPort
from everlong.channels import Output
from everlong.streams._isolation import Lot, Suspect, glance, key_of, lot_in, packed
from everlong.streams._letters import letter
from everlong.streams._loops import cursors_of
from everlong.streams._names import parked_of
from everlong.streams._poison import Poison

__all__ = ["Aside"]


class Aside:
    """For one step: the lot is read when it is asked for, and stored by `keep`."""

    def __init__(
        self, run: RunPort, name: str, poison: Poison, letters: Output[Any], parked: Output[Any]
    ) -> None:
        self._run = run
        self._name = parked_of(name)
        self._poison = poison
        self._letters, self._parked = letters, parked
        self._changed = False

    @cached_property
    def _lot(self) -> Lot:
        return lot_in(cursors_of(self._run), self._name)

    @cached_property
    def _keys(self) -> dict[bytes, list[Suspect]]:
        return dict(self._lot.keys)

    @cached_property
    def _places(self) -> set[Any]:
        return {_place(one) for one in self._lot.messages}

    async def judge(self, judged: Iterable[Suspect]) -> None:
        """What has failed alone, and what followed it."""
        for one in judged:
            key = key_of(one.record)
            if self._poison.policy == "park_key" and key is not None:
                await self._park(key, one)
            elif self._poison.policy != "skip":
                await self._letters.publish(letter(one, self._run.started.code))

    async def follows(self, identity: str, record: Any) -> bool:
        """Whether the key of a message is parked; then it is, too."""
        key = key_of(record)
        if key is None or key not in self._keys:
            return False
        await self._park(key, Suspect(identity, record))
        return True

    async def _park(self, key: bytes, one: Suspect) -> None:
        place = _place(one)
        if place in self._places:
            return  # It was read again.
        self._places.add(place)
        if key not in self._keys:
            self._keys[key] = []
            self._lot.keys.append((key, self._keys[key]))
        self._keys[key].append(one)
        await self._tell({"what": "parked", "message": letter(one, self._run.started.code)})

    async def release(self, key: bytes) -> list[Suspect]:
        """All of a key, in order; it is parked no longer."""
        found = self._keys.pop(key, [])
        if found:
            self._lot.keys = [one for one in self._lot.keys if one[0] != key]
            await self._tell({"what": "released", "key": key})
        return found

    async def tell_all(self) -> None:
        """Unless people know it: a reset, a savepoint or another execution may lie between."""
        stored = cursors_of(self._run).get(self._name)
        shown = 0 if stored is None else glance(stored)[1]
        if shown != self._run.outputs.following(self._name):
            await self._tell({})

    async def _tell(self, change: dict[str, Any]) -> None:
        """What has changed, or all that there is by now where people do not know the rest."""
        if not change or self._lot.shown != self._run.outputs.following(self._name):
            messages = [letter(one, self._run.started.code) for one in self._lot.messages]
            change = {"what": "all", "messages": messages}
        self._changed = True
        self._lot.shown = await self._parked.publish(change) + 1

    def keep(self) -> None:
        if self._changed:
            cursors_of(self._run)[self._name] = packed(self._lot)


def _place(one: Suspect) -> Any:
    return one.identity, one.record[0], one.record[1]
