"""The few lines that run a member, as text to copy."""

from __future__ import annotations

from shlex import quote

from edgehone.record import FileRecord, MemberRecord

RUNTIME_OF = {"tflite": "litert", "onnx": "onnxruntime"}


def python_lines(file: FileRecord) -> str:
    """Five lines of Python that run one file, from the study's folder, on a reading of zeros."""
    runtime = RUNTIME_OF.get(file.format, file.format)
    return (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from edgehone_agent.runtimes import RUNTIMES\n"
        f"model = RUNTIMES.get({runtime!r}).load(Path({file.path!r}))\n"
        "print(model.run(np.zeros(model.input.shape, model.input.dtype)))"
    )


def shell_line(file: FileRecord, original: MemberRecord) -> str:
    """A command that measures the file against the original's file of the same format, where there is one."""
    against = next((other.path for other in original.files if other.format == file.format), None)
    line = f"edgehone measure {quote(file.path)}"
    return f"{line} --against {quote(against)}" if against and against != file.path else line
