"""The registry of extensions: files of a folder, entry points of installed packages, and how both can be wrong."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from edgehone.errors import DataError
from edgehone.plugins import PluginError, Registry

KIND, PACKAGE, GROUP = "flavour", "ice_cream_for_tests", "ice.flavours"


class Shop:
    """A package with built-in extensions, and third parties that can be installed beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("vanilla", "flavour = 'white'")
        self.add("dark_chocolate", "flavour = 'brown'")
        self.add("_recipe", "raise RuntimeError('private files are not extensions')")
        self.add("__init__", "")

    def add(self, stem: str, code: str) -> None:
        file = self.folder / PACKAGE / f"{stem}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
        importlib.invalidate_caches()

    def install(self, distribution: str, module: str, code: str, **entries: str) -> None:
        """A distribution as pip leaves it: a module, and metadata with entry points."""
        (self.folder / f"{module}.py").write_text(code)
        info = self.folder / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        importlib.invalidate_caches()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Shop(tmp_path)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def flavours(shop: Shop) -> Registry[str]:
    return Registry(KIND, package=PACKAGE, group=GROUP)


def test_a_file_is_an_extension_and_its_stem_the_name(flavours: Registry[str]) -> None:
    assert flavours.names() == ("dark-chocolate", "vanilla")
    assert flavours.get("dark-chocolate") == "brown"


def test_listing_imports_nothing_and_asking_imports_one_file(shop: Shop, flavours: Registry[str]) -> None:
    shop.add("poisoned", "raise RuntimeError('imported')")
    assert "poisoned" in flavours.names()
    assert flavours.get("vanilla") == "white"
    assert f"{PACKAGE}.vanilla" in sys.modules and f"{PACKAGE}.dark_chocolate" not in sys.modules


def test_an_installed_package_offers_a_module_or_an_object(shop: Shop, flavours: Registry[str]) -> None:
    shop.install("farm", "farm", "flavour = 'green'\nother = 'red'", mint="farm", cherry="farm:other")
    assert flavours.names() == ("cherry", "dark-chocolate", "mint", "vanilla")
    assert (flavours.get("mint"), flavours.get("cherry")) == ("green", "red")


def test_a_name_that_is_built_in_cannot_be_taken(shop: Shop, flavours: Registry[str]) -> None:
    shop.install("farm", "farm", "flavour = 'yellow'", vanilla="farm")
    for ask in (flavours.names, lambda: flavours.get("vanilla"), lambda: flavours.get("dark-chocolate")):
        with pytest.raises(PluginError, match="two extensions claim the flavour name 'vanilla'") as caught:
            ask()
        assert caught.value.where == "farm" and "uninstall" in caught.value.do


def test_a_name_that_two_packages_claim(shop: Shop, flavours: Registry[str]) -> None:
    shop.install("farm", "farm", "flavour = 'green'", mint="farm")
    shop.install("garden", "garden", "flavour = 'greener'", mint="garden")
    with pytest.raises(PluginError, match="two extensions claim the flavour name 'mint'"):
        flavours.names()


def test_an_unknown_name_lists_the_known_ones(flavours: Registry[str]) -> None:
    with pytest.raises(PluginError, match="no flavour called 'tar'") as caught:
        flavours.get("tar")
    assert caught.value.do == "choose one of: dark-chocolate, vanilla"


@pytest.mark.parametrize(
    ("code", "said"),
    [("", "defines no object called 'flavour'"), ("import no_such_module_at_all", "cannot be imported")],
)
def test_a_file_that_defines_no_extension(shop: Shop, flavours: Registry[str], code: str, said: str) -> None:
    shop.add("broken", code)
    with pytest.raises(PluginError, match=said):
        flavours.get("broken")


@pytest.mark.parametrize(
    ("entry", "said"),
    [("farm", "farm defines no object called 'flavour'"), ("farm:missing", "cannot be imported"), ("fram", "fram")],
)
def test_an_entry_point_that_leads_nowhere(shop: Shop, flavours: Registry[str], entry: str, said: str) -> None:
    shop.install("farm", "farm", "", mint=entry)
    with pytest.raises(PluginError, match=said):
        flavours.get("mint")


def test_an_error_of_ours_passes_as_it_is(shop: Shop, flavours: Registry[str]) -> None:
    shop.add("honest", "from edgehone.errors import DataError\nraise DataError('no milk')")
    with pytest.raises(DataError, match="no milk"):
        flavours.get("honest")
