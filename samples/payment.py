"""A payment by a service that answers at once, or days later by a webhook; or is cancelled before.

    python -m samples.payment 8000        # port 0, the default: any free one; its URL is printed
    curl -d '{"amount": 30, "card": "visa"}' localhost:8000/payments/order-1
    curl -d '{"amount": 30, "card": "visa", "delayed": true}' localhost:8000/payments/order-2 &
    curl -X DELETE localhost:8000/payments/order-2       # or what the service would send:
    body='{"id": "evt-1", "type": "payment_intent.succeeded", "data": {"object":
           {"id": "pi", "status": "succeeded", "metadata": {"payment": "order-2"}}}}'
    signature=$(printf %s "$body" | openssl dgst -sha256 -hmac whsec_test -r | cut -d' ' -f1)
    curl -d "$body" -H "signature: $signature" localhost:8000/webhook

Kill -9 it while order-2 waits, and start it again: it waits on, and the same request as before
finds it. The service is a stand-in: a file with one intent for each idempotency key.
"""

import asyncio
import hashlib
import hmac
import json
import os
import socket
import sqlite3
import sys
from contextlib import closing

import uvicorn
from pydantic import BaseModel, Field, PositiveInt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from everlong import (
    ApplicationError,
    Client,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowFailed,
    WorkflowInfo,
    WorkflowNotFound,
    activity,
    info,
    saga,
    uuid4,
    workflow,
)

SECRET = b"whsec_test"
INTENTS = "CREATE TABLE IF NOT EXISTS intents (key TEXT PRIMARY KEY, status TEXT)"


class PaymentRequest(BaseModel):
    amount: PositiveInt
    card: str = Field(min_length=1)
    delayed: bool = False


class Intent(BaseModel):
    id: str
    status: str
    metadata: dict[str, str]


settled = Signal("settled", Intent)


def service(sql: str, *values: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect("service.db")) as db, db:
        db.execute(INTENTS)
        return list(db.execute(sql, values))


@activity(timeout=10.0)
def create_intent(request: PaymentRequest, key: str, payment: str) -> Intent:
    answer = "requires_payment_method" if request.card == "declined" else "succeeded"
    status = "processing" if request.delayed else answer
    service("INSERT OR IGNORE INTO intents VALUES (?, ?)", key, status)
    [(_, status)] = service("SELECT * FROM intents WHERE key = ?", key)
    print(f"{payment}: {status}", flush=True)
    return Intent(id=f"pi-{key}", status=status, metadata={"payment": payment})


@activity(timeout=10.0)
def cancel_intent(key: str, payment: str) -> None:
    canceled = "INSERT INTO intents VALUES (?, 'canceled')"  # Also one that is still on its way.
    service(f"{canceled} ON CONFLICT DO UPDATE SET status = excluded.status", key)
    print(f"{payment}: canceled", flush=True)


@workflow
async def process_payment(request: PaymentRequest, patience: float = 3 * 24 * 3600) -> str:
    payment = info(WorkflowInfo).workflow_id
    key = str(uuid4())  # From the history: the same after every crash.
    async with saga() as steps:
        steps.undo(cancel_intent, key, payment)
        intent = await create_intent(request, key, payment)
        if intent.status == "processing":
            async with asyncio.timeout(patience):
                intent = await settled.receive()
        if intent.status != "succeeded":
            raise ApplicationError(f"payment declined: {intent.status}")
    return intent.id


async def pay_endpoint(request: Request) -> JSONResponse:
    payment, client = request.path_params["payment"], request.app.state.client
    try:
        wanted = PaymentRequest.model_validate_json(await request.body())
        handle = await client.start(process_payment, wanted, id=payment, request_id=payment)
        return JSONResponse(await handle.result())
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    except (WorkflowFailed, WorkflowCancelled) as error:
        raise HTTPException(402, str(error.__cause__ or error)) from None


async def cancel_endpoint(request: Request) -> JSONResponse:
    try:
        await request.app.state.client.get_handle(request.path_params["payment"]).cancel("by you")
    except (WorkflowNotFound, WorkflowClosed) as error:
        raise HTTPException(404, str(error)) from None
    return JSONResponse({"received": True})


async def webhook_endpoint(request: Request) -> JSONResponse:
    body = await request.body()
    signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, request.headers.get("signature", "")):
        raise HTTPException(400, "wrong signature")
    event = json.loads(body)
    if event["type"].startswith("payment_intent"):
        intent = Intent.model_validate(event["data"]["object"])
        handle = request.app.state.client.get_handle(intent.metadata["payment"])
        try:  # Services repeat their webhooks: the event's id makes it one signal.
            await handle.signal(settled, intent, request_id=event["id"])
        except (WorkflowNotFound, WorkflowClosed) as error:
            raise HTTPException(404, str(error)) from None
    return JSONResponse({"received": True})


app = Starlette(
    routes=[
        Route("/payments/{payment}", pay_endpoint, methods=["POST"]),
        Route("/payments/{payment}", cancel_endpoint, methods=["DELETE"]),
        Route("/webhook", webhook_endpoint, methods=["POST"]),
    ]
)


async def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    async with Client.connect("payments.db") as client, Worker(client):
        app.state.client = client
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


if __name__ == "__main__":
    os.chdir(sys.argv[2] if len(sys.argv) > 2 else ".")
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
