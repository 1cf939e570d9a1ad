// SPDX-License-Identifier: Apache-2.0
// The page's wire client against a socket and a clock of our own: sequence numbers, resume, back-off, repeats.
// test_modules.py runs it with node's test runner.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromHex, toHex } from "../../firmware/web/src/bytes.js";
import { Response } from "../../firmware/web/src/response.js";
import { CODE, Wire, WireError, pauseMs } from "../../firmware/web/src/wire.js";

const RESPONSE = "a1".repeat(16);
const TOKEN = new Uint8Array(32).fill(7);

/* Frames stay objects: the codec's own correctness is the protobuf library's. */
const frames = [];
const codec = {
    encode: (requestId, name, value) => new Uint8Array([frames.push({ requestId, name, value }) - 1]),
    decode: (bytes) => frames[bytes[0]],
};

class Clock {
    constructor() {
        this.now = 0;
        this.timers = new Map();
        this.n = 0;
    }
    setTimeout(run, ms) {
        this.timers.set(++this.n, { at: this.now + ms, run });
        return this.n;
    }
    clearTimeout(id) {
        this.timers.delete(id);
    }
    advance(ms) {
        const end = this.now + ms;
        for (;;) {
            const next = [...this.timers].filter(([, t]) => t.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
            if (!next) break;
            this.timers.delete(next[0]);
            this.now = next[1].at;
            next[1].run();
        }
        this.now = end;
    }
}

class Socket {
    constructor() {
        this.sent = [];
        this.closed = false;
    }
    send(bytes) {
        this.sent.push(frames[bytes[0]]);
    }
    close() {
        this.closed = true;
    }
    /* the box says something */
    say(name, value, requestId = new Uint8Array()) {
        this.onmessage({ data: new Uint8Array([frames.push({ requestId, body: { case: name, value } }) - 1]) });
    }
    event(seq, name, value) {
        this.say("event", { responseId: fromHex(RESPONSE), seq: BigInt(seq), event: { case: name, value } });
    }
    names() {
        return this.sent.map((f) => f.name);
    }
}

function setUp() {
    frames.length = 0;
    const clock = new Clock();
    const sockets = [];
    const seen = { states: [], refused: [], gone: [], responses: [], welcomes: 0, paired: null };
    const wire = new Wire({
        url: "ws://box/",
        codec,
        client: "test",
        clock,
        socket: () => {
            sockets.push(new Socket());
            return sockets.at(-1);
        },
        events: {
            state: (s) => seen.states.push(s),
            welcome: () => seen.welcomes++,
            paired: (token) => (seen.paired = token),
            refused: (error) => seen.refused.push(error),
            response: (r) => seen.responses.push([r.seq, r.text]),
            gone: (r) => seen.gone.push(r.id),
        },
    });
    return { wire, clock, sockets, seen, last: () => sockets.at(-1) };
}

function online(rig) {
    rig.wire.start(TOKEN);
    rig.last().onopen();
    rig.last().say("welcome", { person: "Ann" });
}

function accept(socket) {
    const chat = socket.sent.findLast((f) => f.name === "chat");
    const id = (n) => new Uint8Array(16).fill(n);
    socket.say("accepted", { responseId: fromHex(RESPONSE), conversationId: id(1), userTurnId: id(2), assistantTurnId: id(3) },
        chat.requestId);
}

test("a response takes events in order, knows repeats and holes", () => {
    const event = (seq, name, value) => ({ seq: BigInt(seq), event: { case: name, value } });
    const r = new Response("r");
    assert.equal(r.apply(event(1, "responseCreated", { model: "m", droppedTurns: 2 })), "applied");
    assert.equal(r.apply(event(2, "outputTextDelta", { delta: "Pa" })), "applied");
    assert.equal(r.apply(event(2, "outputTextDelta", { delta: "Pa" })), "old");
    assert.equal(r.apply(event(4, "outputTextDelta", { delta: "x" })), "gap");
    assert.equal(r.text, "Pa");
    assert.equal(r.droppedTurns, 2);
    assert.equal(r.apply(event(3, "outputTextDelta", { delta: "ris" })), "applied");
    assert.equal(r.text, "Paris");
    assert.equal(r.apply(event(4, "responseIncomplete", { reason: 3, usage: { completionTokens: 2 } })), "applied");
    assert.deepEqual([r.state, r.reason, r.usage.completionTokens], ["incomplete", "cancelled", 2]);
});

test("a snapshot replaces the text and jumps over a hole", () => {
    const r = new Response("r");
    const value = { text: "all of it", finished: true };
    assert.equal(r.apply({ seq: 90n, event: { case: "responseSnapshot", value } }), "applied");
    assert.deepEqual([r.text, r.seq, r.finished], ["all of it", 90, true]);
});

test("hello first, then requests; replies find their requests in any order", async () => {
    const rig = setUp();
    const early = rig.wire.request("getStatus");
    online(rig);
    assert.deepEqual(rig.last().names(), ["hello", "getStatus"]);
    assert.equal(rig.last().sent[0].value.token, TOKEN);
    const late = rig.wire.request("listModels");
    rig.last().say("modelList", { models: [1] }, rig.last().sent[2].requestId);
    rig.last().say("error", { code: CODE.FORBIDDEN, message: "no" }, rig.last().sent[1].requestId);
    assert.deepEqual((await late).value.models, [1]);
    await assert.rejects(early, (e) => e instanceof WireError && e.code === CODE.FORBIDDEN);
});

test("a lost answer is resumed after the last number seen, and repeats change nothing", async () => {
    const rig = setUp();
    online(rig);
    const asked = rig.wire.chat({ text: "hi" });
    accept(rig.last());
    await asked;
    rig.last().event(1, "outputTextDelta", { delta: "a" });
    rig.last().event(2, "outputTextDelta", { delta: "b" });
    rig.last().onclose({ code: 1006 });
    rig.clock.advance(500);
    rig.last().onopen();
    rig.last().say("welcome", {});
    assert.deepEqual(rig.last().names(), ["hello", "resume"]);
    assert.equal(rig.last().sent[1].value.afterSeq, 2n);
    assert.equal(toHex(rig.last().sent[1].value.responseId), RESPONSE);
    rig.last().event(2, "outputTextDelta", { delta: "b" });
    rig.last().event(3, "outputTextDelta", { delta: "c" });
    rig.last().event(4, "responseCompleted", { usage: {} });
    assert.deepEqual(rig.seen.responses.map((r) => r[1]), ["a", "ab", "abc", "abc"]);
    assert.equal(rig.wire.followed.size, 0);
});

test("a hole asks once for what is missing", async () => {
    const rig = setUp();
    online(rig);
    const asked = rig.wire.chat({ text: "hi" });
    accept(rig.last());
    await asked;
    rig.last().event(1, "outputTextDelta", { delta: "a" });
    rig.last().event(3, "outputTextDelta", { delta: "c" });
    rig.last().event(4, "outputTextDelta", { delta: "d" });
    assert.deepEqual(rig.last().names(), ["hello", "chat", "resume"]);
    assert.equal(rig.last().sent[2].value.afterSeq, 1n);
    for (const [seq, delta] of [[2, "b"], [3, "c"], [4, "d"]]) rig.last().event(seq, "outputTextDelta", { delta });
    assert.equal(rig.seen.responses.at(-1)[1], "abcd");
});

test("a question without an answer yet is sent again with the same id, then resumed from the start", async () => {
    const rig = setUp();
    online(rig);
    const asked = rig.wire.chat({ text: "hi" });
    const first = rig.last().sent[1];
    rig.last().onclose({ code: 1006 });
    rig.clock.advance(500);
    rig.last().onopen();
    rig.last().say("welcome", {});
    assert.equal(toHex(rig.last().sent[1].requestId), toHex(first.requestId));
    accept(rig.last());
    const { response } = await asked;
    assert.deepEqual(rig.last().names(), ["hello", "chat", "resume"]);
    assert.equal(rig.last().sent[2].value.afterSeq, 0n);
    assert.equal(response.id, RESPONSE);
});

test("a response that the box no longer knows is reported and not asked for again", () => {
    const rig = setUp();
    online(rig);
    rig.wire.follow(RESPONSE, fromHex(RESPONSE));
    rig.last().say("error", { code: CODE.NOT_FOUND, message: "" }, rig.last().sent[1].requestId);
    assert.deepEqual(rig.seen.gone, [RESPONSE]);
    rig.last().onclose({ code: 1006 });
    rig.clock.advance(500);
    rig.last().onopen();
    rig.last().say("welcome", {});
    assert.deepEqual(rig.last().names(), ["hello"]);
});

test("pauses double up to half a minute, half of each drawn by chance", () => {
    assert.deepEqual([0, 1, 2, 3].map((n) => pauseMs(n, () => 1)), [500, 1000, 2000, 4000]);
    assert.equal(pauseMs(2, () => 0), 1000);
    assert.equal(pauseMs(50, () => 1), 30000);
});

test("failed attempts wait longer each time, a welcome starts over", () => {
    const rig = setUp();
    rig.wire.start(TOKEN);
    for (let i = 0; i < 5; i++) {
        rig.last().onclose({ code: 1006 });
        rig.clock.advance(rig.seen.states.at(-1).retryMs);
        assert.equal(rig.sockets.length, i + 2);
    }
    const waits = rig.seen.states.filter((s) => s.state === "waiting").map((s) => s.retryMs);
    waits.forEach((ms, n) => assert.ok(ms >= 250 * 2 ** n && ms <= 500 * 2 ** n, `${n}: ${ms}`));
    rig.last().onopen();
    rig.last().say("welcome", {});
    rig.last().onclose({ code: 1006 });
    assert.ok(rig.seen.states.at(-1).retryMs <= 500);
});

test("a box that does not answer a ping in time counts as lost; any frame keeps it alive", () => {
    const rig = setUp();
    online(rig);
    rig.clock.advance(20000);
    assert.deepEqual(rig.last().names(), ["hello", "ping"]);
    rig.clock.advance(9000);
    rig.last().say("pong", {});
    rig.clock.advance(19000);
    assert.equal(rig.wire.state, "online");
    const old = rig.last();
    rig.clock.advance(11000);
    assert.equal(rig.wire.state, "waiting");
    assert.ok(old.closed);
});

test("a box that says nothing to hello is given up", () => {
    const rig = setUp();
    rig.wire.start(TOKEN);
    rig.last().onopen();
    rig.clock.advance(12000);
    assert.equal(rig.wire.state, "waiting");
});

test("a refused token ends the attempts, by error or by close code", () => {
    for (const refuse of [(s) => s.say("error", { code: CODE.UNAUTHENTICATED, message: "" }), (s) => s.onclose({ code: 4403 })]) {
        const rig = setUp();
        rig.wire.start(TOKEN);
        rig.last().onopen();
        refuse(rig.last());
        assert.equal(rig.seen.refused[0].code, CODE.UNAUTHENTICATED);
        rig.clock.advance(120000);
        assert.equal(rig.sockets.length, 1);
        assert.equal(rig.wire.state, "idle");
    }
});

test("a pairing secret is used once: paired goes on as if by hello, a loss is reported and not repeated", () => {
    const rig = setUp();
    rig.wire.pair(new Uint8Array(32), "phone");
    rig.last().onopen();
    assert.deepEqual(rig.last().names(), ["pair"]);
    rig.last().say("paired", { token: TOKEN, welcome: { person: "Ann" } });
    assert.equal(rig.seen.paired, TOKEN);
    assert.equal(rig.wire.state, "online");

    rig.wire.pair(new Uint8Array(32), "phone");
    rig.last().onopen();
    rig.last().onclose({ code: 1006 });
    rig.clock.advance(120000);
    assert.equal(rig.seen.refused.at(-1).code, CODE.LOST);
    assert.equal(rig.sockets.length, 2);
});

test("a frame that cannot be read closes the connection", () => {
    const rig = setUp();
    online(rig);
    rig.wire.codec = { ...codec, decode: () => { throw new Error("bad"); } };
    rig.last().onmessage({ data: new Uint8Array([1, 2, 3]) });
    assert.equal(rig.wire.state, "waiting");
});
