"""What replays here replays anywhere: twenty processes, each with its own hash seed and memory.

Starting Python takes most of the time, so one script does it all: every asyncio and anyio program
of `test_loop_like_asyncio`, random programs with their replays, and the golden histories.
"""

from tests.support.fresh_processes import outputs

SCRIPT = """
    from hashlib import sha256
    from tests.histories.test_golden_histories import FILES, test_it_replays
    from tests.replay.test_loop_like_asyncio import histories
    from tests.replay.test_random_programs import digest

    for path in FILES:
        test_it_replays(path)
    print(sha256(histories().encode()).hexdigest(), digest(range(40)))
"""


def test_twenty_fresh_processes_write_and_replay_the_same_histories() -> None:
    assert len(outputs(SCRIPT)) == 1
