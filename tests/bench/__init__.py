"""`make bench`: what the broker does per second, per message and at rest, beside another broker.

A figure here is a fact about one machine and one run, never an assertion: nothing fails for being
slow. Brokers that are compared are measured in turns within one run, workload by workload, because
the machine of the next hour is a different machine.

    python -m tests.bench                        amqpd alone, everything, two minutes
    python -m tests.bench --quick                the figures of the front page, half a minute
    python -m tests.bench --against rabbitmq     Debian's RabbitMQ beside it, with ratios
    python -m tests.bench --only manual-ack      one workload; --list names them

- `wire`: frames, encoded before the clock starts; `client`: a blocking connection to set things up
- `load`: publishers and consumers, and the process they run in, once per workload
- `workloads`: what is measured, one function each
- `brokers`: starts and stops what is measured; `process`: reads /proc about it
- `report`: the table and the JSON
"""
