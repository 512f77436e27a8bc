"""Harder conditions that tests put workflow code under, and that no right code notices.

`always_replay`: behind each input that is fed for the first time, the whole history so far is
replayed in fresh code, which must make the same decisions. `forgets`: each checkpoint begins anew
where it may, so that state which was not carried as a parameter is gone.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from everlong._definitions import WorkflowDefinition
from everlong._interception import Hooks
from everlong._replay.run import WorkflowRun
from everlong_engine import Decision, Input

__all__ = ["Modes", "current", "use"]

_EVENTS_MAX: Final = 400
"""Behind so many inputs, each tenth is followed by a replay: their cost grows with the square."""


@dataclass(frozen=True, slots=True)
class Modes:
    """What a worker demands of the code that it runs."""

    always_replay: bool = False
    forgets: bool = False
    on_replay: Callable[[int], None] | None = None
    """Called behind each replay of a prefix, with the number of inputs that were fed."""

    def new_run(
        self,
        definition: WorkflowDefinition,
        run_id: str,
        signals: Mapping[str, Any],
        hooks: Hooks | None = None,
    ) -> WorkflowRun:
        """A run's code before its first input."""
        if self.always_replay:
            run: WorkflowRun = _ReplayedRun(definition, run_id, signals, self.on_replay)
        else:
            run = WorkflowRun(definition, run_id, signals)
        run.forgets = self.forgets
        if hooks is not None:
            run.hooks = hooks
        return run


_USUAL: Final = Modes()
_in_use: Final = [_USUAL]


def current() -> Modes:
    """Those of workers that begin now."""
    return _in_use[-1]


@contextmanager
def use(modes: Modes) -> Generator[None]:
    """For workers that begin inside the block."""
    _in_use.append(modes)
    try:
        yield
    finally:
        _in_use.remove(modes)


class _ReplayedRun(WorkflowRun):
    """Replays every prefix of its history, as soon as there is one."""

    def __init__(
        self,
        definition: WorkflowDefinition,
        run_id: str,
        signals: Mapping[str, Any],
        on_replay: Callable[[int], None] | None,
    ) -> None:
        super().__init__(definition, run_id, signals)
        self._types = signals
        self._on_replay = on_replay
        self._fed: list[tuple[Input, int, Sequence[Decision], int]] = []

    def feed(
        self, event: Input, at_us: int, recorded: Sequence[Decision] | None = None, seq: int = 0
    ) -> list[Decision]:
        events = self.history_events
        made = super().feed(event, at_us, recorded, seq)
        fed = self._fed
        fed.append((event, at_us, tuple(made), events))
        if recorded is None and (len(fed) <= _EVENTS_MAX or len(fed) % 10 == 0):
            self._replay_all()
        return made

    def _replay_all(self) -> None:
        """Raises NondeterminismError; the run is then parked with nothing of this input stored."""
        code = WorkflowRun(self.definition, self.run_id, self._types)
        code.loop.conceals = self.loop.conceals
        if self.hooks is not None:
            code.hooks = self.hooks
        seq = 1
        try:
            for event, at_us, made, events in self._fed:
                code.history_events = events
                code.feed(event, at_us, made, seq)
                seq += 1 + len(made)
        finally:
            code.discard()
        if self._on_replay is not None:
            self._on_replay(len(self._fed))

    def discard(self) -> None:
        self._fed.clear()
        super().discard()
