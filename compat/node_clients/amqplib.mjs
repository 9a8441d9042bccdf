// amqplib, used as its documentation shows.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import amqp from "amqplib";
import {
  HEADERS,
  Mailbox,
  Proxy,
  authority,
  main,
  scenario,
  sleep,
  tlsUrl,
  unique,
  until,
  url,
  within,
} from "./scenarios.mjs";

async function open(undo, { confirm = false, at = url, options = {} } = {}) {
  const connection = await amqp.connect(at, options);
  connection.on("error", () => {});
  undo(() => connection.close());
  const channel = await (confirm ? connection.createConfirmChannel() : connection.createChannel());
  channel.on("error", () => {});
  return { connection, channel };
}

async function queueFor(channel, options = { exclusive: true }) {
  return (await channel.assertQueue(unique(), options)).queue;
}

/** The error with which the broker closes the channel that `provoke` misuses. */
async function channelError(connection, provoke) {
  const channel = await connection.createChannel();
  const error = new Promise((resolve) => channel.on("error", resolve));
  await Promise.resolve(provoke(channel)).catch(() => {});
  return within(60_000, error, "the channel's error");
}

const text = (message) => message.content.toString();

scenario("publish_and_get", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  assert.equal(await channel.get(queue), false);
  for (const body of ["1", "2"]) channel.sendToQueue(queue, Buffer.from(body));
  const first = await until(() => channel.get(queue), "a message");
  assert.equal(text(first), "1");
  assert.deepEqual(
    [first.fields.redelivered, first.fields.exchange, first.fields.routingKey],
    [false, "", queue],
  );
  assert.equal(first.fields.messageCount, 1);
  channel.ack(first);
  assert.equal(text(await channel.get(queue, { noAck: true })), "2");
  assert.equal(await channel.get(queue), false);
});

scenario("consume_and_acknowledge", async (undo) => {
  const { connection, channel } = await open(undo);
  const queue = await queueFor(channel, { autoDelete: false });
  undo(() => channel.deleteQueue(queue));
  for (let n = 0; n < 100; n++) channel.sendToQueue(queue, Buffer.from(String(n)));
  const box = new Mailbox();
  const reader = await connection.createChannel();
  const { consumerTag } = await reader.consume(queue, box.put);
  const messages = await box.take(100);
  assert.deepEqual(messages.map(text), [...Array(100).keys()].map(String));
  assert.deepEqual(messages.map((m) => m.fields.consumerTag), Array(100).fill(consumerTag));
  messages.slice(0, 50).forEach((message) => reader.ack(message));
  reader.ack(messages[98], true);
  await reader.close();
  assert.equal((await channel.checkQueue(queue)).messageCount, 1);
  const left = await channel.get(queue, { noAck: true });
  assert.deepEqual([text(left), left.fields.redelivered], ["99", true]);
});

scenario("consume_without_acknowledgement", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  const box = new Mailbox();
  await channel.consume(queue, box.put, { noAck: true, consumerTag: "mine" });
  channel.sendToQueue(queue, Buffer.from("x"));
  assert.equal((await box.take(1))[0].fields.consumerTag, "mine");
  assert.equal((await channel.checkQueue(queue)).messageCount, 0);
});

scenario("confirms", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const queue = await queueFor(channel);
  for (let n = 0; n < 500; n++) channel.sendToQueue(queue, Buffer.from("x"), { persistent: n % 2 });
  await channel.waitForConfirms();
  assert.equal((await channel.checkQueue(queue)).messageCount, 500);
});

scenario("a_confirm_for_each", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const queue = await queueFor(channel, { durable: true, autoDelete: false });
  undo(() => channel.deleteQueue(queue));
  const order = [];
  await Promise.all(
    [...Array(50).keys()].map(
      (n) =>
        new Promise((resolve, reject) => {
          channel.publish("", queue, Buffer.from("x"), { persistent: true }, (error) => {
            order.push(n);
            return error ? reject(error) : resolve();
          });
        }),
    ),
  );
  assert.deepEqual(order, [...Array(50).keys()]);
});

scenario("unroutable_messages_come_back", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const said = [];
  const returned = new Promise((resolve) =>
    channel.on("return", (message) => {
      said.push("return");
      resolve(message);
    }),
  );
  await new Promise((resolve) =>
    channel.publish(
      "amq.direct",
      "nowhere",
      Buffer.from("lost"),
      { mandatory: true, headers: { a: 1 }, messageId: "m" },
      () => {
        said.push("ack");
        resolve();
      },
    ),
  );
  const message = await returned;
  assert.deepEqual(said, ["return", "ack"]);
  assert.equal(text(message), "lost");
  const { replyCode, replyText, exchange, routingKey } = message.fields;
  assert.deepEqual(
    [replyCode, replyText, exchange, routingKey],
    [312, "NO_ROUTE", "amq.direct", "nowhere"],
  );
  assert.deepEqual([message.properties.headers.a, message.properties.messageId], [1, "m"]);
});

scenario("publishing_to_no_exchange_closes_the_channel", async (undo) => {
  const { connection } = await open(undo);
  const error = await channelError(connection, (channel) =>
    channel.publish(unique("x"), "", Buffer.from("x")),
  );
  assert.equal(error.code, 404);
  assert.match(error.message, /NOT_FOUND - no exchange 'x-.*' in vhost '\/'/);
});

scenario("nack_with_requeue_keeps_the_order", async (undo) => {
  const { connection, channel } = await open(undo);
  const queue = await queueFor(channel);
  for (const body of "12345") channel.sendToQueue(queue, Buffer.from(body));
  const box = new Mailbox();
  const reader = await connection.createChannel();
  await reader.prefetch(5);
  const { consumerTag } = await reader.consume(queue, box.put);
  const messages = await box.take(5);
  await reader.cancel(consumerTag);
  for (const at of [3, 0, 4]) reader.nack(messages[at]);
  reader.ack(messages[1]);
  reader.nack(messages[2], false, true);
  await reader.checkQueue(queue);
  const bodies = [];
  for (let n = 0; n < 4; n++) {
    const message = await reader.get(queue, { noAck: true });
    bodies.push(text(message));
    assert.equal(message.fields.redelivered, true);
  }
  assert.deepEqual(bodies, ["1", "3", "4", "5"]);
});

scenario("nack_of_all", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  for (const body of "123") channel.sendToQueue(queue, Buffer.from(body));
  await until(async () => (await channel.checkQueue(queue)).messageCount === 3, "the messages");
  for (let n = 0; n < 3; n++) await channel.get(queue);
  channel.nackAll();
  assert.equal((await channel.checkQueue(queue)).messageCount, 3);
  const again = await channel.get(queue);
  assert.deepEqual([text(again), again.fields.redelivered], ["1", true]);
  channel.ackAll();
  assert.equal((await channel.checkQueue(queue)).messageCount, 2);
});

scenario("reject_drops", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  channel.sendToQueue(queue, Buffer.from("x"));
  channel.reject(await until(() => channel.get(queue), "a message"), false);
  assert.equal((await channel.checkQueue(queue)).messageCount, 0);
});

scenario("recover", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  const box = new Mailbox();
  await channel.consume(queue, box.put);
  channel.sendToQueue(queue, Buffer.from("x"));
  await box.take(1);
  await channel.recover();
  const [again] = await box.take(1);
  assert.equal(again.fields.redelivered, true);
});

scenario("prefetch_bounds_each_consumer", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.prefetch(3);
  const one = new Mailbox();
  const other = new Mailbox();
  await channel.consume(queue, one.put);
  await channel.consume(queue, other.put);
  for (let n = 0; n < 20; n++) channel.sendToQueue(queue, Buffer.from("x"));
  const [first] = await one.take(3);
  await other.take(3);
  await one.expectNothing();
  await other.expectNothing(0);
  channel.ack(first);
  await one.take(1);
  await other.expectNothing();
});

scenario("prefetch_of_the_channel", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.prefetch(4, true);
  const box = new Mailbox();
  await channel.consume(queue, box.put);
  await channel.consume(queue, box.put);
  for (let n = 0; n < 20; n++) channel.sendToQueue(queue, Buffer.from("x"));
  const messages = await box.take(4);
  await box.expectNothing();
  channel.ack(messages[3], true);
  await box.take(4);
  await box.expectNothing();
});

scenario("rpc_over_direct_reply_to", async (undo) => {
  const { channel: server } = await open(undo);
  const queue = await queueFor(server, { autoDelete: true });
  await server.consume(queue, (message) => {
    const { replyTo, correlationId } = message.properties;
    assert.match(replyTo, /^amq\.rabbitmq\.reply-to\../);
    server.sendToQueue(replyTo, Buffer.from(`re: ${text(message)}`), { correlationId });
    server.ack(message);
  });
  const { channel: client } = await open(undo);
  const box = new Mailbox();
  await client.consume("amq.rabbitmq.reply-to", box.put, { noAck: true });
  for (let n = 0; n < 20; n++) {
    client.sendToQueue(queue, Buffer.from(String(n)), {
      replyTo: "amq.rabbitmq.reply-to",
      correlationId: `c${n}`,
    });
  }
  const replies = await box.take(20);
  assert.deepEqual(
    replies.map((reply) => [text(reply), reply.properties.correlationId]),
    [...Array(20).keys()].map((n) => [`re: ${n}`, `c${n}`]),
  );
});

scenario("reply_to_without_a_consumer_is_refused", async (undo) => {
  const { connection } = await open(undo);
  const error = await channelError(connection, (channel) =>
    channel.sendToQueue("amq.direct", Buffer.from("x"), { replyTo: "amq.rabbitmq.reply-to" }),
  );
  assert.equal(error.code, 406);
});

scenario("error_codes", async (undo) => {
  const { connection, channel } = await open(undo);
  const { connection: stranger } = await open(undo);
  const queue = await queueFor(channel);
  const cases = [
    [404, connection, (c) => c.checkQueue("no such queue")],
    [404, connection, (c) => c.checkExchange("no such exchange")],
    [404, connection, (c) => c.consume("no such queue", () => {})],
    [404, connection, (c) => c.bindQueue(queue, "no such exchange", "")],
    [403, connection, (c) => c.assertQueue("amq.mine")],
    [403, connection, (c) => c.assertExchange("amq.mine", "direct")],
    [403, connection, (c) => c.bindQueue(queue, "", "k")],
    [403, connection, (c) => c.deleteExchange("amq.direct")],
    [405, stranger, (c) => c.checkQueue(queue)],
    [405, stranger, (c) => c.get(queue)],
    [406, connection, (c) => c.assertQueue(queue, { exclusive: true, autoDelete: true })],
    [406, connection, (c) => c.assertExchange("amq.direct", "topic")],
    [406, connection, (c) => c.assertQueue(unique(), { messageTtl: -1 })],
    [406, connection, (c) => c.ack({ fields: { deliveryTag: 99 } })],
    [406, connection, (c) => c.sendToQueue(queue, Buffer.from("x"), { expiration: "soon" })],
  ];
  for (const [code, where, provoke] of cases) {
    const error = await channelError(where, provoke).catch((late) => late);
    assert.equal(error.code, code, `${provoke}: ${error.message}`);
  }
  assert.equal((await channel.checkQueue(queue)).queue, queue);
});

scenario("a_second_exclusive_consumer_is_refused", async (undo) => {
  const { connection, channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.consume(queue, () => {}, { exclusive: true });
  const error = await channelError(connection, (c) => c.consume(queue, () => {}));
  assert.equal(error.code, 403);
});

scenario("an_error_of_the_connection", async (undo) => {
  const { connection } = await open(undo);
  const error = new Promise((resolve) => connection.on("error", resolve));
  const channel = await connection.createChannel();
  channel.on("error", () => {});
  const queue = await queueFor(channel);
  await channel.consume(queue, () => {}, { consumerTag: "twice" });
  channel.consume(queue, () => {}, { consumerTag: "twice" }).catch(() => {});
  assert.equal((await within(60_000, error, "the connection's error")).code, 530);
});

scenario("logins_that_are_refused", async () => {
  const wrong = new URL(url);
  wrong.password = "wrong";
  await assert.rejects(amqp.connect(wrong.href.replace(/\/$/, "")), /403|ACCESS[-_]REFUSED/);
  const nowhere = new URL(url);
  nowhere.pathname = "/nowhere";
  await assert.rejects(amqp.connect(nowhere.href), /530|NOT[-_]ALLOWED|ConnectionClose/);
});

scenario("bodies_of_all_sizes", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const queue = await queueFor(channel);
  const sizes = [0, 1, 4088, 4089, 131_064, 131_065, 1_048_576, 5_000_000];
  const bodies = sizes.map((size) => crypto.randomBytes(size));
  for (const body of bodies) channel.sendToQueue(queue, body);
  await channel.waitForConfirms();
  const box = new Mailbox();
  await channel.consume(queue, box.put, { noAck: true });
  const messages = await box.take(sizes.length);
  messages.forEach((message, at) => assert.ok(message.content.equals(bodies[at]), `${sizes[at]}`));
});

scenario("a_megabyte_in_frames_of_4096", async (undo) => {
  const { channel } = await open(undo, { confirm: true, at: `${url}?frameMax=4096` });
  const queue = await queueFor(channel);
  const body = crypto.randomBytes(1_048_576);
  channel.sendToQueue(queue, body);
  await channel.waitForConfirms();
  assert.ok((await channel.get(queue, { noAck: true })).content.equals(body));
});

scenario("header_types", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  channel.sendToQueue(queue, Buffer.from(""), { headers: HEADERS });
  const message = await until(() => channel.get(queue, { noAck: true }), "a message");
  assert.deepEqual({ ...message.properties.headers }, HEADERS);
});

scenario("properties", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  const properties = {
    contentType: "text/plain",
    contentEncoding: "utf-8",
    deliveryMode: 2,
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
  channel.sendToQueue(queue, Buffer.from("x"), properties);
  const message = await until(() => channel.get(queue, { noAck: true }), "a message");
  for (const [name, value] of Object.entries(properties)) {
    assert.equal(message.properties[name], value, name);
  }
});

scenario("a_user_id_that_is_another's", async (undo) => {
  const { connection } = await open(undo);
  const error = await channelError(connection, (channel) =>
    channel.sendToQueue("q", Buffer.from("x"), { userId: "somebody" }),
  );
  assert.equal(error.code, 406);
});

scenario("exchanges", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const box = new Mailbox();
  const keep = (message) => box.put([message.fields.exchange, text(message)]);
  const [fan, topic, headers] = [unique("fan"), unique("topic"), unique("headers")];
  await channel.assertExchange(fan, "fanout", { durable: false, autoDelete: true });
  await channel.assertExchange(topic, "topic", { durable: false, autoDelete: true });
  await channel.assertExchange(headers, "headers", { durable: false, autoDelete: true });
  const queue = await queueFor(channel);
  await channel.bindQueue(queue, topic, "*.ok.#");
  await channel.bindQueue(queue, topic, "other");
  await channel.bindQueue(queue, headers, "", { "x-match": "all", a: 1, b: "two" });
  await channel.bindExchange(topic, fan, "");
  await channel.consume(queue, keep, { noAck: true });
  channel.publish(topic, "this.ok", Buffer.from("1"));
  channel.publish(topic, "ok.not", Buffer.from("-"));
  channel.publish(fan, "by.ok.fanout", Buffer.from("2"));
  channel.publish(headers, "", Buffer.from("3"), { headers: { a: 1, b: "two", c: 3 } });
  channel.publish(headers, "", Buffer.from("-"), { headers: { a: 1, b: "too" } });
  await channel.waitForConfirms();
  assert.deepEqual(await box.take(3), [
    [topic, "1"],
    [fan, "2"],
    [headers, "3"],
  ]);
  await channel.unbindQueue(queue, topic, "*.ok.#");
  channel.publish(topic, "this.ok", Buffer.from("-"));
  await channel.waitForConfirms();
  await box.expectNothing();
});

scenario("an_alternate_exchange", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const [main_, other] = [unique("x"), unique("alternate")];
  await channel.assertExchange(other, "fanout", { durable: false, autoDelete: true });
  await channel.assertExchange(main_, "direct", { durable: false, alternateExchange: other });
  undo(() => channel.deleteExchange(main_));
  const queue = await queueFor(channel);
  await channel.bindQueue(queue, other, "");
  channel.publish(main_, "unknown", Buffer.from("caught"), { mandatory: true });
  await channel.waitForConfirms();
  assert.equal(text(await channel.get(queue, { noAck: true })), "caught");
});

scenario("copies_by_cc_and_bcc", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const queues = [await queueFor(channel), await queueFor(channel), await queueFor(channel)];
  channel.sendToQueue(queues[0], Buffer.from("x"), { CC: queues[1], BCC: [queues[2]] });
  await channel.waitForConfirms();
  for (const queue of queues) {
    const message = await channel.get(queue, { noAck: true });
    assert.deepEqual(message.properties.headers.CC, [queues[1]]);
    assert.equal(message.properties.headers.BCC, undefined);
  }
});

scenario("a_deleted_queue_cancels_its_consumer", async (undo) => {
  const { channel } = await open(undo);
  const { channel: other } = await open(undo);
  const queue = await queueFor(channel, { autoDelete: false, durable: false });
  const box = new Mailbox();
  await channel.consume(queue, box.put);
  other.sendToQueue(queue, Buffer.from("x"));
  await box.take(1);
  assert.equal((await other.deleteQueue(queue)).messageCount, 0);
  assert.deepEqual(await box.take(1), [null]);
});

scenario("a_cancelled_consumer_hears_nothing", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  const box = new Mailbox();
  const { consumerTag } = await channel.consume(queue, box.put, { noAck: true });
  await channel.cancel(consumerTag);
  channel.sendToQueue(queue, Buffer.from("x"));
  await box.expectNothing();
  assert.deepEqual(await channel.checkQueue(queue), { queue, messageCount: 1, consumerCount: 0 });
  assert.deepEqual(await channel.purgeQueue(queue), { messageCount: 1 });
});

scenario("consumers_of_higher_priority_come_first", async (undo) => {
  const { channel } = await open(undo, { confirm: true });
  const queue = await queueFor(channel);
  const [low, high] = [new Mailbox(), new Mailbox()];
  await channel.consume(queue, low.put, { noAck: true, priority: 1 });
  await channel.consume(queue, high.put, { noAck: true, priority: 10 });
  for (let n = 0; n < 10; n++) channel.sendToQueue(queue, Buffer.from("x"));
  await channel.waitForConfirms();
  await high.take(10);
  await low.expectNothing();
});

scenario("a_cut_connection_gives_messages_back", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  const { channel: witness } = await open(undo);
  const queue = await queueFor(witness, { durable: true, autoDelete: false });
  undo(() => witness.deleteQueue(queue));
  const { connection, channel } = await open(undo, { at: proxy.url });
  const closed = new Promise((resolve) => connection.on("close", resolve));
  for (const body of "123") witness.sendToQueue(queue, Buffer.from(body));
  const box = new Mailbox();
  await channel.consume(queue, box.put);
  channel.ack((await box.take(3))[0]);
  await sleep(100);
  proxy.cut();
  await within(60_000, closed, "the close");
  const { channel: again } = await open(undo, { at: proxy.url });
  await again.consume(queue, box.put);
  const messages = await box.take(2);
  assert.deepEqual(
    messages.map((message) => [text(message), message.fields.redelivered]),
    [
      ["2", true],
      ["3", true],
    ],
  );
});

scenario("an_exclusive_queue_goes_with_its_connection", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  const { channel } = await open(undo, { at: proxy.url });
  const queue = await queueFor(channel);
  proxy.cut();
  const { connection } = await open(undo);
  await until(async () => {
    const error = await channelError(connection, (c) => c.checkQueue(queue));
    return error.code === 404;
  }, "the queue's end");
});

scenario("heartbeats_keep_a_quiet_connection", async (undo) => {
  const { channel } = await open(undo, { at: `${url}?heartbeat=4` });
  const queue = await queueFor(channel);
  await sleep(12_800); // the broker gives a client up after eight seconds
  assert.equal((await channel.checkQueue(queue)).consumerCount, 0);
});

scenario("many_channels", async (undo) => {
  const { connection } = await open(undo);
  const channels = await Promise.all([...Array(200)].map(() => connection.createChannel()));
  const queues = await Promise.all(channels.map((channel) => queueFor(channel)));
  assert.equal(new Set(queues).size, 200);
  await Promise.all(channels.map((channel) => channel.close()));
  await queueFor(await connection.createChannel());
});

scenario("a_channel_error_leaves_the_others", async (undo) => {
  const { connection, channel } = await open(undo);
  const queue = await queueFor(channel);
  for (let n = 0; n < 20; n++) {
    await channelError(connection, (c) => c.checkQueue("no such queue"));
  }
  channel.sendToQueue(queue, Buffer.from("x"));
  assert.equal(text(await until(() => channel.get(queue), "a message")), "x");
});

scenario("a_server_name_for_a_queue", async (undo) => {
  const { channel } = await open(undo);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  assert.match(queue, /^amq\.gen-[A-Za-z0-9_-]{22}$/);
});

scenario("ten_thousand_messages", async (undo) => {
  const { connection, channel } = await open(undo, { confirm: true });
  const queue = await queueFor(channel);
  const box = new Mailbox();
  const reader = await connection.createChannel();
  await reader.prefetch(200);
  await reader.consume(queue, (message) => {
    reader.ack(message);
    box.put(text(message));
  });
  for (let n = 0; n < 10_000; n++) {
    if (!channel.sendToQueue(queue, Buffer.from(String(n)))) {
      await new Promise((resolve) => channel.once("drain", resolve));
    }
  }
  await channel.waitForConfirms();
  assert.deepEqual(await box.take(10_000), [...Array(10_000).keys()].map(String));
});

scenario("what_the_broker_says_of_itself", async (undo) => {
  const { connection } = await open(undo);
  const { serverProperties } = connection.connection ?? connection;
  assert.equal(serverProperties.product, "RabbitMQ");
  for (const name of ["publisher_confirms", "basic.nack", "consumer_cancel_notify"]) {
    assert.equal(serverProperties.capabilities[name], true, name);
  }
});

scenario("tls", async (undo) => {
  const { channel } = await open(undo, { at: tlsUrl, options: { ca: authority() } });
  const queue = await queueFor(channel);
  const body = crypto.randomBytes(1 << 20);
  channel.sendToQueue(queue, body);
  const found = await until(() => channel.get(queue, { noAck: true }), "the message");
  assert.ok(found.content.equals(body));
});

scenario("tls_with_an_authority_that_is_not_trusted", async (undo) => {
  const options = { ca: authority("other-ca.pem") };
  await assert.rejects(open(undo, { at: tlsUrl, options }), /certificate/);
});

await main();
