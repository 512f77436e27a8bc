"""What a name in a source file stands for: something of a library, or a function of the user's.

Files are parsed, never imported. Imports are followed into other files of the same project: beside
the importing file, in the packages above it, and in the current folder. All else is a library, and
is known by its dotted name alone.
"""

import ast
import builtins
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

from everlong._lint.findings import Finding, Unreadable, ignored_lines

__all__ = [
    "AnyFunction",
    "Defined",
    "Library",
    "Meaning",
    "Module",
    "Modules",
    "Scope",
    "Variable",
    "own_nodes",
]

AnyFunction: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_HOPS_MAX: Final = 10
"""How often a name may be handed on by imports before nobody follows it any further."""
_OURS: Final = frozenset({"everlong", "everlong_engine"})


@dataclass(frozen=True, slots=True)
class Library:
    """Something that is no source of the project, such as `time.time`."""

    dotted: str
    early: bool = False
    """Bound by a from-import while its module was imported, so before any guard stood."""


@dataclass(frozen=True, slots=True, eq=False)
class Defined:
    """A function or class of the project."""

    module: "Module"
    node: AnyFunction | ast.ClassDef
    scope: "Scope"


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A name that assignments bind: the module's if `scope` is a module's."""

    name: str
    scope: "Scope"
    values: tuple[ast.expr, ...]
    annotation: ast.expr | None


Meaning: TypeAlias = "Library | Defined | Variable | Module | None"
"""None: nobody can tell, or it is a parameter without an annotation."""


@dataclass(eq=False)
class Scope:
    """The names that one module or function binds."""

    module: "Module"
    node: ast.Module | AnyFunction | ast.Lambda
    parent: "Scope | None" = None
    imports: dict[str, tuple[str, str | None]] = field(
        default_factory=dict[str, "tuple[str, str | None]"]
    )
    """Name to (module, attribute); no attribute for `import module`."""
    definitions: dict[str, AnyFunction | ast.ClassDef] = field(
        default_factory=dict[str, "AnyFunction | ast.ClassDef"]
    )
    assigned: dict[str, list[ast.expr]] = field(default_factory=dict[str, "list[ast.expr]"])
    annotations: dict[str, ast.expr] = field(default_factory=dict[str, ast.expr])
    opaque: set[str] = field(default_factory=set[str])
    """Bound by what says nothing about the value: a loop, a parameter, `with … as`."""
    elsewhere: set[str] = field(default_factory=set[str])
    """Declared `global` or `nonlocal`."""

    def meaning(self, expression: ast.expr) -> Meaning:
        """What a name or a chain of attributes stands for."""
        match expression:
            case ast.Name(name):
                return self._of_name(name)
            case ast.Attribute(base, attribute):
                owner = self.meaning(base)
                if isinstance(owner, Library):
                    return Library(f"{owner.dotted}.{attribute}", owner.early)
                return owner.top.own(attribute) if isinstance(owner, Module) else None
            case _:
                return None

    def _of_name(self, name: str) -> Meaning:
        scope: Scope | None = self
        while scope is not None:
            if name not in scope.elsewhere and scope.binds(name):
                return scope.own(name)
            scope = scope.parent
        return Library(f"builtins.{name}") if hasattr(builtins, name) else None

    def binds(self, name: str) -> bool:
        return (
            name in self.imports
            or name in self.definitions
            or name in self.assigned
            or name in self.annotations
            or name in self.opaque
        )

    def own(self, name: str, hops: int = 0) -> Meaning:
        """What a name stands for that is bound here."""
        if name in self.definitions:
            return Defined(self.module, self.definitions[name], self)
        if name in self.imports:
            return self._imported(*self.imports[name], hops)
        if name in self.opaque and name not in self.annotations:
            return None
        if name in self.assigned or name in self.annotations:
            values = tuple(self.assigned.get(name, ()))
            return Variable(name, self, values, self.annotations.get(name))
        return None

    def _imported(self, module: str, attribute: str | None, hops: int) -> Meaning:
        project = self.module.modules
        found = project.find(module, self.module) if hops < _HOPS_MAX else None
        early = self.parent is None
        if attribute is None:
            return found or Library(module)
        inner = project.find(f"{module}.{attribute}", self.module) if hops < _HOPS_MAX else None
        if found is not None and found.top.binds(attribute):
            return found.top.own(attribute, hops + 1)
        if inner is not None:
            return inner
        return None if found is not None else Library(f"{module}.{attribute}", early)

    @cached_property
    def children(self) -> "dict[ast.AST, Scope]":
        """The scopes of the functions and lambdas that stand right in this one."""
        found: dict[ast.AST, Scope] = {}
        for node in own_nodes(self.node, classes=True):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                found[node] = _scope_of(self.module, node, self)
        return found


class Module:
    """One source file."""

    def __init__(self, modules: "Modules", path: Path, text: str, tree: ast.Module) -> None:
        self.modules = modules
        self.path = path
        self.text = text
        self.tree = tree
        self.package = _package_of(path)

    @cached_property
    def top(self) -> Scope:
        """Its names."""
        return _scope_of(self, self.tree, None)

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Each node's parent."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def ignores(self) -> "tuple[dict[int, frozenset[str]], list[Finding]]":
        """What comments accept on which line, and those that make no sense."""
        return ignored_lines(self.path, self.text)

    def scopes(self) -> Iterator[Scope]:
        """Every scope of the file, outer ones first."""
        waiting = [self.top]
        while waiting:
            scope = waiting.pop()
            yield scope
            waiting += scope.children.values()


class Modules:
    """The files that were read, each once."""

    def __init__(self) -> None:
        self._read: dict[Path, Module] = {}
        self._found: dict[tuple[str, Path], Module | None] = {}

    def read(self, path: Path) -> Module:
        """Parse a file.

        Raises:
            Unreadable: it is not there, or no Python.
        """
        try:
            key = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise Unreadable(f"{path} cannot be read: {error}") from error
        if key not in self._read:
            try:
                with tokenize.open(path) as file:
                    text = file.read()
                tree = ast.parse(text, str(path))
            except SyntaxError as error:
                where = f"{path}:{error.lineno}" if error.lineno else str(path)
                raise Unreadable(f"{where}: this is no Python: {error.msg}") from error
            except (OSError, ValueError, RecursionError, MemoryError) as error:
                raise Unreadable(f"{path} cannot be read: {error}") from error
            self._read[key] = Module(self, path, text, tree)
        return self._read[key]

    def find(self, dotted: str, importer: Module) -> "Module | None":
        """The file of a module of the project; None for a library."""
        key = dotted, importer.path
        if key not in self._found:
            path = _file_of(dotted, importer.path)
            self._found[key] = None if path is None else self.read(path)
        return self._found[key]


def _file_of(dotted: str, importer: Path) -> Path | None:
    first, *rest = dotted.split(".")
    if first in sys.stdlib_module_names or first in _OURS or not first:
        return None
    for root in dict.fromkeys((importer.resolve().parent, _root_of(importer), Path.cwd())):
        base = root.joinpath(first, *rest)
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file():
                return path if root != Path.cwd() else path.relative_to(root)
    return None


def _root_of(path: Path) -> Path:
    """The folder from which the file's package is imported."""
    folder = path.resolve().parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        folder = folder.parent
    return folder


def _package_of(path: Path) -> tuple[str, ...]:
    """The dotted path of the package that the file stands in."""
    resolved = path.resolve()
    return resolved.parent.relative_to(_root_of(path)).parts


# ---------------------------------------------------------------------------- what binds a name


def own_nodes(root: ast.AST, *, classes: bool = False) -> Iterator[ast.AST]:
    """The nodes of a function's or module's own code: those of functions inside are their own.

    The inner function itself is given, its body is not; `classes` goes into bodies of classes.
    """
    waiting = _body(root)[::-1]
    while waiting:
        node = waiting.pop()
        yield node
        inner: list[ast.AST] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner += [*node.decorator_list, *node.args.defaults]
            inner += [one for one in node.args.kw_defaults if one is not None]
        elif isinstance(node, ast.ClassDef):
            inner += [*node.decorator_list, *node.bases, *(node.body if classes else ())]
        elif not isinstance(node, ast.Lambda):
            inner += ast.iter_child_nodes(node)
        waiting += inner[::-1]


def _body(root: ast.AST) -> list[ast.AST]:
    if isinstance(root, ast.Lambda):
        return [root.body]
    if isinstance(root, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return list(root.body)
    return [root]


def _scope_of(
    module: Module, node: ast.Module | AnyFunction | ast.Lambda, parent: Scope | None
) -> Scope:
    scope = Scope(module, node, parent)
    if not isinstance(node, ast.Module):
        _bind_parameters(scope, node.args)
    told: set[ast.expr] = set()
    for inner in own_nodes(node):
        told.update(_targets_with_value(inner))
        _bind(scope, inner, told)
    return scope


def _bind_parameters(scope: Scope, arguments: ast.arguments) -> None:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    for one in named:
        scope.opaque.add(one.arg)
        if one.annotation is not None:
            scope.annotations[one.arg] = one.annotation
    scope.opaque.update(one.arg for one in (arguments.vararg, arguments.kwarg) if one is not None)


def _targets_with_value(node: ast.AST) -> list[ast.expr]:
    """Names whose value is told where they are bound, or that are only changed."""
    match node:
        case ast.Assign(targets):
            return targets
        case ast.AnnAssign(target) | ast.NamedExpr(target) | ast.AugAssign(target):
            return [target]
        case _:
            return []


def _bind(scope: Scope, node: ast.AST, told: set[ast.expr]) -> None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            scope.definitions[node.name] = node
        case ast.Import(names):
            for alias in names:
                module = alias.name if alias.asname else alias.name.partition(".")[0]
                scope.imports[alias.asname or module] = module, None
        case ast.ImportFrom():
            base = _absolute(scope.module, node)
            for alias in node.names:
                scope.imports[alias.asname or alias.name] = base, alias.name
        case ast.Assign(targets, value):
            for target in targets:
                _bind_target(scope, target, value)
        case ast.AnnAssign(target=ast.Name(name)):
            scope.annotations[name] = node.annotation
            if node.value is not None:
                scope.assigned.setdefault(name, []).append(node.value)
        case ast.NamedExpr():
            _bind_target(scope, node.target, node.value)
        case ast.Global(names) | ast.Nonlocal(names):
            scope.elsewhere.update(names)
        case ast.Name(name, ast.Store()) if node not in told:
            scope.opaque.add(name)
        case ast.ExceptHandler(name=str(name)):
            scope.opaque.add(name)
        case _:
            pass


def _bind_target(scope: Scope, target: ast.expr, value: ast.expr) -> None:
    if isinstance(target, ast.Name):
        scope.assigned.setdefault(target.id, []).append(value)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    kept = module.package[: len(module.package) - (node.level - 1)]
    return ".".join((*kept, *((node.module,) if node.module else ())))
