// SPDX-License-Identifier: Apache-2.0
// Keeps the page itself (never a conversation) so that it opens while the box is away and can say so.
const CACHE = "hearth-page";
const PAGE = ["/", "/app.js", "/app.css", "/icon.svg", "/icon-180.png", "/manifest.webmanifest"];

self.addEventListener("install", (event) => {
    event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

/* The box first: what it serves now is always newest. */
async function fromBox(request, path) {
    const cache = await caches.open(CACHE);
    try {
        const answer = await fetch(request);
        if (answer.ok) await cache.put(path, answer.clone());
        return answer;
    } catch (error) {
        const kept = await cache.match(path);
        if (kept) return kept;
        throw error;
    }
}

self.addEventListener("fetch", (event) => {
    const url = new URL(event.request.url);
    if (event.request.method !== "GET" || url.origin !== self.location.origin || !PAGE.includes(url.pathname)) return;
    event.respondWith(fromBox(event.request, url.pathname));
});
