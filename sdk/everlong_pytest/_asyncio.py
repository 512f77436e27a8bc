"""The fixture for pytest-asyncio: once for each scope that a test's event loop may have."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest_asyncio

__all__: list[str] = []


async def _open(everlong_options: dict[str, Any]) -> AsyncGenerator[Any, None]:
    from everlong.testing import Environment

    async with Environment(**everlong_options) as env:
        yield env


def _for_loop(scope: Any) -> Any:
    async def env(everlong_options: dict[str, Any]) -> AsyncGenerator[Any, None]:
        async for one in _open(everlong_options):
            yield one

    return pytest_asyncio.fixture(loop_scope=scope, name=f"_everlong_env_of_{scope}")(env)


_function = _for_loop("function")
_class = _for_loop("class")
_module = _for_loop("module")
_package = _for_loop("package")
_session = _for_loop("session")
