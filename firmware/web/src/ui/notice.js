// SPDX-License-Identifier: Apache-2.0
// A line that tells what was done or went wrong. A dialog makes the page under it dead, so an open one holds the line.
import { html } from "./html.js";
import { Icon } from "./icons.js";

export function Notice({ hearth, notice }) {
    return html`<div class="notices" role="alert">
        ${notice && html`<div class="notice ${notice.kind}"><span dir="auto">${notice.text}</span>
            <button type="button" class="icon-button" aria-label="Close this notice" onClick=${() => hearth.set({ notice: null })}>
                <${Icon} name="close" /></button></div>`}
    </div>`;
}
