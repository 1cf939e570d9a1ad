// SPDX-License-Identifier: Apache-2.0
// The page's state and everything that changes it. The views read `state` and call methods; `changed` redraws.
// Ids are hex strings here and bytes on the wire.
import { clipUtf8, fromHex, pairingSecret, toHex } from "./bytes.js";
import { forgetToken, loadChoice, loadToken, saveChoice, saveToken } from "./store.js";
import { CODE, Wire } from "./wire.js";
import { deviceName, ending, explain, explainPairing, told } from "./words.js";

const CLIENT = "hearth-web 0.1";
const NOTICE_MS = 7000;
/* Of so few nothing is kept aside to see how well they were learnt. */
const FEW_CONVERSATIONS = 20;
const HELD_OUT = 0.05;
const MAX_NAME_BYTES = 64;
const MAX_TITLE_BYTES = 200;
export const MAX_TEXT_BYTES = 256 << 10;
const OVERFLOW_DROP_OLD = 1; /* told in the conversation, see droppedNote */
/* The likeliest token each time; the penalty keeps small models from going round in circles. */
const STEADY = { temperature: { value: 0 }, repeatPenalty: { value: 1.05 } };
const ROLES = ["", "system", "user", "assistant"];
const PHASES = { completed: "done", incomplete: "done", failed: "failed" };

function headOf(head) {
    return {
        id: toHex(head.conversationId),
        title: head.title,
        updated: Number(head.updatedMs),
    };
}

/* gone: ids of responses that the box no longer follows, though their turns never ended (it was switched off). */
function turnOf(turn, gone) {
    const role = ROLES[turn.role] ?? "";
    const responseId = toHex(turn.responseId);
    const open = role === "assistant" && !turn.finished;
    const writing = open && responseId && !gone.has(responseId);
    const reason = open ? "error" : turn.usage?.stopReason;
    return {
        id: toHex(turn.turnId),
        role,
        text: writing ? "" : turn.text,
        responseId,
        responseBytes: turn.responseId,
        phase: writing ? "waiting" : reason === "error" ? "failed" : "done",
        usage: turn.usage ?? null,
        note: writing ? "" : ending(reason),
    };
}

function droppedNote(n) {
    if (!n) return "";
    return n === 1 ? "The oldest message did not fit and was left out."
        : `The ${n} oldest messages did not fit and were left out.`;
}

export class Hearth {
    constructor(codec, changed) {
        this.changed = changed;
        this.view = 0; /* counts what is shown, so that late replies for something else are dropped */
        this.gone = new Set();
        this.tabs = new BroadcastChannel("hearth");
        const scheme = location.protocol === "https:" ? "wss:" : "ws:";
        this.wire = new Wire({
            url: `${scheme}//${location.host}/ws`,
            codec,
            client: CLIENT,
            events: {
                state: (link) => this.set({ link }),
                welcome: (welcome) => this.#welcome(welcome),
                paired: (token) => this.#paired(token),
                refused: (error) => this.#refused(error),
                response: (response) => this.#answer(response),
                gone: (response) => {
                    this.gone.add(response.id);
                    this.#reload();
                },
            },
        });
        this.state = {
            phase: "loading", /* loading unpaired ready */
            link: { state: "idle", retryMs: 0 },
            pairing: null, /* {secret, name, busy, error} while a pairing link is open */
            hint: "", /* why the page is not paired any more */
            me: null, /* {person, scopes, server} */
            heads: [],
            listed: false, /* heads are what the box has */
            more: false,
            current: null, /* conversation id; null = a new one */
            loading: false,
            turns: [],
            drawer: false,
            dialog: null,
            notice: null,
            spoken: "", /* for screen readers */
            draft: "", /* text to put back into the composer */
            theme: loadChoice("theme"),
            answers: loadChoice("answers"), /* varied: as the box samples; steady: always the likeliest word */
        };
    }

    set(change) {
        Object.assign(this.state, change);
        this.changed();
    }

    get busyTurn() {
        return this.state.turns.find((t) => ["sending", "waiting", "reading", "writing"].includes(t.phase));
    }

    get title() {
        return this.state.heads.find((h) => h.id === this.state.current)?.title ?? "";
    }

    async start() {
        document.documentElement.dataset.theme = this.state.theme;
        this.#takeAddress();
        addEventListener("hashchange", () => this.#takeAddress());
        addEventListener("online", () => this.wire.nudge());
        document.addEventListener("visibilitychange", () => document.hidden || this.#seen());
        this.tabs.onmessage = () => this.#signedOut(); /* in another tab */
        let token = null;
        try {
            token = await loadToken();
        } catch {
            this.set({ hint: "This browser keeps nothing for this page (a private window?), so pairing will not last." });
        }
        this.set({ phase: token ? "ready" : "unpaired" });
        if (token) this.wire.start(token);
    }

    /* ---- address: #pair=… once, then #/c/<conversation> */

    #takeAddress() {
        const hash = location.hash;
        if (/[#&]pair=/.test(hash)) {
            history.replaceState(null, "", location.pathname);
            this.openPairing(hash);
            return;
        }
        const id = /^#\/c\/([0-9a-f]{32})$/.exec(hash)?.[1] ?? null;
        if (id !== this.state.current) this.#show(id);
    }

    #address(id, replace) {
        const url = id ? `#/c/${id}` : location.pathname;
        if (replace) history.replaceState(null, "", url);
        else history.pushState(null, "", url);
    }

    /* ---- pairing */

    openPairing(text) {
        const secret = pairingSecret(text);
        const error = secret ? "" : "This is not a whole pairing link. Copy all of it.";
        this.set({ pairing: { secret, name: deviceName(navigator), busy: false, error } });
    }

    closePairing() {
        this.set({ pairing: null });
    }

    pair(name) {
        const { secret } = this.state.pairing;
        const clean = clipUtf8(name.trim(), MAX_NAME_BYTES) || deviceName(navigator);
        this.set({ pairing: { secret, name: clean, busy: true, error: "" } });
        this.wire.pair(secret, clean);
    }

    async #paired(token) {
        this.set({ pairing: null, phase: "ready", hint: "", heads: [], listed: false });
        this.newConversation();
        try {
            await saveToken(token);
        } catch {
            this.notify("This browser could not keep the pairing: it ends when the page is closed.");
        }
    }

    async #refused(error) {
        if (this.state.pairing) {
            this.set({ pairing: { ...this.state.pairing, busy: false, error: explainPairing(error) } });
            const token = await loadToken().catch(() => null);
            if (token) this.wire.start(token); /* the old pairing still holds */
            return;
        }
        await forgetToken().catch(() => null);
        this.#leave("The box no longer knows this device. Pair it again to go on.");
    }

    async signOut() {
        await forgetToken().catch(() => null);
        this.tabs.postMessage("signed out");
        this.#signedOut();
    }

    #signedOut() {
        this.wire.stop();
        this.#leave("");
    }

    /* The tab is looked at again: another one, or another device, may have gone on meanwhile. */
    #seen() {
        this.wire.nudge();
        if (this.wire.state !== "online") return;
        this.refreshList();
        if (!this.busyTurn) this.#reload();
    }

    #leave(hint) {
        this.view++;
        this.#address(null, true);
        this.set({
            phase: "unpaired", hint, me: null, heads: [], listed: false, more: false, current: null, turns: [], dialog: null,
            drawer: false, notice: null, draft: "",
        });
    }

    #welcome(welcome) {
        const first = !this.state.me;
        this.set({ me: { person: welcome.person, scopes: welcome.scopes, server: welcome.server } });
        this.refreshList();
        if (first || !this.busyTurn) this.#reload();
    }

    /* ---- conversations */

    async refreshList() {
        const reply = await this.#ask("listConversations", { limit: 50 });
        if (!reply) return;
        this.set({ heads: reply.conversations.map(headOf), listed: true, more: reply.more });
    }

    async loadMore() {
        const { heads } = this.state;
        const reply = await this.#ask("listConversations", {
            limit: 50, beforeMs: BigInt(heads[heads.length - 1]?.updated ?? 0),
        });
        if (!reply) return;
        const known = new Set(heads.map((h) => h.id));
        const older = reply.conversations.map(headOf).filter((h) => !known.has(h.id));
        this.set({ heads: [...heads, ...older], more: reply.more && older.length > 0 });
    }

    newConversation() {
        this.#address(null, !this.state.current);
        this.#show(null);
    }

    open(id) {
        if (id !== this.state.current) this.#address(id, false);
        this.#show(id);
    }

    #show(id) {
        this.view++;
        this.set({ current: id, turns: [], drawer: false, loading: Boolean(id), spoken: "" });
        if (id) this.#reload();
    }

    /* Fetches the open conversation (again) and follows an answer that is still being written. */
    async #reload() {
        const { current } = this.state;
        if (!current || this.wire.state !== "online") return;
        const view = this.view;
        const reply = await this.#ask("getConversation", { conversationId: fromHex(current) }, (error) => {
            if (error.code === CODE.NOT_FOUND && view === this.view) {
                this.#address(null, true);
                this.#show(null);
                return "This conversation is no longer on the box.";
            }
            return explain(error);
        });
        if (!reply || view !== this.view) return;
        const turns = reply.turns.map((t) => turnOf(t, this.gone)).filter((t) => t.role && t.role !== "system");
        this.set({ turns, loading: false });
        for (const turn of turns) {
            if (turn.phase === "waiting") this.#answer(this.wire.follow(turn.responseId, turn.responseBytes));
        }
    }

    async rename(id, title) {
        const clean = clipUtf8(title.trim(), MAX_TITLE_BYTES);
        if (!clean) return;
        const done = await this.#ask("renameConversation", { conversationId: fromHex(id), title: clean });
        if (!done) return;
        this.set({ heads: this.state.heads.map((h) => (h.id === id ? { ...h, title: clean } : h)) });
        this.refreshList();
    }

    async removeConversation(id) {
        const done = await this.#ask("deleteConversation", { conversationId: fromHex(id) });
        if (!done) return;
        this.set({ heads: this.state.heads.filter((h) => h.id !== id) });
        if (this.state.current === id) {
            this.#address(null, true);
            this.#show(null);
        }
        this.notify("The conversation was deleted.");
    }

    async removeTurn(id) {
        const done = await this.#ask("deleteTurn", { turnId: fromHex(id) });
        if (!done) return;
        await this.#reload();
        this.refreshList();
        this.notify("Deleted.");
    }

    /* ---- asking */

    async send(text) {
        if (this.busyTurn) return;
        const view = this.view;
        const { current, turns } = this.state;
        const question = { id: "", role: "user", text, phase: "done" };
        const answer = { id: "", role: "assistant", text: "", phase: "sending", usage: null, note: "" };
        this.set({ turns: [...turns, question, answer], notice: null, spoken: "" });
        try {
            const { accepted, response } = await this.wire.chat({
                conversationId: current ? fromHex(current) : new Uint8Array(),
                text,
                sampling: this.state.answers === "steady" ? STEADY : undefined,
                overflow: OVERFLOW_DROP_OLD,
            });
            if (view === this.view) this.#accepted(accepted, question, answer, response);
            if (!current) this.refreshList();
        } catch (error) {
            if (view === this.view) this.set({ turns, draft: text });
            this.notify(explain(error), "error");
        }
    }

    #accepted(accepted, question, answer, response) {
        const id = toHex(accepted.conversationId);
        const turns = this.state.turns.map((t) => {
            if (t === question) return { ...t, id: toHex(accepted.userTurnId) };
            if (t !== answer) return t;
            return { ...t, id: toHex(accepted.assistantTurnId), responseId: response.id, phase: "waiting" };
        });
        if (this.state.current !== id) this.#address(id, true);
        this.set({ turns, current: id, spoken: "Hearth is answering." });
        this.#answer(response);
    }

    async stopAnswer() {
        const turn = this.busyTurn;
        if (!turn?.responseId) return;
        await this.#ask("cancel", { responseId: fromHex(turn.responseId) });
    }

    /* A response changed: redraw its turn if it is on the page. */
    #answer(response) {
        const turns = this.state.turns.map((t) => {
            if (t.responseId !== response.id || t.role !== "assistant") return t;
            const why = response.error ? explain(response.error) : ending(response.reason);
            return {
                ...t,
                text: response.text,
                phase: PHASES[response.state] ?? response.state,
                usage: response.usage ?? t.usage,
                note: [droppedNote(response.droppedTurns), why].filter(Boolean).join(" "),
                prompt: { total: response.promptTokens, done: response.promptDone },
            };
        });
        this.set({ turns });
        if (!response.finished) return;
        this.set({ spoken: "The answer is complete." });
        this.refreshList();
        if (!response.usage) this.#reload();
    }

    /* ---- the box */

    getStatus() {
        return this.#ask("getStatus");
    }

    listModels() {
        return this.#ask("listModels");
    }

    listAdapters() {
        return this.#ask("listAdapters");
    }

    useAdapter(name) {
        return this.#ask("useAdapter", { name });
    }

    /* The person's own conversations, as they are now, into a data set; then a training on it. */
    async learn(name) {
        const dataSet = `${name}-conversations`;
        if (!await this.#ask("importConversations", { dataSet }, told)) return null;
        const sets = (await this.#ask("listDataSets"))?.dataSets ?? [];
        const records = Number(sets.find((s) => s.name === dataSet)?.records ?? 0);
        return this.#ask("trainStart", {
            dataSet,
            adapter: name,
            heldOut: { value: records < FEW_CONVERSATIONS ? 0 : HELD_OUT },
        }, told);
    }

    /* One that was stopped, or could not go on: it has all it needs. */
    learnOn(adapter) {
        return this.#ask("trainStart", { adapter }, told);
    }

    stopLearning(adapter, discard = false) {
        return this.#ask("trainStop", { adapter, discard });
    }

    listDataSets() {
        return this.#ask("listDataSets");
    }

    deleteDataSet(name) {
        return this.#ask("deleteDataSet", { name });
    }

    useModel(name) {
        return this.#ask("useModel", { name });
    }

    setTheme(theme) {
        document.documentElement.dataset.theme = theme;
        saveChoice("theme", theme);
        this.set({ theme });
    }

    setAnswers(answers) {
        saveChoice("answers", answers);
        this.set({ answers });
    }

    notify(text, kind = "info") {
        const notice = { text, kind };
        this.set({ notice });
        setTimeout(() => this.state.notice === notice && this.set({ notice: null }), NOTICE_MS);
    }

    /* A request whose failure is shown; resolves with the reply's value, or null after a failure. */
    async #ask(name, value, words = explain) {
        try {
            return (await this.wire.request(name, value)).value;
        } catch (error) {
            if (error.code !== CODE.LOST) this.notify(words(error), "error");
            return null;
        }
    }
}
