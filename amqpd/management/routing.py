"""From a path to the handler for it.

    table.add("/queues/{vhost}/{name}", GET=(show, in_virtual_host), PUT=(declare, in_virtual_host))

A path is taken apart before it is percent-decoded: `%2F` is a virtual host, not two segments. A
fixed segment wins over a place for a name, so `/queues/detailed` is not a virtual host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from amqpd.management.auth import Rule
from amqpd.management.call import Answer, Call

Handler = Callable[[Call], Answer]
PREFIX: Final = "/api"


class Resource:
    """What is at a path: handlers by method, and the names of the places in the path."""

    def __init__(self, names: tuple[str, ...], handlers: dict[str, tuple[Handler, Rule]]) -> None:
        self.names = names
        self.handlers = handlers

    @property
    def allow(self) -> str:
        """The header of that name, in RabbitMQ's order."""
        reading = ["HEAD", "GET"] if "GET" in self.handlers else []
        changing = [name for name in ("PUT", "POST", "DELETE") if name in self.handlers]
        return ", ".join([*reading, *changing, "OPTIONS"])


class _Step:
    """A segment of the paths that begin alike."""

    __slots__ = ("any", "fixed", "resource")

    def __init__(self) -> None:
        self.fixed: dict[str, _Step] = {}
        self.any: _Step | None = None
        self.resource: Resource | None = None


class Table:
    """All resources."""

    def __init__(self) -> None:
        self._root = _Step()

    def add(self, path: str, **handlers: tuple[Handler, Rule]) -> None:
        """A resource. `{name}` stands for one segment."""
        step = self._root
        names: list[str] = []
        for segment in path.strip("/").split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                step.any = step.any or _Step()
                step = step.any
            else:
                step = step.fixed.setdefault(segment, _Step())
        assert step.resource is None, f"{path} is there twice"
        step.resource = Resource(tuple(names), handlers)

    def find(self, raw_path: str) -> tuple[Resource, dict[str, str]] | None:
        """The resource at a path as it came, and what stands in its places."""
        if not raw_path.startswith(PREFIX + "/"):
            return None
        segments = [unquote(part) for part in raw_path[len(PREFIX) + 1 :].rstrip("/").split("/")]
        found = _find(self._root, segments, 0, ())
        if found is None:
            return None
        resource, values = found
        return resource, dict(zip(resource.names, values, strict=True))


def _find(
    step: _Step, segments: list[str], index: int, values: tuple[str, ...]
) -> tuple[Resource, tuple[str, ...]] | None:
    if index == len(segments):
        return None if step.resource is None else (step.resource, values)
    segment = segments[index]
    fixed = step.fixed.get(segment)
    if fixed is not None:
        found = _find(fixed, segments, index + 1, values)
        if found is not None:
            return found
    if step.any is None:
        return None
    return _find(step.any, segments, index + 1, (*values, segment))
