"""What is looked for, each with its code; a finding; and how one is accepted in the source.

The codes are for ever: they stand in people's comments. `docs/reference/lint.md` has a bad and a
good example of each, and a test runs them.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["RULES", "Finding", "Rule", "Unreadable", "ignored_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One kind of mistake."""

    code: str
    title: str
    fix: str
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A mistake, and where it stands. Lines and columns count from 1."""

    path: Path
    line: int
    column: int
    rule: Rule
    message: str
    last_line: int
    """A comment on any line from `line` to here accepts it."""


class Unreadable(Exception):
    """A file that is not there, or is no Python; the message says which and where."""


def _rule(code: str, title: str, fix: str) -> Rule:
    return Rule(code=code, title=title, fix=fix)


UNKNOWN_CODE: Final = _rule(
    "EV000", "an `ignore` that names no code", "Write one of the codes, or leave the comment out."
)
NOT_AWAITED: Final = _rule("EV001", "called and never awaited", "Write `await` before it.")
SET_ORDER: Final = _rule(
    "EV002",
    "the order of a set decides",
    "Sort it (`sorted(…)`), or keep a list or a dict: the order of a set of texts or objects "
    "differs between processes.",
)
CLOCK: Final = _rule(
    "EV003",
    "a clock or chance that is not the run's own",
    "Use `everlong.now()`, `everlong.random()` or `everlong.uuid4()`; or `import time` and call "
    "`time.time()`, which is the run's own when it is looked up in its module.",
)
OUTSIDE: Final = _rule(
    "EV004",
    "the outside world in a workflow",
    "Move it into an @activity and await that: it is run once and recorded.",
)
PROCESS: Final = _rule(
    "EV005",
    "a value of this process alone",
    "Give it as a parameter, or read it with `await side_effect(lambda: …)`, which records it.",
)
GLOBAL_STATE: Final = _rule(
    "EV006",
    "state of the module",
    "Keep it in a local variable or a parameter: what other runs leave in the module is not in "
    "this run's history.",
)
SWALLOWED: Final = _rule(
    "EV007",
    "a cancellation is swallowed",
    "Catch `Exception`, which a cancellation is not; or end the handler with `raise`.",
)
NO_TIMEOUT: Final = _rule(
    "EV101",
    "an activity without a timeout",
    "Say how long an attempt may take, `@activity(timeout=…)`: one that hangs is never tried "
    "again.",
)
BLOCKING: Final = _rule(
    "EV102",
    "an async activity blocks the worker",
    "Make the activity a plain `def`, which runs in a thread; or use a library that awaits.",
)

RULES: Final = {
    rule.code: rule
    for rule in (
        UNKNOWN_CODE,
        NOT_AWAITED,
        SET_ORDER,
        CLOCK,
        OUTSIDE,
        PROCESS,
        GLOBAL_STATE,
        SWALLOWED,
        NO_TIMEOUT,
        BLOCKING,
    )
}

_IGNORE: Final = re.compile(r"#\s*everlong:\s*ignore(?:\[([^\]]*)\])?")


def ignored_lines(path: Path, text: str) -> tuple[dict[int, frozenset[str]], list[Finding]]:
    """What `# everlong: ignore[…]` accepts on each line, and the comments that make no sense."""
    lines: dict[int, frozenset[str]] = {}
    wrong: list[Finding] = []
    for line, column, comment in _comments(text):
        match = _IGNORE.search(comment)
        if match is None:
            continue
        codes = match.group(1)
        named = [*RULES] if codes is None else [code.strip() for code in codes.split(",")]
        lines[line] = frozenset(named)
        unknown = [code for code in named if code not in RULES]
        if unknown:
            wrong.append(
                Finding(
                    path=path,
                    line=line,
                    column=column + 1,
                    rule=UNKNOWN_CODE,
                    message=f"there is no {', '.join(map(repr, unknown))}; codes are "
                    f"{NOT_AWAITED.code} to {BLOCKING.code}",
                    last_line=line,
                )
            )
    return lines, wrong


def _comments(text: str) -> Iterator[tuple[int, int, str]]:
    # Parsed before, so it has whole tokens.
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.start[1], token.string
