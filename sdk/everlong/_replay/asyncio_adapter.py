"""The one place that touches asyncio's internals.

A workflow's loop runs inside a callback or task of the worker's loop, so for the length of a drive
three things of the thread must change hands: the current task, the running loop and the hooks for
async generators. `enter` and `leave` do that. CPython 3.14 keeps the current task in the thread and
refuses to touch it for a loop that is not running, hence the order: leave the task, switch the
loop; drive; switch back, enter the task.

`install_as_completed` mends what asyncio orders by memory address inside a workflow: the bare
coroutines given to `as_completed` above all. `TaskGroup` and `wait` keep tasks and futures, which
hash by number in a workflow.

Everything with a private name is taken here, at import, and a Python that lacks it is told so.
"""

import sys
import threading
from asyncio import AbstractEventLoop, Task, events, tasks
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import contextmanager
from random import Random
from types import CodeType
from typing import Any, Final, NoReturn, Protocol, TypeAlias, cast

from everlong._context import driving
from everlong._replay.insertion_order import InsertionOrderedSet

_Outer: TypeAlias = AbstractEventLoop | None
_AnyTask: TypeAlias = Task[Any]
_AsyncGenHook: TypeAlias = Callable[[AsyncGenerator[Any, Any]], None] | None
Outside: TypeAlias = tuple[_Outer, _AnyTask | None, _AsyncGenHook, _AsyncGenHook]


class DrivenLoop(Protocol):
    """What the guards need to know of a workflow's loop. Its class also says
    `everlong_workflow_loop = True`."""

    stopped: bool

    @property
    def guard_time_ns(self) -> int: ...
    @property
    def random(self) -> Random: ...
    @property
    def seed(self) -> int: ...
    def next_number(self) -> int: ...
    def forbid(self, what: str, fix: str) -> NoReturn: ...
    def forgot(self, coroutine: object) -> None: ...


def _private(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        _refuse_this_python(name)


def _refuse_this_python(name: str) -> NoReturn:
    raise RuntimeError(
        f"everlong drives workflows through {name} of CPython's asyncio, which is missing or "
        f"different in Python {sys.version.split()[0]}. Use CPython 3.11 to 3.14, or a newer "
        "everlong."
    )


_get_running_loop: Final[Callable[[], _Outer]] = _private(events, "_get_running_loop")
_set_running_loop: Final[Callable[[_Outer], None]] = _private(events, "_set_running_loop")
_enter_task: Final[Callable[[_Outer, _AnyTask], None]] = _private(tasks, "_enter_task")
_leave_task: Final[Callable[[_Outer, _AnyTask], None]] = _private(tasks, "_leave_task")
# In 3.11 `current_task` is a Python function around this dictionary; later it is C and as quick.
_current_task: Final[Callable[[_Outer], _AnyTask | None]] = (
    tasks.current_task
    if sys.version_info >= (3, 12)
    else _private(_private(tasks, "_current_tasks"), "get")
)
_get_hooks: Final = sys.get_asyncgen_hooks
_set_hooks: Final[Callable[[_AsyncGenHook, _AsyncGenHook], None]] = sys.set_asyncgen_hooks

_begin_driving: Final = driving.append
_end_driving: Final = driving.pop


def driven_loop() -> DrivenLoop | None:
    """The loop of the workflow that this thread drives now, if it does.

    The guards look into `driving` before they call this: an empty list is seen in 10 ns.
    """
    if not driving:
        return None
    loop = _get_running_loop()
    return cast(DrivenLoop, loop) if is_workflow_loop(loop) else None


def is_workflow_loop(loop: object) -> bool:
    return getattr(type(loop), "everlong_workflow_loop", False)


def _leave_it(_: AsyncGenerator[Any, Any]) -> None:
    """Leave an async generator alone: the worker's loop must neither know it nor close it."""


def enter(loop: AbstractEventLoop) -> Outside:
    """Make `loop` the running one, with no current task; give what `leave` needs to undo it.

    Call it from a callback or a task of the worker's loop, or with no loop running. An async
    generator that is first stepped in between never runs its `finally` by garbage collection.
    """
    outer = _get_running_loop()
    task = _current_task(outer) if outer is not None else None
    hooks = _get_hooks()
    if task is not None:
        _leave_task(outer, task)
    _set_running_loop(loop)
    _set_hooks(_leave_it, _leave_it)
    _begin_driving(None)
    return outer, task, hooks.firstiter, hooks.finalizer


def leave(outside: Outside) -> None:
    """Give the thread back to the loop and the task that `enter` took it from."""
    outer, task, first_iteration, finalizer = outside
    _end_driving()
    _set_hooks(first_iteration, finalizer)
    _set_running_loop(outer)
    if task is not None:
        _enter_task(outer, task)


@contextmanager
def as_current(task: _AnyTask) -> Generator[None, None, None]:
    """Make `task` the current one of its loop, which is the running one: anyio asks who calls."""
    loop = task.get_loop()
    _enter_task(loop, task)
    try:
        yield
    finally:
        _leave_task(loop, task)


# ------------------------------------------------------------------------------------ address order

_installing: Final = threading.Lock()


def install_as_completed() -> None:
    """Make `as_completed`, `wait`, `gather` and `all_tasks` blind to addresses inside a workflow.

    The functions look up `set`, `list` and the class of gather's future in their module whenever
    they run, so names placed there also serve whoever imported the functions long ago. Outside a
    workflow nothing changes.
    """
    with _installing:
        if getattr(tasks, "set", None) is _set:
            return
        _check_that_sets_are_looked_up()
        gathering = _numbered_by_the_run(_private(tasks, "_GatheringFuture"))
        for name, value in {"_GatheringFuture": gathering, "list": _list, "set": _set}.items():
            setattr(tasks, name, value)


def _set(members: Iterable[Any] = (), /) -> set[Any]:
    """`set` for asyncio: coroutines become tasks in argument order, and `done` is in it too."""
    return InsertionOrderedSet(members) if driving and driven_loop() else set(members)


def _list(members: Iterable[Any] = (), /) -> list[Any]:
    """`list` for asyncio, where `all_tasks` copies the process's tasks: by number in a workflow."""
    in_any_order = list(members)
    if driving and driven_loop():
        in_any_order.sort(key=hash)
    return in_any_order


def _numbered_by_the_run(original: Any) -> Callable[..., Any]:
    """Give gather's future, which no loop creates, the hash that a loop's futures have."""

    def numbered_hash(future: Any) -> int:
        return cast(int, future.hash_in_run)

    numbered: Any = type(
        original.__name__, (original,), {"hash_in_run": 0, "__hash__": numbered_hash}
    )

    def gathering(children: Any, *, loop: Any) -> Any:
        if not is_workflow_loop(loop):
            return original(children, loop=loop)
        future = numbered(children, loop=loop)
        future.hash_in_run = loop.seed + loop.next_number()
        return future

    return gathering


def _check_that_sets_are_looked_up() -> None:
    as_completed: Any = getattr(tasks, "_AsCompletedIterator", None)  # a class from 3.13 on
    orders = as_completed.__init__ if as_completed else tasks.as_completed
    for function in (orders, tasks.wait, _private(tasks, "_wait")):
        if "set" not in names_used(function.__code__):
            _refuse_this_python(f"a set in {function.__qualname__}")
    if "_GatheringFuture" not in names_used(tasks.gather.__code__):
        _refuse_this_python("_GatheringFuture in gather")


def names_used(code: CodeType) -> set[str]:
    nested = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(names_used, nested))
