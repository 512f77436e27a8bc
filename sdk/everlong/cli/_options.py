"""Options that several commands share, and how they open the store."""

from collections.abc import Sequence
from typing import Annotated

import typer

from everlong.cli._exits import Mistake
from everlong.client import Client
from everlong.codec import codecs_from_file
from everlong.interceptors import Interceptor

__all__ = [
    "DEFAULT_STORE",
    "Codecs",
    "Db",
    "Interceptors",
    "Json",
    "Namespace",
    "WorkflowId",
    "connect",
    "shown",
]

DEFAULT_STORE = "everlong.db"

Db = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="EVERLONG_URL",
        metavar="FILE",
        help="The store: a file's path, sqlite:///path, or postgresql://…",
        rich_help_panel="Store and output",
    ),
]
Codecs = Annotated[
    str | None,
    typer.Option(
        "--codecs",
        envvar="EVERLONG_CODECS",
        metavar="FILE",
        help="A TOML file with the keys of encrypted payloads.",
        rich_help_panel="Store and output",
    ),
]
Interceptors = Annotated[
    str | None,
    typer.Option(metavar="FILE:NAME", help="An interceptor, or a list of them, as workers have."),
]
Namespace = Annotated[
    str,
    typer.Option(
        help="Executions of other namespaces are not seen.", rich_help_panel="Store and output"
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON document instead of text.", rich_help_panel="Store and output"
    ),
]
WorkflowId = Annotated[str, typer.Argument(metavar="ID", help="The workflow id.")]


def shown(db: str) -> str:
    """A store's place without a password that a URL may have."""
    before, at, place = db.rpartition("@")
    if not at or "://" not in before:
        return db
    scheme, _, user = before.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{place}"


def connect(
    db: str,
    namespace: str,
    codecs: str | None,
    *,
    create: bool = False,
    interceptors: Sequence[Interceptor] = (),
) -> Client:
    """A client, not yet open. Commands that only look never make a file.

    Keys come out of a file, never out of an argument, which every process of the machine may read.

    Raises:
        Mistake: the URL, or the file with the codecs, makes no sense.
    """
    try:
        used = () if codecs is None else codecs_from_file(codecs)
        return Client.connect(
            db, namespace=namespace, create=create, codecs=used, interceptors=interceptors
        )
    except (ValueError, OSError, ImportError) as error:
        raise Mistake(str(error)) from error
