"""Runtime parameters: settings that are made while the broker runs, and kept.

    parameters.set("/", "shovel", "move", {...})      component, name and value, in a virtual host
    parameters.set_global("cluster_name", "east")     name and value, of the whole broker

Policies, operator policies and limits of virtual hosts are parameters too, as in RabbitMQ. What a
value has to look like, and what it brings about, is for its component:

    parameters.register(ShovelComponent())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from amqpd.broker.definitions import GlobalParameterRecord, ParameterRecord, drop, encode
from amqpd.broker.events import INTERNAL_USER, Events
from amqpd.config import Limits
from amqpd_storage.entries import Entry

POLICY: Final = "policy"


class InvalidParameter(ValueError):
    """A parameter is refused; `str()` is what RabbitMQ tells, `problems` are its parts."""

    def __init__(self, *problems: str, heading: str = "Validation failed\n\n") -> None:
        super().__init__(heading + "\n".join(problems) + ("\n" if heading else ""))
        self.problems = problems


class NoSuchParameter(LookupError):
    """There is nothing of that name to clear."""

    def __init__(self) -> None:
        super().__init__("Parameter does not exist")


class NoSuchVhost(LookupError):
    """The virtual host does not exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"vhost '{name}' does not exist")
        self.name = name


class Component(Protocol):
    """What stands behind the parameters of one kind."""

    @property
    def name(self) -> str:
        """As it is called in the HTTP API and in definitions."""
        ...

    def check(self, name: str, value: Any) -> list[str]:
        """What is wrong with a value, in RabbitMQ's words; nothing if it may be set."""
        ...

    def changed(self, vhost: str, name: str, value: Any, by: str) -> None:
        """The parameter was set, also while recovering. `check` has passed the value."""
        ...

    def cleared(self, vhost: str, name: str, by: str) -> None:
        """The parameter is gone."""
        ...


class Parameters:
    """All runtime parameters of a broker, and those that are global."""

    def __init__(
        self,
        limits: Limits,
        journal: Callable[[Iterable[Entry]], None],
        has_vhost: Callable[[str], bool],
        events: Events,
    ) -> None:
        self._events = events
        self._limits = limits
        self._journal = journal
        self._has_vhost = has_vhost
        self._components: dict[str, Component] = {}
        self._values: dict[tuple[str, str, str], ParameterRecord] = {}
        self._global: dict[str, GlobalParameterRecord] = {}

    def register(self, component: Component) -> None:
        """Take parameters of this component from now on."""
        self._components[component.name] = component

    def has(self, component: str) -> bool:
        """Whether there is such a component."""
        return component in self._components

    def component(self, name: str) -> Component:
        """What stands behind parameters of this kind. Raises LookupError."""
        return self._components[name]

    # -- parameters of a virtual host

    def check(self, component: str, name: str, value: Any) -> None:
        """Raises InvalidParameter for what `set` would refuse."""
        known = self._components.get(component)
        if known is None:
            raise InvalidParameter(f"component {component} not found")
        problems = known.check(name, value)
        if problems:
            raise InvalidParameter(*problems)
        self.check_size(value)

    def set(
        self, vhost: str, component: str, name: str, value: Any, *, by: str = INTERNAL_USER
    ) -> bool:
        """Set a parameter; whether it is a new one. `by` is the user who asked for it.

        Raises InvalidParameter for what is wrong with it, NoSuchVhost. Policies have an entrance of
        their own, `set_any`.
        """
        if component == POLICY:
            raise InvalidParameter("policies may not be set using this method", heading="")
        return self.set_any(vhost, component, name, value, by=by)

    def set_any(
        self, vhost: str, component: str, name: str, value: Any, *, by: str = INTERNAL_USER
    ) -> bool:
        """The same, for policies too."""
        if not self._has_vhost(vhost):
            raise NoSuchVhost(vhost)
        self.check(component, name, value)
        key = (vhost, component, name)
        before = self._values.get(key)
        if before is None:
            self.require_room(1)
        if before is None or before.value != value:
            record = ParameterRecord(vhost, component, name, value)
            self._values[key] = record
            self._journal([encode(record)])
            if component != POLICY:
                told = {"vhost": vhost, "component": component, "name": name, "value": value}
                self._events.emit("parameter.set", told, by)
            self._components[component].changed(vhost, name, value, by)
        return before is None

    def clear(self, vhost: str, component: str, name: str, *, by: str = INTERNAL_USER) -> None:
        """Forget a parameter. Raises NoSuchParameter, InvalidParameter for a policy."""
        if component == POLICY:
            raise InvalidParameter("policies may not be cleared using this method", heading="")
        self.clear_any(vhost, component, name, by=by)

    def clear_any(self, vhost: str, component: str, name: str, *, by: str = INTERNAL_USER) -> None:
        """The same, for policies too."""
        record = self._values.pop((vhost, component, name), None)
        if record is None:
            raise NoSuchParameter
        self._journal([drop(record)])
        if component != POLICY:
            told = {"vhost": vhost, "component": component, "name": name}
            self._events.emit("parameter.cleared", told, by)
        self._components[component].cleared(vhost, name, by)

    def value(self, vhost: str, component: str, name: str) -> Any:
        """The value of a parameter; None if it is not set."""
        record = self._values.get((vhost, component, name))
        return None if record is None else record.value

    def records(
        self, *, vhost: str | None = None, component: str | None = None
    ) -> list[ParameterRecord]:
        """Parameters of a virtual host, of a component, or all. Policies only if asked for."""
        return [
            record
            for record in self._values.values()
            if (vhost is None or record.vhost == vhost)
            and (record.component == component if component else record.component != POLICY)
        ]

    def drop_vhost(self, vhost: str, *, by: str = INTERNAL_USER) -> None:
        """The virtual host goes, and its parameters with it."""
        for key in [key for key in self._values if key[0] == vhost]:
            self.clear_any(*key, by=by)

    # -- global parameters

    def set_global(self, name: str, value: Any, *, by: str = INTERNAL_USER) -> bool:
        """Set a global parameter; whether it is a new one. Raises InvalidParameter."""
        self.check_size(value)
        before = self._global.get(name)
        if before is None:
            self.require_global_room(1)
        if before is None or before.value != value:
            record = GlobalParameterRecord(name, value)
            self._global[name] = record
            self._journal([encode(record)])
            told = {"component": "global", "name": name, "value": value}
            self._events.emit("parameter.set", told, by)
        return before is None

    def clear_global(self, name: str, *, by: str = INTERNAL_USER) -> None:
        """Forget a global parameter. Raises NoSuchParameter."""
        record = self._global.pop(name, None)
        if record is None:
            raise NoSuchParameter
        self._journal([drop(record)])
        self._events.emit("parameter.cleared", {"component": "global", "name": name}, by)

    def global_value(self, name: str) -> Any:
        """The value of a global parameter; None if it is not set."""
        record = self._global.get(name)
        return None if record is None else record.value

    def global_records(self) -> list[GlobalParameterRecord]:
        """All global parameters."""
        return list(self._global.values())

    # -- recovery

    def restore(self, record: ParameterRecord | GlobalParameterRecord) -> None:
        """Take in what the journal remembers. Raises ValueError, LookupError if unusable.

        It was checked when it was set. What another profile would refuse now stays in force.
        """
        if isinstance(record, GlobalParameterRecord):
            self._global[record.name] = record
            return
        if not self._has_vhost(record.vhost):
            raise NoSuchVhost(record.vhost)
        component = self._components.get(record.component)
        if component is None:
            raise InvalidParameter(f"component {record.component} not found")
        self._values[record.vhost, record.component, record.name] = record
        component.changed(record.vhost, record.name, record.value, INTERNAL_USER)

    def require_room(self, count: int) -> None:
        """Raises InvalidParameter if so many new parameters are too many."""
        self._require_room(len(self._values) + count)

    def require_global_room(self, count: int) -> None:
        """Raises InvalidParameter if so many new global parameters are too many."""
        self._require_room(len(self._global) + count)

    def _require_room(self, count: int) -> None:
        if count > self._limits.parameters_max:
            raise InvalidParameter(f"limit of {self._limits.parameters_max} parameters is reached")

    def check_size(self, value: Any) -> None:
        """Raises InvalidParameter for a value that is larger than it may be."""
        most = self._limits.parameter_bytes_max
        try:
            size = len(msgspec.json.encode(value))
        except (OverflowError, UnicodeError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidParameter(f"value cannot be kept: {error}") from None
        if size > most:
            raise InvalidParameter(f"value is larger than {most} bytes")
