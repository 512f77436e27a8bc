"""EV001: what was called and never awaited, so that nothing of it happens."""

import ast
from collections.abc import Iterator
from typing import Final

from everlong._lint.modules import Defined, Library, Scope, Variable
from everlong._lint.reach import Code, callee, kind_of

__all__ = ["never_awaited"]

_WAITS: Final = frozenset(
    {
        "anyio.sleep",
        "asyncio.sleep",
        "asyncio.wait",
        "asyncio.wait_for",
        *(
            f"everlong.{name}"
            for name in (
                "approval",
                "checkpoint",
                "map_all",
                "publish",
                "side_effect",
                "wait_condition",
            )
        ),
    }
)
_CHANNELS: Final = {"everlong.Signal": "receive", "everlong.Output": "publish"}


def never_awaited(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """Calls whose result is dropped, or kept in a variable that nobody reads."""
    read = _names_read(code)
    for node in code.nodes():
        call: ast.expr | None = None
        match node:
            case ast.Expr(value=ast.Call() as call):
                pass
            case ast.Assign(targets=[ast.Name(name)], value=ast.Call() as call):
                if name in read or name in code.scope.elsewhere:
                    continue
            case _:
                continue
        said = _waits(call, code.scope)
        if said is not None:
            yield call, f"{said} is called and never awaited, so it never happens"


def _names_read(code: Code) -> set[str]:
    """Also by functions inside."""
    return {
        node.id
        for node in ast.walk(code.scope.node)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _waits(call: ast.Call, scope: Scope) -> str | None:
    """What a call would do if it were awaited; None for what happens by itself."""
    meaning = callee(call, scope)
    if isinstance(meaning, Library):
        is_timer = meaning.dotted in ("asyncio.sleep", "anyio.sleep")
        what = "the timer" if is_timer else f"`{meaning.dotted}()`"
        return what if meaning.dotted in _WAITS else None
    if isinstance(meaning, Defined):
        kind = kind_of(meaning)
        if kind is not None:
            return f"the {'child ' if kind == 'workflow' else ''}{kind} `{meaning.node.name}`"
        if isinstance(meaning.node, ast.AsyncFunctionDef) and not meaning.node.decorator_list:
            return None if _yields(meaning) else f"`{meaning.node.name}()`"
        return None
    return _of_a_channel(call, scope)


def _yields(function: Defined) -> bool:
    scope = function.scope.children[function.node]
    return any(isinstance(node, ast.Yield) for node in Code(scope, ()).nodes())


def _of_a_channel(call: ast.Call, scope: Scope) -> str | None:
    if not isinstance(call.func, ast.Attribute):
        return None
    channel = scope.meaning(call.func.value)
    if not isinstance(channel, Variable) or len(channel.values) != 1:
        return None
    made = channel.values[0]
    kind = channel.scope.meaning(made.func) if isinstance(made, ast.Call) else None
    if isinstance(kind, Library) and _CHANNELS.get(kind.dotted) == call.func.attr:
        return f"`{channel.name}.{call.func.attr}()`"
    return None
