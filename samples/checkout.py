"""A shop with one product: reserve it, wait for the payment, then dispatch it, or put it back.

    python -m samples.checkout 8000       # port 0, the default: any free one; its URL is printed
    curl -X POST localhost:8000/checkout/cart-1          # the id of the payment, or 404: sold out
    curl -X POST localhost:8000/payment/cart-1/paid      # or any other word: it was not paid
    curl localhost:8000/orders                           # between any two: kill -9, start

The shop's database is a file of its own. Every write bears the id of its order, so that a step
which is repeated after a kill changes nothing.
"""

import asyncio
import os
import socket
import sqlite3
import sys
from contextlib import closing
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from everlong import (
    Client,
    Output,
    Retry,
    Signal,
    Worker,
    WorkflowClosed,
    WorkflowInfo,
    WorkflowNotFound,
    activity,
    info,
    saga,
    workflow,
)

PARCELS = 5
SHOP = """
    CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, status TEXT, parcels_left INTEGER);
    CREATE TABLE IF NOT EXISTS deliveries (widgets INTEGER);
    INSERT INTO deliveries SELECT 2 WHERE NOT EXISTS (SELECT * FROM deliveries);
    CREATE VIEW IF NOT EXISTS product AS SELECT (SELECT sum(widgets) FROM deliveries)
        - (SELECT count(*) FROM orders WHERE status <> 'cancelled') AS stock;
"""


class SoldOut(Exception): ...


class NotPaid(Exception): ...


payment_id = Output("payment_id", str)
payment = Signal("payment", str)
outcome = Output("outcome", str)


def shop(sql: str, *values: object) -> list[dict[str, Any]]:
    with closing(sqlite3.connect("shop.db")) as db, db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(sql, values)]


@activity(retry=Retry(non_retryable=(SoldOut,)), timeout=10.0)
def reserve(order: str) -> None:
    pending = "INSERT OR IGNORE INTO orders SELECT ?, 'pending', ? FROM product WHERE stock > 0"
    shop(pending, order, PARCELS)
    if not shop("SELECT * FROM orders WHERE id = ?", order):
        raise SoldOut(order)


@activity(timeout=10.0)
def put_back(order: str) -> None:
    cancelled = "INSERT INTO orders VALUES (?, 'cancelled', 0)"  # Also what was never reserved.
    shop(f"{cancelled} ON CONFLICT DO UPDATE SET status = excluded.status", order)


@activity(timeout=10.0)
def mark(order: str, status: str, parcels_left: int = PARCELS) -> None:
    change = "UPDATE orders SET status = ?, parcels_left = ? WHERE id = ?"
    shop(change, status, parcels_left, order)
    print(f"{order}: {status}, {parcels_left} parcels left", flush=True)


@workflow
async def check_out(patience: float = 600.0) -> str:
    order = info(WorkflowInfo).workflow_id
    try:
        async with saga() as steps:
            steps.undo(put_back, order)
            await reserve(order)
            await payment_id.publish(order)
            word = await asyncio.wait_for(payment.receive(), patience)
            if word != "paid":
                raise NotPaid(word)
            await mark(order, "paid")
    except (SoldOut, NotPaid, TimeoutError):
        await outcome.publish("cancelled")
        return "cancelled"
    await outcome.publish("paid")
    for parcels_left in reversed(range(PARCELS)):
        await asyncio.sleep(0.2)
        await mark(order, "paid" if parcels_left else "dispatched", parcels_left)
    return "dispatched"


async def checkout_endpoint(request: Request) -> JSONResponse:
    key = request.path_params["key"]
    client: Client = request.app.state.client
    handle = await client.start(check_out, id=key, request_id=key)
    async for to_be_paid in handle.subscribe(payment_id):
        return JSONResponse(to_be_paid)
    raise HTTPException(404, "sold out")  # It ended and has published nothing.


async def payment_endpoint(request: Request) -> JSONResponse:
    order, word = request.path_params["order"], request.path_params["word"]
    handle = request.app.state.client.get_handle(order)
    try:
        await handle.signal(payment, word, request_id=f"payment-{word}")
    except (WorkflowNotFound, WorkflowClosed) as error:
        raise HTTPException(404, str(error)) from None
    async for status in handle.subscribe(outcome):
        return JSONResponse(status)
    raise HTTPException(404, "it has ended without an outcome")


async def order_endpoint(request: Request) -> JSONResponse:
    return JSONResponse(shop("SELECT * FROM orders WHERE id = ?", request.path_params["order"]))


async def orders_endpoint(_: Request) -> JSONResponse:
    return JSONResponse(shop("SELECT * FROM orders"))


async def product_endpoint(_: Request) -> JSONResponse:
    return JSONResponse(shop("SELECT * FROM product")[0])


async def restock_endpoint(_: Request) -> JSONResponse:
    return JSONResponse(shop("INSERT INTO deliveries VALUES (100)"))


app = Starlette(
    routes=[
        Route("/checkout/{key}", checkout_endpoint, methods=["POST"]),
        Route("/payment/{order}/{word}", payment_endpoint, methods=["POST"]),
        Route("/order/{order}", order_endpoint),
        Route("/orders", orders_endpoint),
        Route("/product", product_endpoint),
        Route("/restock", restock_endpoint, methods=["POST"]),
    ]
)


async def main(port: int) -> None:
    with closing(sqlite3.connect("shop.db")) as db:
        db.executescript(SHOP)
    listener = socket.create_server(("127.0.0.1", port))
    async with Client.connect("checkout.db") as client, Worker(client):
        app.state.client = client
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


if __name__ == "__main__":
    os.chdir(sys.argv[2] if len(sys.argv) > 2 else ".")
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
