"""Writes the golden histories that are not there yet: `python -m tests.histories.record`.

A file is JSON lines: a head that names workflow and version, then one event a line as a store holds
it (kind code, time, body, checksum), with the event spelt out beside it for people. A file that is
there is never written again, for what it holds is what that version wrote.
"""

import base64
import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from unittest import mock
from zlib import compress

from msgspec.structs import replace

from everlong._failures import encode_exception
from everlong_engine import (
    CODES,
    ActivityCancelled,
    ActivityLost,
    ActivityTimedOut,
    ApprovalAnswered,
    ChildClosed,
    ChildStarted,
    ChildStartFailed,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    Recorded,
    RunContinuedAsNew,
    RunFailed,
    RunTerminated,
    RunTimedOut,
    SignalRejected,
    UpdateFailed,
    checksum,
    encode_event,
    id_from_text,
    limits,
    pack,
)
from tests.histories import flows
from tests.support.run_by_hand import RunByHand, discard_all, started

__all__ = ["FOLDER", "SCENARIOS"]

FOLDER: Final = Path(__file__).parent
ORDER: Final = flows.Order(
    id=17, amount=Decimal("9.90"), placed=datetime(2026, 11, 21, 9, 30, tzinfo=UTC), lines=["tea"]
)
RECEIPT: Final = {"order_id": 17, "paid": Decimal("9.90"), "wait": timedelta(hours=1)}

Scenario = Callable[[], RunByHand]
SCENARIOS: dict[str, Scenario] = {}


def scenario(make: Scenario) -> Scenario:
    SCENARIOS[getattr(make, "__name__", "")] = make
    return make


def settle(run: RunByHand) -> RunByHand:
    """Complete what is open, the newest first, and fire timers, until the run has ended."""
    while run.closing is None:
        if run.open_activities:
            number = max(run.open_activities)
            run.complete(number, f"did {run.arguments(number)['name']}")
        else:
            run.fire_next()
    return run


@scenario
def order() -> RunByHand:
    run = RunByHand(flows.order, ORDER, seed=0x0123_4567_89AB_CDEF)
    run.feed(SignalRejected("histories.approve", pack("perhaps"), "it must be a bool"))
    run.complete(1, "checked")
    run.signal("histories.approve", True)
    run.complete(2, RECEIPT)
    run.signal("histories.approve", False)  # Nobody receives it.
    run.fire_next()
    run.complete(4, "shipped")
    return run


@scenario
def fails() -> RunByHand:
    run = RunByHand(flows.fails)
    run.feed(ActivityTimedOut(1, "start_to_close", 3))
    run.complete(2, "")
    run.feed(ActivityLost(3, 1))
    run.complete(4, "")
    declined = flows.Declined(17, "no funds")
    declined.__cause__ = ExceptionGroup("two banks", [ValueError("one"), OSError(5, "the other")])
    declined.add_note("asked twice")
    run.fail(5, declined)
    run.complete(6, "")
    return run


@scenario
def cancelled() -> RunByHand:
    run = RunByHand(flows.cancelled)
    run.complete(min(run.open_activities), "a")
    run.cancel("enough for today")
    run.cancel("really")
    run.complete(max(run.open_activities), "cleaned")
    return run


@scenario
def begins_anew() -> RunByHand:
    with mock.patch.object(limits, "CHECKPOINT_EVENTS", 5):
        run = RunByHand(flows.begins_anew, 3)
        run.complete(1, "abc")
        run.signal("histories.approve", True)
        run.signal("histories.approve", False)
        run.complete(2, "de")
    return run


@scenario
def carries() -> RunByHand:
    first = begins_anew().history[-1].event
    assert isinstance(first, RunContinuedAsNew)
    start = replace(
        started(flows.carries, 8),
        carried=first.carried,
        previous_run=b"\x01\x90" * 8,
        cancel_requested=True,
        run_timeout_us=3_600_000_000,
        execution_deadline_us=1_800_000_000_000_000,
    )
    run = RunByHand(flows.carries, start=start)
    run.complete(1, "")
    return run


@scenario
def forced() -> RunByHand:
    run = RunByHand(flows.forced, 2)
    run.complete(1, "")
    return run


def _lasting() -> RunByHand:
    run = RunByHand(flows.lasting)
    run.complete(1, "")
    run.fire_next()
    return run


@scenario
def terminated() -> RunByHand:
    return _ended(_lasting(), RunTerminated("by hand"))


@scenario
def timed_out() -> RunByHand:
    return _ended(_lasting(), RunTimedOut("execution"))


def _ended(run: RunByHand, event: Event) -> RunByHand:
    run.history.append(Recorded(len(run.history) + 1, run.now_us + 5, event))
    return run


@scenario
def side_by_side() -> RunByHand:
    return settle(RunByHand(flows.side_by_side, seed=99))


@scenario
def updated() -> RunByHand:
    run = RunByHand(flows.updated, 5)
    run.update("first", "histories.amount", 2)
    run.update("second", "histories.amount", 3)
    run.complete(2, "")
    run.update("third", "histories.amount", 6)
    run.complete(1, "")
    return run


@scenario
def patient() -> RunByHand:
    run = RunByHand(flows.patient)
    run.fire_next()
    run.feed(ActivityCancelled(2, "stopped", 1))
    run.cancel("enough")
    run.feed(ActivityCancelled(3, "lost", 2))
    return settle(run)


@scenario
def approves() -> RunByHand:
    run = RunByHand(flows.approves)
    run.feed(ApprovalAnswered(2, b"\x01\x90" * 8, True, "ann", pack("fine"), run.now_us))
    run.fire_next()
    return run


@scenario
def publishes() -> RunByHand:
    start = replace(started(flows.publishes), published=(("histories.told", 3), ("other", 1)))
    run = RunByHand(flows.publishes, start=start)
    run.signal("histories.approve", True)
    return run


@scenario
def labelled() -> RunByHand:
    tags = (("late", True), ("since", datetime(2026, 11, 21, 9, 30, tzinfo=UTC)), ("n", -7))
    start = replace(started(flows.labelled, "c1"), tags=tags, memo=pack("from the start"))
    run = RunByHand(flows.labelled, start=start)
    run.feed(ChildClosed(1, id_from_text(run.code.run_id), "completed", pack("grown")))
    return run


@scenario
def family() -> RunByHand:
    run = RunByHand(flows.family, 17)
    here = id_from_text(run.code.run_id)
    run.feed(ChildClosed(1, here, "completed", pack("grown")))
    run.feed(ChildStarted(2, here, bytes(range(16))))
    declined = encode_exception(flows.Declined(17, "no"), flows.offspring.definition.exceptions)
    run.feed(ChildClosed(2, here, "failed", failure=declined))
    run.feed(ChildStartFailed(3, here, "running"))
    run.fire_next()
    run.feed(ExternalAnswered(_waits_for(run, ExternalSignalSent), here, ""))
    run.feed(ExternalAnswered(_waits_for(run, ExternalCancelSent), here, "completed"))
    number = _waits_for(run, ExternalAwaited)
    run.feed(ChildClosed(number, here, "completed", pack("the other")))
    run.feed(ExternalAnswered(_waits_for(run, ExternalAwaited), here, "not_found"))
    return run


@scenario
def guardian() -> RunByHand:
    run = RunByHand(flows.guardian, 17)
    here = id_from_text(run.code.run_id)
    run.fire_next()
    run.feed(ChildClosed(2, here, "completed", pack("all the same")))
    run.cancel("enough")
    return run


def _waits_for(run: RunByHand, kind: type[Event]) -> int:
    (number,) = [getattr(one, "call_id", 0) for one in run.others if isinstance(one, kind)]
    return number


@scenario
def values() -> RunByHand:
    large = {"short": b"\x00\xff", "long": bytes(limits.PAYLOAD_INLINE_BYTES_MAX + 1)}
    since = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    return settle(
        RunByHand(flows.values, [ORDER, flows.Order(id=1, amount=Decimal(0))], large, since)
    )


# ------------------------------------------------------------------------------------- the files


def record(missing: Mapping[str, Scenario], folder: Path) -> list[Path]:
    """Write the histories of these scenarios. Raises FileExistsError rather than write anew."""
    folder.mkdir(exist_ok=True)
    written: list[Path] = []
    for name, make in missing.items():
        path = folder / f"{name}.jsonl"
        with path.open("x", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in _lines(make()))
        written.append(path)
        discard_all()
    return written


def _lines(run: RunByHand) -> list[dict[str, Any]]:
    head = {
        "workflow": run.workflow.definition.name,
        "everlong": version("everlong"),
        "python": platform.python_version(),
    }
    return [head, *map(_line, run.history)]


def _line(one: Recorded) -> dict[str, Any]:
    blobs: dict[bytes, bytes] = {}
    event = one.event
    if isinstance(event, RunFailed | UpdateFailed):  # Its traceback names files of this machine.
        text = event.failure.traceback.replace(f"{FOLDER.parent.parent}/", "")
        event = replace(event, failure=replace(event.failure, traceback=text))
    kind, body = encode_event(event, blobs)
    assert kind == CODES[type(event)]
    line: dict[str, Any] = {
        "seq": one.seq,
        "at_us": one.at_us,
        "kind": kind,
        "body": _text(body),
        "checksum": checksum(one.seq, kind, body),
    }
    if blobs:
        line["blobs"] = {_text(digest): _text(compress(blob, 9)) for digest, blob in blobs.items()}
    comment = repr(event)
    return line | {"comment": comment if len(comment) < 400 else f"{comment[:400]} …"}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def main() -> None:
    there = {path.stem for path in FOLDER.glob("*/*.jsonl")}
    missing = {name: make for name, make in SCENARIOS.items() if name not in there}
    for path in record(missing, FOLDER / version("everlong")):
        print(path.relative_to(FOLDER))  # noqa: T201


if __name__ == "__main__":
    main()
