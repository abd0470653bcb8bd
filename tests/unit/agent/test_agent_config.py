"""Settings: one file, flags over it, and every mistake named with what to do about it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgehone_agent.config import Settings, default_state, read_settings, redacted, socket_path
from edgehone_agent.errors import ConfigError

WHOLE = """
registry = "https://models.example/edgehone"
root = "keys/root.json"
tasks = ["digits", "gestures"]
state = "state"
poll_s = 60
threads = 2
log = "json"

[serve]
listen = ["127.0.0.1:9000", "unix:/run/a.sock"]
[serve.limits]
connections = 7
drain_s = 2.5

[watch]
enabled = false

[capture]
max_bytes = 1000000

[mqtt]
broker = "127.0.0.1:1883"
node = "n7"
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_a_file_is_read_and_its_paths_start_at_its_folder(tmp_path: Path) -> None:
    found = read_settings(written(tmp_path, WHOLE))
    assert (found.root, found.state) == (tmp_path / "keys/root.json", tmp_path / "state")
    assert (found.tasks, found.poll_s, found.threads, found.log) == (("digits", "gestures"), 60.0, 2, "json")
    assert found.serve.listen == ("127.0.0.1:9000", "unix:/run/a.sock")
    assert dict(found.serve.limits) == {"connections": 7, "drain_s": 2.5}
    assert not found.watch.enabled and found.capture.max_bytes == 1_000_000 and found.mqtt.node == "n7"


@pytest.mark.parametrize(
    ("given", "found"),
    [("reg/x", "{base}/reg/x"), ("/srv/reg", "/srv/reg"), ("https://h/x", "https://h/x"), ("file:///x", "file:///x")],
)
def test_a_registry_that_is_a_folder_is_a_path_like_any_other(given: str, found: str, tmp_path: Path) -> None:
    text = f"registry = '{given}'\nroot = 'root.json'\ntasks = ['digits']"
    assert read_settings(written(tmp_path, text)).registry == found.format(base=tmp_path)


def test_flags_count_over_the_file_and_defaults_under_both(tmp_path: Path) -> None:
    flags = {"poll_s": 5.0, "tasks": ("one",), "serve.listen": ("127.0.0.1:1",), "threads": None}
    found = read_settings(written(tmp_path, WHOLE), flags)
    assert (found.poll_s, found.tasks, found.serve.listen, found.threads) == (5.0, ("one",), ("127.0.0.1:1",), 2)
    assert dict(found.serve.limits) == {"connections": 7, "drain_s": 2.5}
    assert read_settings(None) == Settings()
    enough = read_settings(None, {"registry": "reg", "root": Path("root.json"), "tasks": ("digits",)})
    assert (enough.registry, enough.serve.listen) == ("reg", ("127.0.0.1:8000",))


@pytest.mark.parametrize(
    ("text", "said", "do"),
    [
        ("regisrty = 'x'", "no setting 'regisrty'", "did you mean registry?"),
        ("[serve]\nlistn = []", "no setting 'serve.listn'", "did you mean serve.listen?"),
        ("[serve.limits]\nconections = 3", "no setting 'serve.limits.conections'", "serve.limits.connections?"),
        ("qqqqqq = 1", "no setting 'qqqqqq'", "known are: capture"),
        ("poll_s = 'soon'", "'soon' is not a number", "table of settings"),
        ("threads = 1.5", "1.5 is not a whole number", "table of settings"),
        ("threads = true", "True is not a whole number", "table of settings"),
        ("tasks = 'digits'", "'digits' is not a list of texts", "table of settings"),
        ("tasks = [1]", "[1] is not a list of texts", "table of settings"),
        ("watch = 1", "1 is not a table", "table of settings"),
        ("[watch]\nenabled = 'yes'", "'yes' is not true or false", "table of settings"),
        ("log = 'xml'", "'xml' is not one of 'text', 'json'", "table of settings"),
        ("state = 3", "3 is not a path", "table of settings"),
        ("registry = 'x'\ntasks = ['a']", "there is a registry and no root", "give both"),
        ("root = 'x'", "there is a root and no registry", "give both"),
        ("registry = 'x'\nroot = 'r'", "no task to take", "name one"),
        ("tasks = ['../etc']", "cannot be the name of a task", "lower case"),
        ("tasks = ['a', 'b', 'a']", "'a' is named twice", "once"),
        ("registry = 3", "3 is not a text", "table of settings"),
        ("[mqtt]\nbrocker = 'x:1'", "no setting 'mqtt.brocker'", "did you mean mqtt.broker?"),
        ("poll_s = 0.5", "0.5 is too little", "give 1 or more"),
        ("poll_s = inf", "inf is too little or no number", "give 1 or more"),
        ("poll_s = nan", "nan is too little or no number", "give 1 or more"),
        ("sessions = 0", "0 is too little", "give 1 or more"),
        ("memory_bytes = 0", "0 bytes are no room", "leave it out"),
        ("[capture]\nmax_bytes = 0", "0 is not above zero", "enabled = false"),
        ("[serve]\ncert = 'c'", "serve.cert is of no use without serve.key", "give all of cert, key, client_ca"),
        ("registry_key = 'k'", "registry_key is of no use without registry_cert", "give all"),
        ("[mqtt]\nca = 'c'", "mqtt.ca is of no use without mqtt.cert", "give all"),
        ("[serve.limits]\nrows = -1", "-1 is not a positive number", "default"),
        ("a = = b", "the file cannot be read", "TOML"),
        ("\x00", "the file cannot be read", "TOML"),
    ],
)  # fmt: skip
def test_every_mistake_is_named(text: str, said: str, do: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(written(tmp_path, text))
    assert said in caught.value.what and do in caught.value.do


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")
    for file in (tmp_path / "none.toml", tmp_path, binary):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read_settings(file)
        assert caught.value.where == str(file)


def test_the_state_folder_is_that_of_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state() == tmp_path / "edgehone-agent" == read_settings(None).state
    monkeypatch.setenv("HOME", "/home/x")
    for odd in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", odd)
        assert default_state() == Path("/home/x/.local/state/edgehone-agent")


def test_a_socket_path_is_bounded() -> None:
    assert socket_path(Path("/run/x")) == Path("/run/x/agent.sock")
    assert socket_path(Path("/") / ("x" * 120)) is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@host:8443/x?y", "https://***@host:8443/x?y"),
        ("https://host/a", "https://host/a"),
        ("/folder/a@b", "/folder/a@b"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert redacted(address) == shown


def test_every_setting_and_table_is_on_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs/commands/agent.md").read_text()
    tables = {"": Settings} | {
        f"{field.name}.": type(getattr(Settings(), field.name))
        for field in dataclasses.fields(Settings)
        if dataclasses.is_dataclass(getattr(Settings(), field.name))
    }
    for prefix, kind in tables.items():
        for field in dataclasses.fields(kind):
            name = f"{prefix}{field.name}"
            if f"{name}." not in tables and name != "serve.limits":
                assert f"| `{name}` | " in page, name
