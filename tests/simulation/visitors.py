"""Clients that answer approvals, complete activities by their tokens, and follow outputs."""

# tidy: this file sleeps because its clock is the simulation's

import asyncio
from contextlib import aclosing
from random import Random
from typing import TYPE_CHECKING, Any, Final

from everlong import (
    ActivityNotOpen,
    AlreadyAnswered,
    ApprovalNotFound,
    Client,
    NotAnApprover,
    WorkflowHandle,
)
from everlong_engine import id_from_text, unpack
from tests.simulation.drawing import APPROVERS
from tests.simulation.plan import Errand

if TYPE_CHECKING:
    from tests.simulation.world import Handed, Process, World

__all__ = ["VISITS", "Visitor", "answer_all"]

VISITS: Final = ("approve", "answer", "subscribe")
_FOLLOWS_S: Final = 8.0
_SOON_US: Final = 6_000_000
"""What was published is with who follows by then, when nothing stands in the way."""


class Visitor:
    """One sender's visits. Like the sender it outlives the processes it runs in: what it has chosen
    to answer, and how far it has read, it remembers."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._chance = Random(f"{world.plan.seed}/visitor {number}")
        self._chosen: dict[str, Any] = {}
        self._read: dict[tuple[bytes, str], int] = {}

    async def go(
        self, process: "Process", client: Client, errand: Errand, request: str | None
    ) -> None:
        match errand.what:
            case "approve":
                await self._approve(process, client, errand.text, request)
            case "answer":
                await self._answer(process, client, errand.text, request)
            case _:
                await self._follow(process, client, errand)

    async def _wait_for(self, due_us: int | None) -> None:
        """Often an answer comes in the moment in which nobody waits for it any more."""
        if due_us is not None and self._chance.random() < 0.5:
            soon_us = self._chance.randrange(-4_000, 4_000)
            wait_us = due_us + soon_us - self._world.clock_reads()
            if wait_us < 10_000_000:
                await asyncio.sleep(max(wait_us, 0) / 1e6)

    # ------------------------------------------------------------------------------- approvals

    async def _approve(
        self, process: "Process", client: Client, text: str, request: str | None
    ) -> None:
        if text not in self._chosen:
            sent_us = self._world.clock_reads()
            found = list((await client.approvals()).items)
            for one in found:
                run_id, number = _place(one.id)
                self._world.journal.must(
                    self._world.journal.desk.may_be_listed(run_id, number, sent_us),
                    f"{one.workflow_id}: approval {number} is listed, and not open",
                )
            # Also what others have found, so that several answer the same.
            known = self._world.approvals
            known += [one for one in found if one not in known]
            if known and self._chance.random() < 0.6:
                found = known[-4:]
            if not found:
                self._world.reached("no approval to answer")
                return
            by = self._chance.choice((*APPROVERS, "mallory"))
            yes = self._chance.random() < 0.7
            chosen = self._chance.choice(found)
            self._chosen[text] = chosen, by, yes
            due = chosen.due_at
            await self._wait_for(None if due is None else round(due.timestamp() * 1e6))
        one, by, yes = self._chosen[text]
        answer = client.approve if yes else client.reject
        desk, (run_id, number) = self._world.journal.desk, _place(one.id)
        must, mine = self._world.journal.must, (yes, by, text)
        try:
            await answer(one.id, by=by, comment=text, request_id=request)
        except NotAnApprover:
            self._world.reached("approval: not an approver")
            must(by not in one.approvers, f"approval {one.id}: {by} was refused")
        except AlreadyAnswered as error:
            self._world.reached("approval: answered before")
            first = desk.answer_of(run_id, number)
            told = (error.approved, error.by, error.comment)
            must(_said(first) == told, f"approval {one.id}: told {told}, and accepted is {first}")
            must(told != mine or request is None, f"approval {one.id}: refused as its own second")
        except ApprovalNotFound:
            self._world.reached("approval: not there")
            must(_said(desk.answer_of(run_id, number)) != mine, f"approval {one.id}: it is there")
        else:
            self._world.reached("approval: acknowledged")
            self._world.told(process, f"approval {one.id}: {mine}")
            said = _said(desk.answer_of(run_id, number))
            must(said == mine, f"approval {one.id}: {mine} was acknowledged, accepted is {said}")
            must(
                not one.approvers or by in one.approvers,
                f"approval {one.id}: {by} may not answer it",
            )

    # ------------------------------------------------------------------------------- tokens

    async def _answer(
        self, process: "Process", client: Client, text: str, request: str | None
    ) -> None:
        if text not in self._chosen:
            if not self._world.tokens:
                self._world.reached("no token to answer")
                return
            newest = self._world.tokens[-6:]
            what = self._chance.choice(("complete", "complete", "fail", "heartbeat"))
            chosen = self._chance.choice(newest)
            self._chosen[text] = chosen, what
            await self._wait_for(chosen.due_us)
        handed, what = self._chosen[text]
        await self._tell(process, client, handed, what, text, request)

    async def _tell(
        self,
        process: "Process",
        client: Client,
        handed: "Handed",
        what: str,
        text: str,
        request: str | None,
    ) -> None:
        token = handed.about.token
        try:
            if what == "complete":
                await client.complete(token, f"{handed.label} by {text}", request_id=request)
            elif what == "fail":
                await client.fail(token, f"{handed.label} not by {text}", request_id=request)
            else:
                await client.heartbeat(token, text)
        except ActivityNotOpen:
            self._world.reached(f"token: {what} refused")
            return
        self._world.reached(f"token: {what} acknowledged")
        self._world.told(process, f"token of {handed.label}: {what} {text}")
        if what != "heartbeat":
            run_id, number = id_from_text(handed.about.run_id), handed.about.activity_id
            said = self._world.journal.desk.said_by_token(run_id, number)
            self._world.journal.must(
                said is not None and said.endswith(f"by {text}"),
                f"{handed.label}: {text} was acknowledged, and {said} was taken",
            )

    # ------------------------------------------------------------------------------- outputs

    async def _follow(self, process: "Process", client: Client, errand: Errand) -> None:
        row = await client.get_handle(errand.workflow_id)._row()  # pyright: ignore[reportPrivateUsage]
        handle: WorkflowHandle[Any] = WorkflowHandle(
            client, errand.workflow_id, execution_id=row.execution_id
        )
        world, channel, key = self._world, errand.text, (row.execution_id, errand.text)
        must, streams = world.journal.must, world.journal.streams
        where = f"{errand.workflow_id}: {channel}"
        began_us = world.schedule.now_us
        try:
            async with asyncio.timeout(_FOLLOWS_S):
                items = handle.subscribe(channel, self._read.get(key, 0), numbered=True)
                async with aclosing(items):  # type: ignore[type-var]
                    async for item in items:
                        number = self._read.get(key, 0)
                        must(item.number == number, f"{where}: {item.number} behind {number - 1}")
                        stored = streams.items_of(*key)[number : number + 1]
                        right = [unpack(one) for one in stored] == [item.value]
                        must(right, f"{where}: item {number} was seen as {item.value}: {stored}")
                        self._read[key] = number + 1
                        world.reached("item seen")
        except TimeoutError:
            world.reached("output followed for a while")
            waits_us = streams.accepted_us(*key, self._read.get(key, 0))
            if waits_us is not None and world.was_well_since(began_us):
                must(
                    world.highest_us - waits_us < _SOON_US,
                    f"{where}: item {self._read.get(key, 0)} is there, and who follows sees none",
                )
        else:
            world.reached("output followed to its end")
            journal = world.journal
            must(row.execution_id in journal.was_over, f"{where}: its end was seen too early")
            if journal.lineage.reset_us.get(row.execution_id, 0) < began_us:
                total = len(streams.items_of(*key))
                right = self._read.get(key, 0) == total
                must(right, f"{where}: {total} items, and the end was seen")


async def answer_all(world: "World", process: "Process", client: Client, number: int) -> None:
    """The operator's: whatever waits for somebody gets an answer."""
    for one in (await client.approvals()).items:
        by = one.approvers[0] if one.approvers else "operator"
        await client.approve(one.id, by=by, comment=f"operator:{number}")
    for handed in list(world.tokens):
        book = world.journal.runs[id_from_text(handed.about.run_id)]
        if book.closing is not None or handed.about.activity_id in book.over:
            world.tokens.remove(handed)
            continue
        try:
            await client.complete(handed.about.token, f"{handed.label} by operator")
        except ActivityNotOpen as error:
            world.told(process, f"{handed.label}: {error}")


def _place(approval: str) -> tuple[bytes, int]:
    run, _, number = approval.rpartition(".")
    return id_from_text(run), int(number)


def _said(answer: Any) -> tuple[bool, str, str] | None:
    if answer is None:
        return None
    return answer.approved, answer.by, str(unpack(answer.comment))
