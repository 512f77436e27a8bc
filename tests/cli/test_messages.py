"""Signal, query, cancel, terminate and resume, through the file to a worker elsewhere."""

import json
from pathlib import Path

import pytest

from everlong.cli import main
from tests.cli.conftest import Here
from tests.support.command_line import MARKET, Done, worker


def until(here: Here, workflow_id: str, status: str) -> Done:
    for _ in range(400):
        shown = here("show", workflow_id, "--json")
        if shown.document["status"] == status:
            return shown
    raise AssertionError(f"{workflow_id} is not {status}: {here('show', workflow_id).out}")


def test_messages_reach_a_worker_in_another_process(here: Here, tmp_path: Path) -> None:
    for number in range(4):
        here("start", "purchase", "--id", f"p{number}", "-a", f"amount={number}")
    with worker(str(MARKET), folder=tmp_path) as facts:
        assert {"asleep", "order", "purchase"} <= set(facts["workflows"])
        assert here("query", "p0", "status").out == "waiting for 0\n"
        assert here("query", "p0", "status", "-a", "loud=true").out == "WAITING FOR 0\n"
        assert here("query", "p0", "status", "--json").document["answer"] == "waiting for 0"
        _updated(here)
        _signalled(here)
        _cancelled_and_terminated(here)
        wrong = here("query", "p0", "colour")
        assert (wrong.code, len(wrong.err.splitlines())) == (1, 1)
        shown = here("show", "p3")
        assert f"{facts['name']} has it" in shown.out
        rejected = here("signal", "p3", "approve", "maybe")
        assert rejected.code == 0  # whether it fits is for the worker, which knows the type
        for _ in range(400):
            if (shown := here("show", "p3")).out.count("rejected"):
                break
        assert "rejected approve; history tells why" in shown.out
        assert here("show", "p3", "--json").document["rejected"] == ["approve"]
    assert "none is here for purchase" in here("show", "p3").out


def _updated(here: Here) -> None:
    assert here("update", "p1", "raise-to", "-a", "price=9").out == "9\n"
    refused = here("update", "p1", "raise-to", "-a", "price=9")
    assert refused.code == 1
    assert "ValueError: it is 9 already" in refused.err
    again = ("update", "p1", "raise-to", "--json-args", '{"price": 1}', "--update-id", "u1")
    for _ in range(2):
        assert here(*again).code == 1
    told = here("update", "p1", "raise-to", "-a", "price=10", "--update-id", "u2", "--json")
    assert told.document == {
        "workflow_id": "p1",
        "update": "raise-to",
        "update_id": "u2",
        "result": 10,
    }
    assert here("update", "p1", "raise-to", "-a", "update_id=1").code == 2
    assert "✓ update" in here("history", "p1").out or "UpdateCompleted" in here("history", "p1").out


def _signalled(here: Here) -> None:
    sent = here("signal", "p0", "approve", "--json-value", '{"ok": false}', "--request-id", "r1")
    assert (sent.code, sent.out) == (0, "✓ approve is on its way to p0\n")
    assert until(here, "p0", "completed").document["result"] == "refused by nobody"
    late = here("signal", "p0", "approve", '{"ok": true}')
    assert late.code == 4
    assert "'p0' is closed (completed)" in late.err


def _cancelled_and_terminated(here: Here) -> None:
    assert here("cancel", "p1", "--reason", "enough").out == "✓ asked to cancel p1\n"
    assert until(here, "p1", "cancelled").document["error"]["message"] == "enough"
    assert here("query", "p1", "status").out == "cleaned up for 10\n"
    assert here("terminate", "p2", "--json").document == {
        "workflow_id": "p2",
        "action": "terminate",
    }
    assert here("show", "p2", "--json").document["status"] == "terminated"
    assert here("terminate", "p2").code == 4


@pytest.mark.usefixtures("started")
def test_without_a_worker_messages_are_kept_and_queries_time_out(here: Here) -> None:
    assert here("signal", "p1", "approve").code == 0
    assert here("cancel", "p1").code == 0
    assert here("resume", "p1").code == 0
    asked = here("update", "p1", "raise-to", "-a", "price=2", "--timeout", "0.05")
    assert asked.code == 5
    assert "the update is stored, and --update-id" in asked.err
    asked = here("query", "p1", "status", "--timeout", "0.05")
    assert asked.code == 5
    assert "Nobody answered within 0.05 seconds" in asked.err
    assert here("terminate", "p1").code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("show", "nobody"),
        ("history", "nobody"),
        ("subscribe", "nobody", "words"),
        ("signal", "nobody", "approve"),
        ("query", "nobody", "status"),
        ("cancel", "nobody"),
        ("terminate", "nobody"),
        ("pause", "nobody"),
        ("resume", "nobody"),
    ],
)
@pytest.mark.usefixtures("started")
def test_an_unknown_id_exits_4(here: Here, command: tuple[str, ...]) -> None:
    done = here(*command)
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("everlong: There is no workflow with the id 'nobody'.")
    as_json = here(*command, "--json").document["error"]
    assert (as_json["type"], as_json["exit_code"]) == ("WorkflowNotFound", 4)


@pytest.mark.usefixtures("started")
def test_a_value_is_given_once_and_in_json(here: Here) -> None:
    assert here("signal", "p1", "approve", "x", "--json-value", "1").code == 2
    assert here("signal", "p1", "approve", "--json-value", "{").code == 2
    assert here("query", "p1", "status", "-a", "timeout=1").code == 2


def test_the_entry_point_is_the_package_s(here: Here) -> None:
    assert here("--version").out.startswith("everlong ")
    assert callable(main)


def test_what_an_execution_publishes_is_followed_to_its_end(here: Here, tmp_path: Path) -> None:
    hostile = "\x1b[2J"
    started = here(
        "start", "tells", "--id", "t1", "--json-args", json.dumps({"words": ["a", hostile]})
    )
    assert started.code == 0
    assert here("subscribe", "t1", "words", "--no-follow").out == ""
    with worker(str(MARKET), folder=tmp_path):
        followed = here("subscribe", "t1", "words")
    assert followed.code == 0
    first, second = followed.out.splitlines()
    assert first.split()[0] == "0"
    assert first.endswith('"a"')
    assert "\x1b" not in second
    lines = here("subscribe", "t1", "words", "--start", "1", "--json").out.splitlines()
    (item,) = map(json.loads, lines)
    assert (item["number"], item["value"]) == (1, hostile)
    assert item["at"].endswith("Z")
    assert here("subscribe", "t1", "words", "--start", "-1").code == 2


def test_an_approval_is_listed_and_answered_once(here: Here, tmp_path: Path) -> None:
    here("start", "refund", "--id", "r1", "-a", "amount=5")
    assert here("approvals").out == "nobody is asked for anything\n"
    items: list[dict[str, object]] = []
    with worker(str(MARKET), folder=tmp_path):
        for _ in range(400):
            if items := here("approvals", "--json").document["items"]:
                break
        (one,) = items
        id = str(one["id"])
        assert (one["workflow_id"], one["approvers"]) == ("r1", ["ann", "bob"])
        shown = here("approvals", "--id", "r1").out
        assert id in shown
        assert "ann, bob" in shown
        shown = here("show", "r1").out
        assert "Refund 5?  by ann, bob  for " in shown
        assert f"everlong approve {id} --by NAME, or reject" in shown
        assert here("show", "r1", "--json").document["approvals"][0]["id"] == id
        refused = here("approve", id, "--by", "eve")
        assert (refused.code, len(refused.err.splitlines())) == (1, 1)
        assert "'eve' is not among" in refused.err
        done = here("reject", id, "--by", "ann", "--comment", "no", "--request-id", "q1")
        assert (done.code, done.out) == (0, "✓ rejected by ann\n")
        again = here("reject", id, "--by", "ann", "--request-id", "q1", "--json")
        assert again.document == {"id": id, "by": "ann", "verdict": "rejected"}
        late = here("approve", id, "--by", "bob")
        assert late.code == 4
        assert "rejected by 'ann' before" in late.err
        assert until(here, "r1", "completed").document["result"] == [False, "ann", "no"]
    assert here("approve", "nothing.1", "--by", "ann").code == 4


@pytest.mark.usefixtures("started")
def test_what_is_paused_is_named_and_goes_on_by_the_same_words(here: Here) -> None:
    assert here("paused").out == "nothing is paused\n"
    assert here("pause", "p1", "--reason", "a look", "--by", "ann").out == "✓ paused p1\n"
    assert "by ann: a look" in here("show", "p1").out
    assert "a look (ann)" in here("list", "--status", "paused").out
    held = here("pause", "--type", "purchase", "--by", "bob", "--json").document
    assert held == {"action": "pause", "type": "purchase", "executions": 0}
    listed = here("paused", "--json").document
    assert [(one["type"], one["by"]) for one in listed] == [("purchase", "bob"), (None, "ann")]
    assert "p1 is still held: the workflow purchase is paused" in here("resume", "p1").out
    assert here("resume", "--type", "purchase").out == "✓ goes on: purchase, 1 executions\n"
    assert here("show", "p1", "--json").document["status"] == "running"
    assert here("pause", "--all", "--json").document["executions"] == 1
    assert here("resume", "--all", "--blocked").code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("pause",),
        ("pause", "p1", "--all"),
        ("resume", "--type", "x", "--all"),
        ("resume", "p1", "--blocked"),
        ("resume", "--all"),
        ("resume", "--type", "x"),
        ("paused", "--limit", "0"),
        ("pause", "p1", "--by", "x" * 201),
    ],
)
@pytest.mark.usefixtures("started")
def test_pausing_without_sense_exits_2(here: Here, command: tuple[str, ...]) -> None:
    done = here(*command)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
