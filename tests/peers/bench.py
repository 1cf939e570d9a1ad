#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hearth beside llama.cpp on one machine in the same minutes, one after the other: medians, ratios, shares of limits.

  tests/peers/bench.py [--build DIR] [--rounds N] [--threads N] [--only PART,…] [--isa NAME] [--json FILE]
                       [--markdown FILE] [--under COMMAND] [--no-amx]           (make bench)

Parts: speed (prefill, decode), kernels (bytes per second of each format's product), clients (8 sessions together),
start (first token and memory of a cold process), turn (the second turn after a long prompt), draft (proposed tokens),
memory, train (tokens per second and memory of training, beside PEFT on the dequantised base, with and without gradient
checkpointing, all tokens and answers only). Ratios above 1 mean that Hearth is faster. llama.cpp runs with flash
attention off and on; the better counts. A bar that does not hold is marked; nothing fails, for the machine may be busy.
"""
import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import train_no_amx

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hearth")
PARTS = ("speed", "kernels", "clients", "start", "turn", "draft", "memory", "train")
PROMPT, GENERATE = 512, 128
# name: file, then the least ratio that is asked for: prefill, decode
MODELS = {
    "SmolLM2-135M Q4_1": ("SmolLM2-135M-Instruct-Q4_1.gguf", 5.0, 2.0),
    "SmolLM2-135M Q4_0": ("SmolLM2-135M-Instruct-Q4_0.gguf", 1.7, 1.6),
    "Gemma-3-270M Q4_K_M": ("gemma-3-270m-Q4_K_M.gguf", 2.0, 1.4),
}
median = statistics.median


class Bench:
    def __init__(self, args):
        self.args = args
        found = sorted(CACHE.glob("llama-*/complete"), key=lambda p: p.stat().st_mtime)
        self.peer = found[-1].parent if found else None
        self.models = {n: (CACHE / "models" / m[0], *m[1:]) for n, m in MODELS.items()
                       if (CACHE / "models" / m[0]).exists()}
        self.rows = []

    def row(self, what, model, ours, unit, theirs=None, ratio=None, bar=None, share="", low=False, peer="llama.cpp"):
        """One line. bar: least ratio to the peer, or with `low` the most that `ours` may be."""
        held = "" if bar is None else (ours <= bar if low else ratio is not None and ratio >= bar)
        self.rows.append({"what": what, "model": model, "ours": ours, "unit": unit, "theirs": theirs, "ratio": ratio,
                          "bar": bar, "low": low, "held": held, "limit": share, "peer": peer})
        print(self.line(self.rows[-1]), flush=True)

    @staticmethod
    def line(r):
        text = f"{r['what']:26} {r['model']:20} {r['ours']:10.1f} {r['unit']:6}"
        text += f" {r['peer']:9} {r['theirs']:8.1f}" if r["theirs"] is not None else " " * 19
        text += f"  {r['ratio']:5.2f}x" if r["ratio"] is not None else " " * 8
        if r["bar"] is not None:
            text += f"  bar {'≤' if r['low'] else '≥'} {r['bar']:g}{' ' if r['held'] else '  MISSED'}"
        return text + (f"  {r['limit']}" if r["limit"] else "")

    # ---- running

    def hearth(self, *words):
        isa = ["--cpu-isa", self.args.isa] if self.args.isa and words[0] == "bench" else []
        out = subprocess.run([self.args.build / "hearth", *map(str, words), "--threads", str(self.args.threads), *isa],
                             check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout
        return json.loads(out)

    def llama(self, program, *words):
        return subprocess.run([self.peer / program, *map(str, words), "-t", str(self.args.threads)], check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL).stdout

    @staticmethod
    def cold(command):
        """Seconds until the first byte of the answer, and MiB at most, of a new process."""
        start = time.monotonic()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   stdin=subprocess.DEVNULL)
        process.stdout.read(1)
        first = time.monotonic() - start
        process.stdout.read()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        return first, usage.ru_maxrss / 1024

    # ---- parts

    def speed(self):
        for name, (path, prefill_bar, decode_bar) in self.models.items():
            ours, theirs = [], []
            for _ in range(self.args.rounds):
                ours.append(self.hearth("bench", "-m", path, "--prompt", PROMPT, "--gen", GENERATE, "--json"))
                if self.peer:
                    runs = json.loads(self.llama("llama-bench", "-m", path, "-p", PROMPT, "-n", GENERATE, "-r", 3,
                                                 "-fa", "0,1", "-o", "json"))
                    theirs.append({k: max(r["avg_ts"] for r in runs if bool(r["n_prompt"]) == (k == "prefill"))
                                   for k in ("prefill", "decode")})
            for key, bar in (("prefill", prefill_bar), ("decode", decode_bar)):
                rate = [r[f"{key}_tokens_per_second"] for r in ours]
                peer = [r[key] for r in theirs]
                if key == "decode":
                    part = median(r["decode_gib_per_second"] / r["copy_gib_per_second"] for r in ours)
                    share = f"{100 * part:.0f} % of the read bandwidth"
                else:
                    share = self.int8_share(path, ours)
                self.row(key, name, median(rate), "tok/s", median(peer) if peer else None,
                         median(a / b for a, b in zip(rate, peer)) if peer else None, bar, share)

    def weights(self, path):
        """How many weights the layers' matrices have, and the head."""
        told = json.loads(subprocess.run([self.args.build / "hearth", "inspect", path, "--json"], check=True,
                                         capture_output=True).stdout)
        count = {t["name"]: t["shape"][0] * t["shape"][1] for t in told["tensors"] if len(t["shape"]) == 2}
        layers = sum(n for name, n in count.items() if name.startswith("blk."))
        return layers, count.get("output.weight", count["token_embd.weight"])

    def int8_share(self, path, runs):
        """What the prefill's products of whole numbers come to (attention takes its time of it), of the peaks."""
        per_token = 2 * self.weights(path)[0]
        parts = []
        for key, unit in (("int8_peak_gops", "VNNI"), ("int8_amx_peak_gops", "AMX")):
            if all(r.get(key) for r in runs):
                share = median(r["prefill_tokens_per_second"] * per_token / 1e9 / r[key] for r in runs)
                parts.append(f"{100 * share:.0f} % of the int8 peak ({unit})")
        return ", ".join(parts)

    def kernels(self):
        ours = [self.hearth("bench", "--kernels", "--json") for _ in range(self.args.rounds)]
        theirs = []
        if self.peer and (self.peer / "llama-kernels").exists():
            theirs = [json.loads(self.llama("llama-kernels")) for _ in range(self.args.rounds)]
        for i, kernel in enumerate(ours[0]["kernels"]):
            name = kernel["format"]
            speed = [r["kernels"][i]["gb_per_second_by_columns"]["1"] for r in ours]
            read = [r["kernels"][i]["read_gb_per_second"] for r in ours]
            peer = [r[name]["1"] for r in theirs if name in r]
            share = f"{100 * median(a / b for a, b in zip(speed, read)):.0f} % of the read bandwidth"
            self.row("product 4096x4096", name, median(speed), "GB/s", median(peer) if peer else None,
                     median(a / b for a, b in zip(speed, peer)) if peer else None,
                     1.2 if name.endswith("_K") else None, share)
        barrier = median(r["barrier_ns"] for r in ours)
        self.row("barrier of the team", f"{self.args.threads} threads", barrier, "ns", bar=1000, low=True)

    def clients(self):
        for name, (path, _, _) in self.models.items():
            ours, theirs = [], []
            for _ in range(self.args.rounds):
                ours.append(self.hearth("bench", "-m", path, "--prompt", 64, "--gen", 64, "--clients", 8, "--repeat", 1,
                                        "--json")["clients_tokens_per_second"])
                if self.peer:
                    runs = [json.loads(line) for fa in ("off", "on") for line in self.llama(
                        "llama-batched-bench", "-m", path, "-c", 2048, "-npp", 64, "-ntg", 64, "-npl", 8, "-fa", fa,
                        "--output-format", "jsonl").splitlines() if line.startswith(b"{")]
                    theirs.append(max(r["speed_tg"] for r in runs))
            self.row("8 sessions together", name, median(ours), "tok/s", median(theirs) if theirs else None,
                     median(a / b for a, b in zip(ours, theirs)) if theirs else None,
                     5.0 if name.endswith("Q4_1") else None)

    def start(self):
        for name, (path, _, _) in self.models.items():
            ours = [self.cold([self.args.build / "hearth", "run", "-m", path, "--raw", "-p", "The sun is a", "-n", "1",
                               "--ctx", "512", "--threads", self.args.threads]) for _ in range(5)]
            theirs = [self.cold([self.peer / "llama-completion", "-m", path, "-p", "The sun is a", "-n", "1", "-no-cnv",
                                 "-c", "512", "--no-display-prompt", "--no-warmup", "-t", self.args.threads])
                      for _ in range(5)] if self.peer else []
            for i, (what, unit, scale) in enumerate((("first token, cold", "ms", 1000), ("its memory", "MiB", 1))):
                mine = scale * median(r[i] for r in ours)
                peer = scale * median(r[i] for r in theirs) if theirs else None
                self.row(what, name, mine, unit, peer, peer / mine if peer else None, 1.0 if peer else None)

    def turn(self):
        for name, (path, _, _) in self.models.items():
            told = [self.hearth("bench", "-m", path, "--second-turn", "--json") for _ in range(self.args.rounds)]
            first = median(r["first_turn_ms"] for r in told)
            for what, key in (("", "second_turn_ms"), (", new session", "second_turn_new_session_ms"),
                              (", restarted", "second_turn_restart_ms")):
                second = median(r[key] for r in told)
                self.row(f"second turn{what}", name, second, "ms", bar=first / 10, low=True,
                         share=f"{second / first:.3f} of the first turn of 1,000 tokens, {first:.0f} ms")

    def draft(self):
        out = subprocess.run([sys.executable, ROOT / "tests/peers/speculate.py", "--build", self.args.build, "--json"],
                             stdout=subprocess.PIPE, check=False).stdout
        for told in json.loads(out):
            bar = {"edit": 1.5, "chat": 0.97}[told["group"]]
            rate = median(r["proposing"] for r in told["rows"])
            self.row(f"proposed tokens, {told['group']}", told["model"].split("-Instruct")[0][:20], rate, "tok/s",
                     None, told["gain"], bar, f"least {told['least']:.2f}x")

    # ---- training

    def train_ours(self, path, data, *words):
        """Tokens per second of the later steps, MiB at most, the precision, and the share of targets."""
        with tempfile.TemporaryDirectory() as folder:
            command = [self.args.build / "hearth", "train", "-m", path, "--data", data, "--out", Path(folder) / "run",
                       "--held-out", "0", "--near", "0", "--max-steps", "5", "--json", "--threads", self.args.threads]
            out = subprocess.run([*shlex.split(self.args.under), *map(str, command), *words], check=True,
                                 stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout
            lines = [json.loads(line) for line in out.splitlines()]
            log = [json.loads(line) for line in (Path(folder) / "run/log.jsonl").read_text().splitlines()]
            rate, end = median(line["tokens_per_second"] for line in lines[:-1][1:]), lines[-1]
            return rate, log[-1]["peak_rss_mib"], end["precision"], end["targets"] / end["tokens"]

    def unit_peaks(self):
        """GFLOP/s of the unit that each precision's products use."""
        products = self.hearth("bench", "--train-products", "--json")["products"]
        return {unit: max(p["peak_gops"] for p in products if p["unit"] == unit)
                for unit in {p["unit"] for p in products}}

    def unit_share(self, path, rate, precision, targets, again):
        """What the products with frozen weights come to, forwards and back (with checkpointing forwards twice; the
        head for targets only), of the unit's peak."""
        layers, head = self.weights(path)
        peak = self.peaks.get(precision)
        flops = 2 * layers * (3 if again else 2) + 4 * head * targets
        return f"{precision}, {100 * rate * flops / 1e9 / peak:.0f} % of its peak" if peak else precision

    def train_peft(self, path, *words):
        venv = subprocess.run([ROOT / "tools/setup", "--print-venv", "peers"], check=True, capture_output=True,
                              text=True).stdout.strip()
        python = Path(venv) / "bin/python"
        if not python.exists():
            return None, None
        out = subprocess.run([*shlex.split(self.args.under), str(python), str(ROOT / "tests/peers/train_speed.py"),
                              str(path), "--threads", str(self.args.threads), *words], check=True,
                             stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout
        told = json.loads(out)
        return told["tokens_per_second"], told["peak_mib"]

    def train_row(self, what, name, ours, path, peers, bar=None, again=False):
        """A row for each peer of `peers` (name: its tokens/s and MiB); the bar is for the first."""
        rate, _, precision, targets = ours
        share = self.unit_share(path, rate, precision, targets, again)
        for i, (kind, (peer, peak)) in enumerate(peers.items()):
            self.row(what, name, rate, "tok/s", peer, rate / peer if peer else None, bar if peer and not i else None,
                     share + (f"; {kind} {peak:.0f} MiB" if peer else ""), peer=kind)

    def train(self):
        """All linears, rank 8, 512 tokens, 4 sequences a step: every token a target, then answers only."""
        if self.args.no_amx:
            self.train_no_amx()
            return
        amx = "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
        self.peaks = self.unit_peaks()
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            text.write_text("\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md"))),
                            encoding="utf-8")
            for name, memory_bar in (("SmolLM2-135M Q4_1", 700), ("Gemma-3-270M Q4_K_M", 1024)):
                if name not in self.models:
                    continue
                path, first = self.models[name][0], memory_bar == 700
                kinds = ("bf16", "fp32") if first else ("bf16",)
                plain = {f"PEFT {kind}": self.train_peft(path, "--dtype", kind) for kind in kinds}
                again = self.train_peft(path, "--dtype", "bf16", "--checkpointing")
                ours = self.train_ours(path, f"{text}:text", "--mask", "all")
                self.train_row("training", name, ours, path, plain, (1.0 if amx else 4.0) if first else None)
                self.row("its memory", name, ours[1], "MiB", bar=memory_bar, low=True)
                ours = self.train_ours(path, f"{text}:text", "--mask", "all", "--checkpointing")
                self.train_row("training, checkpointing", name, ours, path,
                               {"PEFT bf16": plain["PEFT bf16"], "PEFT bf16, checkpointing": again},
                               (1.0 if amx else 3.0) if first else None, again=True)
                self.row("its memory", name, ours[1], "MiB", bar=450 if first else 1024, low=True)
                self.train_chats(name, path, ROOT / "docs/examples/oasst-sample.jsonl")

    def train_chats(self, name, path, chats):
        """Conversations: all tokens and answers only, and PEFT on as many rows, as long, with as many targets."""
        told = json.loads(subprocess.run(
            [self.args.build / "hearth", "data", "inspect", "-m", path, chats, "--seq", "512", "--held-out", "0",
             "--near", "0", "--template", "chatml", "--json"], check=True, capture_output=True).stdout)
        words = ("--template", "chatml")
        every = self.train_ours(path, chats, "--mask", "all", *words)
        answers = self.train_ours(path, chats, *words)
        peer = self.train_peft(path, "--dtype", "bf16", "--seq", str(told["epoch_tokens"] // told["rows"]),
                               "--targets", f"{answers[3]:.3f}")
        self.train_row("training, chats, all", name, every, path, {"PEFT bf16": peer})
        self.train_row("training, chats, answers", name, answers, path, {"PEFT bf16": peer})

    def train_no_amx(self):
        venv = subprocess.run([ROOT / "tools/setup", "--print-venv", "peers"], check=True, capture_output=True,
                              text=True).stdout.strip()
        for name in ("SmolLM2-135M Q4_1", "Gemma-3-270M Q4_K_M"):
            if name in self.models:
                told = train_no_amx.measure(self.models[name][0], self.args.build,
                                            Path(venv) / "bin/python", self.args.rounds, threads=self.args.threads)
                for kind, (ours, peer) in told.items():
                    if ours:
                        bar = 4.0 if name.startswith("SmolLM2") and kind == "bf16" else None
                        self.row("training without AMX", name, ours, "tok/s", peer, ours / peer, bar,
                                 f"torch held to {train_no_amx.HELD_TO[kind]}", peer=f"PEFT {kind}")

    def memory(self):
        for name, (path, _, _) in self.models.items():
            told = self.hearth("bench", "-m", path, "--prompt", 1920, "--gen", 128, "--repeat", 1, "--json")
            weights = told["weight_mib"]
            self.row("peak at 2,048 tokens", name, told["peak_rss_mib"], "MiB", bar=round(weights + 80, 1), low=True,
                     share=f"packed weights {weights:.0f} MiB")


def head(bench):
    commit = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%h"], capture_output=True, text=True,
                            check=False).stdout.strip() or "unknown"
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
                if line.startswith("model name")), platform.machine())
    flags = (bench.peer / "flags").read_text().strip() if bench.peer else "absent"
    return (f"{datetime.date.today()}, commit {commit}, {cpu}, {bench.args.threads} threads, "
            f"{bench.args.isa or 'best'} instruction set; {bench.peer.name if bench.peer else 'llama.cpp'}: {flags}")


def markdown(bench, title):
    lines = [f"{title}\n", "| what | model | Hearth | llama.cpp | ratio | bar | |", "|---|---|---:|---:|---:|---|---|"]
    for r in bench.rows:
        bar = "" if r["bar"] is None else f"{'≤' if r['low'] else '≥'} {r['bar']:g}{'' if r['held'] else ' **missed**'}"
        lines.append(f"| {r['what']} | {r['model']} | {r['ours']:.1f} {r['unit']} | "
                     + (f"{r['theirs']:.1f}" if r["theirs"] is not None else "")
                     + (f" ({r['peer']})" if r["theirs"] is not None and r["peer"] != "llama.cpp" else "") + " | "
                     + (f"{r['ratio']:.2f}x" if r["ratio"] is not None else "") + f" | {bar} | {r['limit']} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--isa", default="")
    parser.add_argument("--under", default="", help="part train: a command that each measurement runs under")
    parser.add_argument("--no-amx", action="store_true", help="part train: both sides as on a CPU without AMX")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    bench = Bench(args)
    if not bench.models:
        sys.exit("bench: no model; `build/hearth pull default` fetches one")
    if not bench.peer:
        print("bench: llama.cpp is absent (tools/setup peers): Hearth alone", file=sys.stderr)
    title = head(bench)
    print(title)
    for part in args.only.split(","):
        if part not in PARTS:
            sys.exit(f"bench: no part {part}; there are {', '.join(PARTS)}")
        getattr(bench, part)()
    if args.json:
        args.json.write_text(json.dumps({"title": title, "rows": bench.rows}, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(markdown(bench, title))


if __name__ == "__main__":
    main()
