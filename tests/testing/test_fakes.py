"""Activities replaced by fakes, and failures on demand."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from everlong import (
    ActivityError,
    ActivityLost,
    DefinitionError,
    EverlongError,
    InvalidArguments,
    Retry,
    WorkflowFailed,
    activity,
    workflow,
)
from everlong.testing import Environment


class Order(BaseModel):
    id: int
    amount: float = 1.0


class Declined(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"declined: {code}")
        self.code = code


@pytest.fixture
def shop() -> Any:
    """An activity that must not run, and a workflow around it."""

    @activity(raises=[Declined])
    async def env_charge(order: Order, note: str = "none", *, dry: bool = False) -> str:
        raise AssertionError("the real one ran")

    @workflow
    async def env_buy(order: Order) -> str:
        try:
            return await env_charge(order, dry=True)
        except Declined as error:
            return f"declined {error.code}"

    return env_charge, env_buy


async def test_a_fake_gets_and_gives_what_the_activity_would(shop: Any) -> None:
    charge, buy = shop

    async def fake(order: Order, note: str, *, dry: bool) -> str:
        assert isinstance(order, Order), "rebuilt from what was stored"
        return f"{order.id} {note} {dry}"

    def plain(order: Order, note: str = "", dry: bool = True) -> str:
        return "a plain function"

    async with Environment() as env:
        env.fake(charge, fake)
        assert await env.client.run(buy, Order(id=7)) == "7 none True"
        [call] = env.calls(charge)
        assert (call.args, call.kwargs, call.attempt) == ((Order(id=7), "none"), {"dry": True}, 1)
        assert call.at == env.now
        env.fake(charge, plain)
        assert await env.client.run(buy, Order(id=8)) == "a plain function"
        env.fake(charge, returns="a value")
        assert await env.client.run(buy, Order(id=9), id="nine") == "a value"
        assert env.calls(charge)[-1].workflow_id == "nine"


async def test_a_fake_raises_what_the_activity_may(shop: Any) -> None:
    charge, _ = shop
    once = _with_one_attempt(charge)
    async with Environment() as env:
        env.fake(charge, raises=Declined(51))
        with pytest.raises(WorkflowFailed) as failed:
            await env.client.run(once)
        assert isinstance(failed.value.__cause__, Declined)
        assert failed.value.__cause__.code == 51


def _with_one_attempt(charge: Any) -> Any:
    @workflow
    async def env_one_attempt() -> str:
        return str(await charge.options(retry=Retry(max_attempts=1))(Order(id=1)))

    return env_one_attempt


async def test_demands_come_first_and_in_order(shop: Any) -> None:
    charge, _ = shop

    @workflow
    async def env_persistent() -> str:
        retry = Retry(max_attempts=6, delay=10, backoff=1, jitter=0)
        return str(await charge.options(retry=retry, timeout=60)(Order(id=1)))

    async with Environment() as env:
        env.fake(charge, returns="done")
        env.fail(charge, Declined(1), times=2)
        env.time_out(charge)
        env.lose(charge)
        began = env.now
        assert await env.client.run(env_persistent) == "done"
        assert [(call.attempt, call.at - began) for call in env.calls(charge)] == [
            (1, timedelta(seconds=0)),
            (2, timedelta(seconds=10)),
            (3, timedelta(seconds=20)),
            (4, timedelta(seconds=90)),
            (5, timedelta(seconds=100)),
        ]


async def test_an_error_that_the_activity_does_not_know_arrives_as_in_production(
    shop: Any,
) -> None:
    charge, _ = shop

    @workflow
    async def env_stranger() -> str:
        try:
            await charge.options(retry=Retry(max_attempts=1))(Order(id=1))
        except ActivityError as error:
            return error.type.rpartition(".")[2]
        return "none"

    unknown = type("Unknown", (Exception,), {})
    async with Environment() as env:
        env.fail(charge, unknown)
        assert await env.client.run(env_stranger) == "Unknown"


async def test_an_unfaked_activity_runs_for_real_unless_only_fakes_may() -> None:
    @activity(retry=Retry(max_attempts=1))
    def env_real() -> str:
        return "real"

    @workflow
    async def env_uses_it() -> str:
        return await env_real()

    async with Environment() as env:
        assert await env.client.run(env_uses_it) == "real"
        assert len(env.calls(env_real)) == 1

    async with Environment(fakes_only=True) as env:
        env.fake(env_real, env_real.function)
        assert await env.client.run(env_uses_it) == "real"

    with pytest.raises(EverlongError, match="fakes_only=True: env_real"):  # noqa: PT012
        async with Environment(fakes_only=True) as env:
            with pytest.raises(WorkflowFailed) as failed:
                await env.client.run(env_uses_it)
            assert "env.fake(env_real" in str(failed.value.__cause__)


async def test_what_cannot_be_a_fake_is_refused_at_once(shop: Any) -> None:
    charge, buy = shop

    async def too_few(order: Order) -> str:
        return "x"

    wrong: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
        (buy, (lambda: 1,), {}, "decorated with @activity"),
        (print, (lambda: 1,), {}, "decorated with @activity"),
        (charge, (too_few,), {}, "takes what it takes"),
        (charge, (lambda: 1,), {}, "takes what it takes"),
        (charge, ("a value",), {}, "returns="),
        (charge, (charge,), {}, "give a function"),
        (charge, (), {}, "one more"),
        (charge, (too_few,), {"returns": "x"}, "one more"),
        (charge, (), {"raises": "no exception"}, "give an exception"),
        (charge, (), {"raises": asyncio.CancelledError()}, "give an exception"),
    ]
    async with Environment() as env:
        for what, args, options, reason in wrong:
            with pytest.raises(DefinitionError, match=reason):
                env.fake(what, *args, **options)
        with pytest.raises(EverlongError, match="must be str"):
            env.fake(charge, returns=object())
        with pytest.raises(ValueError, match="times=0"):
            env.fail(charge, ValueError("x"), times=0)
        with pytest.raises(DefinitionError, match="give an exception"):
            env.fail(charge, "x")  # type: ignore[arg-type]
        for method in (env.time_out, env.lose, env.calls):
            with pytest.raises(DefinitionError, match="decorated with @activity"):
                method(buy)
        assert not env.calls(charge)


async def test_a_result_of_another_type_fails_the_attempt_for_good(shop: Any) -> None:
    charge, _ = shop
    flow = _with_default_retries(charge)

    def wrong(order: Order, note: str, *, dry: bool) -> object:
        return object()

    async with Environment() as env:
        env.fake(charge, wrong)
        with pytest.raises(WorkflowFailed) as failed:
            await env.client.run(flow)
        assert "must be str" in str(failed.value.__cause__)
        assert len(env.calls(charge)) == 1


def _with_default_retries(charge: Any) -> Any:
    @workflow
    async def env_default_retries() -> str:
        return str(await charge(Order(id=1)))

    return env_default_retries


async def test_what_would_hang_for_ever_says_so(shop: Any) -> None:
    charge, _ = shop
    flow = _with_default_retries(charge)
    async with Environment() as env:
        env.time_out(charge)
        with pytest.raises(WorkflowFailed) as failed:
            await env.client.run(flow)
        assert "no timeout" in str(failed.value.__cause__)


async def test_an_activity_of_a_process_pool_and_a_lost_one_are_faked_too() -> None:
    @activity(process=True, at_most_once=True)
    def env_heavy(number: int) -> int:
        return number

    @workflow
    async def env_computes() -> int:
        try:
            return await env_heavy(2)
        except ActivityLost:
            return -1

    async with Environment() as env:
        env.fake(env_heavy, lambda number: number * 2)
        assert await env.client.run(env_computes) == 4
        env.lose(env_heavy)
        assert await env.client.run(env_computes) == -1


async def test_a_fake_that_is_cancelled_hears_of_it(shop: Any) -> None:
    charge, _ = shop
    heard: list[str] = []

    async def slow(order: Order, note: str, *, dry: bool) -> str:
        try:
            await env.sleep(days=1)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise
        return "done"

    @workflow
    async def env_impatient() -> str:
        try:
            async with asyncio.timeout(60):
                return str(await charge.options(on_cancel="wait")(Order(id=1)))
        except TimeoutError:
            return "too slow"

    async with Environment() as env:
        env.fake(charge, slow)
        assert await env.client.run(env_impatient) == "too slow"
        assert heard == ["cancelled"]


async def test_arguments_that_do_not_fit_never_reach_a_fake(shop: Any) -> None:
    charge, buy = shop
    async with Environment() as env:
        env.fake(charge, returns="x")
        with pytest.raises(InvalidArguments):
            await env.client.run(buy, "no order")
        assert not env.calls(charge)
