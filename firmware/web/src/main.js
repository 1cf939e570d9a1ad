// SPDX-License-Identifier: Apache-2.0
// Starts the page: one Hearth, drawn again at most once a frame.
import { render } from "preact";
import { Hearth } from "./hearth.js";
import { codec } from "./proto.js";
import { App } from "./ui/app.js";
import { html } from "./ui/html.js";

const root = document.getElementById("app");
let planned = false;

function draw() {
    planned = false;
    render(html`<${App} hearth=${hearth} state=${{ ...hearth.state }} />`, root);
}

/* A hidden page gets no animation frames, but its state goes on. */
function changed() {
    if (planned) return;
    planned = true;
    if (document.hidden) setTimeout(draw, 50);
    else requestAnimationFrame(draw);
}

function registerWorker() {
    if (!("serviceWorker" in navigator) || !isSecureContext) return;
    const policy = window.trustedTypes?.createPolicy("hearth", {
        createScriptURL: (url) => {
            if (url === "/sw.js") return url;
            throw new TypeError("only the page's own worker");
        },
    });
    const url = policy ? policy.createScriptURL("/sw.js") : "/sw.js";
    navigator.serviceWorker.register(url).catch(() => null); /* the page works without it */
}

const hearth = new Hearth(codec, changed);
draw();
hearth.start();
registerWorker();
