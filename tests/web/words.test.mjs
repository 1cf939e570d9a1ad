// SPDX-License-Identifier: Apache-2.0
// The page's small pure parts: bytes, pairing links, words and figures. test_modules.py runs it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { clipUtf8, fromBase64url, fromHex, pairingSecret, toHex, utf8Length } from "../../firmware/web/src/bytes.js";
import { CODE } from "../../firmware/web/src/wire.js";
import {
    dayGroup, deviceName, explain, lossWords, recordsWords, told, training, usageLine,
} from "../../firmware/web/src/words.js";

test("hex and base64url go both ways and refuse what they are not", () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    assert.deepEqual(fromHex(toHex(bytes)), bytes);
    assert.equal(fromHex("abc"), null);
    assert.equal(fromHex("zz"), null);
    assert.deepEqual(fromBase64url(Buffer.from(bytes).toString("base64url")), bytes);
    for (const bad of ["", "a", "ab=", "a+b/", "a b"]) assert.equal(fromBase64url(bad), null);
});

test("a pairing secret is found in a link, in a fragment or alone, and must have 32 bytes", () => {
    const secret = Buffer.alloc(32, 0xfb).toString("base64url");
    for (const text of [secret, `#pair=${secret}&fp=00`, ` https://box.local:8443/#fp=00&pair=${secret}\n`]) {
        assert.equal(toHex(pairingSecret(text)), "fb".repeat(32));
    }
    for (const text of ["", "#pair=", secret.slice(2), `#pair=${secret.slice(2)}`, "hello"]) {
        assert.equal(pairingSecret(text), null);
    }
});

test("clipping counts bytes and cuts no character", () => {
    assert.equal(clipUtf8("Küche", 2), "K");
    assert.equal(clipUtf8("Küche", 3), "Kü");
    assert.equal(clipUtf8("🔥🔥", 7), "🔥");
    assert.equal(utf8Length("🔥"), 4);
});

test("every error code of the wire has plain words", () => {
    for (const code of Object.values(CODE)) assert.notEqual(explain({ code }), explain({ code: 99 }));
});

test("the box's own words are a sentence, and there are others where it said none", () => {
    assert.equal(told({ code: CODE.INVALID, message: "there is a data set of that name already" }), "There is a data set of that name already.");
    assert.equal(told({ code: CODE.BUSY, message: "" }), explain({ code: CODE.BUSY }));
});

test("speed counts from the first token to the last", () => {
    assert.equal(usageLine({ completionTokens: 101, completionMs: 1000 }), "101 tokens · 100 tok/s");
    assert.equal(usageLine({ completionTokens: 5, completionMs: 1000 }), "5 tokens · 4.0 tok/s");
    assert.equal(usageLine({ completionTokens: 1, completionMs: 0 }), "1 token");
});

test("days are the reader's days", () => {
    const noon = new Date(2025, 5, 15, 12).getTime();
    const hours = (n) => noon - n * 3600000;
    assert.deepEqual([1, 13, 37, 80, 400].map((n) => dayGroup(hours(n), noon)),
        ["Today", "Yesterday", "This week", "This week", "Earlier"]);
});

test("a device gets a name from its platform", () => {
    const name = (userAgent) => deviceName({ userAgent });
    assert.equal(name("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36"), "Chrome on Linux");
    assert.equal(name("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1"), "Safari on iPhone");
    assert.equal(name("Mozilla/5.0 (Linux; Android 15; Pixel) Chrome/130.0 Mobile Safari/537.36"), "Chrome on Android");
    assert.equal(name("curl"), "Browser");
});

test("a training is told in a few words", () => {
    assert.equal(training(undefined), "nothing yet");
    assert.equal(training({ state: 3, adapter: "a", step: 4n, nSteps: 20n, etaSeconds: 125 }), "a: step 4 of 20, 2 min left");
    assert.equal(training({ state: 3, adapter: "", step: 4n, nSteps: 20n, etaSeconds: 5 }), "step 4 of 20, less than a minute left");
    assert.equal(training({ state: 3, adapter: "a", step: 0n, nSteps: 0n, etaSeconds: 0 }), "a: begins");
    assert.equal(training({ state: 7, adapter: "a" }), "a: done");
    assert.deepEqual([0n, 1n, 12].map(recordsWords), ["0 conversations", "1 conversation", "12 conversations"]);
    assert.equal(lossWords({ loss: 0, heldOut: 0 }), "");
    assert.equal(lossWords({ loss: 1.23456, heldOut: 2 }), "loss 1.235, 2.000 on what was kept aside");
});
