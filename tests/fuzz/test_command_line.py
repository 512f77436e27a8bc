"""Every command with arguments that nobody would type: an exit code of the table, no traceback."""

import contextlib
import io
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from everlong.cli import main
from everlong.cli._app import COMMANDS
from everlong.cli._exits import ExitCode
from tests.chaos.arena import FULL
from tests.hostile import specimen
from tests.proof.record import record

SLOW: Final = [HealthCheck.too_slow]
EXAMPLES: Final = 3000 if FULL else 12
OPTIONS: Final = {
    "list": ("--filter", "--status", "--type", "--id", "--limit", "--after"),
    "count": ("--filter", "--by"),
    "show": (),
    "history": ("--run", "--last", "--traceback"),
    "start": (
        *("--id", "--arg", "--json-args", "--request-id", "--tag", "--memo", "--after", "--at"),
        *("--retry-attempts", "--retry-delay", "--from-savepoint", "--of"),
        *("--debounce", "--debounce-key", "--debounce-at-most", "--dedup-key", "--dedup-within"),
    ),
    "signal": ("--arg", "--json-args", "--request-id", "--value"),
    "query": ("--arg", "--json-args", "--timeout"),
    "update": ("--arg", "--json-args", "--update-id", "--timeout"),
    "subscribe": ("--start", "--no-follow"),
    "stream spread": ("--arg", "--forget", "--id", "--json-args", "--parts", "--wait"),
    "stream position": (),
    "stream lag": ("--at-most", "--partition", "--wait"),
    "stream rewind": (
        "--identity",
        "--keys",
        "--partition",
        "--request-id",
        "--to-savepoint",
        "--to-time",
    ),
    "stream drain": ("--request-id",),
    "stream dead-letters": (),
    "stream parked": (),
    "stream redrive": ("--key", "--request-id"),
    "stream savepoint": ("--request-id", "--stop", "--wait"),
    "stream savepoints": (),
    "entity show": (),
    "entity list": ("--after", "--limit"),
    "stream delete-savepoint": ("--request-id", "--wait"),
    "approvals": ("--id", "--limit", "--after"),
    "approve": ("--by", "--comment", "--request-id"),
    "reject": ("--by", "--comment", "--request-id"),
    "complete": (),
    "fail": (),
    "cancel": ("--reason",),
    "terminate": ("--reason", "--request-id"),
    "pause": ("--type", "--all", "--reason", "--by", "--request-id"),
    "paused": ("--limit",),
    "resume": ("--type", "--all", "--blocked", "--request-id"),
    "bulk": (
        "--filter",
        "--everything",
        "--to",
        "--reason",
        "--rate",
        "--dry-run",
        "--yes",
        "--id",
        "--request-id",
    ),
    "export": ("--run", "--children"),
    "import": ("--id", "--closed"),
    "move": ("--to", "--filter", "--everything", "--wait", "--dry-run"),
    "reset": ("--to", "--arg", "--json-args", "--reason", "--reapply", "--request-id", "--run"),
    "fork": ("--to", "--arg", "--json-args", "--reason", "--reapply", "--request-id", "--run"),
    "debug": ("--interceptors", "--run", "--at", "--no-prompt"),
    "metrics": ("--every", "--filter", "--flows-max", "--host", "--port"),
    "replay": ("--filter", "--type", "--id", "--status", "--closed", "--interceptors"),
    "verify": (),
    "migrate": (),
    "doctor": (),
    "versions": ("--type",),
    "workers": ("--all",),
    "queues": (),
    "outbox list": (),
    "outbox show": ("--refused", "--after", "--limit"),
    "outbox redrive": (),
    "outbox drop": ("--refused",),
    "pools": (),
    "limit": (
        *("--concurrency", "--rate", "--key-concurrency", "--key-rate", "--at-limit", "--by"),
        "--pool",
    ),
    "unlimit": (),
    "pin": (),
    "unpin": (),
    "lint": ("--ignore",),
    "run": ("--arg", "--json-args", "--id", "--retry-attempts", "--retry-delay"),
    "worker": (
        "--slots",
        "--threads",
        "--queue",
        "--version-name",
        "--versioning",
        "--also",
        "--wait",
        "--processes",
    ),
}
FLAGS: Final = (
    "--json",
    "--help",
    "--traceback",
    "--no-follow",
    "--no-prompt",
    "--children",
    "--closed",
    "--all",
    "--blocked",
    "--everything",
    "--dry-run",
    "--yes",
    "--pool",
    "--stop",
    "--forget",
    "--refused",
)
IMPATIENT: Final = {
    "update": ["--timeout", "0.05"],
    "subscribe": ["--no-follow"],
    "stream savepoint": ["--wait", "0.05"],
    "stream delete-savepoint": ["--wait", "0.05"],
}
"""What would wait for an answer, or for ever."""
EVERYWHERE: Final = ("--namespace", "--codecs", "--json", "--help", "--nonsense")

# No separators: a made-up name must not leave the folder. Half surrogate pairs are what Python
# makes of arguments that are no UTF-8.
texts: Final = st.text(st.characters(codec=None, exclude_characters="\0/\\"), max_size=12)
likely: Final = st.sampled_from(
    ["victim", "healthy-0", "a=1", "a=[1", '{"a": 1}', "[", "{", "running", "-1", "1e400", "0"]
)
words: Final = texts | likely | st.integers().map(str)


@st.composite
def command_lines(draw: st.DrawFn, name: str) -> list[str]:
    line = [name]
    if name in (
        "run",
        "worker",
        "metrics",
    ):  # Without a file that is not there, they would begin to serve.
        line.append(f"{draw(texts)}.no.such.file.py")
    else:
        line += draw(st.lists(words, max_size=3))
    for option in draw(st.lists(st.sampled_from((*OPTIONS[name], *EVERYWHERE)), max_size=4)):
        line.append(option)
        if option not in FLAGS:
            line.append(draw(words))
    return line


@dataclass(slots=True)
class Tried:
    times: int = 0
    broken: int = 0


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Generator[Tried]:
    """In a folder with a store; at the end, what came of all commands is one record."""
    began, before, found = time.monotonic(), Path.cwd(), Tried()
    made = tmp_path_factory.mktemp("command-line")
    specimen.copy(made)
    os.chdir(made)
    yield found
    os.chdir(before)
    record(
        "arguments of every command",
        invariants=[14],
        tried="commands with random texts, control characters and half surrogate pairs",
        times=found.times,
        broken=found.broken,
        seconds=time.monotonic() - began,
        figures={"commands": len(COMMANDS)},
        reproduce="EVERLONG_CHAOS=full pytest tests/fuzz -k arguments",
    )


def called(line: list[str]) -> None:
    raw_out, raw_err = io.BytesIO(), io.BytesIO()
    out, err = io.TextIOWrapper(raw_out, "utf-8"), io.TextIOWrapper(raw_err, "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*line[0].split(), *line[1:]])  # `stream rewind` is two words.
    out.flush()
    err.flush()
    printed = (raw_out.getvalue() + raw_err.getvalue()).decode()
    assert code in set(ExitCode) - {ExitCode.BUG}, f"{line!a}: {code}\n{printed[-3000:]}"
    assert "Traceback" not in printed, f"{line!a}\n{printed[-3000:]}"


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_arguments_end_in_a_traceback(name: str, tried: Tried) -> None:
    tried.broken += 1  # Until it has come through.

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )
    @given(command_lines(name))
    @example([name, "\ud800"])
    @example([name, "\udcff", "--namespace", "\udcff"])
    @example([name, "victim", "--json", "--namespace", "\x1b[2J"])
    @example([name, "victim", "sig\ud800"])
    @example([name, "victim", "--id", "\ud800"])
    @example([name, "--id", "\ud800"])
    @example([name, "--type", "\ud800"])
    @example([name, "\ud800", "--request-id", "\ud800"])
    @example([name, "--after", ""])
    def every(line: list[str]) -> None:
        if name in ("run", "worker") and not line[1].endswith(".no.such.file.py"):
            line = [name, ".no.such.file.py", *line[1:]]
        tried.times += 1
        called([*line, *IMPATIENT.get(name, ())])

    every()
    tried.broken -= 1


def test_every_command_is_fuzzed() -> None:
    assert set(OPTIONS) == set(COMMANDS)
