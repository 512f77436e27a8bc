"""Texts that a client is given: what a store can keep and look up."""

from everlong.exceptions import InvalidArguments

__all__ = ["storable"]


def storable(text: str, name: str) -> str:
    """A terminal that is set to no UTF-8 makes texts that nothing can store or look up."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArguments(
                f"{name}={text!a} holds half a surrogate pair, which UTF-8 cannot express"
            ) from None
    return text
