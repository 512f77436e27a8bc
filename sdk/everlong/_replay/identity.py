"""Whom the code takes itself for: its run and its workflow id.

A run that was reset repeats what others recorded. There the code was told their ids, may have used
them in what it decided, and must be told the same again; behind the copy it learns its own.
"""

from typing import Protocol

from everlong._info import WorkflowInfo
from everlong._replay.labels import Labels
from everlong._replay.ledger import Ledger
from everlong._replay.outputs import Outputs
from everlong_engine import RunStarted, id_text

__all__ = [
    "Identity",
    "Named",
    "arrive",
    "begin",
    "info_of",
    "naming_seed_of",
    "scheduled_by",
    "workflow_id_of",
]


class Identity:
    """For one part of what a run that was reset repeats, or for its own part."""

    __slots__ = ("before", "last", "naming_seed", "part", "run_id", "workflow_id")

    def __init__(
        self,
        part: int,
        last: int | None,
        run_id: str,
        workflow_id: str,
        naming_seed: int,
        before: tuple[tuple[int, str], ...],
    ) -> None:
        self.part = part
        self.last = last
        """The last event of the part; None for the run's own."""
        self.run_id = run_id
        self.workflow_id = workflow_id
        self.naming_seed = naming_seed
        self.before = before
        """Parts before this one: the last number that each gave to an activity, and its run."""


class Named(Ledger, Protocol):
    """A `WorkflowRun`, as it is asked for its names."""

    run_id: str
    last_id: int
    history_events: int
    identity: Identity | None

    @property
    def outputs(self) -> Outputs: ...
    @property
    def labels(self) -> Labels: ...


def begin(run: Named, started: RunStarted, seq: int | None) -> None:
    """The first event of a run that was reset is fed."""
    _become(run, 0, started)
    arrive(run, seq)


def arrive(run: Named, seq: int | None) -> None:
    """The next input stands there in the history; None: nothing is repeated."""
    while (
        run.identity is not None
        and run.identity.last is not None
        and (seq is None or seq > run.identity.last)
    ):
        assert run.started is not None
        _become(run, run.identity.part + 1, run.started)


def _become(run: Named, part: int, started: RunStarted) -> None:
    """A part of the copy begins, or behind the last one the run's own."""
    assert started.reset is not None, "only a run that was reset is told of others"
    own_id, copied, earlier = started.workflow_id, started.reset.copied, run.identity
    before = () if earlier is None else (*earlier.before, (run.last_id, earlier.run_id))
    run_id, workflow_id, last = run.run_id, own_id, None
    if part < len(copied):
        one = copied[part]
        run_id, workflow_id, last = id_text(one.run), one.workflow_id, one.last
    elif any(one.workflow_id != own_id for one in copied):
        before = ()  # Of a fork: what it runs again, it runs for itself.
    seed = _seed_of(run_id) if part else started.seed
    run.identity = Identity(part, last, run_id, workflow_id, seed, before)
    if part and copied[part - 1].published:
        run.outputs.go_on(copied[part - 1].published)


def _seed_of(run_id: str) -> int:
    return int(run_id[-8:], 16)


def workflow_id_of(run: Named) -> str:
    """What the code is told that its workflow id is."""
    assert run.started is not None
    return run.started.workflow_id if run.identity is None else run.identity.workflow_id


def naming_seed_of(run: Named) -> int:
    """What children are named by for whom nobody has chosen a name."""
    assert run.started is not None
    return run.started.seed if run.identity is None else run.identity.naming_seed


def scheduled_by(run: Named, number: int) -> str:
    """The run that scheduled an activity: this one, or one whose history it repeats."""
    if run.identity is not None:
        for last, run_id in run.identity.before:
            if number <= last:
                return run_id
    return run.run_id


def info_of(run: Named, cancel_reason: str | None) -> WorkflowInfo:
    """What `info()` returns."""
    assert run.started is not None
    return WorkflowInfo(
        workflow_id=workflow_id_of(run),
        run_id=run.run_id if run.identity is None else run.identity.run_id,
        type=run.definition.name,
        started_us=run.loop.start_us,
        replaying=run.recorded is not None,
        cancel_reason=cancel_reason,
        history_events=run.history_events,
        parent=run.started.parent,
        tags=dict(run.labels.tags),
        attempt=run.started.attempt,
    )
