"""Payloads: what goes in comes out, in one form only, and hostile bytes can do no harm."""

import contextlib
import datetime as dt
import enum
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter, OrderedDict, UserDict, deque
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings, strategies as st

from everlong_engine.model.errors import NotSerializable, PayloadTooLarge, UndecodablePayload
from everlong_engine.model.payload import SETS_NESTED_MAX, pack, unpack
from everlong_engine.model.payload_limits import (
    DEPTH_MAX,
    ELEMENTS_MAX,
    count_elements,
    is_flat,
)

offsets = st.builds(
    dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(
        lambda delta: dt.timedelta(seconds=delta // dt.timedelta(seconds=1))
    )
)  # fmt: skip
zones = st.one_of(
    st.none(), offsets, st.sampled_from(["Europe/Berlin", "America/New_York"]).map(ZoneInfo)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(timezones=st.one_of(st.none(), offsets)),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.complex_numbers(allow_nan=False),
)
in_sets = st.one_of(st.integers(), st.text(), st.binary(), st.dates(), st.uuids())
values = st.recursive(
    st.one_of(
        scalars,
        st.sets(in_sets, max_size=5),
        st.frozensets(st.one_of(in_sets, st.frozensets(in_sets, max_size=3)), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(scalars, inner, max_size=5)
    ),
    max_leaves=20,
)


@given(values)
def test_a_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    back = unpack(pack(value))
    assert back == value
    assert type(back) is type(value)


@given(values)
def test_what_came_back_packs_to_the_same_bytes(value: object) -> None:
    data = pack(value)
    assert pack(unpack(data)) == data


def test_a_zone_keeps_its_key_its_fold_and_its_wall_time() -> None:
    twice = dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    back = unpack(pack(twice))
    assert isinstance(back, dt.datetime)
    assert (back.tzinfo, back.fold, back.utcoffset()) == (twice.tzinfo, 1, dt.timedelta(hours=1))
    assert back.replace(tzinfo=None, fold=0) == dt.datetime(2024, 10, 27, 2, 30)  # noqa: DTZ001


def test_utc_comes_back_as_utc_itself() -> None:
    back = unpack(pack(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)))
    assert isinstance(back, dt.datetime)
    assert back.tzinfo is dt.UTC


def test_decimals_keep_their_exponent_and_their_nan() -> None:
    for text in ("1.10", "-0", "1E+400", "NaN", "sNaN", "Infinity"):
        assert str(unpack(pack(Decimal(text)))) == text


class Colour(enum.Enum):
    RED = "red"
    HUGE = 2**80
    LATE = Decimal("1.5")
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


PLAIN: list[tuple[object, object]] = [
    (Colour.RED, "red"),
    (Colour.HUGE, 2**80),
    (Colour.LATE, Decimal("1.5")),
    (Colour.PAIR, [1, 2]),
    ({Colour.RED: Level.LOW}, {"red": 1}),
    ((1, (2,)), [1, [2]]),
    (Point(1, 2), [1, 2]),
    ({(1, 2)}, {(1, 2)}),
    (deque([1, 2]), [1, 2]),
    (OrderedDict([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (UserDict({"a": 1}), {"a": 1}),
    (bytearray(b"x"), b"x"),
    (memoryview(b"x"), b"x"),
]


@pytest.mark.parametrize(("value", "plain"), PLAIN)
def test_what_has_no_form_of_its_own_comes_back_plain(value: object, plain: object) -> None:
    back = unpack(pack(value))
    assert back == plain
    assert type(back) is type(plain)


def test_a_map_keeps_its_order() -> None:
    back = unpack(pack({"b": 1, "a": 2, 3: 4, None: 5}))
    assert list(cast("dict[object, int]", back)) == ["b", "a", 3, None]


def test_a_set_packs_alike_whatever_the_hash_seed() -> None:
    code = (
        "from everlong_engine.model.payload import pack\n"
        "tags = {f'tag{i}' for i in range(50)} | {None, 3, frozenset({'x', 'y'})}\n"
        "print(pack({'tags': tags}).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "engine"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1


def test_a_stand_in_is_asked_for_unknown_types_also_inside_sets() -> None:
    def as_text(value: object) -> object:
        if isinstance(value, PurePosixPath):
            return str(value)
        raise TypeError

    value = {"all": {PurePosixPath("/a")}, "one": PurePosixPath("/b")}
    assert unpack(pack(value, stand_in=as_text)) == {"all": {"/a"}, "one": "/b"}
    with pytest.raises(NotSerializable, match=r"^lock is a _thread\.lock, which cannot be stored"):
        pack({"path": PurePosixPath("/b"), "lock": threading.Lock()}, stand_in=as_text)


def test_a_failed_call_leaves_nothing_behind_for_the_next() -> None:
    for _ in range(3):
        with pytest.raises(NotSerializable):
            pack(["a", object()])
        assert pack("b") == b"\xa1b"


def test_threads_do_not_share_a_packer() -> None:
    def work(n: int) -> set[bytes]:
        return {pack({"n": n, "ids": {UUID(int=n + i) for i in range(20)}}) for _ in range(300)}

    with ThreadPoolExecutor(8) as threads:
        packed = list(threads.map(work, range(8)))
    assert [len(forms) for forms in packed] == [1] * 8
    assert packed == [work(n) for n in range(8)]


# ------------------------------------------------------------------------- what cannot be stored


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def nested_sets(depth: int) -> frozenset[Any]:
    value: frozenset[Any] = frozenset()
    for _ in range(depth - 1):
        value = frozenset({value})
    return value


LOOP: list[Any] = []
LOOP.append(LOOP)


class Order:
    pass


class Odd(dt.tzinfo):
    def utcoffset(self, dt: object) -> None: ...
    def dst(self, dt: object) -> None: ...
    def tzname(self, dt: object) -> None: ...


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"order": {"items": [1, 2, 3, {"lock": Order()}]}}, "order.items[3].lock is a {}.Order, "),
        ([{"a b": Order()}], "[0]['a b'] is a {}.Order, which cannot be stored: Everlong stores"),
        (Order(), "the value is a {}.Order, which cannot be stored: Everlong stores plain data"),
        ({"tags": {Order}}, "is a type, which cannot be stored"),
        ({(1, 2): 3}, "[(1, 2)] (a key) is a tuple, which cannot be stored: keys of maps must be"),
        ([{"a": [{(1, 2): 3}]}], "[0].a[0][(1, 2)] (a key) is a tuple"),
        ({frozenset({(1,)}): {(): 0}}, "[frozenset({(1,)})][()] (a key) is a tuple"),
        ({(): 0}, "[()] (a key) is a tuple"),
        ({"x": {Order(): 1}}, "(a key) is a {}.Order"),
        ({"x": "\ud800"}, "x is a str, which cannot be stored: it holds half a surrogate pair"),
        ({"x": LOOP}, "x is a list, which cannot be stored: it contains itself, or is nested too"),
        (nested(65), "it contains itself, or is nested too deep"),
        (nested(2_000), "it contains itself, or is nested too deep"),
        (nested_sets(SETS_NESTED_MAX + 1), "sets are nested deeper than 8"),
        (dt.time(1, 2, tzinfo=Odd()),
         "its time zone has no name and, without a date, no offset"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_named_with_its_path(value: object, message: str) -> None:
    with pytest.raises(NotSerializable) as caught:
        pack(value)
    assert message.replace("{}", __name__) in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).endswith("with a type hint that names them.")


def test_the_facts_of_the_error_are_attributes() -> None:
    with pytest.raises(NotSerializable) as caught:
        pack({"order": {"lock": threading.Lock()}})
    error = caught.value
    assert (error.path, error.type_name) == ("order.lock", "_thread.lock")
    assert error.reason == "Everlong stores plain data only"


def test_a_broken_repr_does_not_hide_the_error() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(NotSerializable, match=r"is a .*Shy, which cannot be stored"):
        pack({Shy(): Shy()})


def test_what_is_just_deep_enough_is_stored_and_one_more_is_not() -> None:
    assert unpack(pack(nested(DEPTH_MAX))) == nested(DEPTH_MAX)
    assert unpack(pack(nested_sets(SETS_NESTED_MAX))) == nested_sets(SETS_NESTED_MAX)
    with pytest.raises(NotSerializable):
        pack(nested(DEPTH_MAX + 1))


def test_depth_counts_maps_and_arrays_alike() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX // 2):
        value = {"a": [value]}
    assert unpack(pack(value)) == value
    with pytest.raises(NotSerializable):
        pack([value])


def test_too_many_elements_are_too_large_to_store() -> None:
    assert len(pack([0] * (ELEMENTS_MAX - 1))) > ELEMENTS_MAX
    with pytest.raises(PayloadTooLarge, match=r"holds 250001 elements, more than the 250000 that"):
        pack([0] * ELEMENTS_MAX)


def test_wide_values_with_many_containers_are_no_deep_ones() -> None:
    rows = [{"id": i, "pair": [i, i]} for i in range(1_000)]
    assert unpack(pack(rows)) == rows


LONG = 1_100
"""Rows, each of one byte at least: more than are read back at once."""
plain = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(), st.binary()),
    st.floats(allow_nan=False),
)
tables = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(tables, st.one_of(values, st.just({(): 0}), st.just(nested(DEPTH_MAX))))
def test_a_long_table_is_stored_whatever_else_lies_in_it_unless_it_could_not_be_read(
    table: object, odd: object
) -> None:
    """Long ones are not read back if they are seen to be flat: none may be let through by that."""
    rows = [table] * LONG
    assert unpack(pack(rows)) == rows
    for mixed in ([*rows, odd], {"rows": rows, "odd": odd}):
        try:
            data = pack(mixed)
        except NotSerializable:
            with pytest.raises(NotSerializable):
                pack([odd, odd])  # Alone in a list it is as deep, and no better.
        else:
            assert unpack(data) == mixed


def test_long_tables_with_what_has_no_hash_when_read_are_refused() -> None:
    for bad in ({(): 0}, {(1, 2): 0}, [{("a",): 1}]):
        with pytest.raises(NotSerializable):
            pack([bad] * LONG)
    with pytest.raises(NotSerializable):
        pack([nested(DEPTH_MAX)] * LONG)


def test_what_is_seen_to_be_flat() -> None:
    class Name(enum.StrEnum):
        A = "a"

    row = {"id": 1, "tags": ["a", None], "at": {"x": 1.5, "y": True}, "raw": b"\x90"}
    assert is_flat([row] * 3)
    assert is_flat({"values": [b"1", "2", 3]})
    for other in ({1: 2}, {b"a": 1}, [{(): 0}], {"a": (1,)}, {1, 2}, [[[[[[1]]]]]], [Name.A]):
        assert not is_flat(other), other


# --------------------------------------------------------------------------------- hostile bytes

MEGABYTES_2 = 2_000_000


def ext(code: int, payload: bytes) -> bytes:
    return b"\xc9" + len(payload).to_bytes(4, "big") + bytes([code]) + payload


def ext_bomb(code: int, depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = ext(code, b"\x91" + data)
    return data


HOSTILE = {
    "nothing": b"",
    "trailing bytes": b"\x01\x01",
    "a byte that msgpack never uses": b"\xc1",
    "a truncated text": b"\xa5ab",
    "a truncated map": b"\x82\xa1a\x01",
    "a text that is no UTF-8": b"\xa1\xff",
    "100,000 nested arrays": b"\x91" * 100_000 + b"\xc0",
    "100,000 nested arrays without an end": b"\x91" * 100_000,
    "65 nested arrays": b"\x91" * 64 + b"\x90",
    "65 nested maps": b"\x81\x01" * 64 + b"\x80",
    "1,000 nested maps": b"\x81\x01" * 1_000 + b"\x80",
    "ten million empty maps": b"\xdd\x00\x98\x96\x80" + b"\x80" * 10_000_000,
    "two million empty maps": b"\xdd\x00\x1e\x84\x7b" + b"\x80" * (MEGABYTES_2 - 5),
    "two million empty maps, too many for their arrays": (
        b"\xdc\x7c\x00\x9f" + b"\x80" * (MEGABYTES_2 - 4)
    ),
    "260,000 maps in arrays of 15": (b"\xdc\x41\x00" + (b"\x9f" + b"\x80" * 15) * 0x4100),
    "a declared array of four billion": b"\xdd\xff\xff\xff\xff",
    "a declared map of four billion": b"\xdf\xff\xff\xff\xff",
    "a declared text of four gigabytes": b"\xdb\xff\xff\xff\xff",
    "declared binary of four gigabytes": b"\xc6\xff\xff\xff\xff",
    "declared ext of four gigabytes": b"\xc9\xff\xff\xff\xff\x07",
    "1,000 arrays that each reserve 32,768": b"\xdc\x80\x00" * 1_000 + b"\x01" * 70_000,
    "1,000 arrays that each reserve 240,000": b"\xdd\x00\x03\xa9\x80" * 1_000 + b"\x01" * 240_000,
    "1,000 small arrays that each reserve 1,000": b"\xdc\x03\xe8" * 1_000,
    "sets within sets, 5,000 deep": ext_bomb(7, 5_000),
    "frozensets within frozensets, 5,000 deep": ext_bomb(8, 5_000),
    "frozensets, one too deep": ext_bomb(8, SETS_NESTED_MAX + 1),
    "600,000 empty frozensets": b"\xdd\x00\x09\x27\xc0" + b"\xd4\x08\x90" * 600_000,
    "many elements inside sets": (
        b"\xdc\x00\x14" + ext(8, b"\xdc\x40\x00" + b"\x01" * 0x4000) * 20
    ),
    "arrays inside a set": ext(7, b"\x91\x91\x80"),
    "a set in a set": ext(7, b"\x91" + ext(7, b"\x90")),
    "a set that is a map": ext(7, b"\x80"),
    "a set with trailing bytes": ext(7, b"\x90\x90"),
    "a set that hides a huge text": ext(7, b"\xdb\xff\xff\xff\xff"),
    "a map with an array as key": b"\x81\x90\x01",
    "a map with a map as key": b"\x81\x80\x01",
    "a map with a set as key": b"\x81" + ext(7, b"\x90") + b"\x01",
    "an unknown ext code": ext(11, b""),
    "ext code 0": ext(0, b""),
    "ext code 127": ext(127, b""),
    "ext code -2": ext(254, b""),
    "a datetime in month 13": ext(1, b"\x07\xe8\x0d\x01\x00\x00\x00\x00\x00\x00\x00\x00"),
    "a datetime of two bytes": ext(1, b"\x07\xe8"),
    "a zone that is a path": ext(
        1, b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00z../../etc/passwd"
    ),
    "a zone that does not exist": ext(
        1, b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00zEurope/Nowhere"
    ),
    "a zone of an unknown kind": ext(
        1, b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00q"
    ),
    "an offset of a thousand years": ext(
        1, b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00o\x7f\xff\xff\xff\xff\xff\xff\xff"
    ),
    "a timedelta out of range": ext(4, b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    "a Decimal that is none": ext(5, b"one"),
    "a Decimal that is not ASCII": ext(5, b"\xff"),
    "a UUID of three bytes": ext(6, b"abc"),
    "a signalling NaN as key": b"\x81" + ext(5, b"sNaN") + b"\x01",
    "a timestamp out of range": b"\xc7\x0c\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_in_little_memory(name: str) -> None:
    data = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(UndecodablePayload) as caught:
            unpack(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32_000_000
    assert str(caught.value).startswith("Stored bytes could not be read back: ")
    assert len(str(caught.value)) < 500


def test_the_largest_harmless_payload_takes_memory_in_proportion() -> None:
    data = b"\xdd\x00\x03\xd0\x8f" + b"\x80" * 249_999
    tracemalloc.start()
    value = unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(value) == 249_999  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert peak < 40_000_000


def test_the_limit_in_bytes_is_the_callers_to_choose() -> None:
    assert unpack(pack("x" * 3_000_000), max_bytes=4_000_000) == "x" * 3_000_000
    with pytest.raises(UndecodablePayload, match="it has 3000005 bytes, more than 2000000"):
        unpack(pack("x" * 3_000_000))


def test_deep_frames_of_the_caller_do_not_change_the_outcome() -> None:
    def down(frames: int) -> object:
        return down(frames - 1) if frames else unpack(ext_bomb(8, 500))

    with pytest.raises(UndecodablePayload):
        down(500)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        value = unpack(data)
    except UndecodablePayload:
        return
    try:
        assert unpack(pack(value)) == value or value != value  # NaN differs from itself
    except NotSerializable:
        pytest.fail("what could be read cannot be written")


@settings(max_examples=300)
@given(values, st.integers(min_value=0), st.integers(0, 255))
def test_a_flipped_byte_is_decoded_or_refused(value: object, at: int, byte: int) -> None:
    data = bytearray(pack(value))
    data[at % len(data)] = byte
    with contextlib.suppress(UndecodablePayload):
        unpack(bytes(data))


@given(values)
def test_every_truncation_is_refused(value: object) -> None:
    data = pack(value)
    for end in range(len(data)):
        with pytest.raises(UndecodablePayload):
            unpack(data[:end])


def elements(value: object) -> int:
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return 1 + sum(elements(key) + elements(item) for key, item in items)
    if isinstance(value, (list, set, frozenset)):
        return 1 + sum(map(elements, cast("list[object]", value)))
    return 1


@given(values)
def test_the_scan_counts_what_the_decoder_builds(value: object) -> None:
    sets = pack(value).count(b"\xc7") + 1  # a set counts with its array: an upper bound
    assert elements(value) <= count_elements(pack(value)) <= 2 * elements(value) + sets


@pytest.mark.parametrize(
    "value", [b"\xdc" * 500_000, "ÜÝ" * 200_000, [1.5e300 / 7] * 100_000, list(range(200_000))]
)
def test_large_harmless_payloads_pass(value: object) -> None:
    assert unpack(pack(value)) == value


def test_the_timestamps_of_other_writers_are_read_as_utc() -> None:
    moment = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
    packed: bytes = msgpack.packb(msgpack.Timestamp.from_datetime(moment))
    assert unpack(packed) == moment
