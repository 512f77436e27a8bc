"""Exports as text: lossless, and nothing that was damaged, moved or made up comes out of them."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final
from zlib import crc32

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from everlong_engine.model.codec import checksum, encode_event
from everlong_engine.model.errors import UnreadableExport
from everlong_engine.model.events import (
    CODES,
    INPUTS,
    ActivityScheduled,
    ItemPublished,
    RunCompleted,
    RunContinuedAsNew,
    RunStarted,
    SignalReceived,
)
from everlong_engine.model.export_lines import export_lines, read_export
from everlong_engine.model.exported import (
    ExportedApproval,
    ExportedExecution,
    ExportedMail,
    ExportedRun,
)
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    ItemRow,
    Link,
    Probation,
    RunRow,
    RunStatus,
)
from tests.support.events import any_event, event_of

A, B = bytes(15) + b"\x01", bytes(15) + b"\x02"
LARGE: Final = bytes(range(256)) * 300


def run(run_id: bytes, status: RunStatus, *events: Any, blobs: dict[bytes, bytes]) -> ExportedRun:
    history: list[tuple[int, int, int, bytes, int]] = []
    for seq, event in enumerate(events, 1):
        kind, body = encode_event(event, blobs)
        history.append((seq, kind, 5, body, checksum(seq, kind, body)))
    row = RunRow(
        shard=0,
        run_id=run_id,
        execution_id=A,
        namespace="default",
        workflow_id="wé",
        type="flow",
        queue="default",
        status=status,
        next_seq=len(history) + 1,
        lease_token=0,
        owner=bytes(16) if status.is_open else None,
        wake_us=None,
        started_us=5,
        closed_us=None if status.is_open else 6,
        losses=0,
        strikes=0,
        probation=Probation.NONE,
        reason="line\nbreak",
        request_id=None,
    )
    attempt = AttemptRow(activity_id=1, attempt=2, state=AttemptState.FAILED, started_us=4)
    approval = ExportedApproval(3, 1, b"\x00", None)
    return ExportedRun(row=row, history=tuple(history), attempts=(attempt,), approvals=(approval,))


def example(*more: Any) -> ExportedExecution:
    blobs: dict[bytes, bytes] = {}
    start = RunStarted("flow", b"\x80", "wé", 1, "code", "3.11")
    first = run(A, RunStatus.CONTINUED_AS_NEW, start, RunContinuedAsNew(b"", (), 1), blobs=blobs)
    scheduled = ActivityScheduled(1, "charge", b"\xc1\xff", ActivityOptions(), "")
    last = run(B, RunStatus.RUNNING, start, scheduled, *more, blobs=blobs)
    kind, body = encode_event(SignalReceived("s", LARGE), blobs)
    return ExportedExecution(
        runs=(first, last),
        blobs=blobs,
        blob_uses=tuple((A, digest) for digest in blobs),
        mail=(ExportedMail(kind, body, checksum(0, kind, body)),),
        requests=(("\x01sender x", b"\x00"),),
        items=(ItemRow("told", 0, 5, b"p", checksum(0, CODES[ItemPublished], b"p")),),
        links=(Link(0, B, B, 1, A, "default", "other", "wé", "cancel"),),
    )


def lines_of(*executions: ExportedExecution) -> list[str]:
    return list(export_lines(executions, written_by="test", at_us=7))


def summed(documents: Iterable[dict[str, Any]]) -> list[str]:
    """Lines as somebody else would write them, who knows of the sums."""
    before, made = 0, list[str]()
    for one in documents:
        text = json.dumps({name: value for name, value in one.items() if name != "crc"})[:-1]
        before = crc32(text.encode(), before)
        made.append(f'{text}, "crc": {before}}}')
    return made


def refused(lines: Iterable[str]) -> UnreadableExport:
    with pytest.raises(UnreadableExport) as caught:
        read_export(lines)
    return caught.value


@settings(max_examples=100, deadline=None)
@given(st.lists(any_event, max_size=3))
def test_every_event_comes_back_as_the_bytes_that_it_was(events: list[Any]) -> None:
    closing = [one for one in events if CODES[type(one)] >= 96]
    rest = [one for one in events if CODES[type(one)] < 96 and type(one) is not RunStarted]
    execution = example(*rest)
    lines = lines_of(execution)
    assert read_export(lines) == [execution]
    assert read_export(f"{line}\r\n" for line in lines) == [execution]
    assert len(lines) == len(lines_of(example())) + len(rest)
    assert closing or len(rest) == len([one for one in events if type(one) is not RunStarted])


@pytest.mark.parametrize("what", ["changed", "lost", "doubled", "moved", "cut"])
def test_whatever_happens_to_a_line_is_told_with_its_number(what: str) -> None:
    whole = lines_of(example())
    for at in range(1, len(whole) - 1):
        lines = list(whole)
        number = at + 1
        match what:
            case "changed":
                middle = len(lines[at]) // 2
                swapped = "b" if lines[at][middle] == "a" else "a"
                lines[at] = lines[at][:middle] + swapped + lines[at][middle + 1 :]
            case "lost":
                del lines[at]
            case "doubled":
                lines.insert(at, lines[at])
                number += 1
            case "moved":
                lines[at], lines[at + 1] = lines[at + 1], lines[at]
            case _:
                lines = lines[:at]
        assert refused(lines).line == number


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([], 1, "it is empty"),
        ([""], 1, "not an export"),
        (["PK\x03\x04"], 1, "not an export"),
        (['{"type": "export"}'], 1, "not an export"),
        (["[" * 100_000], 1, "not an export"),
        (['{"workflow": "a", "version": "0.1.0"}'], 1, "not an export"),
        (['{"type": "export", "format": "everlong", "version": 2}'], 1, "newer Everlong"),
        (['{"type": "export", "format": "everlong", "version": "1"}'], 1, "version is '1'"),
        (['{"type": "export", "format": "everlong", "version": 1}'], 1, "its crc does not fit"),
    ],
)
def test_what_is_no_export_is_told(lines: list[str], line: int, reason: str) -> None:
    error = refused(lines)
    assert error.line == line
    assert reason in error.reason
    assert "Nothing was stored" in str(error)


def test_a_newer_export_is_refused_whatever_else_it_holds() -> None:
    newer = '{"type": "export", "format": "everlong", "version": 7, "crc": 12}'
    assert "Upgrade Everlong" in str(refused([newer, "…"]))


def changed(kind: str, change: Callable[[dict[str, Any]], None]) -> list[str]:
    documents = [json.loads(line) for line in lines_of(example())]
    change(next(one for one in documents if one["type"] == kind))
    return summed(documents)


@pytest.mark.parametrize(
    ("kind", "member", "value", "reason"),
    [
        ("execution", "workflow_id", "", "must not be empty"),
        ("execution", "workflow_id", "\ud800", "half a character"),
        ("execution", "execution_id", "7", "no id"),
        ("blob", "data", "AA==", "digest"),
        ("blob", "owners", "x", "no list"),
        ("run", "run_id", None, "no id"),
        ("run", "status", "RUNNING", "not one of running"),
        ("run", "status", "running", "closed_us 6"),
        ("run", "events", -1, "'events' is -1"),
        ("run", "events", True, "'events' is True"),
        ("run", "events", 7, "2 are there"),
        ("run", "owned", 1, "neither true nor false"),
        ("run", "started_us", 1 << 60, "'started_us'"),
        ("event", "seq", 2, "event 1 of the run is missing"),
        ("event", "checksum", 0, "wrong checksum"),
        ("event", "body", "wA==", "wrong checksum"),
        ("event", "body", "%", "no base64"),
        ("attempt", "attempt", 0, "'attempt' is 0"),
        ("attempt", "state", "eaten", "not one of started"),
        ("approval", "seq", 77, "event 77"),
        ("message", "checksum", 0, "wrong checksum"),
        ("item", "number", 3, "item 3 has a wrong checksum"),
        ("item", "payload", "", "wrong checksum"),
        ("link", "on_parent_close", "dance", "'dance'"),
        ("end", "lines", 3, "3 lines"),
        ("end", "type", "stop", "no line of the type 'stop'"),
    ],
)
def test_what_does_not_fit_is_named(kind: str, member: str, value: Any, reason: str) -> None:
    error = refused(changed(kind, lambda one: one.update({member: value})))
    assert reason in error.reason
    assert error.line > 1


def test_the_oldest_items_of_a_channel_may_be_gone_and_none_behind_them() -> None:
    def having(*places: tuple[str, int]) -> list[str]:
        code = CODES[ItemPublished]
        items = [ItemRow(one, n, 5, b"p", checksum(n, code, b"p")) for one, n in places]
        return lines_of(replace(example(), items=tuple(items)))

    whole = having(("a", 7), ("a", 8), ("b", 3))
    assert [one.number for one in read_export(whole)[0].items] == [7, 8, 3]
    assert "item 9 does not follow" in refused(having(("a", 7), ("a", 9))).reason
    assert "item 9 does not follow" in refused(having(("a", 8), ("b", 3), ("a", 9))).reason


def test_a_member_that_is_missing_is_named() -> None:
    first: dict[str, dict[str, Any]] = {}
    for line in map(json.loads, lines_of(example())):
        first.setdefault(line["type"], line)
    assert len(first) == 12
    for kind in first.keys() - {"export"}:
        # Earlier versions have not written the last two.
        for member in first[kind].keys() - {"type", "crc", "kind", "held", "version"}:
            error = refused(changed(kind, partial(_without, member)))
            assert repr(member) in error.reason, (kind, member)


def _without(member: str, line: dict[str, Any]) -> None:
    del line[member]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_lines_of_anybody_are_read_or_refused(data: st.DataObject) -> None:
    """With right sums: whoever writes them knows the format, and means no good."""
    documents = [json.loads(line) for line in lines_of(example())]
    for _ in range(data.draw(st.integers(1, 3))):
        one = data.draw(st.sampled_from(documents[1:]))
        match data.draw(st.sampled_from(["change", "drop", "again", "foreign"])):
            case "change":
                one[data.draw(st.sampled_from(sorted(one)))] = data.draw(json_values)
            case "drop":
                documents.remove(one)
            case "again":
                documents.insert(data.draw(st.integers(1, len(documents))), dict(one))
            case _:
                one.update(type=data.draw(st.sampled_from(["event", "run", "blob", "end", "x"])))
        if len(documents) < 2:
            break
    with suppress(UnreadableExport):  # And nothing else.
        read = read_export(summed(documents))
        assert read_export(lines_of(*read)) == read


@given(event_of(RunCompleted))
def test_a_message_is_an_input(event: RunCompleted) -> None:
    kind, body = encode_event(event, {})
    assert RunCompleted not in INPUTS

    def put(one: dict[str, Any]) -> None:
        one.update(code=kind, body=b64encode(body).decode(), checksum=checksum(0, kind, body))

    assert "no input" in refused(changed("message", put)).reason
