"""`HttpPoll`: an endpoint that lists things, from a real server that also misbehaves."""

import json
import logging
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from everlong import checkpoint, workflow
from everlong.exceptions import EverlongError, InvalidArguments, StreamRewound
from everlong.streams import Cursor, Reader, Record, Stream
from everlong.streams.http import HttpPoll
from tests.support.hosting import described, hosting, until
from tests.support.http_endpoint import Endpoint, endpoint
from tests.support.postgres_server import free_port
from tests.support.streams import SOON

TLS = ssl.create_default_context()
WAYS: dict[str, dict[str, Any]] = {
    "since": {"items": "data.list", "since": "after"},
    "pages": {"items": "data", "next_page": "next"},
    "tokens": {"items": "data", "next_page": "next", "page": "token"},
    "link": {"link": True},
    "all": {},
}


def source_of(served: Endpoint, way: str, **options: Any) -> HttpPoll[Any]:
    usual: dict[str, Any] = {
        "poll": 0.01,
        "options": {"verify": TLS},
    }  # To make one takes longer than a test.
    return HttpPoll(f"{served.url}/{way}", **{**WAYS[way], **usual, **options})


async def all_of(reader: Reader) -> list[Record]:
    found: list[Record] = []
    while more := await reader.fetch(2, 1_000_000, 0.0):
        found += more
    return found


def ids(records: list[Record]) -> list[Any]:
    return [one.position for one in records]


async def read(source: HttpPoll[Any], at: int | str | None = None) -> list[Any]:
    """The positions behind one."""
    cursor = None if at is None else Cursor(source.named(""), {"0": at})
    reader = await source.open(cursor, None)
    try:
        return ids(await all_of(reader))
    finally:
        await reader.close()


# ------------------------------------------------------------------------------ ways to what is new


@pytest.mark.parametrize("way", WAYS)
async def test_all_is_read_once_in_each_way_however_it_grows(way: str) -> None:
    with endpoint() as served:
        reader = await source_of(served, way).open(None, None)
        assert await all_of(reader) == []
        found: list[Record] = []
        for count in (1, 2, 3, 4, 1, 0, 6):
            served.put(*range(count))
            found += await all_of(reader)
            assert await all_of(reader) == []
        assert ids(found) == list(range(1, 18))
        for at in (1, 3, 8, 16, 17):
            assert await read(source_of(served, way), at) == list(range(at + 1, 18))
        await reader.close()


async def test_what_has_not_changed_is_not_sent_again_and_old_pages_are_not_asked_for() -> None:
    with endpoint() as served:
        served.put(*range(7))
        reader = await source_of(served, "pages").open(None, None)
        await all_of(reader)
        assert served.asked == [
            "/pages 200",
            "/pages?page=1 200",
            "/pages?page=2 200",
            "/pages?page=2 304",
        ]
        served.put(1)
        assert ids(await all_of(reader)) == [8]
        served.put(1, 1)
        assert ids(await all_of(reader)) == [9, 10]
        assert served.asked[4:] == [
            "/pages?page=2 200",
            "/pages?page=2 304",
            "/pages?page=2 200",
            "/pages?page=3 200",
            "/pages?page=3 304",
        ]
        await reader.close()


async def test_values_are_what_was_sent_to_the_last_digit() -> None:
    with endpoint() as served:
        value = b'{"id": 7, "cents": 12345678901234567.890, "text": "caf\\u00e9"}'
        served.answers.append(Response(b'{"data":{"list":[' + value + b"]}}"))
        reader = await source_of(served, "since").open(None, None)
        (found,) = await reader.fetch(1, 1, 0.0)
        assert (found.value, found.position) == (value, 7)
        await reader.close()


async def test_ids_may_be_texts_and_deep_in_their_items() -> None:
    with endpoint() as served:
        for names in (["01a", "01b", "02a"], ["8", "9", "10", "9007199254740993"]):
            served.items = [{"meta": {"name": one}} for one in names]
            source = source_of(served, "all", id="meta.name")
            for number, name in enumerate(names):
                assert await read(source, name) == names[number + 1 :]
            assert await read(source) == names
        served.items = [{"id": 1 << 70}, {"id": (1 << 70) + 1}]
        assert await read(source_of(served, "all"), str(1 << 70)) == [str((1 << 70) + 1)]


async def test_the_first_request_takes_what_it_is_told_to_begin_with() -> None:
    with endpoint() as served:
        served.put(*range(5))
        assert await read(source_of(served, "since", begin=3)) == [4, 5]
        assert served.asked[0] == "/since?after=3 200"
        source = HttpPoll(f"{served.url}/since?limit=9", **WAYS["since"])
        assert await read(source, 4) == [5]
        assert served.asked[-2] == "/since?limit=9&after=4 200"


# -------------------------------------------------------------------------------- not now, or never


@pytest.mark.parametrize("when", ["seconds", "date"])
async def test_it_comes_again_when_it_is_told_to(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)  # By the server's clock, not by ours.
    later = "1" if when == "seconds" else format_datetime(now + timedelta(seconds=1), usegmt=True)
    headers = {"Retry-After": later, "Date": format_datetime(now, usegmt=True)}
    with endpoint() as served:
        served.put(1)
        reader = await source_of(served, "since").open(None, None)
        served.answers.append(Response(status_code=429, headers=headers))
        with caplog.at_level(logging.WARNING):
            assert await reader.fetch(1, 1, 0.3) == []
        assert len(served.asked) == 1  # It looked again all the time, and asked nobody.
        assert "429 Too Many Requests: it is asked again in 1 s" in caplog.text
        assert ids(list(await reader.fetch(1, 1, None))) == [1]
        await reader.close()


REFUSED: list[tuple[tuple[int, str, dict[str, str]], str, type[Exception]]] = [
    ((500, "{}", {}), "answers 500 Internal Server Error", EverlongError),
    ((401, "who are you?", {}), "answers 401 Unauthorized: who are you", EverlongError),
    ((302, "", {"Location": "/x"}), "answers 302 Found: give its new place", EverlongError),
    ((200, "<html>", {}), "gave no JSON", EverlongError),
    ((410, "too old", {}), "is not kept any more", StreamRewound),
    ((200, '{"data": 1, "next": null}', {}), "gave no list", InvalidArguments),
    ((200, '"x"', {}), "gave no list", InvalidArguments),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("answer", "words", "error"), REFUSED)
async def test_what_is_no_list_is_told(
    way: str, answer: tuple[int, str, dict[str, str]], words: str, error: type[Exception]
) -> None:
    status, body, headers = answer
    with endpoint() as served:
        reader = await source_of(served, way).open(None, None)
        served.answers.append(Response(body, status, headers))
        with pytest.raises(error, match=words) as told:
            await reader.fetch(1, 1, 0.0)
        assert type(told.value) is error
        await reader.close()


async def test_what_is_too_large_is_refused_before_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("everlong.streams.http._ANSWER_BYTES_MAX", 1_000)
    with endpoint() as served:
        served.put("x" * 2_000)
        reader = await source_of(served, "all").open(None, None)
        with pytest.raises(InvalidArguments, match="gave more than 1,000 bytes at once"):
            await reader.fetch(1, 1, 0.0)
        await reader.close()


async def test_what_nobody_answers_is_an_error() -> None:
    reader = await HttpPoll(f"http://127.0.0.1:{free_port()}/").open(None, None)
    with pytest.raises(EverlongError, match="does not answer"):
        await reader.fetch(1, 1, 0.0)
    await reader.close()


# ------------------------------------------------------------------------- promises that are broken


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([3, 2, 1], "gave the id 2 behind 3"),
        ([1, 2, 2], "gave the id 2 behind 2"),
        (["b", "a"], "gave the id 'a' behind 'b'"),
        ([1, "a"], "gave the id 'a' behind 1"),
        ([None], "neither a whole number nor a text"),
        ([1.5], "neither a whole number nor a text"),
        ([True], "neither a whole number nor a text"),
        ([""], "neither a whole number nor a text"),
    ],
)
async def test_ids_that_are_no_positions_are_refused(
    way: str, names: list[Any], words: str
) -> None:
    with endpoint() as served:
        listed = [{"id": one} for one in names]
        body: Any = {"since": {"data": {"list": listed}}, "link": listed, "all": listed}.get(
            way, {"data": listed}
        )
        served.answers.append(Response(json.dumps(body)))
        reader = await source_of(served, way).open(None, None)
        with pytest.raises(InvalidArguments, match=words):
            await reader.fetch(9, 1_000, 0.0)
        await reader.close()


async def test_a_parameter_that_the_endpoint_does_not_know_is_noticed() -> None:
    with endpoint() as served:
        served.put(1, 1)
        source = source_of(served, "since", since="sinse")
        with pytest.raises(InvalidArguments, match="does not know the parameter 'sinse'"):
            await read(source)
        # One that also gives what it was asked to go on behind is understood.
        served.answers.append(Response('{"data": {"list": [{"id": 2}, {"id": 3}]}}'))
        assert await read(source_of(served, "since"), 2) == [3]


@pytest.mark.parametrize("way", ["pages", "tokens", "link", "all"])
async def test_what_comes_late_behind_a_greater_id_is_noticed(way: str) -> None:
    with endpoint() as served:
        served.put(1, 1)
        served.items[1]["id"] = 3
        reader = await source_of(served, way).open(None, None)
        assert ids(await all_of(reader)) == [1, 3]
        served.items.insert(1, {"id": 2})
        with pytest.raises(InvalidArguments, match="id 2, which was not there before, and 3 was"):
            await reader.fetch(1, 1, 0.0)
        await reader.close()


@pytest.mark.parametrize("way", ["pages", "tokens", "link"])
async def test_pages_that_move_are_read_from_the_first_one_on(way: str) -> None:
    with endpoint() as served:
        served.put(*range(8))
        reader = await source_of(served, way).open(None, None)
        assert ids(await all_of(reader)) == list(range(1, 9))
        served.put(1, 1)
        del served.items[:6]  # Everything is on other pages.
        served.items[-2]["id"], served.items[-1]["id"] = 9, 10
        assert ids(await all_of(reader)) == [9, 10]
        await reader.close()


@pytest.mark.parametrize("way", ["pages", "tokens", "link", "all"])
async def test_a_list_that_was_made_anew_stops_the_flow(way: str) -> None:
    with endpoint() as served:
        served.put(*range(5))
        reader = await source_of(served, way).open(None, None)
        await all_of(reader)
        served.items = []
        assert await reader.fetch(1, 1, 0.0) == []  # Perhaps they have only been tidied away.
        served.put(1, 1)
        with pytest.raises(StreamRewound, match="ends at 2, and it was read up to 5"):
            await reader.fetch(1, 1, 0.0)
        with pytest.raises(StreamRewound, match="ends at 2"):
            await read(source_of(served, way), 5)
        await reader.close()


async def test_another_generation_stops_the_flow_at_once() -> None:
    with endpoint() as served:
        served.put(1, 1)
        source = source_of(served, "since", generation="made")
        served.answers.append(Response(status_code=503, headers={"Retry-After": "0"}))
        reader = await source.open(None, None)  # It says so in its first answer.
        assert ids(await all_of(reader)) == [1, 2]
        cursor = Cursor(reader.identity, {"0": 2})
        again = await source.open(cursor, None)
        assert await again.fetch(1, 1, 0.0) == []
        served.generation = "two"
        for one in (reader, again, await source.open(cursor, None)):
            with pytest.raises(StreamRewound, match="it was made anew"):
                await one.fetch(1, 1, 0.0)
            await one.close()
        served.answers.append(Response('{"data": {"list": []}}'))
        with pytest.raises(InvalidArguments, match="without 'made'"):
            await source.open(None, None)


@pytest.mark.parametrize(
    ("way", "told", "words"),
    [
        ("pages", "https://elsewhere.example/pages", "for its own place only"),
        ("pages", "?page=0", "lead in a circle"),
        ("pages", "pages", "lead in a circle"),
        ("pages", {"no": 1}, "is no URL"),
        ("pages", 7, "with page="),
        ("tokens", ["a"], "is no URL"),
    ],
)
async def test_ways_that_lead_nowhere_are_refused(way: str, told: Any, words: str) -> None:
    with endpoint() as served:
        served.put(1)
        for _ in range(3):
            served.answers.append(Response(json.dumps({"data": [], "next": told})))
        reader = await source_of(served, way).open(None, None)
        with pytest.raises(InvalidArguments, match=words):
            await reader.fetch(1, 1, 0.0)
        await reader.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"since": "a", "link": True}, "give one"),
        ({"page": "p"}, "next_page=, which is missing"),
        ({"begin": 1}, "since= takes first"),
        ({"generation": "g"}, "say where that is with items="),
        ({"poll": -1}, "more than 0"),
        ({"url": "ftp://localhost/x"}, "begins with http://"),
        ({"url": "/x"}, "begins with http://"),
        ({"url": "http://x:port/"}, "is no URL"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    options = dict(options)
    with pytest.raises(InvalidArguments, match=words):
        HttpPoll(options.pop("url", "http://localhost/x"), **options)


def test_keys_are_not_shown() -> None:
    source = HttpPoll("https://me:secret@shop.example/list?key=secret#secret")
    assert (repr(source), source.named("2")) == (
        "HttpPoll('https://shop.example/list')",
        "http https://shop.example/list 2",
    )


# ---------------------------------------------------------------------------------------- in a flow


async def test_an_endpoint_is_read_from_where_the_flow_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint() as served:
        stream = Stream("events", source_of(served, "since", value=dict[str, int]))
        monkeypatch.setattr(stream.definition, "options", SOON)

        @workflow
        async def http_adds(total: int = 0) -> int:
            async for batch in stream.batches():
                total += sum(one["n"] for one in batch.values)
                await checkpoint(total=total)
            return total

        async def reached(position: int) -> None:
            async def look() -> bool:
                cursor = await stream.control(handle).position()
                return cursor is not None and cursor.after == {"0": position}

            await until(look)

        served.put(1, 10)
        served.answers.append(Response(status_code=502))
        async with hosting(tmp_path / "db", workflows=[http_adds]) as client:
            handle = await client.start(http_adds, id="adds")
            await reached(2)
        served.put(100, 1000)
        async with hosting(tmp_path / "db", workflows=[http_adds]) as client:
            handle = client.get_handle("adds", http_adds)
            await reached(4)
            served.answers.append(Response('{"data": {"list": [{"id": 2, "n": 7}]}}'))
            paused = await described(handle, lambda it: it.paused)
            assert paused.paused is not None
            assert "does not know the parameter" in paused.paused.reason
            await handle.resume()
            served.put(10_000)
            await reached(5)
            await stream.control(handle).drain()
            assert await handle.result() == 11_111
