"""What a workflow's code may lead to, told at decoration by the objects its names stand for."""

# tidy: this file sleeps because its functions are read and never called.

import ast
import asyncio
import builtins
import datetime as dt
import functools
import inspect
import io
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from os import urandom
from pathlib import Path
from random import Random, choice as pick
from time import gmtime, monotonic, sleep, strftime, time as clock
from typing import Any
from uuid import uuid4

import pytest

from everlong import _purity
from everlong._purity import check_definition
from everlong._replay import guard
from everlong.channels import Query
from everlong.exceptions import DefinitionError
from everlong.workflow import now, side_effect

status = Query[str]("test_purity.status", str)


class FakeDatetime(datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "FakeDatetime":
        return cls(2020, 1, 1, tzinfo=tz)


class Clock:
    time = staticmethod(clock)

    def now(self) -> int:
        return 1

    sleep = now


user_clock = Clock()
aliased = datetime.now


def problem(function: Callable[..., Any]) -> str:
    with pytest.raises(DefinitionError) as raised:
        check_definition(function, what="workflow w")
    return str(raised.value)


# -------------------------------------------------------------------------------- what is refused


async def uses_from_time() -> float:
    return clock()


async def uses_monotonic() -> Any:
    return monotonic


async def uses_from_sleep() -> None:
    sleep(1)


async def uses_time_sleep() -> None:
    time.sleep(1)


async def uses_datetime_now() -> Any:
    return datetime.now(UTC)


async def uses_module_datetime_now() -> Any:
    return dt.datetime.now(tz=dt.UTC)


async def uses_utcnow() -> Any:
    return datetime.utcnow()  # noqa: DTZ003 # pyright: ignore[reportDeprecated]


async def uses_today() -> Any:
    return date.today()  # noqa: DTZ011


async def uses_alias() -> Any:
    return aliased(UTC)


async def uses_choice() -> Any:
    return pick([1, 2])


async def uses_seed() -> None:
    random.seed(1)


async def uses_urandom() -> bytes:
    return urandom(4)


async def uses_uuid1() -> Any:
    return uuid.uuid1()


async def uses_open() -> str:
    with open("x") as file:  # noqa: PTH123
        return file.read()


async def uses_io_open() -> Any:
    return io.open("x")  # noqa: UP020


async def uses_input() -> str:
    return input()


async def uses_class_attribute() -> Any:
    return Clock.time()


REFUSED: dict[Callable[..., Any], tuple[str, str]] = {
    uses_from_time: ("`clock`", "everlong.now()"),
    uses_monotonic: ("`monotonic`", "`import time` and call `time.monotonic()`"),
    uses_from_sleep: ("`sleep`", "await asyncio.sleep"),
    uses_time_sleep: ("`time.sleep`", "await asyncio.sleep"),
    uses_datetime_now: ("`datetime.now`", "everlong.now()"),
    uses_module_datetime_now: ("`dt.datetime.now`", "everlong.now()"),
    uses_utcnow: ("`datetime.utcnow`", "everlong.now()"),
    uses_today: ("`date.today`", "everlong.now().date()"),
    uses_alias: ("`aliased`", "everlong.now()"),
    uses_choice: ("`pick`", "everlong.random().choice()"),
    uses_seed: ("`random.seed`", "random.Random(seed)"),
    uses_urandom: ("`urandom`", "everlong.random().randbytes()"),
    uses_uuid1: ("`uuid.uuid1`", "everlong.uuid4()"),
    uses_open: ("`open`", "@activity"),
    uses_io_open: ("`io.open`", "@activity"),
    uses_input: ("`input`", "@activity"),
    uses_class_attribute: ("`Clock.time`", "everlong.now()"),
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_it_is_refused_with_its_line_and_what_to_write_instead(
    function: Callable[..., Any],
) -> None:
    written, fix = REFUSED[function]
    text = problem(function)
    line = inspect.getsourcelines(function)[1] + 1
    assert text.startswith(f"workflow w could not be replayed:\n  {__file__}:{line}: ")
    assert f"it uses {written}. " in text
    assert fix in text


def test_all_problems_are_told_at_once() -> None:
    async def workflow() -> None:
        clock()
        datetime.now(UTC)

    assert problem(workflow).count(__file__) == 2


def test_nested_code_is_read_too() -> None:
    async def in_lambda() -> Any:
        return max([1], key=lambda _: clock())

    async def in_comprehension() -> Any:
        return [clock() for _ in range(2)]

    async def in_inner() -> Any:
        async def inner() -> None:
            def innermost() -> Any:
                return datetime.now(UTC)

            innermost()

        await inner()

    async def in_class() -> Any:
        class Record:
            at = clock()

            def method(self) -> float:
                return monotonic()

        return Record

    for workflow in (in_lambda, in_comprehension, in_inner):
        assert problem(workflow).count(__file__) == 1
    assert problem(in_class).count(__file__) == 2


def test_the_closure_is_read_too() -> None:
    tick = sleep
    from datetime import datetime as kept

    async def workflow() -> Any:
        tick(1)
        return [kept.now(UTC) for _ in range(1)]

    assert "`tick`" in problem(workflow)
    assert "`kept.now`" in problem(workflow)


def test_an_import_in_the_code_is_read_too() -> None:
    async def workflow() -> Any:
        import datetime as local_module
        from datetime import datetime as local

        def inner() -> Any:
            return local.now(UTC)

        return local.now(UTC), local_module.datetime.now(UTC), inner()

    text = problem(workflow)
    assert text.count("`local.now`") == 2
    assert text.count("`local_module.datetime.now`") == 1


def test_what_decorators_wrapped_is_read() -> None:
    @functools.wraps(uses_open)
    async def wrapper() -> str:
        return await uses_open()

    assert "`open`" in problem(wrapper)


def test_the_error_carries_the_function() -> None:
    with pytest.raises(DefinitionError) as raised:
        check_definition(uses_open, what="workflow w")
    assert raised.value.function == "uses_open"


# ------------------------------------------------------------------------------ what may stay


async def ordinary(items: list[int], since: datetime, clock: Clock, open: bool) -> Any:
    print(items, open)  # noqa: T201
    now_ = clock.now()
    clock.sleep()
    time_ = max(items)
    sleep = asyncio.sleep
    await sleep(time_)
    later = since + timedelta(seconds=1)
    parsed = datetime.fromisoformat("2020-01-01"), datetime(2020, 1, 1, tzinfo=UTC)
    today = date(2020, 1, 1)
    words = strftime("%Y", gmtime(0))
    source = Random(3)
    number, chosen = random.random(), random.choice(items)
    moment = time.time(), time.monotonic_ns(), time.perf_counter()
    ids = uuid4(), uuid.uuid4(), os.urandom(3), secrets.token_hex(3), secrets.choice(items)
    path = Path("x") / "y"
    zone = now().astimezone(UTC).now
    own = user_clock.now(), user_clock.sleep(), FakeDatetime.now()
    try:
        raise ValueError(now_)
    except* ValueError as error:
        caught = error
    match items:
        case [input, *_]:
            first = input
        case _:
            first = -1

    def twice(sleep: int) -> int:
        return sleep * 2

    return [
        *(later, parsed, today, words, source, number, chosen, moment, ids, path, zone, own),
        *(caught, first, twice(1), ast.literal_eval("1")),
        [time for time in items],  # noqa: C416
        {open: 1 for open in items},  # noqa: C420
    ]


def test_ordinary_code_may_stay() -> None:
    check_definition(ordinary, what="workflow w")


def test_names_that_are_not_bound_yet_are_no_concern() -> None:
    async def workflow() -> Any:
        return defined_later(), undefined_global.open()  # type: ignore[name-defined] # noqa: F821

    check_definition(workflow, what="workflow w")

    def defined_later() -> int:
        return 1


def test_a_shadowed_builtin_is_the_users() -> None:
    names: dict[str, Any] = {}
    exec("def open(x): return x\nasync def w(): return open(1)", names)
    check_definition(names["w"], what="workflow w")


def test_what_has_no_bytecode_is_no_concern() -> None:
    check_definition(len, what="workflow w")
    check_definition(functools.partial(uses_open), what="workflow w")


def test_a_side_effect_may_do_as_it_likes() -> None:
    async def workflow(flag: bool) -> Any:
        def read() -> str:
            with open("x") as file:  # noqa: PTH123
                return file.read()

        first = await side_effect(lambda: datetime.now(UTC))
        second = await side_effect(clock)
        third = await side_effect(functools.partial(datetime.now, UTC))
        fourth = await side_effect(read)
        return first, second, third, fourth, [await side_effect(read) for _ in range(1)]

    check_definition(workflow, what="workflow w")


def test_what_stands_beside_a_side_effect_is_read() -> None:
    async def workflow() -> Any:
        def read() -> Any:
            return open("x")  # noqa: PTH123

        recorded = await side_effect(read)
        return recorded, clock(), read()

    text = problem(workflow)
    assert "`clock`" in text
    assert "`open`" in text


def test_the_handler_of_a_query_may_look_at_the_clock() -> None:
    async def workflow() -> Any:
        @status.handler
        def _() -> str:
            return datetime.now(UTC).isoformat()

        return None

    check_definition(workflow, what="workflow w")


def test_guards_bound_by_a_late_import_are_fine() -> None:
    guard.install()
    names: dict[str, Any] = {}
    exec(
        "from time import time, sleep\nfrom random import choice\nfrom os import urandom\n"
        "async def good(): return time(), choice([1]), urandom(1)\n"
        "async def bad(): sleep(1)",
        names,
    )
    check_definition(names["good"], what="workflow w")
    assert "asyncio.sleep" in problem(names["bad"])
    check_definition(ordinary, what="workflow w")
    assert "`time.sleep`" in problem(uses_time_sleep)


def test_an_import_inside_the_workflow_gets_the_guards() -> None:
    async def workflow() -> Any:
        from random import choice
        from time import time

        return time(), choice([1])

    check_definition(workflow, what="workflow w")


def test_the_bytecode_of_later_pythons_is_understood() -> None:
    """Python 3.13 pairs loads and stores of locals in one instruction."""
    paired = vars(_purity)["_fast_names"]

    class Step:
        opname = "STORE_FAST_LOAD_FAST"
        argval = ("a", "b")

    assert paired(Step, "STORE") == ["a"]
    assert paired(Step, "LOAD") == ["b"]
    Step.opname = "LOAD_FAST_BORROW_LOAD_FAST_BORROW"
    assert paired(Step, "LOAD") == ["a", "b"]
    assert builtins.open is io.open
