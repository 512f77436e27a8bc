"""Hypothesis strategies for every kind of event, made from the types of their fields.

A field of a type that is not listed here fails at import, so a new kind cannot be forgotten.
"""

from datetime import UTC, datetime
from typing import Any, Final, get_type_hints

from hypothesis import strategies as st
from msgspec.structs import fields

from everlong_engine.model.events import KINDS, Carried, Event, Numbers
from everlong_engine.model.failure import Failure
from everlong_engine.model.lineage import CopiedPart, Debounced, Reset
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.tags import TagChanges, Tags

__all__ = ["any_event", "event_of", "failures", "options", "tag_names", "tag_values"]

ints: Final = st.integers(0, 2**53)
"""What a number, an instant or a duration may be."""
texts: Final = st.text(st.characters(), max_size=20)
payloads: Final = st.binary(max_size=40)
floats: Final = st.floats(0, 1e6)

failures: Final = st.builds(
    Failure,
    type=texts,
    message=texts,
    traceback=texts,
    data=payloads,
    retryable=st.booleans(),
    next_delay_us=st.none() | ints,
)
options: Final = st.just(ActivityOptions()) | st.builds(
    ActivityOptions,
    max_attempts=st.none() | st.integers(1, 100),
    delay_us=ints,
    backoff=st.floats(1, 1000),
    delay_max_us=ints,
    jitter=st.floats(0, 1),
    non_retryable=st.lists(texts, max_size=3).map(tuple),
    start_to_close_us=st.none() | ints,
    schedule_to_close_us=st.none() | ints,
    schedule_to_start_us=st.none() | ints,
    heartbeat_us=st.none() | ints,
    at_most_once=st.booleans(),
)
_ids: Final = st.binary(min_size=16, max_size=16)


@st.composite
def _resets(draw: st.DrawFn) -> Reset:
    ends = sorted(draw(st.lists(ints, min_size=1, max_size=3)))
    numbers = st.lists(st.tuples(texts, ints), max_size=3).map(tuple)
    parts = [CopiedPart(draw(_ids), draw(texts), end, draw(numbers)) for end in ends]
    return Reset(tuple(parts), draw(st.integers(0, 2**50)), draw(texts))


resets: Final = _resets()
_instants: Final = st.integers(0, 2**50)
debounced_starts: Final = st.builds(
    Debounced, texts, _instants, st.none() | _instants, st.integers(1, 2**40)
)
tag_names: Final = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", fullmatch=True)
tag_values: Final = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.datetimes(datetime(1970, 1, 1), datetime(4000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
)
policies: Final = st.builds(
    ActivityOptions,
    max_attempts=st.none() | st.integers(1, 9),
    non_retryable=st.lists(st.text(max_size=9), max_size=2).map(tuple),
).map(lambda options: options.run_policy)
_BY_TYPE: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: ints,
    str: texts,
    bytes: payloads,
    bool: st.booleans(),
    int | None: st.none() | ints,
    bytes | None: st.none() | st.binary(min_size=16, max_size=16),  # An id.
    str | None: st.none() | texts,
    tuple[str, ...]: st.lists(texts, max_size=3).map(tuple),
    Carried: st.lists(st.tuples(texts, payloads), max_size=3).map(tuple),
    Numbers: st.lists(st.tuples(texts, ints), max_size=3).map(tuple),
    Reset | None: st.none() | resets,
    Debounced | None: st.none() | debounced_starts,
    tuple[Any, ...] | None: st.none() | policies,
    Tags: st.lists(st.tuples(tag_names, tag_values), max_size=3).map(tuple),
    TagChanges: st.lists(st.tuples(tag_names, st.none() | tag_values), max_size=3).map(tuple),
    Failure: failures,
    Failure | None: st.none() | failures,
    ActivityOptions: options,
}


_BY_NAME: Final = {name: st.binary(min_size=16, max_size=16) for name in ("run", "execution")}
"""Ids, where a field of bytes is none of a payload's."""


def event_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of one kind."""
    hints = get_type_hints(kind)
    return st.builds(
        kind,
        **{
            field.name: _BY_NAME[field.name]
            if hints[field.name] is bytes and field.name in _BY_NAME
            else _BY_TYPE[hints[field.name]]
            for field in fields(kind)
        },
    )


any_event: Final = st.one_of([event_of(kind) for kind in KINDS.values()])
