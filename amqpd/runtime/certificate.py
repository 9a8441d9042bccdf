"""When a certificate ends: the one thing in it that this program reads by itself.

Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {
    [0] version OPTIONAL, serialNumber, signature, issuer,
    validity SEQUENCE { notBefore Time, notAfter Time }, ... } ... }        (RFC 5280, 4.1)
"""

from __future__ import annotations

import ssl
from calendar import timegm
from typing import Final

BEGIN: Final = "-----BEGIN CERTIFICATE-----"
END: Final = "-----END CERTIFICATE-----"
EXPLICIT_VERSION: Final = 0xA0
UTC_TIME: Final = 0x17


def certificate_end_s(pem: str) -> float:
    """The end of the first certificate in the text, in seconds since 1970.

    Raises ValueError where there is none.
    """
    start, end = pem.find(BEGIN), pem.find(END)
    if start < 0 or end < start:
        raise ValueError("no certificate in PEM")
    whole = ssl.PEM_cert_to_DER_cert(pem[start : end + len(END)] + "\n")
    try:
        _, certificate = _item(whole, 0)[:2]
        _, fields = _item(certificate, 0)[:2]
        tag, _, offset = _item(fields, 0)
        # serialNumber, signature, issuer; and before them the version, where there is one.
        for _ in range(3 if tag == EXPLICIT_VERSION else 2):
            offset = _item(fields, offset)[2]
        _, validity, _ = _item(fields, offset)
        tag, text, _ = _item(validity, _item(validity, 0)[2])
    except IndexError as error:
        raise ValueError("the certificate is cut off") from error
    return _time(tag, text.decode("ascii"))


def _item(data: bytes, offset: int) -> tuple[int, bytes, int]:
    """Tag and content at an offset, and where the next item begins."""
    tag, length, start = data[offset], data[offset + 1], offset + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
    return tag, data[start : start + length], start + length


def _time(tag: int, text: str) -> float:
    """YYMMDDHHMMSSZ up to 2049, YYYYMMDDHHMMSSZ from then on."""
    if tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    year, *rest = int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))
    return timegm((year, *rest, 0, 0, 0))
