from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpd_storage.errors import DamagedStore
from amqpd_storage.records import HEAD_BYTES, decode_record, encode_record
from tests.storage.contents import PublishedContent

CONTENTS = st.builds(
    PublishedContent,
    st.binary(max_size=5000),
    envelope=st.binary(max_size=512),
    properties=st.binary(max_size=300),
)


@given(CONTENTS)
def test_record_gives_the_message_back(content: PublishedContent) -> None:
    message = decode_record(encode_record(content))

    assert message == (content.envelope, content.properties, content.body)


@given(CONTENTS, st.data())
def test_cut_record_is_refused(content: PublishedContent, data: st.DataObject) -> None:
    record = encode_record(content)
    cut = data.draw(st.integers(0, len(record) - 1))

    with pytest.raises(DamagedStore, match="message record"):
        decode_record(record[:cut])


@given(CONTENTS, st.binary(min_size=1, max_size=10))
def test_record_with_a_tail_is_refused(content: PublishedContent, tail: bytes) -> None:
    with pytest.raises(DamagedStore, match="announces"):
        decode_record(encode_record(content) + tail)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_record_or_refused(record: bytes) -> None:
    try:
        message = decode_record(record)
    except DamagedStore:
        return
    assert sum(map(len, message)) + HEAD_BYTES == len(record)


def test_record_of_a_later_kind_is_refused() -> None:
    record = b"\x02" + encode_record(PublishedContent(b"body"))[1:]

    with pytest.raises(DamagedStore, match="unknown kind 2"):
        decode_record(record)
