"""The acceptance tests once more, under conditions that a feature must not notice.

`EVERLONG_HARDER=cache-off` keeps no run in memory: each input is fed to code that has just been
replayed. `EVERLONG_HARDER=every-prefix` is `everlong.testing.always_replay`, as users have it.
`make harder` runs both. A test that counts how often its own workflow's code runs, or that is about
the cache, has the marker `once` and is left out.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from everlong import Worker
from everlong.testing import always_replay

__all__ = ["MODE", "harder", "replays"]

MODE: Final = os.environ.get("EVERLONG_HARDER", "")
replays: Final[list[int]] = []
"""How many inputs each replay of a prefix fed."""


@contextmanager
def harder(mode: str) -> Generator[None]:
    """Runs a test in a mode; "" is the usual one."""
    match mode:
        case "":
            yield
        case "cache-off":
            with _cache_off():
                yield
        case "every-prefix":
            with always_replay(on_replay=replays.append):
                yield
        case _:
            raise ValueError(f"EVERLONG_HARDER={mode}: choose cache-off or every-prefix")


@contextmanager
def _cache_off() -> Generator[None]:
    begin = Worker.__init__

    def without_cache(self: Worker, *args: Any, **options: Any) -> None:
        options.setdefault("cache_size", 0)
        begin(self, *args, **options)

    with mock.patch.object(Worker, "__init__", without_cache):
        yield
