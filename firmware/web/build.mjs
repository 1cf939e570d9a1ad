// SPDX-License-Identifier: Apache-2.0
// Bundles the page and writes it as a C file. tools/build-web runs it in the copy that has node_modules.
//   node build.mjs DESCRIPTOR_SET DIST OUT.c INPUTS_HASH
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { build } from "esbuild";

const [descriptor, dist, outC, inputsHash] = process.argv.slice(2);
const MIME = {
    html: "text/html; charset=utf-8",
    js: "text/javascript; charset=utf-8",
    css: "text/css; charset=utf-8",
    svg: "image/svg+xml",
    png: "image/png",
    webmanifest: "application/manifest+json",
};

async function bundle() {
    rmSync(dist, { recursive: true, force: true });
    mkdirSync(dist, { recursive: true });
    cpSync("public", dist, { recursive: true });
    await build({
        entryPoints: { app: "src/main.js" },
        outdir: dist,
        bundle: true,
        minify: true,
        format: "esm",
        target: ["es2022", "safari16"],
        charset: "utf8",
        legalComments: "none",
        loader: { ".binpb": "binary" },
        alias: { "hearth.binpb": resolve(descriptor) },
        logLevel: "warning",
    });
    await build({
        entryPoints: { app: "src/css/app.css" },
        outdir: dist,
        bundle: true,
        minify: true,
        charset: "utf8",
        legalComments: "none",
        logLevel: "warning",
    });
}

/* 32 bytes a line keep the file readable by every compiler and tool. */
function cBytes(data) {
    const lines = [];
    for (let i = 0; i < data.length; i += 32) lines.push(`${[...data.subarray(i, i + 32)].join(",")},`);
    return lines.join("\n");
}

function writeC() {
    const names = readdirSync(dist).sort();
    let arrays = "";
    let table = "";
    let total = 0;
    names.forEach((name, i) => {
        const data = readFileSync(join(dist, name));
        const mime = MIME[name.split(".").pop()];
        if (!mime) throw new Error(`${name}: no media type is known for it`);
        const etag = createHash("sha256").update(data).digest("hex").slice(0, 16);
        arrays += `static const unsigned char asset_${i}[] = {\n${cBytes(data)}\n};\n`;
        table += `    {"/${name}", "${mime}", "${etag}", asset_${i}, ${data.length}},\n`;
        total += data.length;
    });
    const head = `// Made by tools/build-web from firmware/web; inputs ${inputsHash}\n#include "firmware/assets.h"\n\n`;
    const tail = `const struct hd_asset hd_assets[] = {\n${table}};\nconst size_t hd_n_assets = ${names.length};\n`;
    writeFileSync(outC, head + arrays + tail);
    console.log(`  the page: ${names.length} files, ${Math.ceil(total / 1024)} KiB`);
}

await bundle();
writeC();
