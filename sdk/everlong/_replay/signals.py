"""Signals inside a run: accepted values wait in order; each is taken by one receiver.

A value leaves its buffer only when a receiver really resumes, so that a receiver which is cancelled
while it is being woken loses nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from everlong._definitions import OWN
from everlong_engine import unpack

__all__ = ["Signals"]

Waiter = asyncio.Future[None]


class _Channel(Struct):
    values: deque[tuple[bytes, Any]] = field(default_factory=deque)
    waiters: deque[Waiter] = field(default_factory=deque)

    def wake_next(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class Signals:
    """All channels of one run. `types` holds what the program has declared, by name."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._types = types
        self._channels: dict[str, _Channel] = {}
        self.received = 0
        """How many have been handed out."""
        self.handed = 0
        """To the code, and not to loops of Everlong's own."""

    def decode(self, name: str, payload: bytes) -> Any:
        """A value by its declared type. Raises EverlongError when it does not fit."""
        declared = self._types.get(name)
        return unpack(payload) if declared is None else declared.value.decode(payload)

    def canonical(self, name: str, payload: bytes) -> bytes:
        """A recorded value as today's type writes it. Raises EverlongError."""
        declared = self._types.get(name)
        if declared is None:
            return payload
        encoded: bytes = declared.value.encode(declared.value.decode(payload))
        return encoded

    def accept(self, name: str, payload: bytes) -> None:
        """Buffer a value and wake the receiver that has waited longest."""
        value = self.decode(name, payload)
        channel = self._channel(name)
        channel.values.append((payload, value))
        channel.wake_next()

    async def receive(self, name: str, create_future: Callable[[], Waiter]) -> Any:
        """The next value, waiting for it if there is none."""
        channel = self._channel(name)
        while not channel.values:
            waiter = create_future()
            channel.waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                woken = waiter.done() and not waiter.cancelled()
                if waiter in channel.waiters:
                    channel.waiters.remove(waiter)
                if woken and channel.values:
                    channel.wake_next()
                raise
        self.received += 1
        self.handed += not name.startswith(OWN)
        return channel.values.popleft()[1]

    async def before(
        self, name: str, other: asyncio.Future[Any], create_future: Callable[[], Waiter]
    ) -> bool:
        """Wait for the other, or for a value, which is not taken; whether the other was first.

        Whoever is cancelled meanwhile cancels the other, too.
        """
        channel = self._channel(name)
        either = create_future()

        def done(_: object) -> None:
            if not either.done():
                either.set_result(None)

        other.add_done_callback(done)
        channel.waiters.append(either)
        try:
            if not channel.values:
                await either
        except asyncio.CancelledError as error:
            other.cancel(*error.args)
            raise
        finally:
            other.remove_done_callback(done)
            if either in channel.waiters:
                channel.waiters.remove(either)
        return other.done()

    def has_come(self, name: str) -> bool:
        """Whether there is a value to take."""
        return bool(self._channel(name).values)

    async def come(self, name: str, create_future: Callable[[], Waiter]) -> None:
        """Wait for a value, and leave it to whoever receives it."""
        channel = self._channel(name)
        if channel.values:
            return
        waiter = create_future()
        channel.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in channel.waiters:
                channel.waiters.remove(waiter)
            if channel.values:
                channel.wake_next()  # It has stood in a receiver's place.

    def unread(self) -> tuple[str, ...]:
        """A name for every value that was accepted and never received."""
        return tuple(name for name, one in self._channels.items() for _ in one.values)

    def carried(self) -> tuple[tuple[str, bytes], ...]:
        """The same with their payloads, for the run that begins anew."""
        return tuple(
            (name, payload) for name, one in self._channels.items() for payload, _ in one.values
        )

    def _channel(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
        return channel
