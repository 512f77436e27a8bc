"""A missing tool is told to a person and fails in CI, and a run ends with what it left out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import missing, need

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import pytest
from tests.support.tools import need, unavailable

@pytest.mark.parametrize("number", range(2))
def test_needs_a_tool(number):
    need("sh", "no-such-program")

def test_needs_a_device():
    need("sh", path="/dev/no-such-device")

def test_needs_history():
    unavailable("the history of the repository is not here")

def test_runs_anywhere():
    need("sh", path="/dev/null")
"""


def pytest_of(folder: Path, text: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a pytest that has the plugin of this suite."""
    (folder / "test_some.py").write_text(text)
    alone = "-q -ra -p tests.conftest -p no:asyncio -p no:cacheprovider -c /dev/null --rootdir ."
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone.split(), "test_some.py"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_persons_run_passes_and_ends_with_what_could_not_run(tmp_path: Path) -> None:
    code, told = pytest_of(tmp_path, SUITE)
    assert code == 0, told
    *_, heading, first, second, third, end = told.splitlines()
    assert " could not run here " in heading
    assert end.startswith("1 passed, 4 skipped in ")
    assert [first, second, third] == [
        "could not run here: 2 tests, because: needs no-such-program (see ci/debian.txt)",
        "could not run here: 1 test, because: needs /dev/no-such-device (see ci/debian.txt)",
        "could not run here: 1 test, because: the history of the repository is not here",
    ]


def test_a_missing_tool_is_a_failure_in_ci(tmp_path: Path) -> None:
    code, told = pytest_of(tmp_path, SUITE, CI="true")
    assert code == 1, told
    assert "4 failed, 1 passed" in told
    assert "could not run here: needs no-such-program (see ci/debian.txt)" in told


def test_a_run_that_left_nothing_out_says_nothing_of_it(tmp_path: Path) -> None:
    code, told = pytest_of(tmp_path, "def test_it(): pass")
    assert code == 0, told
    assert "could not run" not in told


def test_a_device_that_may_not_be_written_is_missing(tmp_path: Path) -> None:
    assert missing("sh", path=tmp_path) == []
    assert missing("sh", "no-such-program", path=tmp_path / "none") == [
        "no-such-program",
        str(tmp_path / "none"),
    ]


def test_a_tool_that_is_there_is_no_reason_to_stop() -> None:
    need("sh", path="/dev/null")


def test_ci_installs_a_package_for_every_line_and_calls_itself_ci() -> None:
    lines = (ROOT / "ci" / "debian.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert len(packages) == len(set(packages))
    assert all(line == line.strip() and " " not in line for line in packages)
    assert "\nexport CI=true\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", ["skip", "skipif"])
def test_a_skip_without_our_help_is_listed_too(tmp_path: Path, reason: str) -> None:
    mark = "skip(reason='by hand')" if reason == "skip" else "skipif(True, reason='by hand')"
    _, told = pytest_of(tmp_path, f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass")
    assert "could not run here: 1 test, because: by hand" in told
