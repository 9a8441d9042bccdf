"""One attempt of a link, without a socket: two clients, and messages from the one to the other.

    source ──delivery──> [backlog] ──publish──> destination
       ^                     |                       |
       +─── ack, nack ── waiting: publish number -> delivery tag <── confirm

Shovels and links of federation are such links: they say what both ends have to be asked before
messages flow (`_prepare`), and what becomes of each message (`_envelope`, `_changed`). Rules kept:

- A message is acknowledged at the source when its ack-mode says so, and never before: on-confirm
  when the destination has confirmed it, on-publish when it was given to the destination's
  connection.
- What the destination refuses goes back into its queue, after a pause that grows while nothing is
  taken: a full queue is asked again now and then, not as fast as two brokers can.
- Properties and body pass as bytes, but for what the link changes.
- Memory is bounded: what is taken and not settled by the prefetch; in any case, and where there is
  no prefetch (no-ack), the source is not read while `wants_source` is false.
- A link that is to end for a reason of ours takes nothing more (`retire`), and ends when all it has
  taken is settled: so nothing arrives twice because somebody changed a policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from itertools import takewhile
from typing import ClassVar, Final, Literal, NamedTuple

from amqpd.commands import Arguments, Basic, Frame, MethodCommand
from amqpd.errors import AMQPException
from amqpd.links.client import (
    Blocked,
    ChannelClosed,
    Event,
    LinkClient,
    Opened,
    State,
    Unblocked,
)
from amqpd.links.methods import unchecked
from amqpd.links.reading import Confirmed, Delivery, Returned

AckMode = Literal["no-ack", "on-publish", "on-confirm"]

NOT_FOUND: Final = 404
CHANNEL: Final = 1
UNSENT_MAX: Final = 1024 * 1024
"""Octets that wait for the destination to read above which nothing more is taken."""
TAKEN_MAX: Final = 65535
"""Messages taken and not settled, where the prefetch sets no limit."""
BACKLOG_BYTES_MAX: Final = 1024 * 1024
"""Octets taken and not passed on above which nothing more is taken."""
ANSWER_S: Final = 60.0
"""Longest wait for an answer while preparing; then the attempt is over."""
REFUSAL_PAUSE_S: Final = 0.1
"""From a refusal until the message goes back; twice as long each time, up to so long:"""
REFUSAL_PAUSE_MAX_S: Final = 30.0
ENVELOPES_MAX: Final = 1024
LAG_EVERY_S: Final = 5.0
"""Between two looks at how many messages wait at the source, for links that look."""
REWRITTEN_MAX: Final = 1024
"""Lists of properties whose changed form is kept: most messages look like others."""
REWRITTEN_BYTES_MAX: Final = 1024
"""Longer ones are not kept."""


class LinkFailed(Exception):
    """This attempt is over; `str()` says why, for people."""


class Step(NamedTuple):
    """Something to ask one of the two brokers while preparing."""

    client: LinkClient
    method: Frame
    arguments: Arguments = {}  # noqa: RUF012
    channel: int = CHANNEL
    may_fail: tuple[int, ...] = ()
    """Channel exceptions that are an answer, too: `ChannelClosed`, and the channel is gone."""


Answer = Frame | ChannelClosed | None
Preparation = Generator[Step | None, Answer, None]
"""Asks one question at a time; None is to be gone on with by `_go_on`."""


class Link(ABC):
    """Moves messages over two connections until one of them ends, or all is done."""

    SOURCE: ClassVar[str]
    """What the two sides are called in reasons."""
    DESTINATION: ClassVar[str]
    MANDATORY: ClassVar[bool] = False
    """A message that the destination cannot route ends the attempt."""

    def __init__(
        self,
        source: LinkClient,
        destination: LinkClient,
        *,
        ack_mode: AckMode,
        prefetch_count: int,
    ) -> None:
        self.source = source
        self.destination = destination
        self.running = False
        """All preparations are made."""
        self.blocked = False
        """The destination takes nothing for now."""
        self.finished = False
        """There is nothing left to do."""
        self.retiring = False
        """Nothing more is to be taken; `finished` once all that was taken is settled."""
        self.warnings: list[str] = []
        """What a person should know, though it runs."""
        self.lag: int | None = None
        """Messages that waited at the source when we last looked; None if we never did."""
        self.forwarded = 0
        self._consumer_tag = ""
        """Under which the source is consumed; empty while it is not."""
        self._look_at = 0.0
        """When to look next how many messages wait at the source."""
        self._backlog: deque[Delivery] = deque()
        self._backlog_bytes = 0
        self._waiting: dict[int, int] = {}
        """Publish number -> delivery tag, oldest first, of what is not confirmed yet."""
        self._done_tags: list[int] = []
        """Delivery tags to be acknowledged at the end of the chunk."""
        self._refused: list[int] = []
        """Delivery tags of what the destination refused, and what is to go back."""
        self._give_back_at: float | None = None
        self._refusal_pause_s = REFUSAL_PAUSE_S
        self._answer_by: float | None = None
        """When the preparations are given up."""
        self._opened = 0
        self._script = self._prepare()
        self._asked: Step | None = None
        """Whose answer the preparations wait for."""
        self._envelopes: dict[bytes, bytes] = {}
        self._settles = ack_mode != "no-ack"
        self._confirms = ack_mode == "on-confirm"
        self._prefetch = prefetch_count if self._settles else 0
        self._taken_max = self._prefetch or TAKEN_MAX

    # -- for the kind of link

    @abstractmethod
    def _prepare(self) -> Preparation:
        """What to ask both brokers, from channel.open to basic.consume."""

    @abstractmethod
    def _envelope(self, delivery: Delivery) -> bytes:
        """Where a message goes: exchange and routing key, two short strings."""

    @abstractmethod
    def _changed(self, delivery: Delivery) -> bytes | None:
        """The properties with which it goes there; None to drop it."""

    def _hear_method(self, client: LinkClient, command: MethodCommand) -> None:  # noqa: B027
        """A method that answers no question of the preparations."""

    def _started(self) -> None:  # noqa: B027
        """The preparations are made."""

    def _look_due(self) -> float | None:
        """When `_look` has to be called."""
        return self._look_at if self.running else None

    @abstractmethod
    def _look(self, now: float) -> None:
        """See how things are at the source."""

    def leave(self) -> None:  # noqa: B027
        """The connections are about to be closed, if they are still open: the last word."""

    # -- time

    def deadline(self) -> float | None:
        """When `handle_timer` has to be called."""
        ends = (self._look_due(), self._give_back_at, self._answer_by)
        return min((end for end in ends if end is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due. Raises LinkFailed."""
        if self._answer_by is not None and now >= self._answer_by:
            raise LinkFailed(self._unanswered())
        if self._give_back_at is not None and now >= self._give_back_at:
            self._give_back()
        look_at = self._look_due()
        if look_at is not None and now >= look_at:
            self._look(now)

    def _unanswered(self) -> str:
        if self._asked is None:
            return f"{self.SOURCE}: bindings were not answered in {ANSWER_S:g} s"
        side, name = self._side(self._asked.client), self._asked.method.name
        return f"{side}: {name} was not answered in {ANSWER_S:g} s"

    # -- state

    @property
    def pending(self) -> int:
        """Messages taken and not passed on."""
        return len(self._backlog)

    @property
    def unconfirmed(self) -> int:
        """Messages passed on and not confirmed."""
        return len(self._waiting)

    @property
    def refused(self) -> int:
        """Messages that the destination has refused, and that go back after a pause."""
        return len(self._refused)

    @property
    def wants_source(self) -> bool:
        """Whether to read what the source says; if not, until the destination has said more or
        has been sent what waits for it."""
        taken = len(self._backlog) + len(self._waiting) + len(self._refused)
        return self.finished or not (
            self.destination.unsent_bytes > UNSENT_MAX
            or self._backlog_bytes > BACKLOG_BYTES_MAX
            or taken > self._taken_max
        )

    def retire(self) -> None:
        """Take nothing more, and finish when everything is settled."""
        if self.retiring:
            return
        self.retiring = True
        if not self.running or self.source.state is not State.OPEN:
            self.finished = True
        elif self._consumer_tag:
            cancel = unchecked(Basic.Cancel, consumer_tag=self._consumer_tag, nowait=False)
            self.source.send(CHANNEL, cancel)
        else:
            self._finish_if_retired()

    # -- events

    def hear(self, client: LinkClient, events: list[Event]) -> None:
        """Act on what either side said. Raises LinkFailed."""
        try:
            self._act(client, events)
        except AMQPException as error:
            raise LinkFailed(f"{self.SOURCE}: {error.reply_text}") from None
        if client.state is State.CLOSED and not self.finished:
            self._connection_closed(client)
        if events and self._opened == 2:
            self._answer_by = None if self.running else client.now + ANSWER_S

    def _act(self, client: LinkClient, events: list[Event]) -> None:
        from_source = client is self.source
        for event in events:
            kind = type(event)
            if kind is Delivery:
                self._take(event)  # type: ignore[arg-type]
            elif kind is Confirmed:
                self._confirm(event)  # type: ignore[arg-type]
            elif isinstance(event, Opened):
                self._opened += 1
                if self._opened == 2:
                    self._ask(next(self._script))
            elif isinstance(event, Blocked) and not from_source:
                self.blocked = True
            elif isinstance(event, Unblocked) and not from_source:
                self.blocked = False
            elif isinstance(event, Returned):
                self._returned(event)
            elif isinstance(event, ChannelClosed):
                self._channel_closed(client, event)
            elif isinstance(event, MethodCommand):
                self._reply(client, event)
        if self._backlog:
            self._forward()
        if self._done_tags:
            self._settle()
        if self.retiring:
            self._finish_if_retired()

    def _reply(self, client: LinkClient, command: MethodCommand) -> None:
        method, asked = command.method, self._asked
        if isinstance(method, Basic.Cancel):
            raise LinkFailed(f"{self.SOURCE}: the consumer was cancelled, its queue is gone")
        if self.retiring and isinstance(method, Basic.CancelOk) and client is self.source:
            self._consumer_tag = ""
        elif asked is not None and asked.client is client and asked.channel == command.channel:
            self._answer(method)
        else:
            self._hear_method(client, command)

    def _channel_closed(self, client: LinkClient, event: ChannelClosed) -> None:
        asked = self._asked
        if (
            asked is not None
            and (asked.client, asked.channel) == (client, event.channel)
            and event.code in asked.may_fail
        ):
            self._answer(event)
            return
        raise LinkFailed(f"{self._side(client)}: {event.code} {event.text}")

    def _connection_closed(self, client: LinkClient) -> None:
        raise LinkFailed(f"{self._side(client)}: {client.end_reason or 'closed'}")

    def _side(self, client: LinkClient) -> str:
        return self.SOURCE if client is self.source else self.DESTINATION

    def _finish_if_retired(self) -> None:
        # What is stuck before a blocked destination goes back into its queue.
        if not self._consumer_tag and not self._waiting:
            self.finished = True

    # -- preparations

    def _ask(self, step: Step | None) -> None:
        self._asked = step
        if step is None:
            return
        try:
            step.client.send(step.channel, step.method, step.arguments)
        except ValueError as error:
            raise LinkFailed(f"{step.method.name}: {error}") from None

    def _answer(self, answer: Answer) -> None:
        self._asked = None
        if isinstance(answer, Basic.ConsumeOk):
            self._consumer_tag = answer.consumer_tag or ""
        try:
            step = self._script.send(answer)
        except StopIteration:
            self.running = True
            self._started()
            return
        self._ask(step)

    def _go_on(self) -> None:
        """What the preparations waited for without asking is there."""
        self._answer(None)

    # -- messages

    def _take(self, delivery: Delivery) -> None:
        self._backlog.append(delivery)
        self._backlog_bytes += len(delivery.properties) + len(delivery.body)

    def _returned(self, returned: Returned) -> None:
        """It came before the confirm of its message, which is not to be believed."""
        if self._done_tags:
            self._settle()
        raise LinkFailed(f"{self.DESTINATION}: {returned.code} {returned.text}")

    def _may_forward(self) -> bool:
        """Whether one more message may be passed on; asked once for each."""
        return True

    def _forward(self) -> None:
        """Pass on what was taken, as far as it may be."""
        backlog, waiting, destination = self._backlog, self._waiting, self.destination
        while backlog and not self.blocked and destination.state is State.OPEN:
            if not self._may_forward():
                return
            delivery = backlog.popleft()
            self._backlog_bytes -= len(delivery.properties) + len(delivery.body)
            properties = self._changed(delivery)
            if properties is None:
                if self._settles:
                    self._done_tags.append(delivery.delivery_tag)
                continue
            envelope = self._envelopes.get(delivery.envelope)
            if envelope is None:
                envelope = self._remember_envelope(delivery)
            number = destination.publish(
                CHANNEL, envelope, properties, delivery.body, mandatory=self.MANDATORY
            )
            self.forwarded += 1
            if self._confirms:
                waiting[number] = delivery.delivery_tag
            elif self._settles:
                self._done_tags.append(delivery.delivery_tag)
            else:
                self._count_settled(1)

    def _remember_envelope(self, delivery: Delivery) -> bytes:
        """For others that come from where this one does."""
        if len(self._envelopes) >= ENVELOPES_MAX:
            self._envelopes.clear()
        envelope = self._envelopes[delivery.envelope] = self._envelope(delivery)
        return envelope

    def _confirm(self, confirmed: Confirmed) -> None:
        waiting, number = self._waiting, confirmed.publish_number
        if confirmed.multiple:
            numbers = list(takewhile(lambda oldest: oldest <= number, waiting))
        else:
            numbers = [number] if number in waiting else []
        tags = [waiting.pop(settled) for settled in numbers]
        if confirmed.safe:
            self._done_tags += tags
            if not (waiting or self._refused):
                self._refusal_pause_s = REFUSAL_PAUSE_S
        elif tags:
            self._refuse(tags)

    def _refuse(self, tags: list[int]) -> None:
        """The destination did not take these."""
        if self._give_back_at is None:
            self._give_back_at = self.destination.now + self._refusal_pause_s
        self._refused += tags
        self._count_refused(len(tags))

    def _give_back(self) -> None:
        """Into their queue, for another try."""
        if self.source.state is State.OPEN:
            for tag in self._refused:
                self.source.nack(CHANNEL, tag)
        self._refused = []
        self._give_back_at = None
        self._refusal_pause_s = min(2 * self._refusal_pause_s, REFUSAL_PAUSE_MAX_S)

    def _settle(self) -> None:
        """Acknowledge, in as few words as tell the truth."""
        done, source = sorted(self._done_tags), self.source
        self._done_tags = []
        # Everything below the oldest message that is still open is done, and one word says so.
        first_open = next(iter(self._waiting.values()), None)
        if first_open is None and self._backlog:
            first_open = self._backlog[0].delivery_tag
        if self._refused:
            refused = min(self._refused)
            first_open = refused if first_open is None else min(first_open, refused)
        if first_open is None or done[-1] < first_open:
            source.ack(CHANNEL, done[-1], multiple=True)
        else:
            below = [tag for tag in done if tag < first_open]
            if below:
                source.ack(CHANNEL, below[-1], multiple=True)
            for tag in done[len(below) :]:
                source.ack(CHANNEL, tag)
        self._count_settled(len(done))

    def _count_settled(self, count: int) -> None:  # noqa: B027
        """So many more are done with."""

    def _count_refused(self, count: int) -> None:  # noqa: B027
        """So many went back."""


def described(answer: Answer) -> str:
    """An answer that was not expected, in words."""
    if isinstance(answer, ChannelClosed):
        return f"{answer.code} {answer.text}"
    return "there was no answer" if answer is None else f"the answer was {answer.name}"
