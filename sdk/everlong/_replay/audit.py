"""Refuses files, sockets and processes while workflow code runs.

CPython tells its audit hooks of every such call, whoever makes it and however it was imported, so
one hook sees what no replaced function could. A hook stays for the life of the process and hears of
everything, hence its order of tests: the name of the event, is any workflow driven, is it this
thread's, and only then who asks.

Not everything that opens a file does so for the workflow. A module that is imported, a traceback
that quotes its lines, a log handler, a debugger, a time zone, an object of someone else's that is
collected just now: these are excused by a look at the frames between the call and the drive.
"""

import inspect
import os
import sys
import threading
from asyncio.events import Handle
from types import FrameType
from typing import Any, Final, cast

from everlong._context import driving
from everlong._replay.asyncio_adapter import driven_loop

FILES: Final = (
    *("open", "glob.glob", "pathlib.Path.glob", "pathlib.Path.rglob", "fcntl.flock", "fcntl.lockf"),
    *("os.chdir", "os.chflags", "os.chmod", "os.chown", "os.getxattr", "os.link", "os.listdir"),
    *("os.listxattr", "os.lockf", "os.mkdir", "os.remove", "os.removexattr", "os.rename"),
    *("os.rmdir", "os.scandir", "os.setxattr", "os.symlink", "os.truncate", "os.utime"),
    *("os.walk", "os.fwalk", "shutil.chown", "shutil.copyfile", "shutil.copymode"),
    *("shutil.copystat", "shutil.copytree", "shutil.make_archive", "shutil.move", "shutil.rmtree"),
    *("shutil.unpack_archive", "tempfile.mkdtemp", "tempfile.mkstemp", "sqlite3.connect"),
)
NETWORK: Final = (
    *("socket.__new__", "socket.bind", "socket.connect", "socket.getaddrinfo"),
    *("socket.gethostbyaddr", "socket.gethostbyname", "socket.gethostname", "socket.getnameinfo"),
    *("socket.getservbyname", "socket.getservbyport", "socket.sendmsg", "socket.sendto"),
    *("urllib.Request", "http.client.connect", "http.client.send", "ftplib.connect"),
    *("ftplib.sendcmd", "imaplib.open", "imaplib.send", "poplib.connect", "poplib.putline"),
    *("smtplib.connect", "smtplib.send", "syslog.syslog"),
)
PROCESSES: Final = (
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"),
    *("os.spawn", "os.startfile", "os.startfile/2", "pty.spawn", "os.kill", "os.killpg"),
    *("signal.pthread_kill", "_thread.start_new_thread", "_thread.start_joinable_thread"),
    *("webbrowser.open", "ctypes.dlopen", "os.putenv", "os.unsetenv", "builtins.input"),
)
REFUSED: Final = frozenset({*FILES, *NETWORK, *PROCESSES})

# One entry for each of: imports; quoting of source lines; logging; time zones; debuggers, coverage
# and pytest's rewritten asserts. With all modules below them.
EXCUSED: Final = frozenset(
    {
        *("importlib", "_frozen_importlib", "_frozen_importlib_external", "zipimport", "pkgutil"),
        *("linecache", "tokenize", "traceback", "warnings", "logging"),
        *("zoneinfo", "tzdata", "pytz", "dateutil"),
        *("pdb", "bdb", "IPython", "ipdb", "pudb", "debugpy", "pydevd", "_pydevd_bundle"),
        *("_pydev_bundle", "coverage", "_pytest"),
    }
)
SHOWN_LENGTH_MAX: Final = 80
_TELLING: Final = (str, bytes, tuple, os.PathLike)

FIX: Final = """\
Workflow code is run again after every restart, so what touches the outside belongs in an \
activity, which is run once and recorded:

    @activity
    def read_prices(path: str) -> str:
        return Path(path).read_text()

    prices = await read_prices("prices.csv")      # in the workflow"""

# Workflow code is called from these modules (`run` closes its frames), or by a handle's own method.
_DRIVERS: Final = ("everlong._replay.loop", "everlong._replay.run")
_RUN_OF_A_HANDLE: Final = getattr(getattr(Handle, "_run", None), "__code__", None)
_installing: Final = threading.Lock()
_installed: Final[list[None]] = []


def install() -> None:
    """Add the hook, once: there is no way to take one away."""
    with _installing:
        if not _installed:
            _installed.append(None)
            sys.addaudithook(_refuse_the_outside)


def _refuse_the_outside(
    event: str,
    args: tuple[Any, ...],
    # Locals are quicker than globals, and still there while the interpreter shuts down.
    refused: frozenset[str] = REFUSED,
    driving: list[None] = driving,
) -> None:
    if event not in refused or not driving:
        return
    loop = driven_loop()
    if loop is None or (event == "open" and _is_time_zone(args[0])) or is_excused():
        return
    loop.forbid(_shown(event, args), FIX)


def _shown(event: str, args: tuple[object, ...]) -> str:
    """`open('prices.csv')`: the call with its first telling argument."""
    text = next((repr(cast(object, arg)) for arg in args if isinstance(arg, _TELLING)), "")
    if len(text) > SHOWN_LENGTH_MAX:
        text = f"{text[:SHOWN_LENGTH_MAX]}…"
    return f"{event.removeprefix('builtins.').removesuffix('.__new__')}({text})"


def _is_time_zone(path: object) -> bool:
    """zoneinfo, written in C, opens its files without a frame of its own."""
    zoneinfo = sys.modules.get("zoneinfo")
    return (
        zoneinfo is not None
        and isinstance(path, str)
        and path.startswith(tuple(os.path.join(folder, "") for folder in zoneinfo.TZPATH))  # noqa: PTH118
        and ".." not in path
    )


def is_excused() -> bool:
    """Whether something other than the workflow asks, from here up to the frame that drives it."""
    frame = inspect.currentframe()
    while frame is not None and not _drives(frame):
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module in EXCUSED or frame.f_code.co_name == "__del__" or _finalizes(frame):
            return True
        frame = frame.f_back
    return False


def _drives(frame: FrameType) -> bool:
    return frame.f_code is _RUN_OF_A_HANDLE or frame.f_globals.get("__name__") in _DRIVERS


def _finalizes(frame: FrameType) -> bool:
    return frame.f_code.co_name == "__call__" and frame.f_globals.get("__name__") == "weakref"
