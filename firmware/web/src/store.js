// SPDX-License-Identifier: Apache-2.0
// What the page keeps on this device: the device token, in IndexedDB, and choices that are no secret, in
// localStorage (light or dark must be known before the first paint).

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

/* The first value of each is the default. */
const CHOICES = { theme: ["auto", "light", "dark"], answers: ["varied", "steady"] };

export function loadChoice(name) {
    try {
        const value = localStorage.getItem(name);
        return CHOICES[name].includes(value) ? value : CHOICES[name][0];
    } catch {
        return CHOICES[name][0]; /* the browser keeps nothing for this page */
    }
}

export function saveChoice(name, value) {
    try {
        localStorage.setItem(name, value);
    } catch {
        /* then it holds until the page closes */
    }
}
