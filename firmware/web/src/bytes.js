// SPDX-License-Identifier: Apache-2.0
// Bytes and texts: hex for ids inside the page, base64url for pairing secrets, random ids, UTF-8 lengths.

export function toHex(bytes) {
    let out = "";
    for (const b of bytes) out += b.toString(16).padStart(2, "0");
    return out;
}

export function fromHex(hex) {
    if (typeof hex !== "string" || hex.length % 2 || !/^[0-9a-f]*$/i.test(hex)) return null;
    return Uint8Array.from({ length: hex.length / 2 }, (_, i) => parseInt(hex.slice(2 * i, 2 * i + 2), 16));
}

/* base64url without padding -> bytes, or null if it is anything else. */
export function fromBase64url(text) {
    if (!/^[A-Za-z0-9_-]+$/.test(text) || text.length % 4 === 1) return null;
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(binary, (c) => c.charCodeAt(0));
}

export function randomId() {
    return crypto.getRandomValues(new Uint8Array(16));
}

export function utf8Length(text) {
    return new TextEncoder().encode(text).length;
}

/* The longest beginning of text that fits in max_bytes and cuts no character. */
export function clipUtf8(text, maxBytes) {
    let out = "";
    let used = 0;
    for (const ch of text) {
        used += utf8Length(ch);
        if (used > maxBytes) break;
        out += ch;
    }
    return out;
}

/* A pairing link, or the bare secret -> the 32 bytes of the secret, or null. */
export function pairingSecret(text) {
    const trimmed = text.trim();
    const found = /[#&?]pair=([A-Za-z0-9_-]+)/.exec(trimmed);
    const secret = fromBase64url(found ? found[1] : trimmed);
    return secret && secret.length === 32 ? secret : null;
}
