// rabbitmq-client: consumers, publishers and RPC that recover, and its channels.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import rabbitmq from "rabbitmq-client";
import {
  Mailbox,
  Proxy,
  authority,
  main,
  scenario,
  tlsUrl,
  unique,
  until,
  url,
  within,
} from "./scenarios.mjs";

const { Connection, ConsumerStatus } = rabbitmq;

function open(undo, at = url, options = {}) {
  const connection = new Connection({ url: at, retryLow: 50, retryHigh: 200, ...options });
  connection.on("error", () => {});
  undo(() => connection.close());
  return connection;
}

function consumer(undo, connection, options, handler) {
  const made = connection.createConsumer(options, handler);
  made.on("error", () => {});
  undo(() => made.close());
  return within(
    60_000,
    new Promise((resolve) => made.on("ready", () => resolve(made))),
    "the consumer",
  );
}

async function channelFor(undo, connection) {
  const channel = await connection.acquire();
  undo(() => channel.close());
  return channel;
}

async function queueFor(channel) {
  return (await channel.queueDeclare({ exclusive: true })).queue;
}

scenario("publish_and_consume", async (undo) => {
  const rabbit = open(undo);
  const [queue, exchange] = [unique(), unique("events")];
  const box = new Mailbox();
  await consumer(
    undo,
    rabbit,
    {
      queue,
      queueOptions: { exclusive: true },
      qos: { prefetchCount: 2 },
      exchanges: [{ exchange, type: "topic", autoDelete: true }],
      queueBindings: [{ exchange, routingKey: "users.*" }],
    },
    (message) => box.put([message.routingKey, message.contentType, message.body]),
  );
  const publisher = rabbit.createPublisher({ confirm: true, maxAttempts: 2 });
  undo(() => publisher.close());
  await publisher.send({ exchange, routingKey: "users.visit" }, { id: 1, name: "Alan Turing" });
  await publisher.send({ exchange, routingKey: "nobody" }, "lost");
  await publisher.send(queue, "straight");
  assert.deepEqual(await box.take(2), [
    ["users.visit", "application/json", { id: 1, name: "Alan Turing" }],
    [queue, "text/plain", "straight"],
  ]);
  await box.expectNothing();
});

scenario("what_a_handler_returns_decides", async (undo) => {
  const rabbit = open(undo);
  const queue = unique();
  const box = new Mailbox();
  const made = await consumer(
    undo,
    rabbit,
    { queue, queueOptions: { exclusive: true }, concurrency: 1, requeue: false },
    (message) => {
      box.put([message.body, message.redelivered]);
      if (message.body === "again" && !message.redelivered) return ConsumerStatus.REQUEUE;
      if (message.body === "drop") return ConsumerStatus.DROP;
      if (message.body === "throw") throw new Error("on purpose");
      return ConsumerStatus.ACK;
    },
  );
  const publisher = rabbit.createPublisher({ confirm: true });
  undo(() => publisher.close());
  for (const body of ["again", "drop", "throw", "fine"]) await publisher.send(queue, body);
  const seen = await box.take(5);
  assert.deepEqual([...seen].sort(), [
    ["again", false],
    ["again", true],
    ["drop", false],
    ["fine", false],
    ["throw", false],
  ]);
  await until(() => made.stats.acknowledged === 2, "the acknowledgements");
  assert.deepEqual([made.stats.dropped, made.stats.requeued], [2, 1]);
  const { messageCount } = await rabbit.queueDeclare({ queue, passive: true });
  assert.equal(messageCount, 0);
});

scenario("confirms_of_many", async (undo) => {
  const rabbit = open(undo);
  const { queue } = await rabbit.queueDeclare({ queue: unique(), durable: true });
  undo(() => rabbit.queueDelete({ queue }));
  const publisher = rabbit.createPublisher({ confirm: true });
  undo(() => publisher.close());
  await Promise.all(
    [...Array(300).keys()].map((n) =>
      publisher.send({ routingKey: queue, durable: n % 2 === 0 }, { n }),
    ),
  );
  assert.equal((await rabbit.queueDeclare({ queue, passive: true })).messageCount, 300);
  assert.deepEqual((await rabbit.queuePurge({ queue })).messageCount, 300);
});

scenario("unroutable_messages_come_back", async (undo) => {
  const rabbit = open(undo);
  const box = new Mailbox();
  const publisher = rabbit.createPublisher({ confirm: true });
  publisher.on("basic.return", box.put);
  undo(() => publisher.close());
  await publisher.send({ exchange: "amq.direct", routingKey: "nowhere", mandatory: true }, "lost");
  const [message] = await box.take(1);
  assert.deepEqual(
    [message.replyCode, message.replyText, message.exchange, message.routingKey, message.body],
    [312, "NO_ROUTE", "amq.direct", "nowhere", "lost"],
  );
});

scenario("rpc", async (undo) => {
  const rabbit = open(undo);
  const queue = unique("rpc");
  await consumer(
    undo,
    rabbit,
    { queue, queueOptions: { exclusive: true } },
    async (request, reply) => {
      await reply(`re: ${request.body}`);
    },
  );
  const client = open(undo).createRPCClient({ confirm: true });
  undo(() => client.close());
  const replies = await Promise.all([...Array(20).keys()].map((n) => client.send(queue, `${n}`)));
  assert.deepEqual(
    replies.map((reply) => reply.body),
    [...Array(20).keys()].map((n) => `re: ${n}`),
  );
});

scenario("get_and_requeue_keep_the_order", async (undo) => {
  const channel = await channelFor(undo, open(undo));
  const queue = await queueFor(channel);
  await channel.confirmSelect();
  for (const body of "123") await channel.basicPublish(queue, body);
  const messages = [];
  for (let n = 0; n < 3; n++) messages.push(await channel.basicGet({ queue }));
  assert.deepEqual(
    messages.map((message) => [message.body, message.messageCount, message.redelivered]),
    [
      ["1", 2, false],
      ["2", 1, false],
      ["3", 0, false],
    ],
  );
  for (const at of [1, 2, 0]) {
    channel.basicNack({ deliveryTag: messages[at].deliveryTag, requeue: true });
  }
  const again = [];
  for (let n = 0; n < 3; n++) again.push(await channel.basicGet({ queue, noAck: true }));
  assert.deepEqual(
    again.map((message) => [message.body, message.redelivered]),
    [
      ["1", true],
      ["2", true],
      ["3", true],
    ],
  );
  assert.equal(await channel.basicGet({ queue }), undefined);
});

scenario("qos", async (undo) => {
  const channel = await channelFor(undo, open(undo));
  const queue = await queueFor(channel);
  await channel.basicQos({ prefetchCount: 3 });
  const box = new Mailbox();
  await channel.basicConsume({ queue }, box.put);
  for (let n = 0; n < 10; n++) await channel.basicPublish(queue, { n });
  const messages = await box.take(3);
  await box.expectNothing();
  channel.basicAck({ deliveryTag: messages[2].deliveryTag, multiple: true });
  assert.deepEqual((await box.take(3)).map((message) => message.body.n), [3, 4, 5]);
  await box.expectNothing();
});

scenario("transactions", async (undo) => {
  const rabbit = open(undo);
  const channel = await channelFor(undo, rabbit);
  const { queue } = await rabbit.queueDeclare({ queue: unique(), exclusive: true });
  await channel.txSelect();
  await channel.basicPublish(queue, "kept");
  await channel.txCommit();
  await channel.basicPublish(queue, "dropped");
  await channel.txRollback();
  assert.equal((await rabbit.queueDeclare({ queue, passive: true })).messageCount, 1);
});

scenario("error_codes", async (undo) => {
  const rabbit = open(undo);
  const stranger = open(undo);
  const { queue } = await rabbit.queueDeclare({ queue: unique(), exclusive: true });
  const cases = [
    ["NOT_FOUND", () => rabbit.queueDeclare({ queue: "no such queue", passive: true })],
    ["NOT_FOUND", () => rabbit.basicGet({ queue: "no such queue" })],
    ["NOT_FOUND", () => rabbit.queueBind({ queue, exchange: "no such exchange" })],
    ["ACCESS_REFUSED", () => rabbit.queueDeclare({ queue: "amq.mine" })],
    ["ACCESS_REFUSED", () => rabbit.exchangeDelete({ exchange: "amq.topic" })],
    ["RESOURCE_LOCKED", () => stranger.queueDeclare({ queue, passive: true })],
    ["PRECONDITION_FAILED", () => rabbit.exchangeDeclare({ exchange: "amq.topic", type: "fanout" })],
  ];
  for (const [code, provoke] of cases) await assert.rejects(provoke, { code }, String(provoke));
  const publisher = rabbit.createPublisher({ confirm: true });
  undo(() => publisher.close());
  await assert.rejects(publisher.send({ exchange: unique("x"), routingKey: "k" }, "x"), {
    code: "NOT_FOUND",
  });
  await publisher.send(queue, "still there");
});

scenario("bodies_of_all_sizes", async (undo) => {
  const channel = await channelFor(undo, open(undo));
  const queue = await queueFor(channel);
  await channel.confirmSelect();
  for (const size of [0, 1, 4_088, 8_185, 131_065, 1_048_576]) {
    const body = crypto.randomBytes(size);
    await channel.basicPublish(queue, body);
    const message = await channel.basicGet({ queue, noAck: true });
    assert.ok(body.equals(message.body), String(size));
  }
});

scenario("header_types_and_properties", async (undo) => {
  const channel = await channelFor(undo, open(undo));
  const queue = await queueFor(channel);
  const headers = {
    text: "grüße",
    yes: true,
    no: false,
    int: 70_000,
    negative: -70_000,
    double: 1.5,
    nothing: null,
    list: [1, "two", true, { three: 3 }],
    table: { deep: { deeper: "still" } },
  };
  const properties = {
    contentType: "application/x",
    contentEncoding: "identity",
    priority: 3,
    correlationId: "c",
    replyTo: "r",
    expiration: "60000",
    messageId: "m",
    timestamp: 1_700_000_000,
    type: "t",
    userId: "guest",
    appId: "a",
  };
  await channel.confirmSelect();
  await channel.basicPublish({ routingKey: queue, durable: true, headers, ...properties }, Buffer.of(1));
  const message = await channel.basicGet({ queue, noAck: true });
  for (const [name, value] of Object.entries(properties)) assert.equal(message[name], value, name);
  assert.equal(message.durable, true);
  assert.deepEqual(message.headers, headers);
});

scenario("a_consumer_survives_its_deleted_queue", async (undo) => {
  const rabbit = open(undo);
  const queue = unique();
  const box = new Mailbox();
  const made = await consumer(undo, rabbit, { queue, queueOptions: { autoDelete: true } }, (message) =>
    box.put(message.body),
  );
  const ready = new Promise((resolve) => made.on("ready", resolve));
  await open(undo).queueDelete({ queue });
  await within(60_000, ready, "the consumer's return");
  const publisher = rabbit.createPublisher({ confirm: true });
  undo(() => publisher.close());
  await publisher.send(queue, "back");
  assert.deepEqual(await box.take(1), ["back"]);
});

scenario("it_comes_back_when_it_is_cut", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  const rabbit = open(undo, proxy.url);
  const queue = unique();
  const box = new Mailbox();
  await consumer(
    undo,
    rabbit,
    { queue, queueOptions: { durable: true, autoDelete: false }, requeue: true },
    (message) => box.put(message.body),
  );
  const outside = open(undo);
  undo(() => outside.queueDelete({ queue }));
  const publisher = outside.createPublisher({ confirm: true });
  undo(() => publisher.close());
  const through = rabbit.createPublisher({ confirm: true, maxAttempts: 10 });
  undo(() => through.close());
  for (let round = 1; round <= 3; round++) {
    await through.send(queue, `through ${round}`);
    assert.deepEqual(await box.take(1), [`through ${round}`]);
    proxy.cut();
    await publisher.send(queue, `outside ${round}`);
    await until(() => box.items.includes(`outside ${round}`), "the message after the cut");
    box.items = [];
    await rabbit.onConnect(60_000);
  }
});

scenario("tls", async (undo) => {
  const rabbit = open(undo, tlsUrl, { tls: { ca: authority() } });
  const channel = await channelFor(undo, rabbit);
  const queue = await queueFor(channel);
  const body = crypto.randomBytes(1 << 20);
  await channel.basicPublish(queue, body);
  const found = await until(() => channel.basicGet(queue), "the message");
  assert.ok(found.body.equals(body));
});

scenario("tls_with_an_authority_that_is_not_trusted", async (undo) => {
  const rabbit = open(undo, tlsUrl, { tls: { ca: authority("other-ca.pem") } });
  const refused = new Promise((resolve) => rabbit.on("error", resolve));
  assert.match((await within(60_000, refused, "the refusal")).message, /certificate/);
});

await main();
