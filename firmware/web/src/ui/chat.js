// SPDX-License-Identifier: Apache-2.0
// The open conversation: its turns, scrolled along while the reader is at the end, or a greeting when it is new.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Composer } from "./composer.js";
import { html } from "./html.js";
import { Flame, Icon } from "./icons.js";
import { Message } from "./message.js";

const NEAR_END_PX = 48;
const IDEAS = [
    "What is the capital of France?",
    "Explain how a hearth warms a room.",
    "Show me how to say hello in Python.",
];

function greeting(hour, person) {
    const name = person ? `, ${person}` : "";
    if (hour < 5) return `Still up${name}?`;
    if (hour < 12) return `Good morning${name}.`;
    return hour < 18 ? `Good afternoon${name}.` : `Good evening${name}.`;
}

function Welcome({ hearth, person }) {
    return html`<div class="welcome">
        <div class="big-flame"><${Flame} lit=${true} /></div>
        <h2>${greeting(new Date().getHours(), person)}</h2>
        <p>The fire is on. What would you like to talk about?</p>
        <div class="ideas">
            ${IDEAS.map((idea) => html`<button type="button" class="idea" onClick=${() => hearth.send(idea)}>${idea}</button>`)}
        </div>
    </div>`;
}

function askDelete(hearth, turn) {
    const question = turn.role === "user";
    hearth.set({
        dialog: {
            kind: "confirm",
            title: question ? "Delete this message?" : "Delete this answer?",
            text: question ? "The message and the answer to it are erased from the box. This cannot be undone."
                : "The answer is erased from the box. This cannot be undone.",
            action: "Delete",
            run: () => hearth.removeTurn(turn.id),
        },
    });
}

export function Chat({ hearth, state }) {
    const scroller = useRef(null);
    const list = useRef(null);
    const [atEnd, setAtEnd] = useState(true);
    const stuck = useRef(true);
    const { turns, current, loading, me, link } = state;

    const toEnd = () => {
        stuck.current = true;
        scroller.current.scrollTop = scroller.current.scrollHeight;
    };
    const onScroll = () => {
        const box = scroller.current;
        stuck.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
        setAtEnd(stuck.current);
    };
    useLayoutEffect(() => {
        if (stuck.current && turns.length) toEnd();
    }, [turns]);
    useEffect(() => {
        if (turns.length) toEnd();
    }, [current, turns.length]);
    /* A turned phone, its keyboard, a growing question: who was at the end stays there. */
    useEffect(() => {
        const watch = new ResizeObserver(() => stuck.current && list.current?.childElementCount && toEnd());
        watch.observe(scroller.current);
        return () => watch.disconnect();
    }, []);

    const empty = turns.length === 0;
    return html`<div class="chat">
        <div class="scroller" ref=${scroller} onScroll=${onScroll}>
            ${empty && !loading && html`<${Welcome} hearth=${hearth} person=${me?.person} />`}
            ${empty && loading && html`<p class="loading">${link.state === "waiting" ? "The box cannot be reached. The conversation comes when it is back."
                : "Fetching the conversation…"}</p>`}
            <div class="turns" ref=${list} role="log" aria-label="Conversation" aria-live="polite">
                ${turns.map((turn, i) => html`<${Message} key=${i} turn=${turn} away=${link.state === "waiting"}
                    onDelete=${(t) => askDelete(hearth, t)} />`)}
            </div>
        </div>
        <div class="dock">
            ${!atEnd && !empty && html`<button type="button" class="to-end" onClick=${toEnd}>
                <${Icon} name="down" />Latest</button>`}
            <${Composer} hearth=${hearth} state=${state} />
        </div>
        <p class="sr-only" role="status">${state.spoken}</p>
    </div>`;
}
