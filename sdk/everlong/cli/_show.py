"""`everlong show`: how one execution stands, and what it waits for; with its code, where."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from everlong.cli._documents import as_plain, document, for_people, named, one_line
from everlong.cli._durations import ago, instant, now, span
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._outcomes import Outcome, outcome_of
from everlong.cli._pausing import held
from everlong.cli._places import Place, places
from everlong.cli._screen import (
    STATUS,
    Cell,
    Part,
    Screen,
    cropped,
    out,
    output_kept_for_document,
    write,
)
from everlong.cli._sources import load
from everlong.cli._workers import hosting, missing
from everlong.client import (
    Client,
    DebouncedStarts,
    ExecutionDescription,
    Pause,
    PendingActivity,
    PendingChild,
    PendingTimer,
    Repeated,
)
from everlong.exceptions import EverlongError, WorkflowNotFound
from everlong_engine import LoadedRun

__all__ = ["origin_of", "show"]

_INPUT_CHARS_MAX: Final = 300
_ERROR_CHARS_MAX: Final = 300
_CODE_CHARS_MAX: Final = 100
_OPEN_SHOWN_MAX: Final = 40


def show(
    workflow_id: WorkflowId,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE…]", help="Its code, to tell the lines where it waits."),
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show how an execution stands, and what it waits for.

    With the files that hold its code it is replayed, and each line at which it waits is told: also
    for a signal or a condition, of which the store knows nothing. Nothing is executed again.
    """
    client = connect(db, namespace, codecs)
    # What the workflow's own code prints is no part of the answer.
    with output_kept_for_document(bool(files)):
        for file in files or ():
            load(file)
        view, loaded = asyncio.run(_look(client, workflow_id, with_history=bool(files)))
        if loaded is not None:
            view = replace(view, waits=_waits(client, loaded))
    if as_json:
        write(document(view.document()))
    else:
        view.draw(out())
    return ExitCode.OK


async def _look(
    client: Client, workflow_id: str, *, with_history: bool
) -> "tuple[_View, LoadedRun | None]":
    async with client:
        handle = client.get_handle(workflow_id)
        found = await handle.describe()
        outcome = None
        if found.closed_at is not None or found.status == "blocked":
            outcome = outcome_of(found, await handle.history(found.run_id))
        view = _View(found, outcome, hosting(await client.workers(), found), now())
        row = await client.run_row(found.run_id) if with_history and view.is_open else None
        store = client.engine.store
        return view, None if row is None else await store.load(row.shard, row.run_id)


def _waits(client: Client, loaded: LoadedRun) -> "list[Place] | EverlongError":
    """Where it waits; or why this code cannot tell."""
    try:
        return places(client, loaded)
    except WorkflowNotFound:
        raise
    except EverlongError as fault:
        return fault


@dataclass(frozen=True, slots=True)
class _View:
    found: ExecutionDescription
    outcome: Outcome | None
    hosts: list[str]
    today: datetime
    waits: "list[Place] | EverlongError | None" = None
    """None where no code was given, or it waits for nothing any more."""

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = as_plain(self.found)
        found |= {"hosted": bool(self.hosts), "hosted_by": self.hosts}
        match self.waits:
            case None:
                pass
            case list():
                found["waits_at"] = as_plain(self.waits)
            case fault:
                found["waits_at"] = None
                found["replay_error"] = str(fault)
        return found if self.outcome is None else found | self.outcome.document(self.found)

    def draw(self, screen: Screen) -> None:
        found = self.found
        mark, style = STATUS[found.status]
        screen.say(
            (f"{mark} ", style),
            (found.workflow_id, "bold"),
            f"  {found.type}  ",
            (found.status.replace("_", " "), style),
            (", asked to cancel" if found.cancel_requested and self.is_open else "", "yellow"),
        )
        self._draw_facts(screen)
        self._draw_outcome(screen)
        if found.activities:
            screen.say(("activities", "dim"), indent=2)
            self._draw_table(screen, [self._activity(one) for one in found.activities])
            self._draw_errors(screen)
        if found.approvals:
            self._draw_approvals(screen)
        if found.children:
            screen.say(("children", "dim"), indent=2)
            self._draw_table(screen, [self._child(one) for one in found.children])
        if found.timers:
            screen.say(("timers", "dim"), indent=2)
            self._draw_table(screen, [self._timer(one) for one in found.timers])

        self._draw_waits(screen)

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.found.closed_at is None and self.found.status != "moved"

    def _draw_facts(self, screen: Screen) -> None:
        found = self.found
        started = f"{instant(found.started_at)}, {ago(found.started_at, self.today)}"
        if found.closed_at is not None:
            started += f"; took {span((found.closed_at - found.started_at).total_seconds())}"
        facts: list[tuple[str, Part]] = [
            ("started", started),
            ("input", self._input()),
            ("run", f"{found.run_id}, {found.history_events} events"),
        ]
        if found.status == "moved":
            facts.append(("moved to", cropped(one_line(found.reason or "?"), _INPUT_CHARS_MAX)))
        if found.begins_at is not None:
            wait = span((found.begins_at - self.today).total_seconds())
            facts.append(("begins", (f"{instant(found.begins_at)}, in {wait}", "yellow")))
        if found.debounced is not None:
            facts.append(("starts", together_of(found.debounced)))
        if found.waits_for_turn:
            facts.append(("begins", ("when its pool has room: see `everlong pools`", "yellow")))
        if found.tags:
            facts.append(("tags", named(found.tags)))
        if found.memo is not None:
            facts.append(("memo", cropped(one_line(found.memo), _INPUT_CHARS_MAX)))
        if found.parent is not None:
            facts.append(("parent", found.parent))
        if found.reset is not None:
            facts.append(("reset", origin_of(found.reset, found.workflow_id)))
        if found.code:
            facts.append(("code", f"{found.code}, Python {found.python}"))
        if found.version is not None:
            facts.append(("version", f"{found.version}, to which it is pinned"))
        if self.is_open:
            facts.append(("worker", self._worker()))
        if found.paused is not None and self.is_open:
            facts.append(("paused", self._pause(found.paused)))
        if found.lost_in_a_row:
            facts.append(("lost", (f"{found.lost_in_a_row} workers in a row died with it", "red")))
        signals, waiting = self._signals()
        if signals:
            facts.append(("signals", signals))
        if found.rejected:
            facts.append(("rejected", (f"{_counted(found.rejected)}; history tells why", "yellow")))
        if waiting:
            facts.append(("inbox", (f"{waiting} waiting to be fed", "yellow")))
        for name, value in facts:
            screen.say((f"{name:<9}", "dim"), value, indent=2)

    @property
    def _has_begun(self) -> bool:
        return self.found.history_events > 0

    def _input(self) -> Part:
        if not self._has_begun:
            return ("not begun; its start waits in the inbox", "dim")
        return cropped(one_line(self.found.input), _INPUT_CHARS_MAX)

    def _worker(self) -> Part:
        found = self.found
        if found.owner is not None and found.owner in self.hosts:
            return f"{found.owner} has it"
        if self.hosts:
            return f"{', '.join(self.hosts)} takes it up when there is something to do"
        hint = ": everlong worker FILE" if found.version is None else ""
        return (f"{missing(found)}{hint}", "yellow")

    def _pause(self, one: Pause) -> Part:
        """Who holds it, and why."""
        words = "".join(part if isinstance(part, str) else part[0] for part in held(one))
        return (words, "yellow")

    def _signals(self) -> tuple[str, int]:
        """Those that the journal has, by name; how many messages the inbox still has."""
        waiting = sum(one == "(in the inbox)" for one in self.found.signals)
        come = _counted(one for one in self.found.signals if one != "(in the inbox)")
        # The first message of an execution is its start.
        return come, waiting - (0 if self._has_begun else 1)

    def _draw_outcome(self, screen: Screen) -> None:
        outcome = self.outcome
        if outcome is None:
            return
        if self.found.status == "completed":
            if outcome.result is not None:
                screen.say(("result", "dim"), indent=2)
                screen.block(for_people(outcome.result), indent=4)
        elif outcome.reason:
            style = STATUS[self.found.status][1]
            label = (f"{'reason':<9}", "dim")
            screen.explain(label, text=outcome.reason, indent=2, style=style)
        if outcome.unread:
            screen.say(("never received  ", "dim"), ", ".join(outcome.unread), indent=2)

    def _draw_table(self, screen: Screen, rows: list[list[Cell]]) -> None:
        screen.table(rows[:_OPEN_SHOWN_MAX])
        if len(rows) > _OPEN_SHOWN_MAX:
            screen.say((f"and {len(rows) - _OPEN_SHOWN_MAX} more", "dim"), indent=4)

    def _activity(self, one: PendingActivity) -> list[Cell]:
        state, attempt = one.state, f"attempt {one.attempt}"
        if one.next_at is not None and state == "backing off":
            state = f"again in {span((one.next_at - self.today).total_seconds())}"
            attempt = f"after attempt {one.attempt}"
        elif state == "queued":
            state = f"queued in {one.queue or 'default'}"
        elif one.worker is not None:
            state = f"running on {one.worker}"
        waited = span((self.today - one.scheduled_at).total_seconds())
        return [
            f"    {one.name}",
            (state, "yellow" if one.last_error else "cyan"),
            attempt,
            (f"for {waited}", "dim"),
            (one.where, "dim"),
        ]

    def _draw_errors(self, screen: Screen) -> None:
        for one in self.found.activities[:_OPEN_SHOWN_MAX]:
            if one.last_error:
                error = cropped(one.last_error, _ERROR_CHARS_MAX)
                screen.say((f"{one.name}: ", "dim"), (error, "yellow"), indent=4)

    def _draw_approvals(self, screen: Screen) -> None:
        screen.say(("approvals", "dim"), indent=2)
        for one in self.found.approvals[:_OPEN_SHOWN_MAX]:
            waited = span((self.today - one.opened_at).total_seconds())
            who = ", ".join(one.approvers) or "anybody"
            screen.say((one.title, "cyan"), f"  by {who}", (f"  for {waited}", "dim"), indent=4)
            if one.data is not None:
                screen.say(cropped(one_line(one.data), _INPUT_CHARS_MAX), indent=6)
            screen.say((f"everlong approve {one.id} --by NAME", "bold"), ", or reject", indent=6)
        if len(self.found.approvals) > _OPEN_SHOWN_MAX:
            screen.say((f"and {len(self.found.approvals) - _OPEN_SHOWN_MAX} more", "dim"), indent=4)

    def _child(self, one: PendingChild) -> list[Cell]:
        waited = span((self.today - one.scheduled_at).total_seconds())
        return [
            f"    {one.workflow_id}",
            one.name,
            (f"for {waited}", "dim"),
            (one.where, "dim"),
        ]

    def _timer(self, one: PendingTimer) -> list[Cell]:
        left = (one.due_at - self.today).total_seconds()
        return [
            f"    {'in ' + span(left) if left > 0 else 'due'}",
            instant(one.due_at),
            (one.where, "dim"),
        ]

    def _draw_waits(self, screen: Screen) -> None:
        if isinstance(self.waits, EverlongError):
            label = ("where it waits cannot be told: ", "yellow")
            screen.explain(label, text=f"this code cannot replay it: {self.waits}", indent=2)
        elif self.waits:
            screen.say(("waits at", "dim"), indent=2)
            self._draw_table(screen, [self._place(one) for one in self.waits])

    def _place(self, one: Place) -> list[Cell]:
        tasks = f"  × {one.tasks}" if one.tasks > 1 else ""
        code = cropped(one.code, _CODE_CHARS_MAX)
        return [f"    {one.where}", (f"{one.function}()", "dim"), [code, (tasks, "dim")]]


def together_of(one: DebouncedStarts) -> str:
    """Which starts an execution is made of, for people."""
    key = f" with the key {one.key}" if one.key else ""
    latest = "" if one.latest_at is None else f"; begins by {instant(one.latest_at)}"
    return f"{one.starts:,}{key}, debounced since {instant(one.first_at)}{latest}"


def origin_of(one: Repeated, workflow_id: str) -> str:
    """Where a run comes from that was reset or forked, for people."""
    kept = f"keeps events 1 to {one.events} of" if one.events else "begins as"
    whose = "" if one.workflow_id == workflow_id else f" ({one.workflow_id})"
    reason = f": {one.reason}" if one.reason else ""
    return f"{kept} run {one.run_id}{whose}, since {instant(one.at)}{reason}"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(
        f"{name} × {count}" if count > 1 else name for name, count in Counter(names).items()
    )
