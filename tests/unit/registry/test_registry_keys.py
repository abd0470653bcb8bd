"""Key files: what protects them, who can read them, and that old ones still open."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgehone.errors import InputError
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.locked import SCRYPT_N, Lock, is_weak
from edgehone.registry.state import read
from edgehone.registry.status import status

OLD = b"""-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBB53s2PNXDSOeQDuSpi
D3Y4AgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQP3bncLeS2CyMgujf
FqmtWARAS/4JKELmA0YYbc3LYbBzxmAnR7+IIj8EI3xsDR2GebIRE8k0nBHg0NsD
reuq3aQLJS1JSOjIAordWPK9aRK4qA==
-----END ENCRYPTED PRIVATE KEY-----
"""
"""Of the bytes 0 to 31, under "an old passphrase" and PBKDF2, as this command wrote keys at first."""
SECRET = "a new passphrase, schön"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the command `openssl` is not installed")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A key file at full cost."""
    KeyRing([tmp_path / "keys"], Passphrases([SECRET])).make("root")
    (path,) = (tmp_path / "keys").iterdir()
    return path


def test_an_old_file_opens_and_is_told_apart(new: Path, tmp_path: Path) -> None:
    (tmp_path / "old.pem").write_bytes(OLD)
    signer = KeyRing([], Passphrases(["another passphrase", "an old passphrase"])).open(tmp_path / "old.pem")
    public = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw().hex()
    assert signer.public_key.keyval["public"] == public
    assert is_weak(OLD) and not is_weak(new.read_bytes())
    assert not is_weak(b"") and not is_weak(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nA\n-----END")


def test_the_library_reads_it_and_the_cost_is_what_is_said(new: Path) -> None:
    key = load_pem_private_key(new.read_bytes(), SECRET.encode())
    assert isinstance(key, Ed25519PrivateKey)
    der = base64.b64decode(b"".join(new.read_bytes().splitlines()[1:-1]))
    assert der[0] == 0x30 and SCRYPT_N == 1 << 14
    assert bytes.fromhex("020240000201080201 05") in der  # N = 16384, r = 8, p = 5 as DER integers
    with pytest.raises(ValueError, match="password"):
        load_pem_private_key(new.read_bytes(), b"another passphrase")


@needs_openssl
def test_openssl_reads_it(new: Path) -> None:
    command = ["openssl", "pkey", "-in", str(new), "-passin", f"pass:{SECRET}", "-pubout", "-outform", "DER"]
    public = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout[-32:]
    assert public.hex() == KeyRing([], Passphrases([SECRET])).open(new).public_key.keyval["public"]


@needs_openssl
def test_a_key_that_openssl_made_signs(tmp_path: Path) -> None:
    file = tmp_path / "k.pem"
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "plain.pem")]
    lock = ["openssl", "pkcs8", "-topk8", "-scrypt", "-in", str(tmp_path / "plain.pem"), "-out", str(file)]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    subprocess.run([*lock, "-passout", f"pass:{SECRET}"], check=True, capture_output=True, timeout=60)
    assert KeyRing([], Passphrases([SECRET])).open(file).sign(b"x").signature


@pytest.mark.parametrize("size_bytes", [0, 1, 15, 16, 17, 48, 127, 128, 300, 70_000])
def test_every_length_is_written_as_der_wants_it(size_bytes: int, tmp_path: Path) -> None:
    """Not only the 48 bytes of an Ed25519 key: what is locked comes out of the file as it went in."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    private = bytes(size_bytes)
    pem = Lock(b"x", scrypt_n=2).close(private)
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))

    def value(data: bytes) -> tuple[bytes, bytes]:
        """Content of the first value, and what follows it."""
        size, head = data[1], 2
        if size & 0x80:
            size, head = int.from_bytes(data[2 : 2 + (size & 0x7F)], "big"), 2 + (size & 0x7F)
        return data[head : head + size], data[head + size :]

    whole, rest = value(der)
    assert rest == b""
    how, sealed = value(whole)
    secret, rest = value(sealed)
    assert rest == b""
    schemes = value(value(how)[1])[0]
    stretch, scheme = value(schemes)[0], value(value(schemes)[1])[0]
    salt = value(value(value(stretch)[1])[0])[0]
    nonce = value(value(scheme)[1])[0]
    key = Scrypt(salt, 32, 2, 8, 5).derive(b"x")
    cipher = Cipher(algorithms.AES(key), modes.CBC(nonce)).decryptor()
    plain = cipher.update(secret) + cipher.finalize()
    assert plain[: -plain[-1]] == private and len(plain) % 16 == 0


def test_no_two_files_share_a_nonce(tmp_path: Path) -> None:
    lock = Lock(b"x", scrypt_n=2)
    assert lock.close(bytes(48)) != lock.close(bytes(48))
    assert Lock(b"x", scrypt_n=2).close(b"") != Lock(b"x", scrypt_n=2).close(b"")


def test_status_asks_to_rotate_an_old_one(digits: Any) -> None:
    (online,) = digits.keys.glob("online-*.pem")
    online.write_bytes(OLD)
    warnings = status(digits.store, read(digits.store), digits.ring(), digits.now)["warnings"]
    assert warnings == [f"{online.name} is of an old kind, whose passphrase is easier to guess: rotate this key"]


def test_a_missing_file_and_a_folder_are_no_keys(tmp_path: Path) -> None:
    from edgehone.errors import HostError

    ring = KeyRing([], Passphrases([SECRET]))
    with pytest.raises(InputError, match="no such file"):
        ring.open(tmp_path / "none.pem")
    with pytest.raises(HostError, match="Is a directory"):
        ring.open(tmp_path)
