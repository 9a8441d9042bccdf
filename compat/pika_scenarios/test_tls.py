"""The same over TLS, with the broker's authority and with one that has signed nothing."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import pika
import pytest

if TYPE_CHECKING:
    from compat.pika_scenarios.conftest import Scene


def over_tls(authority: str) -> pika.ConnectionParameters:
    """To the broker's other port, for those who trust this authority."""
    url, folder = os.environ.get("AMQPS_URL"), os.environ.get("CERTIFICATES")
    if not url or not folder:
        pytest.skip("AMQPS_URL and CERTIFICATES name no listener for TLS")
    parameters = pika.URLParameters(url)
    context = ssl.create_default_context(cafile=f"{folder}/{authority}")
    parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    return parameters


def test_publish_and_get(scene: Scene) -> None:
    connection = pika.BlockingConnection(over_tls("ca.pem"))
    scene.connections.append(connection)
    channel = connection.channel()
    channel.confirm_delivery()
    queue = scene.queue(channel)
    body = os.urandom(1 << 20)
    channel.basic_publish("", queue, body)
    assert scene.bodies(channel, queue) == [body]


def test_an_authority_that_is_not_trusted() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        pika.BlockingConnection(over_tls("other-ca.pem"))
