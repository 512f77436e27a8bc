"""The runs that a worker holds, by execution and by name, least recently used first."""

from collections import Counter, OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from everlong.worker._owned import OwnedRun

__all__ = ["RunCache"]


class RunCache:
    """Where owned runs are found. `size` is how many should stay when nothing goes on in them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._runs: OrderedDict[bytes, OwnedRun] = OrderedDict()
        self._names: dict[tuple[str, str], OwnedRun] = {}
        self._pins: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[OwnedRun]:
        return iter(self._runs.values())

    @property
    def excess(self) -> int:
        """By how many runs the cache is too full; below zero there is room."""
        return len(self._runs) - self.size

    def hold(self, run: OwnedRun) -> None:
        """Put a run in the place of any other of its execution."""
        self._runs[run.execution_id] = run
        self._names[run.namespace, run.workflow_id] = run

    def drop(self, run: OwnedRun) -> None:
        if self._runs.get(run.execution_id) is run:
            del self._runs[run.execution_id]
        name = (run.namespace, run.workflow_id)
        if self._names.get(name) is run:
            del self._names[name]

    def get(self, execution_id: bytes) -> OwnedRun | None:
        return self._runs.get(execution_id)

    def find(self, namespace: str, workflow_id: str, execution_id: bytes | None) -> OwnedRun | None:
        """By workflow id; a given execution must be the one that has it."""
        run = self._names.get((namespace, workflow_id))
        if run is None or execution_id not in (None, run.execution_id):
            return None
        return run

    @contextmanager
    def pinned(self, execution_id: bytes) -> Generator[None, None, None]:
        """Somebody looks at the run meanwhile: it is not to be put to sleep."""
        self._pins[execution_id] += 1
        try:
            yield
        finally:
            self._pins[execution_id] -= 1
            if not self._pins[execution_id]:
                del self._pins[execution_id]

    def is_pinned(self, run: OwnedRun) -> bool:
        return run.execution_id in self._pins

    def used(self, run: OwnedRun) -> None:
        if self._runs.get(run.execution_id) is run:
            self._runs.move_to_end(run.execution_id)
