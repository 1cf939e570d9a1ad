// SPDX-License-Identifier: Apache-2.0
// One turn of a conversation: what the person said, or the box's answer with its state, usage and actions.
import { Component } from "preact";
import { useState } from "preact/hooks";
import { usageDetails, usageLine } from "../words.js";
import { html } from "./html.js";
import { Flame, Icon } from "./icons.js";
import { Markdown, copyText } from "./markdown.js";

const COPIED_MS = 1600;
const LONG_PROMPT = 256; /* tokens from which on the reading is worth a figure */

function waitingWords(turn, away) {
    if (turn.phase === "sending") return away ? "Sent when the box can be reached" : "Sending";
    if (turn.phase !== "reading") return "Thinking";
    const { total, done } = turn.prompt;
    return total >= LONG_PROMPT ? `Reading, ${Math.floor((100 * done) / total)} %` : "Thinking";
}

function Copy({ text }) {
    const [copied, setCopied] = useState(false);
    const copy = async () => {
        if (!(await copyText(text))) return;
        setCopied(true);
        setTimeout(() => setCopied(false), COPIED_MS);
    };
    return html`<button type="button" class="icon-button quiet" onClick=${copy}
        aria-label=${copied ? "Copied" : "Copy this text"} title="Copy"><${Icon} name=${copied ? "check" : "copy"} /></button>`;
}

function Actions({ turn, onDelete }) {
    return html`<div class="actions">
        ${turn.text && html`<${Copy} text=${turn.text} />`}
        ${turn.id && html`<button type="button" class="icon-button quiet" onClick=${() => onDelete(turn)}
            aria-label=${turn.role === "user" ? "Delete this message and its answer" : "Delete this answer"}
            title="Delete"><${Icon} name="trash" /></button>`}
    </div>`;
}

function UsageLine({ usage }) {
    if (!usage || !usage.completionTokens) return null;
    return html`<details class="usage">
        <summary>${usageLine(usage)}</summary>
        <dl>${usageDetails(usage).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    </details>`;
}

function Answer({ turn, away, onDelete }) {
    const writing = turn.phase === "writing";
    const waiting = ["sending", "waiting", "reading"].includes(turn.phase);
    return html`<article class="turn answer" aria-label="Hearth's answer" aria-busy=${writing || waiting ? "true" : "false"}>
        <div class="avatar"><${Flame} lit=${writing || waiting} /></div>
        <div class="body ${writing ? "writing" : ""}">
            ${waiting && html`<p class="thinking">${waitingWords(turn, away)}<span class="dots" aria-hidden="true"><i></i><i></i><i></i></span></p>`}
            ${turn.text && html`<${Markdown} text=${turn.text} />`}
            ${turn.note && html`<p class="note ${turn.phase === "failed" ? "bad" : ""}">${turn.note}</p>`}
            ${!writing && !waiting && html`<div class="foot">
                <${UsageLine} usage=${turn.usage} /><${Actions} turn=${turn} onDelete=${onDelete} />
            </div>`}
        </div>
    </article>`;
}

function Question({ turn, onDelete }) {
    return html`<article class="turn question" aria-label="You said">
        <div class="bubble" dir="auto">${turn.text}</div>
        <${Actions} turn=${turn} onDelete=${onDelete} />
    </article>`;
}

/* Turns are replaced, never changed, so an equal turn needs no drawing. */
export class Message extends Component {
    shouldComponentUpdate(next) {
        return next.turn !== this.props.turn || next.away !== this.props.away;
    }

    render({ turn, away, onDelete }) {
        const View = turn.role === "user" ? Question : Answer;
        return html`<${View} turn=${turn} away=${away} onDelete=${onDelete} />`;
    }
}
