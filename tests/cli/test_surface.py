"""Exit codes, usage errors, colours; and that the reference tells all of it."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import everlong.cli
from everlong.cli._app import COMMANDS
from everlong.cli._exits import ExitCode, Mistake, exit_code_of
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    NoAnswer,
    StoreFull,
    StoreOwned,
    WorkflowClosed,
    WorkflowFailed,
)
from tests.cli.conftest import Here
from tests.support.command_line import clean_environment

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArguments("x"), 2),
        (Mistake("x"), 2),
        (StoreOwned(path="x", pid=1), 3),
        (StoreFull(path="x"), 3),
        (PermissionError("x"), 3),
        (WorkflowClosed(workflow_id="x"), 4),
        (NoAnswer(), 5),
        (WorkflowFailed(), 1),
        (EverlongError("x"), 1),
        (KeyError("x"), 70),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code_of(error) == code


def test_the_reference_has_the_table_of_exit_codes() -> None:
    for code in ExitCode:
        assert f"| {int(code)} | {code.meaning} |" in REFERENCE


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_in_the_reference_with_its_options(here: Here, command: str) -> None:
    match = re.search(rf"^### `everlong {command}\b.*?(?=^##|\Z)", REFERENCE, re.M | re.S)
    assert match is not None, f"docs/reference/cli.md says nothing about `everlong {command}`"
    options = set(re.findall(r"(--[a-z-]+)", here(*command.split(), "--help").out))
    shared = {"--db", "--codecs", "--namespace", "--json", "--help"}
    missing = sorted(one for one in options - shared if one not in match.group(0))
    assert not missing, f"{command}: not in the reference: {missing}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lst",), "No such command 'lst'. Did you mean 'list'? See everlong --help"),
        (("list", "--colour"), "No such option: --colour"),
        (("show",), "Missing argument 'ID'. See everlong show --help"),
        (("list", "--limit", "many"), "valid int"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exits_2(
    here: Here, arguments: tuple[str, ...], told: str
) -> None:
    done = here(*arguments)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("everlong: ")
    assert told in line


def test_no_command_shows_the_help(here: Here) -> None:
    done = here()
    assert done.code == 2
    assert "Talk to an execution" in done.out + done.err
    assert here("--help").code == 0


def test_a_bug_is_told_as_one(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise KeyError("\x1b[2J")

    monkeypatch.setattr("everlong.cli._list.connect", broken)
    done = here("list")
    assert done.code == 70
    assert "Traceback" in done.err
    assert "this is a bug in Everlong, please report it" in done.err
    assert "\x1b" not in done.err


def test_whoever_stops_reading_is_no_trouble(here: Here, tmp_path: Path) -> None:
    here("start", "purchase", "--id", "p1", "-a", "amount=5")
    for options in ("", "--json"):
        shell = f"{sys.executable} -c '{MAIN}' list {options} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() in ("141", "0")
        assert done.stderr == ""


MAIN = "import sys; from everlong.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
@pytest.mark.usefixtures("started")
def test_colours_are_for_terminals_that_want_them(
    here: Here, tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    assert "\x1b" not in here("list").out
    text = _on_a_terminal(tmp_path, environment, "list")
    assert "p1" in text
    assert bool(re.search("\x1b\\[[0-9;]*3[0-7]", text)) is coloured
    assert "\x1b" not in _on_a_terminal(tmp_path, environment, "list", "--json")


def _on_a_terminal(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder,
        env=clean_environment(environment),
        stdout=theirs,
        stdin=theirs,
    ) as process:
        os.close(theirs)
        read = bytearray()
        while True:
            try:
                read += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        process.wait(30)
    os.close(ours)
    return read.decode()


def test_only_the_screen_draws() -> None:
    """So that no command can forget to make its data harmless."""
    folder = Path(everlong.cli.__file__).parent
    drawing = {
        path.name
        for path in folder.glob("*.py")
        if re.search(
            r"^\s*(import|from) rich|^\s*print\(|sys\.std(out|err)\.write", path.read_text(), re.M
        )
    }
    assert drawing == {"_bulk_progress.py", "_progress.py", "_screen.py"}
