"""Exceptions through a history: the same `except` branch is taken live, on replay, and anywhere."""

import asyncio
import builtins
import concurrent.futures
import datetime as dt
import sys
import threading
import traceback
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from everlong import _failures, exceptions
from everlong._failures import (
    CHAIN_MAX,
    DATA_BYTES_MAX,
    MEMBERS_MAX,
    ExceptionRegistry,
    decode_failure,
    encode_exception,
)
from everlong._values import Value
from everlong.exceptions import (
    ActivityError,
    ActivityLost,
    ActivityTimeout,
    ApplicationError,
    DefinitionError,
    EverlongError,
    NondeterminismError,
    NotSerializable,
    UndecodablePayload,
    UnregisteredException,
    WorkflowFault,
)
from everlong_engine.model.failure import MESSAGE_CHARS_MAX, TRACEBACK_CHARS_MAX, Failure, bounded
from everlong_engine.model.payload import pack, unpack


class PaymentDeclined(Exception):
    """Its constructor takes other things than end up in `args`."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"declined with {code}")
        self.code = code
        self.reason = reason


class CardExpired(PaymentDeclined):
    pass


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class Reducing(Exception):
    def __init__(self, lock: threading.Lock, name: str) -> None:
        super().__init__(lock)
        self.name = name

    def __everlong_reduce__(self) -> object:
        return {"name": self.name}

    @classmethod
    def __everlong_rebuild__(cls, data: dict[str, str]) -> "Reducing":
        return cls(threading.Lock(), data["name"])


class NotFound(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such order", path)
        self.order = path


class NewStyle(Exception):
    def __new__(cls, *, only_keywords: int = 1) -> "NewStyle":
        return super().__new__(cls, only_keywords)

    def __init__(self, *, only_keywords: int = 1) -> None:
        super().__init__(only_keywords)


BAD_SYNTAX: Any = ("bad", ["file.py", 3, 4, "x =", 3, 5])  # a tuple would come back as a list
REGISTRY = ExceptionRegistry([PaymentDeclined, Slotted, Reducing, NotFound, NewStyle])
NOTHING = ExceptionRegistry()


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def through(error: BaseException, registry: ExceptionRegistry = REGISTRY) -> Exception:
    failure = encode_exception(raised(error), registry)
    return decode_failure(Failure.from_wire(unpack(pack(failure.to_wire()))), registry)


def stored(error: BaseException, registry: ExceptionRegistry = REGISTRY) -> Failure:
    return encode_exception(raised(error), registry)


# ---------------------------------------------------------------------------------- round trips


def test_a_registered_exception_comes_back_without_calling_its_constructor() -> None:
    back = through(PaymentDeclined(51, reason="limit"))
    assert type(back) is PaymentDeclined
    assert (str(back), back.args) == ("declined with 51", ("declined with 51",))
    assert (back.code, back.reason) == (51, "limit")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 3, None),
        KeyError("x"),
        ZeroDivisionError(),
        TimeoutError("slow"),
        RecursionError("deep"),
        AssertionError({"a": [1]}),
        OSError(5, "input/output"),
        FileNotFoundError(2, "no", "orders.db"),
        FileNotFoundError(2, "no", "a", None, "b"),
        ConnectionResetError("reset"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        UnicodeEncodeError("ascii", "ü", 0, 1, "bad"),
        ImportError("no module", name="shop", path="/tmp"),
        NameError("no name", name="x"),
        AttributeError("no attribute", name="x"),
        SyntaxError(*BAD_SYNTAX),
    ],
    ids=repr,
)
def test_builtins_come_back_with_their_fields(error: Exception) -> None:
    back = through(error, NOTHING)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    fields = {"errno", "filename", "filename2", "name", "path", "object", "start", "lineno"}
    for name in fields & set(dir(error)):
        assert getattr(back, name) == getattr(error, name)


def test_every_builtin_exception_comes_back_or_is_never_rebuilt() -> None:
    never = {"StopIteration", "StopAsyncIteration"}
    for name, cls in vars(builtins).items():
        if not isinstance(cls, type) or not issubclass(cls, BaseException):
            continue
        try:
            error = cls("x")
        except TypeError:  # takes other arguments; tested above
            continue
        back = through(error, NOTHING)
        rebuilt = issubclass(cls, Exception) and name not in never
        assert type(back) is (cls if rebuilt else ActivityError), name


@given(
    st.lists(st.one_of(st.integers(), st.text(), st.none(), st.dates()), max_size=4),
    st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.floats(allow_nan=False)),
)
def test_arguments_and_attributes_come_back(args: list[Any], attributes: dict[str, float]) -> None:
    error = PaymentDeclined(1, reason="")
    error.args = tuple(args)
    error.__dict__.update(attributes)
    back = through(error)
    try:
        text = str(error)
    except Exception:
        return
    assert type(back) is PaymentDeclined
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert back.args == error.args
    assert attributes.items() <= vars(back).items()


def test_slots_come_back() -> None:
    back = through(Slotted(7))
    assert isinstance(back, Slotted)
    assert back.code == 7


def test_a_class_may_define_its_own_reduction() -> None:
    back = through(Reducing(threading.Lock(), "n"))
    assert isinstance(back, Reducing)
    assert back.name == "n"
    assert not hasattr(back, "__notes__")


def test_a_reduction_that_fails_falls_back_and_is_noted() -> None:
    error = Reducing(threading.Lock(), "n")
    error.__dict__["__everlong_reduce__"] = threading.Lock
    back = through(error)
    assert isinstance(back, Reducing)
    assert back.name == "n"
    assert "everlong stored this exception without what __everlong_reduce__" in notes(back)[0]


def test_a_rebuilding_that_fails_blocks_the_run() -> None:
    failure = stored(Reducing(threading.Lock(), "n"))
    data: Any = unpack(failure.data)
    data["own"] = {}
    broken = Failure(type=failure.type, message="", data=pack(data))
    with pytest.raises(UndecodablePayload, match="__everlong_rebuild__ raised KeyError: 'name'"):
        decode_failure(broken, REGISTRY)


def test_a_subclass_of_an_oserror_keeps_what_lies_outside_args() -> None:
    back = through(NotFound("orders/5"))
    assert isinstance(back, NotFound)
    assert (back.errno, back.filename, back.order) == (2, "orders/5", "orders/5")
    assert str(back) == "[Errno 2] no such order: 'orders/5'"


def test_a_constructor_with_odd_parameters_is_no_obstacle() -> None:
    back = through(NewStyle(only_keywords=3))
    assert (type(back), back.args) == (NewStyle, (3,))


def test_what_cannot_be_stored_is_left_out_and_noted() -> None:
    error = PaymentDeclined(1, reason="r")
    error.__dict__.update(lock=threading.Lock(), socket=object())
    error.args = ("a", threading.Lock(), "c")
    back = through(error)
    assert isinstance(back, PaymentDeclined)
    assert (back.reason, hasattr(back, "lock")) == ("r", False)
    assert (back.args[0], back.args[2]) == ("a", "c")
    assert back.args[1].startswith("<unlocked _thread.lock object")
    assert notes(back) == [
        "everlong stored this exception without args[1], of which only a text is left, its "
        "attribute lock, its attribute socket"
    ]


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def test_causes_contexts_and_notes_travel() -> None:
    inner = KeyError("inner")
    outer = PaymentDeclined(1, reason="r")
    outer.__cause__ = inner
    inner.__context__ = ValueError("innermost")
    outer.add_note("see the logs")
    back = through(outer)
    assert notes(back) == ["see the logs"]
    assert isinstance(back.__cause__, KeyError)
    assert back.__suppress_context__
    assert isinstance(back.__cause__.__context__, ValueError)
    assert not back.__cause__.__suppress_context__


def test_a_context_that_python_would_not_show_stays_behind() -> None:
    error = ValueError("x")
    error.__context__ = KeyError("hidden")
    error.__suppress_context__ = True
    assert through(error).__context__ is None


def test_chains_that_loop_and_chains_without_end_are_bounded() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    assert type(through(first).__cause__) is KeyError
    error = ValueError(0)
    for number in range(1, 1_000):
        outer = ValueError(number)
        outer.__cause__ = error
        error = outer
    back: BaseException | None = through(error)
    length = 0
    while back is not None:
        back, length = back.__cause__, length + 1
    assert length == CHAIN_MAX + 1


def test_groups_come_back_with_their_members() -> None:
    group = ExceptionGroup(
        "two", [ValueError(1), ExceptionGroup("one", [CardExpired(1, reason="r")])]
    )
    back: Any = through(group)
    assert type(back).__name__ == "ExceptionGroup"
    declined, rest = back.split(PaymentDeclined)
    assert type(declined.exceptions[0].exceptions[0]) is CardExpired
    assert [error.args for error in rest.exceptions] == [(1,)]
    assert (back.message, str(back)) == ("two", "two (2 sub-exceptions)")


def test_a_large_group_is_cut_and_says_so() -> None:
    back: Any = through(ExceptionGroup("many", [ValueError(n) for n in range(500)]))
    assert type(back).__name__ == "ExceptionGroup"
    assert len(back.exceptions) == MEMBERS_MAX - 1
    assert notes(back) == [
        "everlong stored this exception without 451 of 500 exceptions of the group"
    ]


def test_a_deep_group_is_cut() -> None:
    group: Any = ValueError("x")
    for _ in range(100):
        group = ExceptionGroup("deep", [group])
    assert isinstance(through(group), ExceptionGroup)


def test_a_group_of_base_exceptions_arrives_as_activity_error() -> None:
    back = through(BaseExceptionGroup("stop", [SystemExit(1), ValueError(2)]))
    assert type(back) is ActivityError
    assert back.type == "builtins.BaseExceptionGroup"


# ------------------------------------------------------------------------- what is never rebuilt


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError("stop"),
        StopIteration(1),
        StopAsyncIteration(),
        NondeterminismError(),
    ],
    ids=repr,
)
def test_what_steers_tasks_and_the_process_arrives_as_activity_error(error: BaseException) -> None:
    back = through(error)
    assert type(back) is ActivityError
    assert back.type.endswith(type(error).__name__)


@pytest.mark.parametrize(
    "cls", [SystemExit, asyncio.CancelledError, StopIteration, WorkflowFault, 3]
)
def test_registering_what_is_never_rebuilt_is_refused(cls: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^raises=\[.*\]: name subclasses of Exception"):
        ExceptionRegistry([cls])


def test_an_unregistered_exception_arrives_as_activity_error() -> None:
    back = through(PaymentDeclined(51, reason="limit"), NOTHING)
    assert type(back) is ActivityError
    assert back.type == f"{__name__}.PaymentDeclined"
    assert (back.message, back.details) == ("declined with 51", None)
    assert str(back) == f"{__name__}.PaymentDeclined: declined with 51"
    assert back.traceback.startswith("Traceback (most recent call last):\n")
    assert back.traceback.endswith("PaymentDeclined: declined with 51\n")


def test_an_unregistered_application_error_keeps_its_details() -> None:
    class Custom(ApplicationError):
        pass

    back = through(Custom("x", details={"code": 5}))
    assert isinstance(back, ActivityError)
    assert back.details == {"code": 5}


def test_its_cause_is_rebuilt_all_the_same() -> None:
    error = PaymentDeclined(1, reason="r")
    error.__cause__ = KeyError("k")
    assert type(through(error, NOTHING).__cause__) is KeyError


def test_a_class_registered_only_later_does_not_change_the_branch() -> None:
    failure = stored(PaymentDeclined(1, reason="r"), NOTHING)
    assert type(decode_failure(failure, REGISTRY)) is ActivityError


def test_a_class_that_is_no_longer_registered_blocks_the_run() -> None:
    failure = stored(PaymentDeclined(1, reason="r"))
    with pytest.raises(UnregisteredException) as caught:
        decode_failure(failure, NOTHING)
    assert isinstance(caught.value, WorkflowFault)
    assert str(caught.value) == (
        f"{__name__}.PaymentDeclined was registered when it was raised and is not now, so another "
        "`except` branch would be taken. Import its module in the worker, or name it in "
        "raises=[...]."
    )


def test_so_does_one_among_causes_and_members() -> None:
    cause = ValueError()
    cause.__cause__ = PaymentDeclined(1, reason="r")
    for error in (cause, ExceptionGroup("g", [PaymentDeclined(1, reason="r")])):
        with pytest.raises(UnregisteredException):
            decode_failure(stored(error), NOTHING)


def test_an_onlooker_without_the_code_sees_an_activity_error() -> None:
    back = decode_failure(stored(PaymentDeclined(1, reason="r")), NOTHING, strict=False)
    assert isinstance(back, ActivityError)
    assert back.type == f"{__name__}.PaymentDeclined"


def test_no_class_is_found_by_a_name_in_data() -> None:
    node = {"type": "subprocess.CalledProcessError", "message": "m", "rebuilt": True}
    with pytest.raises(UnregisteredException):
        decode_failure(Failure(type="x", message="", data=pack(node)), REGISTRY)
    node["type"] = "builtins.SystemExit"
    with pytest.raises(UnregisteredException):
        decode_failure(Failure(type="x", message="", data=pack(node)), REGISTRY)


@pytest.mark.parametrize(
    "node",
    [
        None,
        [],
        {"type": "builtins.ValueError"},
        {"type": "builtins.ValueError", "message": "", "rebuilt": True, "args": 5},
        {"type": "builtins.ValueError", "message": "", "rebuilt": True, "attributes": []},
        {"type": "builtins.ValueError", "message": "", "rebuilt": True, "cause": 5},
    ],
)
def test_damaged_data_is_undecodable(node: object) -> None:
    with pytest.raises(UndecodablePayload):
        decode_failure(Failure(type="x", message="", data=pack(node)), REGISTRY)


def test_hostile_attributes_reach_nothing() -> None:
    attributes = {"__class__": "x", "args": [1], "with_traceback": 3}
    node = {
        "type": "builtins.ValueError", "message": "", "rebuilt": True, "attributes": attributes,
    }  # fmt: skip
    back = decode_failure(Failure(type="x", message="", data=pack(node)), REGISTRY)
    assert type(back) is ValueError
    assert back.args == ()


def test_a_failure_that_the_engine_made_arrives_as_activity_error() -> None:
    back = decode_failure(Failure(type="Lost", message="gone", traceback="t"), REGISTRY)
    assert isinstance(back, ActivityError)
    assert (back.type, back.message, back.traceback) == ("Lost", "gone", "t")


# --------------------------------------------------------------------------------- the registry


def test_a_registered_class_brings_its_subclasses() -> None:
    back = through(CardExpired(1, reason="r"))
    assert type(back) is CardExpired
    fresh = ExceptionRegistry([PaymentDeclined])
    assert type(decode_failure(stored(CardExpired(1, reason="r")), fresh)) is CardExpired


def test_builtins_do_not_bring_theirs() -> None:
    class Private(ValueError):
        pass

    registry = ExceptionRegistry([ValueError, Exception])
    assert type(through(Private(), registry)) is ActivityError


def test_what_a_module_shows_is_registered_also_when_it_is_defined_later() -> None:
    module = ModuleType("shop")
    module.__dict__["imported"] = concurrent.futures.BrokenExecutor
    registry = ExceptionRegistry()
    registry.register_visible(module)
    assert registry.knows(concurrent.futures.BrokenExecutor)
    assert not registry.knows(PaymentDeclined)
    module.__dict__["PaymentDeclined"] = PaymentDeclined
    assert registry.knows(PaymentDeclined)
    assert type(through(CardExpired(1, reason="r"), registry)) is CardExpired
    module.__dict__["exit"] = SystemExit
    assert not registry.knows(SystemExit)


def test_this_module_shows_its_own_exceptions() -> None:
    registry = ExceptionRegistry()
    registry.register_visible(sys.modules[__name__])
    assert type(through(Slotted(1), registry)) is Slotted


def test_two_classes_of_one_name_are_not_mixed_up() -> None:
    def make() -> type[Exception]:
        class Local(Exception):
            pass

        return Local

    first, second = make(), make()
    assert type(through(second(), ExceptionRegistry([second]))) is second
    assert type(through(first(), ExceptionRegistry([second]))) is ActivityError


# ----------------------------------------------------------------------- everlong's own, and facts


@pytest.mark.parametrize(
    "error",
    [
        ActivityTimeout(kind="heartbeat"),
        ActivityLost(),
        ActivityError("x", type="a.B", details=[1], traceback="t"),
        ApplicationError("x", details={"a": 1}, next_delay=dt.timedelta(seconds=3)),
        NotSerializable(path="a.b", reason="r"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everlongs_errors_keep_their_facts(error: EverlongError) -> None:
    back = through(error, NOTHING)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_what_was_rebuilt_can_travel_again() -> None:
    once = through(PaymentDeclined(1, reason="r"), NOTHING)
    twice = through(once, NOTHING)
    assert vars(twice) == vars(once)
    assert str(twice) == str(once)


def test_an_application_error_tells_the_retry_policy() -> None:
    failure = stored(ApplicationError("x", retryable=False, next_delay=1.5))
    assert (failure.retryable, failure.next_delay_us) == (False, 1_500_000)
    assert (
        stored(ApplicationError("x", next_delay=dt.timedelta(minutes=1))).next_delay_us
        == 60_000_000
    )
    assert stored(ApplicationError("x", next_delay=-1)).next_delay_us is None
    failure = stored(ValueError())
    assert (failure.retryable, failure.next_delay_us) == (True, None)


def test_a_result_that_cannot_be_stored_is_not_retried() -> None:
    with pytest.raises(NotSerializable) as caught:
        Value(int, owner="the result of f").encode("x")
    assert not encode_exception(caught.value, REGISTRY).retryable


# ----------------------------------------------------------------------------- bounds and texts


def test_texts_are_bounded_and_keep_head_and_tail() -> None:
    text = bounded("a" * 10 + "b" * 50_000 + "c" * 10)
    assert len(text) == TRACEBACK_CHARS_MAX
    assert text.startswith("a" * 10)
    assert text.endswith("c" * 10)
    assert "… 33636 characters left out …" in text
    assert bounded("short") == "short"


def test_large_exceptions_shrink_to_their_message() -> None:
    error = PaymentDeclined(1, reason="r")
    error.args = ("x" * 1_000_000,)
    error.__dict__.update(blob=b"x" * 1_000_000)
    failure = stored(error)
    assert len(failure.data) < DATA_BYTES_MAX
    assert len(failure.message) == MESSAGE_CHARS_MAX
    assert len(failure.traceback) <= TRACEBACK_CHARS_MAX
    back = decode_failure(failure, REGISTRY)
    assert type(back) is PaymentDeclined
    assert notes(back) == [
        "everlong stored this exception without everything but its message, which together is too "
        "large"
    ]


def test_attributes_too_deep_together_shrink_too() -> None:
    deep: list[Any] = []
    for _ in range(62):
        deep = [deep]
    error = PaymentDeclined(1, reason="r")
    error.__dict__.update(deep=deep)
    assert type(through(error)) is PaymentDeclined


def test_exceptions_that_resist_are_stored_somehow() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    failure = stored(Mute(Mute()))
    assert failure.message == "(its text cannot be made: str() of it raises)"
    assert isinstance(decode_failure(failure, REGISTRY), ActivityError)


def test_half_surrogates_in_texts_can_be_stored() -> None:
    failure = stored(ValueError("\ud800"))
    assert Failure.from_wire(unpack(pack(failure.to_wire()))) == failure


def test_the_traceback_begins_with_the_users_code() -> None:
    namespace: dict[str, Any] = {}
    internal = str(_failures.__file__)
    exec(compile("def run(f): f()", internal, "exec"), namespace)

    def users_code() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here") as caught:
        namespace["run"](users_code)
    assert internal in "".join(traceback.format_exception(caught.value))
    trace = caught.value.__traceback__
    assert trace is not None
    failure = encode_exception(caught.value.with_traceback(trace.tb_next), REGISTRY)
    assert "in users_code" in failure.traceback
    assert internal not in failure.traceback


def test_a_wire_of_a_later_version_is_read_and_a_broken_one_refused() -> None:
    failure = stored(ValueError("x"))
    assert Failure.from_wire([*failure.to_wire(), "new"]) == failure
    for wire in (None, [], ["t"], [1, "m", "", b"", True, None], ["t", "m", "", b"", 1, None]):
        with pytest.raises(UndecodablePayload, match="it is not a failure"):
            Failure.from_wire(wire)


# ------------------------------------------------------------------------------------ the tree


def test_every_error_has_a_docstring_that_formats_as_its_message() -> None:
    for name in exceptions.__all__:
        cls = getattr(exceptions, name)
        assert issubclass(cls, EverlongError)
        text = str(cls())
        assert text
        assert "{" not in text
        assert "\n" not in text


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    doc = exceptions.__doc__ or ""
    for name in exceptions.__all__:
        assert f" {name}" in doc
    assert sorted(exceptions.__all__) == exceptions.__all__


def test_a_misspelt_fact_is_an_error() -> None:
    with pytest.raises(TypeError, match="ActivityTimeout has no fact named 'kin'"):
        ActivityTimeout(kin="heartbeat")
