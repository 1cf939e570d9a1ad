// SPDX-License-Identifier: Apache-2.0
// Settings: what answers, light and dark, the box's certificate, signing this device out.
import { useEffect, useState } from "preact/hooks";
import { bytes, number, TRAIN, training } from "../words.js";
import { html } from "./html.js";
import { Learning } from "./learning.js";

const THEMES = [["auto", "Automatic"], ["light", "Light"], ["dark", "Dark"]];
const LOOK_MS = 1000; // while something is being learnt
const ANSWERS = [["varied", "Varied"], ["steady", "Steady"]];

function Facts({ status, me }) {
    if (!status) return html`<p class="faint">Asking the box…</p>`;
    const { model } = status;
    const rows = [
        ["Model", model ? `${model.name} (${bytes(model.sizeBytes)}; room for ${number.format(model.contextTokens)} tokens of conversations)` : "none loaded"],
        ["Runs on", status.device],
        ["Memory", bytes(status.rssBytes)],
        ["Learning", training(status.training)],
        ["You are", me?.person ?? ""],
        ["Devices now", String(status.connectedDevices)],
        ["Version", status.version],
    ];
    return html`<dl class="facts">${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function ModelChoice({ hearth, models, onChosen }) {
    const [busy, setBusy] = useState(false);
    const choose = async (event) => {
        setBusy(true);
        await hearth.useModel(event.target.value);
        setBusy(false);
        onChosen();
    };
    return html`<label class="labelled">Model that answers
        <select disabled=${busy} onChange=${choose}>
            ${models.map((m) => html`<option value=${m.name} selected=${m.inUse} disabled=${Boolean(m.problem)}>${m.name}</option>`)}
        </select>
    </label>`;
}

function AdapterChoice({ hearth, adapters, onChosen }) {
    const [busy, setBusy] = useState(false);
    const choose = async (event) => {
        setBusy(true);
        await hearth.useAdapter(event.target.value);
        setBusy(false);
        onChosen();
    };
    const used = adapters.find((a) => a.inUse)?.name ?? "";
    return html`<label class="labelled">What it has learnt
        <select disabled=${busy} onChange=${choose}>
            <option value="" selected=${!used}>nothing: the model alone</option>
            ${adapters.map((a) => html`<option value=${a.name} selected=${a.name === used}>${a.name}</option>`)}
        </select>
    </label>`;
}

function Segments({ legend, name, choices, chosen, onChoose }) {
    return html`<fieldset><legend>${legend}</legend><div class="segments">
        ${choices.map(([value, words]) => html`<label class=${chosen === value ? "on" : ""}>
            <input type="radio" name=${name} value=${value} checked=${chosen === value}
                onChange=${() => onChoose(value)} />${words}</label>`)}
    </div></fieldset>`;
}

export function Settings({ hearth, state }) {
    const [status, setStatus] = useState(null);
    const [models, setModels] = useState([]);
    const [adapters, setAdapters] = useState([]);
    const [dataSets, setDataSets] = useState([]);
    const admin = state.me?.scopes.includes("admin");
    const trains = state.me?.scopes.includes("train");
    const load = async () => {
        setStatus(await hearth.getStatus());
        setAdapters((await hearth.listAdapters())?.adapters ?? []);
        if (admin) setModels((await hearth.listModels())?.models ?? []);
        if (trains) setDataSets((await hearth.listDataSets())?.dataSets ?? []);
    };
    useEffect(() => {
        load();
    }, []);
    const learning = status?.training?.state ?? TRAIN.NONE;
    useEffect(() => {
        if (learning === TRAIN.NONE || learning >= TRAIN.STOPPED) return undefined;
        const timer = setTimeout(load, LOOK_MS);
        return () => clearTimeout(timer);
    }, [status]);
    const signOut = () => hearth.set({
        dialog: {
            kind: "confirm",
            title: "Sign this device out?",
            text: "Your conversations stay on the box. To come back, this device needs a new pairing link.",
            action: "Sign out",
            run: () => hearth.signOut(),
        },
    });
    return html`
        <section><h3>The box</h3><${Facts} status=${status} me=${state.me} />
            ${models.length > 1 && html`<${ModelChoice} hearth=${hearth} models=${models} onChosen=${load} />`}
            ${adapters.length > 0 && html`<${AdapterChoice} hearth=${hearth} adapters=${adapters} onChosen=${load} />`}
        </section>
        ${trains && html`<${Learning} hearth=${hearth} status=${status} adapters=${adapters} dataSets=${dataSets}
            onChanged=${load} />`}
        <section>
            <${Segments} legend="Appearance" name="theme" choices=${THEMES} chosen=${state.theme}
                onChoose=${(theme) => hearth.setTheme(theme)} />
            <${Segments} legend="Answers" name="answers" choices=${ANSWERS} chosen=${state.answers}
                onChoose=${(answers) => hearth.setAnswers(answers)} />
            <p class="faint">Steady gives the same answer to the same question.</p>
        </section>
        <section><h3>Trust this box</h3>
            <p>Install the box's own certificate once on each device, and browsers stop warning about it.</p>
            <div class="buttons start">
                <a class="button" href="/hearth-ca.crt" download>Certificate (.crt)</a>
                <a class="button" href="/hearth-ca.mobileconfig" download>iPhone and iPad</a>
            </div>
        </section>
        <section><h3>This device</h3>
            <div class="buttons start"><button type="button" class="button danger-text" onClick=${signOut}>Sign out</button></div>
        </section>`;
}
