"""Makes `docs/reliability.md` from the lines and the tables. Pure: the same lines, the same page.

What has not run is said to have not run, and what broke is set in bold: a scoreboard that leaves
out the lost games is none.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tests.proof.invariants import INVARIANTS, NOT_COVERED, Invariant
from tests.proof.lines import Line
from tests.proof.parts import MUTANTS, PARTS

__all__ = ["page"]

NOT_RUN: Final = "not run"
COMMIT_SHOWN: Final = 10

OPENING: Final = """\
# Reliability

What Everlong promises, what tries to break each promise, and what came of it. `make proof` makes
this page from [reliability.jsonl](reliability.jsonl), and a test compares the two: no figure here
was typed.

"Broken 0" means that this run, at this commit, found nothing. It is no proof that nothing is there.
Each part can be repeated with the command beside it. [What is not covered](#what-is-not-covered)
matters as much as what is.
"""


def page(lines: Sequence[Line]) -> str:
    sections = [
        OPENING,
        _standing(lines),
        _scoreboard(lines),
        *(_invariant(one, lines) for one in INVARIANTS),
        _all_parts(lines),
        _mutants(lines),
        _not_covered(),
    ]
    return "\n".join(sections)


# ------------------------------------------------------------------------------ the whole


def _standing(lines: Sequence[Line]) -> str:
    broken = [line for line in lines if line.broken]
    if broken:
        names = ", ".join(_cell(line.part) for line in broken)
        return f"**Broken: {_number(sum(line.broken for line in broken))}, in: {names}.**\n"
    if not lines:
        return "Nothing has run yet.\n"
    missing = [part.name for part in PARTS if not _of_run(lines, part.name)]
    if missing:
        return f"Nothing that ran broke. Not run: {', '.join(missing)}.\n"
    return "Every part has run, and nothing broke.\n"


def _scoreboard(lines: Sequence[Line]) -> str:
    rows = [
        (
            f"[{one.number}](#invariant-{one.number})",
            _cell(one.says),
            _standing_of(one, lines),
        )
        for one in INVARIANTS
    ]
    return _section("The fourteen invariants", _table(("", "promise", "what came of it"), rows))


def _standing_of(one: Invariant, lines: Sequence[Line]) -> str:
    trying = _trying(one, lines)
    broken = sum(line.broken for line in trying)
    if broken:
        return f"**broken {_number(broken)} times**"
    if not trying:
        return "does not exist yet" if one.held_by is None else "**nothing has tried to break it**"
    parts = "1 part" if len(trying) == 1 else f"{len(trying)} parts"
    return f"{parts} tried, broken 0" + ("; partly not built" if one.lacks else "")


# ---------------------------------------------------------------------------- one invariant


def _invariant(one: Invariant, lines: Sequence[Line]) -> str:
    told = [f"**{one.says}**", ""]
    if one.held_by is not None:
        told += [f"Held by: {one.held_by}", ""]
    if one.lacks is not None:
        told += [f"Missing: {one.lacks}", ""]
    rows = [
        (
            _cell(line.part),
            _cell(line.tried),
            _times(line),
            _broken(line),
            _duration(line.seconds),
            _commit(line),
        )
        for line in _trying(one, lines)
    ]
    rows += [
        (part.name, "", NOT_RUN, "", "", "")
        for part in PARTS
        if one.number in part.invariants and not _of_run(lines, part.name)
    ]
    if rows:
        head = ("part", "what it tries", "times", "broken", "took", "commit")
        told += [_table(head, rows), ""]
    elif one.held_by is not None:
        told += ["**Nothing tries to break it yet.**", ""]
    return f"### Invariant {one.number}\n\n" + "\n".join(told)


def _trying(one: Invariant, lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if one.number in line.invariants]


# ------------------------------------------------------------------------------- the parts


def _all_parts(lines: Sequence[Line]) -> str:
    rows = [
        (
            _cell(line.part),
            ", ".join(map(str, line.invariants)),
            _times(line),
            _broken(line),
            _figures(line),
            _duration(line.seconds),
            f"{_commit(line)}, {_cell(line.date)}",
            f"`{_cell(line.reproduce)}`",
        )
        for line in lines
    ]
    rows += [
        (part.name, ", ".join(map(str, part.invariants)), NOT_RUN, "", "", "", "", "")
        for part in PARTS
        if not _of_run(lines, part.name)
    ]
    head = ("part", "tries", "times", "broken", "also counted", "took", "when", "do it again")
    return _section(
        "Everything that ran", "\n".join([_table(head, rows), "", *_machines(lines)]).rstrip()
    )


def _machines(lines: Iterable[Line]) -> list[str]:
    """Each machine once, with the parts that ran there if there were several."""
    on: dict[str, list[str]] = {}
    for line in lines:
        machine = (
            f"CPython {line.python}, SQLite {line.sqlite}, Linux {line.kernel}, {line.cores} cores"
        )
        on.setdefault(machine, []).append(line.part)
    if len(on) == 1:
        return [f"All of it on {_cell(machine)}." for machine in on]
    return [f"- On {_cell(machine)}: {_cell(', '.join(parts))}." for machine, parts in on.items()]


def _mutants(lines: Sequence[Line]) -> str:
    told = (
        "A test that cannot fail proves nothing. So defects are planted on purpose, one at a time, "
        "and the simulation must find each.\n\n"
    )
    planted = _of_run(lines, MUTANTS)
    if not planted:
        return _section("Planted defects", f"{told}{NOT_RUN[0].upper()}{NOT_RUN[1:]}.")
    rows = [
        (_cell(name), _cell(_figure(found)))
        for line in planted
        for name, found in line.figures.items()
    ]
    alive = sum(line.broken for line in planted)
    sum_up = f"{_number(sum(line.times for line in planted))} planted, " + (
        f"**{_number(alive)} not found**" if alive else "every one found"
    )
    return _section(
        "Planted defects", f"{told}{sum_up}.\n\n{_table(('planted defect', 'found by'), rows)}"
    )


def _not_covered() -> str:
    return _section(
        "What is not covered",
        "\n".join(f"- **{name}.** {text}" for name, text in NOT_COVERED),
    )


def _of_run(lines: Iterable[Line], run: str) -> list[Line]:
    return [line for line in lines if line.run == run]


# -------------------------------------------------------------------------------- the cells


def _times(line: Line) -> str:
    return _number(line.times) + (" (quick)" if line.quick else "")


def _broken(line: Line) -> str:
    return f"**{_number(line.broken)}**" if line.broken else "0"


def _commit(line: Line) -> str:
    name, _, changes = line.commit.partition(" ")
    return _cell(f"{name[:COMMIT_SHOWN]} {changes}".strip())


def _figures(line: Line) -> str:
    if line.run == MUTANTS:
        return "[below](#planted-defects)"
    return _cell("; ".join(f"{name}: {_figure(value)}" for name, value in line.figures.items()))


def _figure(value: float | str) -> str:
    match value:
        case int():
            return _number(value)
        case float():
            return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
        case str():
            return value


def _number(value: int) -> str:
    return f"{value:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s"


def _cell(text: str) -> str:
    """A text that stays within its cell, and cannot be a tag or a link."""
    flat = " ".join(text.split())
    for mark in ("\\", "|", "<", "[", "*"):
        flat = flat.replace(mark, f"\\{mark}")
    return flat


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n"
