"""Writes a store with open runs half way, by a worker that is killed at the end.

python -m tests.stores.write 0.1.0
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from everlong import Client, Worker
from everlong_engine import limits

FOLDER = Path(__file__).parent


async def begin(path: Path) -> None:
    """Bring every flow to its middle, then wait for the end."""
    from tests.stores import flows

    limits.CHECKPOINT_EVENTS = 4  # type: ignore[misc]  # so that one flow is in a later run
    async with Client.connect(path) as client, Worker(client, name="writer"):
        await client.start(flows.waits_for_signal, "ann", id="waits-for-signal")
        await client.start(flows.sleeps, id="sleeps")
        await client.start(flows.backs_off, id="backs-off")
        carries = await client.start(flows.carries, id="carries")
        large = await client.start(flows.large, id="large")
        for _ in range(5):
            await carries.signal(flows.verdict, False)
        await client.start(flows.dies_in_activity, id="dies-in-activity")
        started = Path(os.environ["STORES_WRITING"])
        while not (  # noqa: ASYNC110 - the store is what is looked at
            started.exists()
            and await carries.query(flows.seen) == 5
            and (await large.describe()).history_events >= 4
            and (await client.get_handle("backs-off").describe()).activities[0].last_error
        ):
            await asyncio.sleep(0.02)  # tidy: waits because other events are to come first
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main(version: str) -> None:
    path = FOLDER / f"{version}.db"
    if path.exists():
        raise SystemExit(f"{path} is there already: kept stores are never written over")
    half_way(path)
    sys.stdout.write(f"{path}\n")


def half_way(path: Path) -> None:
    """Make the store there, in one file, by a worker that dies in the middle of everything."""
    mark = path.with_suffix(".started")
    environment = {**os.environ, "STORES_WRITING": str(mark)}
    command = [sys.executable, "-m", "tests.stores.write", "--begin", str(path)]
    with subprocess.Popen(
        command, cwd=FOLDER.parents[1], env=environment, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        line = writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    mark.unlink(missing_ok=True)
    path.with_name(path.name + ".owner").unlink(missing_ok=True)
    if line.strip() != "ready":
        raise SystemExit("the writer did not get its flows half way")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")  # One file to keep.
    connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "--begin":
        asyncio.run(begin(Path(sys.argv[2])))
    else:
        main(sys.argv[1])
