"""What clients send: messages, terminations, questions. None of it needs a lease."""

from sqlite3 import Connection

from everlong_engine.model.errors import UndecodablePayload
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
from everlong_engine.store.sqlite.columns import fetch_one
from everlong_engine.store.sqlite.links import any_link, close_now, ended
from everlong_engine.store.sqlite.mending import mend_run
from everlong_engine.store.sqlite.rows import (
    latest_run,
    put_answers,
    put_mail,
    read_run,
    sent_before,
    wake_for,
)
from everlong_engine.store.sqlite.statements import SQL

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


def put_message(tx: Connection, message: Message) -> MessageResult:
    row = latest_run(tx, message.target)
    if row is None:
        return MessageResult(None)
    known = sent_before(tx, message.target, row, message.request_id, message.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    key = (row.shard, row.execution_id)
    if message.request_id is not None:
        tx.execute(SQL["insert_request"], (*key, message.request_id, b"accepted"))
    elif message.sent is not None:
        tx.execute(SQL["count_sent"], (*key, message.sent.name, message.sent.mark))
    position = put_mail(tx, row.shard, row.execution_id, message.kind, message.body, message.blobs)
    wake_for(tx, row, message.kind, message.now_us)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner, position)


def put_attached(tx: Connection, shard: int, execution_id: bytes, attached: Attached) -> bool:
    """A message that came with a start; False when it was accepted before."""
    key = (shard, execution_id, attached.request_id)
    if tx.execute(SQL["find_request"], key).fetchone() is not None:
        return False
    tx.execute(SQL["insert_request"], (*key, b"accepted"))
    put_mail(tx, shard, execution_id, attached.kind, attached.body, attached.blobs)
    return True


def answer_mail(tx: Connection, refused: AnswerMail) -> None:
    """Only for the owner, and only once: whoever comes too late changes nothing."""
    key = (refused.position, refused.execution_id, refused.shard, refused.run_id, refused.token)
    if tx.execute(SQL["refuse_mail"], key).rowcount == 1:
        put_answers(
            tx, refused.shard, refused.execution_id, ((refused.request_id, refused.answer),)
        )


def answer_approval(tx: Connection, given: AnswerApproval) -> ApprovalResult:
    """The first answer is the answer: judged, and left for the run, in one transaction."""
    key = (given.shard, given.run_id, given.number)
    found = fetch_one(tx, SQL["approval_at"], key, "an approval")
    row = read_run(tx, given.shard, given.run_id)
    if found is None or row is None:
        return ApprovalResult(False)
    _, _, answer, request = found
    if answer is not None:
        return ApprovalResult(request == given.request, answer)
    if not row.status.is_open:
        return ApprovalResult(False)
    tx.execute(SQL["answer_approval"], (given.body, given.request, *key))
    put_mail(tx, row.shard, row.execution_id, given.kind, given.body, None)
    tx.execute(SQL["wake_run"], (given.now_us, row.shard, row.run_id))
    return ApprovalResult(True)


def terminate_run(tx: Connection, terminate: Terminate) -> MessageResult:
    mended = ""
    try:
        row = latest_run(tx, terminate.target)
    except UndecodablePayload as fault:
        row, mended = mend_run(tx, terminate.target, fault, terminate.now_us)
    if row is None:
        return MessageResult(None)
    known = sent_before(tx, terminate.target, row, terminate.request, None)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        done = _was_terminated_by(tx, row, terminate)
        return MessageResult(
            row.status, row.run_id, row.execution_id, duplicate=done, mended=mended
        )
    kind, body = terminate.row_kind, terminate.row_body
    seq = close_now(tx, row, kind, body, terminate.status, terminate.now_us, terminate.append_id)
    if terminate.request is not None:
        request = (row.shard, row.execution_id, terminate.request, b"accepted")
        tx.execute(SQL["insert_request"], request)
    if any_link(tx):
        ended(tx, row, seq, kind, body, terminate.now_us)
    return MessageResult(
        row.status, row.run_id, row.execution_id, row.owner, position=seq, mended=mended
    )


def _was_terminated_by(tx: Connection, row: RunRow, terminate: Terminate) -> bool:
    if terminate.append_id is None:
        return False
    key = (row.shard, row.run_id, row.next_seq - 1, row.lease_token)
    found = tx.execute(SQL["append_id_at"], key).fetchone()
    return found is not None and found[0] == terminate.append_id


def pin_run(tx: Connection, pin: Pin) -> MessageResult:
    row = latest_run(tx, pin.target)
    if row is None:
        return MessageResult(None)
    known = sent_before(tx, pin.target, row, pin.request_id, None)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if pin.request_id is not None and row.status.is_open:
        request = (row.shard, row.execution_id, pin.request_id, b"accepted")
        tx.execute(SQL["insert_request"], request)
    tx.execute(SQL["pin_run"], (pin.version, row.shard, row.run_id))
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


def ask(tx: Connection, asked: Ask) -> MessageResult:
    row = latest_run(tx, asked.target)
    if row is None:
        return MessageResult(None)
    target = asked.target
    tx.execute(
        SQL["put_question"],
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


def put_answer(tx: Connection, answer: Answer) -> None:
    tx.execute(SQL["put_answer"], (answer.ok, answer.answer, answer.question_id))
