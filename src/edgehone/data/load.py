"""Find a task by its name or in the user's own file.

    load_task("digits")                 a built-in task, or one that an installed package offers
    load_task("my_task.py")             the one task of that file
    load_task("my_task.py:gestures")    the task called so, or what the function called so returns

The file runs as a script would: with your rights, its folder on the import path. Only load files you trust.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from edgehone.errors import EdgehoneError, PluginError, TaskError
from edgehone.plugins import Registry
from edgehone.task import Task

BUILTIN: Registry[Callable[[], Task]] = Registry("task", package="edgehone.data.builtin", group="edgehone.tasks")


def load_task(spec: str) -> Task:
    """Load a task.

    Args:
        spec: a built-in name, or the path of a Python file, optionally with ":name".

    Raises:
        TaskError: no such name or file, a syntax error, an exception in the file, or not exactly one task in it.
        DataError: the data of a built-in task cannot be had.
    """
    path, _, name = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    if path.endswith(".py") or "/" in path or "\\" in path:
        return _from_file(Path(path), name)
    try:
        factory = BUILTIN.get(spec)
    except PluginError as error:
        do = "; ".join(filter(None, (error.do, "or give the path of a file: my_task.py")))
        raise TaskError(error.what, where=error.where, do=do) from error
    return _call(factory, f"task {spec!r}", None)


def _from_file(path: Path, name: str) -> Task:
    where = str(path)
    if not path.is_file():
        raise TaskError("there is no such file", where=where, do="check the path")
    if path.suffix != ".py":
        raise TaskError("a task is a Python file", where=where, do="write one that defines task = Task(...)")
    found = vars(_execute(path.resolve(), where))
    if name:
        if name not in found:
            raise TaskError(f"the file defines no {name!r}", where=where, do=_offer(found))
        return _resolve(found[name], name, path)
    tasks = _tasks(found)
    if len(tasks) > 1:
        raise TaskError(f"the file defines {len(tasks)} tasks", where=where, do=_offer(found))
    if tasks:
        return next(iter(tasks.values()))
    if "task" in found:
        return _resolve(found["task"], "task", path)
    raise TaskError("the file defines no task", where=where, do="write task = Task(name=..., network=..., ...)")


def _execute(path: Path, where: str) -> ModuleType:
    """Run the file as a module of its own; it stays importable, because networks look up their source."""
    name = f"edgehone_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskError("the file cannot be loaded", where=where, do="give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        place = f"{error.filename or where}, line {error.lineno}"
        line = (error.text or "").strip()
        raise TaskError(f"syntax error: {error.msg}" + (f" in {line!r}" if line else ""), where=place) from error
    except UnicodeDecodeError as error:
        raise TaskError(f"the file is no text: {error.reason}", where=where, do="save it as UTF-8") from error
    except EdgehoneError:
        raise
    except (Exception, SystemExit) as error:
        raise _raised(error, path, where) from error
    return module


def _resolve(value: object, name: str, path: Path) -> Task:
    if isinstance(value, Task):
        return value
    if callable(value):
        return _call(value, f"{path}:{name}", path.resolve())
    do = "let it be a Task or a function that returns one"
    raise TaskError(f"{name!r} is a {type(value).__name__}, not a task", where=str(path), do=do)


def _call(factory: Callable[[], object], where: str, path: Path | None) -> Task:
    try:
        made = factory()
    except EdgehoneError:
        raise
    except (Exception, SystemExit) as error:
        raise _raised(error, path, where) from error
    if not isinstance(made, Task):
        raise TaskError(
            f"the function returned a {type(made).__name__}, not a Task", where=where, do="return Task(...)"
        )
    return made


def _raised(error: BaseException, path: Path | None, where: str) -> TaskError:
    """The error to show for an exception out of a user's file, with the last line of that file it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if path is not None and frame.filename == str(path)]
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if not inside:
        return TaskError(what, where=where)
    line = f"{inside[-1].line!r} raised {what}" if inside[-1].line else f"raised {what}"
    return TaskError(line, where=f"{where}, line {inside[-1].lineno}", do="run the file with python to see more")


def _tasks(found: dict[str, object]) -> dict[str, Task]:
    """The distinct tasks among a file's names."""
    tasks: dict[int, tuple[str, Task]] = {}
    for name, value in found.items():
        if isinstance(value, Task) and not name.startswith("_"):
            tasks.setdefault(id(value), (name, value))
    return dict(tasks.values())


def _offer(found: dict[str, object]) -> str:
    names = list(_tasks(found))
    return f"choose one: my_task.py:{names[0]} (there are {', '.join(names)})" if names else "define task = Task(...)"
