"""Exceptions on their way into a history and back.

`except PaymentDeclined:` around an activity works live, on replay, and when the activity ran in
another process, because the exception is always rebuilt from what is stored, and only from classes
that the program registered: no class is ever looked up or imported by a name found in data.

    registered when it was raised?   registered now?   what the workflow sees
    yes                              yes               the class itself, with args and attributes
    yes                              no                UnregisteredException: the run is blocked
    no                               either            ActivityError, as the first time

`__init__` is not called: its parameters are seldom what ended up in `args`. A class that needs more
defines both `__everlong_reduce__(self) -> plain data` and the class method
`__everlong_rebuild__(cls, data) -> exception`. Causes, contexts, notes and the members of groups
travel too, within bounds.
"""

import builtins
import os
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, cast

import everlong_engine
from everlong import exceptions
from everlong.exceptions import (
    ActivityError,
    ApplicationError,
    DefinitionError,
    InvalidArguments,
    PayloadError,
    UndecodablePayload,
    UnregisteredException,
    WorkflowFault,
)
from everlong_engine.model.failure import MESSAGE_CHARS_MAX, Failure, bounded
from everlong_engine.model.payload import pack, unpack
from everlong_engine.model.policies import seconds_us

__all__ = ["ExceptionRegistry", "decode_failure", "encode_exception", "type_name"]

CHAIN_MAX: Final = 10
MEMBERS_MAX: Final = 50
NOTES_MAX: Final = 20
NOTE_CHARS_MAX: Final = 2_000
DATA_BYTES_MAX: Final = 256 * 1024

_NEVER: Final = (StopIteration, StopAsyncIteration, WorkflowFault)
_NOT_RETRYABLE: Final = (PayloadError, DefinitionError, InvalidArguments)
_INTERNAL: Final = tuple(
    f"{Path(file).parent}{os.sep}" for file in (__file__, str(everlong_engine.__file__))
)


def type_name(cls: type[BaseException]) -> str:
    """`module.QualName`, the name under which a class is stored."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _may_be_rebuilt(cls: object) -> bool:
    """Exceptions only: what steers tasks, generators and the process must not come out of data."""
    return isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, _NEVER)


def _classes_in(namespace: object) -> dict[str, type[Exception]]:
    found = [item for item in list(vars(namespace).values()) if _may_be_rebuilt(item)]
    return {type_name(cls): cls for cls in cast("list[type[Exception]]", found)}


_ALWAYS: Final = _classes_in(builtins) | _classes_in(exceptions)


class ExceptionRegistry:
    """The classes that may be rebuilt.

    Those are the builtins, Everlong's own, the given ones, and what is visible in given modules.
    The latter two bring the subclasses that the program has loaded.
    """

    def __init__(self, raises: Iterable[type[Exception]] = ()) -> None:
        self._classes: dict[str, type[Exception]] = {}
        self._modules: list[ModuleType] = []
        self.register(*raises)

    def register(self, *classes: type[Exception]) -> None:
        """Add classes. Raises DefinitionError for one that must not be rebuilt from data."""
        for cls in classes:
            if not _may_be_rebuilt(cls):
                raise DefinitionError(
                    f"raises=[{getattr(cls, '__name__', cls)}]: name subclasses of Exception, "
                    "except StopIteration and its like. What steers tasks and the process "
                    "(CancelledError, SystemExit) is never rebuilt from stored data."
                )
            self._classes[type_name(cls)] = cls

    def register_visible(self, module: ModuleType) -> None:
        """Add what the module defines or imports by name, also what it will only define later."""
        if module not in self._modules:
            self._modules.append(module)

    def knows(self, cls: type[BaseException]) -> bool:
        """Whether an exception of exactly this class is rebuilt."""
        if not _may_be_rebuilt(cls):
            return False
        name = type_name(cls)
        if _ALWAYS.get(name) is cls or self._classes.get(name) is cls:
            return True
        if issubclass(cls, tuple(self._roots())):
            self.register(cast("Any", cls))
            return True
        return False

    def find(self, name: str) -> type[Exception] | None:
        """The registered class of that name."""
        if (cls := _ALWAYS.get(name) or self._classes.get(name)) is not None:
            return cls
        for cls in _with_subclasses(self._roots()):
            if type_name(cls) == name:
                self._classes[name] = cls
                return cls
        return None

    def _roots(self) -> list[type[Exception]]:
        """What was registered, without the classes of which everything is a subclass."""
        visible = [cls for module in self._modules for cls in _classes_in(module).values()]
        roots = [*self._classes.values(), *visible]
        return [cls for cls in roots if _ALWAYS.get(type_name(cls)) is not cls]


def _with_subclasses(roots: list[type[Exception]]) -> Iterator[type[Exception]]:
    seen: set[type[Exception]] = set()
    pending = list(reversed(roots))
    while pending:
        cls = pending.pop()
        if cls in seen or not _may_be_rebuilt(cls):
            continue
        seen.add(cls)
        yield cls
        pending += cls.__subclasses__()


# ------------------------------------------------------------------------------------ encoding


@dataclass(slots=True)
class _Budget:
    """What one failure may still take: exceptions in all, and which were met (chains may loop)."""

    exceptions: int = MEMBERS_MAX
    met: set[int] = field(default_factory=set[int])

    @classmethod
    def beginning_with(cls, error: BaseException) -> "_Budget":
        budget = cls()
        budget.spend(error)
        return budget

    def spend(self, error: BaseException) -> bool:
        if self.exceptions <= 0 or id(error) in self.met:
            return False
        self.exceptions -= 1
        self.met.add(id(error))
        return True


def encode_exception(error: BaseException, registry: ExceptionRegistry) -> Failure:
    """What is stored of an exception. Never raises: what cannot be stored is left out and noted."""
    return Failure(
        type=type_name(type(error)),
        message=_message(error),
        traceback=_traceback(error),
        data=_reduced(error, registry),
        retryable=_retryable(error),
        next_delay_us=_next_delay_us(error),
    )


def _reduced(error: BaseException, registry: ExceptionRegistry) -> bytes:
    """Everything, if that is not too large or too deep together; else the texts."""
    try:
        data = pack(_reduce(error, registry, _Budget.beginning_with(error), 0, slim=False))
    except PayloadError:
        data = b""
    if 0 < len(data) <= DATA_BYTES_MAX:
        return data
    return pack(_reduce(error, registry, _Budget.beginning_with(error), 0, slim=True))


def _retryable(error: BaseException) -> bool:
    if isinstance(error, ApplicationError):
        return bool(error.retryable)
    return not isinstance(error, _NOT_RETRYABLE)


def _next_delay_us(error: BaseException) -> int | None:
    if not isinstance(error, ApplicationError) or error.next_delay is None:
        return None
    try:
        return seconds_us(error.next_delay, "next_delay")
    except (TypeError, ValueError):
        return None  # a delay that makes no sense must not replace the error at hand


def _reduce(
    error: BaseException, registry: ExceptionRegistry, budget: _Budget, depth: int, *, slim: bool
) -> dict[str, object]:
    """Plain data of one exception and of those that hang on it. `slim` leaves out what is large."""
    node: dict[str, object] = {"type": type_name(type(error)), "message": _message(error)}
    node["rebuilt"] = registry.knows(type(error))
    left_out: list[str] = []
    if slim:
        node["args"] = [_message(error)]
        left_out.append("everything but its message, which together is too large")
    elif not (node["rebuilt"] and _reduce_by_itself(error, node, left_out)):
        node["args"] = [_plain_argument(arg, i, left_out) for i, arg in enumerate(_args(error))]
        node["attributes"] = dict(_plain_attributes(error, left_out))
    notes = [bounded(str(note), NOTE_CHARS_MAX) for note in _notes(error)[:NOTES_MAX]]
    text, members = _group(error)
    kept = [
        _reduce(member, registry, budget, depth + 1, slim=slim)
        for member in members
        if depth < CHAIN_MAX and budget.spend(member)
    ]
    if members:
        node |= {"text": text, "members": kept}
    if len(kept) < len(members):
        left_out.append(f"{len(members) - len(kept)} of {len(members)} exceptions of the group")
    if left_out:
        notes.append("everlong stored this exception without " + ", ".join(left_out))
    if notes:
        node["notes"] = notes
    for key, linked in (("cause", error.__cause__), ("context", _shown_context(error))):
        if linked is not None and depth < CHAIN_MAX and budget.spend(linked):
            node[key] = _reduce(linked, registry, budget, depth + 1, slim=slim)
    return node


def _group(error: BaseException) -> tuple[str, tuple[BaseException, ...]]:
    """Message and members of a group; no members if it is none."""
    match error:
        case BaseExceptionGroup(message=str(message), exceptions=tuple(members)):
            return bounded(message, MESSAGE_CHARS_MAX), cast("tuple[BaseException, ...]", members)
        case _:
            return "", ()


def _reduce_by_itself(error: BaseException, node: dict[str, object], left_out: list[str]) -> bool:
    """Let the class's own hook reduce it; False if there is none, or it does not work."""
    reduce = cast("Any", getattr(error, "__everlong_reduce__", None))
    if reduce is None:
        return False
    try:
        own: object = reduce()
        pack(own)
    except Exception as fault:
        left_out.append(f"what __everlong_reduce__ was to give ({type(fault).__name__}: {fault})")
        return False
    node["own"] = own
    return True


def _args(error: BaseException) -> tuple[object, ...]:
    if isinstance(error, BaseExceptionGroup):
        return ()
    if isinstance(error, OSError):  # keeps the file's name outside args
        return cast("tuple[object, ...]", OSError.__reduce__(error)[1])
    return error.args


def _plain_argument(arg: object, index: int, left_out: list[str]) -> object:
    """An argument keeps its place, as text if need be: others stand behind it."""
    if _is_plain(arg):
        return arg
    left_out.append(f"args[{index}], of which only a text is left")
    return bounded(_repr(arg), NOTE_CHARS_MAX)


def _plain_attributes(error: BaseException, left_out: list[str]) -> Iterator[tuple[str, object]]:
    for name, value in _attributes(error):
        if name.startswith("__"):
            continue
        if _is_plain(value):
            yield name, value
        else:
            left_out.append(f"its attribute {name}")


def _attributes(error: BaseException) -> Iterator[tuple[str, object]]:
    yield from list(vars(error).items())
    for cls in type(error).__mro__:
        for name in _slots(cls):
            if hasattr(error, name):
                yield name, getattr(error, name)


def _slots(cls: type) -> tuple[str, ...]:
    """Attributes outside __dict__; `obj` of AttributeError is left out, being anything at all."""
    if cls in (ImportError, NameError, AttributeError):
        return ("name", "path") if cls is ImportError else ("name",)
    slots: object = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(cast("Iterable[str]", slots))


def _is_plain(value: object) -> bool:
    try:
        pack(value)
    except Exception:
        return False
    return True


def _notes(error: BaseException) -> list[object]:
    notes: object = getattr(error, "__notes__", None)
    return list(cast("list[object]", notes)) if isinstance(notes, list) else []


def _shown_context(error: BaseException) -> BaseException | None:
    hidden = error.__suppress_context__ or error.__cause__ is not None
    return None if hidden else error.__context__


def _message(error: BaseException) -> str:
    try:
        return bounded(str(error), MESSAGE_CHARS_MAX)
    except Exception:
        return "(its text cannot be made: str() of it raises)"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"({type(value).__name__})"


def _traceback(error: BaseException) -> str:
    """The text, bounded, beginning with the user's own code."""
    try:
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
        return bounded("".join(lines))
    except Exception:
        return f"{type_name(type(error))}: {_message(error)}"


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    at = trace
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_INTERNAL):
        at = at.tb_next
    return at or trace


# ------------------------------------------------------------------------------------ decoding


def decode_failure(
    failure: Failure, registry: ExceptionRegistry, *, strict: bool = True
) -> Exception:
    """The exception to raise where the workflow awaits.

    `strict=False` is for onlookers (a client without the workflow's code): they get an
    ActivityError for a class that is not registered with them.

    Raises:
        UnregisteredException: it was rebuilt the first time, and cannot be now.
        UndecodablePayload: the stored bytes are damaged.
    """
    if not failure.data:
        return _stand_in(failure.type, failure.message, failure.traceback)
    rebuilding = _Rebuilding(registry, strict, failure.traceback)
    return rebuilding.rebuild(unpack(failure.data))


class _Rebuilding:
    def __init__(self, registry: ExceptionRegistry, strict: bool, text: str) -> None:
        self._registry = registry
        self._strict = strict
        self._traceback = text
        self._left = count(MEMBERS_MAX, -1)

    def rebuild(self, plain: object) -> Exception:
        """One exception and those that hang on it."""
        if next(self._left) <= 0:
            raise UndecodablePayload(reason="a failure holds too many exceptions")
        node = _Node.read(plain)
        text, self._traceback = self._traceback, ""
        error = self._make(node, text)
        for note in node.notes:
            error.add_note(note)
        if node.cause is not None:
            error.__cause__ = self.rebuild(node.cause)
        if node.context is not None:
            error.__context__ = self.rebuild(node.context)
        return error

    def _make(self, node: "_Node", text: str) -> Exception:
        cls = self._registry.find(node.type) if node.rebuilt else None
        if cls is not None:
            return _new(cls, node, [self.rebuild(member) for member in node.members])
        if node.rebuilt and self._strict:
            raise UnregisteredException(type=node.type)
        return _stand_in(node.type, node.message, text, node.attributes.get("details"))


@dataclass(frozen=True, slots=True)
class _Node:
    """The stored form of one exception, checked."""

    type: str
    message: str
    rebuilt: bool
    args: list[object]
    attributes: dict[str, object]
    own: object
    has_own: bool
    text: str
    members: list[object]
    notes: list[str]
    cause: object
    context: object

    @staticmethod
    def read(plain: object) -> "_Node":
        match plain:
            case {"type": str(type_), "message": str(message), "rebuilt": bool(rebuilt)}:
                node = cast("dict[str, Any]", plain)
            case _:
                raise UndecodablePayload(reason="it is not a failure's data")
        args, members, notes = (node.get(key, []) for key in ("args", "members", "notes"))
        attributes = node.get("attributes", {})
        lists = all(isinstance(part, list) for part in (args, members, notes))
        if not lists or not isinstance(attributes, dict):
            raise UndecodablePayload(reason="a failure's data has the wrong shape")
        return _Node(
            type=type_,
            message=message,
            rebuilt=rebuilt,
            args=args,
            attributes={str(name): value for name, value in cast("Any", attributes).items()},
            own=node.get("own"),
            has_own="own" in node,
            text=str(node.get("text", message)),
            members=members,
            notes=[str(note) for note in notes],
            cause=node.get("cause"),
            context=node.get("context"),
        )


def _stand_in(
    type_: str, message: str, traceback_text: str = "", details: object = None
) -> ActivityError:
    error = ActivityError(
        f"{type_}: {message}", type=type_, details=details, traceback=traceback_text
    )
    error.message = message
    return error


def _new(cls: type[Exception], node: _Node, members: list[Exception]) -> Exception:
    if node.has_own and (rebuild := getattr(cls, "__everlong_rebuild__", None)) is not None:
        try:
            error: object = rebuild(node.own)
        except Exception as fault:
            raise UndecodablePayload(
                reason=f"{node.type}.__everlong_rebuild__ raised {type(fault).__name__}: {fault}"
            ) from fault
        if isinstance(error, cls):
            return error
        raise UndecodablePayload(reason=f"{node.type}.__everlong_rebuild__ gave something else")
    group = issubclass(cast("type", cls), ExceptionGroup)
    if group and not members:
        return _stand_in(node.type, node.message)
    error = _bare(cls, (node.text, members) if group else tuple(node.args))
    for name, value in node.attributes.items():
        _set(error, name, value)
    return error


def _bare(cls: type[Exception], args: tuple[object, ...]) -> Exception:
    """An instance without `__init__` of the class, but with that of the builtin below it.

    The latter is C code that keeps fields outside `args` (of OSError, of UnicodeDecodeError).
    """
    base: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    new: Any = cls.__new__
    error: Exception
    try:
        error = new(cls, *args)
    except Exception:
        error = base.__new__(cls, *args)
    try:
        base.__init__(error, *args)
    except Exception:
        error.args = args  # fields that do not fit any more; the arguments still tell
    return error


def _set(error: Exception, name: str, value: object) -> None:
    slotted = any(name in _slots(cls) for cls in type(error).__mro__)
    if not slotted:
        error.__dict__[name] = value
        return
    try:
        setattr(error, name, value)
    except AttributeError:
        error.add_note(f"everlong could not set its attribute {name}")
