"""Password hashes, against those that a RabbitMQ 3.10.8 made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.broker.passwords import MD5, SHA256, SHA512, check_password, hash_password

# base64:encode(rabbit_password:hash(ALGORITHM, <<"p\xc3\xa4ss">>)), and users it had created.
MADE_BY_RABBITMQ = [
    ("päss", "HKy1cqdSjOLoApZqyyra39Ndn6Z7Ynk0n123BJP3kz2fSekZ", SHA256),
    (
        "päss",
        "Dt4iPxQxY4pTaDWFGmshSM2I3Fm2pQwHByTtJr9D5eGm7BvzA2UB+tJS0w1PrQIFGtLjm8ykWecZ0ucid1f3rcaKqVs=",
        SHA512,
    ),
    ("päss", "71BtwJHpGwfoefebIPJDcDH+1NI=", MD5),
    ("wonderland", "X1sbKvqoM10pKPW0MzeMIxLzCBAB0RWHyXc1L0GA0Y8Mm7nI", SHA256),
    ("guest", "d+cITQ5Ozfo1ovNsCh0aHNz3el08ibh20SRIy5eYE7zRhd9O", SHA256),
    # The example of RabbitMQ's documentation, "Credentials and Passwords".
    ("test12", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", SHA256),
]


@pytest.mark.parametrize(("password", "password_hash", "algorithm"), MADE_BY_RABBITMQ)
def test_matches_what_rabbitmq_made(password: str, password_hash: str, algorithm: str) -> None:
    assert check_password(password, password_hash, algorithm)
    assert check_password(password.encode(), password_hash, algorithm)
    assert not check_password(password + "x", password_hash, algorithm)


@given(st.binary(min_size=1), st.binary(min_size=4, max_size=4), st.sampled_from([SHA256, SHA512]))
def test_a_password_matches_its_own_hash(password: bytes, salt: bytes, algorithm: str) -> None:
    password_hash = hash_password(password, salt, algorithm)
    assert check_password(password, password_hash, algorithm)
    assert not check_password(password + b"\0", password_hash, algorithm)


def test_an_empty_hash_never_matches() -> None:
    assert not check_password("", "", SHA256)
    assert not check_password("anything", "", SHA256)


def test_a_blank_password_never_matches() -> None:
    assert not check_password(b"", hash_password(b"", b"salt"), SHA256)


@pytest.mark.parametrize("password_hash", ["?", "AAAA", "AAAAAAAA", "ü"])
def test_a_damaged_hash_never_matches(password_hash: str) -> None:
    assert not check_password("guest", password_hash, SHA256)


def test_an_unknown_algorithm_never_matches_and_is_refused_when_hashing() -> None:
    assert not check_password("guest", MADE_BY_RABBITMQ[4][1], "rot13")
    with pytest.raises(ValueError, match="unknown hashing algorithm 'rot13'"):
        hash_password("guest", b"salt", "rot13")


def test_a_salt_has_four_octets() -> None:
    with pytest.raises(ValueError, match="4 octets, not 3"):
        hash_password("guest", b"sal")
