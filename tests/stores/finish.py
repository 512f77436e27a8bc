"""Finishes a store whose runs stand half way, and tells what came of them.

`python finish.py FILE` prints it as JSON; with `--read` the runs are closed already, and only their
results are told. It is run by older versions too, so it uses nothing that they lack.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import everlong
from everlong import Client, Worker
from tests.stores import flows

EXPECTED: dict[str, Any] = {
    "waits-for-signal": "ANN True",
    "carries": 5,
    "large": 100_007,
    "dies-in-activity": "PARALLEL after the crash",
    # Due seconds after they were written: long ago, or soon.
    "sleeps": "WOKE",
    "backs-off": "mended",
}
"""What each open run must come to, whoever finishes it."""


async def finish(path: Path) -> dict[str, Any]:
    """Drive every open run to its end."""
    async with Client.connect(path, retention=None) as client:
        assert await client.verify() == []
        open_runs = (await client.list(status="running", limit=100)).items
        assert {one.workflow_id for one in open_runs} == EXPECTED.keys()
        async with Worker(client):
            assert await client.get_handle("carries", flows.carries).query(flows.seen) == 5
            for name in ("waits-for-signal", "carries", "large"):
                await client.get_handle(name).signal(flows.verdict, True)
            results = await outcomes(client)
        assert await client.verify() == []
        return results


async def outcomes(client: Client) -> dict[str, Any]:
    return {name: await client.get_handle(name).result() for name in EXPECTED}


async def read(path: Path) -> dict[str, Any]:
    async with Client.connect(path, retention=None, create=False) as client:
        assert await client.verify() == []
        return await outcomes(client)


if __name__ == "__main__":
    *options, file = sys.argv[1:]
    found = asyncio.run((read if options else finish)(Path(file)))
    json.dump({"by": everlong.__file__, "results": found}, sys.stdout)
