// SPDX-License-Identifier: Apache-2.0
// What the page says: errors of the wire in plain words, figures, days.
import { CODE } from "./wire.js";

const ERRORS = {
    [CODE.UNAUTHENTICATED]: "The box no longer knows this device. Pair it again.",
    [CODE.FORBIDDEN]: "This device may not do that.",
    [CODE.INVALID]: "The box did not understand that.",
    [CODE.NOT_FOUND]: "That is no longer on the box.",
    [CODE.LIMIT]: "That is more than the box takes at once.",
    [CODE.BUSY]: "The box is busy. Try again in a moment.",
    [CODE.CONTEXT]: "This is too long for the model. Start a new conversation or shorten it.",
    [CODE.UNIMPLEMENTED]: "This box cannot do that yet.",
    [CODE.INTERNAL]: "Something went wrong on the box.",
    [CODE.UNAVAILABLE]: "No model is ready on the box right now.",
    [CODE.STORAGE]: "The box could not save that (is its disk full?), so nothing was asked.",
    [CODE.LOST]: "The connection was closed.",
};

export function explain(error) {
    return ERRORS[error?.code] ?? "Something went wrong.";
}

/* In the box's own words, which say more where many things can be wrong: "there is a data set of that name already". */
export function told(error) {
    const text = error?.message ?? "";
    return text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}` : explain(error);
}

export function explainPairing(error) {
    if (error.code === CODE.UNAUTHENTICATED) {
        return "This link has been used already, or its time has run out. Make a new one on the box.";
    }
    if (error.code === CODE.LOST) return "The box could not be reached. Is it on, and on the same network?";
    return explain(error);
}

const ENDINGS = {
    cancelled: "Stopped.",
    max_tokens: "Stopped at the length limit.",
    error: "The box could not finish this answer.",
    context_full: "Stopped: the conversation fills the model's memory. Start a new one to go on.",
};

/* Why an answer ended, when that is worth saying. */
export function ending(reason) {
    return ENDINGS[reason] ?? "";
}

export const number = new Intl.NumberFormat("en");

export function usageLine(usage) {
    const parts = [`${number.format(usage.completionTokens)} token${usage.completionTokens === 1 ? "" : "s"}`];
    if (usage.completionTokens > 1 && usage.completionMs > 0) {
        const rate = ((usage.completionTokens - 1) * 1000) / usage.completionMs;
        parts.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tok/s`);
    }
    return parts.join(" · ");
}

export function usageDetails(usage) {
    const seconds = (ms) => `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
    return [
        ["Question", `${number.format(usage.promptTokens)} tokens, ${number.format(usage.cachedTokens)} remembered`],
        ["First token", seconds(usage.firstTokenMs)],
        ["Writing", seconds(usage.completionMs)],
        ["Seed", String(usage.seed)],
        ["Numerics", usage.numericsId],
    ];
}

export function bytes(n) {
    const size = Number(n);
    return size >= 1 << 30 ? `${(size / (1 << 30)).toFixed(1)} GiB` : `${Math.round(size / (1 << 20))} MiB`;
}

const DAY_MS = 86400000;

/* "Today", "Yesterday", "This week", "Earlier": the headings of the list. */
export function dayGroup(ms, nowMs) {
    const midnight = new Date(nowMs).setHours(0, 0, 0, 0);
    if (ms >= midnight) return "Today";
    if (ms >= midnight - DAY_MS) return "Yesterday";
    return ms >= midnight - 6 * DAY_MS ? "This week" : "Earlier";
}

/* A name for this device from what the browser tells about its platform. */
export function deviceName(navigator) {
    const ua = navigator.userAgent;
    const browser = [["Edg/", "Edge"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["CriOS/", "Chrome"],
        ["Safari/", "Safari"]].find(([mark]) => ua.includes(mark))?.[1] ?? "Browser";
    const device = [["iPhone", "iPhone"], ["iPad", "iPad"], ["Android", "Android"], ["CrOS", "Chromebook"],
        ["Mac OS X", "Mac"], ["Windows", "Windows"], ["Linux", "Linux"]].find(([mark]) => ua.includes(mark))?.[1];
    return device ? `${browser} on ${device}` : browser;
}

/* As TrainStatus.State of the wire has them. */
export const TRAIN = { NONE: 0, STEPPING: 3, STOPPING: 5, STOPPED: 6, DONE: 7, FAILED: 8 };
const TRAINING = ["nothing yet", "waits for the model", "reads", "", "checks what it has learnt", "stops", "stopped", "done", "failed"];

/* How a training goes, in a few words; numbers of the wire may be BigInt. */
export function training(status) {
    const state = status?.state ?? 0;
    const name = status?.adapter ? `${status.adapter}: ` : "";
    if (state !== TRAIN.STEPPING) return (state ? name : "") + (TRAINING[state] ?? "");
    if (!status.nSteps) return `${name}begins`; /* how many steps there are is not known yet */
    const minutes = Math.round(status.etaSeconds / 60);
    const left = status.etaSeconds > 0 ? `, ${minutes < 1 ? "less than a minute" : `${minutes} min`} left` : "";
    return `${name}step ${status.step} of ${status.nSteps}${left}`;
}

/* Of a data set made of conversations; numbers of the wire may be BigInt. */
export function recordsWords(records) {
    const n = Number(records);
    return n === 1 ? "1 conversation" : `${n} conversations`;
}

/* How well: the loss, of what is learnt from and of what was kept aside; less is better. */
export function lossWords(status) {
    const parts = [];
    if (status?.loss > 0) parts.push(`loss ${status.loss.toFixed(3)}`);
    if (status?.heldOut > 0) parts.push(`${status.heldOut.toFixed(3)} on what was kept aside`);
    return parts.join(", ");
}
