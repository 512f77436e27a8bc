"""Ends every test run with what could not run on this machine, and why.

A green run hides what was left out. So each reason stands at the end of the run, once, with how
many tests it kept from running.
"""

from collections import Counter
from collections.abc import Generator, Iterable

import pytest

_SKIPPED = "Skipped: "


def reasons(reports: Iterable[object]) -> Counter[str]:
    """How many tests each reason kept from running."""
    found: Counter[str] = Counter()
    for report in reports:
        match getattr(report, "longrepr", None):
            case (_, _, str(text)):
                found[text.removeprefix(_SKIPPED)] += 1
            case _:
                found["no reason was given"] += 1
    return found


@pytest.hookimpl(wrapper=True, tryfirst=True)  # Around pytest's own, so that it comes last.
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    yield
    skipped = reasons(terminalreporter.stats.get("skipped", []))
    if not skipped:
        return
    terminalreporter.section("could not run here", sep="-")
    for reason, times in skipped.most_common():
        tests = "1 test" if times == 1 else f"{times} tests"
        terminalreporter.line(f"could not run here: {tests}, because: {reason}")
