"""Private keys as files: Ed25519, PKCS #8 PEM, mode 0600, under a passphrase (see `locked`) unless asked otherwise.

Rules:
- A key's file is called LABEL-ID.pem: what it signs, and the first 12 digits of its TUF key id. So the file of a key
  is found without opening any.
- A private key is decrypted only when it is about to sign. Neither it nor a passphrase ever gets into a message.
- A key that counts is never deleted. One that was replaced moves to the folder `retired`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgehone.errors import HostError, InputError
from edgehone.registry.locked import SCRYPT_N, Lock, is_weak
from edgehone_agent.durable import replace, write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edgehone.registry.objects import Objects
    from edgehone.registry.tuf import CryptoSigner, Key

MIN_PASSPHRASE = 12
MAX_PASSPHRASE = 1000  # bytes; OpenSSL takes no more than 1023
_ID = 12
_TRIES = 3

Ask = Callable[[str], str]


def short(keyid: str) -> str:
    """A key id as people read it."""
    return keyid[:_ID]


def _bytes(passphrase: str) -> bytes:
    return passphrase.encode("utf-8", "surrogateescape")  # as it came from a terminal or the environment


class Passphrases:
    """Passphrases given up front, and a way to ask for more.

    Args:
        known: from files or the environment; each is tried on each key.
        ask: shows a prompt and returns what was typed; None where nobody can be asked.
    """

    def __init__(self, known: Iterable[str] = (), ask: Ask | None = None) -> None:
        self._known = [passphrase for passphrase in known if passphrase]
        self._ask = ask

    def unlock(self, content: bytes, where: str) -> Ed25519PrivateKey:
        """The private key in a PEM file's content.

        Raises:
            InputError: no Ed25519 key, no passphrase at hand, or the wrong one.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        def load(passphrase: str | None) -> Ed25519PrivateKey | None:
            try:
                key = load_pem_private_key(content, None if passphrase is None else _bytes(passphrase))
            except (ValueError, TypeError, UnsupportedAlgorithm):
                return None
            if not isinstance(key, Ed25519PrivateKey):
                raise InputError("this is no Ed25519 key", where=where, do="give a key that `edgehone registry` made")
            return key

        if b"PRIVATE KEY-----" not in content:
            raise InputError("this is no private key file", where=where, do="give a .pem file of the keys folder")
        if b"ENCRYPTED" not in content:
            found = load(None)
        else:
            found = next(filter(None, map(load, self._known)), None) or self._asked(load, where)
        if found is None:
            raise InputError("the key file is damaged", where=where, do="restore it from a copy, or revoke the key")
        return found

    def _asked(
        self, load: Callable[[str | None], Ed25519PrivateKey | None], where: str
    ) -> Ed25519PrivateKey:  # fmt: skip
        for _ in range(_TRIES if self._ask else 0):
            typed = self._ask(f"passphrase of {where}: ") if self._ask else ""
            key = load(typed)
            if key is not None:
                self._known.append(typed)
                return key
        if self._known or self._ask:
            raise InputError("wrong passphrase", where=where, do="give the passphrase that this key was made with")
        raise InputError(
            "a passphrase is needed and nobody can be asked",
            where=where,
            do="give --passphrase-file, or set EDGEHONE_PASSPHRASE",
        )

    def choose(self, where: str) -> str:
        """A passphrase for a new key: the first that is in use, or one that is asked for twice.

        Raises:
            InputError: none at hand, too short, or typed differently the second time.
        """
        if not self._known:
            if self._ask is None:
                raise InputError(
                    "a passphrase is needed and nobody can be asked",
                    where=where,
                    do="give --passphrase-file, or set EDGEHONE_PASSPHRASE",
                )
            typed = self._ask("passphrase for the new keys: ")
            if typed != self._ask("the same once more: "):
                raise InputError("the two passphrases differ", where=where, do="start again")
            self._known.append(typed)
        if len(self._known[0]) < MIN_PASSPHRASE:
            raise InputError(
                f"a passphrase needs at least {MIN_PASSPHRASE} characters", where=where, do="take a few random words"
            )
        if len(_bytes(self._known[0])) > MAX_PASSPHRASE:
            raise InputError(f"a passphrase of more than {MAX_PASSPHRASE} bytes", where=where, do="take a shorter one")
        return self._known[0]


class KeyRing:
    """The private keys that this person has at hand.

    Args:
        folders: searched in order for LABEL-ID.pem; new keys go to the first.
        passphrases: that may open them.
        scrypt_n: cost of a guess at the passphrase of a new key.
    """

    def __init__(self, folders: Sequence[Path], passphrases: Passphrases, *, scrypt_n: int = SCRYPT_N) -> None:
        self.folders = tuple(folders)
        self._passphrases, self._scrypt_n = passphrases, scrypt_n
        self._lock: Lock | None = None
        self._signers: dict[str, CryptoSigner] = {}
        self._made: list[Path] = []

    def file(self, keyid: str) -> Path | None:
        """The file of a key, None when it is not here."""
        for folder in self.folders:
            for path in sorted(folder.glob(f"*-{short(keyid)}.pem")):
                return path
        return None

    def signer(self, key: Key) -> CryptoSigner | None:
        """What signs for a public key, None when its private half is not here.

        Raises:
            InputError: the key file cannot be read or opened.
        """
        path = self.file(key.keyid)
        if key.keyid not in self._signers and path is not None:
            signer = self.open(path)
            if signer.public_key.keyid != key.keyid:
                raise InputError(
                    "the file holds another key than its name says", where=str(path), do="restore the right file"
                )
            self._signers[key.keyid] = signer
        return self._signers.get(key.keyid)

    def make(self, label: str, *, plain: bool = False) -> CryptoSigner:
        """A new key, its file on disk.

        Args:
            label: what it will sign: "root", "targets", "online" or "task-NAME".
            plain: leave the file unencrypted, for unattended use.

        Raises:
            InputError: no passphrase, or too short a one.
            StateError: the keys folder cannot be written.
        """
        from cryptography.hazmat.primitives import serialization as pem
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from edgehone.registry.tuf import CryptoSigner

        if not self.folders:
            raise InputError("there is no folder for the new key", do="give --keys FOLDER")
        folder = self.folders[0]
        if self._lock is None and not plain:
            self._lock = Lock(_bytes(self._passphrases.choose(str(folder))), self._scrypt_n)
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        form = (pem.PrivateFormat.PKCS8, pem.NoEncryption())
        if self._lock is None or plain:
            content = private.private_bytes(pem.Encoding.PEM, *form)
        else:
            content = self._lock.close(private.private_bytes(pem.Encoding.DER, *form))
        path = folder / f"{label}-{short(signer.public_key.keyid)}.pem"
        write_bytes(path, content, mode=0o600)
        self._made.append(path)
        self._signers[signer.public_key.keyid] = signer
        return signer

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Remove keys made inside when the command is refused. Refusals come before anything is written with them."""
        self._made.clear()
        try:
            yield
        except InputError:
            for path in self._made:
                path.unlink(missing_ok=True)
            raise

    def retire(self, keyid: str) -> None:
        """Put the file of a key that no longer counts aside."""
        path = self.file(keyid)
        if path is not None:
            (path.parent / "retired").mkdir(mode=0o700, exist_ok=True)
            replace(path, path.parent / "retired" / path.name)

    def findings(self, used: Iterable[str]) -> list[str]:
        """What is odd about the key files: readable by others, or of no use to the registry."""
        names = {short(keyid) for keyid in used}
        found = []
        for path in sorted(path for folder in self.folders for path in folder.glob("*.pem")):
            if path.stat().st_mode & 0o077:
                found.append(f"{path.name} can be read by others: chmod 600 it")
            if path.stem.rpartition("-")[2] not in names:
                found.append(f"{path.name} is of no use to this registry")
            elif is_weak(_content(path)):
                found.append(f"{path.name} is of an old kind, whose passphrase is easier to guess: rotate this key")
        return found

    def open(self, path: Path) -> CryptoSigner:
        """What signs with the key in a file of any name.

        Raises:
            InputError: the file cannot be read or opened.
            HostError: it may not be read.
        """
        from edgehone.registry.tuf import CryptoSigner

        return CryptoSigner(self._passphrases.unlock(_content(path), str(path)))


def is_plain(path: Path) -> bool:
    """Whether a key file can be used without a passphrase."""
    return b"ENCRYPTED" not in _content(path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), do="give the path of a key file") from None
    except OSError as error:
        raise HostError(error.strerror or str(error), where=str(path), do="fix the permission") from error


def check_apart(store: Objects, folders: Iterable[Path]) -> None:
    """Refuse private keys inside the folder that a web server shows to everybody.

    Raises:
        InputError: a keys folder is the registry or lies in it.
    """
    for folder in folders:
        if store.serves(folder):
            raise InputError(
                "private keys may not lie in the folder that is served", where=str(folder), do="choose another --keys"
            )
