"""Updates on their way through a worker: judged before they are fed, answered behind the commit."""

import logging
from collections.abc import Callable, Sequence

from everlong._failures import encode_exception
from everlong._records import Records
from everlong.exceptions import StoreError
from everlong.worker._owned import Incoming, OwnedRun
from everlong_engine import (
    AnswerMail,
    Decision,
    Engine,
    Event,
    Failure,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
    WriteResult,
    name_of_update,
    pack,
)

__all__ = ["UpdateDesk", "answers_of"]

logger = logging.getLogger("everlong")


class UpdateDesk:
    """Refuses what a validator speaks against.

    Args:
        not_stored: called when a refusal could not be stored: the message is judged again later.
    """

    def __init__(
        self, engine: Engine, records: Records, not_stored: Callable[[OwnedRun, StoreError], None]
    ) -> None:
        self._engine = engine
        self._records = records
        self._not_stored = not_stored

    def refuses(self, run: OwnedRun, one: Incoming, event: UpdateReceived) -> bool:
        """Judge an update that is about to be fed, by the state as it stands now."""
        try:
            run.code.updates.judge(event)
        except BaseException as error:
            # SystemExit as well: what a stranger sends must not end the worker's process.
            failure = encode_exception(error, run.code.definition.exceptions)
        else:
            return False
        refusal = _Refusal(self, run, one, event, failure)
        if run.inflight:
            run.inflight[-1].answers.append(refusal)
        else:
            refusal.give()
        return True

    def refuse(self, run: OwnedRun, one: Incoming, event: UpdateReceived, failure: Failure) -> None:
        """Take the message out of the inbox and tell its sender why."""
        position = one.position
        assert position is not None, "an update always comes through the inbox"
        name = name_of_update(event.update_id)
        answer = self._records.told(run, event.update_id, "rejected", pack(failure.to_wire()))
        execution_id = run.execution_id
        write = AnswerMail(run.shard, run.run_id, execution_id, run.token, position, name, answer)

        def settled(result: WriteResult | StoreError) -> None:
            if not isinstance(result, StoreError):
                self._engine.answered(execution_id, name, answer)
                run.positions.discard(position)
            elif not run.dropped:
                self._not_stored(run, result)

        self._engine.commits.add(write, settled)


class _Refusal:
    """Given behind the commit of the state that the validator saw. If that state is discarded, the
    message still lies in the inbox, and is judged again."""

    __slots__ = ("_desk", "_event", "_failure", "_one", "_run")

    def __init__(
        self,
        desk: UpdateDesk,
        run: OwnedRun,
        one: Incoming,
        event: UpdateReceived,
        failure: Failure,
    ) -> None:
        self._desk = desk
        self._run = run
        self._one = one
        self._event = event
        self._failure = failure

    def give(self) -> None:
        self._desk.refuse(self._run, self._one, self._event, self._failure)

    def withdraw(self) -> None:
        """Nobody was told anything."""


def answers_of(
    records: Records, run: OwnedRun, event: Event, decisions: Sequence[Decision], *, ends: bool
) -> tuple[tuple[str, bytes], ...]:
    """What the senders of updates hear with an append, by the names of their requests."""
    told: dict[str, tuple[str, bytes]] = {}
    if isinstance(event, UpdateReceived):
        told[event.update_id] = ("recorded", b"")
    for decision in decisions:
        if isinstance(decision, UpdateCompleted):
            told[decision.update_id] = ("completed", decision.result)
        elif isinstance(decision, UpdateFailed):
            told[decision.update_id] = ("failed", pack(decision.failure.to_wire()))
    if ends:
        unfinished = run.code.unfinished_updates()
        for one in unfinished:
            told[one.update_id] = ("unfinished", b"")
        if unfinished:
            logger.warning(
                "%s: it ended while these updates were being handled: %s. Their senders are told; "
                "wait for all_handlers_finished() before the end",
                run.workflow_id,
                ", ".join(f"{one.update} ({one.update_id})" for one in unfinished),
            )
    return tuple(
        (name_of_update(update_id), records.told(run, update_id, stage, data))
        for update_id, (stage, data) in told.items()
    )
