"""Parameters and results: rebuilt by type hints, or refused before anything is stored."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from everlong import Client, InvalidArguments, PayloadTooLarge, Worker, activity, workflow
from tests.support.hosting import hosting, of_kind


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    city: str
    zip_code: str = "0000"


@dataclass
class Customer:
    name: str
    address: Address
    tags: set[str] = field(default_factory=set[str])


async def test_a_text_becomes_the_number_that_the_hint_says(path: Path) -> None:
    @workflow
    async def flow(max_value: int) -> str:
        return f"{type(max_value).__name__} {max_value}"

    async with hosting(path) as client:
        start: Any = client.start
        assert await (await start(flow, "400")).result() == "int 400"
        handle = await client.start("flow", max_value="401")
        assert await handle.result() == "int 401"


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        (("abc",), {}, "max_value"),
        ((), {}, "max_value"),
        ((1, 2, 3), {}, "flow"),
        ((1,), {"colour": "red"}, "colour"),
        ((1,), {"max_value": 2}, "max_value"),
        ((object(),), {}, "max_value"),
    ],
)
async def test_what_does_not_fit_is_refused_and_nothing_is_stored(
    path: Path, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    @workflow
    async def flow(max_value: int, other: int = 0) -> None: ...

    async with hosting(path) as client:
        start: Any = client.start
        with pytest.raises(InvalidArguments, match=text) as caught:
            await start(flow, *args, **kwargs)
        assert isinstance(caught.value, TypeError)
        assert (await client.list()).items == []


async def test_rich_types_make_the_journey_to_workflow_activity_and_back(path: Path) -> None:
    @activity
    async def echo(
        customer: Customer,
        when: date,
        price: Decimal,
        colour: Colour,
        number: UUID,
        wait: timedelta,
    ) -> tuple[Customer, date, Decimal, Colour, UUID, timedelta]:
        return customer, when, price, colour, number, wait

    @workflow
    async def flow(
        customer: Customer,
        when: date,
        price: Decimal,
        colour: Colour,
        number: UUID,
        wait: timedelta,
    ) -> tuple[Customer, date, Decimal, Colour, UUID, timedelta]:
        return await echo(customer, when, price, colour, number, wait)

    values = (
        Customer("Ann", Address(city="Rome"), {"new", "eu"}),
        date(2026, 2, 28),
        Decimal("12.30"),
        Colour.RED,
        UUID(int=7),
        timedelta(seconds=1.5),
    )
    async with hosting(path) as client:
        assert await client.run(flow, *values) == values


async def test_a_mutable_default_is_never_shared(path: Path) -> None:
    @workflow
    async def flow(seen: list[int] = []) -> list[int]:  # noqa: B006
        seen.append(len(seen))
        return seen

    async with hosting(path) as client:
        for _ in range(3):
            assert await client.run(flow) == [0]


async def test_what_the_caller_changes_afterwards_does_not_reach_the_run(path: Path) -> None:
    @workflow
    async def flow(items: list[str]) -> list[str]:
        return items

    items = ["first"]
    async with Client.connect(path) as client:
        handle = await client.start(flow, items)
        items.append("second")
        async with Worker(client):
            assert await handle.result() == ["first"]


async def test_an_unfit_argument_of_an_activity_fails_where_it_is_called(path: Path) -> None:
    ran: list[int] = []

    @activity
    async def count(number: int) -> None:
        ran.append(number)

    @workflow
    async def flow() -> str:
        try:
            await count("many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except InvalidArguments as error:
            return str(error)
        return ""

    async with hosting(path) as client:
        handle = await client.start(flow)
        text = await handle.result()
        assert "activity count" in text
        assert "number" in text
        assert "'many'" in text
        assert await of_kind(handle, "ActivityScheduled") == []
    assert ran == []


@pytest.mark.parametrize("size", [70_000, 1_900_000])
async def test_a_large_payload_spills_and_comes_back(path: Path, size: int) -> None:
    @activity
    async def upper(text: str) -> str:
        return text.upper()

    @workflow
    async def flow(text: str) -> str:
        return await upper(text)

    text = "abcdefghij" * (size // 10)
    async with hosting(path, cache_size=0) as client:
        handle = await client.start(flow, text, id="large")
        assert await handle.result() == text.upper()
        (completed,) = await of_kind(handle, "RunCompleted")
        assert completed.fields["result"] == text.upper()
        assert list(await client.verify()) == []
        handle = await client.start("flow", text=text)
        assert await handle.result() == text.upper()
        assert list(await client.verify()) == []


async def test_a_payload_over_the_limit_is_refused_and_nothing_is_stored(path: Path) -> None:
    @workflow
    async def flow(text: str) -> None: ...

    async with hosting(path) as client:
        with pytest.raises(PayloadTooLarge, match=r"holds 2000\d+ bytes, more than the 2000000"):
            await client.start(flow, "x" * 2_000_001)
        assert (await client.list()).items == []
