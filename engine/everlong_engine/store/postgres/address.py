"""Where a PostgreSQL store is: a URL, with a few options of our own that the server never sees."""

from typing import Final, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from everlong_engine.model.errors import StoreError

__all__ = ["Address", "is_url"]

_SCHEMES: Final = ("postgresql", "postgres")
_TLS_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_POOLERS: Final = {"": False, "none": False, "session": False, "transaction": True}
_DISTRIBUTED: Final = {"": None, "true": True, "false": False}


def is_url(place: str) -> bool:
    """Whether a store's place is a server's, and no file's."""
    return place.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


class Address(Struct, frozen=True, kw_only=True):
    dsn: str
    """For the driver."""
    shown: str
    """For people: without the password."""
    pooled: bool = False
    """Behind a pooler that gives a server process away with each transaction."""
    listen_dsn: str | None = None
    """A direct way for LISTEN and NOTIFY; None: none, and looks by the clock must do."""
    distributed: bool | None = None
    """What the store should be, which it says itself; None: whatever it is."""

    @property
    def direct(self) -> Self:
        """The way around a pooler. Only where there is one."""
        assert self.listen_dsn is not None
        return replace(self, dsn=self.listen_dsn, pooled=False)

    @property
    def host(self) -> str:
        """As the URL has it."""
        return urlsplit(self.dsn).hostname or "localhost"

    @property
    def tls_files(self) -> list[tuple[str, str]]:
        """(option, path) of the files that the URL names for TLS."""
        options = parse_qsl(urlsplit(self.dsn).query)
        return [(name, value) for name, value in options if name in _TLS_FILES]

    @classmethod
    def of(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            StoreError: it is none, or has an option that nobody knows.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise StoreError(f"{_without_password(url)} is no URL: {error}") from error
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        pooler = options.pop("pooler", "")
        if pooler not in _POOLERS:
            known = ", ".join(one for one in _POOLERS if one)
            raise StoreError(f"pooler={pooler} is not known in the URL: say one of {known}")
        pooled = _POOLERS[pooler]
        distributed = options.pop("distributed", "")
        if distributed not in _DISTRIBUTED:
            raise StoreError(f"distributed={distributed} in the URL must be true or false")
        dsn = urlunsplit(parts._replace(query=urlencode(options, quote_via=quote)))
        listen = options.pop("listen_url", None)
        hints = listen != "off"
        if listen is not None:
            dsn = urlunsplit(parts._replace(query=urlencode(options, quote_via=quote)))
        return cls(
            dsn=dsn,
            shown=_without_password(dsn),
            pooled=pooled,
            listen_dsn=(listen or (None if pooled else dsn)) if hints else None,
            distributed=_DISTRIBUTED[distributed],
        )


def _without_password(url: str) -> str:
    head, at, place = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    shown = f"{scheme}{slashes}{user.partition(':')[0]}{at}{place}" if at else url
    return shown.partition("?")[0]
