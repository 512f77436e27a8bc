"""EV006: variables of a module that change while it runs, used in workflow code."""

import ast
from collections.abc import Iterator
from typing import Final

from everlong._lint.modules import Library, Module, Scope, Variable, own_nodes
from everlong._lint.reach import Code

__all__ = ["module_state"]

_CHANGES: Final = frozenset(
    {
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "setdefault",
        "update",
    }
)
_CONTAINERS: Final = frozenset(
    {
        *(f"builtins.{name}" for name in ("dict", "list", "set", "bytearray")),
        *(
            f"collections.{name}"
            for name in ("Counter", "OrderedDict", "defaultdict", "deque", "ChainMap")
        ),
    }
)
_MOVES_ON: Final = frozenset({"itertools.count", "itertools.cycle", "builtins.iter"})


def module_state(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """The first use of each such variable in a function."""
    told: set[str] = set()
    for node in code.nodes():
        if not isinstance(node, ast.Name) or node.id in told:
            continue
        variable = code.scope.meaning(node)
        if not isinstance(variable, Variable) or variable.scope.parent is not None:
            continue
        if changes(variable):
            told.add(node.id)
            yield node, f"`{node.id}` is a variable of the module, and it changes"


def changes(variable: Variable) -> bool:
    """Whether a function of its module changes it; what runs at import does not count."""
    scope = variable.scope
    if any(_made_by(value, scope, _MOVES_ON) for value in variable.values):
        return True
    is_container = any(_is_container(value, scope) for value in variable.values)
    return any(_changes(inner, variable.name, is_container) for inner in _functions(scope.module))


def _functions(module: Module) -> Iterator[Scope]:
    return (scope for scope in module.scopes() if scope.parent is not None)


def _changes(scope: Scope, name: str, is_container: bool) -> bool:
    declared = name in scope.elsewhere
    if scope.binds(name) and not declared:
        return False  # It is another one, of the function's own.
    if declared and name in (scope.assigned.keys() | scope.opaque):
        return True
    for node in own_nodes(scope.node):
        match node:
            case ast.AugAssign(ast.Name(target)) if target == name and declared:
                return True
            case ast.Subscript(ast.Name(target), ctx=ast.Store() | ast.Del()) if target == name:
                return is_container
            case ast.Call(ast.Attribute(ast.Name(target), method)) if target == name:
                if is_container and method in _CHANGES:
                    return True
            case _:
                pass
    return False


def _is_container(value: ast.expr, scope: Scope) -> bool:
    displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    return isinstance(value, displays) or _made_by(value, scope, _CONTAINERS)


def _made_by(value: ast.expr, scope: Scope, makers: frozenset[str]) -> bool:
    if not isinstance(value, ast.Call):
        return False
    function = value.func
    if isinstance(function, ast.Subscript):  # `dict[str, int]()`
        function = function.value
    meaning = scope.meaning(function)
    return isinstance(meaning, Library) and meaning.dotted in makers
