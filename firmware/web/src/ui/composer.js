// SPDX-License-Identifier: Apache-2.0
// Where the person writes. With a keyboard Enter sends and Shift+Enter breaks the line; on a phone Enter breaks
// the line and the button sends. While an answer is written the button stops it.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { utf8Length } from "../bytes.js";
import { MAX_TEXT_BYTES } from "../hearth.js";
import { html } from "./html.js";
import { Icon, Stop } from "./icons.js";

const MAX_HEIGHT_PX = 220;
const onPhone = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

function grow(area) {
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, MAX_HEIGHT_PX)}px`;
    area.style.overflowY = area.scrollHeight > MAX_HEIGHT_PX ? "auto" : "hidden";
}

export function Composer({ hearth, state }) {
    const area = useRef(null);
    const [text, setText] = useState("");
    const busy = hearth.busyTurn;
    const tooLong = text.length > MAX_TEXT_BYTES / 4 && utf8Length(text) > MAX_TEXT_BYTES;
    const ready = text.trim() !== "" && !busy && !tooLong;

    useLayoutEffect(() => grow(area.current), [text]);
    useEffect(() => {
        const again = () => grow(area.current);
        addEventListener("resize", again);
        return () => removeEventListener("resize", again);
    }, []);
    useEffect(() => {
        if (!onPhone()) area.current.focus();
    }, [state.current]);
    useEffect(() => {
        if (!state.draft) return;
        setText(state.draft);
        hearth.set({ draft: "" });
    }, [state.draft]);

    const send = (event) => {
        event?.preventDefault();
        if (!ready) return;
        setText("");
        hearth.send(text.trim());
        if (!onPhone()) area.current.focus();
    };
    const onKeyDown = (event) => {
        if (event.key === "Escape" && busy) hearth.stopAnswer();
        if (event.key !== "Enter" || event.shiftKey || event.isComposing || onPhone()) return;
        event.preventDefault();
        send();
    };
    return html`<form class="composer" onSubmit=${send}>
        <div class="field">
            <label class="sr-only" for="say">Message to Hearth</label>
            <textarea id="say" dir="auto" ref=${area} rows="1" value=${text} placeholder="Ask anything" autocomplete="off"
                enterkeyhint=${onPhone() ? "enter" : "send"} aria-describedby="say-hint"
                onInput=${(e) => setText(e.target.value)} onKeyDown=${onKeyDown}></textarea>
            ${busy
                ? html`<button type="button" class="round stop" onClick=${() => hearth.stopAnswer()}
                    disabled=${!busy.responseId} aria-label="Stop the answer" title="Stop (Esc)"><${Stop} /></button>`
                : html`<button type="submit" class="round" disabled=${!ready} aria-label="Send" title="Send"><${Icon} name="send" /></button>`}
        </div>
        <p class="hint" id="say-hint">${tooLong ? "This is longer than the box takes (256 KiB)."
            : "What is said here stays on this box. Small models make things up: check what matters."}</p>
    </form>`;
}
