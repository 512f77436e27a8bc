"""Bulk jobs on a server, encrypted: the same as on a file."""

from everlong import Client, Signal, Worker, workflow
from everlong.codec import Encrypt, new_key
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database

word = Signal("bulk_word_on_a_server", str)


async def test_a_job_signals_all_and_another_one_tries_those_again_that_failed() -> None:
    broken = True

    @workflow
    async def bulk_on_a_server(number: int) -> str:
        heard = await word.receive()
        if broken and number % 2:
            raise ValueError(f"{number} is odd")
        return heard

    url, key = await fresh_database(), new_key()
    secrets = [Encrypt({"k": key})]
    async with Client.connect(url, codecs=secrets) as client, Worker(client):
        handles = [await client.start(bulk_on_a_server, n, id=f"w-{n}") for n in range(6)]
        mine = "type = 'bulk_on_a_server'"
        job = await client.bulk("signal", filter=mine, signal=word, value="the secret word")
        assert (await job.result()).done == 6

        async def are_over() -> bool:
            return await client.count(f"{mine} and status = 'failed'") == 3

        await until(are_over)
        broken = False
        job = await client.bulk("retry", filter=f"{mine} and status = 'failed'")
        report = await job.result()
        assert (report.done, report.skipped, report.failed) == (3, 0, 0)
        assert [await one.result() for one in handles] == ["the secret word"] * 6
        assert await client.verify() == []
