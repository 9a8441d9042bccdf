"""Password hashes as RabbitMQ keeps them, so that its definitions files log the same users in.

    base64( salt, 4 octets | digest of salt and password )

The salt comes from the caller: nothing here is random. An empty hash belongs to a user who cannot
log in with a password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final

SALT_BYTES: Final = 4

SHA256: Final = "rabbit_password_hashing_sha256"
SHA512: Final = "rabbit_password_hashing_sha512"
MD5: Final = "rabbit_password_hashing_md5"


def _md5(data: bytes) -> Any:
    # Old definitions files have it; FIPS builds of OpenSSL refuse md5 unless told so.
    return hashlib.md5(data, usedforsecurity=False)


_DIGESTS: Final[dict[str, Callable[[bytes], Any]]] = {
    SHA256: hashlib.sha256,
    SHA512: hashlib.sha512,
    MD5: _md5,
}

ALGORITHMS: Final = tuple(_DIGESTS)


def hash_password(password: bytes | str, salt: bytes, algorithm: str = SHA256) -> str:
    """The hash to keep for `password`. Raises ValueError for an algorithm that is not known."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} octets, not {len(salt)}")
    check_algorithm(algorithm)
    return base64.b64encode(salt + _digest(password, salt, algorithm)).decode()


def check_password(password: bytes | str, password_hash: str, algorithm: str = SHA256) -> bool:
    """Whether `password` gives `password_hash`, in a time that says nothing about either.

    A blank password never matches, whatever the hash: RabbitMQ refuses it as well.
    """
    if not password or not password_hash or algorithm not in _DIGESTS:
        return False
    try:
        stored = base64.b64decode(password_hash, validate=True)
    except (binascii.Error, ValueError):
        return False
    salt, digest = stored[:SALT_BYTES], stored[SALT_BYTES:]
    return hmac.compare_digest(digest, _digest(password, salt, algorithm))


def check_algorithm(algorithm: str) -> None:
    """Raises ValueError, with the names that are known, for one that is not."""
    if algorithm not in _DIGESTS:
        known = ", ".join(ALGORITHMS)
        raise ValueError(f"unknown hashing algorithm {algorithm!r}; known are {known}")


def check_hash(password_hash: str) -> None:
    """Raises ValueError for what is no base64 and so could never match a password."""
    try:
        base64.b64decode(password_hash, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("password hash is not base64") from None


def _digest(password: bytes | str, salt: bytes, algorithm: str) -> bytes:
    secret = password.encode() if isinstance(password, str) else password
    digest: bytes = _DIGESTS[algorithm](salt + secret).digest()
    return digest
