"""Which devices there are: built-in profiles, those of installed packages, and a file of the user's own.

    device_names()                     ("esp32-s3", …, "this-machine")
    load_device("raspberry-pi-4")      a profile by name
    load_device("boards/my_board.toml")  a profile by path

A package adds profiles with an entry point in the group "edgehone.devices" that names a package whose folder holds
*.toml files. A name claimed twice is an error.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from pathlib import Path

from edgehone.devices.profile import Device
from edgehone.devices.schema import read_device
from edgehone.errors import DeviceError
from edgehone.plugins import PluginError

GROUP = "edgehone.devices"


def device_names() -> tuple[str, ...]:
    """Every known name, sorted.

    Raises:
        PluginError: two packages claim one name, or a package is not installed.
    """
    return tuple(sorted(_files()))


def load_device(name_or_path: str) -> Device:
    """A profile by name, or from the user's own TOML file.

    Raises:
        DeviceError: unknown name, with the nearest known ones; or a profile that is not valid.
        PluginError: two packages claim one name.
    """
    if name_or_path.endswith(".toml"):
        return read_device(Path(name_or_path))
    files = _files()
    if name_or_path in files:
        return read_device(files[name_or_path])
    wanted = name_or_path.lower().replace("_", "-").replace(" ", "-")
    close = difflib.get_close_matches(wanted, files, 1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise DeviceError(
        f"there is no device called {name_or_path!r}",
        do=f"{meant}known devices: {', '.join(sorted(files))}; or give the path of a .toml profile",
    )


def _files() -> dict[str, Path]:
    files = _profiles(Path(__file__).parent)
    for entry in importlib.metadata.entry_points(group=GROUP):
        spec = importlib.util.find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise PluginError(
                f"{entry.value!r} is not a package with device profiles", where=f"entry point {entry.name}"
            )
        for folder in spec.submodule_search_locations:
            for name, file in _profiles(Path(folder)).items():
                if name in files:
                    raise PluginError(f"two packages claim the device name {name!r}", where=str(file))
                files[name] = file
    return files


def _profiles(folder: Path) -> dict[str, Path]:
    return {file.stem.replace("_", "-"): file for file in sorted(folder.glob("*.toml"))}
