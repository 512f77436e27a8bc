"""Finds in a workflow's code, at decoration, what could not be replayed.

The guards replace functions in their modules when a worker starts; whoever bound an original before
(`from time import time`) goes past them, and `datetime.now` cannot be replaced at all. So the names
that the code resolves in its globals and closure are followed, in nested functions too, and refused
if they lead to one of those objects. Only the object counts: a local of that name, a method of the
user's, a fake clock are no concern. Bytecode is read, for source is not always there.

What runs once and is recorded may do as it likes: the function given to `side_effect`, the handler
of a query. What the called functions do inside is not seen here; the guards see it.
"""

import builtins
import datetime
import dis
import inspect
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

from everlong.exceptions import DefinitionError

__all__ = ["check_definition"]


def check_definition(function: Callable[..., Any], *, what: str) -> None:
    """Refuse what could not be replayed, each with its line and what to write instead.

    Args:
        what: the function in its author's words, such as "workflow order_stream".

    Raises:
        DefinitionError: the code leads to something whose outcome no journal holds.
    """
    problems = [problem for plain in _plain_functions(function) for problem in _problems(plain)]
    if problems:
        name = getattr(function, "__qualname__", None)
        text = "\n".join(f"  {problem}" for problem in problems)
        raise DefinitionError(f"{what} could not be replayed:\n{text}", function=name)


def _plain_functions(function: Any) -> Iterator[FunctionType]:
    """The function and, if decorators wrapped it, what they wrapped."""
    seen: list[object] = []
    while function is not None and all(function is not other for other in seen):
        seen.append(function)
        plain = function.__func__ if isinstance(function, MethodType) else function
        if isinstance(plain, FunctionType):
            yield plain
        function = getattr(function, "__wrapped__", None)


def _problems(function: FunctionType) -> Iterator[str]:
    closure: dict[str, _Bound] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            closure[name] = _Bound(cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    yield from _Scope(function.__code__, function.__globals__, closure).problems()


# ----------------------------------------------------------------------------- what is refused


class _Bound(NamedTuple):
    """What a name or an attribute stands for, and the module or class it was looked up in."""

    value: object
    owner: object = None


_OUTSIDE: Final = "Move it into an @activity and await that: it is run once and recorded."
_SLEEP: Final = "Write `await asyncio.sleep(seconds)`: in a workflow it is a durable timer."
_TIME: Final = "Use `everlong.now()`: the time of the last input, the same on replay."
_DATE: Final = "Use `everlong.now().date()`: the date of the last input, the same on replay."
_UUID: Final = "Use `everlong.uuid4()` or `uuid.uuid4()`: they come from the run's seed."
_SEED: Final = "Make your own `random.Random(seed)`: the run's source has a seed already."

_REFUSED: Final = {
    ("builtins", "open"): _OUTSIDE,
    ("builtins", "input"): _OUTSIDE,
    ("time", "sleep"): _SLEEP,
    ("datetime", "now"): _TIME,
    ("datetime", "utcnow"): _TIME,
    ("datetime", "today"): _DATE,
    **dict.fromkeys((("uuid", name) for name in ("uuid1", "uuid6", "uuid7", "getnode")), _UUID),
    **dict.fromkeys((("random", name) for name in ("seed", "setstate")), _SEED),
}

_CLOCKS: Final = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
# Fine when looked up in their module, where the guards stand.
_GUARDED: Final = {
    **{("time", f"{clock}{unit}"): "now" for clock in _CLOCKS for unit in ("", "_ns")},
    ("os", "urandom"): "random().randbytes",
    ("os", "getrandom"): "random().randbytes",
}
_GUARDS: Final = "everlong._replay.guard"
_HIDDEN_RANDOM: Final = getattr(random, "_inst", None)
_DATE_CLOCKS: Final = {
    "now": vars(datetime.datetime)["now"],
    "utcnow": vars(datetime.datetime)["utcnow"],
    "today": vars(datetime.date)["today"],
}


def _fix(found: _Bound) -> str | None:
    """What to write instead, or None for all that may stay."""
    value, guarded = found.value, False
    if isinstance(value, MethodType) and type(value.__self__).__module__ == _GUARDS:
        value, guarded = inspect.unwrap(value), True
    module, name = _identity(value)
    if (module, name) in _REFUSED:
        return _REFUSED[module, name]
    instead = f"random().{name}" if module == "random" else _GUARDED.get((module, name))
    if instead is None or guarded or found.owner is sys.modules.get(module):
        return None
    return (
        f"Use `everlong.{instead}()`, or `import {module}` and call `{module}.{name}()`: looked up "
        "in its module it is the run's own, the same on replay."
    )


def _identity(value: object) -> tuple[str, str]:
    """The module and name by which the tables know a function; two empty strings for the rest."""
    if value is builtins.open:  # whose module calls itself now io, now _io
        return "builtins", "open"
    if isinstance(value, BuiltinFunctionType | MethodType):
        owner, name = value.__self__, getattr(value, "__name__", "")
        if owner is _HIDDEN_RANDOM:
            return "random", name
        if isinstance(owner, type) and _is_date_clock(owner, name):
            return "datetime", "now" if issubclass(owner, datetime.datetime) else name
        if isinstance(owner, ModuleType):
            home = owner.__name__
            return ("os" if home in ("posix", "nt") else home), name
    if isinstance(value, FunctionType) and value.__module__ == "uuid":
        return "uuid", value.__qualname__
    return "", ""


def _is_date_clock(owner: type, name: str) -> bool:
    """False for a subclass with a clock of its own, such as a test's."""
    return (
        issubclass(owner, datetime.date)
        and name in _DATE_CLOCKS
        and inspect.getattr_static(owner, name, None) is _DATE_CLOCKS[name]
    )


def _runs_once(bound: _Bound, name: str) -> bool:
    """Whether what it is given is recorded or decides nothing: `side_effect`, `query.handler`."""
    if isinstance(bound.value, FunctionType):
        return bound.value.__name__ == "side_effect" and _is_ours(bound.value.__module__)
    kind = type(bound.owner)
    return name == "handler" and kind.__name__ == "Query" and _is_ours(kind.__module__)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "everlong"


# ----------------------------------------------------------------------------- how code is read

_PADDING: Final = frozenset({"EXTENDED_ARG", "NOP", "NOT_TAKEN"})
_ATTRIBUTES: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBALS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CELLS: Final = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_MAKES_FUNCTION: Final = frozenset({"MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE"})


def _loaded(step: dis.Instruction) -> list[str]:
    """The variables that an instruction uses; two for the paired ones of Python 3.13 and later."""
    if step.opname in _GLOBALS or step.opname in _CELLS:
        return [step.argval]
    return _fast_names(step, "LOAD")


def _stored(step: dis.Instruction) -> list[str]:
    """The local variables that an instruction binds."""
    if step.opname in ("STORE_DEREF", "STORE_NAME"):
        return [step.argval]
    return _fast_names(step, "STORE")


def _fast_names(step: dis.Instruction, verb: str) -> list[str]:
    verbs = re.findall("(LOAD|STORE)_FAST", step.opname)
    if not verbs:
        return []
    names: list[str] = [step.argval] if isinstance(step.argval, str) else list(step.argval)
    return [name for name, done in zip(names, verbs, strict=False) if done == verb]


class _Scope:
    """One code object with the names around it."""

    def __init__(
        self, code: CodeType, global_names: Mapping[str, object], free: Mapping[str, _Bound]
    ) -> None:
        self._code = code
        self._globals = global_names
        self._free = free
        self._steps = [step for step in dis.get_instructions(code) if step.opname not in _PADDING]
        self._bindings = Counter(name for step in self._steps for name in _stored(step))
        self._imported = dict(self._imports())
        self._once: set[int] = set()
        """The instructions between `side_effect` and its call."""

    def problems(self) -> Iterator[str]:
        found = list(self._resolved())
        for index, written, bound in found:
            fix = None if index in self._once else _fix(bound)
            if fix is not None:
                yield f"{self._code.co_filename}:{self._line(index)}: it uses `{written}`. {fix}"
        for nested in self._nested():
            around = {**self._free, **self._imported}
            free = {name: around[name] for name in nested.co_freevars if name in around}
            yield from _Scope(nested, self._globals, free).problems()

    def _line(self, index: int) -> int:
        positions = self._steps[index].positions
        return (positions and positions.lineno) or self._code.co_firstlineno

    def _resolved(self) -> Iterator[tuple[int, str, _Bound]]:
        """Every name that is known before the code runs, and the attributes taken from it."""
        for index, step in enumerate(self._steps):
            for name in _loaded(step):
                bound, written, last = self._variable(step.opname, name), name, name
                for attribute in (*self._attributes_after(index), None):
                    if bound is None:
                        break
                    if _runs_once(bound, last):
                        self._once.update(self._until_called(index))
                    yield index, written, bound
                    bound, last = _attribute(bound, attribute), attribute or ""
                    written = f"{written}.{last}"

    def _variable(self, opname: str, name: str) -> _Bound | None:
        if opname in _GLOBALS:
            if name in self._bindings:  # a class body's own
                return None
            if name in self._globals:
                return _Bound(self._globals[name])
            return _Bound(getattr(builtins, name, None))
        if opname not in _CELLS and name in (*self._code.co_cellvars, *self._code.co_freevars):
            return None  # handed on to a nested function, which is read by itself
        return self._imported.get(name) or self._free.get(name)

    def _attributes_after(self, index: int) -> Iterator[str]:
        for step in self._steps[index + 1 :]:
            if step.opname not in _ATTRIBUTES:
                return
            yield str(step.argval)

    def _imports(self) -> Iterator[tuple[str, _Bound]]:
        """Locals that nothing but one import in the code binds.

        It runs when the guards stand, so `from time import time` counts as looked up in `time`.
        """
        module: object = None
        bound: _Bound | None = None
        for step in self._steps:
            if step.opname == "IMPORT_NAME":
                module = sys.modules.get(step.argval)
                bound = _Bound(sys.modules.get(step.argval.partition(".")[0]))
            elif step.opname == "IMPORT_FROM" and isinstance(module, ModuleType):
                bound = _Bound(vars(module).get(step.argval), module)
            elif names := _stored(step):
                if bound is not None and self._bindings[names[0]] == 1:
                    yield names[0], bound
                bound = None

    def _until_called(self, start: int) -> Iterator[int]:
        """The instructions from a callable's name to its call: they make its arguments."""
        depth = 0
        for index in range(start, len(self._steps)):
            step = self._steps[index]
            depth += dis.stack_effect(step.opcode, step.arg, jump=False)
            yield index
            is_call = step.opname.startswith("CALL") and depth <= 1 and index > start
            if is_call or step.opname == "POP_TOP" or _stored(step):
                return

    def _nested(self) -> Iterator[CodeType]:
        for index, step in enumerate(self._steps):
            if isinstance(step.argval, CodeType) and not self._is_run_once(index):
                yield step.argval

    def _is_run_once(self, index: int) -> bool:
        """Whether the function made here is only ever given to `side_effect` and its like."""
        if index in self._once:
            return True
        after = index + 1
        while self._steps[after].opname in _MAKES_FUNCTION:
            after += 1
        names = _stored(self._steps[after])
        uses = [
            place
            for place, step in enumerate(self._steps)
            if any(name in _loaded(step) for name in names)
        ]
        return bool(uses) and self._once.issuperset(uses)


def _attribute(bound: _Bound, name: str | None) -> _Bound | None:
    """An attribute that can be told without running anyone's code."""
    owner = bound.value
    if name is None:
        return None
    if isinstance(owner, ModuleType):
        return _Bound(vars(owner).get(name), owner)
    if isinstance(owner, type):
        value = getattr(owner, name) if _is_date_clock(owner, name) else vars(owner).get(name)
        return _Bound(value.__func__ if isinstance(value, staticmethod) else value, owner)
    return _Bound(None, owner) if _is_ours(type(owner).__module__) else None
