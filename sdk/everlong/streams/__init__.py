"""Streams: workflows that read a source for ever, and lose and repeat nothing.

Declare a `Stream` over a source at module level, and loop over its batches in a workflow. Sources
of the core are here; those of brokers are modules of their own, each with an extra.
"""

from everlong._savepoints import Savepoint
from everlong.outboxes import Draft, OutboxMessage, Sink, Writer
from everlong.streams._batch import Batch, Message
from everlong.streams._control import StreamControl
from everlong.streams._entity import Entity, entity
from everlong.streams._entity_context import EntityContext, Timer
from everlong.streams._entity_control import EntityControl, EntityState
from everlong.streams._lag import Lag, PartitionLag
from everlong.streams._letters import DeadLetter, ParkedKey
from everlong.streams._merge import Tick, every, merge
from everlong.streams._poison import OnPoison, Poison, dead_letter, park_key, skip, stop
from everlong.streams._source import Cursor, Position, Reader, Record, Source
from everlong.streams._spread import Spread
from everlong.streams._stream import Stream
from everlong.streams.directory import Directory
from everlong.streams.files import Lines
from everlong.streams.memory import Memory, MemorySink
from everlong.streams.tables import Rows
from everlong.streams.windows import Session, Tumbling, Window, Windows

__all__ = [
    "Batch",
    "Cursor",
    "DeadLetter",
    "Directory",
    "Draft",
    "Entity",
    "EntityContext",
    "EntityControl",
    "EntityState",
    "Lag",
    "Lines",
    "Memory",
    "MemorySink",
    "Message",
    "OnPoison",
    "OutboxMessage",
    "ParkedKey",
    "PartitionLag",
    "Poison",
    "Position",
    "Reader",
    "Record",
    "Rows",
    "Savepoint",
    "Session",
    "Sink",
    "Source",
    "Spread",
    "Stream",
    "StreamControl",
    "Tick",
    "Timer",
    "Tumbling",
    "Window",
    "Windows",
    "Writer",
    "dead_letter",
    "entity",
    "every",
    "merge",
    "park_key",
    "skip",
    "stop",
]
