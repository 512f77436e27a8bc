"""Which versions of which workflows there are: how many runs wait for each, and who has it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from everlong._definitions import OWN, check_version
from everlong._texts import check_request_id
from everlong.client._addressed import Addressed
from everlong_engine import Pin, VersionCount, WorkerRow, name_of_pin

__all__ = ["Pinning", "VersionSummary", "summaries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """One version of one workflow."""

    type: str
    version: str | None
    """None counts the runs that are pinned to none: they follow the newest worker."""
    running: int
    """Paused ones, too."""
    blocked: int
    workers: tuple[str, ...]
    """The workers that are there and have it; of runs that follow, all that host the workflow."""

    @property
    def drained(self) -> bool:
        """Whether no open run needs it: a worker that only has this may stop for good."""
        return self.running == self.blocked == 0


def summaries(counts: Iterable[VersionCount], workers: Sequence[WorkerRow]) -> list[VersionSummary]:
    """By workflow, then by version. What a worker has and no run needs is there, too."""
    there = [one for one in workers if one.is_there]
    found = {(one.type, one.version): (one.running, one.blocked) for one in counts}
    for worker in there:
        for kind, version in zip(worker.types, worker.versions, strict=False):
            if not kind.startswith(OWN):
                found.setdefault((kind, version), (0, 0))
    return [
        VersionSummary(
            type=kind,
            version=version,
            running=running,
            blocked=blocked,
            workers=tuple(one.name for one in there if one.may_drive(kind, version)),
        )
        for (kind, version), (running, blocked) in sorted(
            found.items(), key=lambda item: (item[0][0], item[0][1] or "")
        )
    ]


class Pinning(Addressed):
    """The part of a handle that says which version goes on with an execution."""

    async def pin(self, version: str | None, *, request_id: str | None = None) -> None:
        """Say which version of the code may go on with it; None: the newest that is here.

        A worker that has it in hand hands it back once nothing goes on in it. A blocked run stays
        blocked until somebody resumes it.

            await client.get_handle("order-17").pin("2026-11")

        Args:
            version: the worker's; None to follow.
            request_id: a repetition with the same id changes nothing, whatever happened between.

        Raises:
            DefinitionError: that names no version.
            WorkflowClosed, WorkflowNotFound: there is nothing to pin.
        """
        if version is not None:
            check_version(version, f"{self.workflow_id}.pin")
        check_request_id(request_id)
        name = None if request_id is None else name_of_pin(request_id)
        result = await self._engine.commits.put(Pin(self._target(), version, name))
        await self._open(result)
        self._engine.versions_changed()
