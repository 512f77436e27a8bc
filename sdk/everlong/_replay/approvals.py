"""Approvals inside a run: what it has requested, and who in it waits for the answer.

A request is open until it is answered, or until whoever waits for it is cancelled: then it is
withdrawn. The end of the run withdraws what is left.
"""

import asyncio
from typing import TypeAlias

from everlong._replay.ledger import Ledger
from everlong.exceptions import NondeterminismError
from everlong_engine import ApprovalAnswered, ApprovalRequested, ApprovalWithdrawn

__all__ = ["Approvals"]


_Waiter: TypeAlias = "asyncio.Future[ApprovalAnswered]"


class Approvals:
    """The open approvals of one run."""

    __slots__ = ("_open", "used")

    def __init__(self) -> None:
        self._open: dict[int, tuple[ApprovalRequested, _Waiter | None]] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    async def request(
        self,
        run: Ledger,
        title: str,
        data: bytes,
        approvers: tuple[str, ...],
        due_us: int | None,
        where: str,
    ) -> ApprovalAnswered:
        """Ask, and wait for the answer."""
        run.require_live()
        number = run.new_id()
        decision = ApprovalRequested(number, title, data, approvers, due_us, where)
        run.made.append(decision)
        future: _Waiter = run.loop.create_future()
        self._open[number] = decision, future
        try:
            return await future
        except asyncio.CancelledError:
            run.require_live()
            # Answered in this very drive, it has its outcome: there is nothing to withdraw.
            if self._open.pop(number, None) is not None and not run.net_out(decision):
                run.made.append(ApprovalWithdrawn(number))
            raise

    def take(self, event: ApprovalAnswered) -> None:
        """Somebody has answered."""
        found = self._open.pop(event.approval_id, None)
        if found is None:
            raise NondeterminismError(
                recorded=f"an answer to approval number {event.approval_id}",
                made="no such approval is open",
            )
        waiter = found[1]
        if waiter is not None and not waiter.done():
            waiter.set_result(event)

    def discard(self) -> None:
        """Nobody waits any more: nothing goes in circles. What is open stays known."""
        self._open = {number: (decision, None) for number, (decision, _) in self._open.items()}

    def is_open(self, number: int) -> bool:
        return number in self._open

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self._open)

    def in_flight(self) -> list[str]:
        """For people."""
        return [f"approval {decision.title!r}" for decision, _ in self._open.values()]
