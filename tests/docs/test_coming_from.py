"""The samples' sizes, as the page for those who come from elsewhere tells them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = re.compile(
    r"^\| \[(\w+\.py)\]\(.*?\) \| (\d+) \[(\d+)\] \|.*\| (\d+) \[(\d+)\] \|$", re.MULTILINE
)
ROWS = ROW.findall((ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8"))


def counted(source: str) -> tuple[int, int]:
    """The lines that are neither blank nor comment nor docstring: of all, of its workflow."""
    lines = source.splitlines()
    told = {n for n, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"}
    flow: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.AsyncFunctionDef(
                decorator_list=[ast.Name("workflow", lineno=first)], end_lineno=int(last)
            ):
                flow |= set(range(first, last + 1))
            case ast.Expr(ast.Constant(str()), lineno=first, end_lineno=int(last)):
                told -= set(range(first, last + 1))
            case _:
                pass
    return len(told), len(told & flow)


def test_the_page_has_three_samples() -> None:
    assert [name for name, *_ in ROWS] == ["order_saga.py", "checkout.py", "payment.py"]


@pytest.mark.parametrize(("name", "lines", "flow", "theirs", "their_flow"), ROWS)
def test_a_sample_is_as_long_as_the_page_says_and_shorter_than_the_original(
    name: str, lines: str, flow: str, theirs: str, their_flow: str
) -> None:
    assert counted((ROOT / "samples" / name).read_text(encoding="utf-8")) == (int(lines), int(flow))
    assert int(lines) < int(theirs)
    assert int(flow) < int(their_flow)
