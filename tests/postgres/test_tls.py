"""A server that proves who it is, with a certificate of the tests' own."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from everlong import Client, StoreError, Worker, workflow
from tests.support.command_line import everlong
from tests.support.postgres_server import lent_store, shared_server
from tests.support.tools import need
from tests.support.ways import Way, way_to


def authority(folder: Path, name: str) -> Path:
    """A certificate that signs others."""
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-days", "2", "-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key"),
        *("-out", f"{folder}/{name}.crt"),
    )
    return folder / f"{name}.crt"


def certified(folder: Path, by: str) -> tuple[Path, Path]:
    """A certificate for `localhost` alone, and its key."""
    key, request, made = (folder / f"server.{one}" for one in ("key", "csr", "crt"))
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(request)),
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", f"{folder}/{by}.crt"),
        *("-CAkey", f"{folder}/{by}.key", "-CAcreateserial", "-days", "2"),
        *("-extfile", f"{folder}/names", "-out", str(made)),
    )
    return made, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@dataclass
class Signed:
    """A server with TLS, the authority that has signed it, and one that has not."""

    way: Way
    database: str
    ours: Path
    another: Path

    def url(self, host: str = "localhost", **options: str) -> str:
        more = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
        return f"postgresql://everlong@{host}:{self.way.port}/{self.database}?{more}"


@pytest.fixture
async def signed(tmp_path: Path) -> AsyncIterator[Signed]:
    need("openssl")
    ours, another = authority(tmp_path, "ours"), authority(tmp_path, "another")
    certificate, key = certified(tmp_path, "ours")
    async with (
        lent_store(1024) as url,
        way_to(shared_server().port, certificate=certificate, key=key) as way,
    ):
        yield Signed(way, url.rpartition("/")[2], ours, another)


async def refused(url: str) -> str:
    """What a client is told that is not let in."""
    with pytest.raises(StoreError) as error:
        async with Client.connect(url):
            raise AssertionError("it was let in")
    return str(error.value)


async def test_a_server_that_proves_who_it_is_serves_over_tls(
    signed: Signed, tmp_path: Path
) -> None:
    @workflow
    async def over_tls() -> str:
        return "sealed"

    secure = signed.url(sslmode="verify-full", sslrootcert=str(signed.ours))
    async with Client.connect(secure) as client, Worker(client):
        assert await client.run(over_tls, id="t") == "sealed"
    assert signed.way.secured >= 3, "the one that writes, the one that looks, and the hints"
    done = await asyncio.to_thread(everlong, "list", "--db", secure, folder=tmp_path)
    assert done.code == 0
    assert "over_tls" in done.out
    assert signed.way.plain == 0


async def test_a_server_that_another_has_signed_is_refused(signed: Signed, tmp_path: Path) -> None:
    wrong = signed.url(sslmode="verify-full", sslrootcert=str(signed.another))
    told = await refused(wrong)
    assert "certificate" in told
    assert "sslrootcert" in told
    done = await asyncio.to_thread(everlong, "list", "--db", wrong, folder=tmp_path)
    assert done.code == 3
    assert "sslrootcert" in done.err


async def test_a_server_with_another_name_is_refused(signed: Signed) -> None:
    told = await refused(
        signed.url("127.0.0.1", sslmode="verify-full", sslrootcert=str(signed.ours))
    )
    assert "certificate" in told
    assert "127.0.0.1" in told
    # Whoever asks for the signature alone gets in by any name.
    by_number = signed.url("127.0.0.1", sslmode="verify-ca", sslrootcert=str(signed.ours))
    async with Client.connect(by_number) as client:
        assert (await client.list()).items == []


async def test_an_authority_that_is_no_file_is_named(signed: Signed, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.crt")
    told = await refused(signed.url(sslmode="verify-full", sslrootcert=missing))
    assert missing in told
    broken = tmp_path / "broken.crt"
    broken.write_text("no certificate")
    assert "sslrootcert" in await refused(
        signed.url(sslmode="verify-full", sslrootcert=str(broken))
    )


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(signed: Signed) -> None:
    async with way_to(shared_server().port) as plain:
        bare = Signed(plain, signed.database, signed.ours, signed.another)
        told = await refused(bare.url(sslmode="verify-full", sslrootcert=str(signed.ours)))
        assert "TLS" in told
        assert "sslmode" in told
