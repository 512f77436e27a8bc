"""Time, chance and the outside world, as workflow code and everyone else sees them."""

import asyncio
import builtins
import importlib
import inspect
import linecache
import logging
import os
import pickle
import random
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import traceback
import urllib.request
import uuid
import weakref
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlong._replay import audit, guard
from tests.support.fake_workflow_loop import START_NS, FakeWorkflowLoop, Forbidden, fake_loop
from tests.support.fresh_processes import outputs

START_S = START_NS / 1_000_000_000


@pytest.fixture(autouse=True)
def installed() -> None:
    guard.install()


@pytest.fixture
def loop() -> FakeWorkflowLoop:
    return fake_loop()


# ------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("clock", ["time", "monotonic", "perf_counter", "process_time"])
def test_every_clock_shows_the_time_of_the_last_input(loop: FakeWorkflowLoop, clock: str) -> None:
    assert loop.call(getattr(time, clock)) == START_S
    assert loop.call(getattr(time, f"{clock}_ns")) == START_NS
    loop.guard_time_ns += 5_000_000_000
    assert loop.call(getattr(time, clock)) == START_S + 5


def test_clocks_go_on_outside_and_in_other_threads(loop: FakeWorkflowLoop) -> None:
    elsewhere: list[float] = []
    ask, asked = threading.Event(), threading.Event()

    def in_another_thread() -> None:
        ask.wait(10)
        elsewhere.append(time.time())
        asked.set()

    thread = threading.Thread(target=in_another_thread)
    thread.start()

    def workflow() -> float:
        ask.set()
        asked.wait(10)
        return time.time()

    assert loop.call(workflow) == START_S
    thread.join()
    assert elsewhere[0] > START_S + 1e6
    assert time.time() > START_S + 1e6
    assert time.monotonic() <= time.monotonic()


async def test_the_workers_own_loop_sees_the_real_time(loop: FakeWorkflowLoop) -> None:
    before = asyncio.get_running_loop().time()
    loop.call(time.time)
    assert 0 <= asyncio.get_running_loop().time() - before < 60


def test_local_time_in_a_workflow_is_utc(
    loop: FakeWorkflowLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert loop.call(time.localtime).tm_hour == 22
        assert loop.call(time.gmtime).tm_hour == 22
        assert loop.call(lambda: time.localtime(0)).tm_hour == 0
        assert loop.call(time.ctime) == "Tue Nov 14 22:13:20 2023"
        assert loop.call(time.asctime) == "Tue Nov 14 22:13:20 2023"
        assert loop.call(lambda: time.strftime("%H:%M")) == "22:13"
        assert loop.call(lambda: time.strftime("%H", time.gmtime(0))) == "00"
        assert loop.call(lambda: time.mktime(time.gmtime(3600))) == 3600.0
        assert time.localtime(0).tm_hour == 9
        assert time.ctime(0).startswith("Thu Jan  1 09:00")
        assert time.strftime("%H", time.localtime(0)) == "09"
        assert time.mktime(time.localtime(3600)) == 3600.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_sleeping_the_thread_is_refused_with_the_remedy(loop: FakeWorkflowLoop) -> None:
    with pytest.raises(Forbidden):
        loop.call(lambda: time.sleep(1))  # tidy: waits because it is refused before it waits
    [(what, fix)] = loop.forbidden
    assert what == "time.sleep()"
    assert "await asyncio.sleep" in fix


# ----------------------------------------------------------------------------------------- chance


def draw() -> list[object]:
    items = list(range(20))
    random.shuffle(items)
    return [
        *(random.random(), random.randint(1, 10**9), random.choice(items), random.randbytes(4)),
        *(random.gauss(0, 1), random.sample(items, 3), random.uniform(1, 2), items),
        *(uuid.uuid4(), os.urandom(8), secrets.token_hex(8), secrets.randbelow(10**9)),
        *(random.SystemRandom().random(), random.Random().random(), secrets.choice(items)),
    ]


def test_chance_in_a_workflow_comes_from_its_seed() -> None:
    first = fake_loop(seed=1).call(draw)
    assert fake_loop(seed=1).call(draw) == first
    assert fake_loop(seed=2).call(draw) != first
    assert draw() != draw()


def test_chance_in_a_workflow_leaves_the_process_alone(loop: FakeWorkflowLoop) -> None:
    random.seed(11)
    before = random.getstate()
    loop.call(draw)
    assert random.getstate() == before


def test_seeding_the_shared_source_is_refused(loop: FakeWorkflowLoop) -> None:
    for call in (lambda: random.seed(1), lambda: random.setstate(random.Random(1).getstate())):
        with pytest.raises(Forbidden):
            loop.call(call)
    assert [what for what, _ in loop.forbidden] == ["random.seed()", "random.setstate()"]


def test_uuid1_is_refused_and_uuid4_is_a_uuid4(loop: FakeWorkflowLoop) -> None:
    assert loop.call(uuid.uuid4).version == 4
    with pytest.raises(Forbidden, match="uuid1"):
        loop.call(uuid.uuid1)


def test_every_function_of_the_hidden_random_is_guarded() -> None:
    hidden = vars(random)["_inst"]
    assert [name for name, f in vars(random).items() if getattr(f, "__self__", 0) is hidden] == []


SAME_CHANCE = """
import random, secrets, uuid, os, time
from everlong._replay import guard
from tests.support.fake_workflow_loop import fake_loop
guard.install()
print(fake_loop(3).call(lambda: (random.random(), uuid.uuid4(), secrets.token_hex(), time.time(),
                                 random.Random().random(), os.urandom(4), random.gauss(0, 1))))
"""


def test_twenty_fresh_processes_see_one_time_and_one_chance() -> None:
    assert len(outputs(SAME_CHANCE)) == 1


# --------------------------------------------------------------- guards look like the originals


def test_a_guard_has_the_name_and_words_of_the_original() -> None:
    assert time.time.__name__ == "time"
    assert time.time.__module__ == "time"
    assert "seconds since the Epoch" in (time.time.__doc__ or "")
    assert random.choice.__name__ == "choice"


def test_a_guard_in_a_class_body_does_not_become_a_method() -> None:
    class UtcFormatter(logging.Formatter):
        converter = time.gmtime  # type: ignore[assignment]

    record = logging.LogRecord("n", 20, "p", 1, "hello", None, None)
    record.created = 0.0
    assert UtcFormatter("%(asctime)s", "%Y").format(record) == "1970"


def test_a_guard_pickles_by_its_name() -> None:
    for function in (time.sleep, time.time, random.choice, os.urandom, uuid.uuid1):
        assert pickle.loads(pickle.dumps(function)) == function


def test_installing_twice_wraps_nothing_twice() -> None:
    before = time.time, random.random, threading.Thread.start, random.Random.seed
    guard.install()
    assert (time.time, random.random, threading.Thread.start, random.Random.seed) == before


def test_installing_guards_a_fake_clock_that_came_meanwhile(
    loop: FakeWorkflowLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 42.0)
    guard.install()
    assert time.time() == 42.0
    assert loop.call(time.time) == START_S


# ------------------------------------------------------------------------------------ the outside

OUTSIDE: dict[str, Callable[[], object]] = {
    "open('prices.csv')": lambda: builtins.open("prices.csv"),  # noqa: PTH123, SIM115
    "open('other.csv')": lambda: Path("other.csv").read_text(),
    "os.remove('prices.csv')": lambda: Path("prices.csv").unlink(),
    "os.rename('a')": lambda: Path("a").rename("b"),
    "os.listdir('.')": lambda: os.listdir("."),  # noqa: PTH208
    "shutil.rmtree('a')": lambda: shutil.rmtree("a"),
    "tempfile.mkdtemp(": tempfile.mkdtemp,
    "socket()": socket.socket,
    "socket.getaddrinfo('localhost')": lambda: socket.getaddrinfo("localhost", 80),
    "urllib.Request('http://localhost')": lambda: urllib.request.urlopen("http://localhost"),
    "subprocess.Popen('true')": lambda: subprocess.run(["true"], check=False),
    "os.system(b'true')": lambda: vars(os)["system"]("true"),
    "os.fork()": os.fork,
    "sqlite3.connect(':memory:')": lambda: sqlite3.connect(":memory:"),
    "os.putenv(b'A')": lambda: os.environ.update(A="1"),
    "Thread.start()": lambda: threading.Thread(target=print).start(),
    "input('name?')": lambda: input("name?"),
}


@pytest.mark.parametrize("shown", OUTSIDE)
def test_the_outside_is_refused_by_name(loop: FakeWorkflowLoop, shown: str) -> None:
    with pytest.raises(Forbidden):
        loop.call(OUTSIDE[shown])
    what, fix = loop.forbidden[0]
    assert what.startswith(shown)
    assert "activity" in fix


def test_the_remedy_shows_an_activity(loop: FakeWorkflowLoop) -> None:
    with pytest.raises(Forbidden):
        loop.call(OUTSIDE["open('prices.csv')"])
    assert "@activity\n" in loop.forbidden[0][1]
    assert "await read_prices" in loop.forbidden[0][1]


def test_outside_a_workflow_files_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("y")
    assert (tmp_path / "x").read_text() == "y"


def test_a_swallowed_refusal_has_been_reported(loop: FakeWorkflowLoop) -> None:
    def workflow() -> str:
        try:
            Path("x").read_text()
        except BaseException:
            return "swallowed"
        return "read"

    assert loop.call(workflow) == "swallowed"
    assert len(loop.forbidden) == 1


# ---------------------------------------------------------------------- what is excused from that


def test_a_workflow_may_import(loop: FakeWorkflowLoop, tmp_path: Path) -> None:
    (tmp_path / "imported_late.py").write_text("from time import time\nVALUE = 3\n")
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    try:
        late: Any = loop.call(lambda: importlib.import_module("imported_late"))
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("imported_late", None)
    assert late.VALUE == 3
    assert late.time is time.time, "a late from-import gets the guard"


def test_a_workflow_may_show_a_traceback(loop: FakeWorkflowLoop) -> None:
    def workflow() -> str:
        linecache.clearcache()
        try:
            raise ValueError("shown with its line")
        except ValueError:
            return traceback.format_exc()

    assert 'raise ValueError("shown with its line")' in loop.call(workflow)


def test_a_workflow_may_log_to_a_file(loop: FakeWorkflowLoop, tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    log = logging.getLogger("a workflow that logs")
    log.addHandler(handler)
    try:
        loop.call(lambda: log.error("written"))
    finally:
        handler.close()
        log.removeHandler(handler)
    assert (tmp_path / "log").read_text() == "written\n"


def test_a_workflow_may_use_time_zones(loop: FakeWorkflowLoop) -> None:
    zone = loop.call(lambda: zoneinfo.ZoneInfo.no_cache("Europe/Berlin"))
    assert zone.key == "Europe/Berlin"


def test_the_folder_of_time_zones_is_no_way_around(loop: FakeWorkflowLoop) -> None:
    with pytest.raises(Forbidden):
        loop.call(lambda: Path(f"{zoneinfo.TZPATH[0]}/../../../etc/hostname").read_text())


def test_what_is_collected_during_a_drive_may_clean_up(
    loop: FakeWorkflowLoop, tmp_path: Path
) -> None:
    class Owner:
        def __init__(self, path: Path) -> None:
            self.path = path

        def __del__(self) -> None:
            self.path.unlink()

    class Weak:
        pass

    deleted, finalized = tmp_path / "deleted", tmp_path / "finalized"
    deleted.touch()
    finalized.touch()
    foreign: list[object] = [Owner(deleted), Weak()]
    weakref.finalize(foreign[1], finalized.unlink)
    loop.call(foreign.clear)
    assert not deleted.exists()
    assert not finalized.exists()
    assert loop.forbidden == []


def test_an_import_around_the_drive_excuses_nothing(tmp_path: Path) -> None:
    (tmp_path / "drives_when_imported.py").write_text(
        "from pathlib import Path\n"
        "from tests.support.fake_workflow_loop import fake_loop\n"
        "LOOP = fake_loop()\n"
        "try:\n    LOOP.call(lambda: Path('x').read_text())\nexcept BaseException:\n    pass\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        module: Any = importlib.import_module("drives_when_imported")
    finally:
        sys.path.remove(str(tmp_path))
    assert module.LOOP.forbidden[0][0] == "open('x')"


# ------------------------------------------------------------------------------------------- cost


def quickest_ns(statement: str, **names: object) -> float:
    return min(timeit.repeat(statement, globals=names, number=2_000, repeat=20)) / 2_000 * 1e9


def test_outside_a_workflow_a_guard_costs_little() -> None:
    guarded = quickest_ns("f()", f=time.time)
    original = quickest_ns("f()", f=inspect.unwrap(time.time))
    assert guarded - original < 1_000, "about 50 ns on an idle machine"


def test_an_audited_call_outside_a_workflow_costs_little() -> None:
    hook: Callable[..., None] = vars(audit)["_refuse_the_outside"]
    assert quickest_ns("f('open', ('x', 'r', 0))", f=hook) < 3_000, "about 100 ns when idle"
