"""A small HTTP API with random orders, for the order stream: unreliable, but honest about it.

    python -m samples.order_api 8000        # port 0, the default: any free one; its URL is printed

    GET  /orders?max_value=20    an order, {} when there is none, or an error 500; slowly
    GET  /served                 every order that was given out and how often; calls under way
    POST /close                  no new orders from now on

The same `Idempotency-Key` gets the same answer for ever, also after /close and after any number of
errors; only a 500 is drawn anew each time. The ledger behind /served is written in the moment in
which an order is decided for a key, before the answer is sent. So it also holds orders whose answer
nobody lived to read: whoever asked must ask again under the same key, or the order is lost.
"""

import argparse
import asyncio
import random
import socket
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@dataclass(slots=True)
class Answer:
    """What one key gets, and how often it was sent."""

    order: dict[str, int]
    sent: int = 0


@dataclass
class OrderApi:
    error_share: float = 0.1
    empty_share: float = 0.25
    slowness_s: float = 0.3
    is_open: bool = True
    errors: int = 0
    calls: int = 0
    """Under way at this moment."""
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/orders", self.orders),
                Route("/served", self.served),
                Route("/close", self.close, methods=["POST"]),
            ]
        )

    async def orders(self, request: Request) -> JSONResponse:
        key = request.headers.get("Idempotency-Key")
        if not key:
            return JSONResponse({"error": "send an Idempotency-Key"}, status_code=400)
        self.calls += 1
        try:
            return await self._answer(key, int(request.query_params.get("max_value", "20")))
        finally:
            self.calls -= 1

    async def _answer(self, key: str, max_value: int) -> JSONResponse:
        await self._be_slow()
        if random.random() < self.error_share:
            self.errors += 1
            return JSONResponse({"error": "out of order"}, status_code=500)
        if key not in self.answers:
            self.answers[key] = Answer(self._draw(max_value))
        answer = self.answers[key]
        answer.sent += 1
        await self._be_slow()  # Long enough to be killed between the decision and the answer.
        return JSONResponse(answer.order)

    async def _be_slow(self) -> None:
        await asyncio.sleep(random.uniform(0, self.slowness_s))

    def _draw(self, max_value: int) -> dict[str, int]:
        if not self.is_open or random.random() < self.empty_share:
            return {}
        orders = sum(1 for answer in self.answers.values() if answer.order)
        return {"id": orders + 1, "amount": random.randint(1, max_value)}

    async def served(self, _: Request) -> JSONResponse:
        given = [answer for answer in self.answers.values() if answer.order]
        return JSONResponse(
            {
                "orders": {str(answer.order["id"]): answer.sent for answer in given},
                "errors": self.errors,
                "calls": self.calls,
            }
        )

    async def close(self, _: Request) -> JSONResponse:
        self.is_open = False
        return JSONResponse({})


def main(port: int, error_share: float) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()  # Whoever reads the URL may come at once, before the server is up.
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    api = OrderApi(error_share=error_share)
    config = uvicorn.Config(api.app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Serve random orders.")
    options.add_argument("port", type=int, nargs="?", default=0)
    options.add_argument("--errors", dest="error_share", type=float, default=0.1)
    main(**vars(options.parse_args()))
