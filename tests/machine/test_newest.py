"""Which version of a workflow is the newest that is here."""

from typing import Any

from hypothesis import given, strategies as st

from everlong_engine.machine.newest import newest_versions
from everlong_engine.model.limits import SILENT_VERSION_US
from everlong_engine.model.runs import Fleet, Member

HERE, STOPPED = 1_000, None


def member(started_us: int, version: str, left_us: int | None = HERE, pid: int = 0) -> Member:
    return Member(("host", pid or started_us), started_us, (("flow", version),), left_us)


def newest(*members: Member) -> Any:
    return newest_versions(Fleet(1, members))[0].get("flow")


def test_it_is_that_of_the_last_one_to_begin() -> None:
    assert newest(member(1, "a"), member(2, "b")) == "b"
    assert newest(member(1, "b"), member(2, "a")) == "a"


def test_an_older_one_that_is_started_again_is_no_newer() -> None:
    assert newest(member(1, "a", STOPPED), member(2, "b"), member(3, "a")) == "b"


def test_who_goes_back_stops_the_newer_one() -> None:
    assert newest(member(1, "a"), member(2, "b", STOPPED)) == "a"


def test_a_newer_one_that_fell_silent_is_waited_for_but_not_for_ever() -> None:
    here = member(1, "a")
    assert newest(here, member(2, "b", -SILENT_VERSION_US + 1)) == "b"
    assert newest(here, member(2, "b", -SILENT_VERSION_US)) == "a"
    fleet = Fleet(1, (here, member(2, "b", -10), member(3, "c", -30)))
    assert newest_versions(fleet) == ({"flow": "c"}, SILENT_VERSION_US - 30)
    assert newest_versions(Fleet(1, (here,)))[1] is None


def test_in_one_process_the_last_one_speaks_for_all() -> None:
    """The others are there for what is pinned to them, also if theirs was known to be newer."""
    before = member(1, "old", STOPPED)
    assert newest(before, member(2, "pinned", pid=9), member(3, "old", pid=9)) == "old"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([HERE, STOPPED, -5])), max_size=8)
)
def test_it_is_always_one_that_somebody_has(who: list[tuple[str, int | None]]) -> None:
    members = [member(n, version, left_us) for n, (version, left_us) in enumerate(who, 1)]
    here = {version for version, left_us in who if left_us is not STOPPED}
    found = newest(*members)
    assert found in here if here else found is None
