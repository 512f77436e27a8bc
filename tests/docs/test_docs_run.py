"""Runs what the documentation shows, so that it cannot become untrue unnoticed.

The blocks of a page are taken in their order, in one temporary folder:

    ```python            a part of the page's script, which is run at the end
    ```python trip.py    a file of that name
    ```python no-run     an excerpt
    ```console           `$ command` lines are run, and what they print is compared
    ```console no-run    needs a hand, or a minute

In expected output `...` stands for anything on its line, and alone on a line for any lines. The
word `Killed`, which a terminal prints, stands for a death by SIGKILL.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)[ \t]*(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS_MAX = 60


@dataclass(frozen=True)
class Block:
    language: str
    says: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups()) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def runs(page: Path) -> bool:
    return any(
        block.language in ("python", "console") and block.says != "no-run" for block in blocks(page)
    )


def shell(command: str, folder: Path) -> str:
    """What a terminal would show of a command."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {command}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    return done.stdout + ("Killed\n" if done.returncode == -signal.SIGKILL else "")


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each `$ command` with the output behind it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def shows(printed: str, expected: str) -> bool:
    lines = (
        r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in expected.strip("\n").split("\n")
    )
    return re.fullmatch("".join(lines), printed.strip("\n") + "\n") is not None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runs(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    script = ""
    for block in blocks(page):
        match block.language, block.says:
            case _, "no-run":
                continue
            case "python", "":
                script += block.text
            case "python", name:
                (tmp_path / name).write_text(block.text)
            case "console", _:
                for command, expected in commands(block.text):
                    printed = shell(command, tmp_path)
                    assert shows(printed, expected), f"$ {command}\n{printed}"
            case _:
                continue
    if script:
        (tmp_path / "page.py").write_text(script)
        done = subprocess.run(
            [sys.executable, "page.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a 17 b\n", "a ... b", True),
        ("a\nb\nc\n", "a\n...\nc", True),
        ("a\nb\nb\nc\n", "a\n...\nc", True),
        ("a\nc\n", "a\n...\nc", True),
        ("a\nb\nb\n", "a\n...", True),
        ("b\nb\nc", "...\nc", True),
        ("b\nd", "...\nc", False),
        ("a b\nc", "a ...", False),
        ("a\nb\n", "a", False),
        ("a.b", "a+b", False),
    ],
)
def test_dots_stand_for_anything_and_nothing_else_does(
    printed: str, expected: str, same: bool
) -> None:
    assert shows(printed, expected) is same


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not dead, "\n".join(dead)
