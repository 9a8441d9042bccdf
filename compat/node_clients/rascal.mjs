// rascal: everything from a configuration, and recovery strategies for what fails.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import rascal from "rascal";
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
} from "./scenarios.mjs";

const { BrokerAsPromised, withDefaultConfig } = rascal;

/** A broker with a topic exchange, a queue bound to it, a publication and a subscription. */
async function open(undo, given = {}) {
  const { at = url, queue = unique(), queueOptions = {}, socketOptions = {} } = given;
  const exchange = unique("x");
  const config = {
    vhosts: {
      "/": {
        connection: {
          url: at,
          retry: { min: 50, max: 200 },
          options: { heartbeat: 5 },
          socketOptions,
        },
        exchanges: { [exchange]: { type: "topic", options: { durable: false } } },
        queues: { [queue]: { options: { durable: true, ...queueOptions } } },
        bindings: [`${exchange}[a.#] -> ${queue}`],
        publications: {
          out: { exchange, routingKey: "a.b", options: { persistent: true } },
          straight: { queue },
          lost: { exchange, routingKey: "nowhere", options: { mandatory: true } },
        },
        subscriptions: { in: { queue, prefetch: 3 } },
      },
    },
  };
  const broker = await BrokerAsPromised.create(withDefaultConfig(config));
  broker.on("error", () => {});
  undo(async () => {
    await broker.nuke();
  });
  return { broker, exchange, queue };
}

/** Publish, and wait for what becomes of it. */
async function publish(broker, name, content, overrides) {
  const publication = await broker.publish(name, content, overrides);
  return new Promise((resolve, reject) => {
    publication.on("success", (id) => resolve({ outcome: "success", id }));
    publication.on("return", (message) => resolve({ outcome: "return", message }));
    publication.on("error", reject);
  });
}

async function subscribe(broker, handler, name = "in") {
  const subscription = await broker.subscribe(name);
  subscription.on("message", handler);
  subscription.on("error", () => {});
  return subscription;
}

scenario("publish_and_subscribe", async (undo) => {
  const { broker, exchange } = await open(undo);
  const box = new Mailbox();
  await subscribe(broker, (message, content, ackOrNack) => {
    box.put([message.fields.exchange, content]);
    ackOrNack();
  });
  const contents = ["text", { an: "object", deep: [1, 2] }, Buffer.from("octets")];
  for (const content of contents) await publish(broker, "out", content);
  assert.deepEqual(
    await box.take(3),
    contents.map((content) => [exchange, content]),
  );
});

scenario("straight_to_a_queue", async (undo) => {
  const { broker, queue } = await open(undo);
  const box = new Mailbox();
  await publish(broker, "straight", "x");
  await subscribe(broker, (message, content, ackOrNack) => {
    box.put([message.fields.exchange, message.fields.routingKey, content]);
    ackOrNack();
  });
  assert.deepEqual(await box.take(1), [["", queue, "x"]]);
});

scenario("unroutable_messages_come_back", async (undo) => {
  const { broker } = await open(undo);
  const said = await publish(broker, "lost", "x");
  assert.equal(said.outcome, "return");
  assert.equal(said.message.fields.replyText, "NO_ROUTE");
});

scenario("many_publications_at_once", async (undo) => {
  const { broker } = await open(undo);
  const box = new Mailbox();
  await subscribe(broker, (_, content, ackOrNack) => {
    box.put(content.n);
    ackOrNack();
  });
  const said = await Promise.all([...Array(200).keys()].map((n) => publish(broker, "out", { n })));
  assert.ok(said.every(({ outcome }) => outcome === "success"));
  const numbers = await box.take(200);
  assert.deepEqual([...numbers].sort((a, b) => a - b), [...Array(200).keys()]);
});

scenario("nack_with_requeue", async (undo) => {
  const { broker } = await open(undo);
  const box = new Mailbox();
  await subscribe(broker, (message, content, ackOrNack) => {
    box.put([content, message.fields.redelivered]);
    if (message.fields.redelivered) ackOrNack();
    else ackOrNack(new Error("not now"), { strategy: "nack", requeue: true, defer: 50 });
  });
  await publish(broker, "out", "x");
  assert.deepEqual(await box.take(2), [
    ["x", false],
    ["x", true],
  ]);
});

scenario("republish_counts_attempts", async (undo) => {
  const { broker } = await open(undo);
  const box = new Mailbox();
  await subscribe(broker, (message, content, ackOrNack) => {
    const recovery = message.properties.headers.rascal.recovery ?? {};
    box.put(Object.values(recovery)[0]?.republished ?? 0);
    ackOrNack(new Error("never"), [
      { strategy: "republish", attempts: 3, defer: 20 },
      { strategy: "nack" },
    ]);
  });
  await publish(broker, "out", "x");
  assert.deepEqual(await box.take(4), [0, 1, 2, 3]);
  await box.expectNothing();
});

scenario("forward_to_another_place", async (undo) => {
  const [queue, other, exchange] = [unique(), unique("other"), unique("x")];
  const made = await BrokerAsPromised.create(
    withDefaultConfig({
      vhosts: {
        "/": {
          connection: { url },
          exchanges: { [exchange]: { type: "direct", options: { durable: false } } },
          queues: { [queue]: {}, [other]: {} },
          bindings: [`${exchange}[k] -> ${queue}`, `${exchange}[failed] -> ${other}`],
          publications: {
            out: { exchange, routingKey: "k" },
            failed: { exchange, routingKey: "failed" },
          },
          subscriptions: { in: { queue }, failures: { queue: other } },
        },
      },
    }),
  );
  made.on("error", () => {});
  undo(() => made.nuke());
  const box = new Mailbox();
  await subscribe(made, (_, __, ackOrNack) =>
    ackOrNack(new Error("bad"), { strategy: "forward", publication: "failed" }),
  );
  await subscribe(
    made,
    (message, content, ackOrNack) => {
      box.put([message.fields.exchange, content]);
      ackOrNack();
    },
    "failures",
  );
  await publish(made, "out", "x");
  assert.deepEqual(await box.take(1), [[exchange, "x"]]);
});

scenario("prefetch", async (undo) => {
  const { broker } = await open(undo);
  const box = new Mailbox();
  const held = [];
  await subscribe(broker, (_, content, ackOrNack) => {
    held.push(ackOrNack);
    box.put(content);
  });
  for (let n = 0; n < 6; n++) await publish(broker, "out", `${n}`);
  await box.take(3);
  await box.expectNothing();
  held[0]();
  await box.take(1);
  await box.expectNothing();
  held.slice(1).forEach((ackOrNack) => ackOrNack());
  await box.take(2);
});

scenario("dead_letters", async (undo) => {
  const dead = unique("dead");
  const { broker, queue } = await open(undo, {
    queueOptions: {
      arguments: { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead },
    },
  });
  const graves = await BrokerAsPromised.create(
    withDefaultConfig({
      vhosts: {
        "/": {
          connection: { url },
          queues: { [dead]: {} },
          subscriptions: { in: { queue: dead } },
        },
      },
    }),
  );
  graves.on("error", () => {});
  undo(() => graves.nuke());
  const box = new Mailbox();
  await subscribe(graves, (message, content, ackOrNack) => {
    const [death] = message.properties.headers["x-death"];
    box.put([content, death.reason, death.queue, death.count]);
    ackOrNack();
  });
  await subscribe(broker, (_, __, ackOrNack) => ackOrNack(new Error("bad")));
  await publish(broker, "out", "x");
  assert.deepEqual(await box.take(1), [["x", "rejected", queue, 1]]);
});

scenario("an_unsubscribed_broker_hears_nothing", async (undo) => {
  const { broker } = await open(undo);
  const box = new Mailbox();
  const subscription = await subscribe(broker, (_, content, ackOrNack) => {
    box.put(content);
    ackOrNack();
  });
  await subscription.cancel();
  await publish(broker, "out", "x");
  await box.expectNothing();
});

scenario("it_comes_back_when_it_is_cut", async (undo) => {
  const proxy = await Proxy.open();
  undo(() => proxy.close());
  const queue = unique();
  const { broker, exchange } = await open(undo, { at: proxy.url, queue });
  const seen = new Set();
  await subscribe(broker, (_, content, ackOrNack) => {
    seen.add(content);
    ackOrNack();
  });
  for (let round = 1; round <= 3; round++) {
    await publish(broker, "out", `before ${round}`);
    await until(() => seen.has(`before ${round}`), "the message before the cut");
    proxy.cut();
    await sleep(50);
    const attempt = async () => {
      await Promise.race([publish(broker, "out", `after ${round}`), sleep(1_000)]).catch(() => {});
      await sleep(100);
      return seen.has(`after ${round}`);
    };
    await until(attempt, `the message after cut ${round} by ${exchange}`);
  }
});

scenario("header_types", async (undo) => {
  const { broker } = await open(undo);
  const box = new Mailbox();
  await subscribe(broker, (message, _, ackOrNack) => {
    const { rascal, ...headers } = message.properties.headers;
    box.put([typeof rascal, headers]);
    ackOrNack();
  });
  await publish(broker, "out", "x", { options: { headers: HEADERS } });
  assert.deepEqual(await box.take(1), [["object", HEADERS]]);
});

scenario("rpc_with_a_queue_for_replies", async (undo) => {
  const [queue, replies] = [unique(), unique("replies")];
  const broker = await BrokerAsPromised.create(
    withDefaultConfig({
      vhosts: {
        "/": {
          connection: { url },
          exchanges: [""],
          queues: { [queue]: {}, [replies]: { replyTo: true } },
          publications: {
            ask: { queue, replyTo: replies },
            answer: { exchange: "" },
          },
          subscriptions: { in: { queue }, answers: { queue: replies } },
        },
      },
    }),
  );
  broker.on("error", () => {});
  undo(() => broker.nuke());
  const box = new Mailbox();
  await subscribe(broker, async (message, content, ackOrNack) => {
    const { replyTo, messageId } = message.properties;
    const overrides = { routingKey: replyTo, options: { correlationId: messageId } };
    await publish(broker, "answer", `re: ${content}`, overrides);
    ackOrNack();
  });
  await subscribe(
    broker,
    (message, content, ackOrNack) => {
      box.put([content, message.properties.correlationId]);
      ackOrNack();
    },
    "answers",
  );
  const asked = [];
  for (let n = 0; n < 5; n++) asked.push([`re: ${n}`, (await publish(broker, "ask", `${n}`)).id]);
  assert.deepEqual(await box.take(5), asked);
});

scenario("a_queue_that_is_declared_otherwise_is_told", async (undo) => {
  const { queue } = await open(undo);
  const queueOptions = { arguments: { "x-max-length": 3 } };
  await assert.rejects(open(undo, { queue, queueOptions }), /PRECONDITION_FAILED/);
});

scenario("tls", async (undo) => {
  const { broker } = await open(undo, { at: tlsUrl, socketOptions: { ca: authority() } });
  const box = new Mailbox();
  await subscribe(broker, (_, content, ackOrNack) => {
    box.put(content);
    ackOrNack();
  });
  const body = crypto.randomBytes(1 << 20);
  await publish(broker, "out", body);
  assert.ok((await box.take(1))[0].equals(body));
});

scenario("tls_with_an_authority_that_is_not_trusted", async (undo) => {
  const socketOptions = { ca: authority("other-ca.pem") };
  await assert.rejects(open(undo, { at: tlsUrl, socketOptions }), /certificate/);
});

await main();
