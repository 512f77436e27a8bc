"""Filters as SQL: our own words, and a parameter for every value that somebody gave.

A page of runs is read newest first, which is the order of the ids, so that it ends as soon as it is
full. Where one tag must have one value, `tags_by_value` leads, which is in that order too.
Otherwise `runs_of_workflow` does where an id is given, `runs_of_status` for a status that is not
completed, or the runs themselves, from the newest on. A conjunct that says when runs began also
bounds their ids.
"""

from datetime import datetime
from sqlite3 import Connection
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
    tag_from_stored,
    tag_to_stored,
)
from everlong_engine.store.interface import Counted, RunFilter

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
    "EXISTS (SELECT 1 FROM tags AS t WHERE t.shard = runs.shard AND t.run_id = runs.run_id"
    " AND t.name = ?"
)

_RARE: Final = "runs.status <> 10"
"""Word for word as `runs_of_status` has it: else it is not used."""


def select_runs(wanted: RunFilter, limit: int, after: bytes | None) -> tuple[str, list[Any]]:
    """The statement for a page of (shard, run id), newest first, and its parameters."""
    query = _Query(wanted, after)
    text = f"SELECT runs.shard, runs.run_id FROM {query.source} WHERE {query.where}"
    return f"{text} ORDER BY {query.order} DESC LIMIT ?", [*query.values, limit]


def count_runs(tx: Connection, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
    """How many there are, by what they have in a field."""
    query = _Query(wanted, None)
    if isinstance(by, TagField):
        grouped = (
            f"SELECT g.kind, g.value, count(*) FROM {query.source} LEFT JOIN tags AS g"
            " ON g.shard = runs.shard AND g.run_id = runs.run_id AND g.name = ?"
            f" WHERE {query.where} GROUP BY g.kind, g.value"
        )
        rows = tx.execute(grouped, [by.name, *query.values]).fetchall()
        return [(_tag(kind, value), count) for kind, value, count in rows]
    if by is None:
        text = f"SELECT count(*) FROM {query.source} WHERE {query.where}"
        return [(None, tx.execute(text, query.values).fetchone()[0])]
    column = _COLUMNS[by.name]
    text = f"SELECT {column}, count(*) FROM {query.source} WHERE {query.where} GROUP BY {column}"
    rows = tx.execute(text, query.values).fetchall()
    return [(_shown(by.name, value), count) for value, count in rows]


def _tag(kind: Any, value: Any) -> TagValue | None:
    if kind is None:
        return None
    try:
        return tag_from_stored(kind, value)
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
    source: str = "runs"
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
                "tags AS lead CROSS JOIN runs"
                " ON runs.shard = lead.shard AND runs.run_id = lead.run_id"
            )
            self.order = "lead.run_id"
            kind, stored = tag_to_stored(leading.value)
            found = ["lead.shard = 0 AND lead.namespace = ? AND lead.name = ?"]
            found.append("lead.kind = ? AND lead.value = ?")
            self.values += [wanted.namespace, leading.field.name, int(kind), stored]
        else:
            found = ["runs.shard = 0 AND runs.namespace = ?"]  # Every row of a file has shard 0.
            self.values.append(wanted.namespace)
            status = _only_status(wanted, parts)
            # By name: nobody counts for the planner how few there are.
            if _has_one_id(wanted, parts):
                self.source = "runs INDEXED BY runs_of_workflow"
            elif status is not None and status is not RunStatus.COMPLETED:
                self.source = "runs INDEXED BY runs_of_status"
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
        return "runs.closed_us IS NOT NULL" if of.name == "closed" else "1"

    def _begins(self, tree: Begins) -> str:
        column, before, behind = "t.value", "", ""
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
        texts: list[str] = []
        for one in _as_kinds(value):
            kind, stored = tag_to_stored(one)
            self.values += [int(kind), stored]
            texts.append(f"t.kind = ? AND t.value {op.value} ?")
        return " OR ".join(texts)


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
    """The one status that all that is meant has, if there is one."""
    found = None if wanted.status is None else RunStatus[wanted.status.upper()]
    for one in parts:
        match one:
            case Compare(Field("status"), Op.EQ, str(name)):
                found = RunStatus[name.upper()]
            case IsSet(Field("begins")) | Compare(Field("begins")):
                found = RunStatus.RUNNING
            case _:
                pass
    return found


def _has_one_id(wanted: RunFilter, parts: list[Filter]) -> bool:
    return wanted.workflow_id is not None or any(
        isinstance(one, Compare) and one.op is Op.EQ and one.field == Field("id") for one in parts
    )


def _leads(one: Filter) -> bool:
    """Whether it is one value of one tag, which the index over tags finds in order."""
    if not (isinstance(one, Compare) and one.op is Op.EQ and isinstance(one.field, TagField)):
        return False
    return kind_of(one.value) is not TagKind.TEXT or len(_as_kinds(one.value)) == 1
