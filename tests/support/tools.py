"""Programs and devices of the machine that some tests need, and what a test does without them.

A person's `make test` runs what it can and ends with a list of the rest (`tests/conftest.py` prints
it); with `CI=true` a missing tool is a failure, because there `ci/debian.txt` has installed it.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["in_ci", "missing", "need", "unavailable"]


def need(*programs: str, path: str | Path | None = None) -> None:
    """Skip the test, or fail it in CI, unless all these programs (and this path) are there."""
    if lacking := missing(*programs, path=path):
        unavailable(f"needs {', '.join(lacking)} (see ci/debian.txt)")


def missing(*programs: str, path: str | Path | None = None) -> list[str]:
    """Which of these programs are not there; and the path, if we may not read and write it."""
    lacking = [name for name in programs if shutil.which(name) is None]
    if path is not None and not os.access(path, os.R_OK | os.W_OK):
        lacking.append(str(path))
    return lacking


def unavailable(reason: str) -> NoReturn:
    """End the test: it cannot run on this machine. In CI that is a failure."""
    if in_ci():
        pytest.fail(f"could not run here: {reason}", pytrace=False)
    pytest.skip(reason)


def in_ci() -> bool:
    return os.environ.get("CI") == "true"
