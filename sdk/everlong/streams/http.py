"""`HttpPoll`: an endpoint that lists things in JSON, asked now and then. Extra `everlong[http]`."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar, overload

import httpx
import msgspec

from everlong.exceptions import EverlongError, InvalidArguments, StreamRewound
from everlong.streams._answers import Item, dig, is_less, items_in, rank_of, require_order
from everlong.streams._polled import PARTITION, PolledReader, behind, check_poll
from everlong.streams._source import (
    Cursor,
    Position,
    Reader,
    Record,
    Source,
    require_same,
    timeless,
)

__all__ = ["HttpPoll"]

T = TypeVar("T")

_log: Final = logging.getLogger("everlong.streams")

_ANSWER_BYTES_MAX: Final = 16_000_000
_ANSWER_S: Final = 120.0
_SILENCE_S: Final = 30.0
"""Of the other side, within one request."""
_RETRY_AFTER_MAX_S: Final = 3600.0
_SHOWN_CHARS_MAX: Final = 200


class HttpPoll(Source[T], Generic[T]):
    """What an HTTP endpoint lists, in the order of its ids.

        events = Stream("events", HttpPoll("https://shop.example/events", Event, since="after"))

    Each item is a message, as it stands in the answer; its id is the position. Three ways to get to
    what is new: a parameter that takes the last id (`since`), pages (`next_page` or `link`), or one
    list that holds everything. Retry-After is obeyed, and what has not changed by its ETag is not
    sent again.

    What people get wrong: the endpoint must promise that ids only grow, and that nothing appears
    behind a greater one that it has shown. One that orders by time and changes, or shows rows of
    transactions that commit out of order, breaks that; what can be noticed of it pauses the flow.

    Args:
        url: of the list, with what it needs in its query.
        value: the type of its messages' values, see `Source`.
        items: where the list is in an answer, such as `data.events`; None: the answer is the list.
        id: where an item has its id: a whole number, or a text. Digits alone count as a number.
        since: the parameter of the query that takes the last id; only what is greater is wanted.
        begin: what it takes at the very first time; left out unless given.
        next_page: where an answer has the way to its next page, as a URL, or as a value for `page`.
        page: the parameter of the query that takes the value of `next_page`.
        link: pages go on with the header `Link: <…>; rel="next"`.
        generation: where an answer says what it is made of, such as a version of the data; another
            one pauses the flow with `StreamRewound`.
        poll: seconds between two requests when nothing was there.
        options: more for `httpx.AsyncClient`, such as `headers`, `auth`, `timeout` or
            `follow_redirects`.
    """

    keyed = False

    @overload
    def __init__(
        self: "HttpPoll[bytes]",
        url: str,
        *,
        items: str | None = None,
        id: str = "id",
        since: str | None = None,
        begin: Position | None = None,
        next_page: str | None = None,
        page: str | None = None,
        link: bool = False,
        generation: str | None = None,
        poll: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        value: type[T],
        *,
        items: str | None = None,
        id: str = "id",
        since: str | None = None,
        begin: Position | None = None,
        next_page: str | None = None,
        page: str | None = None,
        link: bool = False,
        generation: str | None = None,
        poll: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "HttpPoll[Any]",
        url: str,
        value: Any,
        *,
        items: str | None = None,
        id: str = "id",
        since: str | None = None,
        begin: Position | None = None,
        next_page: str | None = None,
        page: str | None = None,
        link: bool = False,
        generation: str | None = None,
        poll: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        value: Any = bytes,
        *,
        items: str | None = None,
        id: str = "id",
        since: str | None = None,
        begin: Position | None = None,
        next_page: str | None = None,
        page: str | None = None,
        link: bool = False,
        generation: str | None = None,
        poll: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.url = _url_of(url)
        if sum((since is not None, next_page is not None, link)) > 1:
            raise InvalidArguments(
                "since=, next_page= and link=True are different ways to what is new: give one"
            )
        if page is not None and next_page is None:
            raise InvalidArguments(f"page={page!r} takes the value of next_page=, which is missing")
        if begin is not None and since is None:
            raise InvalidArguments(f"begin={begin!r} is what since= takes first, which is missing")
        if generation is not None and items is None:
            raise InvalidArguments(
                "generation= is looked for beside the list, so say where that is with items="
            )
        self.items, self.id, self.since, self.begin = items, id, since, begin
        self.next_page, self.page, self.link = next_page, page, link
        self.generation, self.poll = generation, check_poll(poll)
        self.options: dict[str, Any] = {"timeout": _SILENCE_S, **(options or {})}

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor, or from the first item on."""
        at = behind(after, partitions, self)
        if self.generation is None:
            require_same(self.named(""), after, f"{self!r}")
        client = httpx.AsyncClient(**self.options)
        reader = _HttpReader(self, client, at)
        try:
            if self.generation is None:
                reader.identity = self.named("")
            elif after is not None:
                reader.identity = after.identity
            while not reader.identity:  # It stands in the first answer.
                await reader.ask()
                if not reader.identity:
                    await asyncio.sleep(self.poll)
        except BaseException:
            await client.aclose()
            raise
        return reader

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Nobody knows. Raises InvalidArguments, also where nothing is listed now."""
        raise timeless(self)

    def is_behind(self, position: Position, other: Position) -> bool:
        """As ids are in order: digits alone by their number."""
        return is_less(rank_of(other), rank_of(position))

    def named(self, generation: str) -> str:
        """Not for flows: by what it is known again. Nothing of the query, which may hold a key."""
        url = self.url
        place = f"{url.scheme}://{url.netloc.decode()}{url.path}"
        return f"http {place} {generation}".strip()

    def __repr__(self) -> str:
        return f"HttpPoll({self.named('').removeprefix('http ')!r})"


class _HttpReader(PolledReader):
    def __init__(self, source: HttpPoll[Any], client: httpx.AsyncClient, at: Position | None):
        super().__init__("", source.poll)
        self._source = source
        self._client = client
        self._at = at
        self._ready: deque[Record] = deque()
        """Items of an answer that were not asked for yet."""
        self._etag: tuple[httpx.URL, str] | None = None
        self._not_before = 0.0
        self._page = self._last_page = source.url
        """What is asked next, and the last page on which something was."""
        self._listed: frozenset[Any] = frozenset()
        """On that page."""
        self._greatest: Any = None
        """Since the first page."""
        self._walked: set[httpx.URL] = set()

    async def look(self, max_messages: int, max_bytes: int) -> list[Record]:
        if not self._ready:
            await self.ask()
        found: list[Record] = []
        while self._ready and len(found) < max_messages and max_bytes > 0:
            record = self._ready.popleft()
            max_bytes -= len(record.value)
            found.append(record)
        return found

    async def ask(self) -> None:
        """Page after page, until there is something or no page is left."""
        loop, goes_on = asyncio.get_running_loop(), True
        while goes_on and not self._ready and loop.time() >= self._not_before:
            url = self._page if self._source.since is None else self._behind()
            try:
                async with asyncio.timeout(_ANSWER_S):
                    answer = await self._get(url)
            except (httpx.HTTPError, TimeoutError) as error:
                what = str(error) or type(error).__name__
                raise EverlongError(f"{self._source!r} does not answer: {what}") from error
            goes_on = answer is not None and self._take(url, *answer)

    def _behind(self) -> httpx.URL:
        at = self._source.begin if self._at is None else self._at
        url, name = self._source.url, self._source.since
        return url if at is None or name is None else url.copy_set_param(name, str(at))

    # ------------------------------------------------------------------------------- one answer

    async def _get(self, url: httpx.URL) -> tuple[httpx.Response, bytes] | None:
        """None: nothing new, or not now."""
        source = self._source
        headers = {"Accept": "application/json"}
        if self._etag is not None and self._etag[0] == url:
            headers["If-None-Match"] = self._etag[1]
        async with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == HTTPStatus.NOT_MODIFIED:
                return None
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > _ANSWER_BYTES_MAX:
                    raise InvalidArguments(
                        f"{source!r} gave more than {_ANSWER_BYTES_MAX:,} bytes at once: ask for "
                        "smaller pages, by its parameter for that in the URL"
                    )
        if response.status_code == HTTPStatus.OK:
            return response, bytes(data)
        self._refused(response, bytes(data))
        return None

    def _refused(self, response: httpx.Response, data: bytes) -> None:
        """Returns if it said when to come again."""
        source, status = self._source, f"{response.status_code} {response.reason_phrase}".strip()
        wait_s = _retry_after_s(response.headers)
        if wait_s is not None and response.status_code >= HTTPStatus.BAD_REQUEST:
            self._not_before = asyncio.get_running_loop().time() + wait_s
            _log.warning("%r answers %s: it is asked again in %.0f s", source, status, wait_s)
            return
        said = " ".join(data.decode(errors="replace").split())[:_SHOWN_CHARS_MAX]
        if response.status_code == HTTPStatus.GONE:
            raise StreamRewound(
                f"{source!r} answers {status}: what lies behind {self._at!r} is not kept any more. "
                f"Rewind the flow to where it is to go on. {said}"
            )
        if response.is_redirect:
            said = "give its new place, or options={'follow_redirects': True}"
        raise EverlongError(f"{source!r} answers {status}: {said}")

    def _take(self, url: httpx.URL, response: httpx.Response, data: bytes) -> bool:
        """Whether there is another page to be asked for at once."""
        source = self._source
        try:
            self._require_generation(data)
            items = items_in(data, source.items, source.id, source)
            following = self._following(url, response, data)
        except msgspec.DecodeError as error:
            raise EverlongError(f"{source!r} gave no JSON: {error}") from error
        require_order(items, source)
        etag = response.headers.get("ETag")
        # Another page may show in the header Link alone, of which an ETag need not know.
        self._etag = (url, etag) if etag and not source.link else None
        if source.since is not None:
            self._keep_behind(items)
            return False
        return self._keep_page(url, items, following)

    def _require_generation(self, data: bytes) -> None:
        source = self._source
        if source.generation is None:
            return
        found = dig(data, source.generation)
        if found is None:
            raise InvalidArguments(f"{source!r} gave an answer without {source.generation!r}")
        now = source.named(found.decode())
        if self.identity:
            require_same(now, Cursor(self.identity, {}), f"{source!r}")
        self.identity = now

    def _keep(self, item: Item) -> None:
        self._ready.append(Record(PARTITION, item.position, item.value))
        self._at = item.position

    # --------------------------------------------------------------------- what lies behind an id

    def _keep_behind(self, items: Sequence[Item]) -> None:
        source, asked = self._source, self._at
        for item in items:
            if asked is None or is_less(rank_of(asked), item.rank):
                self._keep(item)
            elif item.rank != rank_of(asked):
                raise InvalidArguments(
                    f"{source!r} gave the id {item.position!r} when asked for what lies behind "
                    f"{asked!r}: it does not know the parameter {source.since!r}, or its ids do "
                    "not grow"
                )

    # ---------------------------------------------------------------------------------------- pages

    def _keep_page(
        self, url: httpx.URL, items: Sequence[Item], following: httpx.URL | None
    ) -> bool:
        """Pages hold the oldest first, and what is new comes at the end of the last one."""
        source, ranks = self._source, frozenset(one.rank for one in items)
        if url == self._last_page != source.url and self._listed - ranks:
            # What was there is on another page now: only from the first one on is all to be seen.
            self._page = self._last_page = source.url
            self._listed, self._greatest, self._etag = frozenset(), None, None
            return True
        for item in items:
            at = None if self._at is None else rank_of(self._at)
            if at is None or is_less(at, item.rank):
                self._keep(item)
            elif type(at) is not type(item.rank):
                raise InvalidArguments(
                    f"{source!r} gave the id {item.position!r}, which has no order with "
                    f"{self._at!r}, up to which it was read"
                )
            elif url == self._last_page and self._listed and item.rank not in self._listed:
                raise InvalidArguments(
                    f"{source!r} gave the id {item.position!r}, which was not there before, and "
                    f"{self._at!r} was: what comes late must have a greater id, or it is lost"
                )
        if items:
            self._last_page, self._listed = url, ranks
            self._greatest = items[-1].rank
        if following is not None:
            if following in self._walked or following == url:
                raise InvalidArguments(f"the pages of {source!r} lead in a circle at {following}")
            self._walked.add(following)
            self._page = following
            return True
        self._require_greatest()
        self._page = self._last_page
        self._walked.clear()
        return False

    def _following(self, url: httpx.URL, response: httpx.Response, data: bytes) -> httpx.URL | None:
        source = self._source
        told: Any = None
        if source.link:
            told = response.links.get("next", {}).get("url")
        elif source.next_page is not None:
            found = dig(data, source.next_page)
            told = None if found is None else msgspec.json.decode(found)
        if told is None or told == "":
            return None
        if source.page is not None and isinstance(told, int | str):
            return source.url.copy_set_param(source.page, str(told))
        if source.page is not None or not isinstance(told, str):
            raise InvalidArguments(
                f"{source!r} gave {told!r:.200} as its next page, which is no URL: where it is a "
                "value for a parameter of the query, name that with page=…"
            )
        following = url.join(told)
        if (following.scheme, following.netloc) != (source.url.scheme, source.url.netloc):
            raise InvalidArguments(
                f"{source!r} goes on at {following.scheme}://{following.host}: what is sent along, "
                "such as keys, is for its own place only"
            )
        return following

    def _require_greatest(self) -> None:
        """At the end of the last page."""
        at = None if self._at is None else rank_of(self._at)
        if at is not None and self._greatest is not None and is_less(self._greatest, at):
            raise StreamRewound(
                f"{self._source!r} ends at {self._greatest!r}, and it was read up to {self._at!r}: "
                "it was made anew, or has lost items. Rewind the flow to where it is to go on"
            )

    async def close(self) -> None:
        await asyncio.shield(self._client.aclose())


def _url_of(url: str) -> httpx.URL:
    """Raises InvalidArguments."""
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidArguments(f"the address of an HttpPoll source is no URL: {error}") from error
    if found.scheme not in ("http", "https") or not found.host:
        raise InvalidArguments(
            "the address of an HttpPoll source begins with http:// or https:// and a host"
        )
    return found


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds, or a date, which is taken by the other side's clock if it tells it."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdecimal():
        return min(float(told), _RETRY_AFTER_MAX_S)
    until, now = _date(told), _date(headers.get("Date", "")) or datetime.now(UTC)
    if until is None:
        return None
    return min(max(0.0, (until - now).total_seconds()), _RETRY_AFTER_MAX_S)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
