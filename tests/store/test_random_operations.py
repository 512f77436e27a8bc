"""Random operations on the real store, against a model of a few dictionaries.

The model knows nothing of SQL: runs with a token, a next number and an inbox. After every step the
store must have answered as the model does and hold the same; at the end `verify` is clean.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everlong_engine.model.events import RunCompleted, RunContinuedAsNew
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.writes import (
    Append,
    AppendResult,
    Message,
    MessageResult,
    Refusal,
    Release,
    StartResult,
    StartRun,
    Terminate,
    Write,
    WriteResult,
)
from everlong_engine.store.interface import MailGone, Store
from everlong_engine.store.sqlite.store import SqliteStore
from tests.support.store_rig import SECOND_US, TERMINATED, Rig, refusal, signal

T = TypeVar("T")

NAMES = ["a", "b", "c"]
names = st.sampled_from(NAMES)


@dataclass
class Execution:
    """What the model knows of the newest run of a workflow id."""

    row: RunRow
    token: int
    owned: bool
    next_seq: int
    wake_us: int | None
    status: RunStatus = RunStatus.RUNNING
    mail: list[int] = field(default_factory=list[int])
    requests: set[str] = field(default_factory=set[str])
    payloads: list[bytes] = field(default_factory=list[bytes])
    """Of the signals in this run's history."""
    losses: int = 0


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.store: Store = self.run(self.open(Path(self.folder.name) / "everlong.db"))
        self.rig = Rig(self.store)
        self.model: dict[str, Execution] = {}
        self.sent = 0

    async def open(self, path: Path) -> Store:
        return await SqliteStore.open(path, durability="relaxed")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def write(self, write: Write) -> WriteResult:
        return self.run(self.rig.one(write))

    def teardown(self) -> None:
        try:
            assert self.run(self.rig.problems()) == []
        finally:
            self.run(self.store.close())
            self.runner.close()
            self.folder.cleanup()

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        for name, known in self.model.items():
            row = self.run(self.rig.row(name))
            loaded = self.run(self.rig.load(row))
            assert row.execution_id == known.row.execution_id
            assert (row.lease_token, row.next_seq, row.status, row.wake_us) == (
                known.token,
                known.next_seq,
                known.status,
                known.wake_us,
            )
            assert (row.owner is not None) is known.owned
            notices = [mail.position for mail in loaded.mail if mail.kind == TERMINATED]
            assert [mail.position for mail in loaded.mail if mail.kind != TERMINATED] == known.mail
            assert not notices or known.status is RunStatus.TERMINATED
            assert [one.seq for one in loaded.history] == list(range(1, known.next_seq))
            found = [getattr(one.event, "payload", None) for one in loaded.history]
            assert [payload for payload in found if payload is not None] == known.payloads

    # ------------------------------------------------------------------------------- operations

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.rig.now_us += seconds * SECOND_US

    @rule(name=names, here=st.booleans(), if_closed=st.sampled_from(["allow", "fail"]))
    def start(self, name: str, here: bool, if_closed: Any) -> None:
        start: StartRun = (self.rig.start_here if here else self.rig.start)(
            name, if_closed=if_closed
        )
        result = self.write(start)
        assert isinstance(result, StartResult)
        known = self.model.get(name)
        may = known is None or (not known.status.is_open and if_closed == "allow")
        assert result.created is may
        if not may:
            assert known is not None
            assert result.run_id == known.row.run_id
            assert result.refused is (not known.status.is_open)
            return
        row = self.run(self.rig.row(name))
        mail = [] if here else [self._last_position()]
        wake_us = None if here else self.rig.now_us
        before = self.model.get(name)
        # What an earlier execution of the id was asked is not asked of this one.
        requests: set[str] = set() if before is None else set(before.requests)
        self.model[name] = Execution(
            row, int(here), here, 2 if here else 1, wake_us, mail=mail, requests=requests
        )

    def _last_position(self) -> int:
        return max(mail.position for mail in self.run(self.store.mail_since(0, 10_000)))

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        due = {
            name: known.wake_us
            for name, known in self.model.items()
            if known.status is RunStatus.RUNNING
            and known.wake_us is not None
            and known.wake_us <= self.rig.now_us
        }
        claimed = self.run(self.rig.claim(limit=limit))
        found = [one.row.workflow_id for one in claimed]
        assert len(set(found)) == len(found)
        # Of those that have waited equally long, any may come first.
        assert [due.get(name) for name in found] == sorted(due.values())[:limit]
        for one in claimed:
            known = self.model[one.row.workflow_id]
            known.token, known.owned, known.wake_us = known.token + 1, True, None

    @precondition(lambda self: self.model)
    @rule(
        name=names,
        count=st.integers(1, 4),
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        stale=st.sampled_from([False, False, False, True]),
        consume=st.sampled_from(["none", "first", "all", "gone"]),
        end=st.sampled_from(["no", "no", "no", "close", "roll"]),
    )
    def append(self, name: str, count: int, off: int, stale: bool, consume: str, end: str) -> None:
        known = self.model.get(name)
        if known is None or known.next_seq + off < 1:
            return
        token = known.token - 1 if stale else known.token
        payloads = [self._payload() for _ in range(count)]
        events: list[Any] = [signal(payload) for payload in payloads]
        consumed = {"first": known.mail[:1], "all": known.mail, "gone": [10**9]}.get(consume, [])
        options: dict[str, Any] = {"consumed": tuple(consumed)}
        if end == "close":
            events.append(RunCompleted(b""))
        if end == "roll":
            events.append(RunContinuedAsNew(b"", (), 1))
            options |= {"next_run": self.rig.successor(known.row), "mail_free": False}
        base = known.next_seq + off
        append = self.rig.events(known.row, base, *events, token=token, **options)
        before = self.run(self.rig.row(name))
        append.run_id = before.run_id
        self._apply_append(name, known, append, payloads, end, off == 0)

    def _apply_append(
        self, name: str, known: Execution, append: Append, payloads: list[bytes], end: str, at: bool
    ) -> None:
        left = [one for one in known.mail if one not in append.consumed]
        right = at and append.token == known.token and known.status is RunStatus.RUNNING
        if right and not (end == "close" and left):
            if len(left) + len(append.consumed) != len(known.mail):
                with pytest.raises(MailGone):
                    self.write(append)
                return
            assert refusal(self.write(append)) is None
        else:
            refused = refusal(self.write(append))
            # Of two reasons, either may be told: both mean that it must look again.
            assert refused is Refusal.MAIL if right else refused is not None
            return
        known.mail = left
        known.next_seq = append.base + len(append.rows)
        known.payloads += payloads
        if end == "close":
            known.status, known.owned, known.wake_us = RunStatus.COMPLETED, False, None
        if end == "roll":
            known.row = self.run(self.rig.row(name))
            known.mail.append(self._last_position())
            known.token, known.next_seq, known.payloads, known.owned = 1, 1, [], True
            known.status, known.wake_us = RunStatus.RUNNING, None

    def _payload(self) -> bytes:
        self.sent += 1
        return b"%d" % self.sent

    @rule(name=names, request=st.sampled_from([None, "r1", "r2"]))
    def send(self, name: str, request: str | None) -> None:
        message: Message = self.rig.message(name, self._payload(), request_id=request)
        result = self.write(message)
        assert isinstance(result, MessageResult)
        known = self.model.get(name)
        if known is None:
            assert result.status is None
            return
        assert result.duplicate is (request in known.requests)
        accepted = known.status.is_open and request not in known.requests
        assert (result.position is not None) is accepted
        if result.position is None:
            return
        known.mail.append(result.position)
        if request is not None:
            known.requests.add(request)
        if not known.owned and known.status is RunStatus.RUNNING:
            now_us = self.rig.now_us
            known.wake_us = now_us if known.wake_us is None else min(known.wake_us, now_us)

    @precondition(lambda self: self.model)
    @rule(name=names, sleep=st.sampled_from([None, 0, 2]), stale=st.booleans(), block=st.booleans())
    def release(self, name: str, sleep: int | None, stale: bool, block: bool) -> None:
        known = self.model.get(name)
        if known is None or not known.owned:
            return
        wake_us = self.rig.now_us + sleep * SECOND_US if sleep else sleep
        row = self.run(self.rig.row(name))
        token = row.lease_token - 1 if stale else row.lease_token
        reason = "no" if block else None
        release = Release(
            0, row.run_id, row.execution_id, token, row.next_seq, wake_us, block, reason
        )
        result = self.write(release)
        assert isinstance(result, AppendResult)
        if known.mail and not block and wake_us != 0:
            assert result.refusal is Refusal.MAIL
            return
        assert result.refusal is (Refusal.FENCED if stale else None)
        if not stale:
            known.owned, known.wake_us = False, wake_us
            known.status = RunStatus.BLOCKED if block else RunStatus.RUNNING

    @rule(name=names)
    def terminate(self, name: str) -> None:
        write: Terminate = self.rig.terminate(name)
        result = self.write(write)
        assert isinstance(result, MessageResult)
        known = self.model.get(name)
        if known is None or not known.status.is_open:
            assert result.position is None
            return
        assert result.position == known.next_seq
        known.next_seq += 1
        known.token += 1
        known.mail, known.owned, known.wake_us = [], False, None
        known.status = RunStatus.TERMINATED

    @rule()
    def die(self) -> None:
        self.run(self.rig.register())

        self.run(self.rig.die())
        for name, known in self.model.items():
            if known.owned:
                row = self.run(self.rig.row(name))
                known.owned, known.token = False, known.token + 1
                known.wake_us = row.wake_us
                assert row.wake_us is not None


TestRandomOperations = StoreMachine.TestCase
TestRandomOperations.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
