"""The agent alone, installed into an empty environment: small, without torch, quick to start.

Sizes count the files of the installed packages without pip, numpy, the runtime and bytecode caches.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MAX_INSTALL_BYTES, MAX_MEMORY_BYTES, MAX_HELP_S = 25e6, 60e6, 0.3
NOT_OURS = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "numpy", "numpy.libs"}
LOAD_ALL = """
import importlib, pathlib, sys, edgehone_agent
folder = pathlib.Path(edgehone_agent.__file__).parent
for file in folder.rglob("*.py"):
    name = ".".join(("edgehone_agent", *file.relative_to(folder).with_suffix("").parts))
    if not name.endswith(("__main__", "mqtt", "probe")):
        importlib.import_module(name.removesuffix(".__init__"))
heavy = {"torch", "onnx", "scipy", "pandas", "sklearn", "ai_edge_litert", "onnxruntime"} & set(sys.modules)
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(int(status["VmHWM"].split()[0]) * 1024, *sorted(heavy))
"""


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the agent and what it asks for."""
    folder = tmp_path_factory.mktemp("lean") / "environment"
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    command = [*pip, "--constraint", ROOT / "constraints.txt", str(ROOT / "agent")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_it_is_small(lean: Path) -> None:
    (packages,) = (lean.parent / "lib").glob("python*/site-packages")
    sizes: dict[str, int] = {}
    for file in packages.rglob("*"):
        top = file.relative_to(packages).parts[0].split("-")[0]
        if file.is_file() and file.suffix != ".pyc" and top not in NOT_OURS:
            sizes[top] = sizes.get(top, 0) + file.stat().st_size
    assert "edgehone_agent" in sizes and sum(sizes.values()) <= MAX_INSTALL_BYTES, sizes


def test_all_of_it_loads_without_torch_and_in_little_memory(lean: Path) -> None:
    done = subprocess.run([lean / "python", "-c", LOAD_ALL], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    peak_bytes, *heavy = done.stdout.split()
    assert heavy == [] and int(peak_bytes) <= MAX_MEMORY_BYTES, done.stdout


def test_help_starts_without_what_only_serving_needs(lean: Path) -> None:
    script = "import sys; from edgehone_agent.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "print(sorted({'numpy', 'tuf', 'cryptography'} & set(sys.modules)))"
    done = subprocess.run([lean / "python", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert "edgehone-agent" in done.stdout


def test_a_missing_runtime_is_named(lean: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"whatever")
    script = f"from edgehone_agent.model import open_model; open_model({str(tmp_path / 'model.tflite')!r})"
    done = subprocess.run([lean / "python", "-c", script], capture_output=True, text=True, timeout=60)
    assert "MissingExtraError" in done.stderr and "edgehone-agent[litert]" in done.stderr


def test_it_runs_from_any_folder(lean: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [lean / "edgehone-agent", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 0 and sys.executable not in done.stdout
