"""List, show and history; and that whatever they show is harmless."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Here
from tests.support.command_line import MARKET, everlong

EVIL = "\x1b]0;x\x07\x1b[2J\r\n\u202egnp.exe"
SHOWN = r"\x1b]0;x\x07\x1b[2J\r\n\u202egnp.exe"


def test_a_list_has_filters_and_pages(here: Here) -> None:
    for number in range(3):
        here("start", "purchase", "--id", f"p{number}", "-a", "amount=1")
    here("start", "asleep", "--id", "a1")
    here("terminate", "a1")
    first = here("list", "--limit", "2", "--json").document
    assert [one["workflow_id"] for one in first["items"]] == ["a1", "p2"]
    rest = here("list", "--limit", "2", "--after", first["next"], "--json").document
    assert [one["workflow_id"] for one in rest["items"]] == ["p1", "p0"]
    assert rest["next"] is None
    assert f"more: --after {first['next']}" in here("list", "--limit", "2").out

    def ids(*options: str) -> list[str]:
        return [one["workflow_id"] for one in here("list", "--json", *options).document["items"]]

    assert ids("--status", "terminated") == ["a1"]
    assert ids("--type", "purchase") == ["p2", "p1", "p0"]
    assert ids("--id", "p1") == ["p1"]
    assert ids("--namespace", "elsewhere") == []
    assert here("list", "--namespace", "elsewhere").out == "no runs\n"


def test_filters_and_counts(here: Here) -> None:
    for number in range(3):
        here("start", "purchase", "--id", f"p{number}", "--tag", f"n={number}")
    here("terminate", "p0")
    listed = here("list", "-f", "tag.n > 0 and status = 'running'", "--json").document["items"]
    assert [(one["workflow_id"], one["tags"]) for one in listed] == [
        ("p2", {"n": 2}),
        ("p1", {"n": 1}),
    ]
    assert "n=2" in here("list", "--filter", "tag.n = 2").out
    assert here("count").out == "3\n"
    assert here("count", "-f", "tag.n = 7", "--json").document == {"count": 0}
    assert re.findall(r"\d \w+", here("count", "--by", "status").out.replace("  ", " ")) == [
        "2 running",
        "1 terminated",
    ]
    by = here("count", "--by", "tag.n", "--json").document
    assert (by["count"], by["by"], len(by["groups"])) == (3, "tag.n", 3)
    wrong = here("list", "--filter", "status = happy")
    assert (wrong.code, wrong.err) == (
        2,
        "everlong: at character 10 of the filter: there is 'happy'; expected a value: a text in "
        "quotes, a number, true or false\n",
    )
    assert here("count", "--by", "happy").code == 2


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("a=c1", '"c1"'),
        ("a=", '""'),
        ("a=true", "true"),
        ("a=True", '"True"'),
        ("a=7", "7"),
        ("a=-7", "-7"),
        ("a=7.0", "7.0"),
        ("a=1e3", "1000.0"),
        ('a="7"', '"7"'),
        ('a="', '"\\""'),
        ("a=7 of 9", '"7 of 9"'),
        ("a=2026-11-01", '"2026-11-01"'),
        ("a=2026-11-01T09:30Z", '"2026-11-01T09:30:00Z"'),
        ("a=x=y", '"x=y"'),
        ("a=" + "9" * 401, '"' + "9" * 401 + '"'),
    ],
)
def test_a_tag_is_what_it_looks_like(here: Here, typed: str, told: str) -> None:
    assert here("start", "purchase", "--id", "p", "--tag", typed, "--memo", "[1]").code == 0
    shown = here("show", "p").out
    assert f"tags     a={told}"[:200] in shown.replace("\n           ", "")
    assert re.search(r"memo +\[1\]", shown)
    assert here("show", "p", "--json").document["memo"] == [1]


@pytest.mark.parametrize(
    "typed", ["a", "=x", "a b=1", "a=" + "9" * 30, "a=1e999", "a=" + "x" * 513]
)
def test_what_is_no_tag_exits_2_and_starts_nothing(here: Here, typed: str) -> None:
    done = here("start", "purchase", "--tag", typed)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert here("start", "purchase", "--tag", "a=1", "--tag", "a=2").code == 2
    assert here("list").code in (0, 3)


@pytest.mark.parametrize(
    "options", [("--status", "happy"), ("--limit", "0"), ("--after", "x"), ("--db", "http://x/y")]
)
@pytest.mark.usefixtures("started")
def test_options_that_make_no_sense_exit_2(here: Here, options: tuple[str, str]) -> None:
    done = here("list", *options)
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_a_start_says_how_it_is_tried_again(here: Here, tmp_path: Path) -> None:
    line = ("start", "purchase", "-a", "amount=5", "--json")
    for wrong in (
        ("--retry-delay", "2"),
        ("--retry-attempts", "0"),
        ("--retry-attempts", "2", "--retry-delay", "-1"),
    ):
        assert (here(*line, *wrong).code, list(tmp_path.iterdir())) == (2, [])
    assert here(*line, "--retry-attempts", "2", "--retry-delay", "90").code == 0


@pytest.mark.usefixtures("started")
def test_what_has_no_worker_says_so(here: Here) -> None:
    shown = here("show", "p1")
    assert shown.code == 0
    assert shown.out.splitlines()[0] == "● p1  purchase  running"
    assert "not begun; its start waits in the inbox" in shown.out
    assert "none is here for purchase: everlong worker FILE" in shown.out
    assert "none is here for purchase" in here("list").out
    assert "no worker is here for purchase: 1 run waits" in here("doctor").out
    assert here("history", "p1").out == "p1  no events; its start waits in the inbox\n"
    told = here("start", "purchase", "--id", "p2", "-a", "amount=5")
    assert (told.out, "waits for one" in told.err) == ("p2\n", True)


def test_starts_that_are_one_are_told_by_the_command_line(here: Here) -> None:
    together = ("--debounce", "30s", "--debounce-key", "k", "--debounce-at-most", "1m")
    ids = {
        here("start", "purchase", "-a", f"amount={one}", *together).out.strip() for one in range(3)
    }
    (workflow_id,) = ids
    (listed,) = here("list", "--json").document["items"]
    assert listed["begins_at"] is not None
    assert "begins in" in here("list").out
    assert "3 with the key k, debounced since" in here("show", workflow_id).out
    told = here("show", workflow_id, "--json").document["debounced"]
    assert (told["key"], told["starts"]) == ("k", 3)
    seen = ("--dedup-key", "p", "--dedup-within", "1d")
    first = here("start", "purchase", "--id", "mine", *seen).out.strip()
    assert (first, here("start", "purchase", *seen).out.strip()) == ("mine", "mine")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--debounce-key", "k"], "say for how long, too: --debounce TIME"),
        (["--debounce", "soon"], "--debounce soon: write seconds, or a time"),
        (["--debounce", "0"], "more than 0 seconds"),
        (["--debounce", "5s", "--id", "x"], "debounce does not go with id"),
        (["--dedup-key", "k"], "--dedup-key and --dedup-within go together"),
        (["--dedup-key", "", "--dedup-within", "1h"], "printable"),
    ],
)
def test_keys_of_starts_that_make_no_sense_exit_2(
    here: Here, options: list[str], text: str
) -> None:
    done = here("start", "purchase", *options)
    assert done.code == 2
    assert text in done.err
    assert workflow_ids(here) == []


def workflow_ids(here: Here) -> list[str]:
    """None, too, where there is no store yet."""
    listed = here("list", "--json").document
    return [one["workflow_id"] for one in listed.get("items", ())]


def test_start_checks_arguments_where_it_knows_the_types(tmp_path: Path) -> None:
    wrong = everlong("start", f"{MARKET}:purchase", "-a", "amount=x", folder=tmp_path)
    assert (wrong.code, list(tmp_path.iterdir())) == (2, [])
    twice = [
        everlong(
            *("start", f"{MARKET}:purchase", "-a", "amount=7", "--id", "p", "--if-open", "fail"),
            folder=tmp_path,
        )
        for _ in range(2)
    ]
    assert [done.code for done in twice] == [0, 4]
    assert "already there (running)" in twice[1].err


def test_a_history_shows_events_attempts_and_tracebacks(tmp_path: Path, here: Here) -> None:
    everlong("run", f"{MARKET}:order", "-a", "id=3", "-q", folder=tmp_path)
    text = here("history", "order").out
    assert "attempt 1 failed, again after 10 ms: ConnectionError: \\x1b]0;x" in text
    assert "Traceback" not in text
    assert "raise ConnectionError(HOSTILE)" in here("history", "order", "-t").out
    assert len(here("history", "order", "--last", "2").out.splitlines()) == 3

    events = here("history", "order", "--json").document["events"]
    assert [one["seq"] for one in events] == list(range(1, 7))
    charge = next(one for one in events if one["kind"] == "ActivityScheduled")
    assert charge["attempts"][0]["error"].startswith("\x1b]0;x")  # data, as it is, for programs
    run_id = here("show", "order", "--json").document["run_id"]
    assert here("history", "order", "--run", run_id, "--json").document["events"] == events
    assert here("history", "order", "--run", "nonsense").code == 4
    assert '"receipt": "receipt-3"' in here("show", "order").out


def test_hostile_data_cannot_speak_to_the_terminal(here: Here) -> None:
    here("start", "purchase", "--id", EVIL, "-a", f"amount={EVIL}")
    here("start", EVIL, "--id", "typed")
    here("signal", "typed", EVIL, EVIL)
    here("cancel", EVIL, "--reason", EVIL)
    shown = [
        here("list"),
        here("show", EVIL),
        here("show", "typed"),
        here("terminate", EVIL, "--reason", EVIL),
        here("show", EVIL),
        here("history", EVIL),
        here("show", "nobody" + EVIL),
        here("list", "--status", EVIL),
        here("query", "typed", EVIL, "--timeout", "0.01"),
        here("run", EVIL),
        here(EVIL),
        here("list", "--db", EVIL),
    ]
    for done in shown:
        text = done.out + done.err
        assert text
        assert not re.search("[^\\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text), repr(text)
    assert SHOWN in shown[0].out
    assert SHOWN in shown[4].out  # the reason


def test_a_document_of_hostile_data_is_ascii_and_whole(here: Here) -> None:
    here("start", "purchase", "--id", EVIL, "-a", "amount=1")
    listed = here("list", "--json")
    assert listed.out.isascii()
    assert "\x1b" not in listed.out
    assert listed.document["items"][0]["workflow_id"] == EVIL
