"""`make demo`: the order stream, its worker killed with SIGKILL again and again. Nothing is lost.

Three processes: the API (`samples.order_api`), the worker (`samples.order_stream`) and this one,
which starts the other two, kills the worker at random moments, starts it again with the very same
command, and counts at the end. What it counts:

- **served**: orders that the API decided to give to some idempotency key. The API writes that down
  before it answers, so an order counts even if its answer was never read, because the worker was
  killed in that moment.
- **lost**: served orders that are not in the table at the end. To be fair to nobody, the API stops
  making new orders first, the flows go on until every served order is loaded or the patience ends,
  and whatever is missing then is lost. An attempt that died holding an order asks again under the
  same key and gets the same order, so its order is loaded late, and is not lost.
- **twice**: orders with more than one row in the table, or loaded by more than one step according
  to the journals. The table's primary key alone rules out the former; the latter would show a flow
  that decided twice.
- **repeated**: attempts that were cut down by a kill and made again. These are no faults, but they
  are real: an activity runs at least once, and the two keys of `order_stream` make that harmless.

Exit code 0 only if nothing was lost and nothing loaded twice.
"""

import argparse
import asyncio
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import BaseModel

from everlong import Client, ExecutionSummary, HistoryEvent, WorkflowCancelled

LIFE_S = (0.5, 6.0)  # How long a worker lives, its start-up included, before it is killed.
PATIENCE_S = 45.0  # How long the flows may take over the last orders: several back-offs.
ROOT = Path(__file__).resolve().parent.parent


class Served(BaseModel):
    """The API's ledger: how often each order was sent, by its id."""

    orders: dict[int, int]
    errors: int
    calls: int


@dataclass
class Journals:
    """What the histories of all flows say."""

    runs: int = 0
    events: int = 0
    problems: int = 0
    steps: Counter[int] = field(default_factory=Counter[int])
    """How many steps loaded an order, by its id."""
    lost: int = 0
    failed: int = 0

    def add(self, history: list[HistoryEvent]) -> None:
        self.runs += 1
        self.events += len(history)
        for event in history:
            if event.kind == "ActivityScheduled" and event.fields["activity"] == "load":
                self.steps[event.fields["arguments"]["order"]["id"]] += 1
            self.lost += sum(attempt.state == "lost" for attempt in event.attempts)
            self.failed += sum(attempt.state == "failed" for attempt in event.attempts)


# ------------------------------------------------------------------------------ other processes


@asynccontextmanager
async def child(*command: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A Python module in a process group of its own, so that a kill hits nothing else."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await end(process, signal.SIGKILL)


async def end(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        os.killpg(process.pid, number)
    await process.wait()


# ------------------------------------------------------------------------------------ the demo


class Demo:
    def __init__(self, folder: Path, *, kills: int, streams: int, errors: float) -> None:
        self.store, self.table = folder / "everlong.db", folder / "orders.db"
        self.kills, self.streams, self.errors = kills, streams, errors
        self._began = time.monotonic()
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    async def run(self) -> bool:
        """Whether nothing was lost and nothing loaded twice."""
        api = child("samples.order_api", "--errors", str(self.errors))
        async with api as process, httpx.AsyncClient() as http:
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().strip()
            self.say(f"the API serves random orders on {url}")
            for number in range(1, self.kills + 1):
                await self._live_and_be_killed(number, url, http)
            await self._live_to_the_end(url, http)
            served = await self._served(url, http)
        return self._tell(served, self._loaded(), await self._journals())

    async def _live_and_be_killed(self, number: int, url: str, http: httpx.AsyncClient) -> None:
        async with self._worker(url) as worker:
            try:
                async with asyncio.timeout(random.uniform(*LIFE_S)):
                    await self._until_it_loads(number, worker)
                    await worker.wait()
            except TimeoutError:
                calls = (await self._served(url, http)).calls
                await end(worker, signal.SIGKILL)
                loaded = len(self._loaded())
                self.say(f"worker {number}  kill -9: {loaded} orders loaded, {calls} under way", 31)
            else:
                raise SystemExit(f"worker {number} ended by itself ({worker.returncode})")

    async def _live_to_the_end(self, url: str, http: httpx.AsyncClient) -> None:
        number = self.kills + 1
        async with self._worker(url) as worker:
            await self._until_it_loads(number, worker)
            (await http.post(f"{url}/close")).raise_for_status()
            self.say("the API makes no new orders now; waiting for the last ones to be loaded")
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while not (await self._served(url, http)).orders.keys() <= self._loaded():  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
            except TimeoutError:
                self.say("the patience is at its end", 31)
            await self._cancel_streams()
            await end(worker, signal.SIGTERM)
            self.say(f"worker {number}  stopped in order (exit code {worker.returncode})")

    def _worker(self, url: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        files = ("--db", str(self.store), "--table", str(self.table))
        return child("samples.order_stream", url, *files, "--streams", str(self.streams))

    async def _until_it_loads(self, number: int, worker: asyncio.subprocess.Process) -> None:
        before, began = self._loaded(), time.monotonic()
        self.say(f"worker {number}  starts as process {worker.pid}")
        while self._loaded() == before and worker.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        pause = time.monotonic() - began
        self.say(f"worker {number}  goes on: a new order is loaded after {pause:.1f} s", 32)

    async def _cancel_streams(self) -> None:
        async with Client.connect(self.store) as client:
            for number in range(1, self.streams + 1):
                handle = client.get_handle(f"orders-{number}")
                await handle.cancel("enough for today")
                try:
                    await handle.result()
                except WorkflowCancelled:
                    continue

    # -------------------------------------------------------------------------- what it counts

    async def _served(self, url: str, http: httpx.AsyncClient) -> Served:
        return Served.model_validate_json((await http.get(f"{url}/served")).content)

    def _loaded(self) -> set[int]:
        return set(self._rows())

    def _rows(self) -> list[int]:
        """The order ids in the table, row by row."""
        if not self.table.exists():
            return []
        with closing(sqlite3.connect(self.table, timeout=20)) as db:
            known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone()
            return [order for (order,) in db.execute("SELECT id FROM orders")] if known else []

    async def _journals(self) -> Journals:
        found = Journals()
        async with Client.connect(self.store) as client:
            found.problems = len(await client.verify())
            runs: list[ExecutionSummary] = []
            page = await client.list(type="order_stream", limit=100)
            runs += page.items
            while page.next:
                page = await client.list(type="order_stream", limit=100, after=page.next)
                runs += page.items
            for run in runs:
                found.add(await client.get_handle(run.workflow_id).history(run.run_id))
        return found

    def _tell(self, served: Served, loaded: set[int], journals: Journals) -> bool:
        lost = served.orders.keys() - loaded
        rows = Counter(self._rows())
        twice = {order for order, count in (rows | journals.steps).items() if count > 1}
        again = sum(sent - 1 for sent in served.orders.values())
        is_good = not lost and not twice and not journals.problems
        lines = [
            ("orders served", len(served.orders), ""),
            ("orders loaded", len(loaded), ""),
            ("lost", len(lost), ""),
            ("rows twice", len(twice), ""),
            (
                "attempts repeated after kills",
                journals.lost,
                f"{again} times the same order was handed out again",
            ),
            ("attempts repeated after errors", journals.failed, "each ten seconds later"),
            ("worker restarts", self.kills, "each after a kill -9"),
            (
                "events in the journals",
                journals.events,
                f"in {journals.runs} runs; {journals.problems} problems found",
            ),
        ]
        print()
        for name, count, remark in lines:
            print(f"  {name:<32}{count:>6}   {remark if count else ''}".rstrip())
        print()
        verdict = "nothing lost, nothing twice" if is_good else f"lost {lost}, twice {twice}"
        self.say(verdict, 32 if is_good else 31)
        return is_good

    def say(self, text: str, colour: int = 0) -> None:
        """A line with the seconds since the start."""
        stamp = f"{time.monotonic() - self._began:6.1f} s   "
        shown = f"\033[{colour}m{text}\033[0m" if self._coloured and colour else text
        print(stamp + shown, flush=True)


def main() -> int:
    options = argparse.ArgumentParser(description="Kill the order stream's worker again and again.")
    options.add_argument("--kills", type=int, default=6)
    options.add_argument("--streams", type=int, default=8)
    options.add_argument("--errors", type=float, default=0.05, help="the share of errors 500")
    chosen = vars(options.parse_args())

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="everlong-demo-") as folder:
        try:
            return 0 if asyncio.run(Demo(Path(folder), **chosen).run()) else 1
        except KeyboardInterrupt:
            print("\nstopped: the demo's processes are ended, its files are gone")
            return 130


if __name__ == "__main__":
    sys.exit(main())
