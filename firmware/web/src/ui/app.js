// SPDX-License-Identifier: Apache-2.0
// The frame of the page: pairing before anything else, then drawer, header, chat, dialogs and notices.
import { useEffect } from "preact/hooks";
import { Chat } from "./chat.js";
import { Dialogs } from "./dialogs.js";
import { Drawer } from "./drawer.js";
import { html } from "./html.js";
import { Icon } from "./icons.js";
import { Notice } from "./notice.js";
import { Pair } from "./pair.js";

const LINK_WORDS = { idle: "Not connected", connecting: "Connecting…", online: "Connected", waiting: "No connection" };

function Link({ hearth, link }) {
    const words = LINK_WORDS[link.state];
    return html`<div class="link ${link.state}"><span class="state" role="status"><i aria-hidden="true"></i><span>${words}</span></span>
        ${link.state === "waiting" && html`<button type="button" class="text-button" onClick=${() => hearth.wire.nudge()}>Try now</button>`}</div>`;
}

function isDark(theme) {
    return theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
}

function Header({ hearth, state }) {
    const dark = isDark(state.theme);
    return html`<header class="top">
        <button type="button" id="menu" class="icon-button only-narrow" aria-label="Conversations" aria-expanded=${state.drawer ? "true" : "false"}
            aria-controls="drawer" onClick=${() => hearth.set({ drawer: true })}><${Icon} name="menu" /></button>
        <h1 dir="auto">${state.current ? hearth.title || "New conversation" : "New conversation"}</h1>
        <${Link} hearth=${hearth} link=${state.link} />
        <button type="button" class="icon-button" aria-label=${dark ? "Switch to light" : "Switch to dark"} title="Light or dark"
            onClick=${() => hearth.setTheme(dark ? "light" : "dark")}><${Icon} name=${dark ? "sun" : "moon"} /></button>
        ${state.current && html`<button type="button" class="icon-button" aria-label="Rename or delete this conversation"
            title="Rename or delete" onClick=${() => hearth.set({ dialog: { kind: "conversation", id: state.current } })}>
            <${Icon} name="more" /></button>`}
    </header>`;
}

export function App({ hearth, state }) {
    useEffect(() => {
        const title = state.current && hearth.title;
        document.title = title ? `${title} · Hearth` : "Hearth";
    });
    if (state.phase === "loading") return null;
    if (state.phase === "unpaired" || state.pairing) return html`<${Pair} hearth=${hearth} state=${state} />`;
    return html`<div class="frame">
        <a class="skip" href="#say" onClick=${(e) => {
            e.preventDefault();
            document.getElementById("say").focus();
        }}>To the message field</a>
        <${Drawer} hearth=${hearth} state=${state} />
        <main class="main">
            <${Header} hearth=${hearth} state=${state} />
            <${Chat} hearth=${hearth} state=${state} />
        </main>
        <${Dialogs} hearth=${hearth} state=${state} />
        ${!state.dialog && html`<${Notice} hearth=${hearth} notice=${state.notice} />`}
    </div>`;
}
