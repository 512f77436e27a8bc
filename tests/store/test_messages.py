"""What clients send: accepted once, in order, or told why not."""

from everlong_engine.model.events import RunContinuedAsNew, RunTerminated
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import Answer, Ask, ForgetMail, MessageResult, Refusal, Resume
from tests.support.store_rig import TERMINATED, Rig, refusal


async def test_a_message_is_accepted_and_wakes_a_run_that_nobody_owns(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.release(row, None))
    assert await rig.claim() == []
    result = await rig.send()
    assert result.status is RunStatus.RUNNING
    assert result.position is not None
    loaded = await rig.claim_one()
    assert [mail.position for mail in loaded.mail] == [result.position]


async def test_a_message_does_not_put_off_a_run_that_is_due(rig: Rig) -> None:
    row = await rig.started()
    due_us = row.wake_us
    rig.now_us += 1_000_000
    await rig.send()
    assert (await rig.row()).wake_us == due_us
    sleeper = await rig.owned("sleeper")
    await rig.one(rig.release(sleeper, rig.now_us + 60_000_000))
    await rig.send("sleeper")
    assert (await rig.row("sleeper")).wake_us == rig.now_us


async def test_a_message_leaves_an_owned_run_to_its_owner(rig: Rig) -> None:
    row = await rig.owned()
    result = await rig.send()
    assert result.owner == rig.worker_id
    assert (await rig.row()) == row


async def test_messages_keep_their_order_and_positions_grow(rig: Rig) -> None:
    await rig.owned()
    large = bytes(100_000)  # It lies beside its message.
    payloads = [large if number == 7 else b"%d" % number for number in range(20)]
    sent = await rig.group(*(rig.message(payload=payload) for payload in payloads))
    positions = [one.position for one in sent if isinstance(one, MessageResult)]
    assert positions == sorted(positions, key=lambda one: one or 0)
    assert [mail.position for mail in (await rig.load()).mail] == positions


async def test_a_position_is_never_used_twice(rig: Rig) -> None:
    row = await rig.owned()
    first = await rig.position()
    await rig.one(rig.append(row, consumed=(first,)))
    assert await rig.position() > first


async def test_a_request_id_is_accepted_once(rig: Rig) -> None:
    await rig.owned()
    assert not (await rig.send(request_id="r")).duplicate
    again = await rig.send(request_id="r")
    assert (again.duplicate, again.position) == (True, None)
    assert len((await rig.load()).mail) == 1


async def test_a_request_id_of_one_group_is_accepted_once(rig: Rig) -> None:
    await rig.owned()
    await rig.group(rig.message(request_id="r"), rig.message(request_id="r"))
    assert len((await rig.load()).mail) == 1


async def test_a_retry_has_its_answer_when_the_execution_has_closed_or_rolled_over(
    rig: Rig,
) -> None:
    row = await rig.owned()
    position = (await rig.send(request_id="r")).position
    assert position is not None
    rolling = RunContinuedAsNew(b"", (), 1)
    await rig.one(rig.append(row, rolling, consumed=(position,), next_run=rig.successor(row)))
    assert (await rig.send(request_id="r")).duplicate
    await rig.one(rig.terminate())
    assert (await rig.send(request_id="r")).duplicate
    await rig.started()
    again = await rig.send(request_id="r", execution_id=row.execution_id)
    assert again.duplicate


async def test_a_message_without_a_request_id_is_known_again_by_its_sender(rig: Rig) -> None:
    row = await rig.owned()
    group = [rig.message(payload=b"%d" % number, sent=rig.sent()) for number in range(3)]
    first = [one for one in await rig.group(*group) if isinstance(one, MessageResult)]
    again = [one for one in await rig.group(*group) if isinstance(one, MessageResult)]
    assert [one.position is None for one in first] == [False] * 3
    assert [(one.duplicate, one.position) for one in again] == [(True, None)] * 3
    assert len((await rig.load()).mail) == 3
    assert (await rig.send(sent=rig.sent())).position is not None
    assert (await rig.send(sent=rig.sent("another"))).position is not None
    await rig.one(rig.terminate())
    assert (await rig.one(group[0])) == MessageResult(
        RunStatus.TERMINATED, row.run_id, row.execution_id, duplicate=True
    )
    assert not (await rig.send(sent=rig.sent())).duplicate
    assert await rig.problems() == []


async def test_a_message_that_was_not_stored_is_not_known(rig: Rig) -> None:
    """Nobody was there, or only a closed one."""
    sent = rig.sent()
    assert (await rig.send(sent=sent)).status is None
    await rig.closed()
    assert not (await rig.send(sent=sent)).duplicate
    await rig.owned()
    assert (await rig.send(sent=sent)).position is not None


async def test_a_closed_execution_takes_nothing(rig: Rig) -> None:
    await rig.closed()
    result = await rig.send()
    assert (result.status, result.position) == (RunStatus.COMPLETED, None)
    assert await rig.problems() == []


async def test_nobody_is_told_apart_from_somebody_closed(rig: Rig) -> None:
    assert (await rig.send("nobody")).status is None


async def test_an_execution_id_must_be_that_of_the_workflow(rig: Rig) -> None:
    await rig.started()
    assert (await rig.send(execution_id=b"x" * 16)).status is None
    assert (await rig.one(rig.terminate(execution_id=b"x" * 16))) == MessageResult(None)
    assert (await rig.row()).status is RunStatus.RUNNING


async def test_an_earlier_execution_stays_closed_though_its_id_is_open_again(rig: Rig) -> None:
    before = await rig.closed()
    await rig.started()
    result = await rig.send(execution_id=before.execution_id)
    assert (result.status, result.position) == (RunStatus.COMPLETED, None)
    found = await rig.store.latest(rig.target(execution_id=before.execution_id))
    assert found is not None
    assert found.run_id == before.run_id


async def test_mail_is_seen_from_a_position_on(rig: Rig) -> None:
    await rig.store.changed()
    await rig.owned()
    assert await rig.store.changed()
    assert not await rig.store.changed()
    first, second, third = [await rig.position() for _ in range(3)]
    assert await rig.store.changed()
    assert [mail.position for mail in await rig.store.mail_since(first, 10)] == [second, third]
    assert [mail.position for mail in await rig.store.mail_since(first, 1)] == [second]


# --------------------------------------------------------------------------------- termination


async def test_a_termination_needs_no_owner(rig: Rig) -> None:
    await rig.started()
    result = await rig.one(rig.terminate())
    assert isinstance(result, MessageResult)
    row = await rig.row()
    assert (row.status, row.closed_us, row.owner) == (RunStatus.TERMINATED, rig.now_us, None)
    last = (await rig.load()).history[-1]
    assert (last.seq, last.event) == (result.position, RunTerminated("enough"))
    assert await rig.claim() == []
    assert await rig.problems() == []


async def test_a_termination_fences_the_owner_and_tells_it(rig: Rig) -> None:
    row = await rig.owned()
    await rig.position()
    await rig.one(rig.terminate())
    assert (await rig.row()).lease_token == row.lease_token + 1
    assert refusal(await rig.one(rig.append(row))) is Refusal.FENCED
    (notice,) = await rig.store.mail_since(0, 10)
    assert (notice.kind, notice.execution_id) == (TERMINATED, row.execution_id)
    await rig.one(ForgetMail(notice.position, notice.execution_id))
    assert await rig.store.mail_since(0, 10) == []


async def test_a_notice_does_not_outlive_its_reader(rig: Rig) -> None:
    await rig.register()
    await rig.owned()
    await rig.one(rig.terminate())
    await rig.die()
    assert await rig.store.mail_since(0, 10) == []


async def test_what_is_closed_is_not_terminated_again(rig: Rig) -> None:
    await rig.closed()
    result = await rig.one(rig.terminate())
    assert isinstance(result, MessageResult)
    assert result.position is None
    assert (await rig.row()).status is RunStatus.COMPLETED


# ------------------------------------------------------------------------------------ the others


async def test_a_termination_is_known_again(rig: Rig) -> None:
    row = await rig.owned()
    terminate = rig.terminate()
    await rig.one(terminate)
    again = await rig.one(terminate)
    assert again == MessageResult(
        RunStatus.TERMINATED, row.run_id, row.execution_id, duplicate=True
    )
    other = await rig.one(rig.terminate())
    assert isinstance(other, MessageResult)
    assert not other.duplicate
    assert len((await rig.load()).history) == 2


async def test_a_blocked_run_takes_mail_and_sleeps_until_it_is_resumed(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.release(row, None, blocked=True, reason="its code changed"))
    blocked = await rig.row()
    assert (blocked.status, blocked.reason) == (RunStatus.BLOCKED, "its code changed")
    assert (await rig.send()).position is not None
    assert await rig.claim() == []
    await rig.one(Resume(rig.target(), rig.now_us))
    loaded = await rig.claim_one()
    assert loaded.row.reason is None
    assert len(loaded.mail) == 1


async def test_resuming_a_healthy_run_changes_nothing(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(Resume(rig.target(), rig.now_us))
    assert (await rig.row()) == row


async def test_a_question_is_asked_answered_and_forgotten(rig: Rig) -> None:
    await rig.owned()
    key = b"q" * 16
    await rig.one(Ask(key, rig.target(), "status", b"{}", rig.now_us))
    (question,) = await rig.store.open_questions(10)
    assert (question.question_id, question.query, question.arguments) == (key, "status", b"{}")
    assert await rig.store.answer(key) is None
    await rig.one(Answer(key, True, b"fine"))
    assert await rig.store.open_questions(10) == []
    assert await rig.store.answer(key) == (True, b"fine")
    await rig.store.forget_question(key)
    assert await rig.store.answer(key) is None


async def test_a_question_that_is_asked_again_is_the_same(rig: Rig) -> None:
    await rig.owned()
    ask = Ask(b"q" * 16, rig.target(), "status", b"{}", rig.now_us)
    assert await rig.one(ask) == await rig.one(ask)
    await rig.one(Answer(ask.question_id, True, b"fine"))
    await rig.one(ask)
    assert await rig.store.answer(ask.question_id) == (True, b"fine")


async def test_a_question_to_nobody_is_not_kept(rig: Rig) -> None:
    result = await rig.one(Ask(b"q" * 16, rig.target("nobody"), "status", b"", rig.now_us))
    assert result == MessageResult(None)
    assert await rig.store.open_questions(10) == []
