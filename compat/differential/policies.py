"""Policies, which clients cannot set: by the HTTP API of both brokers.

What RabbitMQ answered has been told to its queues: from then on their processes know of it before
they hear of anything else that is said.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

HTTP_SECONDS: Final = 120.0
AUTHORIZATION: Final = "Basic " + base64.b64encode(b"guest:guest").decode()


class PolicyClient:
    """The policies of one virtual host of one broker."""

    def __init__(self, url: str, vhost: str) -> None:
        """`url` is the HTTP API's, without a path."""
        address = urllib.parse.urlsplit(url)
        self._http = http.client.HTTPConnection(
            address.hostname or "127.0.0.1", address.port, timeout=HTTP_SECONDS
        )
        self._path = f"/api/policies/{urllib.parse.quote(vhost, safe='')}"

    def put(self, name: str, policy: Mapping[str, Any]) -> int:
        """Set a policy; the HTTP status."""
        return self._ask("PUT", name, json.dumps(policy))

    def delete(self, name: str) -> int:
        """Take a policy away; the HTTP status."""
        return self._ask("DELETE", name, None)

    def _ask(self, verb: str, name: str, body: str | None) -> int:
        path = f"{self._path}/{urllib.parse.quote(name, safe='')}"
        headers = {"authorization": AUTHORIZATION, "content-type": "application/json"}
        try:
            self._http.request(verb, path, body, headers)
            response = self._http.getresponse()
        except (ConnectionError, http.client.BadStatusLine):
            # The connection was idle for long, and the server has closed it: it has done nothing.
            self._http.close()
            self._http.request(verb, path, body, headers)
            response = self._http.getresponse()
        response.read()
        return response.status
