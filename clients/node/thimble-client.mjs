#!/usr/bin/env node
// Asks `thimble-device serve FILE --socket PATH` and gives its answers as objects. One file without dependencies, for Node 18 and
// newer on systems with Unix sockets: copy it beside your program.
//
//     import { Client } from "./thimble-client.mjs";
//
//     const client = await Client.open("/run/deb.sock");
//     console.log((await client.ask("Perl module to parse ISO 8601 dates")).label);
//     console.log((await client.askIds([2, 119, 50, 13, 343, 3])).label);
//     const answers = await client.batch(["a text", { text: "a text", pair: "its pair" }, [2, 17, 3], { ids: [2, 3], at: [1] }]);
//     client.close();
//
// docs/serve.md of thimble lists the fields of requests and answers; docs/clients.md describes this client.

import { realpathSync } from "node:fs";
import net from "node:net";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/** Every error of this client. */
export class ThimbleError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The server refused a request. The message is the server's. */
export class ServerError extends ThimbleError {}

/** The server has too many clients or is stopping. The same request may be answered later. */
export class ServerBusy extends ServerError {}

/** No server listens, or the connection was lost and the request may not be sent again. */
export class ConnectionFailed extends ThimbleError {}

/** No answer came within the timeout. */
export class AnswerTimeout extends ThimbleError {}

/** What came is no answer of a thimble server, or is larger than the limit. */
export class BadAnswer extends ThimbleError {}

// What a server says that does not take requests now. It sends these words as an error, with the request's id or without one.
const STOPPING = "the server is stopping";
const FULL = "this server takes no more";
// Milliseconds between two attempts to connect.
const PAUSE = 20;
// Milliseconds in which a refusal is awaited. Node closes a socket when writing fails, and what was not read by then is lost: a server
// that takes no more clients would look like one that died.
const LISTEN = 100;
// Bytes of a socket's path on Linux; a longer one would be cut.
const LONGEST_PATH = 107;
// Most seconds of a timeout: Node counts milliseconds in 31 bits.
const LONGEST = 1_000_000;
const NEWLINE = 0x0a;
// Bytes of the longest answer.
const LIMIT = 32 << 20;
// Bytes for lines that are kept from one answer to the next.
const KEPT = 1 << 20;

// Requests in order. An array's own shift moves all of a long one.
class Queue {
  #entries = [];
  #first = 0;

  get size() {
    return this.#entries.length - this.#first;
  }

  push(entry) {
    this.#entries.push(entry);
  }

  shift() {
    const entry = this.#entries[this.#first];
    this.#first += 1;
    if (2 * this.#first > this.#entries.length) this.replace(this.rest());
    return entry;
  }

  rest() {
    return this.#entries.slice(this.#first);
  }

  replace(entries) {
    this.#entries = entries;
    this.#first = 0;
  }
}

/**
 * A connection to one server. Calls may overlap: their requests share the connection.
 *
 * Options: `timeout`, seconds until the answer of a call, in a batch until its next answer (30). `reconnect`, seconds to wait for a
 * server that is restarted (5): a request whose connection broke is then sent once more, but only if nothing of its answer came;
 * with 0 nothing is ever sent twice. `limit`, bytes of the longest answer (32 MiB). `window`, requests that are sent before an
 * answer is awaited (32).
 */
export class Client {
  #path;
  #options;
  #socket = null;
  #connecting = false;
  #connected = false;
  #closed = false;
  // Requests to send, in order; and those sent, by number, in the order of sending.
  #waiting = new Queue();
  #sent = new Map();
  #numbers = 0;
  // Errors without an id, in the order of their requests.
  #unnamed = [];
  // A line whose end has not come: the first bytes of a buffer that grows.
  #line = Buffer.alloc(0);
  #held = 0;
  // Whether anything came over this connection, and whether any request went out whole.
  #heard = false;
  #delivered = false;
  // Whether the next connection is listened to before it is written to, whether the present one was, and whether it still is.
  #listenFirst = false;
  #listened = false;
  #listening = false;

  /** Makes a client; the first request connects it. `Client.open` connects at once. */
  constructor(path, { timeout = 30, reconnect = 5, limit = LIMIT, window = 32 } = {}) {
    if (typeof path !== "string" || path === "" || path.includes("\0") || Buffer.byteLength(path) > LONGEST_PATH) {
      throw new TypeError(`the path of a socket has 1 to ${LONGEST_PATH} bytes`);
    }
    if (!(timeout > 0 && timeout <= LONGEST && reconnect >= 0 && reconnect <= LONGEST)) {
      throw new RangeError(`timeout must be seconds above 0, reconnect seconds from 0, both at most ${LONGEST}`);
    }
    if (!(limit >= 1 && window >= 1)) {
      throw new RangeError("limit and window must be at least 1");
    }
    this.#path = path;
    this.#options = { timeout, reconnect, limit, window };
  }

  /** A connected client, or the reason why there is none. */
  static async open(path, options) {
    const client = new Client(path, options);
    client.#connecting = true;
    try {
      await client.#connect(0);
    } finally {
      client.#connecting = false;
    }
    client.#pump();
    return client;
  }

  /** The answer to a text, or a text and its pair. `fields` are further fields of the request, such as `{ top: 3 }`. */
  ask(text, pair, fields = {}) {
    return this.request({ ...fields, text, ...(pair === undefined || pair === null ? {} : { pair }) });
  }

  /** The answer to token ids, special tokens included. */
  askIds(ids, fields = {}) {
    return this.request({ ...fields, ids: Array.from(ids) });
  }

  /** The answer to one request, given as an object of the protocol's fields. An `id` in it comes back in the answer. */
  async request(fields) {
    return (await this.batch([fields]))[0];
  }

  /** The server's model, its head and its limits. */
  ping() {
    return this.request({ op: "ping" });
  }

  /** The server's counts, times and memory. */
  stats() {
    return this.request({ op: "stats" });
  }

  /**
   * The answers to several requests in their order. They are sent without waiting for each other's answers. A request is a text, a
   * list of token ids, or an object. The first error rejects the promise after the other answers came; with `returnErrors` each
   * error stands in the place of its answer instead.
   */
  async batch(requests, { returnErrors = false } = {}) {
    if (typeof requests !== "object" || requests === null || !(Symbol.iterator in requests)) {
      throw new TypeError("batch takes a list of requests; ask and request take one");
    }
    const entries = Array.from(requests, (request) => this.#entry(fieldsOf(request)));
    if (entries.length === 0) return [];
    await new Promise((resolve) => {
      const call = { left: entries.length, resolve };
      const seconds = this.#options.timeout;
      call.restart = () => {
        clearTimeout(call.timer);
        call.timer = setTimeout(() => this.#late(entries, seconds), seconds * 1000);
      };
      call.restart();
      for (const entry of entries) entry.call = call;
      if (this.#closed) {
        this.#fail(entries, new ConnectionFailed(`${this.#path}: this client is closed`));
        return;
      }
      for (const entry of entries) this.#waiting.push(entry);
      this.#pump();
    });
    const results = entries.map((entry) => entry.result);
    const error = results.find((result) => result instanceof ThimbleError);
    if (error && !returnErrors) throw error;
    return results;
  }

  /** Ends the connection. Calls that wait for an answer fail. */
  close() {
    this.#closed = true;
    this.#failAll(new ConnectionFailed(`${this.#path}: this client is closed`));
    this.#drop();
  }

  #entry(fields) {
    const number = ++this.#numbers;
    // The id comes first, so that the server knows it even where it cannot read the rest.
    const line = JSON.stringify({ id: 0, ...fields, ...{ id: number } }) + "\n";
    return { number, line, named: Object.hasOwn(fields, "id"), name: fields.id, tries: 0, result: undefined, call: null };
  }

  // Gives a request its result, once.
  #settle(entry, result) {
    if (entry.result !== undefined) return;
    entry.result = result;
    entry.line = null;
    entry.call.left -= 1;
    if (entry.call.left === 0) {
      clearTimeout(entry.call.timer);
      entry.call.resolve();
    } else {
      entry.call.restart();
    }
  }

  #fail(entries, error) {
    for (const entry of [...entries]) this.#settle(entry, error);
  }

  #failAll(error) {
    const entries = [...this.#sent.values(), ...this.#waiting.rest()];
    this.#sent.clear();
    this.#waiting.replace([]);
    this.#unnamed = [];
    this.#fail(entries, error);
  }

  // A call had its time. Its requests that were sent stay in the list, since their answers may still come.
  #late(entries, seconds) {
    const late = new Set(entries);
    this.#waiting.replace(this.#waiting.rest().filter((entry) => !late.has(entry)));
    this.#fail(entries, new AnswerTimeout(`${this.#path}: no answer within ${seconds} s`));
    // Where nobody waits any more for what was sent, closing tells the server to drop it.
    if ([...this.#sent.values()].every((entry) => entry.result !== undefined)) this.#drop();
    this.#pump();
  }

  // Sends what may be sent.
  #pump() {
    if (this.#closed) return;
    if (this.#socket === null) {
      if (this.#waiting.size > 0 && !this.#connecting) this.#reconnect();
      return;
    }
    while (!this.#listening && this.#waiting.size > 0 && this.#sent.size < this.#options.window) {
      const entry = this.#waiting.shift();
      entry.tries += 1;
      this.#sent.set(entry.number, entry);
      const socket = this.#socket;
      socket.write(entry.line, (error) => {
        if (!error && this.#socket === socket) this.#delivered = true;
      });
    }
    // A client that waits for nothing does not keep the process alive.
    if (this.#sent.size > 0) this.#socket.ref();
    else this.#socket.unref();
  }

  async #reconnect() {
    this.#connecting = true;
    try {
      await this.#connect(this.#connected ? this.#options.reconnect : 0);
    } catch (error) {
      this.#failAll(error);
      return;
    } finally {
      this.#connecting = false;
    }
    this.#pump();
  }

  // Connects. A full queue of the listening socket is waited for until the timeout, a missing server for `patience` seconds.
  async #connect(patience) {
    const begin = Date.now();
    for (;;) {
      const socket = net.connect({ path: this.#path });
      const error = await new Promise((resolve) => {
        socket.once("connect", () => resolve(null));
        socket.once("error", resolve);
      });
      if (error === null && !this.#closed) {
        this.#adopt(socket);
        return;
      }
      socket.destroy();
      if (this.#closed) throw new ConnectionFailed(`${this.#path}: this client is closed`);
      const missing = error.code === "ENOENT" || error.code === "ECONNREFUSED";
      const seconds = error.code === "EAGAIN" ? this.#options.timeout : missing ? Math.min(patience, this.#options.timeout) : 0;
      if (Date.now() - begin >= seconds * 1000) {
        const hint = missing ? `; is \`thimble-device serve FILE --socket ${this.#path}\` running?` : "";
        throw new ConnectionFailed(`${this.#path}: ${error.message}${hint}`, { cause: error });
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }

  #adopt(socket) {
    this.#socket = socket;
    this.#connected = true;
    this.#heard = false;
    this.#delivered = false;
    this.#listened = this.#listenFirst;
    if (this.#listenFirst) {
      this.#listenFirst = false;
      this.#listening = true;
      setTimeout(() => {
        if (this.#socket !== socket) return;
        this.#listening = false;
        this.#pump();
      }, LISTEN);
    }
    // A socket that was given up may still report; only the present one counts.
    socket.on("data", (data) => this.#socket === socket && this.#receive(data));
    // A failed write may come before an answer, or the reason, that is still unread: only the end of reading counts.
    socket.on("error", () => {});
    socket.on("close", () => this.#socket === socket && this.#lost());
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#sent.clear();
    this.#unnamed = [];
    this.#line = Buffer.alloc(0);
    this.#held = 0;
    this.#listening = false;
    if (socket !== null) socket.destroy();
  }

  // Ends a connection that nothing more can be expected of.
  #giveUp(error) {
    const sent = [...this.#sent.values()];
    this.#drop();
    this.#fail(sent, error);
    // A server that takes no clients would refuse what waits, too.
    if (error instanceof ServerBusy) this.#failAll(error);
    this.#pump();
  }

  // The connection ended: requests are sent once more if nothing of an answer came.
  #lost() {
    const sent = [...this.#sent.values()].filter((entry) => entry.result === undefined);
    if (sent.length > 0 && !this.#heard && !this.#delivered && !this.#listened) {
      // Nothing was sent, so this is no second time. The reason may be read from the next connection.
      for (const entry of sent) entry.tries -= 1;
      this.#again(sent);
      return;
    }
    const problem = (words) => new ConnectionFailed(`${this.#path}: the connection ended ${words}`);
    let error = null;
    if (this.#unnamed.length > 0) error = problem(`after the server said: ${this.#unnamed[0].message}`);
    else if (this.#held > 0) error = problem("within an answer");
    else if (this.#options.reconnect === 0) error = problem("before the answer");
    else if (this.#listening || sent.some((entry) => entry.tries > 1)) error = problem("before the answer, twice");
    if (this.#listening) this.#failAll(error);
    if (error !== null) this.#giveUp(error);
    else this.#again(sent);
  }

  // Sends requests over a new connection.
  #again(sent) {
    this.#listenFirst = !this.#heard && sent.length > 0;
    this.#drop();
    this.#waiting.replace([...sent, ...this.#waiting.rest()]);
    this.#pump();
  }

  // Takes bytes, and each line that they end.
  #receive(data) {
    const { limit } = this.#options;
    const socket = this.#socket;
    this.#heard = true;
    let begin = 0;
    for (let end; (end = data.indexOf(NEWLINE, begin)) >= 0; begin = end + 1) {
      const line = this.#held === 0 ? data.subarray(begin, end) : this.#hold(data.subarray(begin, end));
      const error = line.length > limit ? this.#tooLong() : this.#take(line);
      if (this.#held > KEPT) this.#line = Buffer.alloc(0);
      this.#held = 0;
      if (error !== null) return this.#giveUp(error);
      // A caller that got its answer may have closed this client.
      if (this.#socket !== socket) return;
    }
    if (begin < data.length) {
      this.#hold(data.subarray(begin));
      if (this.#held > limit) return this.#giveUp(this.#tooLong());
    }
    this.#pump();
  }

  // Adds bytes to the line whose end has not come, and gives all of it.
  #hold(bytes) {
    const held = this.#held + bytes.length;
    if (held > this.#line.length) {
      const larger = Buffer.alloc(Math.max(held, 2 * this.#line.length));
      this.#line.copy(larger, 0, 0, this.#held);
      this.#line = larger;
    }
    bytes.copy(this.#line, this.#held);
    this.#held = held;
    return this.#line.subarray(0, held);
  }

  #tooLong() {
    return new BadAnswer(`${this.#path}: an answer has more than ${this.#options.limit} bytes; \`limit\` allows more`);
  }

  // Gives an answer to its request; an error where the connection can no longer be trusted.
  #take(line) {
    let answer;
    try {
      answer = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(line));
    } catch (cause) {
      return new BadAnswer(`${this.#path}: no JSON came: ${excerpt(line)}`, { cause });
    }
    const whole = typeof answer === "object" && answer !== null && !Array.isArray(answer);
    if (!whole || !["undefined", "string"].includes(typeof answer.error)) {
      return new BadAnswer(`${this.#path}: no answer of thimble-device came: ${excerpt(line)}`);
    }
    const { id, error: words, ...rest } = answer;
    let error = null;
    if (words !== undefined) {
      error = words === STOPPING || words.includes(FULL) ? new ServerBusy(words) : new ServerError(words);
    }
    if (id === null && error instanceof ServerBusy) return error;
    if (id === null && error !== null) {
      // The server could not read the id. It says so in the order of the requests, so once no other answer is due, these are the
      // errors of the requests that are left.
      this.#unnamed.push(error);
    } else {
      const entry = typeof id === "number" ? this.#sent.get(id) : undefined;
      if (entry === undefined) return new BadAnswer(`${this.#path}: an answer came to no request of this client: ${excerpt(line)}`);
      this.#sent.delete(id);
      this.#settle(entry, error ?? (entry.named ? { id: entry.name, ...rest } : rest));
    }
    if (this.#unnamed.length > 0 && this.#unnamed.length >= this.#sent.size) {
      const [entries, errors] = [[...this.#sent.values()], this.#unnamed];
      this.#sent.clear();
      this.#unnamed = [];
      entries.forEach((entry, index) => this.#settle(entry, errors[index]));
    }
    return null;
  }
}

// A request of `batch` as the protocol's fields.
function fieldsOf(request) {
  if (typeof request === "string") return { text: request };
  if (Array.isArray(request) || ArrayBuffer.isView(request)) return { ids: Array.from(request) };
  if (typeof request === "object" && request !== null) return request;
  throw new TypeError("a request is a text, a list of token ids or an object of the protocol's fields");
}

function excerpt(line) {
  return JSON.stringify(line.subarray(0, 80).toString("latin1")) + (line.length > 80 ? "…" : "");
}

const USAGE = `usage: thimble-client.mjs SOCKET [--text T [--pair T] | --ids 2,17,3 | --request JSON | --ping] [--timeout SECONDS]
       [--limit BYTES]

Asks thimble-device serve. Without --text, --ids, --request or --ping, requests are read from stdin, one JSON object a line, and
answered in their order. Exit codes: 0 answered, 1 the server refused a request, 2 usage, 3 no answer (no server, busy, timeout).`;

class Usage extends Error {}

function parsed(text, where) {
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new Usage(`${where} is no JSON: ${error.message}`);
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) throw new Usage(`${where} is no JSON object`);
  return fields;
}

// What the command line asks: the socket, one request or none, and the timeout.
function command(args) {
  const text = { type: "string" };
  const flag = { type: "boolean" };
  const options = { text, pair: text, ids: text, request: text, timeout: text, limit: text, ping: flag, help: { ...flag, short: "h" } };
  let read;
  try {
    read = parseArgs({ args, allowPositionals: true, options });
  } catch (error) {
    throw new Usage(error.message);
  }
  const { values, positionals } = read;
  if (values.help) return null;
  if (positionals.length !== 1) throw new Usage("give the path of the server's socket");
  if ([values.text, values.ids, values.request, values.ping].filter((value) => value !== undefined).length > 1) {
    throw new Usage("give one of --text, --ids, --request and --ping");
  }
  if (values.pair !== undefined && values.text === undefined) throw new Usage("--pair needs --text");
  const timeout = Number(values.timeout ?? 30);
  if (!(timeout > 0 && timeout <= LONGEST)) throw new Usage(`--timeout must be above 0 and at most ${LONGEST}`);
  const limit = Number(values.limit ?? LIMIT);
  if (!(Number.isInteger(limit) && limit >= 1)) throw new Usage("--limit must be a whole number of at least 1");
  let fields = null;
  if (values.text !== undefined) fields = { text: values.text, pair: values.pair };
  if (values.request !== undefined) fields = parsed(values.request, "--request");
  if (values.ping) fields = { op: "ping" };
  if (values.ids !== undefined) {
    if (!/^\s*\d+\s*(,\s*\d+\s*)*$/.test(values.ids)) throw new Usage(`--ids ${values.ids}: token ids are whole numbers between commas`);
    fields = { ids: values.ids.split(",").map(Number) };
  }
  return { path: positionals[0], fields, timeout, limit };
}

function refused(error) {
  return error instanceof ServerError && !(error instanceof ServerBusy);
}

async function* linesOf(stream) {
  let parts = [];
  for await (const chunk of stream) {
    let begin = 0;
    for (let end; (end = chunk.indexOf(NEWLINE, begin)) >= 0; begin = end + 1) {
      yield Buffer.concat([...parts, chunk.subarray(begin, end)]);
      parts = [];
    }
    parts.push(chunk.subarray(begin));
  }
  yield Buffer.concat(parts);
}

// Ends the process where stdout cannot be written to; in silence where whoever read it has left.
function stdoutFailed(error) {
  if (error.code === "EPIPE") process.exit(0);
  console.error(`thimble-client: stdout: ${error.message}`);
  process.exit(3);
}

// Prints lines and waits until they are taken. A file's error is thrown, that of a pipe is an event.
async function print(lines) {
  try {
    await new Promise((resolve) => process.stdout.write(lines + "\n", resolve));
  } catch (error) {
    stdoutFailed(error);
  }
}

// Asks each line of stdin; 1 where the server refused one.
async function answerLines(client) {
  let code = 0;
  let number = 0;
  let group = [];
  const flush = async () => {
    const answers = await client.batch(group, { returnErrors: true });
    const lines = answers.map((answer, index) => {
      if (answer instanceof ThimbleError && !refused(answer)) throw answer;
      if (!(answer instanceof ThimbleError)) return JSON.stringify(answer);
      code = 1;
      return JSON.stringify({ id: group[index].id, error: answer.message });
    });
    group = [];
    if (lines.length > 0) await print(lines.join("\n"));
  };
  for await (const bytes of linesOf(process.stdin)) {
    number += 1;
    let line;
    try {
      line = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      throw new Usage(`line ${number} of stdin is not UTF-8`);
    }
    if (line.trim() === "") continue;
    group.push(parsed(line, `line ${number} of stdin`));
    if (group.length === 256) await flush();
  }
  await flush();
  return code;
}

async function main(args) {
  let client = null;
  process.stdout.on("error", stdoutFailed);
  try {
    const asked = command(args);
    if (asked === null) {
      await print(USAGE);
      return 0;
    }
    client = await Client.open(asked.path, { timeout: asked.timeout, limit: asked.limit });
    if (asked.fields === null) return await answerLines(client);
    await print(JSON.stringify(await client.request(asked.fields)));
    return 0;
  } catch (error) {
    const usage = error instanceof Usage || error instanceof TypeError;
    if (!usage && !(error instanceof ThimbleError)) throw error;
    console.error(`thimble-client: ${error.message}${error instanceof Usage ? "\n" + USAGE : ""}`);
    return usage ? 2 : refused(error) ? 1 : 3;
  } finally {
    client?.close();
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = await main(process.argv.slice(2));
}
