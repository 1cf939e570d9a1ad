// SPDX-License-Identifier: Apache-2.0
// The page's own line icons, 24 × 24, drawn in the colour of the text around them. They are decoration: the
// control that holds one has the name.
import { html } from "./html.js";

const PATHS = {
    menu: "M4 7h16M4 12h16M4 17h10",
    close: "M6 6l12 12M18 6L6 18",
    plus: "M12 5v14M5 12h14",
    more: "M5.500 12h.01M12 12h.01M18.500 12h.01",
    send: "M12 19V5M5.500 11.500L12 5l6.500 6.500",
    copy: "M9 9h10v11H9zM15 9V4H5v11h4",
    check: "M5 12.500l4.500 4.500L19 7.500",
    trash: "M4.500 7h15M9.500 7V4.500h5V7M6.500 7l1 12.500h9l1-12.500M10 11v5M14 11v5",
    gear: "M4 7h10M18 7h2M4 17h2M10 17h10M16 4.800v4.400M8 14.800v4.400",
    sun: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 " +
        "17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
    moon: "M19.500 14.500A8 8 0 019.500 4.500a8 8 0 1010 10z",
    down: "M12 5v14M5.500 12.500L12 19l6.500-6.500",
    link: "M10 14a4 4 0 005.700 0l3-3A4 4 0 0013 5.300l-1 1M14 10a4 4 0 00-5.700 0l-3 3a4 4 0 005.700 5.700l1-1",
};

export function Icon({ name }) {
    return html`<svg class="icon icon-${name}" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
        <path d=${PATHS[name]} /></svg>`;
}

export function Stop() {
    return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
        <rect class="solid" x="7" y="7" width="10" height="10" rx="2" /></svg>`;
}

const FLAME = "M12.700 2c.7 3.300 2.500 4.800 3.900 6.500 1.300 1.600 2.200 3.300 2.200 5.300 0 4.100-3 6.900-6.800 6.900s-6.800-2.800-6.800-6.700c0-2.400 " +
    "1.200-4.300 2.600-5.800.3 1.500.8 2.400 1.600 3C9.500 7.700 10.400 4.300 12.700 2z";
const HEART = "M12.300 11.600c.3 1.600 2.800 2.600 2.800 5 0 1.800-1.300 3-3.100 3s-3.100-1.200-3.100-2.900c0-1.300.7-2.200 1.500-2.900.2.7.4 1.100.9 1.400 0-1.300.3-2.600 1-3.600z";

/* The flame of the name; lit while the box is writing. */
export function Flame({ lit }) {
    return html`<svg class=${lit ? "flame lit" : "flame"} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
        <path class="outer" d=${FLAME} /><path class="inner" d=${HEART} /></svg>`;
}
