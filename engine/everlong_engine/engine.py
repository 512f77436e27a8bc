"""The engine's front door: one `Engine` per store and process.

Clients and workers of a process that name the same file share one engine, because a process is the
unit that owns a file. The engine holds the store, the group commit in front of it, the clock and
the source of ids; it knows who waits for which execution, and notices what other processes left in
the inbox. It knows no user code: payloads are bytes to it.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from everlong_engine.clock import LoopAlarms, SystemClock
from everlong_engine.duties.history_pruner import HistoryPruner
from everlong_engine.duties.inbox_watcher import InboxWatcher
from everlong_engine.duties.lease_keeper import LeaseKeeper
from everlong_engine.model.clock import Alarms, Clock
from everlong_engine.model.errors import StoreError
from everlong_engine.model.events import Closing
from everlong_engine.model.ids import IdSource, shard_of
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import MailRow, NewRun
from everlong_engine.model.tags import Tags
from everlong_engine.model.writes import ForgetMail
from everlong_engine.operations.group_commit import GroupCommit
from everlong_engine.store.interface import Question, Store
from everlong_engine.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from everlong_engine.store.postgres.store import PostgresStore

__all__ = ["Engine", "LocalHost"]


class LocalHost(Protocol):
    """A worker of this process, as the engine sees it."""

    @property
    def worker_id(self) -> bytes: ...

    def deliver(self, mail: MailRow) -> bool:
        """Take a message for a run that this worker owns; False when it owns none."""
        ...

    def tasks_changed(self) -> None:
        """Something has come into a task queue, or what stood there has ended."""
        ...

    def wake(self) -> None:
        """There may be something to claim."""
        ...

    @property
    def has_begun(self) -> bool:
        """Whether it is registered, and so has a lease."""
        ...

    @property
    def busy(self) -> int:
        """How many attempts it has at work."""
        ...

    def lease_lost(self) -> None:
        """What it has may be another's by now: let go of it, and begin anew."""
        ...

    def ask(self, question: Question) -> None:
        """Answer a query that came through the store, if it is for this worker to do."""
        ...

    def terminated(self, execution_id: bytes, run_id: bytes) -> None:
        """A run was closed from outside: drop it. The execution may have another one by now."""
        ...

    def look_at(self, execution_id: bytes) -> None:
        """The row of an execution's run was changed from outside: it is paused, or goes on."""
        ...

    def versions_changed(self) -> None:
        """A worker has come, or a run was pinned: look whether its runs are still its own."""
        ...

    def others_committed(self) -> None:
        """Another process has written something."""
        ...

    def store_failed(self, error: StoreError) -> None:
        """The store can no longer be trusted: drop everything, acknowledge nothing."""
        ...


_Waiter: TypeAlias = "asyncio.Future[tuple[bytes, Closing] | None]"

_engines: Final[dict[tuple[int, str], "Engine"]] = {}


class Engine:
    """Everything that clients and workers of one process share about one store."""

    def __init__(
        self, store: Store, clock: Clock, random: Random, alarms: Alarms | None = None
    ) -> None:
        self.store: Store = store
        self.clock = clock
        self.alarms: Alarms = alarms or LoopAlarms(clock)
        self.random = random
        self.ids = IdSource(random)
        self.commits = GroupCommit(store)
        self.commits.on_failed = self._store_failed
        self.hosts: list[LocalHost] = []
        self.on_trial: object | None = None
        """The suspect that is driven under its mark: one in a process, for they die together."""
        self._watcher = InboxWatcher(self)
        self._pruner: HistoryPruner | None = None
        self._leases: LeaseKeeper | None = None
        if store.lease_s is not None:
            self._leases = LeaseKeeper(store, self.hosts, clock, store.lease_s, self.alarms)
        self._waiters: dict[bytes, list[_Waiter]] = {}
        self._answers: dict[tuple[bytes, str], list[asyncio.Future[bytes | None]]] = {}
        self._readers: dict[bytes, list[asyncio.Future[None]]] = {}
        self._relays: list[Callable[[], None]] = []
        self._users = 0
        self._key: tuple[int, str] | None = None
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._append_base = random.getrandbits(38) << 24
        self._append_count = 0
        self.tasks_held_back = False
        """A worker here has seen tasks that may begin when others have ended."""
        self.tasks_ended = 0
        """By workers here, and stored."""
        self._last_sent = 0
        self.durability = "full"
        """"relaxed": a power cut may lose what was committed last."""

    # --------------------------------------------------------------------- opening and closing

    @classmethod
    async def open(
        cls,
        place: Path | str,
        *,
        durability: str = "full",
        create: bool = True,
        retention_us: int | None,
    ) -> "Engine":
        """The engine of a file, or of a database by its URL. Pair it with `close`.

        Raises:
            StoreError: see `SqliteStore.open` and `PostgresStore.open`.
        """
        key = _key(place)
        engine = _engines.get(key)
        if engine is None:
            store = await _open(place, durability=durability, create=create)
            try:
                newest = await store.newest_run()
            except BaseException:
                await store.close()
                raise
            # Another task may have opened it meanwhile: one engine per file and process.
            engine = _engines.get(key)
            if engine is None:
                engine = _engines[key] = cls(store, SystemClock(), Random())
                engine._key, engine.durability = key, durability
                if newest is not None:
                    engine.ids.follow(newest)
            else:
                await store.close()
        engine.require_its_loop()
        engine.share()
        engine.keep_closed_for(retention_us)
        return engine

    @staticmethod
    async def migrate(place: Path | str) -> tuple[int, int]:
        """Bring a store's schema to the newest version; from which (0: there was none) to which.

        Raises:
            StoreError: this user may not, or the store cannot be reached.
        """
        if isinstance(place, str):
            return await _driver().migrate(place)
        store = await SqliteStore.open(place)  # It does so by itself.
        try:
            version = int((await store.info()).settings["user_version"])
        finally:
            await store.close()
        return version, version

    def keep_closed_for(self, retention_us: int | None) -> None:
        """How long closed runs stay once a worker is here; the first one to say so decides."""
        if retention_us is not None and self._pruner is None:
            self._pruner = HistoryPruner(self.store, self.clock, retention_us, self.alarms)

    def share(self) -> None:
        """One more uses it, and will `close` it."""
        self._users += 1

    def require_its_loop(self) -> None:
        """Refuse another event loop: nobody there would ever be woken.

        Raises:
            StoreError: it is in use on another loop.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return  # Nothing can be awaited here anyway.
        if running is not self._loop:
            path = self.store.path
            raise StoreError(
                f"{path} is open in this process on another event loop: use one loop for all "
                "clients and workers of a file",
                path=path,
            )

    async def close(self) -> None:
        """Leave; the last one closes the store, after everything queued is stored."""
        self._users -= 1
        if self._users > 0:
            self._look_anew()  # Somebody may be waiting by the client that has just been closed.
            return
        if self._key is not None:
            _engines.pop(self._key, None)
        await self._watcher.stop()
        await self.commits.drain()
        await self.store.close()
        self._look_anew()

    # ------------------------------------------------------------------------------- workers

    @property
    def owned(self) -> bool:
        """Whether this process is the file's engine process."""
        return self.store.owned

    @property
    def shared(self) -> bool:
        """Whether other processes may have workers on the same store."""
        return self.store.lease_s is not None

    def attach(self, host: LocalHost) -> None:
        """A worker begins. Raises StoreOwned when another process has the file."""
        self.store.acquire()
        self.hosts.append(host)
        self._begin_duties()

    async def detach(self, host: LocalHost) -> None:
        """A worker has ended; with the last one the file is free for another process.

        The watcher goes on: clients of this process may be waiting for that other one.
        """
        self.hosts.remove(host)
        if self.hosts:
            return
        if self._pruner is not None:
            await self._pruner.stop()
        if self._leases is not None:
            await self._leases.stop()
        await self.commits.drain()
        if self.hosts:  # Another worker has come meanwhile.
            self._begin_duties()
        else:
            await self.store.abandon()
            self._look_anew()

    def _begin_duties(self) -> None:
        self._watcher.start()
        if self._leases is not None:
            self._leases.start()
        if self._pruner is not None:
            self._pruner.start()

    def _store_failed(self, error: StoreError) -> None:
        for host in list(self.hosts):
            host.store_failed(error)
        for waiters in self._all_waiters():
            for waiter in list(waiters):
                if not waiter.done():
                    waiter.set_exception(error)

    def versions_changed(self) -> None:
        """A worker has come, or a run was pinned: each looks whether its runs are still its own."""
        for host in self.hosts:
            host.versions_changed()

    def tasks_changed(self) -> None:
        """This process has put something into a task queue, or has ended what stood there."""
        self.tasks_held_back = False
        for host in self.hosts:
            host.tasks_changed()

    def task_ended(self) -> None:
        """A worker here has given one back: others may wait for that."""
        self.tasks_ended += 1
        if self.tasks_held_back:
            self.tasks_changed()

    def wake_hosts(self) -> None:
        for host in self.hosts:
            host.wake()

    # ---------------------------------------------------------------------------- small things

    def new_append_id(self) -> int:
        """Names an append, so that an ambiguous commit can be told from somebody else's."""
        self._append_count += 1
        return self._append_base + self._append_count

    def sent(self) -> Sent:
        """Names a message that has no request id. Give it to the group commit at once: a sender's
        messages must be stored in the order of their numbers."""
        self._last_sent = max(self._last_sent + 1, self.clock.now_us())
        return Sent(f"{self._append_base:x}", self._last_sent)

    def target(self, namespace: str, workflow_id: str, execution_id: bytes | None = None) -> Target:
        shard = shard_of(namespace, workflow_id, self.store.shards)
        return Target(shard, namespace, workflow_id, execution_id)

    def new_run(
        self,
        namespace: str,
        workflow_id: str,
        kind: str,
        queue: str,
        request_id: str | None,
        tags: Tags = (),
        version: str | None = None,
    ) -> NewRun:
        now_us = self.clock.now_us()
        run_id = self.ids.next(now_us)
        return NewRun(
            shard=shard_of(namespace, workflow_id, self.store.shards),
            run_id=run_id,
            execution_id=run_id,
            namespace=namespace,
            workflow_id=workflow_id,
            type=kind,
            queue=queue,
            started_us=now_us,
            request_id=request_id,
            tags=tags,
            version=version,
        )

    # ------------------------------------------------------------------------- who waits for what

    def closing(self, execution_id: bytes) -> _Waiter:
        """Resolves with (run id, closing event) when a run of the execution closes from now on;
        with None when somebody left this engine, or nobody here owns the file any more: look into
        the store then. Fails when the store does, or has."""
        future: _Waiter = asyncio.get_running_loop().create_future()
        if self.commits.failed is not None:  # Nobody will come by any more.
            future.set_exception(self.commits.failed)
            future.exception()  # Seen, also when nobody awaits it.
            return future
        waiters = self._waiters.setdefault(execution_id, [])
        waiters.append(future)
        future.add_done_callback(lambda _: self._forget_waiter(execution_id, future))
        return future

    def _all_waiters(self) -> "list[list[asyncio.Future[Any]]]":
        waiters: list[list[asyncio.Future[Any]]] = [*self._waiters.values()]
        return [*waiters, *self._answers.values()]

    def _look_anew(self) -> None:
        """Whoever waits in this process must look into the store, or hear why not."""
        for waiters in self._all_waiters():
            for waiter in list(waiters):
                if not waiter.done():
                    waiter.set_result(None)

    def answer(self, execution_id: bytes, name: str) -> "asyncio.Future[bytes | None]":
        """Resolves with the next answer to a request that this process stores; with None when it is
        time to look into the store. Fails when the store does."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        if self.commits.failed is not None:
            future.set_exception(self.commits.failed)
            future.exception()  # Seen, also when nobody awaits it.
            return future
        key = (execution_id, name)
        self._answers.setdefault(key, []).append(future)

        def forget(_: object) -> None:
            waiting = self._answers.get(key)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._answers[key]

        future.add_done_callback(forget)
        return future

    def answered(self, execution_id: bytes, name: str, answer: bytes) -> None:
        """An answer to a request is committed."""
        for future in self._answers.pop((execution_id, name), ()):
            if not future.done():
                future.set_result(answer)

    def _forget_waiter(self, execution_id: bytes, future: _Waiter) -> None:
        waiters = self._waiters.get(execution_id)
        if waiters is not None and future in waiters:
            waiters.remove(future)
            if not waiters:
                del self._waiters[execution_id]

    def departed(self, execution_id: bytes) -> None:
        """An execution has left this process's hands: whoever waits must look into the store."""
        for waiter in self._waiters.pop(execution_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def closed(self, execution_id: bytes, run_id: bytes, event: Closing) -> None:
        """A closing event is committed: whoever waits in this process hears of it."""
        waiters = self._waiters.pop(execution_id, None)
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result((run_id, event))

    def terminated(self, execution_id: bytes, run_id: bytes, event: Closing) -> None:
        """An execution was closed from outside by this process."""
        for host in self.hosts:
            host.terminated(execution_id, run_id)
        self.closed(execution_id, run_id, event)

    def replaced(self, execution_id: bytes, run_id: bytes) -> None:
        """Another run has taken the place of this one, by this process. A worker may have it in
        hand before its commit is known here."""
        for host in self.hosts:
            host.terminated(execution_id, run_id)
        self.departed(execution_id)

    def look_at(self, execution_ids: Iterable[bytes]) -> None:
        """Somebody here has paused executions, or let them go on: their owners look at once."""
        for execution_id in execution_ids:
            for host in self.hosts:
                host.look_at(execution_id)
        self.wake_hosts()

    def publishing(self, execution_id: bytes) -> "asyncio.Future[None]":
        """Resolves when this process has committed what the execution publishes. Only a hint: wait
        for `closing` beside it, and for `changed` while the execution is in nobody's hands here."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        readers = self._readers.setdefault(execution_id, [])
        readers.append(future)
        future.add_done_callback(lambda _: self._forget_reader(execution_id, future))
        return future

    def _forget_reader(self, execution_id: bytes, future: "asyncio.Future[None]") -> None:
        readers = self._readers.get(execution_id)
        if readers is not None and future in readers:
            readers.remove(future)
            if not readers:
                del self._readers[execution_id]

    def published(self, execution_id: bytes) -> None:
        """Items are committed: whoever follows them in this process looks."""
        for reader in self._readers.pop(execution_id, ()):
            if not reader.done():
                reader.set_result(None)

    def watch_letters(self, look: Callable[[], None]) -> Callable[[], None]:
        """Have `look` called when this process has left something in an outbox, until what this
        returns is called."""
        self._relays.append(look)
        return lambda: self._relays.remove(look)

    def letters_stored(self) -> None:
        """Something may wait in an outbox."""
        for look in list(self._relays):
            look()

    def forget_mail(self, position: int, execution_id: bytes) -> None:
        """A message that has done its work, or that nobody waits for any more. Left in the inbox,
        it would stand in the way of every append that requires an empty one."""
        self.commits.add(ForgetMail(position, execution_id), lambda _: None)

    def mail_arrived(self) -> None:
        """This process has left mail in the inbox: do not wait for the next look."""
        self._watcher.look_now()

    def ask_again(self, question_id: bytes) -> None:
        """A question was not for this process; by the next look it may be."""
        self._watcher.ask_again(question_id)

    def keep_looking(self) -> None:
        """Runs were claimed: where some were, more may follow."""
        self._watcher.keep_looking()

    def changed(self) -> "asyncio.Future[None]":
        """Resolves when another process has committed something."""
        return self._watcher.changed()


def _key(place: Path | str) -> tuple[int, str]:
    """By process as well: a forked child must not use its parent's connections."""
    return os.getpid(), place if isinstance(place, str) else str(place.absolute().resolve())


async def _open(place: Path | str, *, durability: str, create: bool) -> Store:
    if not isinstance(place, str):
        return await SqliteStore.open(place, durability=durability, create=create)
    return await _driver().open(place, create=create)


def _driver() -> "type[PostgresStore]":
    try:
        # Only who uses a server needs its driver.
        from everlong_engine.store.postgres.store import PostgresStore
    except ModuleNotFoundError as error:
        raise StoreError(
            "a PostgreSQL store needs the driver asyncpg: pip install 'everlong[postgres]'"
        ) from error
    return PostgresStore
