// SPDX-License-Identifier: Apache-2.0
// The connection to the box: one WebSocket, one protobuf frame a message. Connects, says Hello (or Pair),
// connects again with growing pauses after a loss, then sends again what has no answer yet (request ids make
// that idempotent) and resumes every response that is followed. Knows nothing of the page.
import { toHex, randomId } from "./bytes.js";
import { Response } from "./response.js";

export const SUBPROTOCOL = "hearth.v1";
export const CODE = {
    UNAUTHENTICATED: 1, FORBIDDEN: 2, INVALID: 3, NOT_FOUND: 4, LIMIT: 5, BUSY: 6, CONTEXT: 7,
    UNIMPLEMENTED: 8, INTERNAL: 9, UNAVAILABLE: 10, STORAGE: 11,
    LOST: 1000, /* ours: the connection went away and the request was given up */
};

export class WireError extends Error {
    constructor(code, message) {
        super(message);
        this.code = code;
    }
}

const CLOSE_REFUSED = [4401, 4403]; /* not authenticated, revoked */
const REFUSAL = new WireError(CODE.UNAUTHENTICATED, "the box does not know this device");
const CONNECT_MS = 12000;
const PING_EVERY_MS = 20000;
const PONG_WITHIN_MS = 10000;
const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 30000;

/* The pause before the n-th new attempt (n from 0): doubling, capped, with half of it drawn by chance so that
 * many pages do not come back at the same moment. */
export function pauseMs(attempt, random = Math.random) {
    const full = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** Math.min(attempt, 16));
    return Math.round(full / 2 + (full / 2) * random());
}

export class Wire {
    /* events: state({state, retryMs}), welcome(welcome), paired(token, welcome), refused(error),
     * response(response) after each change, gone(response) when the box no longer knows a response */
    constructor({ url, codec, client, events, socket = (u) => new WebSocket(u, SUBPROTOCOL), clock = globalThis }) {
        Object.assign(this, { url, codec, client, events, makeSocket: socket, clock });
        this.state = "idle"; /* idle connecting online waiting */
        this.token = null;
        this.pairing = null;
        this.socket = null;
        this.attempt = 0;
        this.pending = new Map(); /* request id (hex) -> {frame, resolve, reject} */
        this.followed = new Map(); /* response id (hex) -> Response */
        this.resuming = new Map(); /* request id (hex) of a Resume -> response id */
        this.timers = {};
    }

    start(token) {
        this.token = token;
        this.pairing = null;
        this.attempt = 0;
        this.#connect();
    }

    /* One try: a pairing secret works once, so a lost connection is reported and not repeated. */
    pair(secret, deviceName) {
        this.stop();
        this.token = null;
        this.pairing = { secret, deviceName };
        this.#connect();
    }

    stop() {
        this.#drop();
        for (const p of this.pending.values()) p.reject(new WireError(CODE.LOST, "closed"));
        this.pending.clear();
        this.followed.clear();
        this.#setState("idle");
    }

    /* Skips the pause, or checks at once whether the open connection still lives (the device woke up). */
    nudge() {
        if (this.state === "waiting") {
            this.attempt = 0;
            this.#connect();
        } else if (this.state === "online") {
            this.#ping();
        }
    }

    /* Sends a request; resolves with the body of the reply {case, value}, rejects with a WireError. */
    request(name, value = {}) {
        const id = randomId();
        const frame = this.codec.encode(id, name, value);
        return new Promise((resolve, reject) => {
            const p = { frame, resolve, reject, sent: 0 };
            this.pending.set(toHex(id), p);
            if (this.state === "online") this.#send(p);
        });
    }

    /* Asks the model; resolves with {accepted, response}, whose changes come as response events. */
    async chat(value) {
        const { value: accepted, response } = await this.request("chat", value);
        return { accepted, response };
    }

    /* Follows a response that was begun elsewhere or before a reload. */
    follow(responseId, bytes) {
        let response = this.followed.get(responseId);
        if (!response) {
            response = new Response(responseId, bytes);
            this.followed.set(responseId, response);
            this.#resume(response);
        }
        return response;
    }

    forget(responseId) {
        this.followed.delete(responseId);
    }

    #send(p) {
        p.sent++;
        this.socket.send(p.frame);
    }

    #setState(state, retryMs = 0) {
        this.state = state;
        this.events.state({ state, retryMs });
    }

    #after(name, ms, run) {
        this.clock.clearTimeout(this.timers[name]);
        this.timers[name] = this.clock.setTimeout(run, ms);
    }

    #drop() {
        for (const name of Object.keys(this.timers)) this.clock.clearTimeout(this.timers[name]);
        const socket = this.socket;
        this.socket = null;
        this.resuming.clear();
        if (!socket) return;
        socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
        socket.close();
    }

    #connect() {
        this.#drop();
        this.#setState("connecting");
        const socket = this.makeSocket(this.url);
        this.socket = socket;
        socket.binaryType = "arraybuffer";
        socket.onopen = () => this.#greet();
        socket.onmessage = (m) => this.#receive(m.data);
        socket.onclose = (e) => this.#closed(e.code);
        this.#after("connect", CONNECT_MS, () => this.#lost());
    }

    #greet() {
        const body = this.pairing ? { ...this.pairing, client: this.client }
            : { token: this.token, client: this.client };
        this.socket.send(this.codec.encode(randomId(), this.pairing ? "pair" : "hello", body));
    }

    #lost() {
        this.#drop();
        if (this.pairing) {
            this.#refused(new WireError(CODE.LOST, "the connection was lost while pairing"));
            return;
        }
        const ms = pauseMs(this.attempt++);
        this.#setState("waiting", ms);
        this.#after("retry", ms, () => this.#connect());
    }

    #closed(code) {
        if (CLOSE_REFUSED.includes(code)) this.#refused(REFUSAL);
        else this.#lost();
    }

    #refused(error) {
        this.#drop();
        this.pairing = null;
        this.#setState("idle");
        this.events.refused(error);
    }

    #online(welcome) {
        this.clock.clearTimeout(this.timers.connect);
        this.attempt = 0;
        this.#setState("online");
        this.events.welcome(welcome);
        for (const p of this.pending.values()) this.#send(p);
        for (const response of this.followed.values()) this.#resume(response);
        this.#after("ping", PING_EVERY_MS, () => this.#ping());
    }

    #ping() {
        this.socket.send(this.codec.encode(randomId(), "ping", {}));
        this.#after("ping", PONG_WITHIN_MS, () => this.#lost());
    }

    #resume(response) {
        if (this.state !== "online" || response.finished) return;
        const id = randomId();
        response.resuming = true;
        this.resuming.set(toHex(id), response.id);
        const value = { responseId: response.bytes, afterSeq: BigInt(response.seq) };
        this.socket.send(this.codec.encode(id, "resume", value));
    }

    #receive(data) {
        let frame;
        try {
            frame = this.codec.decode(new Uint8Array(data));
        } catch {
            this.#lost();
            return;
        }
        if (this.state === "online") this.#after("ping", PING_EVERY_MS, () => this.#ping());
        const { case: name, value } = frame.body;
        if (this.state === "connecting") this.#first(name, value);
        else if (name === "event") this.#event(value);
        else this.#reply(toHex(frame.requestId), frame.body);
    }

    #first(name, value) {
        if (name === "welcome") {
            this.#online(value);
        } else if (name === "paired") {
            this.pairing = null;
            this.token = value.token;
            this.events.paired(value.token, value.welcome);
            this.#online(value.welcome);
        } else if (name === "error" && (this.pairing || value.code === CODE.UNAUTHENTICATED)) {
            this.#refused(new WireError(value.code, value.message));
        } else {
            this.#lost();
        }
    }

    #reply(id, body) {
        const responseId = this.resuming.get(id);
        if (responseId && body.case === "error") {
            this.resuming.delete(id);
            const response = this.followed.get(responseId);
            this.followed.delete(responseId);
            if (response) this.events.gone(response);
            return;
        }
        const p = this.pending.get(id);
        if (!p) return;
        this.pending.delete(id);
        if (body.case === "error") {
            p.reject(new WireError(body.value.code, body.value.message));
            return;
        }
        const response = body.case === "accepted" ? this.#accepted(body.value, p) : null;
        p.resolve({ ...body, response });
    }

    /* An Accepted that answers a repeated Chat may come after events were missed: then Resume from the start. */
    #accepted(accepted, p) {
        const id = toHex(accepted.responseId);
        const response = this.followed.get(id) ?? new Response(id, accepted.responseId);
        this.followed.set(id, response);
        if (p.sent > 1) this.#resume(response);
        return response;
    }

    #event(event) {
        const response = this.followed.get(toHex(event.responseId));
        if (!response) return;
        const result = response.apply(event);
        if (result === "gap" && !response.resuming) this.#resume(response);
        if (result !== "applied") return;
        response.resuming = false;
        if (response.finished) this.followed.delete(response.id);
        this.events.response(response);
    }
}
