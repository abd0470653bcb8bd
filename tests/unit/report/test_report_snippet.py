"""The lines to copy are Python that runs."""

from __future__ import annotations

import ast
import shlex

from edgehone.record import FileRecord
from edgehone.report import snippet
from edgehone.testing.records import example_record


def test_the_lines_are_five_and_python() -> None:
    for file in example_record().members[0].files:
        lines = snippet.python_lines(file)
        assert len(lines.splitlines()) == 5
        names = {node.value for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Constant)}
        assert names == {snippet.RUNTIME_OF[file.format], file.path}


def test_the_lines_run_on_a_runtime_that_ships() -> None:
    from edgehone_agent.runtimes import RUNTIMES

    assert set(snippet.RUNTIME_OF.values()) <= set(RUNTIMES.names())


def test_a_path_with_quotes_is_still_python() -> None:
    ast.parse(snippet.python_lines(FileRecord("a'b\"c.tflite", "tflite", 1, 1, "0")))


def test_measuring_compares_with_the_original_in_the_same_format() -> None:
    study = example_record()
    lines = [snippet.shell_line(file, study.original) for file in study.members[0].files]
    assert lines[1] == "edgehone measure members/int8/model.onnx --against original/model.onnx"
    assert snippet.shell_line(study.original.files[0], study.original) == "edgehone measure original/model.tflite"
    odd = FileRecord("a folder/model.tflite", "tflite", 1, 1, "0")
    assert shlex.split(snippet.shell_line(odd, study.original))[2] == "a folder/model.tflite"
