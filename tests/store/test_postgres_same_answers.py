"""The random operations of a store's own tests, on PostgreSQL: against the model, and beside the
store in memory.

What a server does at once comes before what it judges behind that, so the store in memory is given
a group as these two. A server gives no position twice, also not those of a group that failed; here
it is asked to, so that both stores count alike. The notices that tell an owner of a termination are
mail of its execution in one store and none in the other, so they are taken away at once.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

from hypothesis import HealthCheck, settings

from everlong_engine.model.writes import ForgetMail, Write, WriteResult
from everlong_engine.store.interface import Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.postgres import group as group_of_server
from everlong_engine.store.postgres.one_trip import OneTrip
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.store import PostgresStore
from tests.store.test_random_operations import StoreMachine
from tests.store.test_same_answers import BothStores
from tests.support.postgres_server import fresh_store, lent_store
from tests.support.store_rig import TERMINATED

T = TypeVar("T")

EXAMPLES = int(os.environ.get("EVERLONG_POSTGRES_EXAMPLES", "12"))
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}


class CountingStore(PostgresStore):
    """Uses the positions of a failed group again."""

    def submit(self, writes: Any) -> Any:
        return self._counted(writes)

    async def _counted(self, writes: list[Write]) -> list[WriteResult]:
        before = await self._look(lambda tx: tx.text(_LAST, ()))
        try:
            return await super().submit(writes)
        except Exception:
            (last, used) = before[0]
            await self._look(lambda tx: tx.text(_BACK, (last, used)))
            raise


_LAST = "SELECT last_value, is_called FROM everlong.inbox_position_seq"
_BACK = "SELECT setval('everlong.inbox_position_seq', $1, $2)"


class Watched(OneTrip):
    """Tells which of the writes of a group were done at once."""

    done: ClassVar[set[int]]

    async def go(self, tx: Tx, results: list[WriteResult]) -> set[int]:
        Watched.done = await super().go(tx, results)
        return Watched.done


class MemoryAndPostgres(BothStores):
    def __init__(self) -> None:
        super().__init__()
        self.lent = AsyncExitStack()
        url = self.look(self.lent.enter_async_context(lent_store()))
        self.lent.enter_context(patch.object(group_of_server, "OneTrip", Watched))
        self.server: Store = self.look(CountingStore.open(url, lease_us=0))
        self.stores = (MemoryStore(MemoryData()), self.server)
        for rig in self.rigs:
            rig.store = self.stores[0]

    def teardown(self) -> None:
        try:
            self.flush()
            self.both(lambda store: store.verify())
        finally:
            self.look(self.server.close())
            self.look(self.lent.aclose())
            self.database.close()
            self.runner.close()

    def submit(self, group: list[Write]) -> None:
        Watched.done = set()
        on_server = self.answer_of(self.server, lambda store: store.submit(group))
        at_once = Watched.done

        async def in_two_parts(store: Store) -> list[WriteResult]:
            results: list[WriteResult] = [None] * len(group)
            for places in (sorted(at_once), sorted(set(range(len(group))) - at_once)):
                if places:
                    found = await store.submit([group[at] for at in places])
                    for at, result in zip(places, found, strict=True):
                        results[at] = result
            return results

        assert self.answer_of(self.stores[0], in_two_parts) == on_server
        self.forget_notices()

    def both(self, work: Callable[[Store], Awaitable[T]]) -> T | str:
        answer = super().both(work)
        self.forget_notices()
        return answer

    def forget_notices(self) -> None:
        for store in self.stores:
            self.look(_forget_notices(store))

    async def noticed(self, store: Store) -> bool:
        """A server says too often that something was committed, and never too seldom."""
        return True


async def _forget_notices(store: Store) -> None:
    for mail in await store.mail_since(0, 1000):
        if mail.kind == TERMINATED:
            await store.submit([ForgetMail(mail.position, mail.execution_id)])


TestSameAnswersOnPostgres = MemoryAndPostgres.TestCase
TestSameAnswersOnPostgres.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, **_SETTINGS
)


class PostgresMachine(StoreMachine):
    async def open(self, path: Path) -> Store:
        return await CountingStore.open(await fresh_store(), lease_us=0)


TestRandomOperationsOnPostgres = PostgresMachine.TestCase
TestRandomOperationsOnPostgres.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, **_SETTINGS
)
