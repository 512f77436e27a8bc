"""Answers to activities that are completed elsewhere, by token.

The token says which event of the history to read, for the activity's type. Whether an answer is
still taken says the store, in the transaction that keeps it; no more of the history is read. Only a
token that was handed out when its activity may have been over has it read whole.
"""

from hashlib import blake2b
from typing import Any, NamedTuple

from everlong import registry
from everlong._definitions import ActivityDefinition
from everlong._failures import ExceptionRegistry, encode_exception
from everlong._texts import check_request_id
from everlong._tokens import Token, read_token
from everlong.client._connected import Connected
from everlong.exceptions import ActivityNotOpen, ApplicationError, InvalidToken
from everlong_engine import (
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    AttemptRow,
    AttemptState,
    Beat,
    Blobs,
    NotTaken,
    Recorded,
    Report,
    ReportResult,
    RunRow,
    RunStatus,
    fold,
    name_of_report,
    pack,
)

__all__ = ["Reporting"]


class Reporting(Connected):
    """The part of a client that speaks for activities, by their tokens."""

    async def complete(
        self, token: str, result: Any = None, *, request_id: str | None = None
    ) -> None:
        """Say that an activity which was left with `complete_later` has this result.

        Returns once it is stored for good; the workflow gets it when a worker runs. The first
        answer wins. The same one again is known and changes nothing; with encryption only by its
        `request_id`, since nothing is kept that tells what the first one was.

        Args:
            token: `info(ActivityInfo).token` of the attempt.
            result: by the activity's declared type. Where its code is not imported, the worker
                checks it: one that does not fit fails the activity.
            request_id: the same id is the same answer, however often it is repeated.

        Raises:
            InvalidToken: the text is no token, or one of another namespace.
            ActivityNotOpen: the activity was answered, cancelled or given up, or never existed.
            NotSerializable, PayloadError: the result cannot be stored, or does not fit.
        """
        await _complete(self, token, result, request_id)

    async def fail(
        self, token: str, error: Exception | str, *, request_id: str | None = None
    ) -> None:
        """Say that an activity which was left with `complete_later` has failed.

        That is final: whoever answers has decided, so no retry policy is asked. A text arrives in
        the workflow as `ApplicationError`. The rest is as for `complete`.
        """
        await _fail(self, token, error, request_id)

    async def heartbeat(self, token: str, details: Any = None) -> bool:
        """A sign of life of an activity that is completed elsewhere.

        It puts off the activity's `heartbeat_timeout`. Details are for its next attempt.

        Returns:
            Whether it is still wanted. False: the workflow has cancelled it and waits for its end
            (`on_cancel="wait"`), which any answer is.

        Raises:
            InvalidToken, ActivityNotOpen: as for `complete`.
        """
        return await _beat(self, token, details)


class _Open(NamedTuple):
    """What a token names."""

    token: Token
    row: RunRow
    definition: ActivityDefinition | None
    over: str | None = None
    """Why no answer is taken any more, where the history was asked."""
    cancelled: bool = False


async def _complete(client: Connected, text: str, result: Any, request_id: str | None) -> None:
    check_request_id(request_id)
    found = await _find(client, text)
    value = None if found.definition is None else found.definition.result
    payload = pack(result) if value is None else value.encode(result)
    token = found.token
    await _report(
        client, found, ActivityCompleted(token.activity_id, payload, token.run_id), request_id
    )


async def _fail(
    client: Connected, text: str, error: Exception | str, request_id: str | None
) -> None:
    check_request_id(request_id)
    found = await _find(client, text)
    raised = ApplicationError(error) if isinstance(error, str) else error
    known = ExceptionRegistry() if found.definition is None else found.definition.exceptions
    token, failure = found.token, encode_exception(raised, known)
    event = ActivityFailed(token.activity_id, failure, token.attempt, token.run_id)
    await _report(client, found, event, request_id)


async def _beat(client: Connected, text: str, details: Any) -> bool:
    found = await _find(client, text)
    if found.over is not None:
        raise _not_open(found.token, found.over)
    token, row, engine = found.token, found.row, client.engine
    now_us = engine.clock.now_us()
    sealed = None
    if details is not None:
        attempt = AttemptRow(
            activity_id=token.activity_id,
            attempt=token.attempt,
            state=AttemptState.ELSEWHERE,
            started_us=now_us,
            details=pack(details),
        )
        sealed = client.records.attempt(row, attempt).details
    result = await engine.commits.put(
        Beat(
            row.shard,
            row.run_id,
            row.execution_id,
            token.activity_id,
            token.attempt,
            now_us,
            sealed,
        )
    )
    assert isinstance(result, ReportResult)
    if result.refusal is not None:
        raise _refused(found, result.refusal)
    return not (found.cancelled or result.unwanted)


async def _report(
    client: Connected,
    found: _Open,
    event: ActivityCompleted | ActivityFailed,
    request_id: str | None,
) -> None:
    token, row, engine = found.token, found.row, client.engine
    blobs: Blobs = {}
    kind, body = client.records.outcome(row, event, blobs)
    if request_id is not None:
        mark = b"request " + request_id.encode()
    elif client.records.conceals:  # Nothing is kept that could be guessed from a digest.
        mark = engine.ids.next(engine.clock.now_us())
    else:
        mark = blake2b(bytes([kind]) + _alike(event), digest_size=16).digest()
    if found.over is not None:
        name = name_of_report(token.run_id, token.activity_id)
        target = engine.target(token.namespace, token.workflow_id, token.execution_id)
        told = await engine.store.told(target, name)
        if told is None or told[1] != mark:
            raise _not_open(found.token, found.over)
        return
    result = await engine.commits.put(
        Report(
            row.shard,
            row.run_id,
            row.execution_id,
            token.activity_id,
            token.attempt,
            kind,
            body,
            mark,
            engine.clock.now_us(),
            blobs or None,
        )
    )
    assert isinstance(result, ReportResult)
    if result.refusal is not None:
        raise _refused(found, result.refusal)
    engine.mail_arrived()


def _alike(event: ActivityCompleted | ActivityFailed) -> bytes:
    """What two answers that say the same have in common: a traceback names lines."""
    if isinstance(event, ActivityCompleted):
        return event.result
    return pack([event.failure.type, event.failure.message])


async def _find(client: Connected, text: str) -> _Open:
    """Raises InvalidToken, ActivityNotOpen."""
    token = read_token(text)
    if token.namespace != client.namespace:
        raise InvalidToken(
            f"the token belongs to the namespace {token.namespace!r}, and this client to "
            f"{client.namespace!r}: connect with namespace={token.namespace!r}"
        )
    store = client.engine.store
    row = await store.run_by_id(token.run_id)
    if row is None or row.execution_id != token.execution_id:
        raise _not_open(token, _UNKNOWN)
    if not token.at:
        return await _found_in_history(client, token, row)
    recorded = await store.event(row.shard, row.run_id, token.at)
    scheduled = None if recorded is None else recorded.event
    if not isinstance(scheduled, ActivityScheduled) or scheduled.activity_id != token.activity_id:
        raise _not_open(token, _NEVER_BEGUN)
    return _Open(token, row, _definition(scheduled))


async def _found_in_history(client: Connected, token: Token, row: RunRow) -> _Open:
    loaded = await client.engine.store.load(row.shard, row.run_id)
    if loaded is None:
        raise _not_open(token, _UNKNOWN)
    scheduled, over = _story(loaded.history, token.activity_id)
    if scheduled is None:
        raise _not_open(token, _NEVER_BEGUN)
    if over is None and not loaded.row.status.is_open:
        over = _over(loaded.row)
    activity = fold(loaded.history).activities.get(token.activity_id)
    cancelled = activity is not None and activity.cancel_requested
    return _Open(token, loaded.row, _definition(scheduled), over, cancelled)


def _definition(scheduled: ActivityScheduled) -> ActivityDefinition | None:
    known = registry.activities.get(scheduled.activity)
    return None if known is None else known.definition


_NEVER_BEGUN = "no such activity was ever begun"
_UNKNOWN = (
    "there is no such run here: it was deleted when its retention had passed, or the token is of "
    "another store"
)


def _story(history: list[Recorded], number: int) -> tuple[ActivityScheduled | None, str | None]:
    """How an activity began, and how it ended."""
    scheduled: ActivityScheduled | None = None
    for one in history:
        event = one.event
        if getattr(event, "activity_id", None) != number:
            continue
        match event:
            case ActivityScheduled():
                scheduled = event
            case ActivityCancelRequested():
                if scheduled is None or scheduled.options.on_cancel != "wait":
                    return scheduled, "the workflow has cancelled it"
            case ActivityCancelled():
                return scheduled, "the workflow has cancelled it"
            case ActivityCompleted() | ActivityFailed():
                return scheduled, "it has an outcome already"
            case _:
                return scheduled, "it has timed out, or was lost with its worker"
    return scheduled, None


def _refused(found: _Open, refusal: NotTaken) -> ActivityNotOpen:
    match refusal:
        case NotTaken.OVER:
            attempt = found.token.attempt
            reason = f"attempt {attempt} is over, and another one has taken its place"
        case NotTaken.CLOSED if not found.row.status.is_open:
            reason = _over(found.row)
        case _:
            reason = refusal.value
    return _not_open(found.token, reason)


def _over(row: RunRow) -> str:
    if row.status is RunStatus.MOVED:
        return f"its run has moved to {row.reason}: give the answer there"
    return f"its run is {row.status.text}"


def _not_open(token: Token, reason: str) -> ActivityNotOpen:
    return ActivityNotOpen(
        workflow_id=token.workflow_id, activity_id=token.activity_id, reason=reason
    )
