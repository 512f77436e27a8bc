"""The acceptance tests once more, under conditions that a feature must not notice.

`EVERLONG_HARDER=cache-off` keeps no run in memory: each input is fed to code that has just been
replayed. `EVERLONG_HARDER=every-prefix` replays the history so far in fresh code behind every
input, which must make the same decisions. `make harder` runs both. A test that counts how often its
own workflow's code runs, or that is about the cache, has the marker `once` and is left out.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from everlong import Worker
from everlong._replay.run import WorkflowRun
from everlong_engine import Decision, Input

__all__ = ["MODE", "harder", "replays"]

MODE: Final = os.environ.get("EVERLONG_HARDER", "")
_EVENTS_MAX: Final = 400
"""Longer histories are replayed for each tenth input only."""
replays: Final[list[int]] = []
"""How many inputs each replay of a prefix fed."""


@contextmanager
def harder(mode: str) -> Generator[None]:
    """Runs a test in a mode; "" is the usual one."""
    match mode:
        case "":
            yield
        case "cache-off":
            with _cache_off():
                yield
        case "every-prefix":
            with _every_prefix():
                yield
        case _:
            raise ValueError(f"EVERLONG_HARDER={mode}: choose cache-off or every-prefix")


@contextmanager
def _cache_off() -> Generator[None]:
    begin = Worker.__init__

    def without_cache(self: Worker, *args: Any, **options: Any) -> None:
        options.setdefault("cache_size", 0)
        begin(self, *args, **options)

    with mock.patch.object(Worker, "__init__", without_cache):
        yield


_Fed = list[tuple[Input, int, list[Decision], int]]


@contextmanager
def _every_prefix() -> Generator[None]:
    feed, discard = WorkflowRun.feed, WorkflowRun.discard
    fed: dict[WorkflowRun, _Fed] = {}
    replaying: list[None] = []

    def feed_and_replay(
        self: WorkflowRun,
        event: Input,
        at_us: int,
        recorded: Sequence[Decision] | None = None,
        seq: int = 0,
    ) -> list[Decision]:
        events = self.history_events
        made = feed(self, event, at_us, recorded, seq)
        if replaying:
            return made
        log = fed.setdefault(self, [])
        log.append((event, at_us, list(made), events))
        if recorded is None and (len(log) <= _EVENTS_MAX or len(log) % 10 == 0):
            replaying.append(None)
            try:
                _replay(self, log)
            finally:
                replaying.pop()
        return made

    def _replay(run: WorkflowRun, log: _Fed) -> None:
        code = WorkflowRun(run.definition, run.run_id, run._signals._types)  # type: ignore[arg-type]  # pyright: ignore[reportPrivateUsage, reportArgumentType]
        code.loop.conceals = run.loop.conceals
        at = 1
        try:
            for event, at_us, made, events in log:
                code.history_events = events
                feed(code, event, at_us, made, at)
                at += 1 + len(made)
        finally:
            discard(code)
        replays.append(len(log))

    def forget(self: WorkflowRun) -> None:
        fed.pop(self, None)
        discard(self)

    with (
        mock.patch.object(WorkflowRun, "feed", feed_and_replay),
        mock.patch.object(WorkflowRun, "discard", forget),
    ):
        yield
