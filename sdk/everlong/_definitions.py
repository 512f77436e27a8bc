"""What a decorated function is to the engine: a name, a body, types, options, a digest.

Made once, at decoration, so that every mistake in a signature shows where the function stands and
not in production. Nothing here runs anything.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import CodeType
from typing import Any

from everlong._failures import ExceptionRegistry
from everlong._values import Parameters, Value
from everlong_engine import ActivityOptions

__all__ = ["ActivityDefinition", "WorkflowDefinition", "code_digest"]


@dataclass(slots=True, eq=False)
class ActivityDefinition:
    """An activity as the worker runs it."""

    name: str
    function: Callable[..., Any]
    parameters: Parameters
    result: Value
    options: ActivityOptions
    exceptions: ExceptionRegistry
    is_async: bool
    process: bool = False


@dataclass(eq=False)
class WorkflowDefinition:
    """A workflow as a run executes it."""

    name: str
    function: Callable[..., Any]
    parameters: Parameters
    result: Value
    exceptions: ExceptionRegistry
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def digest(self) -> str:
        """Names the code, shown with a run's history: first 12 hex digits of SHA-256."""
        return code_digest(self.function)


def code_digest(function: Callable[..., Any]) -> str:
    """A digest of a function's source, or of its bytecode where there is no source."""
    try:
        text = inspect.getsource(function).encode()
    except (OSError, TypeError):
        code: CodeType = function.__code__
        text = code.co_code + repr(code.co_consts).encode()
    return sha256(text).hexdigest()[:12]
