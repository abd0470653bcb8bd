"""`edgehone-agent predict`: ask a model of this node about the readings in a .npy file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgehone_agent.cli._terminal import add_json, add_state, say, say_json, say_table, state_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

help = "ask a model of this node about the readings in a .npy file"
examples = (
    "edgehone-agent predict reading.npy",
    "edgehone-agent predict readings.npy --task digits --top 3",
    "edgehone-agent predict reading.npy --state node --json",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="one reading or a batch, as numpy.save writes it")
    parser.add_argument("--task", metavar="NAME", help="which task; may be left out when the node has one")
    parser.add_argument("--top", type=int, default=0, metavar="K", help="show the K best labels of each answer")
    add_state(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the running agent, else load what the slot holds."""
    from edgehone_agent.cli._running import ask_socket
    from edgehone_agent.errors import InputError

    if args.top < 0:
        raise InputError(f"{args.top} labels cannot be shown", where="--top", do="give 0 or more")
    x = read_array(args.file)
    state = state_of(args)
    status = ask_socket(state, "GET", "/status")
    answer = _ask_slot(state, args.task, x, args.top) if status is None else _ask_agent(state, status, args, x)
    if args.json:
        say_json(answer)
    else:
        _show(answer)
    return 0


def read_array(file: Path) -> NDArray[np.float32]:
    """Numbers from a .npy file, as float32.

    Raises:
        InputError: no such file, or it holds no numbers. Pickled objects are refused.
    """
    import numpy as np

    from edgehone_agent.errors import InputError

    try:
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise ValueError("it holds no array of numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which every model refuses
            return array.astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"the readings cannot be read: {error}", where=str(file), do="write them with numpy.save"
        ) from error


def _ask_agent(state: Path, status: dict[str, Any], args: argparse.Namespace, x: NDArray[np.float32]) -> dict[str, Any]:
    """Over the socket, with the readings as binary data behind the JSON (Open Inference Protocol v2, extension)."""
    from edgehone_agent.cli._running import ask_socket
    from edgehone_agent.errors import StateError

    task = _only(tuple(status["tasks"]), args.task)
    path = f"/v2/models/{quote(task, safe='')}"
    model = ask_socket(state, "GET", path) or {}
    shape = list(model["inputs"][0]["shape"][1:])
    batch = x.reshape(1, *x.shape) if list(x.shape) == shape else x
    content = batch.tobytes()
    request = {
        "inputs": [
            {
                "name": model["inputs"][0]["name"],
                "shape": list(batch.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(content)},
            }
        ],
        "parameters": {"top_k": args.top},
    }
    head = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    found = ask_socket(state, "POST", f"{path}/infer", head + content, headers)
    if found is None:
        raise StateError("the agent has stopped", where=str(state), do="run the command again")
    outputs = {output["name"]: output for output in found["outputs"]}
    values = outputs[model["outputs"][0]["name"]]
    labels, scores = (outputs.get(name, {}).get("data", []) for name in ("top_labels", "top_scores"))
    rows = len(batch)
    width = len(labels) // rows if rows else 0
    pairs = list(zip(labels, scores, strict=True))
    return {
        "task": task,
        "id": found.get("id"),
        **found.get("parameters", {}),
        "shape": values["shape"],
        "values": values["data"],
        "top": [pairs[row * width : (row + 1) * width] for row in range(rows)],
    }


def _ask_slot(state: Path, task: str | None, x: NDArray[np.float32], top: int) -> dict[str, Any]:
    """Without an agent: load what the slot holds, ask it, and write nothing."""
    from edgehone_agent.errors import StateError
    from edgehone_agent.node import task_names
    from edgehone_agent.scores import is_classifier, probabilities, top_labels
    from edgehone_agent.slots import Slots

    name = _only(task_names(state), task)
    slots = Slots(state / "tasks" / name, name, is_writer=False)
    loaded = slots.load()
    if loaded is None:
        raise StateError(
            f"there is no model that answers{': ' + slots.fault if slots.fault else ''}",
            where=name,
            do="let an agent bring one: edgehone-agent run --help",
        )
    try:
        manifest = loaded.manifest
        batch = x[None] if x.shape == manifest.input.shape else x
        y = loaded.models[0].predict(batch)
    finally:
        loaded.close()
    wanted = top and is_classifier(manifest)
    are = None if loaded.card is None else loaded.card.probabilities
    return {
        "task": name,
        "digest": loaded.digest,
        "shape": list(y.shape),
        "values": y.ravel().tolist(),
        "top": top_labels(probabilities(y, are), manifest.labels, top) if wanted else [],
    }


def _only(known: tuple[str, ...], task: str | None) -> str:
    from edgehone_agent.errors import InputError

    if task is not None and task in known:
        return task
    if task is None and len(known) == 1:
        return known[0]
    raise InputError(
        f"there is no task {task!r} here" if task is not None else "name the task: this node has not one only",
        where="--task",
        do=f"this node has: {', '.join(known) or 'none yet'}",
    )


def _show(answer: dict[str, Any]) -> None:
    import numpy as np

    if any(answer["top"]):
        rows = [(row, label, f"{score:.3f}") for row, pairs in enumerate(answer["top"]) for label, score in pairs]
        say_table(("row", "label", "score"), rows)
        return
    say(np.array2string(np.array(answer["values"], np.float32).reshape(answer["shape"]), precision=4))
