"""EV002: the order of a set leads to decisions.

A set of texts, or of objects, is walked in an order that differs between processes. A set of
numbers is not, nor is one of tasks, which Everlong numbers itself. Walking one is fine where the
order cannot show: under `sorted`, `sum`, `len` and the like, or in a loop that only adds up.
"""

import ast
from collections.abc import Iterator, Sequence
from typing import Final

from everlong._lint.modules import Library, Scope, Variable
from everlong._lint.reach import Code

__all__ = ["order_of_sets"]

_MAKES_SET: Final = frozenset({"builtins.set", "builtins.frozenset"})
_SET_TYPES: Final = frozenset(
    {
        *_MAKES_SET,
        "typing.Set",
        "typing.FrozenSet",
        "typing.AbstractSet",
        "collections.abc.Set",
        "collections.abc.MutableSet",
    }
)
_STABLE_ELEMENTS: Final = frozenset(
    {
        "builtins.int",
        "builtins.bool",
        "builtins.float",
        "uuid.UUID",
        "asyncio.Task",
        "asyncio.Future",
        "decimal.Decimal",
    }
)
_BEGINS_TASK: Final = frozenset({"create_task", "ensure_future", "create_future"})
_LEAVES_A_TRACE: Final = _BEGINS_TASK | {"append", "put_nowait", "extend"}
_SET_METHODS: Final = frozenset(
    {"union", "intersection", "difference", "symmetric_difference", "copy"}
)
_SET_OPERATORS: Final = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
_SHOWS_ORDER: Final = frozenset(
    f"builtins.{name}" for name in ("list", "tuple", "enumerate", "iter", "zip", "map", "filter")
)
_HIDES_ORDER: Final = frozenset(
    f"builtins.{name}"
    for name in ("sorted", "set", "frozenset", "sum", "min", "max", "any", "all", "len")
)
_DEPTH_MAX: Final = 20


def order_of_sets(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """Each place where the order of a set shows."""
    for node in code.nodes():
        found = _shown(node, code)
        if found is not None and not _hidden(node, code):
            yield found, f"the order of the set `{_short(found)}` decides what happens"


def _short(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _shown(node: ast.AST, code: Code) -> ast.expr | None:
    """The set whose order a node makes use of."""
    scope = code.scope
    match node:
        case ast.For(iter=walked, body=body) | ast.AsyncFor(iter=walked, body=body):
            candidate = walked if _decides(body) else None
        case ast.ListComp(generators=[first, *_]) | ast.DictComp(generators=[first, *_]):
            candidate = first.iter
        case ast.GeneratorExp(generators=[first, *_]):
            candidate = first.iter
        case ast.SetComp(generators=[first, *_]) if _decides([node]):
            candidate = first.iter
        case ast.Starred(value=value):
            candidate = value
        case ast.Call(func=ast.Attribute(value=owner, attr="pop"), args=[], keywords=[]):
            candidate = owner
        case ast.Call(func=ast.Attribute(attr="join"), args=[argument]):
            candidate = argument
        case ast.Call(func=function, args=[*arguments]) if arguments:
            meaning = scope.meaning(function)
            shows = isinstance(meaning, Library) and meaning.dotted in _SHOWS_ORDER
            sets = [one for one in arguments if shows and _is_unordered(one, scope)]
            candidate = sets[0] if sets else None
        case _:
            candidate = None
    return candidate if candidate is not None and _is_unordered(candidate, scope) else None


def _method_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _decides(body: Sequence[ast.AST]) -> bool:
    """Whether it matters which turn comes first."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Await | ast.Yield | ast.AsyncFor | ast.AsyncWith):
                return True
            if isinstance(node, ast.Return | ast.Break):
                return True
            if isinstance(node, ast.Call) and _method_of(node) in _LEAVES_A_TRACE:
                return True
    return False


def _hidden(node: ast.AST, code: Code) -> bool:
    """Whether what is made of the set goes straight into something that has no order."""
    parents = code.module.parents
    for _ in range(_DEPTH_MAX):
        parent = parents.get(node)
        if isinstance(parent, ast.Call):
            meaning = code.scope.meaning(parent.func)
            dotted = meaning.dotted if isinstance(meaning, Library) else ""
            if dotted in _HIDES_ORDER:
                return True
            if dotted not in _SHOWS_ORDER:
                return False
        elif isinstance(parent, ast.Set):
            return True
        elif isinstance(parent, ast.Compare):
            return all(isinstance(one, ast.In | ast.NotIn) for one in parent.ops)
        elif not isinstance(parent, ast.GeneratorExp | ast.ListComp | ast.Starred):
            return False
        node = parent
    return False


def _is_unordered(node: ast.expr, scope: Scope, depth: int = 0) -> bool:
    """Whether it is a set for sure, and not one of numbers or tasks."""
    if depth > _DEPTH_MAX:
        return False
    match node:
        case ast.Set(elements):
            return not all(_is_stable(one, scope, depth) for one in elements)
        case ast.SetComp(element):
            return not _is_stable(element, scope, depth)
        case ast.BinOp(left, operator, right) if isinstance(operator, _SET_OPERATORS):
            return any(_is_unordered(one, scope, depth + 1) for one in (left, right)) or (
                _is_keys(left) and _is_keys(right)
            )
        case ast.Call(ast.Attribute(owner, method)) if method in _SET_METHODS:
            return _is_unordered(owner, scope, depth + 1)
        case ast.Call(function, arguments) if _means(function, scope, _MAKES_SET):
            if not arguments:
                return False  # What is added later is looked at by its name.
            return not _holds_stable(arguments[0], scope)
        case ast.Name():
            return _is_unordered_variable(node, scope, depth)
        case _:
            return False


def _is_keys(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "keys"
    )


def _holds_stable(node: ast.expr, scope: Scope) -> bool:
    """Numbers for sure: a range, or what is annotated as such, `list[int]`."""
    if isinstance(node, ast.Call):
        return _means(node.func, scope, frozenset({"builtins.range"}))
    variable = scope.meaning(node)
    if isinstance(variable, Variable) and isinstance(variable.annotation, ast.Subscript):
        return _means(variable.annotation.slice, variable.scope, _STABLE_ELEMENTS)
    return False


def _means(node: ast.expr, scope: Scope, dotted: frozenset[str]) -> bool:
    meaning = scope.meaning(node)
    return isinstance(meaning, Library) and meaning.dotted in dotted


def _is_unordered_variable(node: ast.Name, scope: Scope, depth: int) -> bool:
    variable = scope.meaning(node)
    if not isinstance(variable, Variable):
        return False
    if variable.annotation is not None:
        return _is_unordered_type(variable.annotation, variable.scope)
    empty = [one for one in variable.values if _is_empty_set(one, variable.scope)]
    filled = [one for one in variable.values if one not in empty]
    added = list(_added(variable)) if empty else []
    if not (filled or added):
        return False
    return all(_is_unordered(one, variable.scope, depth + 1) for one in filled) and not any(
        _is_stable(one, variable.scope, depth + 1) for one in added
    )


def _is_empty_set(node: ast.expr, scope: Scope) -> bool:
    return isinstance(node, ast.Call) and not node.args and _means(node.func, scope, _MAKES_SET)


def _added(variable: Variable) -> Iterator[ast.expr]:
    for node in ast.walk(variable.scope.node):
        match node:
            case ast.Call(ast.Attribute(ast.Name(name), "add"), [element]) if name == variable.name:
                yield element
            case _:
                pass


def _is_unordered_type(annotation: ast.expr, scope: Scope) -> bool:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return False
    if not isinstance(annotation, ast.Subscript):
        return _means(annotation, scope, _SET_TYPES)
    element = annotation.slice
    if isinstance(element, ast.Subscript):
        element = element.value
    return _means(annotation.value, scope, _SET_TYPES) and not _means(
        element, scope, _STABLE_ELEMENTS
    )


def _is_stable(node: ast.expr, scope: Scope, depth: int) -> bool:
    """A number, or a task: its place in a set is the same in every process."""
    match node:
        case ast.Constant(value):
            return isinstance(value, int | float)
        case ast.Call(ast.Attribute(attr=method)) if method in _BEGINS_TASK:
            return True
        case ast.Call(function):
            return _means(function, scope, frozenset({"builtins.int", "builtins.len"}))
        case ast.Name():
            variable = scope.meaning(node)
            if not isinstance(variable, Variable):
                return False
            if variable.annotation is not None:
                return _means(variable.annotation, variable.scope, _STABLE_ELEMENTS)
            return depth < _DEPTH_MAX and all(
                _is_stable(one, variable.scope, depth + 1) for one in variable.values
            )
        case _:
            return False
