"""edgehone: a trained network in, a measured family of small, fast versions out.

    import edgehone
    study = edgehone.optimize("digits", output="digits-family")
    study.members[0].predict(x)

Public is what `__all__` reaches. Importing this package is cheap; torch is imported when something needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgehone.budget import Budget
    from edgehone.data import load_task
    from edgehone.errors import EdgehoneError
    from edgehone.search.study import Study, optimize
    from edgehone.task import Task, Training

__version__ = "0.1.0"

__all__ = ["Budget", "EdgehoneError", "Study", "Task", "Training", "__version__", "load_task", "optimize"]

_HOMES = {
    "Budget": "edgehone.budget",
    "EdgehoneError": "edgehone.errors",
    "Study": "edgehone.search.study",
    "Task": "edgehone.task",
    "Training": "edgehone.task",
    "load_task": "edgehone.data",
    "optimize": "edgehone.search.study",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgehone' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
