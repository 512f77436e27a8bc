"""A measuring process is listened to, and ends with all that it started."""

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks._disk import file_system
from benchmarks._limit import measure_limit
from benchmarks._process import MeasurementFailed, measure_alone

LEAVE_A_CHILD = """
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print("not this line")
print(json.dumps({"pid": child.pid}))
"""


def test_last_line_is_taken_and_leftovers_are_killed(tmp_path: Path) -> None:
    found = measure_alone([sys.executable, "-c", LEAVE_A_CHILD], tmp_path)
    status = Path(f"/proc/{found['pid']}/stat")
    end = time.monotonic() + 5
    while status.exists() and status.read_text(encoding="ascii").split()[2] != "Z":
        assert time.monotonic() < end, "a killed process is gone after a moment"


def test_failure_says_what_the_process_said_last(tmp_path: Path) -> None:
    with pytest.raises(MeasurementFailed, match="exit status 3"):
        measure_alone([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    with pytest.raises(MeasurementFailed, match="no such luck"):
        measure_alone([sys.executable, "-c", "raise ValueError('no such luck')"], tmp_path)


def test_limit_is_measured_and_leaves_no_file(tmp_path: Path) -> None:
    limit = measure_limit(tmp_path, commits=5, batches=2)
    assert limit.commits_per_s > 0
    assert limit.rows_per_s > 0
    assert limit.commit_ms == pytest.approx(1_000 / limit.commits_per_s)
    assert not list(tmp_path.iterdir())


def test_file_system_is_that_of_the_deepest_mount_point() -> None:
    if os.path.ismount("/proc"):
        assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/")) != ""
