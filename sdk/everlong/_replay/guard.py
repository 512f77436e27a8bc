"""Makes time and chance answer from the run's record while workflow code runs.

`time.time()`, `random.choice()`, `os.urandom()` and their kin keep their names and behave as ever
outside a workflow. Inside one, the time is that of the last input, in UTC, and chance comes from
the run's seed, so uuid4, secrets and SystemRandom, which all ask `os.urandom`, are repeatable too.
What has no repeatable answer (`time.sleep`, `uuid.uuid1`, a thread) is refused with what to do.

A guard takes the place of the module's function: an original that someone bound by a from-import
before is not guarded, hence the check at decoration (`everlong._purity`). Guards are bound methods,
as the functions of `random` are: put into a class body (`converter = time.gmtime`) they stay as
they are, and they pickle by name.
"""

import calendar
import importlib
import os
import random
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any, Final, TypeAlias

from everlong._context import driving
from everlong._replay import audit
from everlong._replay.asyncio_adapter import DrivenLoop, driven_loop

_Function: TypeAlias = Callable[..., Any]
_Guard: TypeAlias = Callable[[_Function], _Function]

NS_PER_S: Final = 1_000_000_000
USE_ASYNCIO_SLEEP: Final = (
    "Write `await asyncio.sleep(seconds)`: in a workflow it is a durable timer."
)
USE_UUID4: Final = "Use `everlong.uuid4()` or `uuid.uuid4()`: they come from the run's seed."
USE_TASKS: Final = (
    "Start tasks (`asyncio.TaskGroup`) for what the workflow does side by side, and move blocking "
    "work into an activity: a plain `def` under @activity runs in a thread."
)
USE_THE_SEED: Final = "Make your own `random.Random(seed)`: the run's source has a seed already."

_installing: Final = threading.Lock()


def install() -> None:
    """Put the guards in place. Called whenever a Worker starts; a second call finds nothing to do,
    unless a test's fake clock has put its own functions there meanwhile."""
    with _installing:
        for module, guards in _guards().items():
            for name, guard in guards.items():
                _put(module, name, guard)
        _guard_methods()
        audit.install()


def _guards() -> dict[ModuleType, dict[str, _Guard]]:
    of_the_hidden_instance = [
        name
        for name, value in vars(random).items()
        if isinstance(value, MethodType | BuiltinMethodType)
        and value.__self__ is getattr(random, "_inst", None)
    ]
    return {
        time: {
            **dict.fromkeys(CLOCKS_S, _clock_s),
            **dict.fromkeys(CLOCKS_NS, _clock_ns),
            "sleep": _refused("time.sleep()", USE_ASYNCIO_SLEEP),
            "localtime": _local_time,
            "gmtime": _local_time,
            "ctime": _date_text,
            "asctime": _struct_text,
            "strftime": _formatted_time,
            "mktime": _seconds_of,
        },
        random: {
            **{name: _chance(name) for name in of_the_hidden_instance},
            "seed": _refused("random.seed()", USE_THE_SEED),
            "setstate": _refused("random.setstate()", USE_THE_SEED),
            "_urandom": _random_bytes,
        },
        os: {"urandom": _random_bytes, "getrandom": _random_bytes},
        warnings: {"_warn_unawaited_coroutine": _unless_stopped},
        uuid: {name: _refused(f"uuid.{name}()", USE_UUID4) for name in UNREPEATABLE_UUIDS},
    }


CLOCKS_S: Final = (
    "time",
    "monotonic",
    "perf_counter",
    "process_time",
    "thread_time",
    "clock_gettime",
)
CLOCKS_NS: Final = tuple(f"{name}_ns" for name in CLOCKS_S)
UNREPEATABLE_UUIDS: Final = ("uuid1", "uuid6", "uuid7", "getnode")
"""They mix in the machine's address or the process's last answer."""


class _Home:
    """What a guard is bound to: where it lives, so that it pickles by that name."""

    __slots__ = ("_module",)

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        return importlib.import_module, (self._module.__name__,)


def _put(module: ModuleType, name: str, guard: _Guard) -> None:
    original = getattr(module, name, None)  # clock_gettime, getrandom, uuid7: not everywhere
    if original is None or isinstance(getattr(original, "__self__", None), _Home):
        return
    guarded = _named_like(original, guard(original))
    setattr(module, name, MethodType(guarded, _Home(module)))


def _named_like(original: _Function, guarded: _Function) -> _Function:
    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(guarded, attribute, getattr(original, attribute, None))
    vars(guarded)["__wrapped__"] = original
    return guarded


# Each guard below has the original in its closure and tests `driving` itself: that costs less than
# any function that would do it for all of them.


def _clock_s(original: _Function) -> _Function:
    def clock(_: _Home, /, *which: int) -> float:
        if not driving or (loop := driven_loop()) is None:
            seconds: float = original(*which)
            return seconds
        return loop.guard_time_ns / NS_PER_S

    return clock


def _clock_ns(original: _Function) -> _Function:
    def clock(_: _Home, /, *which: int) -> int:
        if not driving or (loop := driven_loop()) is None:
            nanoseconds: int = original(*which)
            return nanoseconds
        return loop.guard_time_ns

    return clock


def _now_s(loop: DrivenLoop) -> int:
    return loop.guard_time_ns // NS_PER_S


def _local_time(original: _Function) -> _Function:
    """For localtime and gmtime: a process's time zone is none of the run's facts, so UTC it is."""
    in_utc = _original(time.gmtime)

    def struct_of(_: _Home, seconds: float | None = None, /) -> time.struct_time:
        if not driving or (loop := driven_loop()) is None:
            result: time.struct_time = original(seconds)
        else:
            result = in_utc(_now_s(loop) if seconds is None else seconds)
        return result

    return struct_of


def _date_text(original: _Function) -> _Function:
    in_utc, as_text = _original(time.gmtime), _original(time.asctime)

    def date_text(_: _Home, seconds: float | None = None, /) -> str:
        if not driving or (loop := driven_loop()) is None:
            result: str = original(seconds)
        else:
            result = as_text(in_utc(_now_s(loop) if seconds is None else seconds))
        return result

    return date_text


def _struct_text(original: _Function) -> _Function:
    in_utc = _original(time.gmtime)

    def struct_text(_: _Home, /, *moment: Any) -> str:
        if driving and not moment and (loop := driven_loop()) is not None:
            moment = (in_utc(_now_s(loop)),)
        text: str = original(*moment)
        return text

    return struct_text


def _formatted_time(original: _Function) -> _Function:
    in_utc = _original(time.gmtime)

    def formatted(_: _Home, form: str, /, *moment: Any) -> str:
        if driving and not moment and (loop := driven_loop()) is not None:
            moment = (in_utc(_now_s(loop)),)
        text: str = original(form, *moment)
        return text

    return formatted


def _seconds_of(original: _Function) -> _Function:
    def seconds_of(_: _Home, moment: Any, /) -> float:
        seconds: float = (
            original(moment) if driven_loop() is None else float(calendar.timegm(moment))
        )
        return seconds

    return seconds_of


def _chance(name: str) -> _Guard:
    def for_original(original: _Function) -> _Function:
        def chance(_: _Home, /, *args: Any, **kwargs: Any) -> Any:
            if not driving or (loop := driven_loop()) is None:
                return original(*args, **kwargs)
            return getattr(loop.random, name)(*args, **kwargs)

        return chance

    return for_original


def _random_bytes(original: _Function) -> _Function:
    def random_bytes(_: _Home, size: int, /, *flags: int, **named_flags: int) -> bytes:
        if not driving or (loop := driven_loop()) is None:
            chosen: bytes = original(size, *flags, **named_flags)
            return chosen
        return loop.random.randbytes(size)

    return random_bytes


def _refused(what: str, fix: str) -> _Guard:
    def for_original(original: _Function) -> _Function:
        def refused(_: _Home, /, *args: Any, **kwargs: Any) -> Any:
            if driving and (loop := driven_loop()) is not None and not audit.is_excused():
                loop.forbid(what, fix)
            return original(*args, **kwargs)

        return refused

    return for_original


def _unless_stopped(original: _Function) -> _Function:
    """CPython calls this for a coroutine that is dropped before it began. Where a run is stopped or
    discarded in the middle of `gather(a(), b())`, that is nobody's mistake. Anywhere else in a
    workflow a step would be left out in silence: the run is told, and is blocked."""

    def warn_unawaited(_: _Home, coroutine: object, /) -> None:
        loop = driven_loop() if driving else None
        if loop is None:
            original(coroutine)
        elif not loop.stopped:
            loop.forgot(coroutine)

    return warn_unawaited


def _original(function: _Function) -> _Function:
    return getattr(function, "__wrapped__", function)


def _guard_methods() -> None:
    """Methods, where a class cannot be replaced because others hold it and inherit from it."""
    for owner, name, guard in (
        (random.Random, "seed", _seeding),
        (threading.Thread, "start", _starting),
    ):
        original: _Function = getattr(owner, name)
        if not hasattr(original, "__wrapped__"):
            setattr(owner, name, _named_like(original, guard(original)))


def _seeding(original: _Function) -> _Function:
    """`random.Random()` without a seed asks the kernel for one, past `os.urandom`."""

    def seed(source: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and (loop := driven_loop()) is not None:
            a = loop.random.getrandbits(256)
        original(source, a, version)

    return seed


def _starting(original: _Function) -> _Function:
    """Python 3.11 tells no audit hook of a new thread."""

    def start(thread: threading.Thread) -> None:
        if (loop := driven_loop()) is not None and not audit.is_excused():
            loop.forbid(f"{type(thread).__name__}.start()", USE_TASKS)
        original(thread)

    return start
