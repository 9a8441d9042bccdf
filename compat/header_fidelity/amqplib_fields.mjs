// What amqplib writes into headers: types it would not choose by itself are named by "!".

import amqp from "amqplib";

const typed = (type, value) => ({ "!": type, value });
const headers = {
  boolean: true,
  nothing: null,
  text: "grüße",
  bytes: Buffer.from([0, 255]),
  byte: typed("byte", -7),
  small: 7,
  short: typed("short", -300),
  int: typed("int", -70_000),
  long: typed("long", 2 ** 40),
  float: typed("float", 0.1),
  double: 0.1,
  time: typed("timestamp", 1_700_000_000),
  decimal: typed("decimal", { places: 2, digits: 314 }),
  list: [1, "two", [null, true], { k: 2 ** 40 }],
  table: { z: { deep: -1 }, a: 1 },
};
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createChannel();

async function take(queue) {
  for (let attempt = 0; attempt < 500; attempt++) {
    const message = await channel.get(queue);
    if (message) return message;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`nothing came to ${queue}`);
}

channel.sendToQueue("fidelity", Buffer.from("x"), { headers, priority: 3, messageId: "m" });
channel.reject(await take("fidelity"), false);
channel.ack(await take("fidelity.dead"));
await channel.close();
process.exit(0);
