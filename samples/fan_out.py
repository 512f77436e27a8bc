"""A thousand activities side by side, fifty at a time; some fail for good; the rest is summed up.

    python -m samples.fan_out

The limit is an ordinary `asyncio.Semaphore`, the fan-out an ordinary `asyncio.gather`, and an
outcome that is an exception is an ordinary exception. All of it survives a crash: pages that were
counted are not counted again.
"""

import asyncio
import re
import sys

from pydantic import BaseModel

import everlong
from everlong import Retry, activity, workflow


class PageUnreadable(Exception):
    """A page that no further attempt will make readable."""


class Report(BaseModel):
    pages: int
    words: int
    unreadable: list[int]


@activity(retry=Retry(max_attempts=3, non_retryable=(PageUnreadable,)), timeout=10.0)
async def count_words(page: int) -> int:
    if page % 100 == 42:
        raise PageUnreadable(page)
    await asyncio.sleep(0.01)  # The download.
    return len(re.findall(r"\w+", f"page {page} " + "of a long book " * (page % 7)))


@workflow
async def fan_out(pages: int = 1000, at_once: int = 50) -> Report:
    slots = asyncio.Semaphore(at_once)

    async def count(page: int) -> int:
        async with slots:
            return await count_words(page)

    outcomes = await asyncio.gather(*map(count, range(pages)), return_exceptions=True)
    return Report(
        pages=pages,
        words=sum(outcome for outcome in outcomes if isinstance(outcome, int)),
        unreadable=[
            page for page, outcome in enumerate(outcomes) if isinstance(outcome, PageUnreadable)
        ],
    )


def main(db: str = "fan_out.db") -> None:
    report = everlong.run(fan_out, db=db)
    print(f"{report.words} words on {report.pages - len(report.unreadable)} pages")
    print(f"not readable: {', '.join(map(str, report.unreadable))}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
