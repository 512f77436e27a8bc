"""States of keys from a shell, with and without a worker."""

from pathlib import Path
from typing import Final

from tests.cli.conftest import Here
from tests.support.command_line import begin, worker_ready

FLOW: Final = """
from dataclasses import dataclass
from everlong.streams import EntityContext, Lines, Message, Stream, Timer, entity

@dataclass
class Sum:
    total: int = 0

readings = Stream("readings", Lines("readings.txt", int, poll=0.01))

@entity(readings, key=lambda message: "odd" if message.value % 2 else "even", state=Sum)
async def sums(state: Sum, message: Message[int], ctx: EntityContext) -> None:
    state.total += message.value
    ctx.set_timer("report", after=3600)

@sums.on_timer
async def report(state: Sum, timer: Timer, ctx: EntityContext) -> None: ...
"""


def test_states_are_shown_while_a_worker_is_there_and_behind_it(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "readings.txt").write_text("1\n2\n3\n")
    assert here("start", "sums", "--id", "s").code == 0
    assert here("entity", "list", "s").out == ""
    worker = begin("worker", "flow.py", "--json", folder=tmp_path)
    try:
        worker_ready(worker)
        while here("entity", "show", "s", "odd").code != 0:
            pass
        refused = here("stream", "rewind", "s", "readings", "0=beginning")
        assert "there is no way back for them" in refused.err
        assert "there is no way back" in here("reset", "s", "--to", "start").err
    finally:
        worker.kill()
        worker.communicate()
    assert here("entity", "list", "s").out == "even\nodd\n"
    assert here("entity", "list", "s", "--limit", "1").out == (
        "even\nthere may be more: --after even\n"
    )
    assert here("entity", "list", "s", "--after", "even", "--json").document["items"] == ["odd"]
    shown = here("entity", "show", "s", "odd").out.splitlines()
    assert "total" in shown[0]
    assert shown[0].endswith("4}")
    assert shown[1].startswith("timer report at ")
    facts = here("entity", "show", "s", "even", "--json").document["entity"]
    assert (facts["key"], facts["state"]) == ("even", {"total": 2})
    assert list(facts["timers"]) == ["report"]
    missing = here("entity", "show", "s", "prime")
    assert missing.code != 0
    assert "`everlong entity list s`" in missing.err
    assert here("entity", "list", "nobody").code != 0
