"""What a drive has made of an input goes with the drive, if that is not stored."""

from everlong.worker._owned import Incoming
from everlong_engine import ActivityCancelled, ActivityCompleted


def test_an_outcome_that_was_not_stored_is_again_what_it_was() -> None:
    came = ActivityCompleted(1, b"\xc0")
    one = Incoming(ActivityCancelled(1, "completed", 0), came=came)
    assert one.taken_back().event is came
    assert one.taken_back().event is came, "and once is enough"
