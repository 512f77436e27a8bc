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
        self.asks = False
        self.asked = 0

    def listen(self, heard: Any) -> None:
        pass

    async def changed(self) -> bool:
        return True

    async def mail_since(self, *_: Any) -> list[Any]:
        return []

    async def open_questions(self, limit: int) -> Sequence[Question]:
        if not self.asks:
            return []
        self.asked += 1
        return [Question(b"%d" % self.asked, 0, "default", "w", "status", b"")]


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
    pauses = await pauses_of(InboxWatcher(engine), 20, monkeypatch)
    assert pauses == sorted(pauses)
    assert pauses[-1] == IDLE_S


async def test_where_something_was_found_more_is_looked_for_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = SimpleNamespace(store=Busy(), hosts=[Host()], shared=True)
    engine.store.asks = True
    assert set(await pauses_of(InboxWatcher(engine), 12, monkeypatch)) == {BUSY_S}


async def test_a_question_that_is_for_somebody_else_is_asked_again_once_that_one_may_be_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Same(Busy):
        async def open_questions(self, limit: int) -> Sequence[Question]:
            return [Question(b"q", 0, "default", "w", "status", b"")]

    class Other(Host):
        asked = 0

        def ask(self, question: Question) -> None:
            self.asked += 1
            if self.asked < 3:
                watcher.ask_again(question.question_id)

    host = Other()
    engine: Any = SimpleNamespace(store=Same(), hosts=[host], shared=True)
    watcher = InboxWatcher(engine)
    pauses = await pauses_of(watcher, 8, monkeypatch)
    assert host.asked == 3
    assert pauses[0] < pauses[-1]


async def test_who_waits_for_others_hears_of_them_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = SimpleNamespace(store=Busy(), hosts=[], shared=True)
    watcher = InboxWatcher(engine)
    waiting = watcher.changed()
    pauses = await pauses_of(watcher, 7, monkeypatch)
    assert waiting.done()
    assert pauses[:6] == [BUSY_S] * 6  # Who has asked once may ask again.
    assert pauses[6] > BUSY_S


async def test_a_hint_that_comes_during_a_look_leads_to_another() -> None:
    looked_again = asyncio.Event()

    class Hinting(Busy):
        look_s = (60.0, 60.0)
        hint: Any = None
        looks = 0

        def listen(self, heard: Any) -> None:
            self.hint = heard

        async def changed(self) -> bool:
            self.looks += 1
            if self.looks == 1:
                self.hint()
            else:
                looked_again.set()
            return True

    engine: Any = SimpleNamespace(store=Hinting(), hosts=[], shared=True)
    watcher = InboxWatcher(engine)
    watcher.start()
    async with asyncio.timeout(10):
        await looked_again.wait()
    await watcher.stop()
