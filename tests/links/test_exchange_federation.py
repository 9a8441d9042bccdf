"""Exchange federation between brokers in one process, over a virtual network."""

from __future__ import annotations

import itertools
from typing import Any, Final

import pytest

from amqpd.broker.alarms import Alarm
from amqpd.broker.handlers import exchange as exchange_handlers
from amqpd.links.client import FRAME_BYTES_MAX
from amqpd.links.exchange_link import BINDINGS_UNDER_WAY_MAX, ExchangeLink
from amqpd.links.link import LinkFailed
from amqpd.wire.properties import USER_ID, read_headers, read_property
from tests.conversation import PERSISTENT, properties
from tests.links.network import Network, Site, network

pytestmark = pytest.mark.anyio

QUEUE = "federation: x -> down"
BODIES = [b"%d" % number for number in range(50)]


async def federated(
    net: Network, type: str = "topic", key: str = "a.*", **fields: Any
) -> tuple[Site, Site]:
    """Exchange x of `down` gets what is published to that of `up`, for its queue q."""
    up, down = net["up"], net["down"]
    down.channel.exchange_declare("x", type, durable=True)
    down.channel.queue_declare("q", durable=True)
    down.channel.queue_bind("q", "x", key)
    down.upstream("up", **fields)
    down.policy("^x$", {"federation-upstream": "up"})
    await net.settle()
    return up, down


def refuse_all_but_one(site: Site, key: str) -> None:
    """Of what comes to exchange x by that key: queue `full` takes no more."""
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    site.channel.queue_declare("full", arguments=limits)
    site.channel.queue_bind("full", "x", key)


async def test_what_is_published_upstream_arrives_here() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        assert down.link()["status"] == "running"
        for body in BODIES:
            up.channel.publish("x", "a.b", body)
            up.channel.publish("x", "b.b", b"nobody wants this")
        await net.settle()
        assert down.channel.drain("q") == BODIES
        assert up.channel.counts(QUEUE) == (0, 1)


async def test_everything_upstream_is_named_as_rabbitmq_names_it() -> None:
    async with network("up", "down") as net:
        up, _ = await federated(net, max_hops=3, expires=60_000, message_ttl=5000)
        assert up.queues() == [QUEUE]
        assert up.internal_exchanges() == [f"{QUEUE} A"]
        host = up.core.virtual_hosts["/"]
        exchange, queue = host.exchanges[f"{QUEUE} A"], host.queues[QUEUE]
        assert (exchange.durable, exchange.auto_delete, exchange.internal) == (True, True, True)
        assert exchange.type == "x-federation-upstream"
        assert exchange.arguments == {
            "x-max-hops": ("l", 3),
            "x-downstream-name": ("S", "down"),
            "x-downstream-vhost": ("S", "/"),
            "x-internal-purpose": ("S", "federation"),
        }
        assert (queue.durable, queue.auto_delete) == (True, False)
        assert queue.arguments == {
            "x-internal-purpose": ("S", "federation"),
            "x-expires": ("l", 60_000),
            "x-message-ttl": ("l", 5000),
            "x-queue-type": ("S", "classic"),
        }
        assert host.exchanges["x"].type == "topic"
        (binding,) = host.exchanges["x"].table.bindings
        (bound_from,) = binding.arguments["x-bound-from"][1]
        assert (binding.destination.name, binding.routing_key) == (f"{QUEUE} A", "a.*")
        assert list(bound_from[1].items()) == [
            ("cluster-name", ("S", "down")),
            ("vhost", ("S", "/")),
            ("exchange", ("S", "/:x A")),
            ("hops", ("s", 3)),
        ]


@pytest.mark.parametrize(
    ("fields", "queue"),
    [
        ({"exchange": "other"}, "federation: other -> down:x"),
        ({"uri": "amqp://up/v?heartbeat=0"}, "federation: x -> down:/:x"),
        ({"uri": "amqp://up/v", "exchange": "other"}, "federation: other -> down:/:x"),
    ],
)
async def test_what_differs_at_both_ends_is_part_of_the_name(
    fields: dict[str, Any], queue: str
) -> None:
    async with network("up", "down") as net:
        net["up"].add_vhost("v")
        up, down = await federated(net, **fields)
        vhost = "v" if "uri" in fields else "/"
        assert list(up.core.virtual_hosts[vhost].queues) == [queue]
        channel = up.client(vhost=vhost).channel()
        channel.publish(fields.get("exchange", "x"), "a.b", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]


async def test_the_header_says_where_a_message_came_from() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net, exchange="other", uri="amqp://guest:guest@up:5672/%2F")
        own = {"n": ("l", 1), "x": ("u", 2)}
        sent = properties(headers=own, content_type="text/plain", delivery_mode=2, priority=3)
        up.channel.publish("other", "a.b", b"m", sent)
        up.channel.publish("other", "a.b", b"plain", properties())
        await net.settle()
        for headers in (own, {}):
            got = down.channel.get("q", no_ack=True)
            assert got is not None
            assert (got.exchange, got.routing_key) == ("x", "a.b")
            read = read_headers(got.properties, 64)
            octet, entries = read.pop("x-received-from")
            assert (octet, len(entries)) == ("A", 1)
            assert list(entries[0][1].items()) == [
                ("uri", ("S", "amqp://up:5672/%2F")),
                ("exchange", ("S", "x")),
                ("redelivered", ("t", False)),
                ("cluster-name", ("S", "up")),
                ("vhost", ("S", "/")),
            ]
            assert read == headers


EVERY_TYPE: Final = (
    b"\x01at\x01\x01bb\xff\x01cB\xff\x01ds\xff\xff\x01eu\xff\xff\x01fI\xff\xff\xff\xff\x01gi\xff\xff\xff\xff"
    b"\x01hl\xff\xff\xff\xff\xff\xff\xff\xff\x01iL\xff\xff\xff\xff\xff\xff\xff\xff\x01jf\x80\x00\x00\x01"
    b"\x01kd\x80\x00\x00\x00\x00\x00\x00\x01\x01lD\x02\x00\x00\x00\x07\x01mS\x00\x00\x00\x02\xff\xfe"
    b"\x01nA\x00\x00\x00\x02t\x01\x01oT\x00\x00\x00\x00\x00\x00\x00\x07\x01pF\x00\x00\x00\x00\x01qV"
    b"\x01rx\x00\x00\x00\x01\xff\x01aS\x00\x00\x00\x05again"
)
"""Every type, some with values that a detour would change, and a name that comes twice."""


@pytest.mark.parametrize("of", ["exchange", "queue"])
async def test_the_octets_of_headers_pass_over_three_links_as_they_came(of: str) -> None:
    names = ["one", "two", "three", "four"]
    async with network(*names) as net:
        for name in names:
            net[name].channel.exchange_declare("exchange", "fanout")
            net[name].channel.queue_declare("queue")
            if of == "exchange":
                net[name].channel.queue_bind("queue", "exchange")
        for left, right in itertools.pairwise(names):
            net[right].upstream(left, max_hops=3)
            net[right].policy(f"^{of}$", {"federation-upstream": left})
        await net.settle()
        table = len(EVERY_TYPE).to_bytes(4, "big") + EVERY_TYPE
        target = ("", "queue") if of == "queue" else ("exchange", "")
        net["one"].channel.publish(*target, b"m", b"\x20\x00" + table)
        for name in names[1:]:
            # What is in a queue goes on as soon as somebody wants it at the next one.
            consumer = net[name].client().channel()
            consumer.consume("queue")
            await net.settle()
            (got,) = consumer.deliveries()
            assert EVERY_TYPE in got.properties, name
            hops = read_headers(got.properties, 64)["x-received-from"][1]
            assert len(hops) == names.index(name)
            consumer.close()
            await net.settle()


@pytest.mark.parametrize("value", ["text", 7, None, {"uri": "amqp://"}])
async def test_what_a_client_put_in_the_place_of_the_header_is_kept_aside(value: Any) -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        up.channel.publish("x", "a.b", b"m", properties(headers={"x-received-from": value}))
        await net.settle()
        got = down.channel.get("q", no_ack=True)
        assert got is not None
        headers = read_headers(got.properties, 64)
        assert len(headers["x-received-from"][1]) == 1
        assert headers["x-invalid-headers"][1]["x-received-from"][0] == "A"


@pytest.mark.parametrize("trusted", [False, True])
async def test_the_user_id_goes_unless_it_is_trusted(trusted: bool) -> None:
    async with network("up", "down") as net:
        up, down = await federated(net, trust_user_id=trusted)
        up.channel.publish("x", "a.b", b"m", properties(user_id="guest", app_id="app"))
        await net.settle()
        got = down.channel.get("q", no_ack=True)
        assert got is not None
        assert read_property(got.properties, USER_ID) == ("guest" if trusted else None)


async def test_bindings_follow_while_the_link_runs() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        channel, internal = down.channel, f"{QUEUE} A"
        assert up.bindings_of("x") == [(internal, "a.*")]
        channel.queue_declare("r")
        channel.queue_bind("r", "x", "a.*")
        channel.queue_bind("r", "x", "b")
        channel.exchange_declare("y", "fanout")
        channel.exchange_bind("y", "x", "c")
        await net.settle()
        assert up.bindings_of("x") == [(internal, "a.*"), (internal, "b"), (internal, "c")]
        channel.queue_unbind("q", "x", "a.*")
        channel.exchange_delete("y")
        await net.settle()
        assert up.bindings_of("x") == [(internal, "a.*"), (internal, "b")]
        channel.queue_delete("r")
        channel.queue_bind("q", "x", "d")
        await net.settle()
        assert up.bindings_of("x") == [(internal, "d")]


async def test_what_was_unbound_while_the_link_was_away_goes_upstream_too() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        for _ in range(3):
            up.away = True
            net.cut()
            await net.settle()
            assert down.link()["status"] == "error"
            down.channel.queue_bind("q", "x", "late")
            down.channel.queue_unbind("q", "x", "a.*")
            up.away = False
            await net.pass_time(6)
            (internal,) = up.internal_exchanges()
            assert up.bindings_of("x") == [(internal, "late")]
            down.channel.queue_bind("q", "x", "a.*")
            down.channel.queue_unbind("q", "x", "late")
            await net.settle()
            assert up.bindings_of("x") == [(internal, "a.*")]


async def test_the_queue_upstream_holds_what_comes_while_the_link_is_away() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        down.scope.cancel()
        net.cut()
        for body in BODIES:
            up.channel.publish("x", "a.b", body)
        await net.settle()
        assert up.channel.counts(QUEUE) == (len(BODIES), 0)
        await net.kill("down")
        # Its memory was all it had: it is federated anew, and finds what is left upstream.
        await federated(net)
        assert net["down"].channel.drain("q") == BODIES
        assert up.internal_exchanges() == [f"{QUEUE} B"]


async def test_a_link_that_was_cut_between_two_sets_of_bindings_leaves_one() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        down.scope.cancel()
        net.cut()
        await net.settle()
        arguments = {"x-max-hops": ("l", 1)}
        up.channel.exchange_declare(
            f"{QUEUE} B", "x-federation-upstream", durable=True, internal=True, arguments=arguments
        )
        up.channel.queue_bind(QUEUE, f"{QUEUE} B", "")
        up.channel.exchange_bind(f"{QUEUE} B", "x", "stale")
        up.channel.publish("x", "a.b", b"kept")
        net.tasks.start_soon(down.run)
        await net.settle()
        assert up.internal_exchanges() == [f"{QUEUE} B"]
        assert up.bindings_of("x") == [(f"{QUEUE} B", "a.*")]
        assert down.channel.drain("q") == [b"kept"]


@pytest.mark.parametrize("how", ["policy", "upstream", "exchange"])
@pytest.mark.parametrize("clean_up", ["default", "never"])
async def test_what_nobody_wants_any_more_is_taken_away(how: str, clean_up: str) -> None:
    async with network("up", "down") as net:
        up, down = await federated(net, resource_cleanup_mode=clean_up)
        if how == "policy":
            down.clear_policy()
        elif how == "upstream":
            down.core.parameters.clear("/", "federation-upstream", "up")
            down.turn()
        else:
            down.channel.exchange_delete("x")
        await net.settle()
        assert down.links() == []
        assert not net.wires
        assert up.queues() == ([] if clean_up == "default" else [QUEUE])
        assert up.internal_exchanges() == ([] if clean_up == "default" else [f"{QUEUE} A"])


async def test_another_form_of_the_same_link_keeps_its_queue_and_repeats_nothing() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        for number, body in enumerate(BODIES):
            up.channel.publish("x", "a.b", body)
            if not number % 10:
                down.upstream("up", prefetch_count=number + 1)
                await net.settle()
        await net.settle()
        assert down.channel.drain("q") == BODIES
        assert up.queues() == [QUEUE]
        assert len(up.internal_exchanges()) == 1


async def test_what_is_wanted_no_more_right_after_it_was_wanted_otherwise_is_taken_away() -> None:
    """The link that goes had left its queue to the one that was to come."""
    async with network("up", "down") as net:
        up, down = await federated(net)
        down.upstream("up", prefetch_count=5)
        down.upstream("up", prefetch_count=6)
        down.clear_policy()
        await net.settle()
        assert (up.queues(), up.internal_exchanges()) == ([], [])


async def test_a_link_begins_when_the_one_before_has_taken_its_queue_away() -> None:
    async with network("up", "down", journaling=True) as net:
        up, down = await federated(net)
        net.commits = False
        up.channel.publish("x", "a.b", b"held", PERSISTENT)
        up.journal.commit()
        await net.settle()
        down.clear_policy()
        await net.settle()
        down.policy("^x$", {"federation-upstream": "up"})
        await net.settle()
        assert down.link()["status"] == "starting"
        net.commits = True
        down.journal.commit()
        await net.settle()
        assert down.link()["status"] == "running"
        for body in BODIES:
            up.channel.publish("x", "a.b", body, PERSISTENT)
        await net.pass_time(10)
        assert down.channel.drain("q") == [b"held", *BODIES]


@pytest.mark.parametrize("running", [True, False])
async def test_a_binding_may_say_anything_of_where_it_came_from(running: bool) -> None:
    """Who binds is a client; and what it says is stored."""
    async with network("up", "down") as net:
        up, down = await federated(net)
        if not running:
            up.away = True
            net.cut("up")
            await net.settle()
        for said in ([5], ["here", {"hops": "many"}], 5, {"hops": 1}):
            down.channel.queue_bind("q", "x", f"c.{said}", arguments={"x-bound-from": said})
        up.away = False
        await net.pass_time(6)
        assert down.link()["status"] == "running"
        up.channel.publish("x", "c.[5]", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]
        down.channel.queue_delete("q")
        await net.settle()
        assert down.link()["status"] == "running"


@pytest.mark.parametrize("error", [KeyError("bug"), LinkFailed("upstream: bug")])
async def test_what_becomes_of_a_link_is_no_matter_of_who_binds(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        failing = [error]
        tell = ExchangeLink._tell_changes

        def fail_once(link: ExchangeLink) -> None:
            if failing:
                raise failing.pop()
            tell(link)

        monkeypatch.setattr(ExchangeLink, "_tell_changes", fail_once)
        down.channel.queue_bind("q", "x", "c")
        await net.settle()
        assert down.link()["status"] == "error"
        await net.pass_time(6)
        up.channel.publish("x", "c", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]


async def test_a_binding_that_fits_no_frame_upstream_stays_here() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        large = {"x": "x" * (FRAME_BYTES_MAX - 500)}
        down.channel.queue_bind("q", "x", "c", arguments=large)
        down.channel.queue_bind("q", "x", "d")
        net.cut("up")
        await net.pass_time(6)
        assert down.link()["status"] == "running"
        assert [key for _, key in up.bindings_of("x")] == ["a.*", "d"]
        for _ in range(3):
            down.channel.queue_unbind("q", "x", "c", arguments=large)
            down.channel.queue_bind("q", "x", "c", arguments=large)
        await net.settle()
        (link,) = [keeper.link for keeper in down.keepers()]
        assert link is not None
        assert len(link.warnings) == 1


async def test_what_one_of_two_queues_refuses_comes_to_the_other_now_and_then() -> None:
    """Not as often as two brokers can."""
    async with network("up", "down") as net:
        up, down = await federated(net)
        refuse_all_but_one(down, "a.*")
        for body in BODIES:
            up.channel.publish("x", "a.b", body)
        await net.pass_time(60)
        assert down.link()["refused"] == 49
        copies, _ = down.channel.counts("q")
        assert 5 * 49 < copies < 20 * 49
        down.channel.queue_unbind("full", "x", "a.*")
        await net.pass_time(31)
        assert down.link()["refused"] == 0
        assert up.channel.counts(QUEUE) == (0, 1)
        assert set(down.channel.drain("q")) == set(BODIES)


async def test_what_is_refused_now_and_then_is_acknowledged_by_itself() -> None:
    """An acknowledgement of all that came before would be one of what was refused, too."""
    async with network("up", "down") as net:
        up, down = await federated(net)
        refuse_all_but_one(down, "a.full")
        for body in BODIES:
            up.channel.publish("x", "a.full" if int(body) % 10 == 9 else "a.b", body)
        await net.settle()
        assert down.link()["refused"] == 4
        assert up.channel.counts(QUEUE) == (0, 1)
        up.away = True
        net.cut("up")
        await net.settle()
        assert up.channel.counts(QUEUE) == (4, 0)


async def test_properties_that_are_long_are_not_kept() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        for number in range(20):
            headers = {"number": number, "long": "x" * 2000}
            up.channel.publish("x", "a.b", b"m", properties(headers=headers))
        await net.settle()
        assert down.channel.counts("q") == (20, 0)
        (link,) = [keeper.link for keeper in down.keepers()]
        assert isinstance(link, ExchangeLink)
        assert not link._rewritten


async def test_an_upstream_that_moves_takes_nothing_with_it() -> None:
    async with network("up", "down", "other") as net:
        up, down = await federated(net)
        down.upstream("up", uri="amqp://other?heartbeat=0")
        await net.settle()
        assert up.queues() == []
        net["other"].channel.publish("x", "a.b", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]


async def test_arguments_of_a_queue_that_is_there_stay_as_they_were() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        down.upstream("up", message_ttl=1000)
        await net.settle()
        assert down.link()["status"] == "running"
        assert "x-message-ttl" not in up.core.virtual_hosts["/"].queues[QUEUE].arguments
        up.channel.publish("x", "a.b", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]


@pytest.mark.parametrize(
    ("definition", "linked"),
    [
        ({"federation-upstream": "one"}, ["one"]),
        ({"federation-upstream": "missing"}, []),
        ({"federation-upstream-set": "all"}, ["one", "two"]),
        ({"federation-upstream-set": "some"}, ["two"]),
        ({"federation-upstream-set": "missing"}, []),
        ({"federation-upstream-pattern": "^t"}, ["two"]),
    ],
)
async def test_policies_say_which_upstreams(definition: dict[str, Any], linked: list[str]) -> None:
    async with network("one", "two", "down") as net:
        down = net["down"]
        parts = [{"upstream": "two", "exchange": "other", "max-hops": 2}, {"upstream": "missing"}]
        down.core.parameters.set("/", "federation-upstream-set", "some", parts)
        for name in ("one", "two"):
            down.upstream(name)
        down.channel.exchange_declare("x", "topic")
        down.channel.exchange_declare("i", "topic", internal=True)
        down.policy("^(x|i|)$", definition)
        await net.settle()
        ours = [link for link in down.links() if link["exchange"] == "x"]
        assert sorted(link["upstream"] for link in ours) == linked
        assert {link["status"] for link in ours} <= {"running"}
        assert not [link for link in down.links() if link["exchange"] in ("", "i")]
        if "some" in definition.values():
            assert ours[0]["upstream_exchange"] == "other"


async def test_upstreams_that_come_later_are_linked_and_sets_may_change() -> None:
    async with network("one", "two", "down") as net:
        down = net["down"]
        down.channel.exchange_declare("x", "topic")
        down.policy("^x$", {"federation-upstream-set": "some"})
        down.core.parameters.set("/", "federation-upstream-set", "some", [{"upstream": "one"}])
        assert down.links() == []
        down.upstream("one")
        down.upstream("two")
        await net.settle()
        assert [link["upstream"] for link in down.links()] == ["one"]
        down.core.parameters.set("/", "federation-upstream-set", "some", [{"upstream": "two"}])
        down.turn()
        await net.settle()
        assert [(link["upstream"], link["status"]) for link in down.links()] == [("two", "running")]
        assert net["one"].queues() == []


async def test_the_status_says_all_there_is() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        up.channel.publish("x", "a.b", b"m")
        await net.pass_time(10)
        status = down.link()
        assert len(status.pop("id")) == 8
        assert status == {
            "node": "amqpd@localhost",
            "exchange": "x",
            "upstream_exchange": "x",
            "type": "exchange",
            "vhost": "/",
            "upstream": "up",
            "status": "running",
            "local_connection": "link -> down",
            "uri": "amqp://up",
            "timestamp": "1970-01-01 0:16:40",
            "uptime": 10_000,
            "forwarded": 1,
            "unconfirmed": 0,
            "blocked": False,
            "refused": 0,
            "lag": 0,
        }
        up.away = True
        net.cut("up")
        await net.settle()
        status = down.link()
        assert (status["status"], status["error"]) == ("error", "upstream: the socket ended")
        await net.pass_time(6)
        assert down.link()["error"] == "upstream: cannot connect to amqp://up: Connection refused"
        up.away = False
        await net.pass_time(6)
        assert down.link()["status"] == "running"
        assert down.link()["last_error"].endswith("Connection refused")


async def test_the_lag_is_what_waits_upstream() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net, prefetch_count=10)
        down.core.set_alarm(Alarm.MEMORY, True)
        for body in BODIES:
            up.channel.publish("x", "a.b", body)
        await net.pass_time(6)
        link = down.link()
        # One window was taken before the alarm was noticed; the next waits here, the rest there.
        assert link["blocked"]
        assert link["lag"] == len(BODIES) - 10
        assert down.channel.counts("q") == (10, 0)
        down.core.set_alarm(Alarm.MEMORY, False)
        down.turn()
        net.unblock()
        await net.pass_time(6)
        assert down.channel.drain("q") == BODIES
        assert down.link()["lag"] == 0


@pytest.mark.parametrize("ack_mode", ["on-confirm", "on-publish", "no-ack"])
@pytest.mark.parametrize("pieces", [(1,), (1, 7, 100, 4096), (1 << 20,)])
async def test_every_mode_of_acknowledgement(ack_mode: str, pieces: tuple[int, ...]) -> None:
    async with network("up", "down", journaling=True) as net:
        net.pieces = pieces
        up, down = await federated(net, ack_mode=ack_mode, prefetch_count=7)
        for body in BODIES:
            up.channel.publish("x", "a.b", body, PERSISTENT)
        await net.settle()
        assert down.channel.drain("q") == BODIES
        assert up.channel.counts(QUEUE) == (0, 1)


async def test_nothing_is_acknowledged_before_it_is_safe_here() -> None:
    async with network("up", "down", journaling=True) as net:
        up, down = await federated(net)
        net.commits = False
        for body in BODIES:
            up.channel.publish("x", "a.b", body, PERSISTENT)
        await net.settle()
        assert down.link()["unconfirmed"] == len(BODIES)
        assert up.core.virtual_hosts["/"].queues[QUEUE].unacked == len(BODIES)
        await net.kill("down")
        net.commits = True
        await net.settle()
        assert down.channel.drain("q") == BODIES


async def test_an_upstream_without_the_exchange_type_gives_a_fanout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with network("up", "down") as net:
        known = exchange_handlers.is_known_type
        monkeypatch.setattr(
            exchange_handlers,
            "is_known_type",
            lambda type, compat: type != "x-federation-upstream" and known(type, compat),
        )
        up, down = await federated(net, max_hops=2)
        exchange = up.core.virtual_hosts["/"].exchanges[f"{QUEUE} A"]
        assert exchange.type == "fanout"
        seen = {"cluster-name": "down", "vhost": "/"}
        other = {"cluster-name": "other", "vhost": "/"}
        for entries, body in (([seen], b"was here"), ([other], b"m"), ([other, other], b"far")):
            headers = properties(headers={"x-received-from": entries})
            up.channel.publish("x", "a.b", body, headers)
        await net.settle()
        assert down.channel.drain("q") == [b"m"]
        assert up.channel.counts(QUEUE) == (0, 1)


async def test_the_internal_exchange_is_missed() -> None:
    async with network("up", "down") as net:
        up, down = await federated(net)
        up.channel.exchange_delete(f"{QUEUE} A")
        await net.pass_time(91)
        assert down.link()["error"].startswith("upstream: 404 NOT_FOUND - no exchange")
        await net.pass_time(6)
        assert down.link()["status"] == "running"
        up.channel.publish("x", "a.b", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]
        up.channel.queue_delete(QUEUE)
        await net.settle()
        assert down.link()["error"] == "upstream: the consumer was cancelled, its queue is gone"
        await net.pass_time(6)
        up.channel.publish("x", "a.b", b"n")
        await net.settle()
        assert down.channel.drain("q") == [b"n"]


@pytest.mark.parametrize("mode", ["multiple", "single"])
@pytest.mark.parametrize("nowait", [False, True])
async def test_thousands_of_bindings(
    mode: str, nowait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In portions, whether the upstream answers or not."""
    told: list[int] = []
    tell = ExchangeLink._tell_changes

    def count(link: ExchangeLink) -> None:
        before = len(link._changes)
        tell(link)
        told.append(before - len(link._changes))

    monkeypatch.setattr(ExchangeLink, "_tell_changes", count)
    async with network("up", "down") as net:
        up, down = net["up"], net["down"]
        down.channel.exchange_declare("x", "direct")
        down.channel.queue_declare("q")
        for number in range(2000):
            down.channel.queue_bind("q", "x", str(number))
        down.upstream("up", channel_use_mode=mode, bind_nowait=nowait)
        down.policy("^x$", {"federation-upstream": "up"})
        await net.settle()
        assert len(up.bindings_of("x")) == 2000
        for number in range(1000):
            down.channel.queue_unbind("q", "x", str(number))
            down.channel.queue_bind("q", "x", str(number + 5000))
        await net.settle()
        keys = {key for _, key in up.bindings_of("x")}
        assert keys == {str(number) for number in (*range(1000, 2000), *range(5000, 6000))}
        up.channel.publish("x", "5000", b"m")
        await net.settle()
        assert down.channel.drain("q") == [b"m"]
        assert max(told) == BINDINGS_UNDER_WAY_MAX


async def test_a_link_within_one_broker() -> None:
    async with network("one") as net:
        one = net["one"]
        one.upstream("itself", uri="amqp://", exchange="y")
        one.channel.exchange_declare("x", "fanout")
        one.channel.queue_declare("q")
        one.channel.queue_bind("q", "x")
        one.policy("^x$", {"federation-upstream": "itself"})
        await net.settle()
        assert one.internal_exchanges() == ["federation: y -> one:x A"]
        one.channel.publish("y", "k", b"m")
        await net.settle()
        assert one.channel.drain("q") == [b"m"]


@pytest.mark.parametrize("seed", range(20))
async def test_a_link_cut_at_any_octet_loses_nothing(seed: int) -> None:
    async with network("up", "down", seed=seed, journaling=True) as net:
        await federated(net, prefetch_count=20, max_hops=2)
        net.pieces = (1, 3, 50, 1000)
        net.lifetime = lambda: net.random.choice((1, 60, 700, 2000, 4000, 9000, 20_000))
        net.cut()
        channel = net["up"].channel
        for number in range(300):
            channel.publish("x", f"a.{number}", b"%d" % number, PERSISTENT)
            if not number % 10:
                await net.pass_time(net.random.choice((0, 1, 10)))
        await net.pass_time(200)
        net.lifetime = lambda: 10**9
        await net.pass_time(10)
        assert net.cuts > 2
        arrived = net["down"].channel.drain("q")
        assert set(arrived) == {b"%d" % number for number in range(300)}
        assert len(net["up"].internal_exchanges()) == 1
        assert len(arrived) <= 300 + 20 * net.cuts
