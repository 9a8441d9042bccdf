// @cloudamqp/amqp-client: its channels as AMQP has them, and its sessions, which reconnect.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import { AMQPClient, AMQPSession, builtinCoders, builtinParsers } from "@cloudamqp/amqp-client";
import {
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
} from "./scenarios.mjs";

const QUIET = { logger: null };

async function open(undo, at = url, tls = undefined) {
  const client = new AMQPClient(at, tls, QUIET.logger);
  const connection = await client.connect();
  undo(() => connection.close());
  return { connection, channel: await connection.channel() };
}

async function session(undo, at = url, options = {}) {
  const made = await AMQPSession.connect(at, { ...QUIET, reconnectInterval: 50, ...options });
  undo(() => made.stop());
  return made;
}

async function queueFor(channel) {
  return (await channel.queueDeclare("", { exclusive: true, autoDelete: false })).name;
}

/** What the broker answers to a misuse of a channel. */
async function refusal(connection, provoke) {
  const channel = await connection.channel();
  const error = await provoke(channel).then(
    () => assert.fail(`${provoke}: not refused`),
    (said) => said,
  );
  return error.message;
}

scenario("publish_and_get", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  assert.equal(await channel.basicGet(queue), null);
  await channel.basicPublish("", queue, "1");
  await channel.basicPublish("", queue, "2");
  const first = await until(() => channel.basicGet(queue, { noAck: false }), "a message");
  assert.deepEqual(
    [first.bodyString(), first.exchange, first.routingKey, first.redelivered, first.messageCount],
    ["1", "", queue, false, 1],
  );
  await first.ack();
  assert.equal((await channel.basicGet(queue, { noAck: true })).bodyString(), "2");
});

scenario("consume_by_callback_and_by_iteration", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  const box = new Mailbox();
  const consumer = await channel.basicConsume(queue, { noAck: false }, async (message) => {
    await message.ack();
    box.put(message.bodyString());
  });
  for (const body of "123") await channel.basicPublish("", queue, body);
  assert.deepEqual(await box.take(3), ["1", "2", "3"]);
  await consumer.cancel();
  for (const body of "456") await channel.basicPublish("", queue, body);
  const read = [];
  const iterated = await channel.basicConsume(queue, { noAck: false });
  for await (const message of iterated.messages) {
    await message.ack();
    read.push(message.bodyString());
    if (read.length === 3) break;
  }
  assert.deepEqual(read, ["4", "5", "6"]);
  await box.expectNothing();
});

scenario("confirms", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.confirmSelect();
  const tags = await Promise.all(
    [...Array(300).keys()].map((n) => channel.basicPublish("", queue, String(n))),
  );
  assert.deepEqual(tags, [...Array(300).keys()].map((n) => n + 1));
  const { messageCount } = await channel.queueDeclare(queue, { passive: true });
  assert.equal(messageCount, 300);
});

scenario("unroutable_messages_come_back", async (undo) => {
  const { channel } = await open(undo);
  const box = new Mailbox();
  channel.onReturn = box.put;
  await channel.confirmSelect();
  await channel.basicPublish("amq.topic", "nowhere", "lost", { messageId: "m" }, true);
  const [message] = await box.take(1);
  assert.deepEqual(
    [message.replyCode, message.replyText, message.exchange, message.routingKey],
    [312, "NO_ROUTE", "amq.topic", "nowhere"],
  );
  assert.deepEqual([message.bodyString(), message.properties.messageId], ["lost", "m"]);
});

scenario("nack_with_requeue_keeps_the_order", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.confirmSelect();
  for (const body of "1234") await channel.basicPublish("", queue, body);
  const messages = [];
  for (let n = 0; n < 4; n++) messages.push(await channel.basicGet(queue, { noAck: false }));
  await messages[3].nack(true);
  await messages[1].ack();
  await messages[0].reject(true);
  await messages[2].nack(true);
  const again = [];
  for (let n = 0; n < 3; n++) again.push(await channel.basicGet(queue, { noAck: true }));
  assert.deepEqual(
    again.map((message) => [message.bodyString(), message.redelivered]),
    [
      ["1", true],
      ["3", true],
      ["4", true],
    ],
  );
});

scenario("qos", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.prefetch(2);
  const box = new Mailbox();
  await channel.basicConsume(queue, { noAck: false }, box.put);
  for (let n = 0; n < 5; n++) await channel.basicPublish("", queue, String(n));
  const messages = await box.take(2);
  await box.expectNothing();
  await messages[1].ack(true);
  await box.take(2);
  await box.expectNothing();
});

scenario("transactions", async (undo) => {
  const { connection, channel } = await open(undo);
  const queue = await queueFor(channel);
  const transacted = await connection.channel();
  await transacted.txSelect();
  await transacted.basicPublish("", queue, "kept");
  assert.equal(await channel.basicGet(queue), null);
  await transacted.txCommit();
  await transacted.basicPublish("", queue, "dropped");
  await transacted.txRollback();
  assert.equal((await channel.basicGet(queue, { noAck: true })).bodyString(), "kept");
  assert.equal(await channel.basicGet(queue), null);
});

scenario("error_codes", async (undo) => {
  const { connection, channel } = await open(undo);
  const { connection: stranger } = await open(undo);
  const queue = await queueFor(channel);
  const passive = { passive: true };
  const cases = [
    [404, connection, (c) => c.queueDeclare("no such queue", passive)],
    [404, connection, (c) => c.exchangeDeclare("no such exchange", "direct", passive)],
    [404, connection, (c) => c.basicGet("no such queue")],
    [404, connection, (c) => c.queueBind(queue, "no such exchange", "")],
    [403, connection, (c) => c.queueDeclare("amq.mine")],
    [403, connection, (c) => c.exchangeDelete("amq.direct")],
    [405, stranger, (c) => c.queueDeclare(queue, passive)],
    [405, stranger, (c) => c.basicConsume(queue, {}, () => {})],
    [406, connection, (c) => c.exchangeDeclare("amq.direct", "topic")],
    [406, connection, (c) => c.queueDeclare(unique(), {}, { "x-expires": 0 })],
  ];
  for (const [code, where, provoke] of cases) {
    assert.match(await refusal(where, provoke), new RegExp(String(code)), String(provoke));
  }
  assert.equal((await channel.queueDeclare(queue, passive)).name, queue);
});

scenario("logins_that_are_refused", async () => {
  const wrong = new URL(url);
  wrong.password = "wrong";
  await assert.rejects(new AMQPClient(wrong.href, undefined, null).connect(), /403|ACCESS_REFUSED/);
  const nowhere = new URL(url);
  nowhere.pathname = "/nowhere";
  await assert.rejects(new AMQPClient(nowhere.href, undefined, null).connect(), /530|NOT_ALLOWED/);
});

scenario("bodies_of_all_sizes", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  await channel.confirmSelect();
  for (const size of [0, 1, 8_184, 8_185, 131_064, 1_048_576]) {
    const body = crypto.randomBytes(size);
    await channel.basicPublish("", queue, body);
    const message = await channel.basicGet(queue, { noAck: true });
    assert.ok(Buffer.from(message.body ?? "").equals(body), String(size));
  }
});

scenario("header_types_and_properties", async (undo) => {
  const { channel } = await open(undo);
  const queue = await queueFor(channel);
  const headers = {
    text: "grüße",
    yes: true,
    no: false,
    int: 70_000,
    negative: -70_000,
    long: 2 ** 40,
    double: 1.5,
    nothing: null,
    time: new Date(1_700_000_000_000),
    list: [1, "two", true, { three: 3 }],
    table: { deep: { deeper: "still" } },
  };
  const properties = {
    contentType: "text/plain",
    contentEncoding: "identity",
    deliveryMode: 2,
    priority: 3,
    correlationId: "c",
    replyTo: "r",
    expiration: "60000",
    messageId: "m",
    timestamp: new Date(1_700_000_000_000),
    type: "t",
    userId: "guest",
    appId: "a",
  };
  await channel.confirmSelect();
  await channel.basicPublish("", queue, "x", { ...properties, headers });
  const message = await channel.basicGet(queue, { noAck: true });
  const { headers: came, ...rest } = message.properties;
  assert.deepEqual(rest, properties);
  assert.deepEqual({ ...came, long: Number(came.long) }, headers);
});

scenario("exchanges", async (undo) => {
  const { channel } = await open(undo);
  const [source, target] = [unique("source"), unique("target")];
  await channel.exchangeDeclare(source, "topic", { durable: false, autoDelete: true });
  await channel.exchangeDeclare(target, "headers", { durable: false, autoDelete: true });
  const queue = await queueFor(channel);
  await channel.queueBind(queue, target, "", { "x-match": "any", a: 1, b: 2 });
  await channel.exchangeBind(target, source, "a.#");
  await channel.confirmSelect();
  await channel.basicPublish(source, "a.b", "1", { headers: { b: 2 } });
  await channel.basicPublish(source, "a.b", "-", { headers: { b: 3 } });
  await channel.basicPublish(source, "b.a", "-", { headers: { b: 2 } });
  assert.equal((await channel.basicGet(queue, { noAck: true })).bodyString(), "1");
  assert.equal(await channel.basicGet(queue), null);
  assert.deepEqual((await channel.queueDelete(queue)).messageCount, 0);
});

scenario("a_deleted_queue_ends_its_consumer", async (undo) => {
  const { channel } = await open(undo);
  const { channel: other } = await open(undo);
  const queue = (await channel.queueDeclare(unique(), { durable: false })).name;
  const consumer = await channel.basicConsume(queue, {}, () => {});
  await other.queueDelete(queue);
  await assert.rejects(consumer.wait(60_000), /cancel/i);
});

scenario("session_publish_and_subscribe", async (undo) => {
  const made = await session(undo);
  const queue = await made.queue(unique(), { durable: true });
  undo(() => queue.delete());
  const box = new Mailbox();
  const subscription = await queue.subscribe({ prefetch: 10 }, (message) => {
    box.put(message.bodyString());
  });
  for (let n = 0; n < 50; n++) await queue.publish(String(n), { deliveryMode: 2 });
  assert.deepEqual(await box.take(50), [...Array(50).keys()].map(String));
  await subscription.cancel();
});

scenario("session_a_handler_that_fails_gets_it_again", async (undo) => {
  const made = await session(undo);
  const queue = await made.queue(unique(), { durable: false, autoDelete: true });
  const box = new Mailbox();
  await queue.subscribe({ prefetch: 1 }, (message) => {
    box.put([message.bodyString(), message.redelivered]);
    if (!message.redelivered) throw new Error("not now");
  });
  await queue.publish("x");
  assert.deepEqual(await box.take(2), [
    ["x", false],
    ["x", true],
  ]);
});

scenario("session_rpc", async (undo) => {
  const made = await session(undo);
  const queue = unique("rpc");
  await made.rpcServer(queue, async (message) => `re: ${message.bodyString()}`);
  undo(async () => (await made.queue(queue)).delete());
  const reply = await made.rpcCall(queue, "hello", { timeout: 60_000 });
  assert.equal(reply.bodyString(), "re: hello");
  const client = await made.rpcClient();
  const replies = await Promise.all([...Array(20).keys()].map((n) => client.call(queue, `${n}`)));
  assert.deepEqual(
    replies.map((message) => message.bodyString()),
    [...Array(20).keys()].map((n) => `re: ${n}`),
  );
  await client.close();
});

scenario("session_codecs", async (undo) => {
  const made = await session(undo, url, {
    parsers: builtinParsers,
    coders: builtinCoders,
    defaultContentType: "application/json",
    defaultContentEncoding: "gzip",
  });
  const queue = await made.queue("", { exclusive: true });
  await queue.publish({ task: "resize", ids: [1, 2, 3] });
  const message = await queue.get();
  assert.deepEqual(message.body, { task: "resize", ids: [1, 2, 3] });
});

scenario("session_comes_back_when_it_is_cut", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  const seen = { connect: 0, disconnect: 0 };
  const made = await session(undo, proxy.url, {
    onconnect: () => (seen.connect += 1),
    ondisconnect: () => (seen.disconnect += 1),
  });
  const other = await session(undo);
  const name = unique();
  const queue = await made.queue(name, { durable: true });
  const box = new Mailbox();
  await queue.subscribe({ prefetch: 5 }, (message) => box.put(message.bodyString()));
  const outside = await other.queue(name, { durable: true });
  undo(() => outside.delete());
  for (let round = 1; round <= 3; round++) {
    await outside.publish(`before ${round}`);
    assert.deepEqual(await box.take(1), [`before ${round}`]);
    await sleep(100); // its acknowledgement is on its way
    proxy.cut();
    await outside.publish(`after ${round}`);
    assert.deepEqual(await box.take(1), [`after ${round}`]);
    assert.equal(seen.disconnect, round);
  }
  assert.equal(seen.connect, 4);
});

scenario("tls", async (undo) => {
  const { channel } = await open(undo, tlsUrl, { ca: authority() });
  const queue = await queueFor(channel);
  const body = crypto.randomBytes(1 << 20);
  await channel.basicPublish("", queue, body);
  const found = await until(() => channel.basicGet(queue), "the message");
  assert.ok(Buffer.from(found.body).equals(body));
});

scenario("tls_with_an_authority_that_is_not_trusted", async (undo) => {
  await assert.rejects(open(undo, tlsUrl, { ca: authority("other-ca.pem") }), /certificate/);
});

await main();
