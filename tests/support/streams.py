"""What tests of sources share."""

from typing import Final

from everlong import Retry
from everlong.exceptions import InvalidArguments, PoisonMessage, StreamRewound
from everlong.streams import Position, StreamControl
from tests.support.hosting import until

__all__ = ["SOON", "has_read"]

SOON: Final = Retry(
    delay=0.01,
    delay_max=0.5,
    non_retryable=(StreamRewound, PoisonMessage, InvalidArguments),
    on_exhausted="pause",
).options
"""As a stream's own, but it asks again soon, however long a broker took to start."""


async def has_read(control: StreamControl, positions: dict[str, Position]) -> None:
    """Wait until the flow has."""

    async def look() -> bool:
        cursor = await control.position()
        return cursor is not None and cursor.after == positions

    await until(look)
