"""Short strings (AMQP 0-9-1, 4.2.5.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd.short_string import (
    SHORT_STRING_OCTETS_MAX,
    cut_to_short_string,
    fits_short_string,
    short_string,
)

octet_strings = st.binary(max_size=2 * SHORT_STRING_OCTETS_MAX)


def test_an_octet_says_how_many_there_are() -> None:
    assert short_string("") == b"\x00"
    assert short_string("é") == b"\x02\xc3\xa9"
    assert short_string("c" * 255) == b"\xff" + b"c" * 255


def test_what_is_longer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'(é){32}'\.\.\. has 256 octets"):
        short_string("é" * 128)


@given(octet_strings)
def test_octets_go_out_as_they_came_in(octets: bytes) -> None:
    text = octets.decode("utf-8", "surrogateescape")
    assert fits_short_string(text) == (len(octets) <= SHORT_STRING_OCTETS_MAX)
    if fits_short_string(text):
        assert short_string(text) == bytes((len(octets),)) + octets


@given(octet_strings)
def test_what_is_cut_keeps_its_first_octets(octets: bytes) -> None:
    text = cut_to_short_string(octets.decode("utf-8", "surrogateescape"))
    assert short_string(text)[1:] == octets[:SHORT_STRING_OCTETS_MAX]
