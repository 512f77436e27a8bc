"""The worker: hosts workflows and activities, and drives the runs of a store.

`Worker` is the public class; `_keeper` owns runs, `_activities` runs attempts.
"""

from everlong.worker._worker import Worker

__all__ = ["Worker"]
