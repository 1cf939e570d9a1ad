// SPDX-License-Identifier: Apache-2.0
// Draws a growing markdown text: blocks that did not change keep their elements (and what is selected in them).
import { Component } from "preact";
import { blocks, renderBlock } from "../markdown.js";
import { html } from "./html.js";

const COPIED_MS = 1600;

/* Puts a bar with the language and a copy button above each code block. */
function dressCode(block) {
    for (const pre of block.querySelectorAll("pre")) {
        const code = pre.querySelector("code");
        const bar = document.createElement("div");
        bar.className = "codebar";
        const language = document.createElement("span");
        language.textContent = code?.className.replace("language-", "") || "text";
        const button = document.createElement("button");
        button.type = "button";
        button.className = "text-button";
        button.textContent = "Copy";
        button.setAttribute("aria-label", "Copy this code");
        button.addEventListener("click", async () => {
            const done = await copyText(pre.textContent);
            button.textContent = done ? "Copied" : "Not possible";
            setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
        });
        bar.append(language, button);
        pre.tabIndex = 0; /* long lines scroll with the keyboard too */
        pre.dir = "ltr";
        pre.setAttribute("role", "region");
        pre.setAttribute("aria-label", "Code");
        const box = document.createElement("div");
        box.className = "codebox";
        pre.replaceWith(box);
        box.append(bar, pre);
    }
}

export async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text.replace(/\n$/, ""));
        return true;
    } catch {
        return false;
    }
}

function wideTables(block) {
    for (const table of block.querySelectorAll("table")) {
        const box = document.createElement("div");
        box.className = "tablebox";
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", "Table");
        table.replaceWith(box);
        box.append(table);
    }
}

export class Markdown extends Component {
    shouldComponentUpdate(next) {
        if (next.text !== this.props.text) this.draw(next.text);
        return false;
    }

    componentDidMount() {
        this.drawn = [];
        this.draw(this.props.text);
    }

    draw(text) {
        const list = blocks(text);
        list.forEach((token, i) => {
            const old = this.drawn[i];
            if (old?.raw === token.raw) return;
            const element = document.createElement("div");
            element.className = "block";
            element.dir = "auto"; /* begins on the side of its own writing */
            element.append(renderBlock(token));
            dressCode(element);
            wideTables(element);
            if (old) old.element.replaceWith(element);
            else this.root.append(element);
            this.drawn[i] = { raw: token.raw, element };
        });
        for (const { element } of this.drawn.splice(list.length)) element.remove();
    }

    render() {
        return html`<div class="markdown" ref=${(e) => (this.root = e)}></div>`;
    }
}
