"""Definitions are found where people say they are; else the error names what there is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlong import registry
from everlong.cli._exits import Mistake
from everlong.cli._sources import load, load_workflow

FLOW = "from everlong import workflow\n\n@workflow\nasync def {0}() -> None: ...\n"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    modules, known = set(sys.modules), dict(registry.workflows)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    registry.workflows.clear()
    registry.workflows.update(known)


def write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file_is_imported_by_its_stem_with_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "cli_neighbour.py", "NAME = 'tea'")
    text = "from cli_neighbour import NAME\n" + FLOW.format("cli_one") + "assert NAME\n"
    found = load_workflow(write(tmp_path / "shop" / "cli_flow_a.py", text))
    assert found.__module__ == "cli_flow_a"
    assert sys.modules["cli_flow_a"].cli_one is found


def test_a_module_is_found_from_the_current_folder(tmp_path: Path) -> None:
    write(tmp_path / "cli_pkg" / "__init__.py", "")
    write(tmp_path / "cli_pkg" / "flows.py", FLOW.format("cli_two"))
    assert load_workflow("cli_pkg.flows:cli_two").definition.name == "cli_two"


def test_a_workflow_is_found_by_either_of_its_names(tmp_path: Path) -> None:
    text = FLOW.replace("@workflow", '@workflow(name="cli-dashed")').format("cli_three")
    path = write(tmp_path / "cli_flow_b.py", text + FLOW.format("cli_four"))
    assert load_workflow(f"{path}:cli_three") is load_workflow(f"{path}:cli-dashed")


@pytest.mark.parametrize(
    ("stem", "text", "suffix", "told"),
    [
        ("cli_none", "", "", "has no workflow: decorate"),
        ("cli_two_of", FLOW.format("cli_5") + FLOW.format("cli_6"), "", "cli_two_of.py:cli_6"),
        ("cli_other", FLOW.format("cli_7"), ":nope", "no workflow 'nope'; there is .*cli_7"),
        ("cli_raises", "1 / 0", "", "cannot be imported: ZeroDivisionError"),
        ("cli_exits", "raise SystemExit(3)", "", "__main__"),
        ("cli_lacks", "import cli_not_there", "", "ModuleNotFoundError"),
        ("cli.dots", "", "", "has no dots"),
        ("json", FLOW.format("cli_8"), "", "which is another module"),
    ],
)
def test_what_cannot_be_loaded_is_told(
    tmp_path: Path, stem: str, text: str, suffix: str, told: str
) -> None:
    path = write(tmp_path / f"{stem}.py", text)
    with pytest.raises(Mistake, match=told):
        load_workflow(path + suffix)


def test_a_missing_file_and_a_missing_module_are_told_apart() -> None:
    with pytest.raises(Mistake, match="is not there"):
        load("cli_missing.py")
    with pytest.raises(Mistake, match="there is no module 'cli_missing'"):
        load("cli_missing")


def test_the_users_traceback_is_shown_without_the_machinery(tmp_path: Path) -> None:
    with pytest.raises(Mistake) as caught:
        load(write(tmp_path / "cli_trace.py", "def f():\n    1 / 0\nf()\n"))
    assert "cli_trace.py" in caught.value.details
    assert "importlib" not in caught.value.details
