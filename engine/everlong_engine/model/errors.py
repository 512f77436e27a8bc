"""The errors that the engine raises, all under one root.

The first paragraph of a class's docstring is its default message, with the facts filled in; the
facts are attributes, so a handler reads `error.workflow_id` and never parses a text. A message says
what to do.

    EverlongError
    ├── InvalidFilter (also ValueError)
    ├── InvalidTag (also ValueError)
    ├── PayloadError
    │   ├── NotSerializable (also TypeError)
    │   ├── PayloadTooLarge
    │   └── UndecodablePayload
    ├── StoreError
    │   ├── StoreOwned
    │   ├── ForeignFile
    │   ├── NewerSchema
    │   ├── NetworkFileSystem
    │   ├── StoreFull
    │   └── StoreFailed
    ├── UnreadableExport
    ├── ImportRefused
    ├── WorkflowAlreadyStarted
    ├── WorkflowNotFound
    └── WorkflowClosed
        └── WorkflowMoved
"""

import inspect
from typing import cast

__all__ = [
    "EverlongError",
    "ForeignFile",
    "ImportRefused",
    "InvalidFilter",
    "InvalidTag",
    "NetworkFileSystem",
    "NewerSchema",
    "NotSerializable",
    "PayloadError",
    "PayloadTooLarge",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "StoreOwned",
    "UndecodablePayload",
    "UnreadableExport",
    "WorkflowAlreadyStarted",
    "WorkflowClosed",
    "WorkflowMoved",
    "WorkflowNotFound",
]


class EverlongError(Exception):
    """Something in Everlong went wrong."""

    def __init__(self, message: str | None = None, **facts: object) -> None:
        for name, fact in facts.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no fact named {name!r}")
            setattr(self, name, fact)
        super().__init__(self._default_message() if message is None else message)

    def _default_message(self) -> str:
        """The docstring's first paragraph; `python -OO` strips it, then the name must do."""
        text = type(self).__doc__
        if text is None:
            return type(self).__name__
        return inspect.cleandoc(text).split("\n\n")[0].replace("\n", " ").format_map(_Facts(self))


class _Facts(dict[str, object]):
    """Looks facts up on the error, so that a default message never fails for want of one."""

    def __init__(self, error: EverlongError) -> None:
        super().__init__()
        self._error = error

    def __missing__(self, name: str) -> object:
        fact: object = getattr(self._error, name, "?")
        if isinstance(fact, tuple):
            return ", ".join(map(str, cast("tuple[object, ...]", fact)))
        return fact


class PayloadError(EverlongError):
    """A value could not be turned into stored bytes, or back."""


class NotSerializable(PayloadError, TypeError):
    """{path} is a {type_name}, which cannot be stored: {reason}. Pass plain values, dataclasses
    or pydantic models, with a type hint that names them."""

    path: str = "the value"
    type_name: str = "value"
    reason: str = "Everlong stores plain data only"


class PayloadTooLarge(PayloadError):
    """{what} holds {size} {unit}, more than the {limit} that one payload may hold. Store large
    data elsewhere and pass its name or address."""

    what: str = "The payload"
    size: int = 0
    limit: int = 0
    unit: str = "bytes"


class InvalidFilter(EverlongError, ValueError):
    """A filter cannot be read. The message tells where, and what would do there."""

    position: int = 0
    """Of the first character that does not fit, from 0."""


class InvalidTag(EverlongError, ValueError):
    """A tag or a memo will not do. The message names it, and what would do."""


class UndecodablePayload(PayloadError):
    """Stored bytes could not be read back: {reason}. They are damaged, or were written by a
    newer version or for other type hints."""

    reason: str = "unknown"


class StoreError(EverlongError):
    """The store could not do what was asked."""

    path: str | None = None


class StoreOwned(StoreError):
    """{path} is in use by process {pid}, and one process at a time runs workers on a file. Stop
    that process, or connect without a Worker: clients are served through the owner."""

    pid: int | None = None


class ForeignFile(StoreError):
    """{path} exists, but it is not an Everlong store. Name another file; this one was left
    untouched."""


class NewerSchema(StoreError):
    """{path} was written by a newer Everlong (schema {found}; this one knows {known}). Upgrade
    Everlong; a store is never downgraded."""

    found: int | None = None
    known: int | None = None


class NetworkFileSystem(StoreError):
    """{path} lies on a network file system ({kind}), whose locks SQLite cannot trust. Move the
    store to a local disk."""

    kind: str | None = None


class StoreFull(StoreError):
    """There is no room left to write {path}. Nothing was acknowledged that was not stored; free
    some disk space and the work goes on."""


class StoreFailed(StoreError):
    """Reading or writing {path} failed: {reason}. Nothing was acknowledged that was not stored;
    check the disk and the file's permissions."""

    reason: str = "unknown"


class UnreadableExport(EverlongError):
    """Line {line} of the export cannot be read: {reason}. Nothing was stored; export it again, or
    take another copy of the file."""

    line: int = 0
    reason: str = "it is damaged"


class ImportRefused(EverlongError):
    """{workflow_id!r} cannot be imported: {reason}. Nothing was stored."""

    workflow_id: str | None = None
    reason: str = "it is there already"


class WorkflowAlreadyStarted(EverlongError):
    """A workflow with the id {workflow_id!r} is already there ({status}). Use its handle, choose
    another id, or pass if_open= or if_closed=."""

    workflow_id: str | None = None
    run_id: str | None = None
    status: str = "running"


class WorkflowNotFound(EverlongError):
    """There is no workflow with the id {workflow_id!r}. Check the id, the namespace and the
    file; closed workflows are deleted after their retention."""

    workflow_id: str | None = None
    run_id: str | None = None


class WorkflowClosed(EverlongError):
    """The workflow {workflow_id!r} is closed ({status}) and takes no more signals, cancellations
    or updates. Start it again if it should go on."""

    workflow_id: str | None = None
    run_id: str | None = None
    status: str = "closed"


class WorkflowMoved(WorkflowClosed):
    """The workflow {workflow_id!r} is not in this store any more: it has moved to {place}, and is
    spoken to there. If nobody knows it there yet, its move was cut short: run it once more."""

    status: str = "moved"
    place: str = "another store"
    """The file, or the database without a password."""
