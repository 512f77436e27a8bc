"""How a defect is planted: edits of the engine's own text, for as long as a block lasts.

An edit changes a function's source, or a named SQL statement. One whose text is no longer there is
an error: then the engine has changed, and the mutant must follow it.
"""

import inspect
import textwrap
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias, cast

from everlong_engine.store.sqlite import statements

__all__ = ["Edit", "Mutant", "mutant", "planted"]

_Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` becomes `new`, everywhere in a function (or a named statement), and must be there."""

    where: _Function | str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect."""

    name: str
    """What is wrong, as a sentence without a capital."""
    edits: tuple[Edit, ...]


def mutant(name: str, *edits: Edit) -> Mutant:
    return Mutant(name, edits)


@contextmanager
def planted(defect: Mutant) -> Generator[None, None, None]:
    """The engine with this defect, in this process, until the block ends.

    Raises:
        LookupError: the text that an edit replaces is not there.
    """
    sql = cast("dict[str, str]", statements.SQL)
    texts = dict(sql)
    codes: dict[Any, CodeType] = {}
    try:
        for where in dict.fromkeys(edit.where for edit in defect.edits):
            edits = [edit for edit in defect.edits if edit.where == where]
            if isinstance(where, str):
                sql[where] = _edited(sql[where], where, edits)
            else:
                function: Any = inspect.unwrap(where)
                codes[function] = function.__code__
                function.__code__ = _recompiled(function, edits)
        statements._texts.clear()  # pyright: ignore[reportPrivateUsage]
        yield
    finally:
        sql.update(texts)
        statements._texts.clear()  # pyright: ignore[reportPrivateUsage]
        for function, code in codes.items():
            function.__code__ = code


def _recompiled(function: Any, edits: list[Edit]) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    edited = _edited(source, function.__qualname__, edits)
    made: dict[str, Any] = {}
    exec(compile(edited, function.__code__.co_filename, "exec"), function.__globals__, made)
    code: CodeType = inspect.unwrap(made[function.__name__]).__code__  # Also of a decorated one.
    return code


def _edited(text: str, where: str, edits: list[Edit]) -> str:
    for edit in edits:
        if edit.old not in text:
            raise LookupError(f"{where} no longer says {edit.old!r}: let the mutant follow it")
        text = text.replace(edit.old, edit.new)
    return text
