// SPDX-License-Identifier: Apache-2.0
// Brings the page's markdown renderer into a test page: show(text) draws it and gives its container.
import { blocks, renderBlock } from "../../firmware/web/src/markdown.js";

globalThis.show = (text) => {
    const main = document.querySelector("main");
    main.replaceChildren(...blocks(text).map(renderBlock));
    return main;
};
