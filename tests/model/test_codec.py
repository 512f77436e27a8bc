"""Stored events: what goes in comes out, for every kind, and what is damaged is said to be."""

import tracemalloc
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings, strategies as st
from msgspec import NODEFAULT, structs

from everlong_engine.model.codec import (
    blob_references,
    checksum,
    decode_event,
    encode_event,
)
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    CLOSING,
    CODES,
    DECISIONS,
    INPUTS,
    KINDS,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Carried,
    ChildScheduled,
    Event,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    SignalReceived,
    TimerFired,
    TimerStarted,
)
from everlong_engine.model.failure import Failure
from everlong_engine.model.limits import HISTORY_EVENTS_MAX, PAYLOAD_INLINE_BYTES_MAX
from everlong_engine.model.lineage import Debounced
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.tags import TagChanges
from tests.support.events import any_event, event_of

large = b"x" * (PAYLOAD_INLINE_BYTES_MAX + 1)
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)


def fields_of(body: bytes) -> list[Any]:
    wire: list[Any] = msgpack.unpackb(body, use_list=True, unicode_errors="surrogatepass")
    return wire


def packed(*wire: object) -> bytes:
    return bytes(msgpack.packb(list(wire), unicode_errors="surrogatepass"))


@kinds
@settings(max_examples=25)
@given(st.data())
def test_an_event_comes_back_as_it_was(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(event_of(kind))
    code, body = encode_event(event, {})
    again = decode_event(code, body, {})
    assert again == event
    assert hash(again) == hash(event), "no list has got in where a tuple was"
    assert encode_event(again, {}) == (code, body)


NOT_WRITTEN_WHEN_ABSENT = {
    "attempt",
    "begins_us",
    "cursors",
    "debounced",
    "due_us",
    "headers",
    "retry",
}
"""Where they have a default."""


@kinds
def test_a_body_says_its_version_and_then_the_fields_in_their_order(kind: type[Event]) -> None:
    event = simplest(kind)
    _, body = encode_event(event, {})
    wire = fields_of(body)
    assert wire[0] == 1
    left_out = [
        one
        for one in structs.fields(kind)
        if one.name in NOT_WRITTEN_WHEN_ABSENT and one.default is not NODEFAULT
    ]
    assert len(wire) == 1 + len(structs.fields(kind)) - len(left_out)


def test_what_a_start_has_learned_later_leaves_the_earlier_fields_where_they_are() -> None:
    policy = ActivityOptions(max_attempts=3).run_policy
    plain = RunStarted("w", b"", "id", 1, "", "")
    for event, length in (
        (structs.replace(plain, begins_us=5), 19),
        (structs.replace(plain, headers=b"h"), 20),
        (structs.replace(plain, retry=policy), 22),
        (structs.replace(plain, attempt=2), 22),
        (structs.replace(plain, headers=b"h", begins_us=5, retry=policy, attempt=2), 22),
        (structs.replace(plain, debounced=Debounced("k", 1, None, 2)), 24),
    ):
        code, body = encode_event(event, {})
        wire = fields_of(body)
        assert len(wire) == length
        assert wire[18:20] == [event.begins_us, event.headers][: length - 18]
        assert decode_event(code, body, {}) == event


def test_what_a_child_has_learned_later_leaves_the_earlier_fields_where_they_are() -> None:
    policy = ActivityOptions(max_attempts=3).run_policy
    plain = ChildScheduled(1, "w", "id", b"", "")
    for event, length in (
        (structs.replace(plain, headers=b"h"), 16),
        (structs.replace(plain, retry=policy), 17),
        (structs.replace(plain, headers=b"h", retry=policy), 17),
    ):
        code, body = encode_event(event, {})
        assert len(fields_of(body)) == length
        assert decode_event(code, body, {}) == event


def simplest(kind: type[Event]) -> Event:
    """With nothing but what it must have."""
    samples: dict[Any, Any] = {
        Failure: Failure(type="t", message="m"),
        ActivityOptions: ActivityOptions(),
        Carried: (),
        tuple[str, ...]: (),
        TagChanges: (),
        int | None: None,
        bytes: b"",
        str: "a",
        int: 7,
        bool: True,
        bytes | None: None,
    }
    ids: dict[str, Any] = {"run": b"r" * 16, "execution": b"e" * 16}
    hints = get_type_hints(kind)
    required = [f.name for f in structs.fields(kind) if f.default is NODEFAULT]
    return kind(
        **{
            name: ids[name] if name in ids and hints[name] is bytes else samples[hints[name]]
            for name in required
        }
    )


@kinds
def test_a_body_from_before_a_field_with_a_default_still_decodes(kind: type[Event]) -> None:
    event = simplest(kind)
    code, body = encode_event(event, {})
    required = [f for f in structs.fields(kind) if f.default is NODEFAULT]
    for length in range(1 + len(required), len(fields_of(body)) + 1):
        assert decode_event(code, packed(*fields_of(body)[:length]), {}) == event


@kinds
def test_a_body_that_lacks_a_field_is_damaged(kind: type[Event]) -> None:
    code, body = encode_event(simplest(kind), {})
    with pytest.raises(UndecodablePayload, match=kind.__name__):
        decode_event(code, packed(1), {})
    with pytest.raises(UndecodablePayload, match=kind.__name__):
        decode_event(code, packed(*fields_of(body), *[None] * 20), {})


def test_options_are_written_only_where_they_are_not_the_defaults() -> None:
    plain = ActivityScheduled(1, "charge", b"", ActivityOptions(), "orders.py:1")
    _, body = encode_event(plain, {})
    assert fields_of(body)[4] is None
    strict = structs.replace(plain, options=ActivityOptions(max_attempts=3))
    code, body = encode_event(strict, {})
    assert decode_event(code, body, {}) == strict


def test_older_options_and_failures_decode_as_well() -> None:
    code = CODES[ActivityScheduled]
    scheduled = decode_event(code, packed(1, 5, "a", b"", [3, 1, 2.0, 9, 0.5, ["X"]], "w"), {})
    assert isinstance(scheduled, ActivityScheduled)
    assert scheduled.options == ActivityOptions(
        max_attempts=3, delay_us=1, backoff=2.0, delay_max_us=9, jitter=0.5, non_retryable=("X",)
    )
    newer = packed(1, 5, ["t", "m", "", b"", True, None, "a later field"], 1)
    failed = decode_event(CODES[ActivityFailed], newer, {})
    assert failed == ActivityFailed(5, Failure(type="t", message="m"), 1)


# ------------------------------------------------------------------------------------- checksums


@given(any_event, st.integers(1, 2**40), st.data())
def test_a_checksum_finds_any_flipped_bit_and_any_other_place(
    event: Event, seq: int, data: st.DataObject
) -> None:
    code, body = encode_event(event, {})
    sound = checksum(seq, code, body)
    at = data.draw(st.integers(0, len(body) * 8 - 1))
    rotten = bytearray(body)
    rotten[at // 8] ^= 1 << at % 8
    assert checksum(seq, code, bytes(rotten)) != sound
    assert checksum(seq + 1, code, body) != sound
    assert checksum(seq, code ^ 1, body) != sound


# ----------------------------------------------------------------------------------------- blobs


@pytest.mark.parametrize(
    "event",
    [
        ActivityCompleted(1, large),
        SignalReceived("s", large),
        RunCompleted(large, ("unread",)),
        RunFailed(Failure(type="t", message="m", data=large)),
        RunContinuedAsNew(large, (("a", large), ("b", large + b"y")), 1),
        ActivityScheduled(1, "a", large, ActivityOptions(max_attempts=1), "here"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_large_payload_lies_beside_the_event(event: Event) -> None:
    blobs: dict[bytes, bytes] = {}
    code, body = encode_event(event, blobs)
    assert len(body) < 1_000
    assert set(blob_references(body)) == set(blobs)
    assert decode_event(code, body, blobs) == event
    with pytest.raises(UndecodablePayload, match=r"blob [0-9a-f]{64} is missing"):
        decode_event(code, body, {})


def test_equal_payloads_share_a_blob() -> None:
    blobs: dict[bytes, bytes] = {}
    encode_event(RunContinuedAsNew(large, (("a", large),), 1), blobs)
    encode_event(ActivityCompleted(1, large), blobs)
    assert len(blobs) == 1


def test_many_small_payloads_stay_in_the_body() -> None:
    blobs: dict[bytes, bytes] = {}
    many = RunContinuedAsNew(b"", tuple((str(n), b"x" * 1000) for n in range(100)), 1)
    code, body = encode_event(many, blobs)
    assert not blobs
    assert decode_event(code, body, {}) == many


# ----------------------------------------------------------------------------------- what is odd


def test_an_unknown_kind_names_the_remedy() -> None:
    with pytest.raises(UndecodablePayload, match=r"kind 63.*upgrade this process"):
        decode_event(63, packed(1, 2), {})


@pytest.mark.parametrize("wire", [[2, 1], [], [None, 1], ["1", 1], {"1": 1}, 7, None])
def test_an_unknown_version_is_refused(wire: object) -> None:
    with pytest.raises(UndecodablePayload, match="no known schema version"):
        decode_event(CODES[TimerFired], bytes(msgpack.packb(wire)), {})


def test_an_unknown_ext_code_is_refused() -> None:
    odd = packed(1, 5, msgpack.ExtType(9, b"?"))
    with pytest.raises(UndecodablePayload, match="unknown ext code 9"):
        decode_event(CODES[ActivityCompleted], odd, {})
    assert blob_references(odd) == ()


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_else(code: int, body: bytes) -> None:
    try:
        decode_event(code, body, {})
    except UndecodablePayload:
        return


@given(any_event, st.data())
def test_a_truncated_body_raises_nothing_else(event: Event, data: st.DataObject) -> None:
    code, body = encode_event(event, {})
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(UndecodablePayload):
        decode_event(code, cut, {})


def test_the_codes_are_for_ever() -> None:
    """Stored histories hold them: a code is never given to another kind, nor a kind renamed."""
    assert {code: kind.__name__ for code, kind in KINDS.items()} == {
        1: "RunStarted",
        2: "ActivityCompleted",
        3: "ActivityFailed",
        4: "ActivityTimedOut",
        5: "ActivityLost",
        6: "TimerFired",
        7: "SignalReceived",
        8: "SignalRejected",
        9: "CancelRequested",
        10: "UpdateReceived",
        11: "ApprovalAnswered",
        12: "ChildStarted",
        13: "ChildStartFailed",
        14: "ChildClosed",
        15: "ExternalAnswered",
        16: "ActivityCancelled",
        64: "ActivityScheduled",
        65: "ActivityCancelRequested",
        66: "TimerStarted",
        67: "TimerCancelled",
        68: "SideEffectRecorded",
        69: "PatchMarked",
        70: "UpdateCompleted",
        71: "UpdateFailed",
        72: "ApprovalRequested",
        73: "ApprovalWithdrawn",
        74: "ItemPublished",
        75: "ChildScheduled",
        76: "ChildCancelRequested",
        77: "ExternalSignalSent",
        78: "ExternalCancelSent",
        79: "ExternalAwaited",
        80: "TagsSet",
        81: "MemoSet",
        96: "RunCompleted",
        97: "RunFailed",
        98: "RunCancelled",
        99: "RunContinuedAsNew",
        100: "RunTerminated",
        101: "RunTimedOut",
    }
    assert not INPUTS & DECISIONS
    assert CLOSING <= DECISIONS
    assert RunStarted in INPUTS


# ------------------------------------------------------------------------------ what is hostile

TEN_MILLION = 10_000_000
hostile = pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x91" * 100_000 + b"\x01", id="100,000 deep"),
        pytest.param(b"\xdd\x00\x98\x96\x80" + b"\x80" * TEN_MILLION, id="ten million maps"),
        pytest.param(b"\xdd\x00\x98\x96\x80" + b"\x90" * TEN_MILLION, id="ten million arrays"),
        pytest.param(b"\xdf\x00\x98\x96\x80" + b"\xa0" * 2 * TEN_MILLION, id="one large map"),
        pytest.param(b"\xdd\x00\x10\x00\x00" * 5_000 + b"\x00" * 1_100_000, id="nested promises"),
    ],
)


@hostile
def test_what_would_take_much_memory_is_refused_before_it_is_built(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UndecodablePayload):
            decode_event(CODES[RunStarted], body, {})
        with pytest.raises(UndecodablePayload):
            blob_references(body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 40_000_000


def test_as_many_waiting_signals_as_a_long_history_holds_can_be_carried() -> None:
    many = RunContinuedAsNew(b"", tuple((str(n), b"x") for n in range(HISTORY_EVENTS_MAX)), 1)
    code, body = encode_event(many, {})
    assert decode_event(code, body, {}) == many


ODD: list[object] = [None, -1, 2**63, 1.5, "text", b"bytes", True, [], [1], {}, {"a": 1}]


@kinds
@given(data=st.data())
def test_a_field_of_another_type_is_named(kind: type[Event], data: st.DataObject) -> None:
    """Either the event is refused, or every field of it has the type that its class names."""
    code, body = encode_event(data.draw(event_of(kind)), {})
    wire = fields_of(body)
    at = data.draw(st.integers(1, len(wire) - 1))
    wire[at] = data.draw(st.sampled_from(ODD))
    try:
        event = decode_event(code, packed(*wire), {})
    except UndecodablePayload:
        return
    hints = get_type_hints(kind)
    for one in structs.fields(kind):
        value = getattr(event, one.name)
        hint = hints[one.name]
        origins = [get_origin(each) or each for each in get_args(hint) or (hint,)]
        if get_origin(hint) is tuple:
            assert type(value) is tuple
        else:
            assert type(value) in origins, f"{one.name}={value!r}"


UNSAID: tuple[Any, ...] = (None, None, None, [], False, [], None, None, [], b"")
"""What a start need not say, up to its memo."""


@pytest.mark.parametrize(
    ("kind", "wire", "names"),
    [
        (ActivityCompleted, [1, "5", b""], "activity_id holds a str, not int"),
        (ActivityCompleted, [1, 5, "result"], "result holds a str, not bytes"),
        (ActivityCompleted, [1, 2**60, b""], "number"),
        (ActivityCompleted, [1, True, b""], "activity_id holds a bool"),
        (TimerStarted, [1, 1, 2**60, "here"], "due_us"),
        (TimerStarted, [1, 1, -1, "here"], "due_us"),
        (RunStarted, [1, "w", b"", "id", 1, "", "", 2**62], "run_timeout_us"),
        (RunStarted, [1, "w", b"", "id", 1, "", "", None, None, None, [["a"]]], "carried"),
        (RunFailed, [1, ["t", "m", "", b"", True, None], [], -1], "due_us"),
        (
            RunStarted,
            [1, "w", b"", "id", 1, "", "", *UNSAID, None, None, b"", [3, 1]],
            "no policy for retries",
        ),
        (RunCompleted, [1, b"", [7]], "unread"),
        (ActivityFailed, [1, 1, ["t", "m", "", b"", True, -5], 1], "not a failure"),
        (ActivityScheduled, [1, 1, "a", b"", ["many"], ""], "max_attempts"),
        (ActivityScheduled, [1, 1, "a", b"", [3, 1, float("nan")], ""], "backoff"),
        (ActivityScheduled, [1, 1, "a", b"", [None] * 17, ""], "17 options"),
        (ActivityScheduled, [1, 1, "a", b"", [3, 1, 2.0, 9, 0.5, [7]], ""], "non_retryable"),
        (ActivityScheduled, [1, 1, "a", b"", [3, 1, 2.0, 9, 0.5, 7], ""], "non_retryable"),
    ],
)
def test_what_makes_no_sense_is_named(kind: type[Event], wire: list[object], names: str) -> None:
    with pytest.raises(UndecodablePayload, match=names):
        decode_event(CODES[kind], packed(*wire), {})
