// amqp-connection-manager: amqplib that reconnects, and channels that are set up again.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import manager from "amqp-connection-manager";
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

function open(undo, at = [url], connectionOptions = undefined) {
  const connection = manager.connect(at, {
    connectionOptions,
    heartbeatIntervalInSeconds: 4,
    reconnectTimeInSeconds: 0.1,
  });
  undo(() => connection.close());
  return connection;
}

function channelOf(connection, setup, options = {}) {
  const channel = connection.createChannel({ setup, ...options });
  channel.on("error", () => {});
  return channel;
}

const text = (message) => message.content.toString();

scenario("publish_and_consume_json", async (undo) => {
  const connection = open(undo);
  const queue = unique();
  const box = new Mailbox();
  const channel = channelOf(connection, (c) => c.assertQueue(queue, { exclusive: true }), {
    json: true,
  });
  await channel.consume(queue, (message) => {
    channel.ack(message);
    box.put(JSON.parse(text(message)));
  });
  for (let n = 0; n < 50; n++) assert.equal(await channel.sendToQueue(queue, { n }), true);
  assert.deepEqual(
    await box.take(50),
    [...Array(50).keys()].map((n) => ({ n })),
  );
});

scenario("setup_added_later", async (undo) => {
  const connection = open(undo);
  const [queue, exchange] = [unique(), unique("x")];
  const box = new Mailbox();
  const channel = channelOf(connection, (c) =>
    c.assertExchange(exchange, "topic", { durable: false, autoDelete: true }),
  );
  const setup = async (c) => {
    await c.assertQueue(queue, { exclusive: true, autoDelete: true });
    await c.bindQueue(queue, exchange, "create");
    await c.consume(queue, (message) => box.put(text(message)), { noAck: true, consumerTag: "t" });
  };
  await channel.addSetup(setup);
  await channel.publish(exchange, "create", Buffer.from("1"));
  assert.deepEqual(await box.take(1), ["1"]);
  await channel.removeSetup(setup, (c) => c.cancel("t"));
});

scenario("published_while_there_is_no_connection", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  proxy.refusing = true;
  const connection = open(undo, [proxy.url]);
  const queue = unique();
  const channel = channelOf(connection, (c) => c.assertQueue(queue, { autoDelete: false }));
  const sent = [...Array(20).keys()].map((n) => channel.sendToQueue(queue, Buffer.from(`${n}`)));
  await sleep(300);
  assert.equal(channel.queueLength(), 20);
  proxy.refusing = false;
  await within(60_000, Promise.all(sent), "the confirms");
  undo(() => channel.deleteQueue(queue));
  assert.equal((await channel.checkQueue(queue)).messageCount, 20);
});

scenario("the_next_address_is_tried", async (undo) => {
  const proxy = await Proxy.open();
  proxy.close();
  const connection = open(undo, [proxy.url, url]);
  const failed = new Promise((resolve) => connection.on("connectFailed", resolve));
  const connected = new Promise((resolve) => connection.on("connect", resolve));
  await within(60_000, failed, "the first attempt");
  await within(60_000, connected, "the second one");
});

scenario("everything_is_set_up_again_after_a_cut", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  const connection = open(undo, [proxy.url]);
  const seen = { connect: 0, disconnect: 0 };
  connection.on("connect", () => (seen.connect += 1));
  connection.on("disconnect", () => (seen.disconnect += 1));
  const [queue, exchange] = [unique(), unique("x")];
  const box = new Mailbox();
  const channel = channelOf(connection, async (c) => {
    await c.assertExchange(exchange, "fanout", { durable: true });
    await c.assertQueue(queue, { durable: true });
    await c.bindQueue(queue, exchange, "");
    await c.prefetch(5);
  });
  await channel.consume(queue, (message) => {
    channel.ack(message);
    box.put(text(message));
  });
  undo(async () => {
    await channel.deleteQueue(queue);
    await channel.deleteExchange(exchange);
  });
  const arrived = new Set();
  for (let round = 1; round <= 3; round++) {
    await channel.publish(exchange, "", Buffer.from(`before ${round}`), { persistent: true });
    await channel.checkQueue(queue); // its acknowledgement arrived as well
    proxy.cut();
    await until(() => seen.disconnect >= round, "the manager to notice");
    await channel.publish(exchange, "", Buffer.from(`after ${round}`), { persistent: true });
    await until(() => {
      for (const item of box.items) arrived.add(item);
      return arrived.size === 2 * round;
    }, "both messages");
    await channel.waitForConnect();
  }
  assert.ok(seen.connect >= 4 && seen.disconnect >= 3, JSON.stringify(seen));
});

scenario("a_setup_that_fails_is_told", async (undo) => {
  const connection = open(undo);
  const channel = connection.createChannel({ setup: (c) => c.checkQueue("no such queue") });
  const error = new Promise((resolve) => channel.on("error", resolve));
  assert.equal((await within(60_000, error, "the error")).code, 404);
});

scenario("a_message_refused_by_the_broker_is_told", async (undo) => {
  const connection = open(undo);
  const channel = channelOf(connection, () => Promise.resolve());
  await channel.waitForConnect();
  const gone = channel.publish(unique("x"), "k", Buffer.from("x"), { timeout: 2_000 });
  await assert.rejects(gone, /channel closed|timeout|closed/i);
});

scenario("nack_and_get", async (undo) => {
  const connection = open(undo);
  const queue = unique();
  const channel = channelOf(connection, (c) => c.assertQueue(queue, { exclusive: true }));
  for (const body of "12") await channel.sendToQueue(queue, Buffer.from(body));
  const first = await channel.get(queue);
  channel.nack(first, false, true);
  const again = await channel.get(queue);
  assert.deepEqual([text(again), again.fields.redelivered], ["1", true]);
  channel.ack(again);
  assert.deepEqual(await channel.purgeQueue(queue), { messageCount: 1 });
});

scenario("unroutable_messages_come_back", async (undo) => {
  const connection = open(undo);
  const box = new Mailbox();
  const channel = channelOf(connection, (c) => c.on("return", box.put));
  await channel.publish("", unique("nowhere"), Buffer.from("x"), { mandatory: true });
  const [message] = await box.take(1);
  assert.deepEqual([message.fields.replyCode, message.fields.replyText], [312, "NO_ROUTE"]);
  assert.equal(text(message), "x");
});

scenario("prefetch_bounds_a_consumer", async (undo) => {
  const connection = open(undo);
  const queue = unique();
  const box = new Mailbox();
  const channel = channelOf(connection, (c) => c.assertQueue(queue, { exclusive: true }));
  await channel.consume(queue, box.put, { prefetch: 2 });
  for (const body of "12345") await channel.sendToQueue(queue, Buffer.from(body));
  const held = await box.take(2);
  await box.expectNothing();
  assert.equal((await channel.checkQueue(queue)).messageCount, 3);
  held.forEach((message) => channel.ack(message));
  assert.deepEqual((await box.take(2)).map(text), ["3", "4"]);
});

scenario("rpc_over_direct_reply_to", async (undo) => {
  const queue = unique();
  const server = channelOf(open(undo), (c) => c.assertQueue(queue, { exclusive: true }));
  await server.consume(queue, (message) => {
    const { replyTo, correlationId } = message.properties;
    server.sendToQueue(replyTo, Buffer.from(`re: ${text(message)}`), { correlationId });
    server.ack(message);
  });
  const box = new Mailbox();
  const client = channelOf(open(undo), (c) =>
    c.consume("amq.rabbitmq.reply-to", box.put, { noAck: true }),
  );
  for (let n = 0; n < 5; n++) {
    const options = { replyTo: "amq.rabbitmq.reply-to", correlationId: `c${n}` };
    await client.sendToQueue(queue, Buffer.from(`${n}`), options);
  }
  assert.deepEqual(
    (await box.take(5)).map((reply) => [text(reply), reply.properties.correlationId]),
    [...Array(5).keys()].map((n) => [`re: ${n}`, `c${n}`]),
  );
});

scenario("header_types", async (undo) => {
  const connection = open(undo);
  const queue = unique();
  const channel = channelOf(connection, (c) => c.assertQueue(queue, { exclusive: true }));
  await channel.sendToQueue(queue, Buffer.from(""), { headers: HEADERS });
  const message = await channel.get(queue, { noAck: true });
  assert.deepEqual({ ...message.properties.headers }, HEADERS);
});

scenario("tls", async (undo) => {
  const connection = open(undo, [tlsUrl], { ca: authority() });
  const queue = unique();
  const channel = channelOf(connection, (c) => c.assertQueue(queue, { exclusive: true }));
  const body = crypto.randomBytes(1 << 20);
  await channel.sendToQueue(queue, body);
  assert.ok((await channel.get(queue, { noAck: true })).content.equals(body));
});

scenario("tls_with_an_authority_that_is_not_trusted", async (undo) => {
  const connection = open(undo, [tlsUrl], { ca: authority("other-ca.pem") });
  const box = new Mailbox();
  connection.on("connectFailed", ({ err }) => box.put(err.message));
  assert.match((await box.take(1))[0], /certificate/);
  assert.equal(connection.isConnected(), false);
});

await main();
