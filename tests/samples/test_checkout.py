from pathlib import Path

import httpx

from tests.samples.conftest import Start, lines_until


async def test_a_checkout_survives_kills_and_its_answers_come_again(
    start: Start, tmp_path: Path
) -> None:
    arguments = ("-m", "samples.checkout", "0", str(tmp_path))
    async with httpx.AsyncClient(timeout=30) as http:
        async with start(*arguments) as process:
            url = (await lines_until(process, "http"))[-1]
            assert (await http.post(f"{url}/checkout/cart-1")).json() == "cart-1"
            process.kill()  # While it waits for the payment.
        async with start(*arguments) as process:
            url = (await lines_until(process, "http"))[-1]
            assert (await http.post(f"{url}/checkout/cart-1")).json() == "cart-1"
            assert (await http.get(f"{url}/product")).json() == {"stock": 1}
            assert (await http.post(f"{url}/payment/cart-1/paid")).json() == "paid"
            await lines_until(process, "cart-1: paid, 3 parcels left")
            process.kill()  # While it is dispatched.
        async with start(*arguments) as process:
            url = (await lines_until(process, "http"))[-1]
            assert (await http.post(f"{url}/payment/cart-1/paid")).json() == "paid"
            lines = await lines_until(process, "dispatched")
            assert "cart-1: paid, 4 parcels left" not in lines
            [order] = (await http.get(f"{url}/order/cart-1")).json()
            assert order == {"id": "cart-1", "status": "dispatched", "parcels_left": 0}


async def test_what_is_not_paid_is_put_back_and_what_is_sold_out_is_refused(
    start: Start, tmp_path: Path
) -> None:
    async with (
        httpx.AsyncClient(timeout=30) as http,
        start("-m", "samples.checkout", "0", str(tmp_path)) as process,
    ):
        url = (await lines_until(process, "http"))[-1]
        assert (await http.post(f"{url}/checkout/a")).json() == "a"
        assert (await http.post(f"{url}/checkout/b")).json() == "b"
        assert (await http.post(f"{url}/checkout/c")).status_code == httpx.codes.NOT_FOUND
        assert (await http.post(f"{url}/payment/a/failed")).json() == "cancelled"
        assert (await http.get(f"{url}/product")).json() == {"stock": 1}
        assert (await http.post(f"{url}/checkout/d")).json() == "d"
        assert (await http.post(f"{url}/payment/c/paid")).status_code == httpx.codes.NOT_FOUND
        assert (await http.post(f"{url}/payment/z/paid")).status_code == httpx.codes.NOT_FOUND
        await http.post(f"{url}/restock")
        assert (await http.get(f"{url}/product")).json() == {"stock": 100}
        orders = (await http.get(f"{url}/orders")).json()
    assert {order["id"]: order["status"] for order in orders} == {
        "a": "cancelled",
        "b": "pending",
        "c": "cancelled",
        "d": "pending",
    }
