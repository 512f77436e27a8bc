"""EV007: a workflow that catches its own cancellation and goes on as if nothing had been."""

import ast
from collections.abc import Iterator
from typing import Final

from everlong._lint.modules import Library, own_nodes
from everlong._lint.reach import Code

__all__ = ["swallowed_cancellations"]

_EVERYTHING: Final = frozenset({"builtins.BaseException"})
_CANCELLATION: Final = frozenset(
    {"asyncio.CancelledError", "asyncio.exceptions.CancelledError", *_EVERYTHING}
)
_SUPPRESS: Final = "contextlib.suppress"


def swallowed_cancellations(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """Handlers of everything that do not raise, around something that waits."""
    for node in code.nodes():
        match node:
            case ast.Try():
                yield from _in_try(node, code)
            case ast.With(items, body) | ast.AsyncWith(items, body) if _waits(body):
                for item in items:
                    if _suppresses_everything(item.context_expr, code):
                        yield item.context_expr, "`suppress(BaseException)` swallows cancellation"
            case _:
                pass


def _in_try(node: ast.Try, code: Code) -> Iterator[tuple[ast.AST, str]]:
    for statement in node.finalbody:
        for inner in own_nodes(statement):
            if isinstance(inner, ast.Return) and _waits(node.body):
                yield inner, "`return` in a `finally` swallows a cancellation"
    if not _waits(node.body):
        return
    for handler in node.handlers:
        if _catches(handler, code, _EVERYTHING) and not _raises(handler):
            name = "except:" if handler.type is None else f"except {ast.unparse(handler.type)}:"
            yield (
                handler,
                f"`{name}` swallows a cancellation, and the workflow goes on",
            )
        if _catches(handler, code, _CANCELLATION):
            return  # What comes behind no longer meets one.


def _catches(handler: ast.ExceptHandler, code: Code, names: frozenset[str]) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    meanings = [code.scope.meaning(kind) for kind in kinds]
    return any(isinstance(one, Library) and one.dotted in names for one in meanings)


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(
        isinstance(node, ast.Raise) for statement in handler.body for node in own_nodes(statement)
    )


def _waits(body: list[ast.stmt]) -> bool:
    return any(
        isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)
        for statement in body
        for node in own_nodes(statement)
    )


def _suppresses_everything(item: ast.expr, code: Code) -> bool:
    if not isinstance(item, ast.Call):
        return False
    meaning = code.scope.meaning(item.func)
    if not isinstance(meaning, Library) or meaning.dotted != _SUPPRESS:
        return False
    kinds = [code.scope.meaning(one) for one in item.args]
    return any(isinstance(one, Library) and one.dotted in _EVERYTHING for one in kinds)
