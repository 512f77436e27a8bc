"""Every definition that has been imported, by name: what a worker hosts unless it is told.

A name means one definition. The same function decorated again (a module reloaded, a script that is
imported under two names) takes the place of the older one; two functions under one name are an
error at import, because a run would not know which one it began with.

Another version of the same flows has the same names: what is imported under `Definitions` goes into
tables of its own.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from everlong._texts import fault_of_name, shown
from everlong.exceptions import DefinitionError

__all__ = [
    "Definitions",
    "Tables",
    "activities",
    "is_apart",
    "outboxes",
    "outputs",
    "pools",
    "queues",
    "register",
    "signals",
    "tables",
    "workflows",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tables:
    """Definitions by name."""

    workflows: dict[str, Any] = field(default_factory=dict[str, Any])
    activities: dict[str, Any] = field(default_factory=dict[str, Any])
    signals: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])


_everything: Final = Tables()
_here: Final[ContextVar[Tables]] = ContextVar("everlong_definitions", default=_everything)

workflows: Final = _everything.workflows
activities: Final = _everything.activities
signals: Final = _everything.signals
outputs: Final = _everything.outputs
queues: Final[dict[str, tuple[Any, str]]] = {}
"""Task queues that were declared, of all versions, and in which files: a queue is one for all."""
pools: Final[dict[str, tuple[Any, str]]] = {}
"""Likewise, pools of workflows."""
outboxes: Final[dict[str, tuple[Any, str]]] = {}
"""Likewise, outboxes; the last one that was declared publishes."""


def tables() -> Tables:
    """Where a definition goes that is made now."""
    return _here.get()


def is_apart() -> bool:
    """Whether what is imported now is another version, under `Definitions`."""
    return _here.get() is not _everything


class Definitions:
    """The workflows and activities that are imported inside it, apart from all others.

    Two versions of one workflow have one name, and can then live in one process. What people get
    wrong: a module is imported once, so the older version must be another module (a copy of the
    file under another name), and what both import belongs to whoever came first.

        with Definitions() as before:
            import orders_v1                        # has a workflow `order`
        import orders                               # has one, too

        old = Worker(client, workflows=before.workflows, version="1")
        new = Worker(client, version="2")
    """

    def __init__(self) -> None:
        self._tables = Tables()
        self._token: Token[Tables] | None = None

    def __enter__(self) -> Self:
        self._token = _here.set(self._tables)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None, "it is left once"
        _here.reset(self._token)

    @property
    def workflows(self) -> tuple[Any, ...]:
        """For `Worker(workflows=…)`."""
        return tuple(self._tables.workflows.values())

    @property
    def activities(self) -> tuple[Any, ...]:
        """For `Worker(activities=…)`."""
        return tuple(self._tables.activities.values())


def register(kind: dict[str, T], name: str, what: T, function: Any, word: str) -> None:
    """Put a definition in its table.

    Raises:
        DefinitionError: another function, or another type, already has the name, or it is none.
    """
    fault = fault_of_name(name)
    if fault is not None:
        raise DefinitionError(f"{_place(function)}: the name {shown(name)} {fault}")
    known = kind.get(name)
    if known is not None and not _same(getattr(known, "function", known), function):
        old, new = _place(getattr(known, "function", known)), _place(function)
        raise DefinitionError(
            f"two {word} are called {name!r}: {old} and {new}. Rename one, or give one another "
            f'name: @{"workflow" if word == "workflows" else "activity"}(name="…")'
        )
    kind[name] = what


def _same(a: Any, b: Any) -> bool:
    """The same source place counts as the same function: it was imported twice."""
    code_a, code_b = getattr(a, "__code__", None), getattr(b, "__code__", None)
    if code_a is None or code_b is None:
        return False
    same_line = code_a.co_firstlineno == code_b.co_firstlineno
    if code_a.co_filename == code_b.co_filename:
        # In a test, or a notebook, a function is often defined anew under its old name.
        return bool(same_line or a.__qualname__ == b.__qualname__)
    return bool(a.__module__ == b.__module__)


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)
