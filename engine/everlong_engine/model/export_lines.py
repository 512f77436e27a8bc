"""Executions as JSON lines: the stable form, described in docs/reference/exports.md.

The first line is the head, the last the end. Every line ends with `crc`, the CRC-32 of its text up
to there, begun with that of the line before: so a line that was changed, moved, lost or put in is
found at its own number. Bytes are base64, ids are written as UUIDs, instants are microseconds.

Reading trusts nothing: each member has its type and its bounds, each event the checksum that it has
in a store, and must decode; only whole executions come out.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NoReturn, TypeVar, cast

from msgspec import Struct, field

from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.entities import EntityRow, checked_entity
from everlong_engine.model.errors import UndecodablePayload, UnreadableExport
from everlong_engine.model.events import (
    CLOSING,
    CODES,
    INPUTS,
    KINDS,
    ItemPublished,
    RunStarted,
    RunTerminated,
)
from everlong_engine.model.export_sums import Line, sum_behind, sum_of, summed, with_sum
from everlong_engine.model.exported import (
    ExportedApproval,
    ExportedExecution,
    ExportedMail,
    ExportedRun,
)
from everlong_engine.model.ids import id_from_text, id_text
from everlong_engine.model.limits import INSTANT_US_MAX
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    ItemRow,
    Link,
    Probation,
    RunRow,
    RunStatus,
)

__all__ = ["EXPORT_VERSION", "export_lines", "read_export"]

T = TypeVar("T")

EXPORT_VERSION: Final = 1
_FORMAT: Final = "everlong"
_HALVES: Final = re.compile("[\ud800-\udfff]")
_NUMBER_MAX: Final = 1 << 53


# ------------------------------------------------------------------------------------- writing


def export_lines(
    executions: Iterable[ExportedExecution], *, written_by: str, at_us: int
) -> Iterator[str]:
    """The lines of an export, each without its line break."""
    total = count = 0
    head = {"format": _FORMAT, "version": EXPORT_VERSION, "written_by": written_by, "at_us": at_us}
    for line in summed(_all_lines(head, executions)):
        total += 1
        yield line
        count = sum_of(line)
    yield with_sum({"type": "end", "lines": total + 1}, count)[0]


def _all_lines(head: Line, executions: Iterable[ExportedExecution]) -> Iterator[Line]:
    yield {"type": "export", **head}
    for execution in executions:
        yield from _of_execution(execution)


def _of_execution(execution: ExportedExecution) -> Iterator[Line]:
    last = execution.last
    yield {
        "type": "execution",
        "namespace": last.namespace,
        "workflow_id": last.workflow_id,
        "execution_id": id_text(last.execution_id),
        "held": None if execution.held is None else list(execution.held),
    }
    owners: dict[bytes, list[str]] = {}
    for owner, digest in execution.blob_uses:
        owners.setdefault(digest, []).append(id_text(owner))
    for digest, data in execution.blobs.items():
        yield {
            "type": "blob",
            "digest": digest.hex(),
            "owners": owners.get(digest, []),
            "data": _text(data),
        }
    for run in execution.runs:
        yield from _of_run(run)
    for mail in execution.mail:
        yield {
            "type": "message",
            "kind": KINDS[mail.kind].__name__,
            "code": mail.kind,
            "body": _text(mail.body),
            "checksum": mail.checksum,
        }
    for request_id, result in execution.requests:
        yield {"type": "request", "request_id": request_id, "result": _text(result)}
    for item in execution.items:
        yield {"type": "item", **item._asdict(), "payload": _text(item.payload)}
    for state in execution.entities:
        yield {"type": "entity", **state._asdict(), "payload": _text(state.payload)}
    for link in execution.links:
        yield {
            "type": "link",
            "awaited_id": link.workflow_id,
            "awaited_execution": id_text(link.execution_id),
            "waiter_id": link.waiter,
            "waiter_execution": id_text(link.waiter_id),
            "waiter_run": id_text(link.waiter_run),
            "number": link.number,
            "namespace": link.namespace,
            "on_parent_close": link.on_parent_close,
        }


def _of_run(run: ExportedRun) -> Iterator[Line]:
    row = run.row
    yield {
        "type": "run",
        "run_id": id_text(row.run_id),
        "workflow": row.type,
        "queue": row.queue,
        "status": row.status.text,
        "events": row.next_seq - 1,
        "started_us": row.started_us,
        "closed_us": row.closed_us,
        "owned": row.owner is not None,
        "reason": row.reason,
        "request_id": row.request_id,
        "version": row.version,
    }
    for seq, kind, at_us, body, stored in run.history:
        yield {
            "type": "event",
            "seq": seq,
            "kind": KINDS[kind].__name__,
            "code": kind,
            "at_us": at_us,
            "body": _text(body),
            "checksum": stored,
        }
    for one in run.attempts:
        yield {
            "type": "attempt",
            "activity_id": one.activity_id,
            "attempt": one.attempt,
            "state": one.state.name.lower(),
            "started_us": one.started_us,
            "ended_us": one.ended_us,
            "retry_us": one.retry_us,
            "error_type": one.error_type,
            "error": one.error,
            "traceback": one.traceback,
            "worker": one.worker,
            "details": None if one.details is None else _text(one.details),
        }
    for asked in run.approvals:
        answer = None if asked.answer is None else _text(asked.answer)
        yield {"type": "approval", **asked._asdict(), "answer": answer}


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


# ------------------------------------------------------------------------------------- reading


def read_export(lines: Iterable[str]) -> list[ExportedExecution]:
    """Undo `export_lines`; line breaks may be of any kind.

    Raises:
        UnreadableExport: it is damaged, foreign or newer; it names the line.
    """
    reader = _Reader()
    for number, text in enumerate(lines, 1):
        reader.take(number, text.rstrip("\r\n"))
    return reader.end()


class _Run(Struct):
    row: RunRow
    line: int
    history: list[tuple[int, int, int, bytes, int]] = field(default_factory=list[Any])
    attempts: list[AttemptRow] = field(default_factory=list[AttemptRow])
    approvals: list[ExportedApproval] = field(default_factory=list[ExportedApproval])
    closed: bool = False


class _Execution(Struct):
    line: int
    namespace: str
    workflow_id: str
    execution_id: bytes
    held: tuple[int, str, str] | None = None
    runs: list[_Run] = field(default_factory=list[_Run])
    blobs: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    blob_uses: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    mail: list[ExportedMail] = field(default_factory=list[ExportedMail])
    requests: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    items: list[ItemRow] = field(default_factory=list[ItemRow])
    entities: dict[str, EntityRow] = field(default_factory=dict[str, EntityRow])
    links: list[Link] = field(default_factory=list[Link])


class _Reader:
    """Takes a line at a time."""

    def __init__(self) -> None:
        self._number = 0
        self._sum = 0
        self._executions: list[_Execution] = []
        self._ended = False

    def take(self, number: int, text: str) -> None:
        self._number = number
        if self._ended:
            if text:
                self._refuse("there is something behind the end of the export")
            return
        line = self._parsed(text)
        kind = line["type"]
        if number == 1:
            return
        take = _TAKERS.get(kind)
        if take is None:
            self._refuse(f"there is no line of the type {kind!r:.60}")
        try:
            take(self, line)
        except KeyError as error:
            self._refuse(f"it has no {error.args[0]!r}")
        except UndecodablePayload as error:
            self._refuse(str(error))

    def end(self) -> list[ExportedExecution]:
        if self._number == 0:
            self._number = 1
            self._refuse("it is empty")
        if not self._ended:
            self._number += 1
            self._refuse("the rest is missing: an export ends with a line of the type 'end'")
        return [self._whole(one) for one in self._executions]

    def _refuse(self, reason: str) -> NoReturn:
        raise UnreadableExport(line=self._number, reason=reason)

    def _parsed(self, text: str) -> Line:
        try:
            line: object = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if self._number == 1:
            self._know(line)
        if not isinstance(line, dict) or not isinstance(cast("Line", line).get("type"), str):
            self._refuse("it is no line of an export")
        found = cast("Line", line)
        bears_one, self._sum = sum_behind(text, self._sum)
        if not bears_one or found.get("crc") != self._sum:
            self._refuse("it was changed, or lines before it are missing: its crc does not fit")
        return found

    def _know(self, line: object) -> None:
        """Whether it is an export at all, and one that this version reads."""
        head = cast("Line", line) if isinstance(line, dict) else {}
        if head.get("type") != "export" or head.get("format") != _FORMAT:
            self._refuse("it is not an export of Everlong")
        version = head.get("version")
        if type(version) is not int or version < 1:
            self._refuse(f"its version is {version!r:.60}")
        if version > EXPORT_VERSION:
            self._refuse(
                f"it was written by a newer Everlong (version {version} of the format; this one "
                f"knows {EXPORT_VERSION}). Upgrade Everlong"
            )

    # -------------------------------------------------------------------- one type, one function

    def take_end(self, line: Line) -> None:
        if line["lines"] != self._number:
            self._refuse(f"the export has {line['lines']!r:.20} lines, this is {self._number}")
        self._ended = True

    def take_execution(self, line: Line) -> None:
        execution_id = self._id(line, "execution_id")
        if any(one.execution_id == execution_id for one in self._executions):
            self._refuse("this execution is in the export twice")
        workflow_id, namespace = self._str(line, "workflow_id"), self._str(line, "namespace")
        if not workflow_id or not namespace:
            self._refuse("'workflow_id' and 'namespace' must not be empty")
        held = self._or_none({"held": None, **line}, "held", self._held)
        self._executions.append(
            _Execution(self._number, namespace, workflow_id, execution_id, held)
        )

    def take_blob(self, line: Line) -> None:
        execution, data = self._execution, self._bytes(line, "data")
        digest = sha256(data).digest()
        if line["digest"] != digest.hex():
            self._refuse("the digest is not that of the data")
        execution.blobs[digest] = data
        owners = line["owners"]
        if not isinstance(owners, list):
            self._refuse("'owners' is no list")
        for owner in cast("list[object]", owners):
            execution.blob_uses.append((self._id({"owners": owner}, "owners"), digest))

    def take_run(self, line: Line) -> None:
        execution = self._execution
        run_id = self._id(line, "run_id")
        if execution.runs and execution.runs[-1].row.run_id >= run_id:
            self._refuse("the runs are not in their order")
        status = self._name(line, "status", RunStatus)
        row = RunRow(
            shard=0,
            run_id=run_id,
            execution_id=execution.execution_id,
            namespace=execution.namespace,
            workflow_id=execution.workflow_id,
            type=self._str(line, "workflow"),
            queue=self._str(line, "queue"),
            status=status,
            next_seq=self._int(line, "events") + 1,
            lease_token=0,
            owner=bytes(16) if self._bool(line, "owned") else None,
            wake_us=None,
            started_us=self._instant(line, "started_us"),
            closed_us=self._or_none(line, "closed_us", self._instant),
            losses=0,
            strikes=0,
            probation=Probation.NONE,
            reason=self._or_none(line, "reason", self._str),
            request_id=self._or_none(line, "request_id", self._str),
            version=self._or_none({"version": None, **line}, "version", self._str),
        )
        if (row.closed_us is None) is not status.is_open:
            self._refuse(f"a run that is {status.text} has closed_us {row.closed_us}")
        execution.runs.append(_Run(row, self._number))

    def take_event(self, line: Line) -> None:
        run, seq, code = self._run, self._int(line, "seq"), self._int(line, "code")
        body, at_us = self._bytes(line, "body"), self._instant(line, "at_us")
        if seq != len(run.history) + 1:
            self._refuse(f"event {len(run.history) + 1} of the run is missing")
        if checksum(seq, code, body) != line["checksum"]:
            self._refuse(f"event {seq} has a wrong checksum")
        if run.closed:
            self._refuse(f"event {seq} stands behind the end of its run")
        event = decode_event(code, body, self._execution.blobs)
        if seq == 1 and type(event) not in INPUTS and type(event) not in CLOSING:
            self._refuse("a history begins with an input")
        if type(event) is RunStarted and event.workflow_id != run.row.workflow_id:
            self._refuse("the run was started under another workflow id")
        run.closed = type(event) in CLOSING
        run.history.append((seq, code, at_us, body, line["checksum"]))

    def take_attempt(self, line: Line) -> None:
        self._run.attempts.append(
            AttemptRow(
                activity_id=self._int(line, "activity_id"),
                attempt=self._int(line, "attempt", 1),
                state=self._name(line, "state", AttemptState),
                started_us=self._instant(line, "started_us"),
                ended_us=self._or_none(line, "ended_us", self._instant),
                retry_us=self._or_none(line, "retry_us", self._instant),
                error_type=self._str(line, "error_type"),
                error=self._str(line, "error"),
                traceback=self._str(line, "traceback"),
                worker=self._str(line, "worker"),
                details=self._or_none(line, "details", self._bytes),
            )
        )

    def take_approval(self, line: Line) -> None:
        self._run.approvals.append(
            ExportedApproval(
                self._int(line, "number"),
                self._int(line, "seq", 1),
                self._or_none(line, "answer", self._bytes),
                self._or_none(line, "request", self._str),
            )
        )

    def take_message(self, line: Line) -> None:
        execution, code = self._execution, self._int(line, "code")
        body = self._bytes(line, "body")
        if checksum(0, code, body) != line["checksum"]:
            self._refuse("the message has a wrong checksum")
        event = decode_event(code, body, execution.blobs)
        if type(event) not in INPUTS or type(event) is RunTerminated:
            self._refuse("the message is no input")
        execution.mail.append(ExportedMail(code, body, line["checksum"]))

    def take_request(self, line: Line) -> None:
        self._execution.requests.append(
            (self._str(line, "request_id"), self._bytes(line, "result"))
        )

    def take_item(self, line: Line) -> None:
        channel, number = self._str(line, "channel"), self._int(line, "number")
        payload, items = self._bytes(line, "payload"), self._execution.items
        follows = items and items[-1].channel == channel
        # The oldest items of a channel may be gone.
        known = any(one.channel == channel for one in items)
        if number != items[-1].number + 1 if follows else known:
            self._refuse(f"item {number} does not follow the one before it")
        if checksum(number, CODES[ItemPublished], payload) != line["checksum"]:
            self._refuse(f"item {number} has a wrong checksum")
        at_us = self._instant(line, "at_us")
        items.append(ItemRow(channel, number, at_us, payload, line["checksum"]))

    def take_entity(self, line: Line) -> None:
        due_us = None if line.get("due_us") is None else self._instant(line, "due_us")
        values = self._str(line, "key"), due_us, self._bytes(line, "payload"), line.get("checksum")
        try:
            row = checked_entity(values)
        except UndecodablePayload as error:
            self._refuse(str(error))
        if row.key in self._execution.entities:
            self._refuse(f"the key {row.key!r:.220} is there twice")
        self._execution.entities[row.key] = row

    def take_link(self, line: Line) -> None:
        on_close = self._str(line, "on_parent_close")
        if on_close not in ("", "terminate", "cancel", "abandon"):
            self._refuse(f"'on_parent_close' is {on_close!r:.60}")
        self._execution.links.append(
            Link(
                0,
                self._id(line, "awaited_execution"),
                self._id(line, "waiter_run"),
                self._int(line, "number", 1),
                self._id(line, "waiter_execution"),
                self._str(line, "namespace"),
                self._str(line, "awaited_id"),
                self._str(line, "waiter_id"),
                on_close,
            )
        )

    # ----------------------------------------------------------------------------- wholes

    def _whole(self, execution: _Execution) -> ExportedExecution:
        self._number = execution.line
        if not execution.runs:
            self._refuse("the execution has no run")
        for run in execution.runs:
            self._number = run.line
            self._check_run(run, last=run is execution.runs[-1], begins=bool(execution.mail))
        self._number = execution.line
        known = {execution.execution_id, *(run.row.run_id for run in execution.runs)}
        if any(owner not in known for owner, _ in execution.blob_uses):
            self._refuse("a blob belongs to a run that is not there")
        return ExportedExecution(
            runs=tuple(
                ExportedRun(
                    row=run.row,
                    history=tuple(run.history),
                    attempts=tuple(run.attempts),
                    approvals=tuple(run.approvals),
                )
                for run in execution.runs
            ),
            blobs=execution.blobs,
            blob_uses=tuple(execution.blob_uses),
            mail=tuple(execution.mail),
            requests=tuple(execution.requests),
            items=tuple(execution.items),
            entities=tuple(execution.entities.values()),
            links=tuple(execution.links),
            held=execution.held,
        )

    def _check_run(self, run: _Run, *, last: bool, begins: bool) -> None:
        row = run.row
        if len(run.history) != row.next_seq - 1:
            self._refuse(f"the run has {row.next_seq - 1} events, and {len(run.history)} are there")
        if run.closed is row.status.is_open:
            self._refuse(f"the run is {row.status.text}, its history says otherwise")
        if row.status.is_open and not last:
            self._refuse("only the last run of an execution can be open")
        if row.status.is_open and not run.history and not begins:
            self._refuse("the run has not begun, and its start is missing")
        for asked in run.approvals:
            if asked.seq > len(run.history):
                self._refuse(f"event {asked.seq} with an approval is missing")

    # ---------------------------------------------------------------------------- members

    @property
    def _execution(self) -> _Execution:
        if not self._executions:
            self._refuse("there is no execution before it")
        return self._executions[-1]

    @property
    def _run(self) -> _Run:
        if not self._execution.runs:
            self._refuse("there is no run before it")
        return self._execution.runs[-1]

    def _or_none(self, line: Line, name: str, read: Callable[[Line, str], T]) -> T | None:
        return None if line[name] is None else read(line, name)

    def _str(self, line: Line, name: str) -> str:
        value = line[name]
        if not isinstance(value, str):
            self._refuse(f"{name!r} is no text")
        if _HALVES.search(value):
            self._refuse(f"{name!r} holds half a character, which no store takes")
        return value

    def _bool(self, line: Line, name: str) -> bool:
        if not isinstance(line[name], bool):
            self._refuse(f"{name!r} is neither true nor false")
        return bool(line[name])

    def _int(self, line: Line, name: str, least: int = 0) -> int:
        value = line[name]
        if type(value) is not int or not least <= value <= _NUMBER_MAX:
            self._refuse(f"{name!r} is {value!r:.60}")
        return value

    def _instant(self, line: Line, name: str) -> int:
        value = self._int(line, name)
        if value > INSTANT_US_MAX:
            self._refuse(f"{name!r} is {value}, which is no instant")
        return value

    def _id(self, line: Line, name: str) -> bytes:
        try:
            return id_from_text(line[name])
        except (ValueError, AttributeError, TypeError):
            self._refuse(f"{name!r} holds {line[name]!r:.60}, which is no id")

    def _held(self, line: Line, name: str) -> tuple[int, str, str]:
        value: object = line[name]
        if not isinstance(value, list) or len(cast("list[object]", value)) != 3:
            self._refuse(f"{name!r} is no time, name and reason")
        since, by, reason = cast("list[object]", value)
        held: Line = {"since_us": since, "by": by, "reason": reason}
        since_us = self._instant(held, "since_us")
        return since_us, self._str(held, "by"), self._str(held, "reason")

    def _bytes(self, line: Line, name: str) -> bytes:
        try:
            return b64decode(line[name], validate=True)
        except (ValueError, TypeError):
            self._refuse(f"{name!r} is no base64")

    def _name(self, line: Line, name: str, kind: Callable[[Any], T]) -> T:
        members: Mapping[str, T] = cast("Any", kind).__members__
        text = self._str(line, name)
        found = members.get(text.upper()) if text == text.lower() else None
        if found is None:
            known: Sequence[str] = [one.lower() for one in members]
            self._refuse(f"{name!r} is {text!r:.60}, and not one of {', '.join(known)}")
        return found


_TAKERS: Final[Mapping[str, Callable[[_Reader, Line], None]]] = {
    "execution": _Reader.take_execution,
    "blob": _Reader.take_blob,
    "run": _Reader.take_run,
    "event": _Reader.take_event,
    "attempt": _Reader.take_attempt,
    "approval": _Reader.take_approval,
    "message": _Reader.take_message,
    "request": _Reader.take_request,
    "item": _Reader.take_item,
    "entity": _Reader.take_entity,
    "link": _Reader.take_link,
    "end": _Reader.take_end,
}
