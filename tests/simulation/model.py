"""What the broker has to do, as simply as it can be said: the reference of the simulator.

The model hears each action when the broker has received it, and everything the broker says, at the
end of the turn in which it says it. It does not decide who gets a message; it checks that whoever
got it could, and keeps the books. `Violation` is what it finds.

Checked at the end of each turn:

- What is handed out was ready in that queue, is handed out once, is what was published, octet for
  octet, and comes from the front of the queue.
- `redelivered` is set if and only if the message was handed out before.
- No consumer and no channel has more unacknowledged than its prefetch window. Nothing lies in a
  queue while a consumer could take it.
- Replies come in order, one each, with true counts. Errors are those that are due, with their code.
- Each publish is confirmed once, and refused by a queue that is full. When nothing waits for the
  disk, nothing waits for a confirm or a reply.
- What dies had to: its time has come, or the queue holds too much, or a client rejected it. It
  goes where its queue's rules say, with its history. Nothing whose time has come is at the head of
  a queue, no queue holds too much, and no queue that nobody uses outlives its time.
- The broker's own counts of ready and unacknowledged messages are the model's.

Checked after each crash, against what the store holds:

- It is a state the model was in when a batch was taken: that of the last batch that was written, or
  of the one under way. So nothing is invented, transactions are whole, and order is kept.
- Whatever was confirmed or answered before the crash is in it: messages, settlements of
  transactions, queues, exchanges, bindings; what was answered to be gone is not.

**What it knows of the inside.** A reply that waits for the disk holds back what its channel says
after it. So that the model knows at once who was given what, it is also told the new entries of
the channels' ledgers (`Channel.unacked`). And since a message may die before or after another one
is handed out, it is told of each death, in order; it judges them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from amqpd.commands import Basic, Confirm, Exchange, Frame, Queue, Tx
from amqpd.commands import Channel as ChannelClass
from amqpd.commands import Connection as ConnectionClass
from amqpd.config import Compat
from tests.conversation import Confirmed, Delivery, Got, Heard, Returned
from tests.simulation.actions import (
    GOVERNED,
    QUEUES,
    Action,
    Beat,
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
from tests.simulation.letters import (
    DELIVERY_LIMIT,
    EXPIRED,
    REJECTED,
    Letter,
    ReturnCount,
    published_letter,
)
from tests.simulation.parts import (
    Copy,
    ModelChannel,
    ModelConnection,
    ModelConsumer,
    ModelExchange,
    ModelQueue,
    Out,
    Return,
    Violation,
    WaitingRoom,
    is_maybe_marked,
    require,
)
from tests.simulation.states import Found, Kept, State, Waiting, uid_of

NOT_FOUND: Final = 404
LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
ALARMS: Final = ("memory", "disk")
"""In the order in which clients are told of them."""
DELAYED: Final = "del"
DEDUPLICATING: Final = "ded"


class Model:
    """Everything a broker ought to know, and everything it promised."""

    def __init__(self, compat: Compat) -> None:
        self.compat = compat
        """The profile of the broker."""
        self.queues: dict[str, ModelQueue] = {}
        self.exchanges: dict[str, ModelExchange] = {}
        self.policy: Mapping[str, int] | None = None
        self.alarms: frozenset[str] = frozenset()
        """Of what there is too little; nobody publishes then."""
        self.connections: list[ModelConnection] = []
        self.now = 0.0
        """Seconds of the broker's clock."""
        self.now_ms = 0
        """Milliseconds since 1970, as the broker counts them."""
        self.published: dict[int, Publish] = {}
        self.gone: list[tuple[ModelQueue, int]] = []
        """Messages whose settlement was answered for."""
        self.gone_definitions: dict[tuple[str, ...], None] = {}
        """Definitions whose end was answered for, and that did not begin again since."""
        self._beginnings: dict[tuple[str, ...], int] = {}
        self.postponed = False
        """A get of this turn had to wait for the disk: consumers were served before it."""
        self._actions = 0
        self._handed_out: dict[ModelQueue, list[tuple[Copy, ModelConsumer | None]]] = {}
        self._out_of_order: set[str] = set()
        self._rejected: dict[tuple[ModelQueue, int], Copy] = {}
        """What clients did not want, and what did not become a dead letter yet."""
        self.unseen: list[tuple[ModelChannel, int, Copy]] = []
        """Deliveries of messages of which it is not known how often they came back."""
        self.deaths = 0
        self.delivered = 0
        self.confirmed = 0

    # -- what a client says

    def is_alone(self, connection: ModelConnection, number: int, action: Action) -> bool:
        """Whether to give the broker this action in a turn of its own.

        Within a turn the model does not see what the broker did first. Where that matters, the
        turn has nothing else in it.
        """
        match action:
            case (
                PurgeQueue()
                | DeleteQueue()
                | DeleteExchange()
                | Unbind()
                | Cancel()
                | Qos()
                | Recover()
                | TxCommit()
                | TxRollback()
                | CloseChannel()
                | CloseConnection()
            ):
                return True
            case Settle() if not action.ack:
                return True
            case Publish() if any(map(self._is_ruled, self._route(action))):
                return True
        channel = connection.channels.get(number)
        return channel is not None and self.refusal(channel, action) is not None

    def refusal(self, channel: ModelChannel, action: Action) -> int | None:
        """The reply code with which the broker has to close the channel, if it has to."""
        match action:
            case Publish():
                if action.exchange and action.exchange not in self.exchanges:
                    return NOT_FOUND
            case Settle():
                known = action.tag in channel.ledger or (action.multiple and action.tag == 0)
                return None if known else PRECONDITION_FAILED
            case Get(queue) | Consume(queue) | PurgeQueue(queue):
                return self._inaccessible(channel, queue)
            case DeclareQueue(name, passive):
                if passive:
                    return self._inaccessible(channel, name)
                return self._locked(channel, name)
            case DeleteQueue(name):
                return self._locked(channel, name)
            case Bind(queue, exchange):
                if exchange not in self.exchanges:
                    return NOT_FOUND
                return self._inaccessible(channel, queue)
            case Unbind(queue, exchange, key):
                found = self.exchanges.get(exchange)
                if found is not None and (queue, key) in found.bindings:
                    return self._locked(channel, queue)
            case TxSelect() if channel.confirming:
                return PRECONDITION_FAILED
            case ConfirmSelect() if channel.transactional:
                return PRECONDITION_FAILED
        return None

    def _inaccessible(self, channel: ModelChannel, name: str) -> int | None:
        return self._locked(channel, name) if name in self.queues else NOT_FOUND

    def _locked(self, channel: ModelChannel, name: str) -> int | None:
        queue = self.queues.get(name)
        if queue is None or queue.owner in (None, channel.connection):
            return None
        return LOCKED

    def apply(self, connection: ModelConnection, number: int, action: Action) -> None:
        """The broker has received it."""
        first = self._actions == 0
        self._actions += 1
        if connection.ended or isinstance(action, Beat):
            return
        if isinstance(action, OpenChannel):
            assert number not in connection.channels
            channel = connection.channels[number] = ModelChannel(connection, number)
            channel.expect(ChannelClass.OpenOk)
            return
        if isinstance(action, CloseConnection):
            self.end_connection(connection)
            connection.close_ok_due = True
            return
        channel = connection.channels[number]
        if channel.ended:
            if isinstance(action, CloseChannel) and channel.closing:
                channel.expect(ChannelClass.CloseOk)
            elif isinstance(action, ChannelClosed):
                channel.closing = False
            return
        code = self.refusal(channel, action)
        if code is not None:
            self.end_channel(channel)
            channel.closing = True

            def check(said: ChannelClass.Close) -> None:
                require(said.reply_code == code, "another reply code was due", code, said, action)

            channel.expect(ChannelClass.Close, check)
            return
        self._do(channel, action, first)

    def _do(self, channel: ModelChannel, action: Action, first: bool) -> None:
        match action:
            case Publish():
                self._publish(channel, action)
            case Settle():
                self._settle(channel, action)
            case Get(name, no_ack):
                self._get(channel, self.queues[name], no_ack, first)
            case Consume(name, tag):
                queue = self.queues[name]
                consumer = ModelConsumer(action, queue, channel)
                channel.consumers[tag] = consumer
                queue.add_consumer(consumer)
                queue.used_at = self.now
                channel.expect(Basic.ConsumeOk)
            case Cancel(tag):
                cancelled = channel.consumers.pop(tag, None)
                if cancelled is not None:
                    self._remove(cancelled)
                    self._delete_if_unused(cancelled.queue)
                channel.expect(Basic.CancelOk)
            case Qos(count, of_channel):
                if of_channel and self.compat != "4.3":
                    channel.global_prefetch = count
                else:
                    # As in RabbitMQ, a limit of the consumers to come ends that of the channel.
                    channel.default_prefetch = count
                    channel.global_prefetch = 0
                channel.expect(Basic.QosOk)
            case Recover():
                channel.expect(Basic.RecoverOk)
                ledger, channel.ledger = channel.ledger, {}
                self._requeue(channel, ledger.values(), "returned")
            case DeclareQueue():
                self._declare_queue(channel, action, first)
            case DeleteQueue():
                self._delete_queue(channel, action)
            case PurgeQueue(name):
                self._purge(channel, self.queues[name])
            case Bind():
                self._bind(channel, action)
            case Unbind():
                self._unbind(channel, action)
            case DeclareExchange():
                self._declare_exchange(channel, action)
            case DeleteExchange(name):
                self.exchanges.pop(name, None)
                channel.expect(Exchange.DeleteOk, self._end_of("exchange", name))
            case ConfirmSelect():
                channel.confirming = True
                channel.expect(Confirm.SelectOk)
            case TxSelect():
                channel.transactional = True
                channel.expect(Tx.SelectOk)
            case TxCommit():
                self._commit(channel)
            case TxRollback():
                channel.tx_messages = []
                for _, outs in channel.tx_settlements:
                    channel.ledger.update(outs)
                channel.ledger = dict(sorted(channel.ledger.items()))
                channel.tx_settlements = []
                channel.expect(Tx.RollbackOk)
            case CloseChannel():
                self.end_channel(channel)
                channel.expect(ChannelClass.CloseOk)
            case ChannelClosed():
                raise AssertionError("close-ok on an open channel")

    # -- alarms

    def set_alarms(self, alarms: Collection[str]) -> None:
        """These are active from now on."""
        self.alarms = frozenset(alarms)
        if not alarms:
            for connection in self.connections:
                if connection.blocked and not connection.ended:
                    connection.blocked = False
                    connection.told.append(ConnectionClass.Unblocked)

    def received(self, connection: ModelConnection, *, publishes: bool) -> None:
        """A chunk of what a client says has come; whether a message, or a part of one, is in it."""
        require(not connection.blocked, "who is blocked was read from", connection.name)
        if publishes and self.alarms and not connection.ended:
            connection.blocked = True
            connection.told.append(ConnectionClass.Blocked)

    # -- policies

    def set_policy(self, policy: Mapping[str, int] | None) -> None:
        """From now on this one is in force for the queues that are governed."""
        self.policy = policy
        for name in GOVERNED:
            if name in self.queues:
                self.queues[name].govern(policy)

    def _new_queue(self, name: str, owner: ModelConnection | None) -> ModelQueue:
        queue = self.queues[name] = ModelQueue(name, owner, self.now, self.compat)
        if name in GOVERNED:
            queue.govern(self.policy)
        return queue

    def _is_ruled(self, name: str) -> bool:
        return name in self.queues and self.queues[name].is_ruled

    # -- publishing

    def _route(self, published: Publish) -> list[str]:
        key = published.routing_key
        if not published.exchange:
            return [key]
        exchange = self.exchanges.get(published.exchange)
        if exchange is None:
            return []
        return list({name: None for name, k in exchange.bindings if exchange.matches(k, key)})

    def _enqueue(
        self, channel: ModelChannel, published: Publish, names: list[str]
    ) -> tuple[list[Copy], bool]:
        """What of it is durable, and whether a queue refused it."""
        queues = [self.queues[name] for name in names if name in self.queues]
        if not queues and published.mandatory:

            def check(said: Returned) -> None:
                require(
                    said.body == published.body and said.code == 312, "another return was due", said
                )

            channel.expect(Returned, check)
        letter = published_letter(published)
        copies = []
        for queue in queues:
            full = queue.is_full()
            if not full and not queue.has_duplicate(published):
                copies.append(queue.take(letter, queue.expiry_of(letter, self.now_ms)))
            elif queue.buries_refused(duplicate=not full):
                queue.refused[published.uid] = letter
        durable = [copy for copy in copies if copy.is_kept and copy.queue.durable]
        return durable, len(copies) < len(queues)

    def _publish(self, channel: ModelChannel, published: Publish) -> None:
        self.published[published.uid] = published
        if channel.transactional:
            channel.tx_messages.append((published, self._route(published)))
            return
        room = self._room_of(published)
        if room is not None:
            assert published.delay_ms is not None
            self._enqueue(channel, published, [])  # to its publisher it has come nowhere
            copy = room.take(published, self.now_ms + published.delay_ms)
            if channel.confirming:
                channel.publish_number += 1
                waits = [copy] if published.persistent else []
                channel.unconfirmed[channel.publish_number] = waits
            return
        names = [] if self._has_passed(published) else self._route(published)
        durable, refused = self._enqueue(channel, published, names)
        if refused:
            self._take_back_passage(published)
        if channel.confirming:
            channel.publish_number += 1
            channel.unconfirmed[channel.publish_number] = durable
            if refused:
                channel.refused.add(channel.publish_number)

    def _room_of(self, published: Publish) -> WaitingRoom | None:
        """Where it has to wait, if it has to."""
        exchange = self.exchanges.get(published.exchange)
        if exchange is None or published.delay_ms is None:
            return None
        return exchange.room

    def _has_passed(self, published: Publish) -> bool:
        """Whether another one with its header has lately; this one passes if not."""
        exchange = self.exchanges.get(published.exchange)
        if exchange is None or published.once is None or not exchange.cache_size:
            return False
        if published.once in exchange.seen:
            return True
        exchange.seen = [*exchange.seen, published.once][-exchange.cache_size :]
        return False

    def _take_back_passage(self, published: Publish) -> None:
        """A queue refused what had passed: its publisher may try it again."""
        exchange = self.exchanges.get(published.exchange)
        if exchange is not None and exchange.cache_size and published.once in exchange.seen:
            exchange.seen.remove(published.once)

    def released(self, uid: int) -> None:
        """The broker says that a message has waited long enough."""
        exchange = self.exchanges.get(DELAYED)
        if exchange is None:
            return  # it ended in the same turn
        room = exchange.room
        assert room is not None
        require(uid in room.live, "a message came that did not wait", uid)
        copy = room.live[uid]
        first = min(room.live.values())
        require(copy is first, "not the first to come due", copy, first)
        require(copy.due_ms <= self.now_ms + 1, "it came too early", copy, self.now_ms)
        del room.live[uid]
        assert copy.published.delay_ms is not None
        waited = copy.published._replace(delay_ms=-copy.published.delay_ms)
        letter = published_letter(waited)
        targets = [self.queues[name] for name in self._route(waited)]
        require(not any(queue.is_full() for queue in targets), "a queue that refuses", targets)
        copy.successors = tuple(
            queue.take(letter, queue.expiry_of(letter, self.now_ms))
            for queue in targets
            if not queue.has_duplicate(waited)
        )
        if copy.promised:
            for successor in copy.successors:
                successor.owe()

    def _commit(self, channel: ModelChannel) -> None:
        promised: list[Copy] = []
        for published, names in channel.tx_messages:
            durable, refused = self._enqueue(channel, published, names)
            assert not refused, "no client's transaction publishes to a queue that refuses"
            promised += durable
        gone: list[Copy] = []
        for settlement, outs in channel.tx_settlements:
            if settlement.ack:
                gone += [out.copy for out in outs.values()]
            elif settlement.requeue:
                self._out_of_order.update(out.copy.queue.name for out in outs.values())
            else:
                copies = [out.copy for out in outs.values()]
                # A dead letter may come back to where it died.
                gone += [c for c in copies if c.queue.spec.dead_letter_exchange is None]
            self._settle_outs(channel, settlement, outs)
        channel.tx_messages = []
        channel.tx_settlements = []

        def promise(said: Frame) -> None:
            for copy in promised:
                copy.promise()
            self.gone += [(copy.queue, copy.published.uid) for copy in gone]

        channel.expect(Tx.CommitOk, promise)

    # -- settling

    def _settle(self, channel: ModelChannel, action: Settle) -> None:
        if not action.multiple:
            outs = {action.tag: channel.ledger[action.tag]}
        elif action.tag == 0:
            outs = dict(channel.ledger)
        else:
            outs = {tag: out for tag, out in channel.ledger.items() if tag <= action.tag}
        for tag in outs:
            del channel.ledger[tag]
        if channel.transactional:
            channel.tx_settlements.append((action, outs))
        else:
            self._settle_outs(channel, action, outs)

    def _settle_outs(self, channel: ModelChannel, action: Settle, outs: dict[int, Out]) -> None:
        if action.ack or not action.requeue:
            for out in outs.values():
                self._release(channel, out)
                queue = out.copy.queue
                queue.settle(out.copy)
                if not action.ack and not queue.deleted:
                    self._rejected[queue, out.copy.published.uid] = out.copy
        else:
            how: Return = "returned" if action.multiple else "rejected"
            self._requeue(channel, outs.values(), how)

    def _requeue(self, channel: ModelChannel, outs: Iterable[Out], how: Return) -> None:
        for out in outs:
            self._release(channel, out)
            copy = out.copy
            if copy.queue.is_over_limit(copy, how):
                copy.queue.settle(copy)
                self._rejected[copy.queue, copy.published.uid] = copy
            else:
                copy.queue.take_back(copy, how, self.now_ms)
                if copy.queue.is_quorum:
                    # It may have been handed out again since, from another place.
                    self._out_of_order.add(copy.queue.name)

    def _release(self, channel: ModelChannel, out: Out) -> None:
        out.copy.queue.unacked -= 1
        if out.consumer is not None:
            out.consumer.unacked -= 1
            channel.consumer_unacked -= 1
            for consumer in channel.consumers.values() if channel.global_prefetch else ():
                consumer.free = False
            out.consumer.free = False

    # -- handing out

    def _get(self, channel: ModelChannel, queue: ModelQueue, no_ack: bool, first: bool) -> None:
        ready, deaths = len(queue.ready), queue.deaths
        # Of these some may not have been read since the start.
        dead = len(queue.unburied) + len(queue.retrying)
        queue.used_at = self.now

        def check(said: Heard) -> None:
            exact = first and not self.postponed
            least = ready - (queue.deaths - deaths)
            if isinstance(said, Got):
                counts = range(least - 1, ready + dead)
                require(not exact or said.message_count in counts, "a wrong count", said, counts)
                self._hand_out(channel, said, queue, None, no_ack)
            else:
                require(isinstance(said, Basic.GetEmpty), "get-ok or get-empty was due", said)
                require(not exact or least <= 0, "get-empty of a queue with messages", queue.name)

        channel.expect(object, check)

    def _hand_out(
        self,
        channel: ModelChannel,
        said: Delivery | Got,
        queue: ModelQueue | None,
        consumer: ModelConsumer | None,
        no_ack: bool,
    ) -> None:
        """The broker says that this client has the message now."""
        tag = said.delivery_tag
        uid = uid_of(said.body)
        published = self.published.get(uid)
        require(published is not None, "a message that nobody published", said)
        assert published is not None
        waiting = None if queue is None else queue.live.get(uid)
        if tag in channel.early:
            self._check_content(said, channel.early[tag], channel.early_flags[tag][2])
        else:
            self._check_content(said, waiting, None if waiting is None else waiting.shown)
        self.delivered += 1
        if tag in channel.early:
            copy = channel.early.pop(tag)
            require(copy.published.uid == uid, "not what the ledger says", said, copy)
            before, maybe, _ = channel.early_flags.pop(tag)
            self._check_redelivered(copy, said.redelivered, before, maybe)
            return
        if channel.ended:
            return  # said in the turn that ended the channel
        require(tag == channel.last_tag + 1, "a delivery tag out of order", said, channel.last_tag)
        channel.last_tag = tag
        require(queue is not None, "a delivery to an unknown consumer", said)
        assert queue is not None
        copy = self._take(queue, uid, said)
        self._check_redelivered(copy, said.redelivered, copy.handed_out, copy.maybe)
        self._given(channel, copy, consumer, tag, no_ack)

    def _check_content(
        self, said: Delivery | Got, copy: Copy | None, counted: tuple[int, int] | None
    ) -> None:
        if copy is None:
            # Of a channel or queue that ended in this turn, or an error that is found right away.
            published = self.published[uid_of(said.body)]
            require(said.body == published.body, "not what was published", said, published)
        else:
            same = copy.letter.is_said_by(said, counted)
            require(same, "not what was published", said, copy.letter, counted)

    def _check_redelivered(self, copy: Copy, said: bool, before: bool, maybe: bool) -> None:
        require(maybe or said == before, f"redelivered is {said}", copy)

    def _take(self, queue: ModelQueue, uid: int, said: object) -> Copy:
        copy = queue.live.get(uid)
        require(copy is not None, "a message that is not in the queue", queue.name, said)
        assert copy is not None
        if copy.unread and copy.due_ms <= self.now_ms:
            self._read_late(queue, copy)
        for index, ready in enumerate(queue.ready):
            if ready is copy:
                del queue.ready[index]
                return copy
        raise Violation(f"a message that somebody else has, {copy!r}, {said!r}")

    def _given(
        self,
        channel: ModelChannel,
        copy: Copy,
        consumer: ModelConsumer | None,
        tag: int,
        no_ack: bool,
    ) -> None:
        queue = copy.queue
        if consumer is not None:
            require(queue.serves(consumer), "it is another one's turn", consumer.tag, queue.active)
        self._handed_out.setdefault(queue, []).append((copy, consumer))
        copy.handed_out = True
        copy.maybe = False
        if not no_ack or consumer is None:
            # basic.get notes how far it got even of what it acknowledges itself.
            queue.mark = max(queue.mark, copy.order)
        if no_ack:
            queue.settle(copy)
            return
        channel.ledger[tag] = Out(copy, consumer)
        if copy.returned is None:
            self.unseen.append((channel, tag, copy))
        queue.unacked += 1
        if consumer is not None:
            consumer.unacked += 1
            channel.consumer_unacked += 1

    # -- deaths

    def died(
        self, queue_name: str, uid: int, reason: str, refused: bool, superfluous: Collection[str]
    ) -> None:
        """The broker has done with a message that nobody got, or wanted; in order of happening.

        `superfluous` are the names of queues that did not take its dead letter, since they have
        another one with its header. Where a message may leave a queue as soon as it came, only the
        broker knows that; at the end of the turn none may be there twice.
        """
        queue = self.queues.get(queue_name)
        if queue is None:
            return  # it ended in the same turn
        self.deaths += 1
        if refused:
            require(uid in queue.refused, "refused without a reason", queue_name, uid)
            self._bury(queue, queue.refused.pop(uid), reason, superfluous)
            return
        if uid in queue.unburied:
            copy = queue.unburied.pop(uid)
            queue.settle(copy)
            require(reason == copy.buried_as, "it died of something else", copy, reason)
        elif reason in (REJECTED, DELIVERY_LIMIT):
            copy = self._take_rejected(queue, uid, reason)
        else:
            copy = self._take(queue, uid, reason)
            queue.settle(copy)
            queue.deaths += 1
            self._handed_out.setdefault(queue, []).append((copy, None))
            if reason == EXPIRED:
                timely = 0 < copy.expires_ms <= self.now_ms
                require(timely, "it died too early", copy, copy.expires_ms, self.now_ms)
            else:
                insort(queue.ready, copy)
                require(queue.holds_too_much(), "it died for want of room, and there is room", copy)
                queue.ready.remove(copy)
        copy.successors = self._bury(queue, copy.letter, reason, superfluous)
        found = bool(copy.successors or superfluous) or not queue.buries_surely
        require(found, "a dead letter that goes surely went nowhere", copy)
        if copy.promised or copy.owed:
            for successor in copy.successors:
                successor.owe()

    def _take_rejected(self, queue: ModelQueue, uid: int, reason: str) -> Copy:
        copy = self._rejected.pop((queue, uid), None)
        require(copy is not None, "nobody rejected it", queue.name, uid)
        assert copy is not None
        if reason == DELIVERY_LIMIT:
            over = copy.returned is not None and queue.allows_no_more(copy.returned)
            require(over, "it may come back once more", copy, copy.returned)
        return copy

    def stayed(self, queue_name: str, uid: int, reason: str) -> None:
        """A message is dead, and the broker says that there is no place for its letter."""
        queue = self.queues.get(queue_name)
        if queue is None:
            return  # it ended in the same turn
        require(queue.buries_surely, "a dead letter that need not go stays", queue_name, uid)
        if uid in queue.unburied:
            copy = queue.unburied[uid]
        elif reason in (REJECTED, DELIVERY_LIMIT):
            copy = self._take_rejected(queue, uid, reason)
            queue.live[uid] = copy
        else:
            copy = self._take(queue, uid, reason)
            queue.deaths += 1
            self._handed_out.setdefault(queue, []).append((copy, None))
            timely = 0 < copy.expires_ms <= self.now_ms
            require(reason == EXPIRED and timely, "it died too early", copy, self.now_ms)
        queue.unburied[uid] = copy
        copy.buried_as = reason
        copy.recorded = copy.returned or ReturnCount()
        require(not self._targets(queue, copy.letter, reason), "there is a place", copy)

    def retried(self, queue_name: str, uid: int) -> None:
        """A message that came back has waited long enough."""
        queue = self.queues.get(queue_name)
        if queue is None:
            return  # it ended in the same turn
        require(uid in queue.retrying, "a retry of what did not wait", queue_name, uid)
        copy = queue.retrying.pop(uid)
        require(copy.due_ms <= self.now_ms + 1, "it came too early", copy, copy.due_ms, self.now_ms)
        copy.unread = False
        queue.make_ready(copy)
        queue.entered = True

    def _read_late(self, queue: ModelQueue, copy: Copy) -> None:
        """It was on disk when its time came: so it need not wait, and has its old place."""
        copy.unread = False
        if queue.retrying.pop(copy.published.uid, None) is not None:
            insort(queue.ready, copy)
            self._out_of_order.add(queue.name)

    def _check_retries(self, queue: ModelQueue) -> None:
        for copy in list(queue.retrying.values()):
            if copy.due_ms + 1 < self.now_ms:
                require(copy.unread, "it waits too long", copy, copy.due_ms, self.now_ms)
                self._read_late(queue, copy)

    def _targets(self, queue: ModelQueue, letter: Letter, reason: str) -> list[ModelQueue]:
        """Where a message that dies here goes."""
        exchange = self.exchanges.get(queue.spec.dead_letter_exchange or "")
        if exchange is None:
            return []
        key = str(queue.spec.arguments["x-dead-letter-routing-key"])
        letter = letter.buried(queue.name, reason, exchange.name, key)
        names = {name: None for name, bound in exchange.bindings if exchange.matches(bound, key)}
        return [self.queues[name] for name in names if reason == REJECTED or letter.may_enter(name)]

    def _bury(
        self, queue: ModelQueue, letter: Letter, reason: str, superfluous: Collection[str]
    ) -> tuple[Copy, ...]:
        """Where the queue's rules send it."""
        exchange = self.exchanges.get(queue.spec.dead_letter_exchange or "")
        if exchange is None:
            return ()
        key = str(queue.spec.arguments["x-dead-letter-routing-key"])
        before = letter
        letter = letter.buried(queue.name, reason, exchange.name, key)
        targets = self._targets(queue, before, reason)
        for target in targets:
            there = target.name not in superfluous or target.had_duplicate(letter.published)
            require(there, "superfluous, and there is no other", target.name, letter)
        return tuple(
            target.take(letter, target.expiry_of(letter, self.now_ms))
            for target in targets
            if target.name not in superfluous
        )

    def queue_expired(self, name: str) -> None:
        """The broker deleted a queue that nobody used."""
        queue = self.queues[name]
        lifetime_ms = queue.lifetime_ms
        require(lifetime_ms is not None, "a queue is gone", name)
        assert lifetime_ms is not None
        require(not queue.consumers, "a queue expired that has consumers", name)
        ends = queue.used_at + lifetime_ms / 1000
        require(self.now >= ends - 1e-6, "a queue expired too early", name, self.now, ends)
        self.drop_queue(queue)

    def _check_overdue(self, queue: ModelQueue) -> None:
        if queue.ready:
            head = queue.ready[0]
            timely = not head.expires_ms or head.expires_ms + 1 >= self.now_ms
            require(timely, "an expired message is at the head", head, head.expires_ms)
        if not queue.untrimmed:
            require(not queue.holds_too_much(), "a queue holds too much", queue.name, queue.ready)
        lifetime_ms = queue.lifetime_ms
        if lifetime_ms is not None and not queue.consumers:
            ends = queue.used_at + lifetime_ms / 1000
            require(self.now <= ends + 0.001, "nobody uses the queue, and it is there", queue.name)

    # -- definitions

    def _declare_queue(self, channel: ModelChannel, action: DeclareQueue, first: bool) -> None:
        queue = self.queues.get(action.name)
        if queue is None:
            owner = channel.connection if QUEUES[action.name].exclusive else None
            queue = self._new_queue(action.name, owner)
            self._begin("queue", action.name)
        queue.used_at = self.now
        if action.nowait:
            return
        ready, consumers, deaths = len(queue.ready), len(queue.consumers), queue.deaths
        declared = queue
        dead = len(queue.unburied) + len(queue.retrying)

        def check(said: Queue.DeclareOk) -> None:
            require(said.queue == action.name, "declare-ok of another queue", said)
            counts = range(ready - (declared.deaths - deaths), ready + dead + 1)
            right = said.message_count in counts and said.consumer_count == consumers
            require(not first or right, "wrong counts", said, counts, consumers)
            declared.promised = True

        channel.expect(Queue.DeclareOk, check)

    def _delete_queue(self, channel: ModelChannel, action: DeleteQueue) -> None:
        queue = self.queues.get(action.name)
        ready = 0
        if queue is not None:
            ready = len(queue.ready) + len(queue.unburied) + len(queue.retrying)
            self.drop_queue(queue)
        if action.nowait:
            return
        ended = self._end_of("queue", action.name)

        def check(said: Queue.DeleteOk) -> None:
            require(said.message_count == ready, "a wrong count", said, ready)
            ended(said)

        channel.expect(Queue.DeleteOk, check)

    def drop_queue(self, queue: ModelQueue) -> None:
        """The queue goes with everything in it."""
        del self.queues[queue.name]
        queue.deleted = True
        queue.live.clear()
        queue.ready.clear()
        queue.unburied.clear()
        queue.retrying.clear()
        for consumer in queue.consumers:
            del consumer.channel.consumers[consumer.tag]
            consumer.channel.cancels.add(consumer.tag)
        queue.consumers.clear()
        for exchange in list(self.exchanges.values()):
            bound = [pair for pair in exchange.bindings if pair[0] == queue.name]
            self._remove_bindings(exchange, bound)

    def _remove_bindings(self, exchange: ModelExchange, bound: list[tuple[str, str]]) -> None:
        for pair in bound:
            del exchange.bindings[pair]
        if bound and not exchange.bindings and exchange.auto_delete:
            del self.exchanges[exchange.name]

    def _delete_if_unused(self, queue: ModelQueue) -> None:
        if queue.auto_delete and queue.had_consumer and not queue.consumers and not queue.deleted:
            self.drop_queue(queue)

    def _purge(self, channel: ModelChannel, queue: ModelQueue) -> None:
        purged = [*queue.ready, *queue.unburied.values(), *queue.retrying.values()]
        queue.ready = []
        queue.unburied = {}
        queue.retrying = {}
        for copy in purged:
            queue.settle(copy)

        def check(said: Queue.PurgeOk) -> None:
            require(said.message_count == len(purged), "a wrong count", said, len(purged))
            self.gone += [(queue, copy.published.uid) for copy in purged]

        channel.expect(Queue.PurgeOk, check)

    def _bind(self, channel: ModelChannel, action: Bind) -> None:
        exchange = self.exchanges[action.exchange]
        pair = (action.queue, action.routing_key)
        if pair not in exchange.bindings:
            exchange.bindings[pair] = False
            self._begin("binding", action.exchange, *pair)
        binding = ("binding", action.exchange, *pair)
        begun = self._beginnings.get(binding)

        def check(said: Queue.BindOk) -> None:
            # The answer is for the binding of then: it may have ended and begun anew since.
            if pair in exchange.bindings and self._beginnings.get(binding) == begun:
                exchange.bindings[pair] = True

        channel.expect(Queue.BindOk, check)

    def _unbind(self, channel: ModelChannel, action: Unbind) -> None:
        exchange = self.exchanges.get(action.exchange)
        pair = (action.queue, action.routing_key)
        if exchange is not None and pair in exchange.bindings:
            self._remove_bindings(exchange, [pair])
        ended = self._end_of("binding", action.exchange, action.queue, action.routing_key)
        channel.expect(Queue.UnbindOk, ended)

    def _declare_exchange(self, channel: ModelChannel, action: DeclareExchange) -> None:
        exchange = self.exchanges.get(action.name)
        if exchange is None:
            exchange = self.exchanges[action.name] = ModelExchange(action.name)
            self._begin("exchange", action.name)
        if action.nowait:
            return
        declared = exchange

        def check(said: Frame) -> None:
            declared.promised = True

        channel.expect(Exchange.DeclareOk, check)

    def _begin(self, *definition: str) -> None:
        self._beginnings[definition] = self._beginnings.get(definition, 0) + 1
        self.gone_definitions.pop(definition, None)

    def _end_of(self, *definition: str) -> Callable[[Any], None]:
        """What to do when the end of a definition is answered for."""
        beginning = self._beginnings.get(definition)

        def answered(said: Any) -> None:
            if self._beginnings.get(definition) == beginning:
                self.gone_definitions[definition] = None

        return answered

    # -- ends

    def end_channel(self, channel: ModelChannel) -> None:
        """Its consumers go, what it has not settled goes back."""
        channel.ended = True
        for _, outs in channel.tx_settlements:
            channel.ledger.update(outs)
        channel.ledger = dict(sorted(channel.ledger.items()))
        channel.tx_settlements = []
        channel.tx_messages = []
        consumers = list(channel.consumers.values())
        channel.consumers = {}
        for consumer in consumers:
            self._remove(consumer)
        ledger, channel.ledger = channel.ledger, {}
        self._requeue(channel, ledger.values(), "lost")
        for consumer in consumers:
            self._delete_if_unused(consumer.queue)

    def _remove(self, consumer: ModelConsumer) -> None:
        consumer.queue.remove_consumer(consumer)
        consumer.queue.used_at = self.now

    def end_connection(self, connection: ModelConnection) -> None:
        """Its channels end one by one, then its exclusive queues go."""
        if connection.ended:
            return
        connection.ended = True
        touched: dict[ModelQueue, None] = {}
        for channel in connection.channels.values():
            for consumer in channel.consumers.values():
                touched[consumer.queue] = None
            for out in channel.ledger.values():
                touched[out.copy.queue] = None
            for _, outs in channel.tx_settlements:
                touched.update((out.copy.queue, None) for out in outs.values())
            if not channel.ended:
                self.end_channel(channel)
        for queue in list(self.queues.values()):
            if queue.owner is connection:
                self.drop_queue(queue)
        for queue in touched:
            # One channel's messages may have gone to another of its channels, and back.
            self._out_of_order.add(queue.name)
            for copy in queue.ready:
                copy.maybe = copy.maybe or not copy.handed_out
                if copy.maybe and queue.counts_returns:
                    copy.returned = None

    # -- what the broker says

    def hear(self, connection: ModelConnection, number: int, said: Heard) -> None:
        """The broker said this, at the end of a turn."""
        if number == 0 and connection.told and isinstance(said, connection.told[0]):
            del connection.told[0]
            reason = "low on " + " & ".join(sorted(self.alarms, key=ALARMS.index))
            said_why = not isinstance(said, ConnectionClass.Blocked) or said.reason == reason
            require(said_why, "blocked for another reason", said, reason)
            return
        if number == 0:
            require(
                connection.close_ok_due and isinstance(said, ConnectionClass.CloseOk),
                "nothing was due on channel 0",
                said,
            )
            connection.close_ok_due = False
            return
        channel = connection.channels.get(number)
        require(channel is not None, "a channel that is not open", said)
        assert channel is not None
        if isinstance(said, Delivery):
            consumer = channel.consumers.get(said.consumer_tag)
            queue = consumer.queue if consumer is not None else None
            no_ack = consumer is not None and consumer.no_ack
            self._hand_out(channel, said, queue, consumer, no_ack)
        elif isinstance(said, Confirmed):
            self._confirmed(channel, said)
        elif isinstance(said, Basic.Cancel):
            tag = said.consumer_tag or ""
            require(tag in channel.cancels, "cancel of another consumer", said)
            channel.cancels.remove(tag)
        else:
            require(bool(channel.expected), "nothing was due", said)
            expected = channel.expected.popleft()
            require(isinstance(said, expected.kind), "something else was due", expected, said)
            expected.check(said)

    def _confirmed(self, channel: ModelChannel, said: Confirmed) -> None:
        unconfirmed = channel.unconfirmed
        require(said.number in unconfirmed, "confirm of what does not wait for it", said)
        covered = [said.number]
        if said.multiple:
            covered = [number for number in unconfirmed if number <= said.number]
        for number in covered:
            require(said.ack == (number not in channel.refused), "ack or nack?", said, number)
            channel.refused.discard(number)
            self.confirmed += 1
            for copy in unconfirmed.pop(number):
                if said.ack:
                    copy.promise()

    # -- the end of a turn

    def given_early(
        self,
        channel: ModelChannel,
        tag: int,
        queue_name: str,
        body: bytes,
        consumer_tag: str | None,
        returned: ReturnCount,
    ) -> None:
        """A new entry of the channel's ledger that was not said yet. `returned` is believed only
        where the model does not know."""
        queue = self.queues.get(queue_name)
        require(queue is not None, "a delivery from a queue that is gone", queue_name)
        assert queue is not None
        require(tag == channel.last_tag + 1, "a delivery tag out of order", tag, channel.last_tag)
        channel.last_tag = tag
        consumer = None if consumer_tag is None else channel.consumers[consumer_tag]
        copy = self._take(queue, uid_of(body), tag)
        channel.early[tag] = copy
        if copy.returned is None:
            copy.returned = returned
        channel.early_flags[tag] = (copy.handed_out, copy.maybe, copy.shown)
        self._given(channel, copy, consumer, tag, False)

    def see_returns(self, returns: Callable[[ModelChannel, int], ReturnCount]) -> None:
        """What the broker's ledgers say of what is not known here: that is believed."""
        for channel, tag, copy in self.unseen:
            if copy.returned is None and tag in channel.ledger:
                copy.returned = returns(channel, tag)
        self.unseen.clear()

    def end_turn(
        self, congested: Callable[[ModelConnection], bool], reading: Collection[str]
    ) -> None:
        """Everything was said: does it add up. `reading`: queues whose head is on its way."""
        self._actions = 0
        self.postponed = False
        for connection in self.connections:
            told = connection.ended or not connection.told
            require(told, "a client was not told", connection.name, connection.told)
        for queue, given in self._handed_out.items():
            if queue.entered and queue.is_prioritized:
                # What came in this turn may go before what was handed out earlier in it.
                self._out_of_order.add(queue.name)
            if queue.name not in self._out_of_order and queue.ready and not queue.deleted:
                last = max(copy for copy, _ in given)
                require(last < queue.ready[0], "not from the front", given, queue.ready[0])
            self._check_windows(queue, given)
            self._check_priorities(queue, given, congested)
        self._handed_out.clear()
        self._out_of_order.clear()
        for (queue, _), copy in self._rejected.items():
            buried = queue.spec.dead_letter_exchange is None or queue.deleted
            require(buried, "rejected, and no dead letter", copy)
        self._rejected.clear()
        delayed = self.exchanges.get(DELAYED)
        if delayed is not None and delayed.room is not None and DELAYED not in reading:
            late = [c for c in delayed.room.live.values() if c.due_ms + 1 < self.now_ms]
            require(not late, "it waits too long", late, self.now_ms)
        for queue in self.queues.values():
            self._check_retries(queue)
            require(not queue.refused, "refused, and no dead letter", queue.refused)
            if queue.deduplicates and queue.entered:
                require(queue.is_distinct, "duplicates", queue.name, list(queue.live.values()))
            queue.untrimmed = queue.untrimmed and not queue.entered
            queue.entered = False
            queue.left.clear()
            if queue.name in reading:
                continue  # its head is on its way: nobody can be given it, and it cannot die
            if queue.is_ruled or (queue.ready and queue.ready[0].expires_ms):
                self._check_overdue(queue)
            if queue.ready:
                for consumer in queue.consumers:
                    require(
                        not consumer.has_room()
                        or not queue.serves(consumer)
                        or congested(consumer.channel.connection),
                        "a message lies while a consumer could take it",
                        queue.ready[0],
                        consumer.tag,
                    )
        self._note_who_is_free(congested)

    def _check_windows(
        self, queue: ModelQueue, given: list[tuple[Copy, ModelConsumer | None]]
    ) -> None:
        latest: dict[ModelConsumer, Copy] = {}
        for copy, consumer in given:
            if consumer is None:
                continue
            before = latest.get(consumer)
            ordered = before is None or before < copy or queue.name in self._out_of_order
            require(ordered, "out of order", given)
            latest[consumer] = copy
        for consumer in latest:
            channel = consumer.channel
            require(
                (not consumer.prefetch or consumer.unacked <= consumer.prefetch)
                and (
                    consumer.no_ack
                    or not channel.global_prefetch
                    or channel.consumer_unacked <= channel.global_prefetch
                ),
                "more unacknowledged than the prefetch window holds",
                consumer.tag,
            )

    def _check_priorities(
        self,
        queue: ModelQueue,
        given: list[tuple[Copy, ModelConsumer | None]],
        congested: Callable[[ModelConnection], bool],
    ) -> None:
        served = [consumer.priority for _, consumer in given if consumer is not None]
        for consumer in queue.consumers if served and not queue.has_active else ():
            first = consumer.priority <= min(served) or not consumer.free
            full = not consumer.has_room() or congested(consumer.channel.connection)
            require(first or full, "one of lower priority was served", consumer.tag, given)

    def _note_who_is_free(self, congested: Callable[[ModelConnection], bool]) -> None:
        """For the next turn. Room that comes in the midst of one does not count: it may have come
        after somebody else was served."""
        for queue in self.queues.values():
            for consumer in queue.consumers:
                connection = consumer.channel.connection
                consumer.free = consumer.has_room() and not congested(connection)

    def check_quiet(self) -> None:
        """Nothing waits for the disk: then nobody waits for an answer."""
        for connection in self.connections:
            if connection.ended:
                continue
            for channel in connection.channels.values():
                require(not channel.expected, "never answered", list(channel.expected))
                require(not channel.cancels, "never cancelled", channel.cancels)
                require(not channel.early, "never said", channel.early)
                waiting = not channel.ended and channel.unconfirmed
                require(not waiting, "never confirmed", channel.unconfirmed)

    # -- crashes

    def durable_state(self) -> State:
        """What a store that is up to date holds."""
        return State(
            {
                queue.name: tuple(
                    Kept(
                        uid,
                        copy.handed_out,
                        is_maybe_marked(copy),
                        copy.expires_ms,
                        copy.letter,
                        copy.level,
                        copy.recorded,
                        copy.due_ms,
                        copy.buried_as,
                    )
                    for uid, copy in queue.live.items()
                    if copy.is_kept
                )
                for queue in self.queues.values()
                if queue.durable
            },
            frozenset(name for name, exchange in self.exchanges.items() if exchange.durable),
            frozenset(
                (exchange.name, queue, key)
                for exchange in self.exchanges.values()
                if exchange.durable
                for queue, key in exchange.bindings
                if self.queues[queue].durable
            ),
            self._waiting(),
            tuple(self.exchanges[DEDUPLICATING].seen) if DEDUPLICATING in self.exchanges else (),
            self.policy,
        )

    def _waiting(self) -> tuple[Waiting, ...]:
        exchange = self.exchanges.get(DELAYED)
        if exchange is None or exchange.room is None:
            return ()
        return tuple(
            Waiting(copy.published, copy.due_ms)
            for copy in sorted(exchange.room.live.values())
            if copy.published.persistent
        )

    def check_promises(self, found: Found) -> None:
        """Whatever was confirmed or answered is in the store, or gone from it."""
        waiting = {uid for uid, _ in found.waiting}
        anywhere = {uid for messages in found.queues.values() for uid, *_ in messages} | waiting
        for queue in self.queues.values():
            if not queue.durable:
                continue
            stored = found.queues.get(queue.name)
            require(
                stored is not None or not queue.promised, "a declared queue is lost", queue.name
            )
            uids = {uid for uid, *_ in stored or ()}
            for copy in queue.live.values():
                if copy.promised:
                    require(copy.published.uid in uids, "a confirmed message is lost", copy)
                elif copy.owed:
                    there = copy.published.uid in anywhere
                    require(there, "a confirmed message is lost, and its dead letter too", copy)
        for exchange in self.exchanges.values():
            for waits in exchange.room.live.values() if exchange.room is not None else ():
                there = not waits.promised or waits.published.uid in waiting
                require(there, "a confirmed message that waited is lost", waits)
            if exchange.durable and exchange.promised:
                require(
                    exchange.name in found.exchanges, "a declared exchange is lost", exchange.name
                )
            for (name, key), promised in exchange.bindings.items():
                if promised and exchange.durable and self.queues[name].durable:
                    there = (exchange.name, name, key) in found.bindings
                    require(there, "a binding is lost", exchange.name, name, key)
        for queue, uid in self.gone:
            if not queue.deleted:
                back = any(uid == number for number, *_ in found.queues.get(queue.name, ()))
                require(not back, "a settled message is back", queue.name, uid)
        for kind, *names in self.gone_definitions:
            if kind == "queue":
                back = names[0] in found.queues
            elif kind == "exchange":
                back = names[0] in found.exchanges
            else:
                back = (names[0], names[1], names[2]) in found.bindings
            require(not back, "a definition is back whose end was answered for", kind, names)

    def restart_from(self, state: State) -> None:
        """Nothing is left but what was in the store."""
        self.queues = {}
        self.exchanges = {}
        self.connections = []
        self.gone = []
        self.gone_definitions = {}
        self._actions = 0
        self._handed_out = {}
        self._out_of_order = set()
        self._rejected = {}
        self.unseen = []
        self.alarms = frozenset()
        self.policy = state.policy
        for name, messages in state.queues.items():
            queue = self._new_queue(name, None)
            queue.promised = True
            for kept in messages:
                copy = queue.take(kept.letter, kept.expires_ms, kept.level)
                copy.promised = True
                copy.handed_out = kept.handed_out
                copy.maybe = kept.maybe
                copy.recorded = copy.returned = kept.recorded
                if queue.is_quorum and kept.handed_out and not kept.recorded.acquired:
                    # Who had it when the broker stopped gives it back, and nothing is written.
                    copy.returned = ReturnCount(1, 1)
                if queue.counts_returns and kept.maybe:
                    copy.returned = None
                copy.due_ms = kept.due_ms
                if kept.due_ms > self.now_ms:
                    copy.unread = True
                    queue.ready.remove(copy)
                    queue.retrying[kept.uid] = copy
                if kept.buried_as:
                    copy.buried_as = kept.buried_as
                    queue.ready.remove(copy)
                    queue.unburied[kept.uid] = copy
                if kept.handed_out or kept.maybe:
                    queue.mark = copy.order
            queue.untrimmed = queue.holds_too_much()
            queue.entered = False
        for name in sorted(state.exchanges):
            self.exchanges[name] = ModelExchange(name)
            self.exchanges[name].promised = True
        for exchange, name, key in sorted(state.bindings):
            self.exchanges[exchange].bindings[name, key] = True
        self.published = {
            uid: copy.published
            for queue in self.queues.values()
            for uid, copy in queue.live.items()
        }
        delayed = self.exchanges.get(DELAYED)
        if delayed is not None and delayed.room is not None:
            for published, due_ms in state.waiting:
                delayed.room.take(published, due_ms).promised = True
                self.published[published.uid] = published
        if DEDUPLICATING in self.exchanges:
            self.exchanges[DEDUPLICATING].seen = list(state.seen)
