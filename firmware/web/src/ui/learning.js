// SPDX-License-Identifier: Apache-2.0
// In the settings of who may train: one's own conversations become an adapter. How it goes on, stopping it, using it;
// deleting the copies of conversations that it was learnt from.
import { useState } from "preact/hooks";
import { lossWords, recordsWords, TRAIN, training } from "../words.js";
import { html } from "./html.js";

/* With "-conversations" behind it, the copy's name, it has 64 letters at most. */
const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,49}";

function Form({ hearth, onChanged }) {
    const [name, setName] = useState("");
    const [busy, setBusy] = useState(false);
    const begin = async (event) => {
        event.preventDefault();
        setBusy(true);
        if (await hearth.learn(name)) setName("");
        setBusy(false);
        onChanged();
    };
    return html`<form onSubmit=${begin}>
        <p>The box can learn from your conversations with it: how you like to be answered. What it learns is yours alone,
            and goes when you delete any of them.</p>
        <label class="labelled">Learn from
            <select><option>my conversations</option></select>
        </label>
        <label class="labelled">Name
            <input required pattern=${NAME} maxlength="50" autocapitalize="none" autocomplete="off" spellcheck=${false}
                value=${name} onInput=${(event) => setName(event.target.value)}
                title="Letters, digits, dot, hyphen and underscore" />
        </label>
        <div class="buttons start"><button class="button primary" disabled=${busy}>Start</button></div>
    </form>`;
}

function Progress({ hearth, status, onChanged }) {
    const done = status.nSteps ? Number(status.step) / Number(status.nSteps) : 0;
    const stop = async () => {
        await hearth.stopLearning(status.adapter);
        onChanged();
    };
    return html`<label class="labelled">${training(status)}
            <progress max="1" value=${done}></progress>
        </label>
        <p class="faint">${lossWords(status)}</p>
        <div class="buttons start">
            <button type="button" class="button" disabled=${status.state === TRAIN.STOPPING} onClick=${stop}>Stop</button>
        </div>`;
}

/* What became of the last one. */
function Outcome({ hearth, status, adapters, onChanged }) {
    const run = (act) => async () => {
        await act();
        onChanged();
    };
    if (!status.adapter) return null;
    const adapter = adapters.find((a) => a.name === status.adapter);
    const goesOn = status.state === TRAIN.STOPPED || status.state === TRAIN.FAILED;
    return html`<p role="status">${training(status)}${status.state === TRAIN.DONE ? `. ${lossWords(status)}` : ""}</p>
        <div class="buttons start">
            ${goesOn && html`<button type="button" class="button" onClick=${run(() => hearth.learnOn(status.adapter))}>Go on</button>
                <button type="button" class="button danger-text"
                    onClick=${run(() => hearth.stopLearning(status.adapter, true))}>Discard</button>`}
            ${status.state === TRAIN.DONE && adapter && !adapter.inUse && html`<button type="button" class="button"
                onClick=${run(() => hearth.useAdapter(adapter.name))}>Use ${adapter.name}</button>`}
        </div>`;
}

/* Copies of one's conversations that trainings read; those of the box are its owner's to remove. */
function DataSets({ hearth, dataSets, reads }) {
    const remove = ({ name }) => hearth.set({
        dialog: {
            kind: "confirm",
            title: "Delete this copy?",
            text: `“${name}” is erased from the box. Your conversations stay, and so does what was learnt from it; a training of it that was stopped cannot go on.`,
            action: "Delete",
            run: () => hearth.deleteDataSet(name),
            back: { kind: "settings" },
        },
    });
    return html`<h4 id="copies">Copies it learns from</h4>
        <ul class="sets" aria-labelledby="copies">${dataSets.map((set) => html`<li key=${set.name}>
            <span>${set.name} <small class="faint">${recordsWords(set.records)}</small></span>
            <button type="button" class="button danger-text" aria-label=${`Delete ${set.name}`} disabled=${set.name === reads}
                onClick=${() => remove(set)}>Delete</button>
        </li>`)}</ul>`;
}

export function Learning({ hearth, status, adapters, dataSets, onChanged }) {
    const now = status?.training;
    const runs = now && now.state > TRAIN.NONE && now.state < TRAIN.STOPPED;
    const own = dataSets.filter((set) => set.own);
    return html`<section><h3>Learning</h3>
        ${runs && now.adapter && html`<${Progress} hearth=${hearth} status=${now} onChanged=${onChanged} />`}
        ${runs && !now.adapter && html`<p>Somebody else's training runs. Yours can begin when it has ended.</p>`}
        ${now && !runs && html`<${Outcome} hearth=${hearth} status=${now} adapters=${adapters} onChanged=${onChanged} />
            <${Form} hearth=${hearth} onChanged=${onChanged} />`}
        ${own.length > 0 && html`<${DataSets} hearth=${hearth} dataSets=${own} reads=${runs ? now.dataSet : ""} />`}
    </section>`;
}
