"""`everlong debug`: replays one run under pdb. Nothing is executed again, and nothing is stored.

The workflow's code really runs, step by step, as it did; what it awaits comes out of the history.
So every local variable is what it was, and a breakpoint shows the moment that it was set for.
"""

import asyncio
import inspect
import pdb  # This is the command that is for it.
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any, Final

import typer

from everlong.cli._documents import one_line
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._onlookers import looking
from everlong.cli._options import (
    DEFAULT_STORE,
    Codecs,
    Db,
    Interceptors,
    Json,
    Namespace,
    WorkflowId,
    connect,
)
from everlong.cli._places import OURS, frames_of
from everlong.cli._screen import cropped, out
from everlong.cli._sources import load, load_interceptors
from everlong.client import Client
from everlong.client._transferring import read_exported
from everlong.exceptions import EverlongError, NondeterminismError, WorkflowNotFound
from everlong.replayer import Replay, Replayer
from everlong_engine import LoadedRun, RunFilter, fold, id_text, unpack

__all__ = ["debug"]

_VALUE_CHARS_MAX: Final = 200


def debug(
    id: WorkflowId,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Python files, or modules; perhaps an exported .jsonl file.",
        ),
    ],
    run: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="An earlier run of the execution.")
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop behind event N and show how the run stands."),
    ] = None,
    prompt: Annotated[
        bool,
        typer.Option(help="--no-prompt is for an IDE's debugger that runs this command."),
    ] = True,
    interceptors: Interceptors = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Replay one run under the debugger. Nothing is executed again, nothing is stored.

    It stops at the workflow's first line; what else stops it are breakpoints, and breakpoint() in
    the code. At the prompt `state` shows what is open. For a terminal: --json changes errors only.
    """
    del as_json
    code = [file for file in files if not file.endswith(".jsonl")]
    exports = [file for file in files if file.endswith(".jsonl")]
    if not code or len(exports) > 1:
        raise Mistake("name the Python file that holds the workflow, and at most one .jsonl file")
    for file in code:
        load(file)
    client = connect(db, namespace, codecs)
    found = _of_file(exports[0], id, run) if exports else _of_store(client, id, run)
    replay = Replayer(codecs=client.codecs, interceptors=load_interceptors(interceptors)).open(
        found
    )
    try:
        return _Session(replay, with_prompt=prompt).go(at)
    finally:
        replay.discard()


def _of_store(client: Client, workflow_id: str, run_id: str | None) -> LoadedRun:
    with looking(client) as store:
        for row in store.runs(RunFilter(client.namespace, workflow_id=workflow_id)):
            if run_id in (None, id_text(row.run_id)):
                loaded = store.load(row)
                if loaded is not None:
                    return loaded
    raise _no_such_run(workflow_id, run_id)


def _of_file(file: str, workflow_id: str, run_id: str | None) -> LoadedRun:
    try:
        executions = read_exported(Path(file))
    except OSError as error:
        raise Mistake(str(error)) from error
    for execution in executions:
        for run in reversed(execution.runs):
            row = run.row
            if row.workflow_id == workflow_id and run_id in (None, id_text(row.run_id)):
                return execution.load(run)
    raise _no_such_run(workflow_id, run_id)


def _no_such_run(workflow_id: str, run_id: str | None) -> WorkflowNotFound:
    if run_id is None:
        return WorkflowNotFound(workflow_id=workflow_id)
    return WorkflowNotFound(f"{workflow_id!r} has no run {run_id!r}", workflow_id=workflow_id)


class _Session:
    """One replay, input by input, with a debugger beside it."""

    def __init__(self, replay: Replay, *, with_prompt: bool) -> None:
        self._replay = replay
        self._screen = out()
        self._debugger = _Debugger(replay, self.tell_state) if with_prompt else None

    def go(self, at: int | None) -> int:
        events = len(self._replay.history)
        if not events:
            raise Mistake("the run has not begun: its start waits in the inbox for a worker")
        if at is not None and at > events:
            raise Mistake(f"--at {at}: the run has {events} events")
        self._screen.say(
            (self._replay.row.workflow_id, "bold"), f"  {self._replay.row.type}  {events} events"
        )
        try:
            if at is not None:
                self._replay.feed_up_to(at)
                self.tell_state()
                self._stop_here()
            elif self._debugger is not None:
                self._debugger.stop_at(self._replay.function)
            self._feed_the_rest()
        except EverlongError as fault:
            return self._tell_fault(fault)
        if self._debugger is None or not self._debugger.left:
            self._screen.say(("✓ ", "green"), f"replayed to event {self._replay.fed}")
        return ExitCode.OK

    def _feed_the_rest(self) -> None:
        debugger = self._debugger
        if debugger is None:
            while self._replay.feed_next():
                pass
            return
        with debugger:
            while not debugger.left and debugger.watching(self._replay.feed_next):
                pass

    def _stop_here(self) -> None:
        if self._debugger is None:
            return
        frames = list(frames_of(self._replay.main))
        if frames:
            self._debugger.prompt_at(frames[-1])

    def _tell_fault(self, fault: EverlongError) -> int:
        where = f" behind event {self._replay.fed}"
        self._screen.say(("✗ ", "red"), f"the code and the history part{where}")
        if isinstance(fault, NondeterminismError):
            self._screen.say(("recorded  ", "dim"), fault.recorded, indent=4)
            self._screen.say(("made now  ", "dim"), fault.made, indent=4)
        else:
            self._screen.explain(text=f"{type(fault).__name__}: {fault}", indent=4)
        return ExitCode.PROBLEM

    # ------------------------------------------------------------------------------ the state

    def tell_state(self) -> None:
        """What is open behind the last event that was fed, and where the code waits."""
        replay, screen = self._replay, self._screen
        state = fold(replay.history[: replay.fed])
        last = replay.history[replay.fed - 1] if replay.fed else None
        name = "" if last is None else type(last.event).__name__
        screen.say((f"behind event {replay.fed} of {len(replay.history)}", "bold"), f"  {name}")
        for number, activity in sorted(state.activities.items()):
            called = f"{activity.scheduled.activity} (number {number})"
            arguments = _value(unpack(activity.scheduled.arguments))
            screen.say(("activity  ", "dim"), f"{called} {arguments}", indent=2)
        for timer in state.timers.values():
            left = max(timer.due_us - replay.now_us, 0) / 1e6
            screen.say(("timer     ", "dim"), f"{timer.timer_id}, due {left:.3f} s later", indent=2)
        for requested, _ in state.approvals.values():
            screen.say(("approval  ", "dim"), requested.title, indent=2)
        for child in state.children.values():
            screen.say(("child     ", "dim"), child.scheduled.target, indent=2)
        if replay.closed:
            screen.say(("the run has ended", "dim"), indent=2)
            return
        for task in replay.tasks:
            for frame in frames_of(task):
                place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                screen.say(
                    (f"{task.get_name():<10}", "dim"),
                    f"{place} in {frame.f_code.co_name}()",
                    indent=2,
                )
                for variable, value in frame.f_locals.items():
                    screen.say(f"{variable} = {_shown(value)}", indent=6)


def _caller() -> FrameType | None:
    """Who has called what calls this."""
    here = inspect.currentframe()
    hook = None if here is None else here.f_back
    return None if hook is None else hook.f_back


def _value(value: object) -> str:
    return cropped(one_line(value), _VALUE_CHARS_MAX)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<its repr() raised {type(error).__name__}>"
    return cropped(text, _VALUE_CHARS_MAX)


class _Debugger(pdb.Pdb):
    """pdb, which steps through the user's code only, and whose `quit` ends the replay in order.

    As pdb has it, `quit` raises an exception in the code that is debugged, which could catch it.
    """

    def __init__(self, replay: Replay, tell_state: Callable[[], None]) -> None:
        skipped = [pattern for name in OURS for pattern in (name, f"{name}.*")]
        super().__init__(skip=skipped)
        self.prompt = "(everlong) "
        self.left = False
        self._replay = replay
        self._tell_state = tell_state
        self._first: CodeType | None = None
        self._hook = sys.breakpointhook
        self._told = -1
        self.reset()
        self.set_continue()

    # ------------------------------------------------------------------------- where it watches

    def __enter__(self) -> None:
        """`breakpoint()` in the code comes here, too."""

        def hook(*_: object, **__: object) -> None:
            if not self.left:
                self.set_trace(_caller())

        if sys.breakpointhook is sys.__breakpointhook__:
            sys.breakpointhook = hook

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.breakpointhook = self._hook

    def watching(self, work: Callable[[], bool]) -> bool:
        """Run it under the debugger, as long as anything may stop it."""
        if self._first is None and not self.breaks and self.stoplineno == -1:
            return work()  # Nothing may: at full speed. breakpoint() still does.
        self.botframe = inspect.currentframe()
        if self.stoplineno == -1:
            self.stopframe = self.botframe  # It goes on from where it was told to continue.
        sys.settrace(self.trace_dispatch)
        try:
            return work()
        finally:
            sys.settrace(None)

    def stop_at(self, function: Callable[..., Any]) -> None:
        """At the first line of a function."""
        self._first = function.__code__

    def prompt_at(self, frame: FrameType) -> None:
        """Ask in a frame that waits."""
        self.interaction(frame, None)

    def stop_here(self, frame: FrameType) -> bool:
        if self._first is None:
            return bool(super().stop_here(frame))
        return frame.f_code is self._first

    def user_return(self, frame: FrameType, return_value: Any) -> None:
        """A coroutine that waits has not returned, though Python calls it so."""
        if not isinstance(return_value, asyncio.Future):
            super().user_return(frame, return_value)

    def user_line(self, frame: FrameType) -> None:
        self._first = None  # Here it is: its first line, and not the call.
        if self._told != self._replay.fed:
            self._told = self._replay.fed
            event = self._replay.history[self._replay.fed]
            self.message(f"— event {event.seq}: {type(event.event).__name__}")
        super().user_line(frame)

    # ------------------------------------------------------------------------------- commands

    def do_state(self, arg: str) -> None:
        """state
        What is open, and where the code waits, behind the last event that was fed.
        """
        del arg
        self._tell_state()

    def do_quit(self, arg: str) -> bool | None:
        """q(uit)
        Leave the replay.
        """
        del arg
        self.left = True
        self.clear_all_breaks()
        self.set_continue()
        return True

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> bool | None:  # noqa: N802
        """EOF
        As quit.
        """
        self.message("")
        return self.do_quit(arg)

    def do_run(self, arg: str) -> bool | None:
        """run, restart
        Not here: leave, and give the command again.
        """
        del arg
        self.error("leave with q, and give the command again")
        return None

    do_restart = do_run
