"""Every definition that has been imported, by name: what a worker hosts unless it is told.

A name means one definition. The same function decorated again (a module reloaded, a script that is
imported under two names) takes the place of the older one; two functions under one name are an
error at import, because a run would not know which one it began with.
"""

from typing import Any, Final, TypeVar

from everlong.exceptions import DefinitionError

__all__ = ["activities", "outputs", "register", "signals", "workflows"]

T = TypeVar("T")

workflows: Final[dict[str, Any]] = {}
activities: Final[dict[str, Any]] = {}
signals: Final[dict[str, Any]] = {}
outputs: Final[dict[str, Any]] = {}


def register(kind: dict[str, T], name: str, what: T, function: Any, word: str) -> None:
    """Put a definition in its table.

    Raises:
        DefinitionError: another function, or another type, already has the name.
    """
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
