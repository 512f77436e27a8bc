"""pgbouncer in front of the tests' server, in transaction mode: each transaction may meet another
process of the server, and nothing of a session is kept."""

import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from os import geteuid
from pathlib import Path

from tests.support.postgres_server import free_port, shared_server
from tests.support.tools import need

__all__ = ["pooled"]

_START_TRIES = 500


@contextmanager
def pooled(url: str) -> Generator[str]:
    """The way to a database of the shared server through a pooler."""
    need("pgbouncer")
    server, port = shared_server(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="everlong-pooler-"))
    (folder / "users.txt").write_text('"everlong" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 4
"""
    )
    user = None
    if geteuid() == 0:  # It refuses to run as root, as the server does.
        user = pwd.getpwnam("nobody").pw_uid
        folder.chmod(0o755)
    process = subprocess.Popen(
        ["pgbouncer", "-q", str(folder / "pgbouncer.ini")],
        user=user,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(process, port)
        yield f"postgresql://everlong@127.0.0.1:{port}/{url.rpartition('/')[2]}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(_START_TRIES):
        assert process.poll() is None, "pgbouncer did not start"
        with socket.socket() as one:
            one.settimeout(1)
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)  # tidy: waits because a pooler that starts gives no signal
    raise AssertionError("pgbouncer does not listen")
