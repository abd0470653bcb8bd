"""The shape of the code: sizes, cycles, heavy imports. What the layers may import is checked by import-linter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "agent" / "src").rglob("*.py"))
BUCKETS = {"utils", "common", "misc", "helpers", "manager", "handler", "engine"}


def test_files_are_short_and_mostly_small() -> None:
    lengths = sorted(len(file.read_text().splitlines()) for file in SOURCES)
    assert lengths[-1] <= 600
    assert lengths[len(lengths) // 2] <= 130


def test_functions_are_short() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in SOURCES
        if "migrations" not in file.parts  # a list of tables that never changes again
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 80
    ]
    assert long == []


def test_no_bucket_names() -> None:
    assert [file for file in SOURCES if file.stem.strip("_") in BUCKETS or file.parent.name in BUCKETS] == []


def test_every_module_says_what_it_is() -> None:
    assert [str(file) for file in SOURCES if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_no_import_cycles() -> None:
    modules = {_module(file): file for file in SOURCES}
    graph = {name: _imports(file, name, modules) for name, file in modules.items()}
    visiting: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        if name in done:
            return
        assert name not in visiting, "import cycle: " + " -> ".join([*visiting[visiting.index(name) :], name])
        visiting.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(visiting.pop())

    for name in graph:
        visit(name)


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT / ("agent/src" if "agent" in file.relative_to(ROOT).parts[:1] else "src")).parts
    return ".".join(parts).removesuffix(".py").removesuffix(".__init__")


def _imports(file: Path, name: str, modules: dict[str, Path]) -> set[str]:
    """Modules of ours that are imported when this one is (not those under TYPE_CHECKING or inside a function)."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules else node.module
                for alias in node.names
            }
    return {target for target in found if target in modules and target != name}


@pytest.mark.parametrize("command", [["-m", "edgehone.cli.main", "--help"], ["-c", "import edgehone"]])
def test_starts_without_heavy_modules(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "edgehone" in loaded
    assert not loaded & {
        "torch",
        "onnx",
        "onnxruntime",
        "scipy",
        "sklearn",
        "rich",
        "jinja2",
        "ai_edge_litert",
        "numpy",
    }


def test_the_node_imports_no_torch() -> None:
    modules = [_module(file) for file in SOURCES if "agent" in file.relative_to(ROOT).parts[:1]]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\nprint('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


BINARY = {".png", ".npz", ".bin", ".bundle", ".delta", ".sqlite"}


def test_the_repository_speaks_of_the_product_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    told = re.compile(r"\.\./shared|/work/|/root/|\bissue #?\d", re.IGNORECASE)
    places = []
    for name in tracked:
        path = ROOT / name
        if path == Path(__file__) or path.suffix in BINARY or not path.is_file():
            continue
        places += [f"{name}:{n}" for n, line in enumerate(path.read_text().splitlines(), 1) if told.search(line)]
    assert places == []
