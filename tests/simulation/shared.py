"""The store that all processes of a world share, and how a transaction of it is torn."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

from everlong_engine.store.interface import Store, Trouble
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import Fault, MemoryStore
from everlong_engine.store.sqlite.inline import InlineDatabase

__all__ = ["SharedStore", "shared_store"]


class SharedStore(Protocol):
    def open(self) -> Store:
        """The store as one more process sees it."""
        ...

    def tear(self, steps: int, work: Callable[[], Any]) -> Any:
        """Run `work`, and break its transaction off after so many small steps, if it is that
        long."""
        ...

    def make_table(self, statement: str) -> None:
        """A table of users, beside the engine's."""
        ...

    def rows(self, query: str, *values: object) -> list[Any]:
        """What is in it."""
        ...

    def close(self) -> None: ...


class SharedSqlite:
    """The production SQL on one in-memory database."""

    def __init__(self) -> None:
        self._database = InlineDatabase()

    def open(self) -> Store:
        return self._database.open()

    def tear(self, steps: int, work: Callable[[], Any]) -> Any:
        # SQLite asks after so many instructions of its machine whether to go on, and takes back
        # the transaction if not. Asked once: the ROLLBACK behind it must not be broken off too.
        answers = iter([1])
        connection = self._database.connection
        connection.set_progress_handler(lambda: next(answers, 0), steps)
        try:
            return work()
        finally:
            connection.set_progress_handler(None, 0)
            if connection.in_transaction:  # It was the end of a mere look that was broken off.
                connection.execute("ROLLBACK")

    def make_table(self, statement: str) -> None:
        self._database.connection.execute(statement)

    def rows(self, query: str, *values: object) -> list[Any]:
        return self._database.connection.execute(query, values).fetchall()

    def close(self) -> None:
        self._database.close()


class SharedMemory:
    """The store in memory: other code for the same promises."""

    def __init__(self) -> None:
        self._data = MemoryData()

    def open(self) -> Store:
        return MemoryStore(self._data)

    def tear(self, steps: int, work: Callable[[], Any]) -> Any:
        # A row here is some dozens of steps there.
        countdown = iter(range(steps // 40, -1, -1))

        def before_row() -> None:
            if next(countdown, -1) == 0:
                raise Fault(Trouble.REPEAT)

        self._data.before_row = before_row
        try:
            return work()
        finally:
            self._data.before_row = None

    def make_table(self, statement: str) -> None:
        raise NotImplementedError(f"plans with rows are drawn for SQLite only: {statement}")

    def rows(self, query: str, *values: object) -> list[Any]:
        raise NotImplementedError(f"plans with rows are drawn for SQLite only: {query}")

    def close(self) -> None:
        pass


def shared_store(kind: Literal["sqlite", "memory"]) -> SharedStore:
    return SharedSqlite() if kind == "sqlite" else SharedMemory()
