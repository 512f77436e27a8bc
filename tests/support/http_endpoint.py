"""HTTP endpoints of the tests' own, which list what they have in several ways.

One server, on a free port and in a thread, serves all tests of a process; each has its own place.
"""

import json
import socket
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from itertools import count
from threading import Thread
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["Endpoint", "endpoint"]

_numbers: Final = count(1)
_places: Final[dict[str, "Endpoint"]] = {}


class Endpoint:
    """`/since?after=` gives what lies behind, `/pages` and `/tokens` and `/link` page by page,
    `/all` everything."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.items: list[dict[str, Any]] = []
        self.page_size = 3
        self.generation: Any = 1
        self.answers: deque[Response] = deque()
        """That are given first, in place of what is asked for."""
        self.asked: list[str] = []
        """Each with the status that it got."""

    def put(self, *values: Any) -> None:
        for one in values:
            self.items.append({"id": len(self.items) + 1, "n": one})

    def answer(self, request: Request) -> Response:
        response = self.answers.popleft() if self.answers else self._listed(request)
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append(f"/{request.path_params['kind']}{query} {response.status_code}")
        return response

    def _listed(self, request: Request) -> Response:
        query, kind = request.query_params, request.path_params["kind"]
        number = int(query.get("page", query.get("token", "t0").removeprefix("t")) or 0)
        first = number * self.page_size
        page = self.items[first : first + self.page_size]
        more = len(self.items) > first + self.page_size
        match kind:
            case "since":
                after = query.get("after")
                found = [one for one in self.items if after is None or one["id"] > int(after)]
                return _json({"data": {"list": found[: self.page_size]}, "made": self.generation})
            case "pages":
                return _json(
                    {"data": page, "next": f"?page={number + 1}" if more else None}, request
                )
            case "tokens":
                return _json({"data": page, "next": f"t{number + 1}" if more else ""}, request)
            case "link":
                way = {"Link": f'<{self.url}/link?page={number + 1}>; rel="next"'} if more else {}
                return _json(page, request, way)
            case _:
                return _json(self.items, request)


def _json(
    content: Any, request: Request | None = None, headers: dict[str, str] | None = None
) -> Response:
    body = json.dumps(content).encode()
    etag = f'"{sha256(body).hexdigest()[:8]}"'
    if request is not None and request.headers.get("if-none-match") == etag:
        return Response(status_code=304)
    told = {**(headers or {}), **({} if request is None else {"ETag": etag})}
    return Response(body, media_type="application/json", headers=told)


async def _answer(request: Request) -> Response:
    return _places[request.path_params["place"]].answer(request)


@cache
def _port() -> int:
    """Of the server, which ends with the process."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/{place}/{kind}", _answer)])
    config = uvicorn.Config(app, log_level="warning", lifespan="off", date_header=False)
    server = uvicorn.Server(config)
    listener.listen()  # So that whoever comes before it has begun is served, too.
    Thread(target=server.run, args=([listener],), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


@contextmanager
def endpoint() -> Generator[Endpoint]:
    place = f"place-{next(_numbers)}"
    _places[place] = found = Endpoint(f"http://127.0.0.1:{_port()}/{place}")
    try:
        yield found
    finally:
        del _places[place]
