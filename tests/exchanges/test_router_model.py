"""A router that remembers, against a model that works everything out anew each time.

Whatever is declared, bound, removed or set in whatever order: every exchange and key leads to the
queues of the model, each once, and when an answer changes, so has `version`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amqpd_exchanges.exchange import Arguments, Exchange
from amqpd_exchanges.router import Router
from tests.exchanges.content import Content

QUEUES = ["q1", "q2", "q3"]
NAMES = ["x1", "x2", "x3", "x4"]
KEYS = ["", "a", "a.b", "q1"]
BINDING_KEYS = [*KEYS, "#", "*", "a.*", "#.b"]
HEADERS: list[Arguments] = [{}, {"n": ("I", 1)}, {"n": ("l", 2), "m": ("S", "s")}]
ARGUMENTS: list[Arguments] = [
    {},
    {"n": ("I", 1)},
    {"x-match": ("S", "any"), "n": ("I", 2), "m": ("V", None)},
]

Place = tuple[str, str]  # ("queue" or "exchange", name)


def topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(topic_matches(pattern[1:], words[n:]) for n in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and topic_matches(pattern[1:], words[1:])


def headers_match(arguments: Arguments, headers: Arguments) -> bool:
    if not arguments:
        return True
    number = headers.get("n", ("V", None))[1]
    if "x-match" not in arguments:
        return bool(number == 1)
    return number == 2 or "m" in headers


class Model:
    """Lists and loops."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.alternates: dict[str, str | None] = {}
        self.queues: list[str] = []
        self.bindings: list[tuple[str, Place, str, Arguments]] = []

    def matched(self, name: str, key: str, headers: Arguments) -> list[Place]:
        if name == "":
            return [("queue", key)] if key in self.queues else []
        kind = self.kinds[name]
        return [
            destination
            for source, destination, binding_key, arguments in self.bindings
            if source == name
            and (
                kind == "fanout"
                or (kind == "direct" and binding_key == key)
                or (kind == "headers" and headers_match(arguments, headers))
                or (
                    kind == "topic"
                    and topic_matches(
                        binding_key.split(".") if binding_key else [],
                        key.split(".") if key else [],
                    )
                )
            )
        ]

    def route(self, start: str, keys: Sequence[str], headers: Arguments) -> set[str]:
        reached: set[str] = set()
        waiting, seen = [start], {start}
        while waiting:
            name = waiting.pop()
            places = [place for key in keys for place in self.matched(name, key, headers)]
            alternate = self.alternates.get(name)
            if not places and alternate is not None and alternate in self.kinds:
                places = [("exchange", alternate)]
            for place, found in places:
                if place == "queue":
                    reached.add(found)
                elif found not in seen:
                    seen.add(found)
                    waiting.append(found)
        return reached


class RouterMachine(RuleBasedStateMachine):
    """Every step is done to both."""

    @initialize(cache_max=st.sampled_from([0, 5, 1000]))
    def begin(self, cache_max: int) -> None:
        self.router: Router[str] = Router(cache_max)
        self.model = Model()
        self.answers: dict[tuple[str, str, int], set[str]] = {}
        self.version = -1

    @rule(
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(["direct", "fanout", "topic", "headers"]),
        alternate=st.sampled_from([None, *NAMES]),
    )
    def declare(self, name: str, kind: str, alternate: str | None) -> None:
        if name not in self.model.kinds:
            self.router.declare(name, kind, alternate)
            self.model.kinds[name] = kind
            self.model.alternates[name] = alternate

    @rule(data=st.data())
    @precondition(lambda self: self.model.kinds)
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.kinds)))
        place = ("exchange", name)
        gone = [entry for entry in self.model.bindings if entry[0] == name or entry[1] == place]
        assert len(self.router.delete(name)) == len(gone)
        self.model.bindings = [entry for entry in self.model.bindings if entry not in gone]
        del self.model.kinds[name]
        del self.model.alternates[name]

    @rule(data=st.data(), alternate=st.sampled_from([None, *NAMES]))
    @precondition(lambda self: self.model.kinds)
    def set_alternate(self, data: st.DataObject, alternate: str | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.kinds)))
        self.exchange(name).alternate = alternate
        self.model.alternates[name] = alternate

    @rule(name=st.sampled_from(QUEUES))
    def add_queue(self, name: str) -> None:
        if name not in self.model.queues:
            self.router.add_queue(name, name)
            self.model.queues.append(name)

    @rule(name=st.sampled_from(QUEUES))
    def remove_queue(self, name: str) -> None:
        gone = [entry for entry in self.model.bindings if entry[1] == ("queue", name)]
        assert len(self.router.remove_queue(name, name)) == len(gone)
        self.model.bindings = [entry for entry in self.model.bindings if entry not in gone]
        self.model.queues = [queue for queue in self.model.queues if queue != name]

    @rule(data=st.data())
    @precondition(lambda self: self.model.kinds)
    def bind(self, data: st.DataObject) -> None:
        names = sorted(self.model.kinds)
        places = [("queue", queue) for queue in QUEUES] + [("exchange", name) for name in names]
        entry = (
            data.draw(st.sampled_from(names)),
            data.draw(st.sampled_from(places)),
            data.draw(st.sampled_from(BINDING_KEYS)),
            data.draw(st.sampled_from(ARGUMENTS)),
        )
        source, place, key, arguments = entry
        added = self.router.bind(source, self.destination(place), key, arguments)
        assert (added is None) == (entry in self.model.bindings)
        if added is not None:
            self.model.bindings.append(entry)

    @rule(data=st.data())
    @precondition(lambda self: self.model.bindings)
    def unbind(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model.bindings))
        source, place, key, arguments = entry
        destination = self.destination(place)
        assert self.router.unbind(source, destination, key, arguments) is not None
        assert self.router.unbind(source, destination, key, arguments) is None
        self.model.bindings.remove(entry)

    @rule(
        data=st.data(),
        keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=3),
        headers=st.sampled_from(HEADERS),
    )
    def route_with_extra_keys(
        self, data: st.DataObject, keys: list[str], headers: Arguments
    ) -> None:
        name = data.draw(st.sampled_from(["", *sorted(self.model.kinds)]))
        found = self.router.route(self.exchange(name), keys[0], Content(headers), keys[1:])
        assert len(found) == len(set(found))
        assert set(found) == self.model.route(name, keys, headers)

    @invariant()
    def every_answer_is_the_models(self) -> None:
        answers = {}
        for name in ["", *self.model.kinds]:
            for key in KEYS:
                for number, headers in enumerate(HEADERS):
                    found = self.router.route(self.exchange(name), key, Content(headers))
                    assert len(found) == len(set(found))
                    assert set(found) == self.model.route(name, [key], headers)
                    answers[name, key, number] = set(found)
        if answers != self.answers:
            assert self.router.version > self.version
        self.answers, self.version = answers, self.router.version

    @invariant()
    def the_lists_agree(self) -> None:
        for name in self.model.kinds:
            exchange = self.exchange(name)
            entries = [entry for entry in self.model.bindings if entry[0] == name]
            assert [b.routing_key for b in exchange.bindings] == [entry[2] for entry in entries]
        for queue in QUEUES:
            entries = [entry for entry in self.model.bindings if entry[1] == ("queue", queue)]
            listed = [(b.source.name, b.routing_key) for b in self.router.bindings_to(queue)]
            assert listed == [(entry[0], entry[2]) for entry in entries]

    def exchange(self, name: str) -> Exchange[str]:
        found = self.router.find(name)
        assert found is not None
        return found

    def destination(self, place: Place) -> str | Exchange[str]:
        return self.exchange(place[1]) if place[0] == "exchange" else place[1]


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
