// SPDX-License-Identifier: Apache-2.0
// What the page keeps on this device: the device token, in IndexedDB, and the choice of light or dark, which
// must be known before the first paint and is no secret, in localStorage.

const DB = "hearth";
const TABLE = "keep";

function open() {
    return new Promise((resolve, reject) => {
        const request = indexedDB.open(DB, 1);
        request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}

async function inTable(mode, use) {
    const db = await open();
    try {
        return await new Promise((resolve, reject) => {
            const transaction = db.transaction(TABLE, mode);
            const request = use(transaction.objectStore(TABLE));
            transaction.oncomplete = () => resolve(request.result);
            transaction.onabort = transaction.onerror = () => reject(transaction.error);
        });
    } finally {
        db.close();
    }
}

export const loadToken = () => inTable("readonly", (table) => table.get("token"));
export const saveToken = (token) => inTable("readwrite", (table) => table.put(token, "token"));
export const forgetToken = () => inTable("readwrite", (table) => table.delete("token"));

const THEMES = ["auto", "light", "dark"];

export function loadTheme() {
    try {
        const theme = localStorage.getItem("theme");
        return THEMES.includes(theme) ? theme : "auto";
    } catch {
        return "auto"; /* the browser keeps nothing for this page */
    }
}

export function applyTheme(theme) {
    document.documentElement.dataset.theme = theme;
    try {
        localStorage.setItem("theme", theme);
    } catch {
        /* then it holds until the page closes */
    }
}
