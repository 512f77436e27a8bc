"""The pytest plugin of Everlong: the fixture `everlong_env`, and the modes for a whole run.

pytest imports it in every run, for whoever has Everlong installed. So it imports nothing of
Everlong before a test, or an option, asks for it; that is also why it is a package of its own.
The fixture works with pytest-asyncio and with anyio's plugin, on the event loop of its test.

    async def test_a_month_passes(everlong_env: Environment) -> None:
        assert await everlong_env.client.run(subscription) == "ended"
"""

from contextlib import ExitStack
from typing import Any, Final

import pytest

__all__ = ["everlong_env", "everlong_options"]

_MODES: Final = {
    "always_replay": "replay every history in fresh code behind each of its inputs",
    "amnesia": "begin anew at each checkpoint that may, so that forgotten state shows",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option and one ini setting for each mode."""
    group = parser.getgroup("everlong", "durable workflows (Everlong)")
    for mode, what in _MODES.items():
        option = f"--everlong-{mode.replace('_', '-')}"
        group.addoption(option, action="store_true", default=False, help=f"workflows: {what}")
        parser.addini(f"everlong_{mode}", f"workflows: {what}", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Put the chosen modes in force, and bring the fixture for the async plugin that is there."""
    chosen = [
        mode
        for mode in _MODES
        if config.getoption(f"everlong_{mode}") or config.getini(f"everlong_{mode}")
    ]
    if chosen:
        from everlong import testing

        stack = ExitStack()
        for mode in chosen:
            stack.enter_context(getattr(testing, mode)())
        config.add_cleanup(stack.close)
    if config.pluginmanager.hasplugin("asyncio"):
        from everlong_pytest import _asyncio

        config.pluginmanager.register(_asyncio, "everlong_asyncio")


@pytest.fixture
def everlong_options() -> dict[str, Any]:
    """What `everlong_env` is made with; override it in a conftest, a module or a class.

    @pytest.fixture
    def everlong_options() -> dict[str, Any]:
        return {"workflows": [order], "fakes_only": True}
    """
    return {}


@pytest.fixture
def everlong_env(request: pytest.FixtureRequest) -> Any:
    """An open `everlong.testing.Environment`, of this test alone."""
    if "anyio_backend" in request.fixturenames:
        return request.getfixturevalue("_everlong_env_of_anyio")
    config = request.config
    if not config.pluginmanager.hasplugin("asyncio"):
        raise pytest.UsageError(
            "everlong_env needs an event loop: install pytest-asyncio, or mark the test with "
            "pytest.mark.anyio"
        )
    marker = request.node.get_closest_marker("asyncio")
    scope = (None if marker is None else marker.kwargs.get("loop_scope")) or config.getini(
        "asyncio_default_test_loop_scope"
    )
    return request.getfixturevalue(f"_everlong_env_of_{scope}")


@pytest.fixture(name="_everlong_env_of_anyio")
async def _of_anyio(everlong_options: dict[str, Any]) -> Any:
    from everlong.testing import Environment

    async with Environment(**everlong_options) as env:
        yield env
