"""`everlong stream …`, beside a worker that reads a file."""

from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.conftest import Here
from tests.support.command_line import Done, begin, everlong, worker_ready

FLOW: Final = """
from everlong import checkpoint, workflow
from everlong.streams import Lines, Stream

readings = Stream("readings", Lines("readings.txt", int, poll=0.01))

@workflow
async def adds(total: int = 0) -> int:
    async for batch in readings.batches(on_poison="dead_letter"):
        total += sum(batch.values)
        await checkpoint(total=total)
    return total
"""


def read_up_to(here: Here, position: int) -> None:
    while f"  {position}\n" not in here("stream", "position", "r", "readings").out:
        pass


def test_an_operator_looks_after_a_flow(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "readings.txt").write_text("1\ntwo\n3\n")
    assert here("start", "adds", "--id", "r").code == 0
    assert here("stream", "position", "r", "readings").out == "nothing was read so far\n"
    assert here("stream", "dead-letters", "r", "readings").out == "there are no dead letters\n"
    worker = begin("worker", "flow.py", "--json", folder=tmp_path)
    try:
        worker_ready(worker)
        read_up_to(here, 8)
        told = here("stream", "position", "r", "readings", "--json").document["position"]
        assert told["after"] == {"0": 8}
        assert told["identity"].startswith("inode ")
        letters = here("stream", "dead-letters", "r", "readings")
        assert "0  0/6\n" in letters.out
        assert "        two\n" in letters.out
        (letter,) = here("stream", "dead-letters", "r", "readings", "--json").document["items"]
        assert (letter["number"], letter["position"]) == (0, 6)
        again = ("stream", "redrive", "r", "readings", "0", "--request-id", "once")
        assert here(*again).out == "✓ redriven 1 of r\n"
        assert here(*again, "--json").document["redriven"] == 1
        rewind = ("stream", "rewind", "r", "readings", "0=beginning", "--request-id", "back")
        assert here(*rewind).out == "✓ rewound r\n"
        assert here(*rewind, "--json").document["told"] == "rewound"
        with (tmp_path / "readings.txt").open("a") as file:
            file.write("100\n")
        read_up_to(here, 12)
        lag = ("stream", "lag", "r", "flow.py:readings", "--wait", "0.1")
        assert everlong(*lag, folder=tmp_path).out == "0 behind\n"
        found: dict[str, Any] = {"messages": 0, "more": False, "seconds": None, "partitions": {}}
        assert everlong(*lag, "--json", folder=tmp_path).document["lag"] == found
        assert here("stream", "drain", "r", "readings").out == "✓ draining r\n"
        while (shown := here("show", "r", "--json").document)["status"] == "running":
            pass
    finally:
        worker.kill()
        worker.communicate()
    assert (shown["status"], shown["result"]) == ("completed", 108)


def test_what_a_flow_has_not_read_is_counted(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "readings.txt").write_text("1\n2\n3\n")
    assert here("start", "adds", "--id", "r").code == 0
    lag = ("stream", "lag", "r", "flow.py:readings", "--wait", "0.1")
    assert everlong(*lag, folder=tmp_path).out == "3 behind\n"
    told = everlong(*lag, "--at-most", "2", folder=tmp_path)
    assert told.out == "more than 2 behind\n"
    assert "there is flow.py:readings" in everlong(*lag[:3], "flow.py:adds", folder=tmp_path).err
    other = everlong(*lag, "--partition", "7", folder=tmp_path)
    assert (other.code, "has one partition" in other.err) == (2, True)


PARKING: Final = """
import json
from pathlib import Path
from everlong import Retry, activity, checkpoint, workflow
from everlong.streams import Directory, Stream

inbox = Stream("inbox", Directory("inbox", str, lines=True, settle=0, poll=0.01))

@activity(retry=Retry(delay=0.01))
async def load(texts: list[str]) -> None:
    if not Path("mended").exists() and "two" in texts:
        raise ValueError("two is poison")

@workflow
async def loads(count: int = 0) -> int:
    async for batch in inbox.batches(on_poison="park_key"):
        await load(batch.values)
        count += len(batch)
        await checkpoint(count=count)
    return count
"""


def test_parked_keys_are_shown_and_given_back(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(PARKING)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "inbox" / "b.txt").write_text("four\n")
    assert here("start", "loads", "--id", "r").code == 0
    assert here("stream", "parked", "r", "inbox").out == "no key is parked\n"
    worker = begin("worker", "flow.py", "--json", folder=tmp_path)
    try:
        worker_ready(worker)
        while "2 messages" not in (shown := here("stream", "parked", "r", "inbox").out):
            pass
        assert shown.startswith("a.txt  2 messages\n")
        assert "        two\n        ValueError: two is poison (tried 5 times)\n" in shown
        (one,) = here("stream", "parked", "r", "inbox", "--json").document["items"]
        assert [message["number"] for message in one["messages"]] == [0, 1]
        wrong = here("stream", "redrive", "r", "inbox", "--key", "x")
        assert "parked are: a.txt" in wrong.err
        (tmp_path / "mended").touch()
        assert (
            here("stream", "redrive", "r", "inbox", "--key", "a.txt").out == "✓ redriven 2 of r\n"
        )
        while here("stream", "parked", "r", "inbox").out != "no key is parked\n":
            pass
        assert here("stream", "drain", "r", "inbox").code == 0
        while (end := here("show", "r", "--json").document)["status"] == "running":
            pass
    finally:
        worker.kill()
        worker.communicate()
    assert (end["status"], end["result"]) == ("completed", 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rewind", "r", "readings", "41"), "write PARTITION=POSITION"),
        (("rewind", "r", "readings", "0="), "write PARTITION=POSITION"),
        (("rewind", "r", "readings", "0=1"), "nothing to rewind"),
        (("redrive", "r", "readings", "7"), "no dead letters [7]"),
        (("position", "nobody", "readings"), "nobody"),
        (("drain", "nobody", "readings"), "nobody"),
        (("rewind", "r"), "Missing argument"),
    ],
)
def test_what_makes_no_sense_is_told(here: Here, arguments: tuple[str, ...], words: str) -> None:
    assert here("start", "adds", "--id", "r").code == 0
    done: Done = here("stream", *arguments)
    assert done.code in (2, 4)
    assert words in done.err
