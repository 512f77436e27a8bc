"""Starting an execution: what `run` and `start` have in common."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from everlong.cli._exits import Mistake
from everlong.client import Client, WorkflowHandle
from everlong.exceptions import EverlongError
from everlong.workflow import Workflow

__all__ = ["ExecutionTimeout", "IfClosed", "IfOpen", "RunTimeout", "Start"]

IfOpen = Annotated[
    str,
    typer.Option(
        metavar="POLICY", help="When one is open under the id: use, fail, or terminate it."
    ),
]
IfClosed = Annotated[
    str,
    typer.Option(
        metavar="POLICY", help="When one has ended under the id: allow, fail, or allow_failed."
    ),
]
RunTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Close it when a run takes longer.")
]
ExecutionTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="The same over all its runs.")
]


@dataclass(frozen=True, slots=True)
class Start:
    """A start as the command line has it."""

    workflow: Workflow[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keywords of `Client.start`."""

    def __post_init__(self) -> None:
        for name in self.kwargs.keys() & (self.options.keys() | {"request_id"}):
            raise Mistake(
                f"the parameter {name!r} has the name of an option of start(), so it must be "
                "passed by position: name the workflow as FILE:WORKFLOW, and do not make the "
                "parameter keyword-only"
            )

    async def begin(self, client: Client) -> WorkflowHandle[Any]:
        """Start it.

        Raises:
            Mistake: an option that makes no sense.
        """
        try:
            return await client.start(self.workflow, *self.args, **self.options, **self.kwargs)
        except (ValueError, TypeError) as error:
            if isinstance(error, EverlongError):
                raise
            raise Mistake(str(error)) from error
