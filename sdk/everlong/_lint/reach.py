"""Which functions are workflow code: the workflows, and what they call in turn.

The same for async activities. A function is reached when reached code names it, called or handed
on; what is run once and recorded (`side_effect`), and what decides nothing (the handler of a query,
a validator), is not workflow code. Methods are not followed: whose they are, the source does not
say.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from everlong._lint.modules import (
    AnyFunction,
    Defined,
    Library,
    Meaning,
    Module,
    Scope,
    Variable,
    own_nodes,
)

__all__ = ["Activity", "Code", "Kind", "activities", "callee", "kind_of", "reached", "workflows"]

_KINDS: Final = {
    "everlong.activity": "activity",
    "everlong.activity.activity": "activity",
    "everlong.workflow": "workflow",
    "everlong.workflow.workflow": "workflow",
}
Kind = str
_RUN_ONCE: Final = frozenset({"everlong.side_effect", "everlong.workflow.side_effect"})
_LIVE_ONLY: Final = {"handler": "everlong.Query", "validator": "everlong.Update"}


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """One function, with how workflow code (or an activity) comes to it."""

    scope: Scope
    way: tuple[str, ...]
    """The names from the workflow to this function."""

    @property
    def module(self) -> Module:
        """The file that it stands in."""
        return self.scope.module

    def nodes(self) -> Iterator[ast.AST]:
        """Its own nodes; functions inside are codes of their own."""
        return own_nodes(self.scope.node)


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """A decorated function with its decorator."""

    scope: Scope
    node: AnyFunction
    decorator: ast.expr


def kind_of(meaning: Meaning) -> Kind | None:
    """ "activity" or "workflow" for what is decorated so."""
    if not isinstance(meaning, Defined) or isinstance(meaning.node, ast.ClassDef):
        return None
    found = _decorated(meaning.node, meaning.scope)
    return None if found is None else found[0]


def _decorated(node: AnyFunction, scope: Scope) -> tuple[Kind, ast.expr] | None:
    """What it is decorated as, with the decorator: `@activity`, `@activity(…)`, or a variable that
    holds one."""
    for decorator in node.decorator_list:
        made, where = decorator, scope
        meaning = scope.meaning(made)
        if isinstance(meaning, Variable) and len(meaning.values) == 1:
            made, where = meaning.values[0], meaning.scope
        meaning = where.meaning(made.func if isinstance(made, ast.Call) else made)
        if isinstance(meaning, Library) and meaning.dotted in _KINDS:
            return _KINDS[meaning.dotted], made
    return None


def _is_wrapped(node: AnyFunction, scope: Scope) -> bool:
    """Whether a decorator of the project's own may have made it anything."""
    named = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    return not all(isinstance(scope.meaning(one), Library) for one in named)


def callee(call: ast.Call, scope: Scope) -> Meaning:
    """What a call calls; `f.options(…)(…)` and `f.start(…)` call f."""
    function = call.func
    if isinstance(function, ast.Call):
        inner = function.func
        if isinstance(inner, ast.Attribute) and inner.attr == "options":
            return scope.meaning(inner.value)
        return None
    found = scope.meaning(function)
    if found is None and isinstance(function, ast.Attribute) and function.attr == "start":
        base = function.value
        if isinstance(base, ast.Call):
            return callee(ast.Call(func=base, args=[], keywords=[]), scope)
        return scope.meaning(base)
    return found


def workflows(module: Module) -> Iterator[Code]:
    """The workflows that a file defines."""
    for scope, node, found in _definitions(module):
        if found[0] == "workflow":
            yield Code(scope.children[node], (node.name,))


def activities(module: Module) -> Iterator[Activity]:
    """The activities that a file defines."""
    for scope, node, found in _definitions(module):
        if found[0] == "activity":
            yield Activity(scope, node, found[1])


def _definitions(module: Module) -> Iterator[tuple[Scope, AnyFunction, tuple[Kind, ast.expr]]]:
    for scope in module.scopes():
        for node in scope.children:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = _decorated(node, scope)
                if found is not None:
                    yield scope, node, found


def reached(roots: list[Code], *, calls_only: bool = False) -> list[Code]:
    """The roots and every function of the project that they come to, each once.

    Args:
        calls_only: a function that is only handed on may run elsewhere, such as in a thread.
    """
    waiting, found = list(roots), dict[ast.AST, Code]()
    while waiting:
        code = waiting.pop()
        if code.scope.node in found:
            continue
        found[code.scope.node] = code
        waiting += [] if calls_only else _inner(code)
        waiting += _called(code, _calls if calls_only else _names)
    return list(found.values())


def _inner(code: Code) -> Iterator[Code]:
    """Functions that it defines and whose code counts as its own."""
    recorded = _recorded(code)
    for node, scope in code.scope.children.items():
        if node in recorded:
            continue
        if isinstance(node, ast.Lambda):
            yield Code(scope, code.way)
        elif (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name not in recorded
            and not _is_live_only(node, code.scope)
            and _decorated(node, code.scope) is None
        ):
            yield Code(scope, (*code.way, node.name))


def _recorded(code: Code) -> set[object]:
    """Lambdas and names that are given to `side_effect`, or made the handler of a query."""
    found: set[object] = set()
    for node in code.nodes():
        if isinstance(node, ast.Call):
            meaning = code.scope.meaning(node.func)
            is_recorded = isinstance(meaning, Library) and meaning.dotted in _RUN_ONCE
            if is_recorded or _makes_live_only(node.func, code.scope):
                for argument in node.args:
                    found.add(argument)
                    if isinstance(argument, ast.Name):
                        found.add(argument.id)
    return found


def _is_live_only(node: AnyFunction, scope: Scope) -> bool:
    return any(_makes_live_only(decorator, scope) for decorator in node.decorator_list)


def _makes_live_only(registers: ast.expr, scope: Scope) -> bool:
    """Whether it is `query.handler` or `update.validator`."""
    if not isinstance(registers, ast.Attribute) or registers.attr not in _LIVE_ONLY:
        return False
    channel = scope.meaning(registers.value)
    if not isinstance(channel, Variable) or len(channel.values) != 1:
        return False
    made = channel.values[0]
    kind = channel.scope.meaning(made.func) if isinstance(made, ast.Call) else None
    return isinstance(kind, Library) and kind.dotted == _LIVE_ONLY[registers.attr]


def _called(code: Code, of: Callable[[Code], Iterator[Meaning]]) -> Iterator[Code]:
    for meaning in of(code):
        if (
            isinstance(meaning, Defined)
            and isinstance(meaning.node, ast.FunctionDef | ast.AsyncFunctionDef)
            and kind_of(meaning) is None
            and not _is_live_only(meaning.node, meaning.scope)
            and not _is_wrapped(meaning.node, meaning.scope)
        ):
            yield Code(meaning.scope.children[meaning.node], (*code.way, meaning.node.name))


def _names(code: Code) -> Iterator[Meaning]:
    recorded = _recorded(code)
    for node in code.nodes():
        match node:
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()) if node not in recorded:
                yield code.scope.meaning(node)
            case _:
                pass


def _calls(code: Code) -> Iterator[Meaning]:
    for node in code.nodes():
        if isinstance(node, ast.Call):
            yield code.scope.meaning(node.func)
