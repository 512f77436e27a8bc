"""The reference pages against the code."""

import inspect
import re
from pathlib import Path

import pytest

import everlong
import everlong.testing
from everlong import Client, Retry, Worker, activity
from everlong_engine import ActivityOptions, limits

REFERENCE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference"
DAY_US = 24 * 3600 * limits.SECOND_US


def table(page: str) -> dict[str, str]:
    """First column to second, over all tables of a page."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([\w.]+)`[^|]*\| ([^|]*?) \|", text, re.MULTILINE))


def shown(value: object) -> str:
    match value:
        case None | ():
            return "none"
        case bool():
            return "yes" if value else "no"
        case str():
            return f'"{value}"'
        case int():
            return f"{value:,}"
        case _:
            return f"{value:g}"


def limit_shown(name: str, value: float) -> str:
    if name.endswith("_US"):
        return shown(value / (DAY_US if value >= DAY_US else limits.SECOND_US))
    return shown(value)


def defaults_in_code() -> dict[str, str]:
    retry, options = Retry(), ActivityOptions()
    assert (options.delay_us, options.delay_max_us) == (1_000_000, 60_000_000)
    found = {f"Retry.{name}": shown(getattr(retry, name)) for name in Retry.__slots__}
    decorated = inspect.signature(inspect.unwrap(activity)).parameters
    for name in ("timeout", "schedule_to_close", "schedule_to_start", "heartbeat_timeout"):
        found[name] = shown(decorated[name].default)
    for name in ("at_most_once", "on_cancel", "queue", "key", "priority"):
        found[name] = shown(decorated[name].default)
    for owner, function, left_out in (
        ("Client", Client.connect, {"url", "retention"}),
        ("Worker", Worker.__init__, {"workflows", "activities", "name", "cache_size"}),
    ):
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not inspect.Parameter.empty and name not in left_out:
                found[f"{owner}.{name}"] = shown(parameter.default)
    for name, value in vars(limits).items():
        if name.isupper() and name != "SECOND_US":
            found[name] = limit_shown(name, value)
    return found


def test_every_default_is_in_the_table_as_it_is_in_the_code() -> None:
    assert table("defaults.md") == defaults_in_code()


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    public = [*everlong.__all__, *everlong.testing.__all__]
    assert [name for name in public if not re.search(rf"`{name}[`s]", text)] == []


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in everlong.__all__
        if inspect.isclass(kind := getattr(everlong, name)) and issubclass(kind, Exception)
    ],
)
def test_every_exception_is_on_the_page_of_errors(name: str) -> None:
    assert f"`{name}`" in (REFERENCE / "errors.md").read_text(encoding="utf-8")
