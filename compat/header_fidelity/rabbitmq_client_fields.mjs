// What rabbitmq-client writes into headers.

import { Connection } from "rabbitmq-client";

const headers = {
  boolean: true,
  nothing: null,
  text: "grüße",
  bytes: Buffer.from([0, 255]),
  small: 7,
  negative: -70_000,
  long: 2 ** 40,
  double: 0.1,
  time: new Date(1_700_000_000_000),
  list: [1, "two", [null, true], { k: 2 ** 40 }],
  table: { z: { deep: -1 }, a: 1 },
};
const connection = new Connection(process.env.AMQP_URL);
const channel = await connection.acquire();

async function take(queue) {
  for (let attempt = 0; attempt < 500; attempt++) {
    const message = await channel.basicGet(queue);
    if (message) return message;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`nothing came to ${queue}`);
}

await channel.basicPublish({ routingKey: "fidelity", headers, messageId: "m" }, "x");
const got = await take("fidelity");
channel.basicNack({ deliveryTag: got.deliveryTag, requeue: false });
const dead = await take("fidelity.dead");
channel.basicAck({ deliveryTag: dead.deliveryTag });
await channel.close();
process.exit(0);
