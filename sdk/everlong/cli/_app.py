"""The commands, put together, and `main`, which turns what happens into an exit code."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from everlong.cli._answers import complete, fail
from everlong.cli._approvals import approvals, approve, reject
from everlong.cli._bulk import bulk
from everlong.cli._count import count
from everlong.cli._debug import debug
from everlong.cli._doctor import doctor, installed
from everlong.cli._entities import entity_list, entity_show
from everlong.cli._errors import report
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._history import history
from everlong.cli._lint import lint
from everlong.cli._list import list_
from everlong.cli._messages import cancel, query, signal, terminate, update
from everlong.cli._metrics import metrics
from everlong.cli._migrate import migrate
from everlong.cli._move import move
from everlong.cli._outbox import (
    drop_from_outbox,
    list_outboxes,
    redrive_outbox,
    show_outbox,
)
from everlong.cli._pausing import pause, paused, resume
from everlong.cli._queues import limit, pools, queues, unlimit
from everlong.cli._replay import replay
from everlong.cli._reset import fork, reset
from everlong.cli._run import run
from everlong.cli._savepoints import delete_savepoint, savepoint, savepoints
from everlong.cli._screen import out
from everlong.cli._show import show
from everlong.cli._spread import spread
from everlong.cli._start import start
from everlong.cli._streams import dead_letters, drain, lag, parked, position, redrive, rewind
from everlong.cli._subscribe import subscribe
from everlong.cli._transfers import export, import_
from everlong.cli._verify import verify
from everlong.cli._versions import pin, unpin, versions
from everlong.cli._worker import worker
from everlong.cli._workers import workers

__all__ = ["COMMANDS", "app", "main"]

_RUN, _LOOK, _TALK, _CARE = "Run", "Look", "Talk to an execution", "Take care of the store"
_CODE = "Look at code"

COMMANDS: Final[dict[str, tuple[Callable[..., int], str]]] = {
    "run": (run, _RUN),
    "worker": (worker, _RUN),
    "start": (start, _RUN),
    "metrics": (metrics, _RUN),
    "replay": (replay, _LOOK),
    "debug": (debug, _LOOK),
    "list": (list_, _LOOK),
    "count": (count, _LOOK),
    "show": (show, _LOOK),
    "history": (history, _LOOK),
    "subscribe": (subscribe, _LOOK),
    "approvals": (approvals, _LOOK),
    "paused": (paused, _LOOK),
    "versions": (versions, _LOOK),
    "workers": (workers, _LOOK),
    "queues": (queues, _LOOK),
    "pools": (pools, _LOOK),
    "outbox list": (list_outboxes, _LOOK),
    "outbox show": (show_outbox, _LOOK),
    "outbox redrive": (redrive_outbox, _CARE),
    "outbox drop": (drop_from_outbox, _CARE),
    "limit": (limit, _LOOK),
    "unlimit": (unlimit, _LOOK),
    "approve": (approve, _TALK),
    "reject": (reject, _TALK),
    "signal": (signal, _TALK),
    "query": (query, _TALK),
    "update": (update, _TALK),
    "complete": (complete, _TALK),
    "fail": (fail, _TALK),
    "cancel": (cancel, _TALK),
    "terminate": (terminate, _TALK),
    "pause": (pause, _TALK),
    "resume": (resume, _TALK),
    "stream spread": (spread, _TALK),
    "stream position": (position, _TALK),
    "stream lag": (lag, _TALK),
    "stream rewind": (rewind, _TALK),
    "stream drain": (drain, _TALK),
    "stream dead-letters": (dead_letters, _TALK),
    "stream parked": (parked, _TALK),
    "stream redrive": (redrive, _TALK),
    "stream savepoint": (savepoint, _TALK),
    "stream savepoints": (savepoints, _TALK),
    "stream delete-savepoint": (delete_savepoint, _TALK),
    "entity show": (entity_show, _TALK),
    "entity list": (entity_list, _TALK),
    "bulk": (bulk, _TALK),
    "export": (export, _CARE),
    "import": (import_, _CARE),
    "move": (move, _CARE),
    "reset": (reset, _TALK),
    "fork": (fork, _TALK),
    "pin": (pin, _CARE),
    "unpin": (unpin, _CARE),
    "verify": (verify, _CARE),
    "migrate": (migrate, _CARE),
    "doctor": (doctor, _CARE),
    "lint": (lint, _CODE),
}

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="everlong",
    help="Durable execution for ordinary async Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
    epilog="The store is ./everlong.db unless --db or EVERLONG_URL names another.",
)
_GROUPS: Final = {
    "stream": typer.Typer(
        help="Flows that read a stream: how far they are, and what was set aside.",
        no_args_is_help=True,
        context_settings=_SETTINGS,
    ),
    "outbox": typer.Typer(
        help="Messages that wait for a broker, and those that one has refused.",
        no_args_is_help=True,
        context_settings=_SETTINGS,
    ),
    "entity": typer.Typer(
        help="Keyed entities: which keys there are, and the state of each.",
        no_args_is_help=True,
        context_settings=_SETTINGS,
    ),
}
_PANELS: Final = {"stream": _TALK, "outbox": _LOOK, "entity": _TALK}
for _name, (_function, _panel) in COMMANDS.items():
    _group, _, _own = _name.rpartition(" ")
    if _group:
        _GROUPS[_group].command(_own)(_function)
    else:
        app.command(_own, rich_help_panel=_panel)(_function)
for _name, _commands in _GROUPS.items():
    app.add_typer(_commands, name=_name, rich_help_panel=_PANELS[_name])

# Typer used to import click and now carries its own; what both raise for a wrong command line is
# reached through the one class that it exports.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def _print_version(wanted: bool) -> None:
    if wanted:
        out().say(f"everlong {installed('everlong')}")
        raise typer.Exit


@app.callback()
def _everlong(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point: runs a command and returns its exit code (see `ExitCode`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        code: object = app(args=given, prog_name="everlong", standalone_mode=False)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except _ClickError as error:
        message = _usage(error)
        # Without a message, the help has been printed.
        return report(Mistake(message), as_json=as_json) if message else ExitCode.USAGE
    except Exception as error:
        return report(error, as_json=as_json)
    return code if isinstance(code, int) else ExitCode.OK


def _usage(error: Exception) -> str:
    message = str(getattr(error, "format_message", lambda: error)()).strip()
    if not message:
        return ""
    command = getattr(getattr(error, "ctx", None), "command_path", "everlong")
    stop = "" if message.endswith(("?", ".")) else "."
    return f"{message}{stop} See {command} --help"
