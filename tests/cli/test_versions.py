"""versions, pin and unpin; workers with versions; and who waits for one."""

from pathlib import Path

import pytest

from tests.cli.conftest import Here
from tests.support.command_line import everlong, worker

CODE = """
from everlong import Signal, workflow

go = Signal("cli_versions_go", str)

@workflow(name="cli_versioned", versioning="pinned")
async def versioned() -> str:
    return f"VERSION {await go.receive()}"
"""


@pytest.fixture(autouse=True)
def two_versions(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / f"{version}.py").write_text(CODE.replace("VERSION", version))


def begun(here: Here, tmp_path: Path) -> None:
    """An execution that is pinned to version 1, and nobody's now."""
    with worker("v1.py", "--version-name", "1", folder=tmp_path) as facts:
        assert facts["versions"] == {"cli_versioned": "1"}
        here("start", "cli_versioned", "--id", "a")
        while here("show", "a", "--json").document["version"] != "1":
            pass


def test_a_run_tells_which_version_it_waits_for(here: Here, tmp_path: Path) -> None:
    begun(here, tmp_path)
    with worker("v2.py", "--version-name", "2", folder=tmp_path):
        told = "waits for a worker of version 1"
        assert told in here("show", "a").out
        assert told in here("list").out
        assert "version  1, to which it is pinned" in here("show", "a").out
        shown = here("show", "a", "--json").document
        assert (shown["version"], shown["hosted"], shown["hosted_by"]) == ("1", False, [])
        assert "no worker is here for version 1 of cli_versioned: 1 run waits" in here("doctor").out
        listed = here("versions", "--json").document["versions"]
        assert [(one["version"], one["running"]) for one in listed] == [("1", 1), ("2", 0)]
        text = here("versions", "--type", "cli_versioned").out
        assert "none is here" in text
        assert here("versions", "--type", "another").out == "no open runs, and no worker\n"


def test_workers_tell_who_is_here_and_what_waits_for_them(here: Here, tmp_path: Path) -> None:
    begun(here, tmp_path)
    with worker("v2.py", "--version-name", "2", "--name", "second", folder=tmp_path) as facts:
        (one,) = here("workers", "--json").document["workers"]
        assert (one["name"], one["pid"], one["state"]) == ("second", facts["pid"], "here")
        assert (one["versions"], one["lag_s"]) == ({"cli_versioned": "2"}, 0.0)
        assert (one["slots"], one["busy"]) == (200, None), "of a file nobody is heard"
        assert "cli_versioned 2" in here("workers").out
        states = [each["state"] for each in here("workers", "--all", "--json").document["workers"]]
        assert states == ["stopped", "here"]
    assert here("workers").out == "no worker is here\n"
    assert "stopped" in here("workers", "--all").out


def test_a_worker_hosts_an_older_version_beside_its_own(here: Here, tmp_path: Path) -> None:
    begun(here, tmp_path)
    here("signal", "a", "cli_versions_go", "x")
    with worker("v2.py", "--version-name", "2", "--also", "1=v1.py", folder=tmp_path) as facts:
        assert facts["versions"] == {"cli_versioned": "2"}
        while here("show", "a", "--json").document["status"] != "completed":
            pass
    assert '"v1 x"' in here("history", "a").out


def test_pin_moves_a_run_and_says_when_nobody_is_there(here: Here, tmp_path: Path) -> None:
    begun(here, tmp_path)
    told = here("pin", "a", "2")
    assert told.out.startswith("✓ version 2 goes on with a")
    assert "no worker that has it is here" in told.out
    assert here("unpin", "a", "--json").document == {
        "workflow_id": "a",
        "version": None,
        "hosted_by": [],
    }
    assert "the newest version goes on with a" in here("unpin", "a").out
    here("signal", "a", "cli_versions_go", "x")
    with worker("v2.py", "--version-name", "2", folder=tmp_path):
        while here("show", "a", "--json").document["status"] != "completed":
            pass
    assert '"v2 x"' in here("history", "a").out
    assert here("pin", "a", "2").code == 4
    assert here("pin", "nobody", "2").code == 4
    assert here("pin", "a", "").code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--also", "v1.py"], "write VERSION=FILE"),
        (["--also", "1=gone.py"], "gone.py is not there"),
        (["--also", "1=empty.py"], "brings no workflow of its own"),
        (["--versioning", "never"], "auto, pinned, pinned_run"),
        (["--version-name", ""], "names no version"),
    ],
)
def test_a_worker_refuses_what_is_no_version(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "empty.py").write_text("")
    done = everlong("worker", "v2.py", *arguments, folder=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
