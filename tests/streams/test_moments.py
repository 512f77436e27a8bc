"""Where a moment lies in sources, and which of two positions lies behind the other."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from everlong.exceptions import InvalidArguments
from everlong.streams import Directory, Position, Source
from everlong.streams.http import HttpPoll
from everlong.streams.mqtt import Mqtt
from everlong.streams.postgres import PostgresRows
from everlong.streams.rabbitmq import RabbitQueue
from everlong.streams.redis import RedisStream

NOON_US = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * 1_000_000
MINUTE_US = 60_000_000
HTTP = HttpPoll("http://127.0.0.1:9/events")
ROWS = PostgresRows("postgresql://127.0.0.1:9/shop", "orders")
FOLDER = Directory("folder")
LINES = Directory("folder", lines=True)
REDIS = RedisStream("redis://127.0.0.1:9", "orders")


@pytest.mark.parametrize("lines", [False, True])
async def test_files_in_a_folder_were_written_when_they_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: bool
) -> None:
    """In the order in which they were found: nothing that was written then lies before it."""
    monkeypatch.setattr("everlong.streams._source._SCAN_WAIT_S", 0.05)
    source = Directory(tmp_path, settle=0, poll=0.01, lines=lines)
    reader = await source.open(None, None)
    try:
        found: list[Position] = []
        for name, minute in (("a", 0), ("late", 2), ("b", 1), ("c", 3)):
            (tmp_path / name).write_text(f"{name}\n")
            at_us = NOON_US + minute * MINUTE_US
            os.utime(tmp_path / name, ns=(at_us * 1000, at_us * 1000))
            found += [one.position for one in await reader.fetch(10, 1_000_000, 5.0)]
    finally:
        await reader.close()
    assert len(found) == 4
    wanted: list[Position | None] = [None, found[0], found[0], found[2], found[3]]
    for minute, behind in enumerate(wanted):
        cursor = await source.before(NOON_US + minute * MINUTE_US, None)
        assert cursor.identity == reader.identity
        assert cursor.after.get("0") == behind, minute


@pytest.mark.parametrize("source", [HTTP, ROWS])
async def test_one_that_never_knows_refuses_without_looking(source: Source[bytes]) -> None:
    """So it is not taken to its beginning where there is nothing to look at now."""
    with pytest.raises(InvalidArguments, match="does not say when its messages were written"):
        await source.before(NOON_US, None)


@pytest.mark.parametrize(
    "source",
    [
        RabbitQueue("amqp://127.0.0.1:9", "orders"),
        Mqtt("mqtt://127.0.0.1:9", "orders", session="orders"),
    ],
)
async def test_one_that_forgets_has_no_moments(source: Source[bytes]) -> None:
    with pytest.raises(InvalidArguments, match="forgets what was read, so there is no moment"):
        await source.before(NOON_US, None)


@pytest.mark.parametrize(
    ("source", "positions"),
    [
        (HTTP, [-3, 9, "10", 100]),
        (HTTP, ["a", "ab", "b"]),
        (ROWS, ["9/9", "9/10", "10/-5", "10/1", "100/2"]),
        (ROWS, [f"9/{one}-0000-0000-0000-000000000000" for one in ("0000000a", "ffffffff")]),
        (FOLDER, [9, 97, "1024"]),
        (LINES, ["9/10", "97/9", "97/10", "1024/2"]),
        (REDIS, ["9-9", "9-10", "10-1"]),
    ],
)
def test_positions_are_in_the_order_of_their_source(
    source: Source[bytes], positions: list[Position]
) -> None:
    for at, one in enumerate(positions):
        for other, two in enumerate(positions):
            assert source.is_behind(one, two) == (at > other), (one, two)


@pytest.mark.parametrize("source", [HTTP, ROWS, FOLDER, LINES, REDIS])
def test_what_is_no_position_stops_no_flow(source: Source[bytes]) -> None:
    """It may stand in a rewind that is on record."""
    for one, two in (("nonsense", "9/9"), (97, "nonsense"), ("nonsense", "nonsense")):
        assert source.is_behind(one, two) in (False, True)
