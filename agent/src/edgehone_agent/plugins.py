"""The one registry of extensions: one extension is one file, and its name is the file's stem.

Built-in extensions are found by listing a package's folder, those of third parties by an entry-point group of the
same name. Listing imports nothing; asking for one imports just that file. A name claimed twice is an error.

    runtimes = Registry("runtime", package="edgehone_agent.runtimes", group="edgehone.runtimes")
    runtimes.names()                # ("litert", "onnxruntime")
    runtimes.get("litert")          # the object called `runtime` in litert.py
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

from edgehone_agent.errors import EdgehoneError, InputError

T = TypeVar("T")


class PluginError(InputError):
    """An extension that cannot be loaded, or a name that two extensions claim."""

    code = "EH170"


class Registry(Generic[T]):
    """All extensions of one kind.

    Args:
        kind: the word people use for it, and the name of the object that each file defines ("runtime").
        package: the package whose files are the built-in extensions; files that start with "_" are not.
        group: the entry-point group third parties use; each entry point names a module or such an object.
    """

    def __init__(self, kind: str, *, package: str, group: str) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._loaded: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """Every known name, sorted.

        Raises:
            PluginError: two extensions claim one name.
        """
        return tuple(sorted(self._sources()))

    def get(self, name: str) -> T:
        """The extension called `name`; imports its file on first use.

        Raises:
            PluginError: unknown name, a name claimed twice, or a file that does not define the extension.
        """
        if name in self._loaded:  # looking through everything that is installed takes milliseconds
            return self._loaded[name]
        sources = self._sources()
        if name not in sources:
            known = ", ".join(sorted(sources))
            raise PluginError(f"there is no {self.kind} called {name!r}", do=f"choose one of: {known}")
        source = sources[name]
        try:
            found = importlib.import_module(source) if isinstance(source, str) else source.load()
        except EdgehoneError:
            raise
        except (ImportError, AttributeError) as error:  # the module is missing, or the object an entry point names
            raise PluginError(f"the {self.kind} {name!r} cannot be imported: {error}") from error
        extension = getattr(found, self.kind, found)
        if extension is found and isinstance(found, ModuleType):
            raise PluginError(f"{found.__name__} defines no object called {self.kind!r}", where=f"{self.kind} {name!r}")
        self._loaded[name] = cast(T, extension)
        return self._loaded[name]

    def _sources(self) -> dict[str, str | importlib.metadata.EntryPoint]:
        sources: dict[str, str | importlib.metadata.EntryPoint] = {}
        spec = importlib.util.find_spec(self._package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for file in sorted(Path(folder).glob("*.py")):
                if not file.stem.startswith("_"):
                    sources[file.stem.replace("_", "-")] = f"{self._package}.{file.stem}"
        for entry in importlib.metadata.entry_points(group=self._group):
            if entry.name in sources:
                raise PluginError(
                    f"two extensions claim the {self.kind} name {entry.name!r}",
                    where=entry.value,
                    do="rename or uninstall one of them",
                )
            sources[entry.name] = entry
        return sources
