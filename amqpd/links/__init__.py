"""Links to other brokers: an AMQP client on the broker's own codec, and the shovels that use it.

`uri` says where to, `reading` and `client` speak AMQP as a client does and are sans-IO, as are
`shovel_definition` and `shovel`. `transport` has the sockets, `runner` keeps a shovel going, and
`shovels` stands behind the runtime parameters of component `shovel`.
"""
