// What the scenarios of every client share: how they are declared and run, a TCP proxy that can be
// cut, and a mailbox for what arrives.
//
// Each file of a client is a program: AMQP_URL says where the broker is (AMQPS_URL and CERTIFICATES
// for TLS), arguments name scenarios (none: all of them). It prints one JSON object a line: {"name",
// "outcome", "detail", "seconds"}.

import fs from "node:fs";
import net from "node:net";

export const url = process.env.AMQP_URL;
export const tlsUrl = process.env.AMQPS_URL;

/** Header fields of all types that amqplib writes; what builds on it hands them through. */
export const HEADERS = {
  text: "grüße",
  empty: "",
  yes: true,
  no: false,
  nothing: null,
  byte: -7,
  short: 300,
  int: 70_000,
  long: 2 ** 40,
  negative: -(2 ** 40),
  double: 1.5,
  time: { "!": "timestamp", value: 1_700_000_000 },
  octets: Buffer.from([0, 255, 206]),
  list: [1, "two", [true, null], { three: 3 }],
  table: { deep: { deeper: "still" }, none: {} },
};

const SCENARIO_MS = 180_000;
const scenarios = [];
let counter = 0;

/** Declare a scenario; `run` gets a function that takes what is to be undone at its end. */
export function scenario(name, run) {
  scenarios.push([name, run]);
}

/** The broker's authority; `other-ca.pem` has signed nothing. */
export function authority(name = "ca.pem") {
  return [fs.readFileSync(`${process.env.CERTIFICATES}/${name}`)];
}

/** A name nobody else uses. */
export function unique(prefix = "q") {
  counter += 1;
  return `${prefix}-${process.pid}-${counter}`;
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** `promise`, or an error when it takes longer. */
export function within(ms, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Wait until `check` returns something true, and return that. */
export async function until(check, what, ms = 60_000) {
  const end = Date.now() + ms;
  while (Date.now() < end) {
    const found = await check();
    if (found) return found;
    await sleep(20);
  }
  throw new Error(`${what}: not within ${ms} ms`);
}

/** What arrives is put in; `take(n)` waits for so many. */
export class Mailbox {
  items = [];

  put = (item) => {
    this.items.push(item);
  };

  async take(count, ms = 60_000) {
    try {
      await until(() => this.items.length >= count, "messages", ms);
    } catch {
      throw new Error(`${this.items.length} of ${count} messages came within ${ms} ms`);
    }
    return this.items.splice(0, count);
  }

  /** Nothing more comes for a while. */
  async expectNothing(ms = 200) {
    await sleep(ms);
    if (this.items.length) throw new Error(`${this.items.length} messages too many`);
  }
}

/** A TCP proxy in front of the broker: `url` leads through it, `cut` ends what goes through it. */
export class Proxy {
  pairs = new Set();
  refusing = false;

  static async open() {
    const proxy = new Proxy();
    const target = new URL(url);
    proxy.server = net.createServer((near) => {
      if (proxy.refusing) {
        near.destroy();
        return;
      }
      const far = net.connect(Number(target.port || 5672), target.hostname);
      const pair = [near, far];
      proxy.pairs.add(pair);
      const end = () => {
        proxy.pairs.delete(pair);
        near.destroy();
        far.destroy();
      };
      for (const socket of pair) {
        socket.on("error", end);
        socket.on("close", end);
      }
      near.pipe(far);
      far.pipe(near);
    });
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    const through = new URL(url);
    through.port = String(proxy.server.address().port);
    proxy.url = through.href.replace(/\/$/, "");
    return proxy;
  }

  cut() {
    for (const [near, far] of this.pairs) {
      near.destroy();
      far.destroy();
    }
  }

  close() {
    this.cut();
    this.server.close();
  }
}

/** Run what the arguments name, one after the other, and end the process. */
export async function main() {
  const chosen = process.argv.slice(2);
  let stray;
  process.on("unhandledRejection", (error) => (stray ??= error));
  process.on("uncaughtException", (error) => (stray ??= error));
  for (const [name, run] of scenarios) {
    if (chosen.length && !chosen.includes(name)) continue;
    const undo = [];
    const begun = Date.now();
    const said = { name, outcome: "pass", detail: "" };
    stray = undefined;
    try {
      await within(
        SCENARIO_MS,
        run((step) => undo.push(step)),
        "the scenario",
      );
      if (stray) throw stray;
    } catch (error) {
      said.outcome = "fail";
      said.detail = String(error?.stack ?? error);
    }
    for (const step of undo.reverse()) {
      await within(3_000, Promise.resolve().then(step), "tidying up").catch(() => {});
    }
    said.seconds = (Date.now() - begun) / 1000;
    console.log(JSON.stringify(said));
  }
  process.exit(0);
}
