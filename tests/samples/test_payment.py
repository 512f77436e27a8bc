import asyncio
import hashlib
import hmac
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from tests.samples.conftest import Start, lines_until

VISA = {"amount": 30, "card": "visa"}
LATER = {**VISA, "delayed": True}


async def webhook(http: httpx.AsyncClient, url: str, payment: str, status: str) -> int:
    """What the service sends when an intent has been processed."""
    intent = {"id": f"pi-{payment}", "status": status, "metadata": {"payment": payment}}
    event = {"id": f"evt-{payment}", "type": "payment_intent.x", "data": {"object": intent}}
    body = json.dumps(event).encode()
    signature = hmac.new(b"whsec_test", body, hashlib.sha256).hexdigest()
    answer = await http.post(f"{url}/webhook", content=body, headers={"signature": signature})
    return answer.status_code


def intents(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "service.db")) as db:
        return [status for (status,) in db.execute("SELECT status FROM intents ORDER BY status")]


async def test_a_payment_is_answered_at_once_declined_or_refused(
    start: Start, tmp_path: Path
) -> None:
    async with (
        httpx.AsyncClient(timeout=30) as http,
        start("-m", "samples.payment", "0", str(tmp_path)) as process,
    ):
        url = (await lines_until(process, "http"))[-1]
        first = await http.post(f"{url}/payments/one", json=VISA)
        again = await http.post(f"{url}/payments/one", json=VISA)
        assert first.json() == again.json()
        declined = await http.post(f"{url}/payments/two", json={**VISA, "card": "declined"})
        assert (declined.status_code, declined.text) == (
            httpx.codes.PAYMENT_REQUIRED,
            "payment declined: requires_payment_method",
        )
        nothing = await http.post(f"{url}/payments/three", json={"amount": 0, "card": "visa"})
        assert nothing.status_code == httpx.codes.BAD_REQUEST
    assert intents(tmp_path) == ["canceled", "succeeded"]


async def test_the_webhook_arrives_after_a_kill_and_twice(start: Start, tmp_path: Path) -> None:
    arguments = ("-m", "samples.payment", "0", str(tmp_path))
    async with httpx.AsyncClient(timeout=30) as http:
        async with start(*arguments) as process:
            url = (await lines_until(process, "http"))[-1]
            for payment in ("good", "bad", "never"):
                asking = asyncio.create_task(http.post(f"{url}/payments/{payment}", json=LATER))
                await lines_until(process, f"{payment}: processing")
                asking.cancel()
            process.kill()
        async with start(*arguments) as process:
            url = (await lines_until(process, "http"))[-1]
            assert await webhook(http, url, "good", "succeeded") == httpx.codes.OK
            good = await http.post(f"{url}/payments/good", json=LATER)
            assert (good.status_code, good.json()) == (httpx.codes.OK, "pi-good")
            assert await webhook(http, url, "good", "succeeded") == httpx.codes.OK
            assert await webhook(http, url, "bad", "canceled") == httpx.codes.OK
            bad = await http.post(f"{url}/payments/bad", json=LATER)
            assert bad.status_code == httpx.codes.PAYMENT_REQUIRED
            assert (await http.delete(f"{url}/payments/never")).status_code == httpx.codes.OK
            never = await http.post(f"{url}/payments/never", json=LATER)
            assert (never.status_code, never.text) == (
                httpx.codes.PAYMENT_REQUIRED,
                "The workflow 'never' was cancelled: by you.",
            )
            assert await webhook(http, url, "never", "succeeded") == httpx.codes.NOT_FOUND
            forged = await http.post(f"{url}/webhook", content=b"{}", headers={"signature": "x"})
            assert forged.status_code == httpx.codes.BAD_REQUEST
    assert intents(tmp_path) == ["canceled", "canceled", "processing"]
