"""Loads definitions from what people type: `orders.py`, `orders.py:order`, `shop.orders:order`.

A file becomes the module of its stem, with its folder on `sys.path`: so the processes of a pool can
import it by the same name, and its neighbours are found as when it is run as a script. The current
folder is on the path as well, as with `python -m`.
"""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from everlong.cli._exits import Mistake
from everlong.exceptions import EverlongError
from everlong.interceptors import Interceptor
from everlong.streams import Stream
from everlong.workflow import Workflow

__all__ = ["load", "load_interceptors", "load_stream", "load_workflow", "names_a_source"]


def names_a_source(target: str) -> bool:
    """Whether it says where a workflow is, and is not just its name."""
    return ":" in target or target.endswith(".py")


def load_workflow(target: str) -> Workflow[..., Any]:
    """The workflow of FILE:WORKFLOW or MODULE:WORKFLOW; of FILE if it has only one.

    Raises:
        Mistake: no such file, module or workflow; the message names those that there are.
    """
    source, name = _split(target)
    found = _workflows_of(load(source))
    there = ", ".join(f"{source}:{one.__name__}" for one in found)
    if not found:
        raise Mistake(f"{source} has no workflow: decorate an async function with @workflow")
    if not name:
        if len(found) > 1:
            raise Mistake(f"{source} has several workflows, so name one: {there}")
        return found[0]
    for one in found:
        if name in (one.__name__, one.definition.name):
            return one
    raise Mistake(f"{source} has no workflow {name!r}; there is {there}")


def load_interceptors(target: str | None) -> tuple[Interceptor, ...]:
    """Those of FILE:NAME, where NAME is one, or a list of them. Raises Mistake."""
    if target is None:
        return ()
    source, name = _split(target)
    found: Any = getattr(load(source), name, None) if name else None
    listed = (found,) if isinstance(found, Interceptor) else found
    if not isinstance(listed, list | tuple) or not all(
        isinstance(one, Interceptor) for one in cast("list[object]", listed)
    ):
        raise Mistake(
            f"--interceptors {target}: write FILE:NAME, where NAME is an Interceptor or a list of "
            "them"
        )
    return tuple(cast("list[Interceptor]", listed))


def load_stream(target: str) -> Stream[Any]:
    """That of FILE:NAME. Raises Mistake; the message names those that there are."""
    source, name = _split(target)
    module = load(source)
    streams: dict[str, Any] = {
        key: one for key, one in vars(module).items() if isinstance(one, Stream)
    }
    if name not in streams:
        there = [f"{source}:{key}" for key in streams]
        raise Mistake(
            f"{target} is no stream: write FILE:NAME of a Stream that is declared there; "
            f"{'there is ' + ', '.join(there) if there else f'{source} declares none'}"
        )
    found: Stream[Any] = streams[name]
    return found


def load(source: str) -> ModuleType:
    """Import a file or a module.

    Raises:
        Mistake: it is not there, cannot have that name, or raised while it was imported.
    """
    _put_on_path(Path.cwd())
    if not _is_file(source):
        return _imported(source, source)
    path = Path(source)
    if not path.is_file():
        raise Mistake(f"{source} is not there: give a Python file, or a module's name")
    stem = path.name.removesuffix(".py")
    if "." in stem:
        raise Mistake(f"{source}: a module's name has no dots; rename the file")
    _put_on_path(path.resolve().parent)
    module = _imported(stem, source)
    if module.__file__ is None or Path(module.__file__).resolve() != path.resolve():
        raise Mistake(
            f"{source} would be imported as {stem!r}, which is another module "
            f"({module.__file__ or 'built in'}); rename the file"
        )
    return module


def _split(target: str) -> tuple[str, str]:
    if target.endswith(".py"):
        return target, ""
    source, colon, name = target.rpartition(":")
    return (source, name) if colon else (target, "")


def _is_file(source: str) -> bool:
    return source.endswith(".py") or "/" in source


def _put_on_path(folder: Path) -> None:
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)


def _imported(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except EverlongError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Mistake(
                f"there is no module {name!r}: give a Python file (…/orders.py), or a module that "
                "can be imported from here"
            ) from error
        raise _not_imported(source, error) from error
    except (Exception, SystemExit) as error:
        raise _not_imported(source, error) from error


def _not_imported(source: str, error: BaseException) -> Mistake:
    what = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SystemExit):
        what += '. Put what a script does behind `if __name__ == "__main__":`'
    frames = traceback.extract_tb(error.__traceback__)
    # From the user's first line on; how it was imported helps nobody.
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    return Mistake(
        f"{source} cannot be imported: {what}", details="".join(traceback.format_list(own))
    )


def _workflows_of(module: ModuleType) -> list[Workflow[..., Any]]:
    """Those that it defines; those that it gathers from others if it defines none."""
    every: list[Workflow[..., Any]] = []
    for value in cast("list[object]", list(vars(module).values())):
        if isinstance(value, Workflow) and value not in every:
            every.append(cast("Workflow[..., Any]", value))
    return [one for one in every if one.__module__ == module.__name__] or every
