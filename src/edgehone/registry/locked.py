"""Private keys under a passphrase: PKCS #8 with scrypt and AES-256, as OpenSSL writes it and every tool reads it.

    openssl pkey -in root-3f2a9c1e77d0.pem -noout -text

`cryptography` reads such files but writes only PBKDF2 with 2,048 rounds, which a graphics card runs through about a
million times a second. So the file is put together here, and read by `cryptography`.

Sources: RFC 5958 section 3 (EncryptedPrivateKeyInfo), RFC 8018 section 6.2 (PBES2), RFC 7914 section 7 (scrypt in it),
RFC 7468 (PEM). Cost: OWASP Password Storage Cheat Sheet, scrypt, the row that fits into the 32 MiB that OpenSSL allows.
"""

from __future__ import annotations

import base64
import binascii
import os
import textwrap

SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 14, 8, 5  # 16 MiB, five times over: about 0.2 s for each guess
_SALT_BYTES, _BLOCK_BYTES, _KEY_BYTES = 16, 16, 32
_LABEL = "ENCRYPTED PRIVATE KEY"
_SEQUENCE, _INTEGER, _OCTETS, _NAME = 0x30, 0x02, 0x04, 0x06
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES_256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42


class Lock:
    """One passphrase, stretched once: keys that are made together share a salt and have each their own nonce.

    Args:
        passphrase: any bytes.
        scrypt_n: cost of a guess, a power of two. Tests that open many keys make it small.
    """

    def __init__(self, passphrase: bytes, scrypt_n: int = SCRYPT_N) -> None:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        self._salt, self._n = os.urandom(_SALT_BYTES), scrypt_n
        self._key = Scrypt(self._salt, _KEY_BYTES, scrypt_n, _SCRYPT_R, _SCRYPT_P).derive(passphrase)

    def close(self, private: bytes) -> bytes:
        """A PEM file of a private key in DER (PKCS #8)."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        nonce = os.urandom(_BLOCK_BYTES)
        fill = _BLOCK_BYTES - len(private) % _BLOCK_BYTES
        cipher = Cipher(algorithms.AES(self._key), modes.CBC(nonce)).encryptor()
        secret = cipher.update(private + bytes([fill]) * fill) + cipher.finalize()
        costs = b"".join(map(_number, (self._n, _SCRYPT_R, _SCRYPT_P)))
        stretch = _der(_SEQUENCE, _der(_NAME, _SCRYPT), _der(_SEQUENCE, _der(_OCTETS, self._salt), costs))
        scheme = _der(_SEQUENCE, _der(_NAME, _AES_256_CBC), _der(_OCTETS, nonce))
        how = _der(_SEQUENCE, _der(_NAME, _PBES2), _der(_SEQUENCE, stretch, scheme))
        lines = textwrap.wrap(base64.b64encode(_der(_SEQUENCE, how, _der(_OCTETS, secret))).decode(), 64)
        return "\n".join((f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", "")).encode()


def is_weak(content: bytes) -> bool:
    """Whether a PEM file is under a passphrase that was not stretched by scrypt."""
    if f"BEGIN {_LABEL}".encode() not in content:
        return False
    try:
        return _SCRYPT not in base64.b64decode(b"".join(content.splitlines()[1:-1]))
    except binascii.Error:
        return False  # damaged, which whoever opens it says


def _der(tag: int, *parts: bytes) -> bytes:
    """One value of DER. Source: ITU-T X.690, section 8.1."""
    body = b"".join(parts)
    size = len(body)
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    length = bytes([size]) if size < 128 else bytes([0x80 | len(long)]) + long
    return bytes([tag]) + length + body


def _number(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))  # never negative
