from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd_storage.entries import Content
from amqpd_storage.errors import DamagedStore
from amqpd_storage.records import HEAD_BYTES, decode_record, encode_record
from tests.storage.contents import make_content

CONTENTS = st.builds(
    make_content,
    st.binary(max_size=5000),
    envelope=st.binary(max_size=512),
    properties=st.binary(max_size=300),
)


TIMES = st.one_of(st.just(0), st.integers(1, (1 << 64) - 1))


@given(CONTENTS, TIMES)
def test_record_gives_the_message_back(content: Content, expires_ms: int) -> None:
    message = decode_record(encode_record(content, expires_ms))

    assert message == (content.envelope, content.properties, content.body, expires_ms)


@given(CONTENTS, TIMES, st.data())
def test_cut_record_is_refused(content: Content, expires_ms: int, data: st.DataObject) -> None:
    record = encode_record(content, expires_ms)
    cut = data.draw(st.integers(0, len(record) - 1))

    with pytest.raises(DamagedStore, match="message record"):
        decode_record(record[:cut])


@given(CONTENTS, TIMES, st.binary(min_size=1, max_size=10))
def test_record_with_a_tail_is_refused(content: Content, expires_ms: int, tail: bytes) -> None:
    with pytest.raises(DamagedStore, match="announces"):
        decode_record(encode_record(content, expires_ms) + tail)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_record_or_refused(record: bytes) -> None:
    try:
        message = decode_record(record)
    except DamagedStore:
        return
    octets = len(message.envelope) + len(message.properties) + len(message.body)
    assert len(record) - octets in (HEAD_BYTES, HEAD_BYTES + 8)


def test_record_of_a_later_kind_is_refused() -> None:
    record = b"\x03" + encode_record(make_content(b"body"))[1:]

    with pytest.raises(DamagedStore, match="unknown kind 3"):
        decode_record(record)
