"""Starting an execution: what `run` and `start` have in common."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from everlong.cli._arguments import loose
from everlong.cli._exits import Mistake
from everlong.client import Client, WorkflowHandle
from everlong.exceptions import EverlongError
from everlong.workflow import Workflow
from everlong_engine import Retry, read_instant

__all__ = [
    "ExecutionTimeout",
    "IfClosed",
    "IfOpen",
    "Memo",
    "RetryAttempts",
    "RetryDelay",
    "RunTimeout",
    "Start",
    "Tag",
    "labels",
    "retries",
]

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
RetryAttempts = Annotated[
    int | None,
    typer.Option(metavar="N", help="When it fails, try it again; N attempts in all, 1 for never."),
]
RetryDelay = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Before the second attempt; doubles from there. 1."),
]

Tag = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="What it is found by; may be repeated."),
]
Memo = Annotated[
    str | None,
    typer.Option(metavar="VALUE", help="Put beside it; what begins with { or [ is JSON."),
]


def retries(attempts: int | None, delay_s: float | None) -> dict[str, Any]:
    """Keywords of `Client.start`. Raises Mistake."""
    if attempts is None:
        if delay_s is not None:
            raise Mistake("--retry-delay: say how often, too: --retry-attempts N")
        return {}
    try:
        delay = Retry().delay if delay_s is None else delay_s
        return {"retry": Retry(max_attempts=attempts, delay=delay)}
    except ValueError as error:
        raise Mistake(str(error)) from error


_WHOLE: Final = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.\d*|\.?\d+)([eE][+-]?\d+)?", re.ASCII)


def labels(tags: list[str] | None, memo: str | None) -> dict[str, Any]:
    """Keywords of `Client.start`. Raises Mistake."""
    found: dict[str, Any] = {}
    for one in tags or ():
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise Mistake(f"--tag {one}: write NAME=VALUE")
        if name in found:
            raise Mistake(f"--tag {name}=… is given twice; a tag has one value")
        found[name] = tag_of(text)
    return {"tags": found or None, "memo": None if memo is None else loose(memo)}


def tag_of(text: str) -> Any:
    """A tag's value as it is typed: `true` and `false`, numbers, and instants with their time zone
    are just that, anything else is a text; and so is all that stands in double quotes."""
    instant = read_instant(text)
    if text in ("true", "false"):
        return text == "true"
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if instant is not None and instant[1]:
        return instant[0]
    if len(text) > _NUMBER_CHARS_MAX:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


_NUMBER_CHARS_MAX: Final = 400
"""Python itself reads no longer ones; what is too large for a tag is refused as that."""


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
