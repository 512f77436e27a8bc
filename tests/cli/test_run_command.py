"""`everlong run`, as a shell runs it."""

import os
import signal
import subprocess
from pathlib import Path
from typing import IO

from tests.support.command_line import MARKET, begin, everlong

ORDER = (
    "run",
    f"{MARKET}:order",
    "--arg",
    "id=17",
    "--arg",
    'items=["tea"]',
    "--arg",
    "limit=null",
)


def test_the_result_is_on_stdout_and_the_steps_are_on_stderr(tmp_path: Path) -> None:
    done = everlong(*ORDER, folder=tmp_path)
    assert done.code == 0, done.err
    assert '"receipt": "receipt-17"' in done.out
    assert done.out.startswith("hello from the workflow\n{\n")
    lines = done.err.splitlines()
    assert lines[0] == "order  starts"
    assert "attempt 1 failed, again in 10 ms: ConnectionError: \\x1b]0;x\\x07" in lines[1]
    assert lines[2].split() == ["✓", "charge", *lines[2].split()[2:4], "→", '"receipt-17"']
    assert lines[-1].startswith("✓ completed  6 events, ")
    assert "\x1b" not in done.out + done.err


def test_json_is_one_document_whatever_the_flow_prints(tmp_path: Path) -> None:
    done = everlong(*ORDER, "--json", folder=tmp_path)
    assert (done.code, done.document["status"]) == (0, "completed")
    assert done.document["result"] == {"receipt": "receipt-17", "items": ["tea"], "limit": None}
    assert done.document["started_at"].endswith("Z")
    assert "hello" in done.err


def test_an_activity_of_a_process_pool_finds_its_module(tmp_path: Path) -> None:
    target = f"{MARKET}:counted"
    done = everlong(
        "run", target, "--json-args", '{"items": ["a", "b"]}', "--json", folder=tmp_path
    )
    assert (done.code, done.document["result"]) == (0, 2), done.err
    assert "counting" in done.err


def test_a_failed_workflow_exits_1_with_its_traceback(tmp_path: Path) -> None:
    done = everlong("run", f"{MARKET}:failing", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "market.py" in done.err
    assert "everlong: failing failed: everlong.exceptions.ApplicationError: \\x1b]0;x" in done.err
    assert "\x1b" not in done.err

    again = everlong("run", f"{MARKET}:failing", "--json", "--quiet", folder=tmp_path)
    assert (again.code, again.document["status"]) == (1, "failed")
    assert again.document["error"]["type"] == "everlong.exceptions.ApplicationError"


def test_wrong_arguments_start_nothing(tmp_path: Path) -> None:
    done = everlong("run", f"{MARKET}:order", "-a", "id=abc", folder=tmp_path)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("everlong: parameter 'id' of workflow order must be int")
    assert not list(tmp_path.iterdir())


def test_a_blocked_run_exits_1_and_goes_on_once_its_code_is_mended(tmp_path: Path) -> None:
    blocked = everlong("run", f"{MARKET}:faulty", folder=tmp_path)
    assert blocked.code == 1
    assert "everlong: faulty is blocked: ForbiddenCall" in blocked.err
    assert "Correct the code" in blocked.err
    update = ("update", "faulty", "raise-to", "-a", "price=1", "--update-id", "u1")
    unheard = everlong(*update, folder=tmp_path)
    assert (unheard.code, len(unheard.err.splitlines())) == (1, 1)
    assert "'faulty' is blocked, so nobody performs the update 'u1' now: Forb" in unheard.err
    mended = everlong("run", f"{MARKET}:faulty", folder=tmp_path, MENDED="1")
    assert (mended.code, mended.out) == (0, "done\n"), mended.err
    assert "faulty  goes on after " in mended.err


def test_ctrl_c_hands_back_and_the_same_command_goes_on(tmp_path: Path) -> None:
    process = begin(
        "run", f"{MARKET}:purchase", "-a", "amount=5", folder=tmp_path, errors=subprocess.PIPE
    )
    assert process.stderr is not None
    _wait_for("starts", process.stderr)
    _until_it_runs(tmp_path)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; purchase goes on when you run it again" in told

    shown = everlong("show", "purchase", "--json", folder=tmp_path).document
    assert (shown["status"], shown["owner"], shown["hosted"]) == ("running", None, False)
    everlong("signal", "purchase", "approve", '{"ok": true, "by": "Ann"}', folder=tmp_path)
    again = everlong("run", f"{MARKET}:purchase", "-a", "amount=6", folder=tmp_path)
    assert (again.code, again.out) == (0, "approved by Ann\n"), again.err
    assert 'goes on with its own arguments, {"amount": 5}' in again.err


def test_ctrl_c_on_a_terminal_lets_processes_of_a_pool_end_their_work(tmp_path: Path) -> None:
    process = begin("run", f"{MARKET}:waiting_in_process", folder=tmp_path, errors=subprocess.PIPE)
    assert process.stderr is not None
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        everlong("--version", folder=tmp_path)  # takes its time
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _wait_for("stopping", process.stderr)
    (tmp_path / "go").touch()
    process.communicate(timeout=30)
    assert process.returncode == 130
    events = everlong("history", "waiting_in_process", "--json", folder=tmp_path).document["events"]
    assert [one["kind"] for one in events][:3] == [
        "RunStarted",
        "ActivityScheduled",
        "ActivityCompleted",
    ]
    assert not [one for one in events[1]["attempts"] if one["state"] != "started"]


def test_an_id_that_another_workflow_has_is_not_taken_over(tmp_path: Path) -> None:
    everlong("start", "asleep", "--id", "mine", folder=tmp_path)
    done = everlong("run", f"{MARKET}:failing", "--id", "mine", folder=tmp_path)
    assert (done.code, done.err) == (
        4,
        "everlong: 'mine' is open, and it is a asleep: choose another --id\n",
    )


def test_a_second_worker_is_told_who_has_the_file(tmp_path: Path) -> None:
    process = begin("run", f"{MARKET}:asleep", folder=tmp_path, errors=subprocess.PIPE)
    assert process.stderr is not None
    _wait_for("starts", process.stderr)
    _until_it_runs(tmp_path)
    done = everlong("worker", str(MARKET), folder=tmp_path)
    process.terminate()
    process.communicate(timeout=30)
    assert (done.code, process.returncode) == (3, 143)
    assert f"everlong.db is in use by process {process.pid}" in done.err


def _wait_for(word: str, lines: IO[str]) -> None:
    for line in lines:
        if word in line:
            return
    raise AssertionError(f"{word!r} was never told")


def _until_it_runs(folder: Path) -> None:
    """Each look is a process of its own, which takes its time."""
    for _ in range(40):
        page = everlong("list", "--json", folder=folder)
        if page.code == 0 and any(one["history_events"] for one in page.document["items"]):
            return
    raise AssertionError("it never began")
