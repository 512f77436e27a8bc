"""How often a process looks whether others have left anything for it."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from everlong_engine.duties.inbox_watcher import InboxWatcher
from everlong_engine.store.interface import Question

BUSY_S, IDLE_S = 0.25, 1.0


class Busy:
    """A store where others commit all the time."""

    look_s = (BUSY_S, IDLE_S)

    def __init__(self) -> None:
        self.questions: list[Question] = []

    async def changed(self) -> bool:
        return True

    async def mail_since(self, *_: Any) -> list[Any]:
        return []

    async def open_questions(self, limit: int) -> Sequence[Question]:
        return self.questions


class Host:
    worker_id = b"w"

    def wake(self) -> None:
        pass

    def others_committed(self) -> None:
        pass

    def ask(self, question: Question) -> None:
        pass


async def pauses_of(watcher: InboxWatcher, count: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How long it pauses, from its start on."""
    pauses: list[float] = []
    enough = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) >= count:
            enough.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(watcher, "_pause", pause)
    watcher.start()
    await enough.wait()
    await watcher.stop()
    return pauses[:count]


async def test_what_others_do_among_themselves_is_looked_at_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = SimpleNamespace(store=Busy(), hosts=[Host()], shared=True)
    pauses = await pauses_of(InboxWatcher(engine), 12, monkeypatch)
    assert pauses == sorted(pauses)
    assert pauses[-1] == IDLE_S


async def test_where_something_was_found_more_is_looked_for_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = SimpleNamespace(store=Busy(), hosts=[Host()], shared=True)
    engine.store.questions = [Question(b"q", 0, "default", "w", "status", b"")]
    assert set(await pauses_of(InboxWatcher(engine), 12, monkeypatch)) == {BUSY_S}


async def test_who_waits_for_others_hears_of_them_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = SimpleNamespace(store=Busy(), hosts=[], shared=True)
    watcher = InboxWatcher(engine)
    waiting = watcher.changed()
    pauses = await pauses_of(watcher, 2, monkeypatch)
    assert waiting.done()
    assert pauses[0] == BUSY_S < pauses[1]
