"""Publishes what lies in outboxes: one worker at a time from each, oldest first.

One loop looks in which outboxes something waits, and each of those has a task that takes, writes
and marks until nothing is left. A letter leaves the store behind the broker's acknowledgement, so a
death between the two brings it again, under its id. While a broker is away its outbox is given
back, for a worker that may reach it, and tried again with growing pauses.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from everlong import registry
from everlong._records import Records
from everlong.exceptions import EverlongError, UndecodablePayload
from everlong.outboxes import Outbox, OutboxMessage, Writer, parts_of
from everlong_engine import Engine, KeptLetter, Refused, letter_id, limits

__all__ = ["Relay"]

logger = logging.getLogger("everlong")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AGAIN_S: Final = 1.0
"""Until the next look at an outbox that another worker has, or at a store that failed."""
_DELAY_S: Final = 0.5
_DELAY_MAX_S: Final = 30.0
_ALONE_AFTER: Final = 2
"""Failures in a row, from which on each message is tried by itself: the fault then names it."""
_ANSWER_S: Final = 30.0
"""That a broker may take for a batch, with connecting."""
_STOP_S: Final = 5.0
_CLOSE_S: Final = 2.0
_FAULT_CHARS: Final = 1_000
_CONCEALED: Final = "the broker refuses it; the reason may quote what is encrypted, and is not kept"


class _NotTakenError(Exception):
    """The broker has taken nothing, as far as anybody knows."""


class Relay:
    """One worker's. It knows the outboxes that this process has declared."""

    def __init__(self, engine: Engine, records: Records, worker_id: bytes) -> None:
        self._engine = engine
        self._records = records
        self._worker_id = worker_id
        self._news = asyncio.Event()
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._pausing: set[asyncio.Event] = set()
        self._writers: dict[str, tuple[Outbox[Any], Writer]] = {}
        self._failures: dict[str, int] = {}
        """In a row, by outbox."""
        self._stopping = False
        self._unwatch = engine.watch_letters(self._news.set)
        self._looking: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(
            self._look_for_ever()
        )
        self._ending: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """What is there goes out first, where brokers take it at once."""
        if self._looking is None:
            return
        self._stopping = True
        self._news.set()
        for wake in self._pausing:
            wake.set()
        await asyncio.wait([self._looking], timeout=_STOP_S)
        await self._end()

    def abandon(self) -> None:
        """Nothing can be marked any more, or somebody else may be at it by now."""
        if self._looking is not None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        looking, self._looking = self._looking, None
        if looking is None:
            return
        self._unwatch()
        tasks = [looking, *self._at_work.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for name in list(self._writers):
            await self._close(name)

    # ---------------------------------------------------------------------------------- looking

    async def _look_for_ever(self) -> None:
        while True:
            self._news.clear()
            # Before the look: what others commit during it is looked at again.
            others = self._engine.changed() if registry.outboxes else None
            try:
                await self._look()
                if self._stopping and not self._at_work:
                    return
                if others is not None:
                    others.add_done_callback(self._others_committed)
                await self._news.wait()
            finally:
                if others is not None:
                    others.cancel()

    def _others_committed(self, others: "asyncio.Future[None]") -> None:
        if not others.cancelled():
            self._news.set()

    async def _look(self) -> None:
        """Begin with every outbox in which something waits."""
        if not registry.outboxes:
            return
        try:
            full = await self._engine.store.full_outboxes(list(registry.outboxes))
        except EverlongError as error:
            logger.warning("cannot look into the outboxes now: %s", error)
            self._engine.alarms.after(_AGAIN_S, self._news.set)
            return
        loop = asyncio.get_running_loop()
        for name in full:
            if name not in self._at_work:
                task = self._at_work[name] = loop.create_task(self._empty(name))
                task.add_done_callback(partial(self._has_ended, name))

    def _has_ended(self, name: str, _: object) -> None:
        del self._at_work[name]
        self._news.set()  # Something may have come behind its last look.

    async def _pause(self, seconds: float) -> None:
        """Or until it is to stop."""
        wake = asyncio.Event()
        alarm = self._engine.alarms.after(seconds, wake.set)
        self._pausing.add(wake)
        try:
            if not self._stopping:
                await wake.wait()
        finally:
            self._pausing.discard(wake)
            alarm.cancel()

    # ------------------------------------------------------------------------------- publishing

    async def _empty(self, name: str) -> None:
        """Publish until nothing waits."""
        try:
            while await self._publish_some(name):
                pass
        except EverlongError as error:
            logger.warning("outbox %s: %s", name, error)
            await self._pause(_AGAIN_S)
        except Exception:
            # Ours. A relay that publishes nothing any more looks healthy, and is not.
            logger.exception("outbox %s: publishing failed; trying again", name)
            await self._pause(_AGAIN_S)

    async def _publish_some(self, name: str) -> bool:
        """Whether more may wait, for this worker. Raises StoreError."""
        engine, failures = self._engine, self._failures.get(name, 0)
        limit = 1 if failures >= _ALONE_AFTER else limits.LETTERS_AT_ONCE
        taken = await engine.store.take_letters(
            name, self._worker_id, limit, limits.LETTERS_BYTES_AT_ONCE
        )
        if taken is None:
            await self._pause(_AGAIN_S)  # Whoever has it may die.
            return False
        if not taken:
            return False
        try:
            refused = await self._write(name, taken)
        except _NotTakenError as error:
            fault = f"message {taken[0].position}: {error}" if len(taken) == 1 else str(error)
            if not failures:
                logger.warning("outbox %s: %s; trying again, with pauses", name, fault)
            self._failures[name] = failures + 1
            now_us = engine.clock.now_us()
            await engine.store.outbox_fails(name, self._worker_id, fault[:_FAULT_CHARS], now_us)
            await self._pause(min(_DELAY_S * 2.0**failures, _DELAY_MAX_S))
            return not self._stopping
        self._failures.pop(name, None)
        aside = {position for position, _ in refused}
        sent = [one.position for one in taken if one.position not in aside]
        await engine.store.letters_sent(name, sent, refused)
        for position, why in refused:
            logger.warning("outbox %s: message %d is set aside: %s", name, position, why)
        return True

    async def _write(self, name: str, taken: Sequence[KeptLetter]) -> list[Refused]:
        """Those that will never be taken. Raises _NotTakenError."""
        outbox: Outbox[Any] = registry.outboxes[name][0]
        refused: list[Refused] = []
        positions: dict[str, int] = {}
        messages: list[OutboxMessage] = []
        for one in taken:
            if not one.is_whole:
                refused.append((one.position, "what is stored of it is damaged"))
                continue
            message = self._message(one)
            positions[message.id] = one.position
            messages.append(message)
        told: Mapping[str, str] = {}
        if messages:
            told = await self._written(outbox, messages)
        for identifier, why in told.items():
            if identifier in positions:
                said = _CONCEALED if self._records.conceals else why
                refused.append((positions[identifier], said[:_FAULT_CHARS]))
        return refused

    def _message(self, one: KeptLetter) -> OutboxMessage:
        try:
            parts = parts_of(self._records.in_letter(one.letter))
        except UndecodablePayload as error:
            raise _NotTakenError(f"message {one.position} cannot be read: {error}") from error
        return OutboxMessage(
            id=letter_id(one.letter),
            value=parts.value,
            key=parts.key,
            headers=parts.headers,
            at=_EPOCH + timedelta(microseconds=one.letter.at_us),
        )

    async def _written(
        self, outbox: Outbox[Any], messages: Sequence[OutboxMessage]
    ) -> Mapping[str, str]:
        """What the sink says. Raises _NotTakenError."""
        while True:
            known = self._writers.get(outbox.name)
            is_new = known is None or known[0] is not outbox
            try:
                async with asyncio.timeout(_ANSWER_S):
                    if known is None or is_new:
                        await self._close(outbox.name)
                        known = outbox, await outbox.sink.open()
                        self._writers[outbox.name] = known
                    return await known[1].write(messages)
            except Exception as error:
                await self._close(outbox.name)
                if is_new:  # An older connection may have ended meanwhile: that is no fault.
                    raise _NotTakenError(self._said(error)) from error

    def _said(self, error: Exception) -> str:
        if isinstance(error, TimeoutError) and not str(error):
            return f"the broker gives no answer for {_ANSWER_S:g} s"
        kind = type(error).__name__
        # What a sink says may quote what it was given.
        return kind if self._records.conceals else f"{kind}: {error}"

    async def _close(self, name: str) -> None:
        known = self._writers.pop(name, None)
        if known is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await known[1].close()
        except Exception as error:
            logger.debug("outbox %s: its connection did not end in order: %s", name, error)
