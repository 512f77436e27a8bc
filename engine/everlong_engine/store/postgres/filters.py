"""Filters as SQL: our own words, and a parameter for every value that somebody gave.

A page of runs is read newest first, which is the order of the ids, so that it ends as soon as it is
full. Where one tag must have one value, an index over tags leads, which is in that order too.
Otherwise the runs themselves do, from the newest on, or `runs_of_workflow` where an id is given. A
conjunct that says when runs began also bounds their ids.
"""

from datetime import datetime
from typing import Any, Final, assert_never

from msgspec import Struct, field

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.filters import (
    FIELDS,
    Among,
    And,
    AnyField,
    Begins,
    Compare,
    Field,
    Filter,
    IsSet,
    Not,
    Op,
    Or,
    TagField,
    comparable,
    prefix_end,
)
from everlong_engine.model.ids import first_id_of
from everlong_engine.model.runs import WAITS_US, RunStatus
from everlong_engine.model.tags import (
    TagKind,
    TagValue,
    instant_us,
    kind_of,
)
from everlong_engine.store.interface import Counted, RunFilter
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import as_stored, from_text

__all__ = ["count_runs", "select_runs"]

_COLUMNS: Final = {
    "status": "runs.status",
    "type": "runs.type",
    "id": "runs.workflow_id",
    "queue": "runs.queue",
    "started": "runs.started_us",
    "closed": "runs.closed_us",
    "begins": "runs.wake_us",
}
_PUT_OFF: Final = (
    "runs.status = 0 AND runs.next_seq = 1 AND coalesce(runs.wake_us, 0) > ?"
    f" AND runs.wake_us < {WAITS_US}"
)
"""`RunRow.begins_us`."""
_TAG: Final = (
    "EXISTS (SELECT 1 FROM everlong.tags AS t WHERE t.shard = runs.shard AND t.run_id = runs.run_id"
    " AND t.name = ?"
)

_RARE: Final = "runs.status <> 10"
"""As `runs_of_status` has it."""


def select_runs(wanted: RunFilter, limit: int, after: bytes | None) -> tuple[str, list[Any]]:
    """The statement for a page of runs, newest first, and its parameters."""
    query = _Query(wanted, after)
    text = f"SELECT runs.* FROM {query.source} WHERE {query.where}"
    return _numbered(f"{text} ORDER BY {query.order} DESC LIMIT ?"), [*query.values, limit]


def _numbered(text: str) -> str:
    """Each question mark by its number: there is none in our own words."""
    first, *rest = text.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


async def count_runs(tx: Tx, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
    """How many there are, by what they have in a field."""
    query = _Query(wanted, None)
    if isinstance(by, TagField):
        grouped = (
            f"SELECT g.kind, min(g.text), count(*) FROM {query.source}"
            " LEFT JOIN everlong.tags AS g"
            " ON g.shard = runs.shard AND g.run_id = runs.run_id AND g.name = ?"
            f" WHERE {query.where} GROUP BY g.kind, g.number,"
            " CASE WHEN g.number IS NULL THEN g.text END"
        )
        rows = await tx.text(_numbered(grouped), [by.name, *query.values])
        return [(_tag(kind, value), count) for kind, value, count in rows]
    if by is None:
        text = f"SELECT count(*) FROM {query.source} WHERE {query.where}"
        return [(None, (await tx.text(_numbered(text), query.values))[0][0])]
    column = _COLUMNS[by.name]
    text = f"SELECT {column}, count(*) FROM {query.source} WHERE {query.where} GROUP BY {column}"
    rows = await tx.text(_numbered(text), query.values)
    return [(_shown(by.name, value), count) for value, count in rows]


def _tag(kind: Any, value: Any) -> TagValue | None:
    if kind is None:
        return None
    try:
        return from_text(kind, value)
    except UndecodablePayload:
        return repr(value)  # Nobody of us has stored it: `verify` names it.


def _shown(name: str, value: Any) -> str:
    if name == "status" and value in set(RunStatus):
        return RunStatus(value).text
    return value if isinstance(value, str) else repr(value)


class _Query(Struct):
    """Where rows come from, and which of them."""

    wanted: RunFilter
    after: bytes | None
    source: str = "everlong.runs"
    order: str = "runs.run_id"
    where: str = ""
    values: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        wanted = self.wanted
        parts = _conjuncts(wanted.where)
        leading = next((one for one in parts if _leads(one)), None)
        if isinstance(leading, Compare):
            parts.remove(leading)
            self.source = (
                "everlong.tags AS lead JOIN everlong.runs"
                " ON runs.shard = lead.shard AND runs.run_id = lead.run_id"
            )
            self.order = "lead.run_id"
            self.values += [wanted.namespace, leading.field.name]
            found = ["lead.namespace = ? AND lead.name = ?", self._is("lead", Op.EQ, leading.value)]
        else:
            found = ["runs.namespace = ?"]
            self.values.append(wanted.namespace)
            status = _only_status(wanted, parts)
            if status is not None and status is not RunStatus.COMPLETED:
                found.append(f"runs.status = {int(status)} AND {_RARE}")
        for condition, value in self._bounds(parts):
            found.append(condition)
            self.values.append(value)
        found += [f"({self._text(one)})" for one in parts]
        self.where = " AND ".join(found)

    def _bounds(self, parts: list[Filter]) -> list[tuple[str, Any]]:
        wanted, found = self.wanted, list[tuple[str, Any]]()
        if wanted.status is not None:
            found.append(("runs.status = ?", int(RunStatus[wanted.status.upper()])))
        if wanted.type is not None:
            found.append(("runs.type = ?", wanted.type))
        if wanted.workflow_id is not None:
            found.append(("runs.workflow_id = ?", wanted.workflow_id))
        if self.after is not None:
            found.append((f"{self.order} < ?", self.after))
        if wanted.behind is not None:
            found.append((f"{self.order} > ?", wanted.behind))
        for one in parts:
            match one:
                case Compare(Field("started"), Op.EQ | Op.GT | Op.GE, datetime() as at):
                    # Ids are minted when runs begin, or later.
                    found.append((f"{self.order} >= ?", first_id_of(instant_us(at))))
                case _:
                    pass
        return found

    # ------------------------------------------------------------------------- what a tree says

    def _text(self, tree: Filter) -> str:
        match tree:
            case And():
                return " AND ".join(f"({self._text(one)})" for one in tree.of)
            case Or():
                return " OR ".join(f"({self._text(one)})" for one in tree.of)
            case Not():
                return f"NOT ({self._text(tree.of)})"
            case IsSet():
                return self._is_set(tree.field)
            case Begins():
                return self._begins(tree)
            case Among():
                return self._among(tree)
            case Compare():
                return self._compare(tree)
            case _:
                assert_never(tree)

    def _is_set(self, of: AnyField) -> str:
        if isinstance(of, TagField):
            self.values.append(of.name)
            return f"{_TAG})"
        if of.name == "begins":
            self.values.append(self.wanted.now_us)
            return _PUT_OFF
        return "runs.closed_us IS NOT NULL" if of.name == "closed" else "TRUE"

    def _begins(self, tree: Begins) -> str:
        column, before, behind = "t.text", "", ""
        if isinstance(tree.field, TagField):
            self.values += [tree.field.name, int(TagKind.TEXT)]
            before, behind = f"{_TAG} AND t.kind = ? AND ", ")"
        else:
            column = _COLUMNS[tree.field.name]
        self.values.append(tree.prefix)
        text = f"{column} >= ?"
        end = prefix_end(tree.prefix)
        if end is not None:
            self.values.append(end)
            text += f" AND {column} < ?"
        return f"{before}{text}{behind}"

    def _among(self, tree: Among) -> str:
        word = "NOT IN" if tree.negated else "IN"
        if isinstance(tree.field, TagField):
            self.values.append(tree.field.name)
            same = " OR ".join(self._alternatives(Op.EQ, one) for one in tree.values)
            return f"{_TAG} AND {'NOT ' if tree.negated else ''}({same}))"
        marks = ", ".join("?" * len(tree.values))
        column = self._column(tree.field)
        self.values += [_stored(tree.field.name, one) for one in tree.values]
        return f"{column} {word} ({marks})"

    def _compare(self, tree: Compare) -> str:
        if isinstance(tree.field, TagField):
            self.values.append(tree.field.name)
            if tree.op is Op.NE:
                return f"{_TAG} AND NOT ({self._alternatives(Op.EQ, tree.value)}))"
            return f"{_TAG} AND ({self._alternatives(tree.op, tree.value)}))"
        column = self._column(tree.field)
        self.values.append(_stored(tree.field.name, tree.value))
        return f"{column} {tree.op.value} ?"

    def _column(self, of: Field) -> str:
        """An end that has not come compares with nothing: neither way, whatever stands around. Nor
        does a beginning that has."""
        column = _COLUMNS[of.name]
        if of.name == "begins":
            self.values.append(self.wanted.now_us)
            return f"{_PUT_OFF} AND {column}"
        return f"{column} IS NOT NULL AND {column}" if of.name == "closed" else column

    def _alternatives(self, op: Op, value: TagValue) -> str:
        """Of the type of the value; and what a date in quotes is among instants."""
        return " OR ".join(self._is("t", op, one) for one in _as_kinds(value))

    def _is(self, table: str, op: Op, value: TagValue) -> str:
        kind, text, number = as_stored(value)
        self.values += [kind, text if number is None else number]
        column = "text" if number is None else "number"
        null = "NULL" if number is None else "NOT NULL"
        return f"{table}.kind = ? AND {table}.number IS {null} AND {table}.{column} {op.value} ?"


def _as_kinds(value: TagValue) -> list[TagValue]:
    as_instant = comparable(value, TagKind.INSTANT) if isinstance(value, str) else None
    return [value] if as_instant is None else [value, as_instant]


def _stored(name: str, value: TagValue) -> Any:
    if name == "status":
        return int(RunStatus[str(value).upper()])
    if FIELDS[name] is TagKind.INSTANT:
        assert not isinstance(value, str | int | float), "the parser reads instants"
        return instant_us(value)
    return value


def _conjuncts(tree: Filter | None) -> list[Filter]:
    """What must all hold, taken apart."""
    match tree:
        case None:
            return []
        case And():
            return [part for one in tree.of for part in _conjuncts(one)]
        case _:
            return [tree]


def _only_status(wanted: RunFilter, parts: list[Filter]) -> RunStatus | None:
    """The one status that all that is meant has, unless an id leads to fewer."""
    found = None if wanted.status is None else RunStatus[wanted.status.upper()]
    for one in parts:
        match one:
            case Compare(Field("id"), Op.EQ):
                return None
            case Compare(Field("status"), Op.EQ, str(name)):
                found = RunStatus[name.upper()]
            case IsSet(Field("begins")) | Compare(Field("begins")):
                found = RunStatus.RUNNING
            case _:
                pass
    return found if wanted.workflow_id is None else None


def _leads(one: Filter) -> bool:
    """Whether it is one value of one tag, which the index over tags finds in order."""
    if not (isinstance(one, Compare) and one.op is Op.EQ and isinstance(one.field, TagField)):
        return False
    return kind_of(one.value) is not TagKind.TEXT or len(_as_kinds(one.value)) == 1
