"""Every history that a released Everlong wrote is read and replayed, for ever.

When one of these tests fails, the change under test would break runs that users have open. Do not
write the file anew: mend the code, or give the stored form a version and an upcast in
`everlong_engine.model.codec`.
"""

import base64
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any
from zlib import decompress

import pytest

from everlong import registry
from everlong_engine import CLOSING, Event, Recorded, checksum, decode_event
from everlong_engine.model.events import KINDS
from tests.histories.record import FOLDER, SCENARIOS, record
from tests.proof.tally import Tally
from tests.support.run_by_hand import discard_all, pairs, replayed

FILES = sorted(FOLDER.glob("*/*.jsonl"))
golden = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")


def read(path: Path) -> tuple[str, list[Recorded]]:
    """The workflow's name, and the history."""
    head, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return head["workflow"], [recorded(line) for line in lines]


def recorded(line: Mapping[str, Any]) -> Recorded:
    body = base64.b64decode(line["body"])
    blobs = {
        base64.b64decode(digest): decompress(base64.b64decode(blob))
        for digest, blob in line.get("blobs", {}).items()
    }
    assert checksum(line["seq"], line["kind"], body) == line["checksum"]
    return Recorded(line["seq"], line["at_us"], decode_event(line["kind"], body, blobs))


@pytest.fixture(name="tally", scope="module")
def tally_of_this_file() -> Generator[Tally]:
    tally = Tally()
    tally.figures["histories"] = len(FILES)
    yield tally
    tally.record(
        "recorded histories of released versions",
        invariants=[7],
        tried="prefixes of recorded histories replayed by this code",
        reproduce="make test ARGS=tests/histories",
    )


@golden
def test_it_replays(path: Path) -> None:
    workflow, history = read(path)
    code = replayed(registry.workflows[workflow], history)
    assert code.closed == (path.stem not in ("terminated", "timed_out"))
    discard_all()


@golden
def test_it_replays_from_every_prefix(path: Path, tally: Tally) -> None:
    workflow, history = read(path)
    for end in pairs(history):
        with tally.trying():
            replayed(registry.workflows[workflow], history[:end]).discard()
    discard_all()


def test_every_kind_of_event_is_recorded() -> None:
    kinds: set[type[Event]] = set()
    for path in FILES:
        kinds |= {type(one.event) for one in read(path)[1]}
    assert not {kind.__name__ for kind in KINDS.values()} - {kind.__name__ for kind in kinds}


def test_every_scenario_is_recorded_and_whole() -> None:
    assert SCENARIOS.keys() <= {path.stem for path in FILES}
    for path in FILES:
        _, history = read(path)
        assert [one.seq for one in history] == list(range(1, len(history) + 1))
        assert type(history[-1].event) in CLOSING


def test_a_recorded_history_is_never_written_again(tmp_path: Path) -> None:
    one = {"forced": SCENARIOS["forced"]}
    assert record(one, tmp_path) == [tmp_path / "forced.jsonl"]
    before = (tmp_path / "forced.jsonl").read_bytes()
    with pytest.raises(FileExistsError):
        record(one, tmp_path)
    assert (tmp_path / "forced.jsonl").read_bytes() == before
