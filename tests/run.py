#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests and closes with "N passed, N failed, N skipped".

First every C program under BUILD/tests (cmocka, TAP output; a crash, a time-out or a test without a result is
a failure), then pytest. Only failures are printed in full. A skip must be listed in tests/skips.txt, else the
run fails, and so does a run in which nothing was executed. A C test that skips itself prints "skip: REASON".

  tests/run.py [--build DIR]             C programs and pytest
  tests/run.py --only-c                  C programs alone (sanitizer builds)
  tests/run.py --long                    C programs and the pytest tests marked "long"
  tests/run.py --box                     the daemon's tests alone (sanitizer builds)
  tests/run.py --peers                   tests/peers alone, against the other programs
  tests/run.py --emulator COMMAND...     programs of another machine: the C programs and some of pytest's under the
                                         first command, what depends on the instruction set under each further one
"""

import argparse
import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("unit", "ops", "model", "wire", "fuzz")
PROGRAM_TIMEOUT_S = 300  # --only-c, which sanitizer builds use, has four times that
BOX_PATIENCE = 4  # sanitizers slow a box down: its tests' time limits, times this
PYTEST_TIMEOUT_S = {"test": 1500, "box": 3600, "emulated": 600, "peers": 4 * 3600, "long": 4 * 3600}
MODELS = {
    "HEARTH_TEST_SMOLLM2": "SmolLM2-135M-Instruct-Q4_1.gguf",
    "HEARTH_TEST_GEMMA3": "gemma-3-270m-Q4_K_M.gguf",
}
# Left out under an emulator, and why. None of it depends on the instruction set.
EMULATED_OUT = {
    "model/failures": "takes minutes there",
    "model/pause": "takes minutes there",
    "model/speculation": "takes minutes there",
    "model/trainer_power": "takes minutes there",
    "wire/store_memory": "takes minutes there",
    "wire/store_power": "takes minutes there",
    "wire/worker": "answers of a thread must not end before the next question",
    "wire/worker_fair": "four questions must arrive before the first step of a thread",
}
# What a further emulated CPU is for: the choice of instruction set, and each set's numbers.
EMULATED_AGAIN = ("ops/*", "model/logits_bits")
# What drives a whole daemon. Left out: test_daemon, whose limits on memory and system calls no sanitizer bears.
BOX_PYTEST = tuple(
    f"tests/e2e/test_{x}.py"
    for x in ("wire", "wire_limits", "openai", "http_limits", "training_box", "training_resume", "adapters_box")
)
EMULATED_PYTEST = [f"tests/e2e/test_{x}.py" for x in ("run", "daemon", "wire")] + [
    f"tests/e2e/test_cli.py::test_{x}"
    for x in (
        "help_of_hearth one_answer_and_nothing_else answer_as_json seed talking_on_a_terminal bench_fields"
        " inspect tokenize_round_trip logits_of_the_default_model fit pull_list doctor_without_a_model"
    ).split()
]


class Tally:
    """What passed, what failed, and every skip as (name, reason)."""

    def __init__(self):
        self.passed = self.failed = 0
        self.skips = []

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skips += other.skips

    def line(self):
        return f"{self.passed} passed, {self.failed} failed, {len(self.skips)} skipped"


def environment(build):
    env = dict(
        os.environ, HEARTH_TEST_BUILD=str(build), CMOCKA_MESSAGE_OUTPUT="TAP", PYTHONDONTWRITEBYTECODE="1"
    )
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    env.setdefault("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hearth")
    for name, file in MODELS.items():
        if name not in env and (cache / "models" / file).exists():
            env[name] = str(cache / "models" / file)
    llama = sorted(cache.glob("llama-*/complete"))
    if llama:
        env.setdefault("HEARTH_TEST_LLAMA", str(llama[-1].parent))
    return env


def parse_tap(name, output):
    """The results in one program's TAP output, and how many it had planned."""
    tally, planned, reason = Tally(), 0, ""
    for line in output.splitlines():
        if plan := re.match(r"1\.\.(\d+)$", line):
            planned += int(plan[1])
        elif said := re.match(r"(?:# )?skip: (.*)", line):
            reason = said[1].strip()
        elif skip := re.match(r"(?:not )?ok \d+ (?:- (\S+) )?# SKIP ?(\S*)", line):
            tally.skips.append((f"{name}:{skip[1] or skip[2]}", reason or "no reason given"))
            reason = ""
        elif re.match(r"ok \d+", line):
            tally.passed += 1
        elif re.match(r"not ok \d+", line):
            tally.failed += 1
    return tally, planned


def end_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def under(emulator, build, program):
    """The command that runs a program of another machine, and its environment: tests/emulated/spawn.c."""
    words = shlex.split(emulator)
    words[0] = shutil.which(words[0]) or words[0]
    env = {"HEARTH_EMULATOR": " ".join(words), "HEARTH_EMULATED": str(program)}
    return [*words, "-E", f"LD_PRELOAD={build}/tests/emulated/spawn.so", str(program)], env


def emulated_programs(build, emulator):
    """A folder with hearth and hearthd as scripts that run them under the emulator."""
    folder = build / "emulated"
    folder.mkdir(exist_ok=True)
    for name in ("hearth", "hearthd"):
        command, env = under(emulator, build, build / name)
        assignments = [f"{k}={shlex.quote(v)}" for k, v in env.items()]
        (folder / name).write_text(f'#!/bin/sh\n{" ".join(assignments)} exec {shlex.join(command)} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def run_program(command, name, env, timeout_s):
    """Runs one C test program: its tally, the complaint about the program itself, its output, its seconds."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hearth-test-") as folder:
        own = dict(env, TMPDIR=folder)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        complaint = ""
        try:
            raw, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            complaint = f"still running after {timeout_s} s"
            end_group(process)
            raw, _ = process.communicate()
        end_group(process)
    output = raw.decode(errors="replace")
    tally, planned = parse_tap(name, output)
    results = tally.passed + tally.failed + len(tally.skips)
    if not complaint and process.returncode < 0:
        complaint = f"ended by {signal.Signals(-process.returncode).name}"
    elif not complaint and (results < planned or planned == 0):
        complaint = f"gave {results} results of {planned} planned (exit code {process.returncode})"
    elif not complaint and process.returncode != 0 and tally.failed == 0:
        complaint = f"exit code {process.returncode}"
    if complaint:
        tally.failed += max(1, planned - results)
    return tally, complaint, output, time.monotonic() - start


def run_c(build, env, timeout_s, emulator="", wanted=("*",)):
    total = Tally()
    programs = []
    for folder in FOLDERS:
        for source in sorted((ROOT / "tests" / folder).glob("*.c")):
            name = f"{folder}/{source.stem}"
            if not any(fnmatch.fnmatch(name, x) for x in wanted):
                continue
            if emulator and name in EMULATED_OUT:
                total.skips.append((name, f"under an emulator: {EMULATED_OUT[name]}"))
                continue
            programs.append((build / "tests" / name, name))

    def run_one(path, name, env, timeout_s):
        command, more = under(emulator, build, path) if emulator else ([str(path)], {})
        return run_program(command, name, dict(env, **more), timeout_s)

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 4)) as pool:
        jobs = [
            (name, path, pool.submit(run_one, path, name, env, timeout_s) if path.exists() else None)
            for path, name in programs
        ]
        for name, path, job in jobs:
            if job is None:
                print(f"FAIL {name}: {path} was not built", flush=True)
                total.failed += 1
                continue
            tally, complaint, output, seconds = job.result()
            total.add(tally)
            bad = tally.failed or complaint
            print(f"{'FAIL' if bad else 'ok  '} {name:32} {tally.line()}  {seconds:.1f} s", flush=True)
            if bad:
                lines = output.splitlines()
                print("\n".join(f"     {x}" for x in lines[-200:] if not re.match(r"ok \d+ - ", x)))
            if complaint:
                print(f"     {name}: {complaint}")
    return total


def read_junit(path):
    tally = Tally()
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}:{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            tally.failed += 1
        elif skip is not None:
            tally.skips.append((name, skip.get("message") or "no reason given"))
        else:
            tally.passed += 1
    return tally


def venv_python(name):
    folder = subprocess.run(
        [str(ROOT / "tools/setup"), "--print-venv", name], capture_output=True, text=True, check=True
    ).stdout.strip()
    python = Path(folder, "bin/python")
    if not python.exists():
        sys.exit(f"tests/run.py: no Python environment at {folder}: run tools/setup {name}")
    return python


def run_pytest(mode, env):
    python = venv_python("peers" if mode == "peers" else "test")
    where = ["tests/peers"] if mode == "peers" else ["tests", "--ignore=tests/peers"]
    marks = "long" if mode == "long" else "not long"
    if mode in ("emulated", "box"):
        where, marks = EMULATED_PYTEST if mode == "emulated" else BOX_PYTEST, "not long"
    more = []
    if mode == "peers":
        more = ["--timeout=5400"]  # the other programs take minutes, on a busy machine more
    if mode == "box":
        env = dict(env, HEARTH_TEST_PATIENCE=str(BOX_PATIENCE))
        more = ["-o", f"timeout={300 * BOX_PATIENCE}"]
    with tempfile.TemporaryDirectory(prefix="hearth-pytest-") as folder:
        report = Path(folder, "report.xml")
        command = [
            str(python),
            "-m",
            "pytest",
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "-m",
            marks,
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit2",
            *more,
            *where,
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(timeout=PYTEST_TIMEOUT_S[mode])
        except subprocess.TimeoutExpired:
            end_group(process)
            process.wait()
            code = "time-out"
        tally = read_junit(report) if report.exists() else Tally()
    if code not in (0, 1, 5) or (code == 1 and tally.failed == 0):
        print(f"FAIL pytest itself ended with {code}")
        tally.failed += 1
    return tally


def allowed_skips():
    """The patterns of tests/skips.txt, each matched against "name: reason"."""
    patterns = []
    for number, line in enumerate((ROOT / "tests/skips.txt").read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            fields = [x.strip() for x in line.split("|")]
            if len(fields) != 3 or not all(fields):
                sys.exit(f"tests/skips.txt:{number}: not of the form PATTERN | WHY | WHERE IT DOES RUN")
            patterns.append(fields[0])
    return patterns


def judge_skips(skips):
    """Prints every skip; returns how many of them are not listed."""
    patterns, unlisted = allowed_skips(), 0
    for name, reason in skips:
        text = f"{name}: {reason}"
        listed = any(fnmatch.fnmatchcase(text, p) for p in patterns)
        unlisted += not listed
        print(f"skip {text}{'' if listed else '   <- not in tests/skips.txt'}")
    return unlisted


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", default="build")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--only-c", action="store_true")
    mode.add_argument("--long", action="store_true")
    mode.add_argument("--box", action="store_true")
    mode.add_argument("--peers", action="store_true")
    mode.add_argument("--emulator", action="append", metavar="COMMAND", default=[])
    args = parser.parse_args()
    build = (ROOT / args.build).resolve()
    env = environment(build)
    total = Tally()
    for number, emulator in enumerate(args.emulator):
        print(f"== {emulator}", flush=True)
        total.add(run_c(build, env, PROGRAM_TIMEOUT_S, emulator, EMULATED_AGAIN if number else ("*",)))
        if not number:
            own = dict(env, HEARTH_TEST_EMULATED="1", HEARTH_TEST_BUILD=str(emulated_programs(build, emulator)))
            total.add(run_pytest("emulated", own))
    if not (args.peers or args.box or args.emulator):
        total.add(run_c(build, env, PROGRAM_TIMEOUT_S * (4 if args.only_c else 1)))
    if not (args.only_c or args.emulator):
        total.add(run_pytest(next((m for m in ("peers", "box", "long") if getattr(args, m)), "test"), env))
    unlisted = judge_skips(total.skips)
    if total.passed + total.failed == 0:
        print("no test was executed")
    print(total.line())
    return 0 if total.failed == 0 and unlisted == 0 and total.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
