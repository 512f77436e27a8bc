"""Replays histories against today's code: what a worker does when it loads a run, and nothing else.

No activity begins, nothing is stored and nobody is told. The histories come from exported files or
from a store that is only looked at; the verdict names the first step that the code decides
otherwise.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from everlong import registry
from everlong._definitions import WorkflowDefinition
from everlong._interception import Hooks, hooks_for_workflows
from everlong._records import Records
from everlong._replay import anyio_adapter, asyncio_adapter, guard
from everlong._replay.history import end_of_pair, replay
from everlong._replay.run import WorkflowRun
from everlong.client import BUILT_IN
from everlong.client._transferring import read_exported
from everlong.codec import Codec
from everlong.exceptions import (
    EverlongError,
    ForbiddenCall,
    InvalidArguments,
    MissingKey,
    NondeterminismError,
    UndecodablePayload,
    WorkflowFault,
    WorkflowNotFound,
)
from everlong.interceptors import Interceptor
from everlong.workflow import Workflow
from everlong_engine import LoadedRun, RunRow, id_text

__all__ = ["Replay", "ReplayedRun", "Replayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedRun:
    """What came of the replay of one run.

    Attributes:
        events: how many its history has.
        fault: None when the code does all that is recorded. A `NondeterminismError` names the first
            differing step: `recorded` against `made`, `recorded_at` against `made_at`.
        event: the number of the event where the code and the history part; None if they do not.
    """

    workflow_id: str
    run_id: str
    workflow: str
    status: str
    events: int
    fault: EverlongError | None = None
    event: int | None = None

    @property
    def fits(self) -> bool:
        """Whether a worker with this code would go on with the run."""
        return self.fault is None

    @property
    def advice(self) -> str:
        """What to do about the fault, in a sentence; "" when there is none."""
        return _advice(self.fault)

    @classmethod
    def of(cls, row: RunRow, fault: EverlongError | None, event: int | None = None) -> Self:
        """Not public: from a row of the store."""
        return cls(
            workflow_id=row.workflow_id,
            run_id=id_text(row.run_id),
            workflow=row.type,
            status=row.status.text,
            events=row.next_seq - 1,
            fault=fault,
            event=event,
        )


class Replayer:
    """Replays exported histories against the code that is imported here.

    For golden histories in your own repository: export runs of each version that you deploy, keep
    the files, and let a test replay them. What people get wrong: a history shows only the way that
    it went; keep one of each branch.

        def test_no_deployed_run_is_broken() -> None:
            for path in Path("tests/histories").glob("*.jsonl"):
                Replayer([order]).replay(path)

    Args:
        workflows: functions decorated with `@workflow`; all that are imported unless given.
        codecs: what opens encrypted payloads, as for `Client.connect`.
        interceptors: those of the worker, as far as they decide anything themselves.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[..., Any]] | None = None,
        *,
        codecs: Sequence[Codec] = (),
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        known = registry.workflows.values() if workflows is None else workflows
        self._workflows: dict[str, WorkflowDefinition] = {
            name: one.definition for name, one in BUILT_IN.items()
        }
        for one in known:
            if not isinstance(one, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidArguments(
                    f"Replayer takes functions decorated with @workflow, not {one!r}"
                )
            self._workflows[one.definition.name] = one.definition
        self._records = Records(codecs)
        self._hooks = hooks_for_workflows(Hooks(interceptors))
        guard.install()
        asyncio_adapter.install_as_completed()
        anyio_adapter.install()

    def replay(self, history: str | Path) -> list[ReplayedRun]:
        """Replay every run of an export; the code must do all that is recorded.

        Args:
            history: a file, or the text that `client.export` has made.

        Returns:
            What was replayed, each run of the chain.

        Raises:
            NondeterminismError: the code decides otherwise; it names the first differing step.
            EverlongError: the code cannot be replayed for another reason, which it names.
            UnreadableExport: the file is damaged, foreign or newer.
        """
        done = self.check(history)
        for one in done:
            if one.fault is not None:
                one.fault.add_note(
                    f"while replaying {one.workflow_id!r} ({one.workflow}, run {one.run_id}), "
                    f"event {one.event} of {one.events}"
                )
                raise one.fault
        return done

    def check(self, history: str | Path) -> list[ReplayedRun]:
        """The same, but the verdict is in what it returns: `fits`, `fault`, `event`, `advice`."""
        return list(self._check(history))

    def _check(self, history: str | Path) -> Iterator[ReplayedRun]:
        for execution in read_exported(history):
            for run in execution.runs:
                yield self.check_run(execution.load(run))

    def check_run(self, loaded: LoadedRun) -> ReplayedRun:
        """Not public: of a run that was loaded."""
        row = loaded.row
        definition = self._workflows.get(row.type)
        if definition is None:
            return ReplayedRun.of(row, self._no_workflow(row))
        code = self.new_code(definition, loaded)
        try:
            replay(code, self._records.opened(loaded).history)
        except EverlongError as fault:
            return ReplayedRun.of(row, fault, _event(fault, code, row))
        finally:
            code.discard()
        return ReplayedRun.of(row, None)

    def open(self, loaded: LoadedRun) -> "Replay":
        """Not public: a run to be replayed input by input.

        Raises:
            WorkflowNotFound: the code has no such workflow.
            UndecodablePayload: a key is missing.
        """
        definition = self._workflows.get(loaded.row.type)
        if definition is None:
            raise self._no_workflow(loaded.row)
        return Replay(definition, self.new_code(definition, loaded), self._records.opened(loaded))

    def _no_workflow(self, row: RunRow) -> WorkflowNotFound:
        known = ", ".join(sorted(self._workflows.keys() - BUILT_IN.keys())) or "none"
        return WorkflowNotFound(f"the code has no workflow {row.type!r}; there is {known}")

    def new_code(self, definition: WorkflowDefinition, loaded: LoadedRun) -> WorkflowRun:
        """Not public: a run's code before its first input."""
        code = WorkflowRun(definition, id_text(loaded.row.run_id), registry.signals)
        code.loop.conceals = self._records.conceals
        code.history_bytes = loaded.history_bytes
        if self._hooks is not None:
            code.hooks = self._hooks
        return code


class Replay:
    """Not public: a run that is replayed input by input, for the debugger."""

    def __init__(
        self, definition: WorkflowDefinition, code: WorkflowRun, loaded: LoadedRun
    ) -> None:
        self.row = loaded.row
        self.history = loaded.history
        self.function = definition.function
        self.fed = 0
        """How many events the code has behind it."""
        self._code = code

    def feed_next(self) -> bool:
        """One input with its decisions; False at the end. Raises WorkflowFault."""
        if self.fed >= len(self.history):
            return False
        self.feed_up_to(self.fed + 1)
        return True

    def feed_up_to(self, seq: int) -> None:
        """Up to the end of the pair that an event belongs to. Raises WorkflowFault."""
        end = end_of_pair(self.history, seq)
        replay(self._code, self.history, self.fed, end)
        self.fed = end

    def discard(self) -> None:
        """Drop the code where it stands."""
        self._code.discard()

    @property
    def closed(self) -> bool:
        """Whether the code has made its last decision."""
        return self._code.closed

    @property
    def now_us(self) -> int:
        """The time in the code."""
        return self._code.now_us

    @property
    def main(self) -> "asyncio.Task[None] | None":
        """The task that the workflow function runs in."""
        return self._code.main

    @property
    def tasks(self) -> "list[asyncio.Task[Any]]":
        """Those that wait, the main one first."""
        return [task for task in self._code.loop.tasks if not task.done()]


def _event(fault: EverlongError, code: WorkflowRun, row: RunRow) -> int | None:
    """The differing step's, or that of the input that was being fed. Behind the last event there
    is none to name, where the code decides more than is recorded."""
    found = fault.seq if isinstance(fault, NondeterminismError) else None
    return min(found or code.history_events + 1, row.next_seq - 1) or None


_PATCH: Final = (
    "Runs that stand behind this point went the old way: put the change behind "
    '`if patched("…"):` with the old code in the other branch, or bring back the old order of steps'
)


def _advice(fault: EverlongError | None) -> str:
    match fault:
        case None:
            return ""
        case NondeterminismError():
            return _PATCH
        case WorkflowNotFound():
            return (
                'If it was renamed, give it its old name: @workflow(name="…"). If other files '
                "define it, name them too"
            )
        case MissingKey():
            return "Give the key with --codecs, or codecs=[Encrypt(…)]"
        case UndecodablePayload():
            return "Bring the old type back, or give new fields defaults"
        case ForbiddenCall():
            return fault.fix
        case WorkflowFault():
            return "The code itself is at fault: run it in a test"
        case _:
            return "See the message"
