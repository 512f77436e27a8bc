"""Tests of flows, in memory and on a clock that jumps. Import it in tests only.

`Environment` is a store, a client and a worker, with the engine's clock in the test's hands and
activities replaced by fakes where the test says so. `always_replay` and `amnesia` put workflow code
under conditions that no right code notices. A pytest plugin comes with it: the fixture
`everlong_env`, and the options `--everlong-always-replay` and `--everlong-amnesia`.
"""

from everlong.testing._environment import Environment
from everlong.testing._fakes import ActivityCall
from everlong.testing._modes import always_replay, amnesia
from everlong.testing._stuck import Stuck

__all__ = ["ActivityCall", "Environment", "Stuck", "always_replay", "amnesia"]
