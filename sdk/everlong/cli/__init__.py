"""The command `everlong`. Only this package imports typer and rich.

`_app` puts the commands together; each command is one file; `_exits` is the table of exit codes.
What commands print for people goes through `_screen`, which makes data harmless (`_neutral`); what
they print for programs goes through `_documents`.
"""

from everlong.cli._app import app, main

__all__ = ["app", "main"]
