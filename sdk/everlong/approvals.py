"""Approvals: a workflow asks people, and waits for the first answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from everlong._context import calling_frame, current_run, source_line
from everlong.exceptions import EverlongError, InvalidArguments
from everlong_engine import pack, seconds_us, unpack

__all__ = ["Verdict", "approval"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How somebody has answered an approval.

    verdict = await approval("Refund order 17?", approvers=["ann", "bob"])
    if not verdict.approved:
        print(verdict.by, verdict.comment)
    """

    approved: bool
    by: str
    comment: str
    at: datetime
    """When it was answered, by the clock of whoever answered."""


async def approval(
    title: str,
    *,
    data: Any = None,
    approvers: Sequence[str] | None = None,
    timeout: float | timedelta | None = None,
) -> Verdict:
    """Ask people, and wait for the first answer. In a workflow only.

    It is listed by `client.approvals()` until somebody answers it (`client.approve`,
    `client.reject`), until the timeout, until the task that waits is cancelled, or until the run
    ends. What people get wrong: who somebody is, Everlong does not check; `by` is what the caller
    of `approve` says, and `approvers` only bounds it.

        try:
            verdict = await approval("Ship it?", data={"order": 17}, timeout=24 * 3600)
        except TimeoutError:
            ...                                  # nobody answered in a day

    Args:
        title: one line for people.
        data: plain data that they decide upon.
        approvers: the names that may answer; anybody unless given.
        timeout: seconds, or a timedelta; a durable timer.

    Raises:
        TimeoutError: nobody answered in time. An answer that was accepted before always wins.
        InvalidArguments: no title, or a list of approvers that holds no names.
        NotSerializable, PayloadTooLarge: the data cannot be stored.
    """
    run = current_run()
    if run is None:
        raise EverlongError("approval() can only be called inside a running workflow")
    names = _names(title, approvers)
    payload, where = pack(data), source_line(calling_frame(1))
    if timeout is None:
        answer = await run.approvals.request(run, title, payload, names, None, where)
    else:
        wait_us = seconds_us(timeout, "timeout")
        due_us = run.now_us + wait_us
        async with asyncio.timeout(wait_us / 1e6):
            answer = await run.approvals.request(run, title, payload, names, due_us, where)
    comment = unpack(answer.comment)
    at = _EPOCH + timedelta(microseconds=answer.at_us)
    return Verdict(answer.approved, answer.by, str(comment), at)


def _names(title: object, approvers: object) -> tuple[str, ...]:
    """The approvers, checked: a text alone would be taken for its letters."""
    if not isinstance(title, str) or not title:
        raise InvalidArguments('an approval needs a title: approval("Ship order 17?")')
    if approvers is None:
        return ()
    if isinstance(approvers, str) or not isinstance(approvers, Sequence):
        raise InvalidArguments('approvers is a list of names: approvers=["ann", "bob"]')
    names = tuple(approvers)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not names or any(not isinstance(name, str) or not name for name in names):  # pyright: ignore[reportUnknownVariableType]
        raise InvalidArguments("approvers holds no names; leave it out if anybody may answer")
    return names  # pyright: ignore[reportUnknownVariableType]
