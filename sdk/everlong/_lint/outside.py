"""EV003 to EV005 and EV102: clocks, chance, files, threads and other things that are not the run's.

The guards see most of it while the code runs; this sees it before, and what goes past the guards:
originals that a module bound early, and the clocks of `datetime`.
"""

import ast
from collections.abc import Iterator
from typing import Final

from everlong._lint.modules import Library
from everlong._lint.reach import Code

__all__ = ["blocking_calls", "clocks", "outside_world", "process_values"]

_ALWAYS: Final = frozenset(
    {
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
        *(f"uuid.{name}" for name in ("uuid1", "uuid6", "uuid7", "getnode")),
    }
)
"""Nothing can stand before these, however they are bound."""
_EARLY: Final = frozenset(
    {
        *(
            f"time.{clock}{unit}"
            for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time")
            for unit in ("", "_ns")
        ),
        *(f"time.{name}" for name in ("localtime", "gmtime", "ctime", "strftime")),
        "os.urandom",
        "os.getrandom",
        *(
            f"random.{name}"
            for name in (
                "betavariate",
                "choice",
                "choices",
                "expovariate",
                "gauss",
                "getrandbits",
                "normalvariate",
                "randbytes",
                "randint",
                "random",
                "randrange",
                "sample",
                "shuffle",
                "triangular",
                "uniform",
            )
        ),
    }
)
"""Guarded in their modules; a from-import that ran before the guards stood is not."""
_NUMPY: Final = "numpy.random."

_BLOCKING: Final = frozenset(
    {
        "time.sleep",
        "os.system",
        "os.popen",
        "sqlite3.connect",
        "socket.create_connection",
        "socket.getaddrinfo",
        "urllib.request.urlopen",
        "urllib.request.urlretrieve",
        *(
            f"subprocess.{name}"
            for name in ("run", "call", "check_call", "check_output", "getoutput")
        ),
        *(
            f"{client}.{verb}"
            for client in ("requests", "httpx")
            for verb in ("get", "post", "put", "patch", "delete", "head", "options", "request")
        ),
        "requests.Session",
        "httpx.Client",
        "httpx.stream",
        "psycopg.connect",
        "psycopg2.connect",
        "pymysql.connect",
        "boto3.client",
        "boto3.resource",
        "builtins.input",
    }
)
_OUTSIDE: Final = _BLOCKING | {
    "builtins.open",
    "subprocess.Popen",
    "httpx.AsyncClient",
    "aiohttp.ClientSession",
    "aiohttp.request",
    "asyncio.to_thread",
    "asyncio.open_connection",
    "asyncio.start_server",
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
    "anyio.to_thread.run_sync",
    "anyio.open_file",
    "anyio.run_process",
    "aiofiles.open",
    "socket.socket",
    "threading.Thread",
    "threading.Timer",
    "multiprocessing.Process",
    "multiprocessing.Pool",
    "concurrent.futures.ThreadPoolExecutor",
    "concurrent.futures.ProcessPoolExecutor",
}
_OF_A_PATH: Final = frozenset(
    {"read_text", "read_bytes", "write_text", "write_bytes", "open", "iterdir", "unlink", "mkdir"}
)
_ENVIRONMENT: Final = frozenset({"os.environ", "os.environb", "os.getenv", "os.getpid"})
_ADDRESSES: Final = {
    "builtins.id": "`id()` is a memory address",
    "builtins.hash": "`hash()` of a text differs between processes",
}


def clocks(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """EV003: names of clocks and of chance, called or handed on."""
    for node, found in _libraries(code):
        dotted = found.dotted
        if dotted in _ALWAYS:
            yield node, f"`{ast.unparse(node)}` gives another answer on replay"
        elif found.early and dotted in _EARLY:
            module, _, name = dotted.rpartition(".")
            told = f"`from {module} import {name}` bound the original"
            yield node, f"{told}, which gives another answer on replay"
        elif dotted.startswith(_NUMPY) and _is_called(node, code) and not _is_seeded(node, code):
            yield node, f"`{ast.unparse(node)}` gives another answer on replay"


def outside_world(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """EV004: what a workflow may not touch."""
    for node, found in _libraries(code):
        if found.dotted in _OUTSIDE and _is_called(node, code):
            yield node, f"`{ast.unparse(node)}()` is refused in a workflow"
    for inner in code.nodes():
        match inner:
            case ast.Call(ast.Attribute(ast.Call(made), method)) if method in _OF_A_PATH:
                meaning = code.scope.meaning(made)
                if isinstance(meaning, Library) and meaning.dotted == "pathlib.Path":
                    yield inner, f"`Path(…).{method}()` is refused in a workflow"
            case ast.Call(ast.Attribute(attr="run_in_executor")):
                yield inner, "`run_in_executor()` is refused in a workflow"
            case _:
                pass


def process_values(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """EV005: the environment, and what depends on addresses and hash seeds."""
    for node, found in _libraries(code):
        if found.dotted in _ENVIRONMENT:
            yield node, f"`{ast.unparse(node)}` may differ where the run is replayed"
        elif found.dotted in _ADDRESSES and _is_called(node, code):
            yield node, f"{_ADDRESSES[found.dotted]}, another one where the run is replayed"


def blocking_calls(code: Code) -> Iterator[tuple[ast.AST, str]]:
    """EV102: calls that keep the worker's loop from everything else."""
    for node, found in _libraries(code):
        if found.dotted in _BLOCKING and _is_called(node, code):
            yield node, f"`{ast.unparse(node)}()` blocks the worker and all its runs"


def _libraries(code: Code) -> Iterator[tuple[ast.Name | ast.Attribute, Library]]:
    """The longest chains of attributes that lead to something of a library."""
    for node in code.nodes():
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            meaning = code.scope.meaning(node)
            if isinstance(meaning, Library):
                yield node, meaning


def _is_called(node: ast.AST, code: Code) -> bool:
    parent = code.module.parents.get(node)
    return isinstance(parent, ast.Call) and parent.func is node


def _is_seeded(node: ast.AST, code: Code) -> bool:
    parent = code.module.parents.get(node)
    name = node.attr if isinstance(node, ast.Attribute) else ""
    makes = name in ("default_rng", "RandomState", "Generator", "PCG64", "SeedSequence")
    return makes and isinstance(parent, ast.Call) and bool(parent.args or parent.keywords)
