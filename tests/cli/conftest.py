"""Commands that import no flows run in the tests' own process, which is quicker."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everlong.cli import main
from tests.support.command_line import Done

Here = Callable[..., Done]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Here]:
    """Run a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVERLONG_URL", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        code = main(arguments)
        printed = capfd.readouterr()
        return Done(int(code), printed.out, printed.err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def started(here: Here) -> Done:
    """A purchase that waits for a worker."""
    done = here("start", "purchase", "--id", "p1", "-a", "amount=5", "--json")
    assert done.code == 0, json.dumps(done.err)
    return done
