"""When an attempt that is completed elsewhere has had its time. Pure."""

from everlong_engine.model.policies import ActivityOptions

__all__ = ["elsewhere_limit"]


def elsewhere_limit(
    options: ActivityOptions, started_us: int, heard_us: int
) -> tuple[int, str] | None:
    """(instant, which timeout) of the first limit; None: it may take for ever.

    Args:
        heard_us: when it was last heard of: handed over, or its last heartbeat.
    """
    limits: list[tuple[int, str]] = []
    if options.start_to_close_us is not None:
        limits.append((started_us + options.start_to_close_us, "start_to_close"))
    if options.heartbeat_us is not None:
        limits.append((heard_us + options.heartbeat_us, "heartbeat"))
    return min(limits, default=None)
