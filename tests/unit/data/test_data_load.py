"""Tasks by name and from files."""

from pathlib import Path

import pytest

from edgehone.data import load_task
from edgehone.errors import DataError, TaskError

HEAD = "from torch import nn\nfrom edgehone import Task\n\n"
ONE = "Task(name='{0}', network=nn.Linear(2, 2), train='a.csv', test='b.csv')"


def write(folder: Path, body: str, name: str = "my_task.py") -> str:
    (folder / name).write_text(HEAD + body)
    return str(folder / name)


def refused(spec: str, kind: type = TaskError) -> TaskError:
    with pytest.raises(kind) as caught:
        load_task(spec)
    return caught.value


def test_the_only_task_of_a_file_is_taken_under_any_name(tmp_path: Path) -> None:
    assert load_task(write(tmp_path, f"gestures = {ONE.format('g')}\nagain = gestures\n")).name == "g"


def test_a_name_picks_a_task_or_calls_a_function(tmp_path: Path) -> None:
    body = f"a = {ONE.format('a')}\nb = {ONE.format('b')}\ndef c():\n    return {ONE.format('c')}\n"
    spec = write(tmp_path, body)
    assert [load_task(f"{spec}:{name}").name for name in "abc"] == ["a", "b", "c"]


def test_a_function_called_task_is_found(tmp_path: Path) -> None:
    assert load_task(write(tmp_path, f"def task():\n    return {ONE.format('f')}\n")).name == "f"


def test_neighbours_can_be_imported_and_main_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "my_neighbour.py").write_text("NAME = 'n'\n")
    body = "import my_neighbour\n" + ONE.replace("'{0}'", "my_neighbour.NAME").join(("task = ", "\n"))
    assert load_task(write(tmp_path, body + "if __name__ == '__main__':\n    raise SystemExit(9)\n")).name == "n"


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
    specs = [write(tmp_path / folder, f"task = {ONE.format(folder)}\n") for folder in ("p", "q")]
    assert [load_task(spec).name for spec in specs] == ["p", "q"]


def test_missing_file() -> None:
    error = refused("nowhere/my_task.py")
    assert "no such file" in error.what and error.where == "nowhere/my_task.py"
    assert "no such file" in refused("nowhere/task").what


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "task.txt").write_text("")
    assert "Python file" in refused(str(tmp_path / "task.txt")).what


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in refused(str(tmp_path)).what


def test_an_unknown_name() -> None:
    error = refused("no-such-task")
    assert "digits" in error.do and "fashion-mnist" in error.do and "my_task.py" in error.do


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "x = 1\ntask = Task(\n"))
    assert "syntax error" in error.what
    assert error.where.endswith("my_task.py, line 5")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_bytes(b"x = '\xff\xfe'\n")
    assert "my_task.py" in refused(str(tmp_path / "my_task.py")).where
    (tmp_path / "my_task.py").write_bytes(b"x = 1\0\n")
    assert "syntax error" in refused(str(tmp_path / "my_task.py")).what


def test_an_exception_has_the_line_of_the_user(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "import json\n\nvalues = json.loads('{')\n"))
    assert "json.loads('{')" in error.what and "JSONDecodeError" in error.what
    assert error.where.endswith("my_task.py, line 6")


def test_an_exception_in_the_function(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "def task():\n    return 1 / 0\n"))
    assert "ZeroDivisionError" in error.what and error.where.endswith("line 5")


def test_a_missing_package_and_an_exit(tmp_path: Path) -> None:
    assert "ModuleNotFoundError" in refused(write(tmp_path, "import no_such_package\n")).what
    assert "SystemExit" in refused(write(tmp_path, "raise SystemExit(3)\n")).what


def test_errors_of_edgehone_stay_what_they_are(tmp_path: Path) -> None:
    body = "from edgehone.errors import DataError\nraise DataError('spilt', where='milk')\n"
    assert refused(write(tmp_path, body), DataError).where == "milk"


def test_no_task_and_several(tmp_path: Path) -> None:
    assert "no task" in refused(write(tmp_path, "x = 1\n")).what
    error = refused(write(tmp_path, f"a = {ONE.format('a')}\nb = {ONE.format('b')}\n"))
    assert "2 tasks" in error.what and "my_task.py:a" in error.do and "a, b" in error.do


def test_a_name_that_is_no_task(tmp_path: Path) -> None:
    spec = write(tmp_path, f"a = {ONE.format('a')}\nx = 1\ndef f():\n    return 2\ndef g(y):\n    return y\n")
    assert "no 'z'" in refused(f"{spec}:z").what
    assert "'x' is a int" in refused(f"{spec}:x").what
    assert "returned a int" in refused(f"{spec}:f").what
    assert "TypeError" in refused(f"{spec}:g").what
