"""`everlong.run`: a workflow from a plain script."""

import time
from pathlib import Path

import pytest

import everlong
from everlong import WorkflowFault, activity, workflow


@activity
async def twice(number: int) -> int:
    return 2 * number


def test_a_script_gets_the_result(tmp_path: Path) -> None:
    @workflow
    async def scripted(number: int) -> int:
        return await twice(number)

    assert everlong.run(scripted, 21, db=tmp_path / "a.db") == 42
    assert everlong.run(scripted, number=4, db=tmp_path / "a.db") == 8


def test_a_script_is_told_that_its_run_is_blocked(tmp_path: Path) -> None:
    faults = ["of the code"]

    def nap() -> None:
        if faults:
            time.sleep(0)  # tidy: waits because that is the fault

    @workflow
    async def scripted_nap() -> int:
        nap()
        return 1

    with pytest.raises(WorkflowFault, match=r"'scripted_nap' is blocked, .*asyncio\.sleep"):
        everlong.run(scripted_nap, db=tmp_path / "a.db")
    faults.clear()
    assert everlong.run(scripted_nap, db=tmp_path / "a.db") == 1
