"""The error tree of the core, continued from `edgehone_agent.errors`.

    EdgehoneError                     exit 1
    ├── InputError                    exit 4
    │   ├── ModelFileError            EH110
    │   ├── QuantityError             EH101   "2 parsecs" is not a latency
    │   ├── TaskError                 EH120   the task file or a field of the task
    │   ├── DataError                 EH130   examples: shapes, dtypes, NaN, labels, splits
    │   ├── BudgetError               EH140   limits that nothing could meet
    │   ├── DeviceError               EH150   unknown device, or a profile that is not valid
    │   ├── RecipeError               EH160   unknown technique, wrong setting, wrong order
    │   └── PluginError               EH170   an extension that cannot be loaded or takes a name twice
    ├── NetworkError                  exit 5
    │   ├── UntraceableError          EH210   control flow that depends on data, with the line
    │   ├── UnsupportedOperatorError  EH220   an operator edgehone does not know, by name and module path
    │   └── CutError                  EH230   a removal of channels that is not legal
    ├── HostError                     exit 6
    │   ├── MissingExtraError         EH310
    │   └── OutputFolderError         EH320   not writable, full, or it holds another study
    └── Interrupted                   exit 130  stopped by the user; what was computed is kept

A budget that no member meets is no error: the study reports the nearest front and `edgehone optimize` returns 3.
"""

from __future__ import annotations

from edgehone_agent.errors import EdgehoneError, HostError, InputError, MissingExtraError, ModelFileError
from edgehone_agent.plugins import PluginError

__all__ = [
    "BudgetError",
    "CutError",
    "DataError",
    "DeviceError",
    "EdgehoneError",
    "HostError",
    "InputError",
    "Interrupted",
    "MissingExtraError",
    "ModelFileError",
    "NetworkError",
    "OutputFolderError",
    "PluginError",
    "QuantityError",
    "RecipeError",
    "TaskError",
    "UnsupportedOperatorError",
    "UntraceableError",
]

EXIT_BUDGET_UNMET = 3


class QuantityError(InputError):
    """Text that is not a quantity of the expected kind."""

    code = "EH101"


class TaskError(InputError):
    """The task file cannot be loaded, holds no task, or a field of the task is wrong."""

    code = "EH120"


class DataError(InputError):
    """Examples that cannot be used: shapes, dtypes, NaN, label range, empty or leaking splits."""

    code = "EH130"


class BudgetError(InputError):
    """A limit that is not positive or that nothing could meet."""

    code = "EH140"


class DeviceError(InputError):
    """A device that is not known, or a profile that is not valid."""

    code = "EH150"


class RecipeError(InputError):
    """A technique that is not known, a setting out of range, or an order that makes no sense."""

    code = "EH160"


class NetworkError(EdgehoneError):
    """The network cannot be turned into a graph."""

    code = "EH200"
    exit_code = 5


class UntraceableError(NetworkError):
    """The network's control flow depends on the data, so one graph cannot describe it."""

    code = "EH210"


class UnsupportedOperatorError(NetworkError):
    """The network uses an operator that edgehone does not know or cannot lay out."""

    code = "EH220"


class CutError(NetworkError):
    """A removal of channels that would leave the graph wrong."""

    code = "EH230"


class OutputFolderError(HostError):
    """The output folder cannot be written, is full, or belongs to another study."""

    code = "EH320"


class Interrupted(EdgehoneError):  # noqa: N818  stopping is no mistake
    """The user stopped the run; everything finished so far is on disk."""

    code = "EH400"
    exit_code = 130
