// SPDX-License-Identifier: Apache-2.0
// A model's text is not trusted: markdown becomes HTML through marked, raw HTML in it stays visible text, and
// DOMPurify lets only the few elements below through. Nothing in it is fetched: pictures become their description.
import DOMPurify from "dompurify";
import { Marked } from "marked";

const TAGS = ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del", "code", "pre", "blockquote",
    "ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"];
const ATTRIBUTES = ["href", "class", "start", "align"];
const LANGUAGE = /^language-[\w+#.-]{1,32}$/;
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

const escapeHtml = (text) => text.replace(/[&<>"']/g, (c) => ESCAPES[c]);

const marked = new Marked({
    gfm: true,
    breaks: true,
    renderer: {
        html: ({ text }) => escapeHtml(text),
        image: ({ text, href }) => `[picture: ${escapeHtml(text || href)}]`,
        checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    },
});

const purify = DOMPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
    if (node.hasAttribute("class") && !(node.tagName === "CODE" && LANGUAGE.test(node.className))) {
        node.removeAttribute("class");
    }
    if (node.tagName === "A" && node.hasAttribute("href")) {
        node.setAttribute("target", "_blank");
        node.setAttribute("rel", "noopener noreferrer");
    }
});

/* Top-level blocks of a text, each {raw, token}: while an answer grows, only its last block changes. */
export function blocks(text) {
    return marked.lexer(text).filter((token) => token.type !== "space");
}

/* One block -> a clean DocumentFragment. */
export function renderBlock(token) {
    return purify.sanitize(marked.parser([token]), {
        ALLOWED_TAGS: TAGS,
        ALLOWED_ATTR: ATTRIBUTES,
        ALLOW_DATA_ATTR: false,
        ALLOW_ARIA_ATTR: false,
        ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
        RETURN_DOM_FRAGMENT: true,
    });
}
