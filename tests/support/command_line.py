"""Runs `everlong` as a shell does: in a process of its own, in a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.orphans import die_with_parent

MARKET: Final = Path(__file__).parent.parent / "cli" / "flows" / "market.py"
_SHELL: Final = (
    sys.executable,
    "-c",
    "import sys; from everlong.cli import main; sys.exit(main())",
)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def everlong(*arguments: str, folder: Path, **environment: str) -> Done:
    done = subprocess.run(
        [*_SHELL, *arguments],
        cwd=folder,
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def begin(
    *arguments: str, folder: Path, errors: int = subprocess.DEVNULL, **environment: str
) -> "subprocess.Popen[str]":
    """A command that goes on; the caller ends it."""
    return subprocess.Popen(
        [*_SHELL, *arguments],
        cwd=folder,
        env=clean_environment(environment),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - in the child: one call into the kernel
    )


@contextmanager
def worker(*files: str, folder: Path) -> Generator[dict[str, Any]]:
    """`everlong worker --json`, ready; ended by SIGTERM."""
    process = begin("worker", *files, "--json", folder=folder)
    try:
        yield worker_ready(process)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def worker_ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a worker with `--json` says once it claims."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(_document(process.stdout))
    return found


def _document(lines: Iterator[str]) -> str:
    """Up to the brace that ends the document."""
    read: list[str] = []
    for line in lines:
        read.append(line)
        if line == "}\n":
            break
    return "".join(read)


def clean_environment(more: dict[str, str]) -> dict[str, str]:
    """Without what would change how output looks, or which store is meant."""
    dropped: Sequence[str] = (
        "EVERLONG_URL",
        "EVERLONG_CODECS",
        "NO_COLOR",
        "FORCE_COLOR",
        "COLUMNS",
    )
    return {k: v for k, v in os.environ.items() if k not in dropped} | more
