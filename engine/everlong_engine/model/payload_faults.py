"""Says which part of a value cannot be packed. Called only after packing failed: it may be slow."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

from everlong_engine.model.errors import NotSerializable

__all__ = ["ENDLESS", "KEY", "explain"]

ENDLESS: Final = "it contains itself, or is nested too deep"
KEY: Final = "keys of maps must be scalars"

Fault = Callable[[object], str | None]
"""Why a value cannot be packed by itself, or None if it can."""

_STEPS_MAX: Final = 64


class _Key:
    """A map's key, where its path is looked for."""

    def __init__(self, key: object) -> None:
        self.key = key


def explain(value: object, reason: str, fault: Fault) -> NotSerializable:
    """The error to raise: at each level, look into the first child that fails by itself."""
    path = ""
    for _ in range(1 if reason == ENDLESS else _STEPS_MAX):
        found = next(_faulty_children(value, fault), None)
        if found is None:
            break
        step, value, reason = found
        path += step
    kind = type(value.key if isinstance(value, _Key) else value)
    plain = kind.__module__ == "builtins"
    return NotSerializable(
        path=path.removeprefix(".") or "the value",
        type_name=kind.__name__ if plain else f"{kind.__module__}.{kind.__qualname__}",
        reason=reason,
    )


def _faulty_children(value: object, fault: Fault) -> Iterator[tuple[str, object, str]]:
    for step, child in _children(value):
        reason = fault({child.key: None} if isinstance(child, _Key) else child)
        if reason is not None:
            yield step, child, reason


def _children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield f"[{_short(key)}] (a key)", _Key(key)
            plain = isinstance(key, str) and key.isidentifier()
            yield (f".{key}" if plain else f"[{_short(key)}]"), item
    elif isinstance(value, (list, tuple, deque)):
        for index, item in enumerate(cast("list[object]", value)):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in cast("set[object]", value):
            yield f"{{{_short(item)}}}", item


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a foreign __repr__ must not replace the error at hand
        text = type(value).__name__
    return text if len(text) <= 40 else text[:39] + "…"
