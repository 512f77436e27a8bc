"""Keys of starts: what makes several starts one execution, whatever workflow id each would have.

A start that is debounced joins the execution of its key that has not begun, puts it off, and takes
the place of what it was to begin with. One that is deduplicated finds the execution that an earlier
start with its key has found or made, as long as its window lasts. A key belongs to a workflow.
"""

from enum import IntEnum
from hashlib import blake2b

from msgspec import Struct

from everlong_engine.model.requests import Sent

__all__ = ["KeyKind", "KeyRow", "StartKey", "answer_of", "told_execution"]


class KeyKind(IntEnum):
    """What a key is for. Each kind has its own."""

    DEBOUNCE = 0
    DEDUP = 1


class StartKey(Struct, frozen=True, kw_only=True):
    """What a start says beside its workflow id, which counts only for what it makes anew.

    One that is debounced bears no request id in its run: that would be looked for under a workflow
    id, and the one that it came to may be another's. It is known again by this instead.
    """

    kind: KeyKind
    key: str
    span_us: int
    """Of a debounced start: how long it waits for the next one. Else: how long the key is kept."""
    most_us: int | None = None
    """How long the first one waits at most; None: for as long as others come."""
    now_us: int
    request_id: str | None = None
    sent: Sent | None = None
    """Knows a debounced start without a request id again."""

    def lock_name(self, namespace: str, workflow: str) -> int:
        """As an advisory lock knows it. No workflow id begins like this."""
        name = f"\x01{self.kind}\0{namespace}\0{workflow}\0{self.key}".encode()
        return int.from_bytes(blake2b(name, digest_size=8).digest(), signed=True)

    def request_name(self, workflow: str) -> str | None:
        """Under which its answer is found, beside all executions of the namespace."""
        if self.request_id is not None:
            who = f"request {self.request_id}"
        elif self.sent is not None:
            who = self.sent.name
        else:
            return None
        # Neither a key nor a request id holds a control character, so no two are the same.
        return f"\x01debounced {len(workflow)} {workflow}\x01{self.key}\x01{who}"


class KeyRow(Struct, frozen=True):
    """Which execution has a key."""

    shard: int
    execution_id: bytes
    first_us: int
    """When the first start came."""
    until_us: int | None
    """Of a deduplicated start: when another one may be made."""
    starts: int
    """How many have come together in it."""


_MARK_BYTES = 8


def answer_of(key: StartKey, execution_id: bytes) -> bytes:
    """What is remembered of a debounced start: which execution it came to."""
    mark = b"" if key.request_id is not None or key.sent is None else key.sent.mark
    return mark + execution_id


def told_execution(key: StartKey, answer: bytes) -> bytes | None:
    """Which execution such a start has come to; None if it is a later one of its sender."""
    if key.request_id is not None or key.sent is None:
        return answer
    mark, execution_id = answer[:_MARK_BYTES], answer[_MARK_BYTES:]
    return execution_id if mark >= key.sent.mark else None
