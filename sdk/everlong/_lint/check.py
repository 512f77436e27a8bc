"""Puts it together: the files, the code in them that counts, the rules, and what was accepted."""

import ast
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from everlong._lint import findings
from everlong._lint.findings import Finding, Rule, Unreadable
from everlong._lint.modules import Module, Modules
from everlong._lint.order import order_of_sets
from everlong._lint.outside import blocking_calls, clocks, outside_world, process_values
from everlong._lint.reach import Activity, Code, activities, reached, workflows
from everlong._lint.state import module_state
from everlong._lint.steps import never_awaited
from everlong._lint.swallowing import swallowed_cancellations

__all__ = ["lint"]

_Check: TypeAlias = Callable[[Code], Iterator[tuple[ast.AST, str]]]

_IN_WORKFLOWS: Final[tuple[tuple[Rule, _Check], ...]] = (
    (findings.NOT_AWAITED, never_awaited),
    (findings.SET_ORDER, order_of_sets),
    (findings.CLOCK, clocks),
    (findings.OUTSIDE, outside_world),
    (findings.PROCESS, process_values),
    (findings.GLOBAL_STATE, module_state),
    (findings.SWALLOWED, swallowed_cancellations),
)
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


def lint(paths: Iterable[Path], *, ignore: Collection[str] = ()) -> list[Finding]:
    """What is wrong with the workflows and activities of these files, in the order of the source.

    What a workflow calls is followed into other files, and findings there are told as well.

    Args:
        paths: Python files, and folders of them.
        ignore: codes that are not wanted at all.

    Raises:
        Unreadable: a file that is not there, or is no Python.
    """
    modules = Modules()
    given = [modules.read(path) for path in _files(paths)]
    found = [
        *(one for module in given for one in module.ignores[1]),
        *_workflow_findings(given),
        *_activity_findings(given),
    ]
    wanted = {_key(one): one for one in found if one.rule.code not in ignore}
    return [wanted[key] for key in sorted(wanted) if not _is_accepted(wanted[key], modules)]


def _key(one: Finding) -> tuple[str, int, int, str]:
    return str(one.path), one.line, one.column, one.rule.code


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            is_folder = path.is_dir()
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path} cannot be read: {error}") from error
        if not is_folder:
            yield path
            continue
        for inner in sorted(path.rglob("*.py")):
            parts = inner.relative_to(path).parts
            if not any(part in _SKIPPED or part.startswith(".") for part in parts):
                yield inner


def _workflow_findings(modules: list[Module]) -> Iterator[Finding]:
    roots = [code for module in modules for code in workflows(module)]
    for code in reached(roots):
        for rule, check in _IN_WORKFLOWS:
            for node, message in check(code):
                yield _finding(code.module, node, rule, _with_way(message, code))


def _with_way(message: str, code: Code) -> str:
    """Who comes here, where it is not the workflow's own code."""
    first, *rest = code.way
    return message if not rest else f"{message} (workflow {first}, by way of {' → '.join(rest)})"


def _activity_findings(modules: list[Module]) -> Iterator[Finding]:
    every = [one for module in modules for one in activities(module)]
    for one in every:
        if not _has_timeout(one):
            message = f"activity {one.node.name} may take for ever"
            yield _finding(one.scope.module, one.decorator, findings.NO_TIMEOUT, message)
    roots = [
        Code(one.scope.children[one.node], (one.node.name,))
        for one in every
        if isinstance(one.node, ast.AsyncFunctionDef)
    ]
    for code in reached(roots, calls_only=True):
        for node, message in blocking_calls(code):
            first, *rest = code.way
            way = f" (activity {first}, by way of {' → '.join(rest)})" if rest else ""
            yield _finding(code.module, node, findings.BLOCKING, f"{message}{way}")


def _has_timeout(one: Activity) -> bool:
    if not isinstance(one.decorator, ast.Call):
        return False
    given = {keyword.arg for keyword in one.decorator.keywords}
    # `**options` may hold it.
    return bool(given & {None, "timeout", "schedule_to_close", "heartbeat_timeout"})


def _finding(module: Module, node: ast.AST, rule: Rule, message: str) -> Finding:
    line = getattr(node, "lineno", 1)
    parent = module.parents.get(node)
    last = getattr(node, "end_lineno", line) or line
    if isinstance(node, ast.ExceptHandler):
        last = line
    elif rule is findings.NO_TIMEOUT and parent is not None:
        last = max(last, getattr(parent, "lineno", last))
    return Finding(
        path=module.path,
        line=line,
        column=getattr(node, "col_offset", 0) + 1,
        rule=rule,
        message=message,
        last_line=last,
    )


def _is_accepted(one: Finding, modules: Modules) -> bool:
    module = modules.read(one.path)
    accepted, _ = module.ignores
    return any(
        one.rule.code in accepted.get(line, ()) for line in range(one.line, one.last_line + 1)
    )
