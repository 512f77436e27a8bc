"""`everlong history`: every event of a run, and every attempt that is kept."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from everlong.cli._documents import document, named, one_line
from everlong.cli._durations import clock_time, instant, span
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._screen import Screen, cropped, out, write
from everlong.cli._steps import error_text
from everlong.client import Attempt, Client, HistoryEvent

__all__ = ["history"]

_FACT_CHARS_MAX: Final = 120
_KIND_COLUMNS: Final = 20
_TIME_COLUMNS: Final = 12

_STYLES: Final = {
    "ActivityCompleted": "green",
    "RunCompleted": "green",
    "ActivityFailed": "red",
    "ActivityTimedOut": "red",
    "ActivityLost": "red",
    "RunFailed": "red",
    "RunTimedOut": "red",
    "RunTerminated": "red",
    "SignalRejected": "yellow",
    "CancelRequested": "yellow",
    "RunCancelled": "yellow",
    "SignalReceived": "cyan",
    "UpdateReceived": "cyan",
    "UpdateCompleted": "green",
    "UpdateFailed": "red",
    "ChildStartFailed": "red",
    "ChildCancelRequested": "yellow",
}


def history(
    workflow_id: WorkflowId,
    run: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="An earlier run; `list --id` shows them.")
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the last N events.")
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", "-t", help="With tracebacks.")] = False,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show every event and attempt; times are UTC."""

    async def look(client: Client) -> list[HistoryEvent]:
        async with client:
            return await client.get_handle(workflow_id).history(run)

    every = asyncio.run(look(connect(db, namespace, codecs)))
    events = every[-last:] if last else every
    if as_json:
        write(document({"workflow_id": workflow_id, "events": events}))
        return ExitCode.OK
    screen = out()
    if not every:
        screen.say((workflow_id, "bold"), ("  no events; its start waits in the inbox", "dim"))
        return ExitCode.OK
    screen.say((workflow_id, "bold"), (f"  {len(every)} events from {instant(every[0].at)}", "dim"))
    drawing = _Drawing(screen, every[0].at, len(str(len(every))), tracebacks=traceback)
    drawing.draw(events, every[0].fields.get("reset"))
    return ExitCode.OK


class _Drawing:
    def __init__(self, screen: Screen, began: datetime, digits: int, *, tracebacks: bool) -> None:
        self._screen = screen
        self._began = began
        self._digits = digits
        self._tracebacks = tracebacks
        self._columns = digits + 2 + _TIME_COLUMNS + 4

    def draw(self, events: Sequence[HistoryEvent], reset: dict[str, Any] | None) -> None:
        for event in events:
            facts = dict(event.fields)
            facts.pop("reset", None)
            trace = str(facts.pop("traceback", ""))
            self._screen.say(
                (f"{event.seq:>{self._digits}}  {clock_time(event.at, self._began)}  ", "dim"),
                (f"{event.kind:<{_KIND_COLUMNS}}", _STYLES.get(event.kind, "")),
                (f"  {_told(facts, self._began)}", "dim"),
                hang=self._columns,
            )
            self._trace(trace)
            for attempt in event.attempts:
                self._attempt(attempt)
            if reset is not None and event.seq == max(reset["events"], 1):
                self._repeated(reset)

    def _repeated(self, reset: dict[str, Any]) -> None:
        """Behind the last event of the copy, or the first one of a run that has none."""
        at, of = clock_time(reset["at"], self._began), f"run {reset['run_id']}"
        kept = f"events 1 to {reset['events']} of {of}" if reset["events"] else f"the start of {of}"
        reason = f": {reset['reason']}" if reset["reason"] else ""
        text = f"↺ reset to {kept}{reason}"
        before = f"{'':{self._digits}}  {at}  "
        self._screen.say((before, "dim"), (text, "cyan"), hang=self._columns)

    def _attempt(self, one: Attempt) -> None:
        if one.state == "started":
            return
        text = f"attempt {one.number} {one.state.replace('_', ' ')}"
        if one.ended_at is not None and one.next_at is not None:
            text += f", again after {span((one.next_at - one.ended_at).total_seconds())}"
        text += f": {error_text(one.error_type, one.error)}"
        at = clock_time(one.ended_at or one.started_at, self._began)
        before = f"{'':{self._digits}}  {at}  "
        self._screen.say((before, "dim"), (f"↻ {text}", "yellow"), hang=self._columns)
        self._trace(one.traceback)

    def _trace(self, text: str) -> None:
        if self._tracebacks and text:
            self._screen.block(text, indent=self._columns, style="dim")


_UNTOLD: Final = frozenset(
    {
        "began",
        "error",
        "execution",
        "if_closed",
        "if_open",
        "run",
        "seed",
        "wants_start",
        "workflow_id",
    }
)
_NAMES: Final = frozenset(
    {"activity", "channel", "patch", "problem", "reason", "signal", "status", "target", "workflow"}
)
_PAYLOADS: Final = frozenset({"arguments", "payload", "result", "value"})


def _told(facts: dict[str, Any], began: datetime) -> str:
    """What an event says: names and values first, whatever else there is by its name."""
    words = (_word(name, value, facts, began) for name, value in facts.items())
    return "  ".join(word for word in words if word)


def _word(name: str, value: Any, facts: dict[str, Any], began: datetime) -> str:
    match name:
        case "activity_id" | "call_id" | "child_id" | "timer_id" | "number":
            return f"#{value}"
        case "error_type":
            return error_text(str(value), str(facts.get("error", "")))
        case "due_at":
            return f"due {clock_time(value, began)}"
        case "where":
            return f"at {value}"
        case "tags":
            return named(value)
        case "options":
            return "  ".join(_options(value))
        case _ if name in _UNTOLD or value is False:
            return ""
        case _ if name in _NAMES:
            return str(value)
        case _:
            shown = cropped(one_line(value), _FACT_CHARS_MAX)
            return shown if name in _PAYLOADS else f"{name}={shown}"


def _options(options: dict[str, Any]) -> list[str]:
    """Durations are stored in microseconds; people read `start_to_close=5.0 s`."""
    return [
        f"{name.removesuffix('_us')}={span(value / 1e6)}"
        if name.endswith("_us") and isinstance(value, int)
        else f"{name}={one_line(value)}"
        for name, value in options.items()
    ]
