"""A scripted client: what it has heard, and what it says next. All choices come from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from amqpd.commands import Basic, Confirm, Exchange, Queue, Tx
from amqpd.commands import Channel as ChannelClass
from amqpd.config import Compat
from tests.conversation import Confirmed, Delivery, Got, Heard, Returned
from tests.simulation.actions import (
    BINDING_KEYS,
    DEDUPLICATING,
    DEEP,
    EXCHANGES,
    NOT_IN_TRANSACTIONS,
    NOT_OF_43,
    QUEUES,
    QUORUM,
    ROUTING_KEYS,
    RULED,
    UNBOUND,
    Action,
    Bind,
    Cancel,
    ChannelClosed,
    CloseChannel,
    CloseConnection,
    ConfirmSelect,
    Consume,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Get,
    OpenChannel,
    Publish,
    PurgeQueue,
    Qos,
    Recover,
    Settle,
    TxCommit,
    TxRollback,
    TxSelect,
    Unbind,
)

Mode = Literal["confirm", "plain", "tx", "admin"]

DURABLE_NAMES: Final = ("d0", "d1", "d2", "d3")
BINDABLE: Final = tuple(name for name in QUEUES if name not in UNBOUND)
PRIORITIES_OF_CONSUMERS: Final = (0, 3, 0, -1, 3)
"""In turn."""
TX_NAMES: Final = (*DURABLE_NAMES, "l0", "p0", "p1", "u0", "x0")
"""What transactions publish to: one of them must not refuse, and not enter the ring of dead letters
at two places, or the order of what is in it would be that of the broker's inside."""
DELAYS_MS: Final = (None, 1, 40, 800, 30_000)
ONCE: Final = (None, *(f"number {number}" for number in range(1, 9)))
PRIORITIES: Final = {
    "p0": (0, 1, 2, 3, 4),
    "p1": (0, 1, 1, 2, 3, 4, 5, 5, 6, 9, 255),
    "p2": (0, 1, 2, 2, 3, 200),
    "u0": (0, 3, 4, 4, 5, 6, 9, 31, 32, 255),
    "u1": (0, 4, 5, 5, 6, 30, 31, 40),
}
"""Of messages for these queues: beyond the highest that counts, too."""
EXPIRATIONS_MS: Final = (0, 3, 50, 1000, 20_000)
EXCHANGE_NAMES: Final = tuple(EXCHANGES)
FAVOURED: Final = 0.4
"""How often it chooses among its favourites."""
FLOODS: Final = 0.02
"""How often it publishes many messages at once; with favourites four times as often."""
FLOOD_MAX: Final = 40
BODY_SIZES: Final = (0, 10, 100, 100, 1000, 5000, 20000)


class ClientChannel:
    """A channel, as its client knows it."""

    def __init__(self, number: int, mode: Mode) -> None:
        self.number = number
        self.mode = mode
        self.waiting = 0
        """Replies that have not come."""
        self.open = True
        self.ready = False
        self.tags: list[int] = []
        """Deliveries to settle."""
        self.consumers: dict[str, bool] = {}
        """Consumer tags, and whether they acknowledge automatically."""
        self.of_channel = False
        """It has said a prefetch limit for all of the channel."""
        self.of_quorum = False
        """It has consumed from a quorum queue, where that is an error."""


class Client:
    """Decides what one connection says."""

    def __init__(
        self,
        chance: Random,
        number: int,
        modes: list[Mode],
        compat: Compat,
        favourites: tuple[str, ...] = (),
    ) -> None:
        """`favourites` are queues and exchanges that it has more to do with than with others."""
        self._chance = chance
        self._favourites = favourites
        refused = NOT_OF_43 if compat == "4.3" else ()
        self._queue_names = tuple(name for name in QUEUES if name not in refused)
        self._bindable = tuple(name for name in BINDABLE if name not in refused)
        self._number = number
        self._modes = modes
        self._tag = 0
        self.channels: list[ClientChannel] = []
        self.closing = False

    # -- what it hears

    def hear(self, number: int, said: Heard) -> list[tuple[int, Action]]:
        """Something came; what to answer at once."""
        channel = next((c for c in self.channels if c.number == number), None)
        if channel is None:
            return []
        match said:
            case Delivery():
                if not channel.consumers.get(said.consumer_tag, True):
                    channel.tags.append(said.delivery_tag)
            case Got():
                channel.waiting -= 1
                if channel.mode not in ("plain",):
                    channel.tags.append(said.delivery_tag)
            case Confirmed() | Returned():
                pass
            case Basic.Cancel():
                channel.consumers.pop(said.consumer_tag or "", None)
            case ChannelClass.Close():
                channel.open = False
                self.channels.remove(channel)
                return [(number, ChannelClosed())]
            case ChannelClass.CloseOk():
                self.channels.remove(channel)
            case Basic.RecoverOk():
                channel.waiting -= 1
                channel.tags.clear()
            case (
                ChannelClass.OpenOk()
                | Basic.GetEmpty()
                | Basic.ConsumeOk()
                | Basic.CancelOk()
                | Basic.QosOk()
                | Queue.DeclareOk()
                | Queue.DeleteOk()
                | Queue.BindOk()
                | Queue.UnbindOk()
                | Queue.PurgeOk()
                | Exchange.DeclareOk()
                | Exchange.DeleteOk()
                | Confirm.SelectOk()
                | Tx.SelectOk()
                | Tx.CommitOk()
                | Tx.RollbackOk()
            ):
                channel.waiting -= 1
            case _:
                raise AssertionError(f"not known to clients: {said}")
        return []

    # -- what it says

    def begin(self) -> list[tuple[int, Action]]:
        """Open the channels, and declare what everybody uses."""
        said: list[tuple[int, Action]] = []
        for mode in self._modes:
            said += self._open(mode)
        return said

    def _open(self, mode: Mode) -> list[tuple[int, Action]]:
        self._tag += 1
        number = self._tag
        channel = ClientChannel(number, mode)
        self.channels.append(channel)
        actions: list[Action] = [OpenChannel()]
        if mode == "tx":
            actions.append(TxSelect())
        elif mode in ("confirm", "admin"):
            actions.append(ConfirmSelect())
        if mode == "admin":
            for name in (*DURABLE_NAMES, *RULED):
                actions.append(DeclareQueue(name))
            for exchange in ("fan", "dir", "top", "del", "ded"):
                actions.append(DeclareExchange(exchange))
                key = self._chance.choice(BINDING_KEYS[exchange])
                actions.append(Bind(self._chance.choice(DURABLE_NAMES), exchange, key))
            actions.append(DeclareExchange("dlx"))
            actions += [Bind(key, "dlx", key) for key in BINDING_KEYS["dlx"]]
        if self._chance.random() < 0.6:
            actions.append(self._qos(channel, 1))
        if self._chance.random() < 0.4:
            consume = self._consume(channel)
            assert consume is not None
            actions.append(consume)
        channel.waiting = len(actions)
        return [(number, action) for action in actions]

    def think(self, next_uid: int) -> list[tuple[int, Action]]:
        """Say something, or nothing."""
        chance = self._chance
        if self.closing:
            return []
        channels = [channel for channel in self.channels if channel.open]
        if not channels or (len(channels) < 3 and chance.random() < 0.02):
            return self._open(chance.choice(self._modes))
        if chance.random() < 0.004:
            self.closing = True
            return [(0, CloseConnection())]
        channel = chance.choice(channels)
        if chance.random() < FLOODS * (4 if self._favourites else 1):
            return self._flood(channel, next_uid)
        burst = 1 if chance.random() < 0.7 else chance.randint(2, 6)
        said: list[tuple[int, Action]] = []
        for index in range(burst):
            action = self._choose(channel, next_uid + index)
            if action is None:
                break
            said.append((channel.number, action))
            if isinstance(action, Publish | Settle):
                continue
            if isinstance(action, CloseChannel):
                channel.open = False
                break
            if not getattr(action, "nowait", False):
                channel.waiting += 1
        return said

    def _choose(self, channel: ClientChannel, uid: int) -> Action | None:
        chance = self._chance
        drawn = chance.random()
        if channel.waiting:
            # Like client libraries: nothing else than publishing while a reply is due, and not even
            # that behind tx.commit.
            if channel.mode == "tx" or drawn < 0.5:
                return None
            return self._publish(channel, uid)
        if drawn < 0.35:
            return self._publish(channel, uid)
        if drawn < 0.6:
            return self._settle(channel) or self._publish(channel, uid)
        if drawn < 0.66:
            return self._get(channel)
        if drawn < 0.74:
            return self._consume(channel)
        if drawn < 0.765 and channel.consumers:
            tag = chance.choice(list(channel.consumers))
            del channel.consumers[tag]
            return Cancel(tag)
        if drawn < 0.775:
            return Recover()
        if drawn < 0.785:
            return self._qos(channel, 0)
        if drawn < 0.79:
            return CloseChannel()
        if channel.mode == "tx":
            return TxCommit() if chance.random() < 0.8 else TxRollback()
        if channel.mode == "admin":
            return self._administer()
        return self._publish(channel, uid)

    def _flood(self, channel: ClientChannel, next_uid: int) -> list[tuple[int, Action]]:
        """More than a queue may have in memory, and more of several priorities than of one."""
        chance = self._chance
        names: Sequence[str] = [name for name in self._favourites if name in DEEP] or DEEP
        if channel.mode == "tx":
            names = [name for name in names if name in TX_NAMES] or DURABLE_NAMES
            if channel.waiting:
                return []
        name = chance.choice(names)
        number = chance.randint(5, FLOOD_MAX)
        uids = range(next_uid, next_uid + number)
        return [(channel.number, self._message(uid, "", name)) for uid in uids]

    def _publish(self, channel: ClientChannel, uid: int) -> Publish:
        chance = self._chance
        drawn = chance.random()
        if self._favourites and channel.mode != "tx" and chance.random() < FAVOURED:
            exchange, key = "", chance.choice(self._favourites)
            if key in EXCHANGES:
                exchange, key = key, chance.choice(BINDING_KEYS[key])
        elif drawn < 0.5:
            names = self._queue_names if chance.random() < 0.3 else DURABLE_NAMES
            if chance.random() < 0.3:
                names = RULED
            if channel.mode == "tx" and names is not DURABLE_NAMES:
                names = TX_NAMES
            exchange, key = "", chance.choice(names)
        else:
            names = EXCHANGE_NAMES if chance.random() < 0.3 else ("fan", "top")
            exchange, key = chance.choice(names), chance.choice(ROUTING_KEYS)
            if channel.mode == "tx" and exchange in NOT_IN_TRANSACTIONS:
                exchange = "fan"
            elif exchange == "del":
                key = chance.choice(BINDING_KEYS["del"])
            if exchange == "dlx":
                key = "l0" if channel.mode == "tx" else chance.choice(BINDING_KEYS["dlx"])
        return self._message(uid, exchange, key)

    def _message(self, uid: int, exchange: str, key: str) -> Publish:
        chance = self._chance
        size = chance.choice(BODY_SIZES) if chance.random() < 0.2 else chance.randint(0, 60)
        prioritized = not exchange and key in PRIORITIES
        distinct = exchange == "ded" or (not exchange and key in (*DEDUPLICATING, "p2", "u1"))
        return Publish(
            uid,
            exchange,
            key,
            b"%d " % uid + bytes((97 + uid % 26,)) * size,
            persistent=chance.random() < 0.85,
            mandatory=chance.random() < 0.2,
            priority=(
                chance.choice(PRIORITIES.get(key, PRIORITIES["p0"]))
                if chance.random() < (0.9 if prioritized else 0.3)
                else None
            ),
            expiration_ms=chance.choice(EXPIRATIONS_MS) if chance.random() < 0.08 else None,
            delay_ms=chance.choice(DELAYS_MS) if exchange == "del" else None,
            once=chance.choice(ONCE) if distinct else None,
        )

    def _settle(self, channel: ClientChannel) -> Settle | None:
        tags = channel.tags
        if not tags:
            return None
        chance = self._chance
        drawn = chance.random()
        ack, requeue = drawn < 0.75, drawn > 0.85
        if chance.random() < 0.2:
            last = chance.randrange(len(tags))
            tag = tags[last]
            del tags[: last + 1]
            return Settle(tag, True, ack, requeue)
        index = 0 if chance.random() < 0.6 else chance.randrange(len(tags))
        return Settle(tags.pop(index), False, ack, requeue)

    def _qos(self, channel: ClientChannel, least: int) -> Qos:
        of_channel = self._chance.random() < 0.3 and not channel.of_quorum
        channel.of_channel = channel.of_channel or of_channel
        return Qos(self._chance.randint(least, 5), of_channel)

    def _get(self, channel: ClientChannel) -> Get | None:
        if channel.mode == "plain" and channel.consumers:
            return None
        names = self._queue_names if self._chance.random() < 0.2 else DURABLE_NAMES
        name = self._favourite() or self._chance.choice(names)
        return Get(name, no_ack=channel.mode == "plain")

    def _favourite(self) -> str | None:
        """A queue that it has more to do with than with others, or none of these."""
        queues = [name for name in self._favourites if name in QUEUES]
        return self._chance.choice(queues) if queues and self._chance.random() < FAVOURED else None

    def _consume(self, channel: ClientChannel) -> Consume | None:
        # On a plain channel everything is acknowledged automatically, and there is one consumer:
        # nothing but its own cancel-ok can hold its deliveries back.
        if len(channel.consumers) >= (1 if channel.mode == "plain" else 3):
            return None
        self._tag += 1
        tag = f"c{self._number}.{self._tag}"
        no_ack = channel.mode == "plain"
        channel.consumers[tag] = no_ack
        drawn = self._chance.random()
        names = QUORUM if drawn < 0.12 else self._queue_names if drawn < 0.4 else DURABLE_NAMES
        name = self._favourite() or self._chance.choice(names)
        if name in QUORUM and channel.of_channel:
            name = self._chance.choice(DURABLE_NAMES)
        channel.of_quorum = channel.of_quorum or name in QUORUM
        return Consume(name, tag, no_ack, PRIORITIES_OF_CONSUMERS[self._tag % 5])

    def _administer(self) -> Action:
        chance = self._chance
        drawn = chance.random()
        queue = self._favourite() or chance.choice(self._queue_names)
        nowait = chance.random() < 0.1
        if drawn < 0.3:
            return DeclareQueue(queue, passive=not nowait and chance.random() < 0.1, nowait=nowait)
        if drawn < 0.45:
            return DeleteQueue(queue, nowait=nowait)
        if drawn < 0.55:
            return PurgeQueue(queue)
        exchange = chance.choice(EXCHANGE_NAMES)
        if drawn < 0.65:
            return DeclareExchange(exchange, nowait=nowait)
        if drawn < 0.69:
            return DeleteExchange(exchange)
        key = chance.choice(BINDING_KEYS[exchange])
        if drawn < 0.88:
            queue = chance.choice(DURABLE_NAMES if drawn < 0.8 else self._bindable)
            return Bind(key if exchange == "dlx" else queue, exchange, key)
        return Unbind(key if exchange == "dlx" else queue, exchange, key)


__all__ = ["Client", "ClientChannel", "Mode"]
