"""The one place that touches asyncio's internals.

A workflow's loop runs inside a callback or task of the worker's loop, so for the length of a drive
three things of the thread must change hands: the current task, the running loop and the hooks for
async generators. `enter` and `leave` do that. CPython 3.14 keeps the current task in the thread and
refuses to touch it for a loop that is not running, hence the order: leave the task, switch the
loop; drive; switch back, enter the task.

`install_as_completed` mends the only function of asyncio that orders anything by memory address
inside a workflow. `TaskGroup` and `wait` keep sets of tasks and futures; those hash by number.

Everything taken from a private name is taken here, at import, and a Python that lacks one says so.
"""

import sys
from asyncio import AbstractEventLoop, Task, events, tasks
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeAlias

_Outer: TypeAlias = AbstractEventLoop | None
_AnyTask: TypeAlias = Task[Any]
_AsyncGenHook: TypeAlias = Callable[[AsyncGenerator[Any, Any]], None] | None
Outside: TypeAlias = tuple[_Outer, _AnyTask | None, _AsyncGenHook, _AsyncGenHook]

_WHAT_IS_MISSING: Final = (
    "everlong drives workflows through {name!r} of CPython's asyncio, which Python {version} does "
    "not have. Use a CPython from 3.11 to 3.14, or a newer everlong."
)


def _private(module: object, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        version = sys.version.split()[0]
        raise RuntimeError(_WHAT_IS_MISSING.format(name=name, version=version)) from None


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


def _leave_it(_: AsyncGenerator[Any, Any]) -> None:
    """Leave an async generator alone: the worker's loop must neither know it nor close it."""


def enter(loop: AbstractEventLoop) -> Outside:
    """Make `loop` the running one, with no current task; give what `leave` needs to undo it.

    Call it from a callback or a task of the worker's loop, or with no loop running. From the first
    step of an async generator on, that generator never runs its `finally` by garbage collection.
    """
    outer = _get_running_loop()
    task = _current_task(outer) if outer is not None else None
    hooks = _get_hooks()
    if task is not None:
        _leave_task(outer, task)
    _set_running_loop(loop)
    _set_hooks(_leave_it, _leave_it)
    return outer, task, hooks.firstiter, hooks.finalizer


def leave(outside: Outside) -> None:
    """Give the thread back to the loop and the task that `enter` took it from."""
    outer, task, first_iteration, finalizer = outside
    _set_hooks(first_iteration, finalizer)
    _set_running_loop(outer)
    if task is not None:
        _enter_task(outer, task)
