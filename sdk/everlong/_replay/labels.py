"""Tags and memo of a run: what its execution is found by, and what people see beside it.

Both belong to the execution: a run begins with them, changes them by decisions, and hands them to
the next. What would change nothing is not recorded.
"""

from typing import Any

from everlong._replay.ledger import Ledger
from everlong_engine import (
    MemoSet,
    RunStarted,
    TagChanges,
    Tags,
    TagsSet,
    changed_tags,
    require_few_tags,
    same_tags,
)

__all__ = ["Labels"]


class Labels:
    """Those of one run."""

    __slots__ = ("memo", "tags")

    def __init__(self, started: RunStarted) -> None:
        self.tags: Tags = started.tags
        self.memo: bytes = started.memo

    def set_tags(self, run: Ledger, changes: TagChanges, where: str) -> None:
        """Decide to change some.

        Raises:
            InvalidTag: there would be too many.
        """
        run.require_live()
        now: dict[str, Any] = dict(self.tags)
        news = tuple(
            (name, value)
            for name, value in changes
            if not same_tags([(name, value)], [(name, now.get(name))])
        )
        if not news:
            return
        behind = changed_tags(self.tags, news)
        require_few_tags(len(behind))
        self.tags = behind
        run.made.append(TagsSet(news, where))

    def set_memo(self, run: Ledger, memo: bytes, where: str) -> None:
        """Decide to put another one in its place."""
        run.require_live()
        if memo != self.memo:
            self.memo = memo
            run.made.append(MemoSet(memo, where))
