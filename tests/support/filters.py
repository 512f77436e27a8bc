"""Random filters, as hypothesis makes them: trees that a text could have been read as."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from everlong_engine.model.filters import (
    STATUSES,
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
)

__all__ = ["tag_fields", "trees"]

words = st.sampled_from(["", "a", "ab", "b", "c1", "it's", "a\U0010ffff", "2026-11-01"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
instants = st.sampled_from(
    [datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 1, 0, 0, 0, 5, tzinfo=UTC)]
) | st.datetimes(datetime(1970, 1, 1), datetime(4000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
numbers = (
    st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
tag_fields = st.sampled_from([TagField("a"), TagField("b"), TagField("order.id-2")])
ops = st.sampled_from(Op)
TEXTS = [Field(name) for name in ("type", "id", "queue")]
INSTANTS = [Field(name) for name in ("started", "closed", "begins")]


def _values(of: AnyField) -> st.SearchStrategy[Any]:
    if isinstance(of, TagField):
        return words | numbers | st.booleans()
    if of.name == "status":
        return st.sampled_from(STATUSES)
    return instants if of in INSTANTS else words


@st.composite
def _leaves(draw: st.DrawFn) -> Filter:
    of: AnyField = draw(
        tag_fields | st.sampled_from([Field("status"), *TEXTS, *INSTANTS]), label="field"
    )
    kind = draw(st.sampled_from(["compare", "compare", "among", "begins", "set"]))
    match kind:
        case "among":
            values = draw(st.lists(_values(of), min_size=1, max_size=3))
            return Among(of, tuple(values), draw(st.booleans()))
        case "begins" if isinstance(of, TagField) or of in TEXTS:
            return Begins(of, draw(words))
        case "set":
            return IsSet(of)
        case _:
            op = draw(st.sampled_from([Op.EQ, Op.NE]) if of == Field("status") else ops)
            return Compare(of, op, draw(_values(of)))


def trees() -> st.SearchStrategy[Filter]:
    return st.recursive(
        _leaves(),
        lambda inner: st.one_of(
            inner.map(Not),
            st.lists(inner, min_size=2, max_size=3).map(lambda found: And(tuple(found))),
            st.lists(inner, min_size=2, max_size=3).map(lambda found: Or(tuple(found))),
        ),
        max_leaves=6,
    )
