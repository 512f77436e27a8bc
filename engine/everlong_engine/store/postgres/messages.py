"""What clients send: messages, terminations, questions. None of it needs a lease."""

from everlong_engine.model.runs import RunRow
from everlong_engine.model.writes import (
    Answer,
    AnswerApproval,
    AnswerMail,
    ApprovalResult,
    Ask,
    Attached,
    Message,
    MessageResult,
    Pin,
    Terminate,
)
from everlong_engine.store.postgres.links import close_now, ended
from everlong_engine.store.postgres.rows import (
    latest_run,
    put_answers,
    put_mail,
    read_run,
    sent_before,
    wake_for,
)
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "answer_approval",
    "answer_mail",
    "ask",
    "pin_run",
    "put_answer",
    "put_attached",
    "put_message",
    "terminate_run",
]


async def put_message(tx: Tx, message: Message) -> MessageResult:
    row = await latest_run(tx, message.target)
    if row is None:
        return MessageResult(None)
    known = await sent_before(tx, message.target, row, message.request_id, message.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    key = (row.shard, row.execution_id)
    if message.request_id is not None:
        await tx.run("insert_request", (*key, message.request_id, b"accepted"))
    elif message.sent is not None:
        await tx.run("count_sent", (*key, message.sent.name, message.sent.mark))
    position = await put_mail(
        tx, row.shard, row.execution_id, message.kind, message.body, message.blobs
    )
    await wake_for(tx, row, message.kind, message.now_us)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner, position)


async def put_attached(tx: Tx, shard: int, execution_id: bytes, attached: Attached) -> bool:
    """A message that came with a start; False when it was accepted before."""
    key = (shard, execution_id, attached.request_id)
    if await tx.one("find_request", key) is not None:
        return False
    await tx.run("insert_request", (*key, b"accepted"))
    await put_mail(tx, shard, execution_id, attached.kind, attached.body, attached.blobs)
    return True


async def answer_mail(tx: Tx, refused: AnswerMail) -> None:
    """Only for the owner, and only once: whoever comes too late changes nothing."""
    key = (refused.position, refused.execution_id, refused.shard, refused.run_id, refused.token)
    if await tx.run("refuse_mail", key) == 1:
        await put_answers(
            tx, refused.shard, refused.execution_id, ((refused.request_id, refused.answer),)
        )


async def answer_approval(tx: Tx, given: AnswerApproval) -> ApprovalResult:
    """The first answer is the answer: judged, and left for the run, in one transaction."""
    key = (given.shard, given.run_id, given.number)
    row = await read_run(tx, given.shard, given.run_id)
    found = await tx.one("approval_at", key)
    if found is None or row is None:
        return ApprovalResult(False)
    _, _, answer, request = found
    if answer is not None:
        return ApprovalResult(request == given.request, answer)
    if not row.status.is_open:
        return ApprovalResult(False)
    await tx.run("answer_approval", (given.body, given.request, *key))
    await put_mail(tx, row.shard, row.execution_id, given.kind, given.body, None)
    await tx.run("wake_run", (given.now_us, row.shard, row.run_id))
    return ApprovalResult(True)


async def terminate_run(tx: Tx, terminate: Terminate) -> MessageResult:
    row = await latest_run(tx, terminate.target)
    if row is None:
        return MessageResult(None)
    known = await sent_before(tx, terminate.target, row, terminate.request, None)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        done = await _was_terminated_by(tx, row, terminate)
        return MessageResult(row.status, row.run_id, row.execution_id, duplicate=done)
    kind, body = terminate.row_kind, terminate.row_body
    seq = await close_now(
        tx, row, kind, body, terminate.status, terminate.now_us, terminate.append_id
    )
    if terminate.request is not None:
        request = (row.shard, row.execution_id, terminate.request, b"accepted")
        await tx.run("insert_request", request)
    await ended(tx, row, seq, kind, body, terminate.now_us)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner, position=seq)


async def _was_terminated_by(tx: Tx, row: RunRow, terminate: Terminate) -> bool:
    if terminate.append_id is None:
        return False
    key = (row.shard, row.run_id, row.next_seq - 1, row.lease_token)
    found = await tx.one("append_id_at", key)
    return found is not None and found[0] == terminate.append_id


async def pin_run(tx: Tx, pin: Pin) -> MessageResult:
    row = await latest_run(tx, pin.target)
    if row is None:
        return MessageResult(None)
    known = await sent_before(tx, pin.target, row, pin.request_id, None)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if pin.request_id is not None and row.status.is_open:
        request = (row.shard, row.execution_id, pin.request_id, b"accepted")
        await tx.run("insert_request", request)
    await tx.run("pin_run", (pin.version, row.shard, row.run_id))
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


async def ask(tx: Tx, asked: Ask) -> MessageResult:
    row = await latest_run(tx, asked.target)
    if row is None:
        return MessageResult(None)
    target = asked.target
    await tx.run(
        "put_question",
        (
            asked.question_id,
            target.shard,
            target.namespace,
            target.workflow_id,
            asked.query,
            asked.arguments,
            asked.now_us,
        ),
    )
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


async def put_answer(tx: Tx, answer: Answer) -> None:
    await tx.run("put_answer", (answer.ok, answer.answer, answer.question_id))
