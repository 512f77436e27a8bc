"""Streams: workflows that read a source for ever, and lose and repeat nothing.

Declare a `Stream` over a source at module level, and loop over its batches in a workflow. Sources
of the core are here; those of brokers are modules of their own, each with an extra.
"""

from everlong._savepoints import Savepoint
from everlong.streams._batch import Batch, Message
from everlong.streams._control import DeadLetter, Lag, StreamControl
from everlong.streams._merge import Tick, every, merge
from everlong.streams._source import Cursor, Position, Reader, Record, Source
from everlong.streams._stream import OnPoison, Stream
from everlong.streams.directory import Directory
from everlong.streams.files import Lines
from everlong.streams.memory import Memory
from everlong.streams.tables import Rows
from everlong.streams.windows import Session, Tumbling, Window, Windows

__all__ = [
    "Batch",
    "Cursor",
    "DeadLetter",
    "Directory",
    "Lag",
    "Lines",
    "Memory",
    "Message",
    "OnPoison",
    "Position",
    "Reader",
    "Record",
    "Rows",
    "Savepoint",
    "Session",
    "Source",
    "Stream",
    "StreamControl",
    "Tick",
    "Tumbling",
    "Window",
    "Windows",
    "every",
    "merge",
]
