// SPDX-License-Identifier: Apache-2.0
// The conversations: a column beside the chat where there is room, a drawer over it on a phone.
import { useEffect, useRef, useState } from "preact/hooks";
import { dayGroup } from "../words.js";
import { html } from "./html.js";
import { Flame, Icon } from "./icons.js";

const WIDE = "(min-width: 820px)";

export function useWide() {
    const [wide, setWide] = useState(() => matchMedia(WIDE).matches);
    useEffect(() => {
        const query = matchMedia(WIDE);
        const update = () => setWide(query.matches);
        query.addEventListener("change", update);
        return () => query.removeEventListener("change", update);
    }, []);
    return wide;
}

function Row({ hearth, head, current }) {
    const title = head.title || "New conversation";
    return html`<li class=${current ? "row current" : "row"}>
        <button type="button" class="row-open" dir="auto" aria-current=${current ? "page" : undefined}
            onClick=${() => hearth.open(head.id)}>${title}</button>
        <button type="button" class="icon-button quiet" aria-label=${`Rename or delete “${title}”`} title="Rename or delete"
            onClick=${() => hearth.set({ dialog: { kind: "conversation", id: head.id } })}><${Icon} name="more" /></button>
    </li>`;
}

function groups(heads, nowMs) {
    const out = [];
    for (const head of heads) {
        const name = dayGroup(head.updated, nowMs);
        if (out[out.length - 1]?.name !== name) out.push({ name, heads: [] });
        out[out.length - 1].heads.push(head);
    }
    return out;
}

export function Drawer({ hearth, state }) {
    const wide = useWide();
    const first = useRef(null);
    const open = wide || state.drawer;
    useEffect(() => {
        if (!wide && state.drawer) first.current.focus();
    }, [wide, state.drawer]);
    const close = () => {
        hearth.set({ drawer: false });
        document.getElementById("menu")?.focus();
    };
    return html`
        ${!wide && state.drawer && html`<div class="backdrop" onClick=${close}></div>`}
        <nav id="drawer" class=${open ? "drawer open" : "drawer"} inert=${!open} aria-label="Conversations"
            onKeyDown=${(e) => e.key === "Escape" && !wide && close()}>
            <div class="drawer-head">
                <span class="brand"><${Flame} />Hearth</span>
                ${!wide && html`<button type="button" class="icon-button" aria-label="Close the list" onClick=${close}>
                    <${Icon} name="close" /></button>`}
            </div>
            <button type="button" class="new" ref=${first} onClick=${() => hearth.newConversation()}>
                <${Icon} name="plus" />New conversation</button>
            <div class="list">
                ${groups(state.heads, Date.now()).map((group) => html`<section key=${group.name}>
                    <h2>${group.name}</h2>
                    <ul>${group.heads.map((head) => html`<${Row} key=${head.id} hearth=${hearth} head=${head}
                        current=${head.id === state.current} />`)}</ul>
                </section>`)}
                ${state.heads.length === 0 && html`<p class="empty">${state.listed ? "Nothing said yet." : state.link.state === "waiting"
                    ? "The box cannot be reached. What was said is there when it is back." : "Asking the box…"}</p>`}
                ${state.more && html`<button type="button" class="text-button wide" onClick=${() => hearth.loadMore()}>Show older ones</button>`}
            </div>
            <div class="drawer-foot">
                <button type="button" class="foot-button" onClick=${() => hearth.set({ dialog: { kind: "settings" }, drawer: false })}>
                    <${Icon} name="gear" /><span>Settings</span><span class="who">${state.me?.person ?? ""}</span></button>
            </div>
        </nav>`;
}
