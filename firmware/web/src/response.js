// SPDX-License-Identifier: Apache-2.0
// One response of the box as its events tell it: the text so far, the last sequence number, how it ended.
// Events may come twice (after a Resume) or with a hole (after a lost connection); apply() says which.

const REASONS = ["unspecified", "max_tokens", "context_full", "cancelled"];

export class Response {
    constructor(id, bytes = null) {
        this.id = id; /* hex */
        this.bytes = bytes; /* the same, as the wire wants it */
        this.resuming = false; /* a Resume is under way */
        this.seq = 0;
        this.text = "";
        this.model = "";
        this.droppedTurns = 0;
        this.promptTokens = 0;
        this.promptDone = 0;
        this.usage = null;
        this.error = null; /* {code, message} */
        this.reason = "";
        this.state = "waiting"; /* waiting reading writing | completed incomplete failed */
    }

    get finished() {
        return this.state === "completed" || this.state === "incomplete" || this.state === "failed";
    }

    /* event -> "applied", "old" (seen before) or "gap" (something is missing: Resume after this.seq) */
    apply(event) {
        const seq = Number(event.seq);
        const { case: name, value } = event.event;
        if (seq <= this.seq) return "old";
        if (seq !== this.seq + 1 && name !== "responseSnapshot") return "gap";
        this.seq = seq;
        this.#take(name, value);
        return "applied";
    }

    #take(name, value) {
        switch (name) {
            case "responseCreated":
                this.model = value.model;
                this.droppedTurns = value.droppedTurns;
                break;
            case "responseInProgress":
                this.state = "reading";
                this.promptTokens = value.promptTokens;
                this.promptDone = value.promptTokensDone;
                break;
            case "outputTextDelta":
                this.state = "writing";
                this.text += value.delta;
                break;
            case "outputTextDone":
                this.text = value.text;
                break;
            case "responseSnapshot":
                this.text = value.text;
                this.state = value.finished ? "completed" : "writing";
                break;
            case "responseCompleted":
                this.#end("completed", value);
                break;
            case "responseIncomplete":
                this.#end("incomplete", value);
                this.reason = REASONS[value.reason] ?? "unspecified";
                break;
            case "responseFailed":
                this.#end("failed", value);
                this.error = value.error ?? { code: 0, message: "" };
                break;
        }
    }

    #end(state, value) {
        this.state = state;
        this.usage = value.usage ?? null;
    }
}
