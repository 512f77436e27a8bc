"""Options that several commands share, and how they open the store."""

from typing import Annotated

import typer

from everlong.cli._exits import Mistake
from everlong.client import Client

__all__ = [
    "DEFAULT_STORE",
    "Db",
    "Json",
    "Namespace",
    "WorkflowId",
    "connect",
]

DEFAULT_STORE = "everlong.db"

Db = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="EVERLONG_URL",
        metavar="FILE",
        help="The store: a file's path, or sqlite:///path.",
        rich_help_panel="Store and output",
    ),
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


def connect(db: str, namespace: str, *, create: bool = False) -> Client:
    """A client, not yet open. Commands that only look never make a file.

    Raises:
        Mistake: the URL makes no sense.
    """
    try:
        return Client.connect(db, namespace=namespace, create=create)
    except ValueError as error:
        raise Mistake(str(error)) from error
