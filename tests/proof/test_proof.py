"""The scoreboard: what a line must be, what the page must say, what running a part replaces."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.proof import __main__ as program
from tests.proof.invariants import INVARIANTS
from tests.proof.lines import Line, LineError, Stamp, merged, read, stamped, text_of
from tests.proof.page import page
from tests.proof.parts import MUTANTS, PARTS, Part
from tests.proof.record import record
from tests.proof.tally import Tally

HERE = Stamp(
    run="chaos",
    quick=False,
    commit="0123456789abcdef0123456789abcdef01234567",
    date="2026-11-21",
    python="3.11.2",
    sqlite="3.40.1",
    kernel="6.1.0",
    cores=2,
)

GOOD: dict[str, Any] = {
    "part": "kill -9 of workers",
    "invariants": [1, 2],
    "tried": "kills of workers at random moments",
    "times": 1_200,
    "broken": 0,
    "seconds": 93.5,
    "figures": {"acknowledgements": 5_000},
    "reproduce": "make chaos",
    **HERE.model_dump(),
}


def line(**changes: Any) -> Line:
    [found] = read(json.dumps(GOOD | changes), "lines")
    return found


def cells(text: str, first: str) -> list[list[str]]:
    """Every row of a table whose first cell is this."""
    rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    split = [re.split(r"(?<!\\) \| ", row) for row in rows]
    return [row for row in split if row[0] == first]


def section(text: str, title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


# ------------------------------------------------------------------------------------ the lines


def test_committed_page_is_what_the_generator_makes_of_the_committed_lines() -> None:
    lines = read(program.LINES.read_text(encoding="utf-8"), program.LINES.name)
    assert program.PAGE.read_text(encoding="utf-8") == page(lines), (
        "docs/reliability.md is made, not written: python -m tests.proof --write"
    )


def test_committed_lines_were_recorded_in_full_length_at_a_commit() -> None:
    for one in read(program.LINES.read_text(encoding="utf-8"), program.LINES.name):
        assert not one.quick, one.part
        assert re.fullmatch(r"[0-9a-f]{40}( \+ changes)?", one.commit), one.part


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        (json.dumps({key: GOOD[key] for key in GOOD if key != "commit"}), "commit: Field required"),
        (json.dumps(GOOD | {"luck": 1}), "luck: Extra inputs are not permitted"),
        (json.dumps(GOOD | {"broken": -1}), "broken: "),
        (json.dumps(GOOD | {"broken": "0"}), "broken: "),
        (json.dumps(GOOD | {"times": 1.5}), "times: "),
        (json.dumps(GOOD | {"seconds": float("nan")}), "seconds: "),
        (json.dumps(GOOD | {"invariants": []}), "invariants: "),
        (json.dumps(GOOD | {"invariants": [15]}), "invariants.0: "),
        (json.dumps(GOOD | {"figures": {"seeds": None}}), "figures.seeds"),
        (json.dumps(GOOD | {"part": ""}), "part: "),
    ],
)
def test_a_line_that_is_not_as_it_must_be_is_named_by_its_number(text: str, wrong: str) -> None:
    with pytest.raises(LineError) as caught:
        read(f"{json.dumps(GOOD)}\n\n{text}\n", "reliability.jsonl")
    assert str(caught.value).startswith("reliability.jsonl:3: ")
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


words = st.text(min_size=1, max_size=30)
some_lines = st.builds(
    line,
    part=words,
    run=st.sampled_from([*(part.name for part in PARTS), "gone"]),
    invariants=st.lists(st.integers(1, 14), min_size=1, max_size=3, unique=True),
    tried=words,
    times=st.integers(0, 10**9),
    broken=st.integers(0, 2),
    seconds=st.floats(0, 10**6),
    figures=st.dictionaries(words, st.integers() | st.floats(-1e9, 1e9) | words, max_size=2),
    quick=st.booleans(),
    reproduce=words,
)


@given(st.lists(some_lines, max_size=5))
def test_lines_are_read_as_they_were_written(lines: list[Line]) -> None:
    assert read(text_of(lines), "lines") == lines


@given(st.lists(some_lines, max_size=6), st.lists(some_lines, max_size=6), st.data())
def test_running_a_part_replaces_its_lines_and_no_others(
    old: list[Line], new: list[Line], data: st.DataObject
) -> None:
    ran = data.draw(st.sets(st.sampled_from([part.name for part in PARTS])))
    after = merged(old, new, ran)
    assert after[len(after) - len(new) :] == new
    kept = after[: len(after) - len(new)]
    recorded = {one.part for one in new}
    assert kept == [one for one in old if one.run not in ran and one.part not in recorded]


# -------------------------------------------------------------------------------------- the page


@settings(max_examples=50)
@given(st.lists(some_lines, max_size=6))
def test_no_text_of_a_line_breaks_the_page(lines: list[Line]) -> None:
    """Every row of every table has as many cells as its head, whatever a part recorded."""
    text = page(lines)
    width = 0
    for row in text.split("\n"):
        if row.startswith("|"):
            found = len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) - 1
            assert width in (0, found), row
            width = found
        else:
            width = 0
    assert len(re.findall(r"^### Invariant \d+$", text, re.MULTILINE)) == 14


@settings(max_examples=50)
@given(st.lists(some_lines, min_size=1, max_size=6))
def test_what_broke_is_bold_wherever_it_stands(lines: list[Line]) -> None:
    text = page(lines)
    broken = sum(one.broken for one in lines)
    assert (f"**Broken: {broken}, in: " in text) == (broken > 0)
    for one in lines:
        for number in one.invariants:
            of_invariant = section(text, f"Invariant {number}")
            assert ("| **" in of_invariant) == any(
                other.broken for other in lines if number in other.invariants
            )


def test_a_defect_is_seen_from_the_top_to_the_row() -> None:
    text = page([line(broken=3)])
    assert "**Broken: 3, in: kill -9 of workers.**" in text
    assert cells(text, "[1](#invariant-1)")[0][2] == "**broken 3 times**"
    assert cells(section(text, "Invariant 1"), "kill -9 of workers")[0][3] == "**3**"
    assert cells(section(text, "Everything that ran"), "kill -9 of workers")[0][3] == "**3**"
    assert "**Broken" not in page([line()])


def test_a_part_that_has_not_run_says_so_at_each_of_its_invariants() -> None:
    text = page([line()])
    for part in PARTS:
        if part.name == "chaos":
            assert not cells(text, part.name)
            continue
        assert cells(section(text, "Everything that ran"), part.name)[0][2] == "not run"
        for number in part.invariants:
            assert cells(section(text, f"Invariant {number}"), part.name)[0][2] == "not run"
    others = ", ".join(part.name for part in PARTS if part.name != "chaos")
    assert f"Not run: {others}" in text
    assert section(text, "Planted defects").rstrip().endswith("Not run.")


def test_what_does_not_exist_is_not_called_unbroken() -> None:
    text = page([line(invariants=[number for number in range(1, 15) if number not in (11, 12)])])
    for number in (11, 12):
        assert cells(text, f"[{number}](#invariant-{number})")[0][2] == "does not exist yet"
        assert "do not exist yet" in section(text, f"Invariant {number}")
        assert "Held by" not in section(text, f"Invariant {number}")


def test_an_invariant_that_nothing_tries_to_break_says_so() -> None:
    text = page([])
    assert "Nothing has run yet." in text
    assert cells(text, "[10](#invariant-10)")[0][2] == "**nothing has tried to break it**"


def test_a_short_run_and_a_changed_tree_are_told() -> None:
    text = page([line(quick=True, commit=HERE.commit + " + changes")])
    row = cells(section(text, "Everything that ran"), "kill -9 of workers")[0]
    assert row[2] == "1,200 (quick)"
    assert row[6] == "0123456789 + changes, 2026-11-21"


def test_planted_defects_are_listed_with_what_found_them() -> None:
    found = {"no fence": "seed 0", "early timer": 3}
    text = section(
        page([line(part="mutants", run=MUTANTS, times=2, figures=found)]), "Planted defects"
    )
    assert cells(text, "no fence") == [["no fence", "seed 0"]]
    assert cells(text, "early timer") == [["early timer", "3"]]
    assert "2 planted, every one found." in text
    one_alive = page([line(part="mutants", run=MUTANTS, times=2, broken=1, figures=found)])
    assert "2 planted, **1 not found**." in section(one_alive, "Planted defects")


def test_the_tables_know_every_invariant_once() -> None:
    assert [one.number for one in INVARIANTS] == list(range(1, 15))
    assert all(one.held_by or one.lacks for one in INVARIANTS)
    assert len({part.name for part in PARTS}) == len(PARTS)


# ----------------------------------------------------------------------------- running the parts


def recorded(path: Path, **changes: Any) -> str:
    """A line as a part leaves it."""
    facts = {key: GOOD[key] for key in GOOD if key not in HERE.model_dump()} | changes
    before = os.environ.get("EVERLONG_PROOF")
    os.environ["EVERLONG_PROOF"] = str(path)
    try:
        record(facts.pop("part"), **facts)
    finally:
        os.environ.pop("EVERLONG_PROOF")
        if before is not None:
            os.environ["EVERLONG_PROOF"] = before
    return path.read_text(encoding="utf-8")


def test_what_a_part_records_becomes_a_line_with_its_stamp(tmp_path: Path) -> None:
    recorded(tmp_path / "lines", broken=1)
    text = recorded(tmp_path / "lines", invariants=[2, 1])
    [found] = stamped(text, "lines", HERE)
    assert found == line(), "the later record of a part counts"


def test_nothing_is_recorded_when_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERLONG_PROOF", raising=False)
    monkeypatch.chdir(tmp_path)
    facts = {key: GOOD[key] for key in GOOD if key not in (*HERE.model_dump(), "part")}
    record("kill -9 of workers", **facts)
    assert not list(tmp_path.iterdir())


def test_a_tally_counts_what_was_tried_and_what_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLONG_PROOF", str(tmp_path / "lines"))
    facts: dict[str, Any] = {"invariants": [1], "tried": "tries", "reproduce": "again"}
    Tally().record("nothing", **facts)
    assert not list(tmp_path.iterdir()), "nothing was tried"
    tally = Tally()
    with tally.trying("of one kind"):
        pass
    with pytest.raises(AssertionError), tally.trying("of one kind"):
        raise AssertionError
    with pytest.raises(pytest.skip.Exception), tally.trying():
        pytest.skip("cannot run here")
    tally.record("some", **facts)
    [found] = stamped((tmp_path / "lines").read_text(), "lines", HERE)
    assert (found.part, found.times, found.broken) == ("some", 3, 1)
    assert found.figures == {"of one kind": 2}


RECORD = """
import sys
from tests.proof.record import record
record(sys.argv[1], invariants=[int(sys.argv[2])], tried="a try", times=7, broken=int(sys.argv[3]),
       seconds=0.1, reproduce="again")
sys.exit(int(sys.argv[4]))
"""


@pytest.fixture(name="table")
def table_of_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A table of two parts, whose arguments can be changed, and files of their own."""
    script = tmp_path / "part.py"
    script.write_text(RECORD)
    arguments = {"first": "one 1 0 0", "second": "two 2 0 0"}
    monkeypatch.setenv("PYTHONPATH", str(program.ROOT))

    class FromArguments(Part):
        def command(self, *, quick: bool) -> list[str]:
            return [sys.executable, str(script), *arguments[self.name].split()]

    parts = (FromArguments("first", (1,), ""), FromArguments("second", (2,), ""))
    monkeypatch.setattr(program, "PARTS", parts)
    monkeypatch.setattr(program, "ROOT", tmp_path)
    monkeypatch.setattr(program, "LINES", tmp_path / "reliability.jsonl")
    monkeypatch.setattr(program, "PAGE", tmp_path / "reliability.md")
    return arguments


def prove(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, list[Line]]:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["proof", *arguments])
    try:
        with pytest.raises(SystemExit) as caught:
            program.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(caught.value.code, int)
    return caught.value.code, read(program.LINES.read_text(encoding="utf-8"), "lines")


def test_all_parts_leave_their_lines_and_a_page(
    table: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = prove(monkeypatch)
    assert code == 0
    assert [(one.run, one.part, one.times) for one in lines] == [
        ("first", "one", 7),
        ("second", "two", 7),
    ]
    assert lines[0].commit == "unknown", "the temporary folder has no history"
    assert program.PAGE.read_text(encoding="utf-8") == page(lines)


def test_running_one_part_again_keeps_the_others_in_their_order(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(monkeypatch)
    table["first"] = "other-name 3 0 0"
    table["second"] = "must-not-run 1 9 9"
    code, lines = prove(monkeypatch, "--only", "first")
    assert code == 0
    assert [one.part for one in lines] == ["other-name", "two"]


def test_an_invariant_that_broke_is_the_exit_status(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table["first"] = "one 1 1 0"
    code, lines = prove(monkeypatch)
    assert (code, [one.broken for one in lines]) == (1, [1, 0])


def test_a_part_that_fails_leaves_a_line_that_says_so_and_the_rest_runs(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table["first"] = "one 1 0 3"
    code, lines = prove(monkeypatch)
    assert code == 1
    assert [(one.part, one.broken) for one in lines] == [
        ("one", 0),
        ("first (failed)", 1),
        ("two", 0),
    ]
    assert lines[1].tried == "failed: the command ended with exit status 3"
    table["first"] = "one 1 0 0"
    code, lines = prove(monkeypatch, "--only", "first")
    assert (code, [one.part for one in lines]) == (0, ["one", "two"])


def test_a_part_that_fails_for_what_it_has_recorded_is_counted_once(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table["first"] = "one 1 4 1"
    code, lines = prove(monkeypatch, "--only", "first")
    assert (code, [(one.part, one.broken) for one in lines]) == (1, [("one", 4)])
    table["first"] = "one 1 4 2"
    _, lines = prove(monkeypatch, "--only", "first")
    assert [(one.part, one.broken) for one in lines] == [("one", 4), ("first (failed)", 1)]


def test_a_part_that_records_nothing_has_failed(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "part.py").write_text("")
    code, lines = prove(monkeypatch, "--only", "second")
    assert code == 1
    assert [one.tried for one in lines] == ["failed: it recorded nothing"]


def test_a_part_that_records_nonsense_has_failed(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "part.py").write_text(
        "import os; open(os.environ['EVERLONG_PROOF'], 'w').write('no line')"
    )
    code, lines = prove(monkeypatch, "--only", "second")
    assert code == 1
    assert lines[0].tried.startswith("failed: a line that it recorded cannot be read: second:1: ")


def test_a_kept_line_that_cannot_be_read_stops_it_before_it_runs(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program.LINES.write_text("{}\n")
    monkeypatch.setattr(sys, "argv", ["proof", "--keep"])
    with pytest.raises(SystemExit, match=r"reliability\.jsonl:1: .* Field required|Field required"):
        program.main()
    assert program.LINES.read_text() == "{}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="watches a process by its pidfd: Linux")
def test_nothing_that_a_part_started_is_left_behind(
    table: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "part.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
    )
    prove(monkeypatch, "--only", "first")
    try:
        left = os.pidfd_open(int((tmp_path / "pid").read_text()))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([left], [], [], 5)
    os.close(left)
    assert ended


def test_its_options_are_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof", "--help"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(part.name in done.stdout for part in PARTS)
