"""Notices what other processes committed: mail for our runs, starts, questions, outcomes.

`PRAGMA data_version` on a connection that never writes tells in about a microsecond whether anybody
else has committed. It is asked every few milliseconds while things happen and rarely when nothing
does. What it brings is a hint: mail is consumed by its exact position, never by a high-water mark.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from everlong_engine.model.errors import EverlongError
from everlong_engine.model.events import CODES, RunTerminated
from everlong_engine.model.runs import MailRow
from everlong_engine.store.interface import Question, Store

__all__ = ["InboxWatcher"]

logger = logging.getLogger("everlong")

_MAIL_MAX: Final = 1000
_QUESTIONS_MAX: Final = 100
_STILL_BUSY_LOOKS: Final = 5
"""Who has asked something once soon asks again: so often the next look comes as soon."""
_TERMINATED: Final = CODES[RunTerminated]


class Host(Protocol):
    @property
    def worker_id(self) -> bytes: ...
    def deliver(self, mail: MailRow) -> bool: ...
    def wake(self) -> None: ...
    def ask(self, question: Question) -> None: ...
    def others_committed(self) -> None: ...


class Watched(Protocol):
    """The part of the engine that the watcher sees."""

    @property
    def store(self) -> Store: ...
    @property
    def hosts(self) -> Sequence[Host]: ...
    @property
    def shared(self) -> bool: ...
    def forget_mail(self, position: int, execution_id: bytes) -> None: ...


class InboxWatcher:
    """Polls while somebody is interested: a worker, or a client that waits for another process."""

    def __init__(self, engine: Watched) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._position = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._asked: set[bytes] = set()
        self._left_open: set[bytes] = set()
        self._nudge = asyncio.Event()
        self._behind = False
        self._stirred = False
        self._closed = False

    def start(self) -> None:
        if not self._closed and (self._task is None or self._task.done()):
            self._engine.store.listen(self.look_now)
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """For good: the store is about to be closed."""
        self._closed = True
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task])
        for future in self._waiting:
            if not future.done():
                future.set_result(None)  # Whoever waits looks, and hears that it is closed.

    def changed(self) -> "asyncio.Future[None]":
        """Resolves after the next commit of anybody else."""
        self.start()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def look_now(self) -> None:
        """Somebody knows that there is something to see."""
        self._nudge.set()

    def ask_again(self, question_id: bytes) -> None:
        """A question was for somebody else: if that one dies, it may be for us."""
        self._left_open.add(question_id)

    def keep_looking(self) -> None:
        """Something is going on here: more may come soon."""
        self._stirred = True

    async def _watch(self) -> None:
        busy_s, idle_s = self._engine.store.look_s
        pause, quiet = busy_s, 0
        while True:
            self._nudge.clear()  # Before the look: what comes during it is looked at again.
            found = await self._look() or self._stirred
            self._stirred = False
            if found:
                pause, quiet = busy_s, 0
            elif quiet < _STILL_BUSY_LOOKS:
                quiet += 1
            else:
                pause = min(pause * 1.2, idle_s)
            await self._pause(pause)

    async def _pause(self, pause_s: float) -> None:
        try:
            # Not `wait_for`: before 3.12 it can swallow a cancellation that races.
            async with asyncio.timeout(pause_s):
                await self._nudge.wait()
        except TimeoutError:
            return

    async def _look(self) -> bool:
        """Whether there was anything for us: others may be at work with what is none of ours."""
        try:
            if not (await self._engine.store.changed() or self._behind):
                return False
            found = await self._hand_out_mail()
            for host in self._engine.hosts:
                host.others_committed()
            if self._engine.hosts:
                found = await self._hand_out_questions() or found
        except EverlongError as error:
            # The change was seen, its mail perhaps not: look again without waiting for another one.
            self._behind = True
            logger.warning("cannot look into the store: %s", error)
            return False
        except Exception:
            # Ours. Whoever waits for mail must not wait for ever because of one row.
            self._behind = True
            logger.exception("a look into the store failed; trying again")
            return False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        return found or bool(waiting)

    async def _hand_out_mail(self) -> bool:
        hosts = self._engine.hosts
        if not hosts:
            return False
        workers = [host.worker_id for host in hosts]
        found = await self._engine.store.mail_since(self._position, _MAIL_MAX, workers)
        unclaimed = False
        for mail in found:
            self._position = mail.position
            if any(_deliver(host, mail) for host in hosts):
                continue
            if mail.kind == _TERMINATED:
                # The owner is one of these, or dead, and knows already: it was told by whoever
                # terminated here, or has let go of the run. A notice is no input of anybody else.
                self._engine.forget_mail(mail.position, mail.execution_id)
            else:
                unclaimed = True
        self._behind = len(found) == _MAIL_MAX
        if unclaimed:
            for host in hosts:
                host.wake()
        return bool(found)

    async def _hand_out_questions(self) -> bool:
        questions = await self._engine.store.open_questions(_QUESTIONS_MAX)
        current = {question.question_id for question in questions}
        news = current - self._asked
        again, self._left_open = self._left_open, set()
        for question in questions:
            if question.question_id in news | again:
                for host in self._engine.hosts[:1]:
                    host.ask(question)
        self._asked = current
        return bool(news)


def _deliver(host: Host, mail: MailRow) -> bool:
    """One message that a host cannot take must not keep the next ones from being seen."""
    try:
        return host.deliver(mail)
    except Exception:
        logger.exception("message %d could not be delivered; claiming its run anew", mail.position)
        return False
