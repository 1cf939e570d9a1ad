// SPDX-License-Identifier: Apache-2.0
// The page before it belongs to anybody: how to pair, and the form that a pairing link opens.
import { useState } from "preact/hooks";
import { html } from "./html.js";
import { Flame, Icon } from "./icons.js";

function PairForm({ hearth, pairing, person }) {
    const [name, setName] = useState(pairing.name);
    const submit = (event) => {
        event.preventDefault();
        hearth.pair(name);
    };
    return html`<form class="card" onSubmit=${submit}>
        <h1>Pair this device</h1>
        ${person && html`<p>This browser already belongs to ${person}. Pairing again replaces that.</p>`}
        ${pairing.secret && html`<p>Give it a name that you will know again in the box's list of devices.</p>
            <label class="labelled">Device name
                <input type="text" value=${name} maxlength="64" required autofocus disabled=${pairing.busy}
                    onInput=${(e) => setName(e.target.value)} /></label>`}
        ${pairing.error && html`<p class="note bad" role="alert">${pairing.error}</p>`}
        <div class="buttons">
            <button type="button" class="button" onClick=${() => hearth.closePairing()}>${pairing.secret ? "Not now" : "Back"}</button>
            ${pairing.secret && html`<button type="submit" class="button primary" disabled=${pairing.busy || !name.trim()}>
                ${pairing.busy ? "Pairing…" : "Pair"}</button>`}
        </div>
    </form>`;
}

function HowTo({ hearth, hint }) {
    const [link, setLink] = useState("");
    const submit = (event) => {
        event.preventDefault();
        hearth.openPairing(link);
    };
    return html`<div class="card">
        <h1>Welcome to the hearth</h1>
        <p>An assistant that lives on your own box. Nothing that is said to it leaves the house.</p>
        ${hint && html`<p class="note bad" role="alert">${hint}</p>`}
        <h2>Pair this device</h2>
        <ol class="steps">
            <li>On the box, type<code class="command">hearth pair --person NAME</code></li>
            <li>Scan the code it shows with this device, or open its link here. A link works once and for ten minutes.</li>
        </ol>
        <form onSubmit=${submit}>
            <label class="labelled">Or paste the link
                <input type="text" inputmode="url" autocomplete="off" autocapitalize="none" spellcheck=${false} value=${link} placeholder="https://…#pair=…"
                    onInput=${(e) => setLink(e.target.value)} /></label>
            <div class="buttons"><button type="submit" class="button primary" disabled=${!link.trim()}>
                <${Icon} name="link" />Go on</button></div>
        </form>
        <p class="faint">A browser that warns about the certificate does not know the box yet:${" "}
            <a href="/hearth-ca.crt" download>certificate</a>, <a href="/hearth-ca.mobileconfig" download>iPhone and iPad</a>.</p>
    </div>`;
}

export function Pair({ hearth, state }) {
    return html`<main class="pair">
        <div class="big-flame"><${Flame} lit=${true} /></div>
        ${state.pairing ? html`<${PairForm} hearth=${hearth} pairing=${state.pairing} person=${state.me?.person} />`
            : html`<${HowTo} hearth=${hearth} hint=${state.hint} />`}
    </main>`;
}
