"""The house rules as checks, so that nobody has to remember them.

A rule is a function from a source file to the problems in it; each problem names the line and what
to do instead. Every rule is run over the whole tree, and once over a snippet that breaks it, for a
rule that can no longer find anything is worse than none. Style that ruff knows is left to ruff.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sdk", "engine", "tests", "samples", "benchmarks")
PRODUCT = ("sdk/", "engine/")

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60

# What may be longer, and why. An entry that is no longer needed fails, so the lists only shrink.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

EMPTY_NAMES = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
SLEEPS = {"asyncio.sleep", "anyio.sleep", "time.sleep"}
SLEEP_REASON = re.compile(r"# tidy: waits because \w")
FILE_SLEEP_REASON = re.compile(r"^# tidy: this file sleeps because \w", re.MULTILINE)

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file, by its path from the root of the repository."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def is_product(self) -> bool:
        return self.path.startswith(PRODUCT)

    @property
    def is_test(self) -> bool:
        return self.path.startswith("tests/")

    def at(self, node: ast.stmt | ast.expr, problem: str) -> str:
        return f"{self.path}:{node.lineno}: {problem}"


Rule = Callable[[Source], Iterator[str]]


def sources() -> list[Source]:
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


# ------------------------------------------------------------------------------------------ rules


def no_sleeping_in_tests(source: Source) -> Iterator[str]:
    """A sleep inside a workflow is a durable timer and free; any other wastes time or races."""
    if not source.is_test or FILE_SLEEP_REASON.search(source.text):
        return
    for call in _calls_outside_workflows(source.tree):
        name = ast.unparse(call.func)
        waits = name in SLEEPS and not (call.args and ast.unparse(call.args[0]) == "0")
        excused = any(
            SLEEP_REASON.search(line)
            for line in source.lines[call.lineno - 1 : call.end_lineno or call.lineno]
        )
        if waits and not excused:
            yield source.at(
                call,
                f"{name}() in a test: move the clock, or wait for what must happen. "
                "Where neither works, say `# tidy: waits because …` on the line.",
            )


def no_overlong_file(source: Source) -> Iterator[str]:
    if source.is_product and len(source.lines) > FILE_LINES_MAX and source.path not in LONG_FILES:
        yield (
            f"{source.path}: {len(source.lines)} lines, over {FILE_LINES_MAX}: it holds two ideas, "
            "so split it, or give the reason in LONG_FILES."
        )


def no_overlong_function(source: Source) -> Iterator[str]:
    if not source.is_product:
        return
    for name, function in _functions(source.tree):
        if (
            _length(function) > FUNCTION_LINES_MAX
            and f"{source.path}::{name}" not in LONG_FUNCTIONS
        ):
            yield source.at(
                function,
                f"{name} has {_length(function)} lines without its docstring, over "
                f"{FUNCTION_LINES_MAX}: name its steps, or give the reason in LONG_FUNCTIONS.",
            )


def sorted_public_names(source: Source) -> Iterator[str]:
    for node in source.tree.body:
        match node:
            case ast.Assign(targets=[ast.Name("__all__")], value=ast.List() | ast.Tuple() as value):
                names = [ast.literal_eval(item) for item in value.elts]
                if names != sorted(set(names), key=_like_ruff):
                    yield source.at(node, "__all__ is unsorted or repeats: ruff check --fix")
            case _:
                pass


def no_relative_import(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield source.at(
                node, "relative import: write the whole path, so that it can be searched"
            )


def no_empty_module_name(source: Source) -> Iterator[str]:
    for part in Path(source.path).with_suffix("").parts:
        if part.strip("_") in EMPTY_NAMES:
            yield f"{source.path}: '{part}' says nothing: use the domain's word for what it does"


def no_print_in_product(source: Source) -> Iterator[str]:
    if not source.is_product or source.path.startswith("sdk/everlong/cli/"):
        return
    for call in _calls(source.tree):
        if isinstance(call.func, ast.Name) and call.func.id == "print":
            yield source.at(call, "print(): only everlong.cli writes to a terminal; log it instead")


def no_folder_without_init(source: Source) -> Iterator[str]:
    """import-linter sees packages only: a folder without __init__ escapes the contracts."""
    if source.is_product and not (ROOT / source.path).with_name("__init__.py").exists():
        yield f"{source.path}: its folder has no __init__.py: the import contracts cannot see it"


RULES: list[Rule] = [
    no_sleeping_in_tests,
    no_overlong_file,
    no_overlong_function,
    sorted_public_names,
    no_relative_import,
    no_empty_module_name,
    no_print_in_product,
    no_folder_without_init,
]


# --------------------------------------------------------------------------- what the rules look at


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _calls_outside_workflows(node: ast.AST) -> Iterator[ast.Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, AnyFunction) and any(map(_is_workflow, child.decorator_list)):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _calls_outside_workflows(child)


def _is_workflow(decorator: ast.expr) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(name).rpartition(".")[2] == "workflow"


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, AnyFunction]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, AnyFunction | ast.ClassDef):
            name = f"{prefix}.{child.name}".lstrip(".")
        if isinstance(child, AnyFunction):
            yield name, child
        yield from _functions(child, name)


def _length(function: AnyFunction) -> int:
    """Lines without the docstring: explaining must not be punished."""
    lines = _span(function)
    return lines - _span(function.body[0]) if ast.get_docstring(function) else lines


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _like_ruff(name: str) -> tuple[int, list[tuple[int, str]]]:
    """CONSTANTS, then Classes, then functions, each with numbers by their size (ruff's RUF022)."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return kind, [(int(part), "") if part.isdigit() else (10**9, part) for part in parts]


# ------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_whole_tree_keeps_the_rule(rule: Rule) -> None:
    problems = [problem for source in sources() for problem in rule(source)]
    assert not problems, "\n".join(["", *problems])


LONG = "\n".join(f"    x{number} = {number}" for number in range(FUNCTION_LINES_MAX))

BROKEN: list[tuple[Rule, str, str]] = [
    (no_sleeping_in_tests, "tests/test_x.py", "async def test_x():\n    await asyncio.sleep(0.1)"),
    (no_sleeping_in_tests, "tests/test_x.py", "time.sleep(1)  # tidy: waits because"),
    (no_overlong_file, "engine/everlong_engine/x.py", "\n" * (FILE_LINES_MAX + 1)),
    (no_overlong_function, "sdk/everlong/x.py", f"class X:\n  def f():\n{LONG}"),
    (sorted_public_names, "sdk/everlong/x.py", "__all__ = ['b', 'a']"),
    (sorted_public_names, "sdk/everlong/x.py", "__all__ = ['a', 'B']"),
    (sorted_public_names, "sdk/everlong/x.py", "__all__ = ['a', 'a']"),
    (no_relative_import, "sdk/everlong/x.py", "from . import y"),
    (no_empty_module_name, "sdk/everlong/_utils.py", ""),
    (no_empty_module_name, "engine/everlong_engine/helpers/x.py", ""),
    (no_print_in_product, "engine/everlong_engine/x.py", "print('x')"),
    (no_folder_without_init, "sdk/everlong/nowhere/x.py", ""),
]

KEPT: list[tuple[Rule, str, str]] = [
    (no_sleeping_in_tests, "tests/test_x.py", "async def test_x():\n    await asyncio.sleep(0)"),
    (
        no_sleeping_in_tests,
        "tests/test_x.py",
        "time.sleep(1)  # tidy: waits because a lock is real",
    ),
    (
        no_sleeping_in_tests,
        "tests/test_x.py",
        "@workflow\nasync def f():\n    await asyncio.sleep(9)",
    ),
    (
        no_sleeping_in_tests,
        "tests/test_x.py",
        "# tidy: this file sleeps because its loop is the workflow's\nasyncio.sleep(9)",
    ),
    (no_overlong_function, "sdk/everlong/x.py", f'def f():\n    """{LONG}"""\n    return 1'),
    (sorted_public_names, "sdk/everlong/x.py", "__all__ = ['MAX', 'A', 'X2a', 'X10a', 'a']"),
    (no_print_in_product, "sdk/everlong/cli/x.py", "print('x')"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_rule_finds_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), KEPT)
def test_rule_lets_pass_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))


def test_allowed_lengths_are_still_needed() -> None:
    by_path = {source.path: source for source in sources()}
    long_files = {path for path, it in by_path.items() if len(it.lines) > FILE_LINES_MAX}
    long_functions = {
        f"{path}::{name}"
        for path, source in by_path.items()
        for name, function in _functions(source.tree)
        if _length(function) > FUNCTION_LINES_MAX
    }
    assert LONG_FILES.keys() <= long_files
    assert LONG_FUNCTIONS.keys() <= long_functions


def test_every_sample_has_a_test_that_names_it() -> None:
    tests = "\n".join(
        source.text
        for source in sources()
        if source.is_test and source.path != "tests/test_tidy.py"
    )
    samples = [path.stem for path in (ROOT / "samples").glob("*.py") if path.stem != "__init__"]
    unnamed = [sample for sample in samples if not re.search(rf"\b{sample}\b", tests)]
    assert not unnamed, f"samples without a test that runs them: {', '.join(sorted(unnamed))}"


def test_no_two_statements_have_one_name() -> None:
    """The second would take the place of the first, wherever that is used."""
    for kind in ("postgres", "sqlite"):
        text = (ROOT / f"engine/everlong_engine/store/{kind}/queries.sql").read_text("utf-8")
        names = re.findall(r"^-- name: (\S+)$", text, re.MULTILINE)
        assert names
        assert [name for name, count in Counter(names).items() if count > 1] == []
