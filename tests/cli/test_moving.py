"""`everlong move`: what it says, and how it exits."""

from pathlib import Path

from tests.cli.conftest import Here
from tests.support.command_line import worker

FLOWS = """
from everlong import Signal, workflow

go = Signal("cli_go", str)

@workflow
async def cli_child() -> str:
    return await go.receive()

@workflow
async def cli_parent() -> str:
    return await cli_child.options(id="kid")()
"""


def test_it_moves_what_is_named_and_says_what_cannot_go(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    there = str(tmp_path / "there.db")
    with worker("flows.py", folder=tmp_path):
        for name, flow in (("top", "cli_parent"), ("lone", "cli_child"), ("third", "cli_child")):
            assert here("start", flow, "--id", name).code == 0
        while here("show", "kid").code != 0:  # Takes its time.
            pass
    refused = here("move", "kid", "--to", there)
    assert refused.code == 1
    assert "'top' waits for 'kid'" in refused.err
    assert here("move", "top", "--to", str(tmp_path / "none.db"), "--dry-run").code == 3
    assert not (tmp_path / "none.db").exists()
    assert here("move", "lone", "--to", there).out.startswith("→ lone  moved to ")
    dry = here("move", "top", "--to", there, "--dry-run")
    assert (dry.code, "would move to" in dry.out, "with kid" in dry.out) == (0, True, True)
    moved = here("move", "--filter", "status = 'running'", "--to", there, "--json").document
    assert sorted(one["workflow_id"] for one in moved["moved"]) == ["third", "top"]
    assert moved["refused"] == []
    again = here("move", "top", "nobody", "--to", there)
    assert again.code == 1
    assert "is in" in again.out
    assert "'nobody'" in again.err
    assert here("move", "nobody", "--to", there).code == 4
    shown = here("show", "top")
    assert "moved to" in shown.out
    assert there in shown.out
    told = here("signal", "lone", "cli_go", "x")
    assert told.code == 4
    assert there in told.err
    assert here("signal", "lone", "cli_go", "x", "--db", there).code == 0
    assert here("verify").code == 0
    assert here("verify", "--db", there).code == 0


def test_what_makes_no_sense_is_refused_before_anything_is_done(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    assert here("start", "flows.py:cli_child", "--id", "one").code == 0
    for arguments, text in (
        (("one",), "say where to"),
        (("--to", "x.db"), "name the executions"),
        (("one", "--everything", "--to", "x.db"), "name the executions"),
        (("one", "--to", "x.db", "--wait", "-1"), "give seconds"),
        (("one", "--to", "everlong.db"), "name another one"),
    ):
        done = here("move", *arguments)
        assert (done.code, text in done.err) == (2, True), (arguments, done.err)
    assert not (tmp_path / "x.db").exists()
