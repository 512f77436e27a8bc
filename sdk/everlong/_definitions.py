"""What a decorated function is to the engine: a name, a body, types, options, a digest.

Made once, at decoration, so that every mistake in a signature shows where the function stands and
not in production. Nothing here runs anything.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import CodeType
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

from everlong._failures import ExceptionRegistry
from everlong._values import Parameters, Value
from everlong.exceptions import DefinitionError
from everlong_engine import ActivityOptions, Retry, is_queue_name, limits

__all__ = [
    "ENTITY",
    "OWN",
    "QUEUE",
    "ActivityDefinition",
    "AtOnce",
    "PlacesInPool",
    "Versioning",
    "WorkflowDefinition",
    "check_version",
    "check_versioning",
    "code_digest",
    "pool_name",
    "queue_name",
    "run_policy",
]

OWN: Final = "everlong."
"""What the names of Everlong's own workflows begin with."""
ENTITY: Final = f"{OWN}entity."
"""What calls the handlers of a keyed entity; and under which its run carries, among its cursors,
when its next timer is due."""
VERSION_CHARS_MAX: Final = 100
Versioning: TypeAlias = Literal["auto", "pinned", "pinned_run"]
"""Which worker may go on with a run when there are several versions of its code."""


def check_version(value: str, owner: str) -> None:
    """Refuse what cannot name a version on a command line and in a store.

    Raises:
        DefinitionError: it is empty, too long, or not printable.
    """
    if not (0 < len(value) <= VERSION_CHARS_MAX and value.isprintable()):
        raise DefinitionError(
            f"{owner}: {value!r:.60} names no version: give 1 to {VERSION_CHARS_MAX} printable "
            'characters, such as "2026-11-21" or a commit'
        )


QUEUE: Final = "default"
"""The task queue of workflows, and of activities that name none."""


def queue_name(value: object) -> str:
    """A name for a task queue.

    Raises:
        ValueError: it is empty, too long, or not printable.
    """
    if not is_queue_name(value):
        raise ValueError(
            f"queue={value!r:.60} names no task queue: give 1 to {limits.QUEUE_CHARS_MAX} "
            'printable characters, such as "gpu"'
        )
    return str(value)


def pool_name(value: object) -> str:
    """A name for a pool of workflows.

    Raises:
        ValueError: it is empty, too long, or not printable.
    """
    if not is_queue_name(value):
        raise ValueError(
            f"{value!r:.60} names no pool: give 1 to {limits.QUEUE_CHARS_MAX} printable "
            'characters, such as "imports"'
        )
    return str(value)


class PlacesInPool(Protocol):
    """How the executions of a workflow take their turns in a pool: a `TurnRule`."""

    @property
    def pool(self) -> str: ...

    def place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, int]:
        """(key, rank) of an execution with these arguments."""
        ...


def check_versioning(value: str, owner: str) -> None:
    """Refuse what is no policy.

    Raises:
        DefinitionError: with what there is.
    """
    if value not in get_args(Versioning):
        raise DefinitionError(
            f"{owner}: versioning={value!r} is not one of {', '.join(get_args(Versioning))}"
        )


def run_policy(retry: Retry, owner: str) -> tuple[Any, ...]:
    """A policy as a run's start records it.

    Raises:
        TypeError, ValueError: it is none, or one for activities only.
    """
    if not isinstance(retry, Retry):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{owner}: retry={retry!r}: give a Retry, such as Retry(max_attempts=3)")
    if retry.on_exhausted != "fail":
        raise ValueError(
            f'{owner}: Retry(on_exhausted="pause") is for activities; a workflow that has failed '
            "has nothing left to pause"
        )
    return retry.options.run_policy


AtOnce: TypeAlias = Callable[
    [dict[Any, Any], bytes, bytes], tuple[bytes, Callable[[], None]] | None
]
"""Given what the worker keeps between attempts, the execution, and the arguments: the result, and
what is called once that is stored; None if one has to wait."""


@dataclass(slots=True, eq=False)
class ActivityDefinition:
    """An activity as the worker runs it."""

    name: str
    function: Callable[..., Any]
    parameters: Parameters
    result: Value
    options: ActivityOptions
    exceptions: ExceptionRegistry
    is_async: bool
    process: bool = False
    transactional: bool = False
    """Its first parameter is a `Transaction`, which no caller passes."""
    waits: bool = False
    """It does nothing but wait for what may never come: who stops does not wait for it."""
    terms: tuple[str, ...] = ()
    """Of its parameters: what later code may give otherwise, for the record stands all the same."""
    at_once: AtOnce | None = None
    """Of one that waits: its result, if it is there already. Then no attempt of it begins."""


@dataclass(eq=False)
class WorkflowDefinition:
    """A workflow as a run executes it."""

    name: str
    function: Callable[..., Any]
    parameters: Parameters
    result: Value
    exceptions: ExceptionRegistry
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    versioning: Versioning | None = None
    """None: as the worker says."""
    retry: tuple[Any, ...] | None = None
    """How an execution is tried again that fails, as its start records it."""
    signals: dict[str, Any] = field(default_factory=dict[str, Any])
    """Those that are declared beside it, by name; live, for one may be declared later."""
    turns: PlacesInPool | None = None
    """How its executions take their turns; None: it is in no pool."""

    @cached_property
    def digest(self) -> str:
        """Names the code, shown with a run's history: first 12 hex digits of SHA-256."""
        return code_digest(self.function)


def code_digest(function: Callable[..., Any]) -> str:
    """A digest of a function's source, or of its bytecode where there is no source."""
    try:
        text = inspect.getsource(function).encode()
    except (OSError, TypeError):
        code: CodeType = function.__code__
        text = code.co_code + repr(code.co_consts).encode()
    return sha256(text).hexdigest()[:12]
