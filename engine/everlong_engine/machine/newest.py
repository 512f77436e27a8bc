"""Which version of each workflow is the newest that is here. Pure: a fleet in, an answer out.

That is the one whose first worker began last, however often workers of older ones have been started
since: while a new version is rolled out, an old worker may well crash and come back. In one process
the worker that began last speaks for all: others beside it are there for what is pinned to them.

A worker that fell silent is taken for there a while longer. It mostly comes back, and until then an
older version would meet histories that it cannot follow. One that stopped in order is gone at once,
so that whoever goes back to an older version only has to stop the newer one.
"""

from everlong_engine.model.limits import SILENT_VERSION_US
from everlong_engine.model.runs import Fleet, Member

__all__ = ["newest_versions"]


def newest_versions(fleet: Fleet) -> tuple[dict[str, str], int | None]:
    """The newest version by type; and in how many microseconds that may change, though nobody comes
    or goes in order."""
    first_us: dict[tuple[str, str], int] = {}
    for one in fleet.members:
        for hosted in one.versions:
            first_us[hosted] = min(one.started_us, first_us.get(hosted, one.started_us))
    here = [one for one in fleet.members if _is_here(one)]
    speaks = {(one.process, kind): version for one in here for kind, version in one.versions}
    newest: dict[str, str] = {}
    for (_, kind), version in speaks.items():
        other = newest.get(kind, version)
        newest[kind] = max(version, other, key=lambda one: (first_us[kind, one], one))
    silent_us = [-one.left_us for one in here if one.left_us is not None and one.left_us < 0]
    return newest, SILENT_VERSION_US - max(silent_us) if silent_us else None


def _is_here(one: Member) -> bool:
    return one.left_us is not None and one.left_us > -SILENT_VERSION_US
