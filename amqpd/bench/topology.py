"""Exchange, queues and bindings of a run. Queues are durable: newer brokers refuse others."""

from __future__ import annotations

from amqpd.bench.plan import Plan
from amqpd.bench.speaker import Request, Script, Speaker
from amqpd.commands import Exchange, Frame, Queue
from amqpd.links.client import LinkClient
from amqpd.links.methods import unchecked


class Topology(Speaker):
    """A channel that declares what has a name, once, before anybody needs it."""

    def __init__(self, client: LinkClient, channel: int, plan: Plan) -> None:
        super().__init__(client, channel)
        self._plan = plan

    def script(self) -> Script:
        """Declare the exchange, then each queue and its binding."""
        plan = self._plan
        if plan.needs_exchange:
            method: Frame = unchecked(
                Exchange.Declare, exchange=plan.exchange, exchange_type=plan.exchange_type
            )
            yield method, None
        if not plan.predeclared:
            for number, queue in enumerate(plan.queues):
                yield declared(plan, queue)
                if plan.exchange:
                    yield bound(plan, queue, plan.routing_key_of(number))


def declared(plan: Plan, queue: str) -> Request:
    """The queue."""
    method = unchecked(Queue.Declare, queue=queue, durable=True, auto_delete=plan.auto_delete)
    return method, plan.queue_arguments


def bound(plan: Plan, queue: str, routing_key: str) -> Request:
    """Its binding; to the default exchange every queue is bound already."""
    return unchecked(Queue.Bind, queue=queue, exchange=plan.exchange, routing_key=routing_key), None
