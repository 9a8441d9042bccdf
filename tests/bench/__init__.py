"""`make bench`: what the broker does per second, per message and at rest, beside another broker.

A figure here is a fact about one machine and one run, never an assertion: nothing fails for being
slow. Brokers that are compared are measured in turns within one run, workload by workload, because
the machine of the next hour is a different machine.

    python -m tests.bench                        amqpd alone, everything, two minutes
    python -m tests.bench --quick                the figures of the front page, half a minute
    python -m tests.bench --against rabbitmq     Debian's RabbitMQ beside it, with ratios
    python -m tests.bench --peers                every peer that is there, three rounds, the goals
    python -m tests.bench --only manual-ack      one workload; --list names them

- `wire`: frames, encoded before the clock starts; `client`: a blocking connection to set things up;
  `sockets`: how the load waits for what comes
- `load`: publishers and consumers, and the process they run in, once per workload;
  `trips`: messages that are timed one by one
- `workloads`: what is measured, by name, one function each in `one_queue`, `routing`, `requests`,
  `at_rest` and `generator_speed`; `target` is what they are given
- `scenarios`: what takes long or restarts the broker: also in `strain`, `tail`, `delayed`, `links`,
  `http_api`; `site` is what they are given
- `brokers`: starts and stops what is measured; `peers`: what it is compared with; `process`: reads
  /proc about it
- `perftest`: RabbitMQ's own generator in place of ours
- `curves`: throughput against size, and `plot`: as pictures
- `report`: the table and the JSON; `goals`: what is to be reached
"""
