"""`everlong bulk`: it asks, it says how many, and it does the work itself where nobody else can."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Here

PURCHASES = "type = 'purchase'"


@pytest.fixture
def seven(here: Here) -> Here:
    """Seven purchases that wait for a worker."""
    for number in range(7):
        done = here("start", "purchase", "--id", f"p{number}", "-a", "amount=5", "--json")
        assert done.code == 0, done.err
    return here


def statuses(here: Here) -> dict[Any, int]:
    groups = here("count", "--filter", PURCHASES, "--by", "status", "--json").document["groups"]
    return {one["value"]: one["count"] for one in groups}


def test_a_dry_run_says_whom_it_would_mean(seven: Here) -> None:
    done = seven("bulk", "terminate", "--filter", PURCHASES, "--dry-run")
    assert done.code == 0
    assert done.out.splitlines() == [
        "terminate 7 executions:",
        *(f"  ● p{number}" for number in (6, 5, 4, 3, 2)),
        "    and 2 more",
        "a dry run: nothing was done",
    ]
    document = seven("bulk", "cancel", "--everything", "--dry-run", "--json").document
    assert document == {
        "job": None,
        "action": "cancel",
        "matched": 7,
        "first": ["p6", "p5", "p4", "p3", "p2"],
    }
    assert statuses(seven) == {"running": 7}


def test_where_nobody_can_be_asked_it_wants_a_yes(seven: Here) -> None:
    for more in ((), ("--json",)):
        done = seven("bulk", "terminate", "--filter", PURCHASES, *more)
        assert done.code == 2
        assert "terminate 7 executions? Nobody is here to ask" in done.err + done.out
        assert "--yes" in done.err + done.out
    assert statuses(seven) == {"running": 7}


def test_without_a_worker_the_job_waits_or_is_done_here(seven: Here) -> None:
    begun = seven("bulk", "terminate", "--filter", PURCHASES, "--yes", "--id", "all-of-them")
    assert begun.code == 0
    assert begun.out == "✓ all-of-them  terminate 7 executions\n"
    assert "no worker is here, so it waits for one" in begun.err
    assert statuses(seven) == {"running": 7}
    done = seven("bulk", "watch", "all-of-them")
    assert (done.code, done.out) == (0, "✓ 7 terminated  all-of-them\n")
    assert statuses(seven) == {"terminated": 7}
    again = seven("bulk", "watch", "all-of-them", "--json").document
    assert again["report"]["done"] == again["matched"] == 7
    shown = seven("show", "all-of-them")
    assert '"done": 7' in shown.out


def test_it_waits_for_the_end_and_names_who_refused(seven: Here, tmp_path: Path) -> None:
    done = seven("bulk", "reset", "--filter", PURCHASES, "--to", "last-failure", "-y", "-w")
    assert done.code == 0
    lines = done.out.splitlines()
    assert re.fullmatch(r"✓ 0 reset, 7 skipped  bulk-reset-\w+", lines[0])
    assert lines[1].startswith("  – p6  'p6' cannot begin there: ")
    document = seven(
        "bulk", "signal", "approved", "yes", "-f", PURCHASES, "-y", "-w", "--json"
    ).document
    assert document["report"] == {
        "action": "signal",
        "about": 7,
        "done": 7,
        "skipped": 0,
        "failed": 0,
        "not_done": [],
    }


def test_the_same_request_is_the_same_job(seven: Here) -> None:
    line = ("bulk", "terminate", "-f", PURCHASES, "-y", "--request-id", "x", "--json")
    first = seven(*line).document
    seven("bulk", "watch", first["job"])
    again = seven(*line).document
    assert (first["job"], first["matched"], again["matched"]) == (again["job"], 7, 0)


def test_nothing_to_do_says_why(seven: Here) -> None:
    for action, why in (
        ("retry", "none of them has failed, timed out or is blocked"),
        ("resume", "none of them is paused or blocked"),
    ):
        done = seven("bulk", action, "-f", PURCHASES, "-y")
        assert (done.code, done.out) == (0, f"nothing to do: {why}\n")
    done = seven("bulk", "reset", "--to", "start", "-f", "id = 'nobody'", "--yes", "--json")
    assert done.document == {"job": None, "action": "reset", "matched": 0, "first": []}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("obliterate", "--everything"), "choose one of cancel, terminate"),
        (("cancel",), "everything=True"),
        (("cancel", "p1"), "whom it means says --filter"),
        (("cancel", "-f", "status ="), "at character 9"),
        (("cancel", "--everything", "--to", "start"), "reset"),
        (("signal", "--everything"), "name the signal"),
        (("reset", "--everything", "--to", "yesterday"), "names no point"),
        (("cancel", "--everything", "--rate", "-1"), "more than 0"),
        (("watch",), "name the job"),
        (("watch", "p1"), "is no bulk job"),
    ],
)
def test_what_makes_no_sense_is_refused(seven: Here, line: tuple[str, ...], says: str) -> None:
    done = seven("bulk", *line)
    assert done.code in (1, 2)
    assert says in done.err.replace("\n ", "")
    assert seven("count", "--filter", "type = 'everlong.bulk'").out == "0\n"


def on_a_terminal(folder: Path, *arguments: str, types: str) -> tuple[int, str]:
    """A command with somebody before it, who types that."""
    mine, its = pty.openpty()
    command = [sys.executable, "-c", "import sys; from everlong.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    seen, end = "", time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([mine], [], [], 0.1)[0]:
            try:
                seen += os.read(mine, 4096).decode("utf-8", "replace")
            except OSError:
                break
        if types and "[y/N]" in seen:
            os.write(mine, types.encode())
            types = ""
    os.close(mine)
    return process.wait(10), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", seen)


def test_on_a_terminal_it_asks(seven: Here, tmp_path: Path) -> None:
    line = ("bulk", "terminate", "-f", PURCHASES, "--wait", "--id", "asked")
    code, seen = on_a_terminal(tmp_path, *line, types="n\n")
    assert code == 1
    assert "terminate 7 executions:" in seen
    assert "nothing was done" in seen
    assert statuses(seven) == {"running": 7}
    code, seen = on_a_terminal(tmp_path, *line, types="y\n")
    assert code == 0, seen
    assert "✓ 7 terminated  asked" in seen
    assert statuses(seven) == {"terminated": 7}
