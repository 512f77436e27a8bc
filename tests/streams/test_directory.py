"""`Directory`: files that come late, are renamed, written, changed and removed at any moment."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from everlong import checkpoint, workflow
from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.streams import Cursor, Directory, Reader, Record, Stream, _ledger
from tests.support.hosting import described, hosting, until
from tests.support.streams import SOON


class Reading:
    """A reader that is opened again at each look, as behind a crash, or stays open."""

    def __init__(self, source: Directory[Any], *, anew: bool = False) -> None:
        self.source, self.anew = source, anew
        self.cursor: Cursor | None = None
        self._reader: Reader | None = None
        self.clock_s = 0.0
        source.now = self.now

    def now(self) -> float:
        return self.clock_s

    async def look(self, messages: int = 100, size: int = 1_000_000) -> list[Record]:
        if self._reader is None or self.anew:
            self._reader = await self.source.open(self.cursor, None)
        found = list(await self._reader.fetch(messages, size, 0.0))
        after = {} if self.cursor is None else dict(self.cursor.after)
        self.cursor = Cursor(
            self._reader.identity, {**after, **{one.partition: one.position for one in found}}
        )
        return found

    async def names(self) -> list[str]:
        return [os.fsdecode(one.key or b"") for one in await self.look()]

    async def values(self) -> list[bytes]:
        return [one.value for one in await self.look()]


def put(folder: Path, name: str, text: str = "", mtime: int = 1_000) -> Path:
    """Renamed into place, with a time of its own."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder / ".fresh"
    fresh.write_text(text or name)
    os.utime(fresh, (mtime, mtime))
    return fresh.replace(path)


# ------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize("anew", [False, True])
async def test_files_that_come_late_are_read_whatever_they_are_called_and_however_old_they_are(
    tmp_path: Path, anew: bool
) -> None:
    reading = Reading(Directory(tmp_path, settle=0), anew=anew)
    put(tmp_path, "m", mtime=5_000)
    put(tmp_path, "z", mtime=4_000)
    assert await reading.names() == ["z", "m"]
    put(tmp_path, "a", mtime=6_000)
    put(tmp_path, "b", mtime=1_000)
    assert await reading.names() == ["b", "a"]
    assert await reading.names() == []
    other = Reading(Directory(tmp_path, settle=0))
    assert await other.names() == ["z", "m", "b", "a"]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abcdefgh"), st.integers(0, 3)),
            st.tuples(st.just("remove"), st.sampled_from("abcdefgh"), st.just(0)),
            st.tuples(st.just("look"), st.sampled_from("12"), st.integers(1, 3)),
            st.tuples(st.just("reopen"), st.sampled_from("12"), st.just(0)),
        ),
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_each_file_is_read_once_by_each_flow_whatever_happens_when(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    """Two flows share a folder. What is there at the end was read, and nothing was read twice."""
    folder = tmp_path_factory.mktemp("inbox")
    readings = {one: Reading(Directory(folder, settle=0)) for one in "12"}
    read: dict[str, list[bytes]] = {"1": [], "2": []}
    number = 0
    for what, name, count in steps:
        match what:
            case "put":
                number += 1  # Each has a size of its own.
                put(folder, name, "x" * number, mtime=count)
            case "remove":
                (folder / name).unlink(missing_ok=True)
            case "look":
                read[name] += [one.value for one in await readings[name].look(count)]
            case _:
                readings[name].anew = True
                read[name] += [one.value for one in await readings[name].look(1)]
                readings[name].anew = False
    there = {one.read_bytes() for one in folder.iterdir() if not one.name.startswith(".")}
    for name, reading in readings.items():
        while found := await reading.look(2):
            read[name] += [one.value for one in found]
        assert len(set(read[name])) == len(read[name])
        assert there <= set(read[name])
    order = [one for one in read["1"] if one in read["2"]]
    assert order == [one for one in read["2"] if one in order]


async def test_flows_that_look_at_the_same_moment_enter_each_file_once(tmp_path: Path) -> None:
    readings = [Reading(Directory(tmp_path, settle=0)) for _ in range(8)]
    assert await asyncio.gather(*(one.names() for one in readings)) == [[]] * 8
    found: list[list[str]] = [[] for _ in readings]
    for number in range(200):
        put(tmp_path, f"{number}", mtime=-number)
        if number % 20 == 19:
            seen = await asyncio.gather(*(one.names() for one in readings))
            found = [[*one, *more] for one, more in zip(found, seen, strict=True)]
    assert sorted(found[0]) == sorted(map(str, range(200)))
    assert found == [found[0]] * 8


async def test_patterns_choose_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a.csv", "b.txt", ".c.csv", "x/d.csv", "x/y/e.csv", "x/.y/f.csv", ".x/g.csv"):
        put(tmp_path, name)
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "broken.csv").symlink_to(tmp_path / "nothing")
    (tmp_path / "h.csv").symlink_to(tmp_path / "b.txt")
    for pattern, wanted in (
        ("*.csv", {"a.csv", "h.csv"}),
        ("*", {"a.csv", "b.txt", "h.csv"}),
        ("**/*.csv", {"a.csv", "h.csv", "x/d.csv", "x/y/e.csv"}),
        ("x/*", {"x/d.csv"}),
        ("x/**", {"x/d.csv", "x/y/e.csv"}),
        ("[ab].???", {"a.csv", "b.txt"}),
        ("A.CSV", set[str]()),
    ):
        reading, found = Reading(Directory(tmp_path, pattern=pattern, settle=0)), list[str]()
        while more := await reading.names():  # What is in the ledger, then what is not.
            found += more
        assert set(found) == wanted
        assert len(found) == len(wanted)


async def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \n\xff")
    put(tmp_path, name, "x")
    put(tmp_path, "née", "y")
    found = await Reading(Directory(tmp_path, settle=0)).look()
    assert {one.key: one.value for one in found} == {os.fsencode(name): b"x", "née".encode(): b"y"}


# ----------------------------------------------------------------- what is written while it is read


async def test_a_file_is_read_once_it_has_not_changed_for_a_while(tmp_path: Path) -> None:
    reading = Reading(Directory(tmp_path, settle=2))
    slow = tmp_path / "slow"
    slow.write_text("beg")
    put(tmp_path, "quick")
    assert await reading.names() == []
    reading.clock_s = 1.5
    slow.write_text("beginn")
    assert await reading.names() == []
    reading.clock_s = 2.5
    assert await reading.names() == ["quick"]
    reading.clock_s = 3.4
    slow.write_text("beginning")
    assert await reading.names() == []
    reading.clock_s = 5.5
    assert await reading.values() == [b"beginning"]


@pytest.mark.parametrize("anew", [False, True])
async def test_a_file_that_changes_later_is_a_message_again(tmp_path: Path, anew: bool) -> None:
    reading = Reading(Directory(tmp_path, settle=0), anew=anew)
    put(tmp_path, "a", "one")
    (first,) = await reading.look()
    put(tmp_path, "a", "other", mtime=500)
    (second,) = await reading.look()
    assert (first.value, second.value, first.key) == (b"one", b"other", second.key)
    assert first.position != second.position
    put(tmp_path, "a", "other", mtime=500)  # As it was.
    assert await reading.look() == []


async def test_what_changes_between_being_found_and_read_is_read_as_it_is_then(
    tmp_path: Path,
) -> None:
    reading = Reading(Directory(tmp_path, settle=0))
    put(tmp_path, "a", "one", 1)
    put(tmp_path, "b", "two", 2)
    (first,) = await reading.look(messages=1)  # Both are found.
    put(tmp_path, "b", "three", 3)
    assert (first.value, await reading.values()) == (b"one", [b"three"])


async def test_what_is_removed_behind_the_cursor_is_nobodys_business_and_before_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        put(tmp_path, f"{number}", mtime=number)
    reading = Reading(Directory(tmp_path, settle=0), anew=True)
    assert [one.value for one in await reading.look(messages=2)] == [b"0", b"1"]
    (tmp_path / "0").unlink()
    with caplog.at_level(logging.WARNING):
        (tmp_path / "1").unlink()
        assert [one.value for one in await reading.look(messages=1)] == [b"2"]
        assert "has gone before it was read" not in caplog.text
        (tmp_path / "3").unlink()
        assert await reading.look() == []
        assert "'3' was found, and has gone before it was read" in caplog.text
    put(tmp_path, "4")
    assert await reading.values() == [b"4"]


async def test_what_is_too_large_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50_000_000)
    stream = Directory(tmp_path, settle=0)
    (found,) = await Reading(stream).look()
    assert len(found.value) == 500_001
    (name,) = await Reading(Directory(tmp_path, str, contents=False, settle=0)).look()
    assert (name.value, name.position) == (b"large", found.position)


# ------------------------------------------------------------------------------------- its lines


@pytest.mark.parametrize("anew", [False, True])
async def test_each_line_is_a_message_and_its_file_may_grow(tmp_path: Path, anew: bool) -> None:
    reading = Reading(Directory(tmp_path, lines=True, settle=2), anew=False)
    put(tmp_path, "a", "one\r\ntwo\n\nfour", mtime=1)
    put(tmp_path, "b", "five\n", mtime=2)
    assert await reading.look() == []
    reading.clock_s = 2
    assert [one.value for one in await reading.look(messages=2)] == [b"one", b"two"]
    reading.anew = anew
    (third,) = await reading.look(messages=1)
    assert (third.value, third.key) == (b"", b"a")
    assert await reading.values() == [b"four", b"five"]
    reading.anew = False
    with (tmp_path / "b").open("a") as file:
        for text, at_s, wanted in (
            ("six\nsev", 3.0, []),
            ("", 5.0, [b"six", b"sev"]),  # It has settled: that is its last line.
        ):
            file.write(text)
            file.flush()
            reading.clock_s = at_s
            assert await reading.values() == wanted


async def test_a_file_that_never_rests_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    reading, found = Reading(Directory(tmp_path, lines=True, settle=2)), list[bytes]()
    with (tmp_path / "log").open("a") as file:
        for number in range(20):
            file.write(f"{number}\n{number} and h")
            file.flush()
            reading.clock_s += 0.5
            found += await reading.values()
            file.write("alf\n")
            file.flush()
        reading.clock_s += 2
        assert 10 < len(found) < 40
        found += await reading.values()
        reading.clock_s += 2
        found += await reading.values()
    assert found == [f"{n}{more}".encode() for n in range(20) for more in ("", " and half")]


async def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    reading = Reading(Directory(tmp_path, lines=True, settle=0))
    put(tmp_path, "a", "one\ntwo\n", mtime=1)
    assert await reading.values() == [b"one", b"two"]
    put(tmp_path, "a", "other\nlines\nthree\n", mtime=2)
    assert await reading.values() == [b"other", b"lines", b"three"]
    put(tmp_path, "a", "short\n", mtime=3)
    assert await reading.values() == [b"short"]
    os.utime(tmp_path / "a", (9, 9))
    assert await reading.values() == []  # Only touched.
    put(tmp_path, "a", "one\ntwo\nthree\n", mtime=4)
    assert [one.value for one in await reading.look(messages=1)] == [b"one"]
    put(tmp_path, "a", "uno\ndue\ntre\n", mtime=5)  # In the midst of being read.
    assert await reading.values() == [b"uno", b"due", b"tre"]


async def test_a_line_that_grows_behind_being_read_stops_the_flow(tmp_path: Path) -> None:
    reading = Reading(Directory(tmp_path, lines=True, settle=0))
    put(tmp_path, "a", "one\ntw")
    assert await reading.values() == [b"one", b"tw"]
    with (tmp_path / "a").open("a") as file:
        file.write("o\n")
    with pytest.raises(StreamRewound, match="has grown within a line"):
        await reading.look()
    (tmp_path / "a").rename(tmp_path / "b")
    assert await reading.values() == [b"one", b"two"]


async def test_a_very_long_line_is_one_message_cut(tmp_path: Path) -> None:
    put(tmp_path, "a", "x" * 1_200_000 + "\nshort\n")
    reading = Reading(Directory(tmp_path, lines=True, settle=0), anew=True)
    (long,) = await reading.look(messages=1)
    assert len(long.value) == 500_001
    assert await reading.values() == [b"short"]


# ------------------------------------------------------------------------------------ the ledger


async def test_a_ledger_that_was_made_anew_or_cut_stops_the_flow(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"{number}")
    source = Directory(tmp_path, settle=0)
    reading = Reading(source, anew=True)
    assert len(await reading.look()) == 3
    whole = source.ledger.path.read_bytes()
    source.ledger.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(StreamRewound, match="it was cut"):
        await reading.look()
    source.ledger.path.write_bytes(whole)
    opened = await source.open(reading.cursor, None)
    source.ledger.path.unlink()
    with pytest.raises(StreamRewound, match="removed or made anew"):
        await opened.fetch(1, 1, 0.0)
    with pytest.raises(StreamRewound, match="it was made anew"):
        await reading.look()
    assert not source.ledger.path.exists()
    assert len(await Reading(source).look()) == 3
    with pytest.raises(StreamRewound, match="it was made anew"):
        await reading.look()


async def test_a_line_of_which_half_was_written_is_written_again(tmp_path: Path) -> None:
    source = Directory(tmp_path, settle=0)
    for half in (b"", b'["everlo'):
        source.ledger.path.write_bytes(half)
        await source.open(None, None)
    reading = Reading(source, anew=True)
    put(tmp_path, "a")
    assert await reading.values() == [b"a"]
    with source.ledger.path.open("ab") as file:
        file.write(b'["b", 1, 10')
    assert await reading.values() == []
    put(tmp_path, "c")
    assert await reading.values() == [b"c"]
    assert [json.loads(one)[0] for one in source.ledger.path.read_text().splitlines()[1:]] == [
        "a",
        "c",
    ]


async def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    for text in ("my own notes\n", "x" * 1_000, '["everlong ledger 1", "lines", "1"]\n'):
        place.write_text(text)
        with pytest.raises(InvalidArguments, match="another place with ledger="):
            await Directory(tmp_path, ledger=place).open(None, None)
        assert place.read_text() == text
    put(tmp_path, "a")
    source = Directory(tmp_path, settle=0)
    reading = Reading(source, anew=True)
    await reading.look()
    with source.ledger.path.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(InvalidArguments, match="is damaged at byte"):
        await reading.look()


async def test_a_ledger_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlong.streams.directory.ENTRIES_MAX", 2)
    reading = Reading(Directory(tmp_path, settle=0), anew=True)
    put(tmp_path, "a")
    put(tmp_path, "b")
    assert len(await reading.look()) == 2
    put(tmp_path, "c")
    with pytest.raises(InvalidArguments, match="holds 2 files, and is full"):
        await reading.look()
    assert _ledger.ENTRIES_MAX == 1_000_000


@pytest.mark.parametrize(
    ("lines", "position"),
    [(False, 7), (False, -1), (False, "x"), (False, "99/1"), (True, 7), (True, "first/1")],
)
async def test_positions_that_are_none_are_refused(
    tmp_path: Path, lines: bool, position: int | str
) -> None:
    put(tmp_path, "a", "one\ntwo\n")
    source = Directory(tmp_path, lines=lines, settle=0)
    reading = Reading(source)
    await reading.look()
    assert reading.cursor is not None
    if position == "first/1":  # Within a line.
        position = f"{str(reading.cursor.after['0']).partition('/')[0]}/1"
    reading.cursor, reading.anew = Cursor(reading.cursor.identity, {"0": position}), True
    with pytest.raises(InvalidArguments, match=r"no position|is none|begins at byte 1"):
        await reading.look()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": ""}, "pattern=''"),
        ({"pattern": "../*"}, "within the folder"),
        ({"pattern": "/etc/*"}, "within the folder"),
        ({"settle": -1}, "settle=-1"),
        ({"poll": 0}, "poll=0"),
        ({"lines": True, "contents": False}, "no name to give"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArguments, match=words):
        Directory("inbox", **options)


# --------------------------------------------------------------------------------------- in a flow


async def test_a_folder_is_read_from_where_the_flow_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    stream = Stream("inbox", Directory(inbox, str, settle=0, poll=0.01))
    monkeypatch.setattr(stream.definition, "options", SOON)

    @workflow
    async def folder_reads(found: list[str] | None = None) -> list[str]:
        found = found or []
        async for batch in stream.batches():
            found += [f"{(one.key or b'').decode()}: {one.value}" for one in batch]
            await checkpoint(found=found)
        return found

    async def have_come(count: int) -> None:
        async def look() -> bool:
            lines = inbox / ".everlong-files"
            cursor = await stream.control(handle).position()
            size = lines.stat().st_size if lines.exists() else 0
            entries = lines.read_bytes().count(b"\n") - 1 if lines.exists() else 0
            return cursor is not None and entries == count and cursor.after == {"0": size}

        await until(look)

    async with hosting(tmp_path / "db", workflows=[folder_reads]) as client:
        handle = await client.start(folder_reads, id="reads")
        inbox.mkdir()
        put(inbox, "b")
        await have_come(1)
    put(inbox, "a")
    async with hosting(tmp_path / "db", workflows=[folder_reads]) as client:
        handle = client.get_handle("reads", folder_reads)
        await have_come(2)
        (inbox / ".everlong-files").unlink()
        paused = await described(handle, lambda it: it.paused)
        assert paused.paused is not None
        assert "removed or made anew" in paused.paused.reason
        source = stream.source
        assert isinstance(source, Directory)
        await stream.control(handle).rewind({"0": None}, identity=source.ledger.create())
        await handle.resume()
        await have_come(2)
        await stream.control(handle).drain()
        found = await handle.result()
        assert (found[:2], sorted(found[2:])) == (["b: b", "a: a"], ["a: a", "b: b"])
