"""A serialised exception, as the engine stores and shows it.

The engine never rebuilds exceptions: to it a failure is a type name and texts for people, two facts
for the retry policy, and opaque bytes from which the SDK may rebuild the exception.
"""

from typing import Final

from msgspec import Struct

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.limits import INSTANT_US_MAX

__all__ = ["MESSAGE_CHARS_MAX", "TRACEBACK_CHARS_MAX", "Failure", "bounded"]

TRACEBACK_CHARS_MAX: Final = 16_384
MESSAGE_CHARS_MAX: Final = 8_192


def bounded(text: str, chars_max: int = TRACEBACK_CHARS_MAX) -> str:
    """Keep head and tail of a long text: a traceback's use is where it began and what was raised.

    Half surrogate pairs, which nothing could store, come out as escapes.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= chars_max:
        return text
    note = f"\n… {len(text) - chars_max} characters left out …\n"
    room = chars_max - len(note)
    head = room // 3
    return text[:head] + note + text[head - room :]


class Failure(Struct, frozen=True, kw_only=True):
    """What went wrong, as data. `type` is the qualified name, `module.QualName`."""

    type: str
    message: str
    traceback: str = ""
    data: bytes = b""
    retryable: bool = True
    next_delay_us: int | None = None

    def to_wire(self) -> list[object]:
        """A plain list for msgpack; `from_wire` reads it back."""
        return [
            self.type,
            self.message,
            self.traceback,
            self.data,
            self.retryable,
            self.next_delay_us,
        ]

    @classmethod
    def from_wire(cls, wire: object) -> "Failure":
        """Read what `to_wire` wrote. Fields that a later version appends are passed over."""
        match wire:
            case [
                str(type_),
                str(message),
                str(traceback),
                bytes(data),
                bool(retryable),
                int() | None as next_delay_us,
                *_,  # pyright: ignore[reportUnknownVariableType]
            ] if next_delay_us is None or 0 <= next_delay_us <= INSTANT_US_MAX:
                return cls(
                    type=type_,
                    message=message,
                    traceback=traceback,
                    data=data,
                    retryable=retryable,
                    next_delay_us=next_delay_us,
                )
            case _:
                raise UndecodablePayload(reason="it is not a failure")
