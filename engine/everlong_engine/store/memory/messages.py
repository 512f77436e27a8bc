"""What clients send: messages, terminations, questions. None of it needs a lease."""

from collections.abc import Iterable

from msgspec.structs import replace

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
from everlong_engine.store.interface import Question
from everlong_engine.store.memory.data import AskedQuestion, MemoryData
from everlong_engine.store.memory.links import close_now, ended, wake as wake_for_mail

__all__ = [
    "answer_approval",
    "answer_mail",
    "ask",
    "pin_run",
    "put_answer",
    "put_answers",
    "put_attached",
    "put_message",
    "terminate_run",
    "wake_for_mail",
]


def put_message(data: MemoryData, message: Message) -> MessageResult:
    """Accept a message once, for an open execution."""
    run = data.latest(message.target)
    if run is None:
        return MessageResult(None)
    known = data.sent_before(message.target, run, message.request_id, message.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not run.status.is_open:
        return MessageResult(run.status, run.run_id, run.execution_id)
    position = data.put_mail(run.execution_id, message.kind, message.body, message.blobs)
    if message.request_id is not None:
        data.requests.put((run.execution_id, message.request_id), b"accepted")
    elif message.sent is not None:
        data.requests.put((run.execution_id, message.sent.name), message.sent.mark)
    wake_for_mail(data, run, message.now_us, message.kind)
    return MessageResult(run.status, run.run_id, run.execution_id, run.owner, position)


def put_attached(data: MemoryData, execution_id: bytes, attached: Attached) -> None:
    """A message that came with a start, once."""
    key = (execution_id, attached.request_id)
    if key not in data.requests.rows:
        data.requests.put(key, b"accepted")
        data.put_mail(execution_id, attached.kind, attached.body, attached.blobs)


def put_answers(
    data: MemoryData, execution_id: bytes, answers: Iterable[tuple[str, bytes]]
) -> None:
    """What senders wait for, in place of what they were told before."""
    for name, answer in answers:
        if (execution_id, name) in data.requests.rows:
            data.requests.put((execution_id, name), answer)


def answer_mail(data: MemoryData, refused: AnswerMail) -> None:
    """Only for the owner, and only once: whoever comes too late changes nothing."""
    run, mail = data.runs.get(refused.run_id), data.mail.get(refused.position)
    if run is None or run.lease_token != refused.token or not run.status.is_open:
        return
    if mail is not None and mail.execution_id == refused.execution_id:
        data.mail.remove(refused.position)
        put_answers(data, refused.execution_id, ((refused.request_id, refused.answer),))


def answer_approval(data: MemoryData, given: AnswerApproval) -> ApprovalResult:
    """The first answer is the answer, and mail for the run."""
    key = (given.run_id, given.number)
    known, run = data.approvals.get(key), data.runs.get(given.run_id)
    if known is None or run is None:
        return ApprovalResult(False)
    if known.answer is not None:
        return ApprovalResult(known.request == given.request, known.answer)
    if not run.status.is_open:
        return ApprovalResult(False)
    data.approvals.put(key, replace(known, answer=given.body, request=given.request))
    data.put_mail(run.execution_id, given.kind, given.body, None)
    wake_for_mail(data, run, given.now_us)
    return ApprovalResult(True)


def terminate_run(data: MemoryData, terminate: Terminate) -> MessageResult:
    """Close from outside; the owner is fenced, and told by a notice in its mail."""
    run = data.latest(terminate.target)
    if run is None:
        return MessageResult(None)
    known = data.sent_before(terminate.target, run, terminate.request, None)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not run.status.is_open:
        last = data.history.get((run.run_id, run.next_seq - 1))
        done = (
            terminate.append_id is not None
            and last is not None
            and last.append_id == terminate.append_id
        )
        return MessageResult(run.status, run.run_id, run.execution_id, duplicate=done)
    kind, body, now_us = terminate.row_kind, terminate.row_body, terminate.now_us
    seq = close_now(data, run, kind, body, terminate.status, now_us, terminate.append_id)
    if terminate.request is not None:
        data.requests.put((run.execution_id, terminate.request), b"accepted")
    ended(data, run, seq, kind, body, now_us)
    return MessageResult(run.status, run.run_id, run.execution_id, run.owner, position=seq)


def pin_run(data: MemoryData, pin: Pin) -> MessageResult:
    """Say which version may drive an open run."""
    run = data.latest(pin.target)
    if run is None:
        return MessageResult(None)
    known = data.sent_before(pin.target, run, pin.request_id, None)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if run.status.is_open:
        if pin.request_id is not None:
            data.requests.put((run.execution_id, pin.request_id), b"accepted")
        data.runs.put(run.run_id, replace(run, version=pin.version))
    return MessageResult(run.status, run.run_id, run.execution_id, run.owner)


def ask(data: MemoryData, asked: Ask) -> MessageResult:
    """Keep a question until it is answered and read; one to nobody is not kept."""
    run = data.latest(asked.target)
    if run is None:
        return MessageResult(None)
    target = asked.target
    question = Question(
        asked.question_id,
        target.shard,
        target.namespace,
        target.workflow_id,
        asked.query,
        asked.arguments,
    )
    if asked.question_id not in data.questions.rows:  # Else the answer was lost.
        data.questions.put(asked.question_id, AskedQuestion(question, asked.now_us))
    return MessageResult(run.status, run.run_id, run.execution_id, run.owner)


def put_answer(data: MemoryData, answer: Answer) -> None:
    asked = data.questions.get(answer.question_id)
    if asked is not None:  # Else whoever asked has given up.
        answered = replace(asked, answer=(answer.ok, answer.answer))
        data.questions.put(answer.question_id, answered)
