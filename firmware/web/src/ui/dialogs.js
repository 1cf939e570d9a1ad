// SPDX-License-Identifier: Apache-2.0
// Dialogs over the page. The browser's own <dialog> keeps the focus inside and gives it back.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { Icon } from "./icons.js";
import { Notice } from "./notice.js";
import { Settings } from "./settings.js";

function Modal({ hearth, title, onClose, children, wide }) {
    const dialog = useRef(null);
    // With the first paint, so that no key pressed meanwhile misses the dialog.
    useLayoutEffect(() => {
        dialog.current.showModal();
        return () => dialog.current?.close();
    }, []);
    return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-labelledby="dialog-title" onClose=${onClose}
        onClick=${(e) => e.target === dialog.current && onClose()}>
        <div class="sheet">
            <header><h2 id="dialog-title">${title}</h2>
                <button type="button" class="icon-button" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>
            </header>
            ${children}
        </div>
        <${Notice} hearth=${hearth} notice=${hearth.state.notice} />
    </dialog>`;
}

function Confirm({ hearth, dialog, onClose }) {
    /* Where it goes back to another dialog, that one shows what was done. */
    const run = async () => {
        if (dialog.back) await dialog.run();
        onClose();
        if (!dialog.back) dialog.run();
    };
    return html`<${Modal} hearth=${hearth} title=${dialog.title} onClose=${onClose}>
        <p dir="auto">${dialog.text}</p>
        <div class="buttons">
            <button type="button" class="button" autofocus onClick=${onClose}>Cancel</button>
            <button type="button" class="button danger" onClick=${run}>${dialog.action}</button>
        </div>
    <//>`;
}

function Conversation({ hearth, state, dialog, onClose }) {
    const old = state.heads.find((h) => h.id === dialog.id)?.title ?? "";
    const [title, setTitle] = useState(old);
    const save = (event) => {
        event.preventDefault();
        onClose();
        if (title.trim() !== old) hearth.rename(dialog.id, title);
    };
    const remove = () => hearth.set({
        dialog: {
            kind: "confirm",
            title: "Delete this conversation?",
            text: `“${old || "New conversation"}” is erased from the box, with everything said in it. This cannot be undone.`,
            action: "Delete",
            run: () => hearth.removeConversation(dialog.id),
        },
    });
    return html`<${Modal} hearth=${hearth} title="Conversation" onClose=${onClose}>
        <form onSubmit=${save}>
            <label class="labelled">Name
                <input type="text" dir="auto" value=${title} maxlength="200" autofocus required onInput=${(e) => setTitle(e.target.value)} />
            </label>
            <div class="buttons">
                <button type="button" class="button danger-text" onClick=${remove}><${Icon} name="trash" />Delete</button>
                <button type="submit" class="button primary" disabled=${!title.trim()}>Save name</button>
            </div>
        </form>
    <//>`;
}

export function Dialogs({ hearth, state }) {
    const { dialog } = state;
    if (!dialog) return null;
    const onClose = () => hearth.state.dialog === dialog && hearth.set({ dialog: dialog.back ?? null });
    if (dialog.kind === "settings") {
        return html`<${Modal} key="settings" hearth=${hearth} title="Settings" wide onClose=${onClose}><${Settings} hearth=${hearth} state=${state} /><//>`;
    }
    const View = dialog.kind === "confirm" ? Confirm : Conversation;
    return html`<${View} key=${dialog.kind} hearth=${hearth} state=${state} dialog=${dialog} onClose=${onClose} />`;
}
