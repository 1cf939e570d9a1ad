# SPDX-License-Identifier: Apache-2.0
"""`hearth train` from outside: a run, its files and words; Ctrl-C, kill -9 and --resume; bad data; what is refused."""

import fcntl
import json
import os
import pty
import random
import re
import resource
import shlex
import signal
import struct
import subprocess
import termios
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEARTH = str(Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build")) / "hearth")
TINY = str(ROOT / "tests/golden/tiny-llama.gguf")
WORDS = "the sun is a star and it shines on us all".split()


def write_chats(path, n, seed=1):
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(n):
            turns = [{"role": "user", "content": " ".join([f"say {i}", *rng.choices(WORDS, k=3)])},
                     {"role": "assistant", "content": " ".join(rng.choices(WORDS, k=rng.randint(2, 12)))}]
            file.write(json.dumps({"id": f"chat{i}", "messages": turns}) + "\n")
    return path


def words(data, out, *more):
    return [HEARTH, "train", "-m", TINY, "--template", "chatml", "--data", str(data), "--out", str(out), "--seq", "128",
            "--near", "0", "--held-out", "0.2", "--lr", "1e-2", "--rank", "2", *map(str, more)]


def train(data, out, *more, code=0):
    done = subprocess.run(words(data, out, *more), capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module", name="chats")
def made_chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl", 40)


def test_a_run(chats, tmp_path):
    out = tmp_path / "run"
    done = train(chats, out, "--epochs", "3")
    assert "held-out loss" in done.stdout and done.stdout.endswith(f"{out}/adapter.gguf\n") and done.stderr == ""
    assert re.search(r"\d\.\d{3} \|", done.stdout) and "* loss   o held out" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["adapter.gguf", "checkpoint.bin", "log.jsonl", "loss.svg",
                                                     "manifest.json"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [x for x in log if "loss" in x]
    assert [x["step"] for x in steps] == list(range(1, len(steps) + 1))
    assert set(steps[0]) == {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "peak_rss_mib"}
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"] and steps[-1]["epoch"] == 3
    held_out = [x["held_out"] for x in log if "held_out" in x]
    assert len(held_out) == 4 and held_out[-1] < 0.9 * held_out[0]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["steps"] == len(steps) and manifest["run"]["data"]["sequence"] == 128
    assert manifest["files"][0]["records"] == 40 and abs(manifest["held out loss"] - held_out[-1]) < 1e-5
    svg = ElementTree.parse(out / "loss.svg").getroot()
    assert len(svg.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    assert "prefers-color-scheme:dark" in (out / "loss.svg").read_text()
    told = subprocess.run([HEARTH, "adapter", "inspect", "--json", out / "adapter.gguf"], capture_output=True,
                          check=True).stdout
    assert json.loads(told)["base_sha256"] == manifest["run"]["base"]

    refused = train(chats, out, "--epochs", "3", code=73)
    assert "--resume" in refused.stderr and refused.stderr.count("\n") == 1
    before = (out / "adapter.gguf").read_bytes()
    train(chats, out, "--epochs", "3", "--resume")  # there is nothing left to do
    assert (out / "adapter.gguf").read_bytes() == before


def test_the_same_bytes(chats, tmp_path):
    seen = set()
    for name, more in {"a": (), "b": ("--threads", "1"), "c": ("--threads", "2", "--checkpointing")}.items():
        lines = train(chats, tmp_path / name, "--max-steps", "6", "--json", *more).stdout.splitlines()
        assert json.loads(lines[-1])["done"] and json.loads(lines[-1])["step"] == 6
        seen.add((tmp_path / name / "adapter.gguf").read_bytes())
    assert len(seen) == 1


def test_moments_of_bytes(chats, tmp_path):
    whole = json.loads(train(chats, tmp_path / "f32", "--max-steps", "6", "--json").stdout.splitlines()[-1])
    lines = train(chats, tmp_path / "8bit", "--max-steps", "6", "--json", "--moments", "8bit").stdout.splitlines()
    assert json.loads(lines[-1])["memory_bytes"] < whole["memory_bytes"] - 5 * whole["parameters"]
    assert json.loads(lines[-1])["numerics_id"] != whole["numerics_id"]
    assert (tmp_path / "f32/adapter.gguf").read_bytes() != (tmp_path / "8bit/adapter.gguf").read_bytes()
    refused = train(chats, tmp_path / "8bit", "--max-steps", "6", "--resume", code=65)
    assert '--moments is "8bit" there and "f32" here' in refused.stderr


def test_ctrl_c_and_resume(chats, tmp_path):
    train(chats, tmp_path / "whole", "--epochs", "30")
    process = subprocess.Popen(words(chats, tmp_path / "cut", "--epochs", "30", "--json"), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # full after some lines: it is never far ahead of who reads
    for line in process.stdout:
        if json.loads(line)["step"] == 3:
            break
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    step = int(re.search(r"checkpoint is of step (\d+)", told)[1])
    assert step >= 3 and told.splitlines()[-1].strip().endswith("--resume")
    command = told.splitlines()[-1].strip()
    assert command.startswith("hearth train -m ")
    done = subprocess.run(["sh", "-c", HEARTH + command[len("hearth"):]], capture_output=True, text=True, timeout=100,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["step"] in (step, step + 1)
    for name in ("adapter.gguf", "manifest.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def kills(chats, folder, n, seed):
    """A run that is killed n times in all, at random times; its adapter is the undisturbed one's."""
    rng = random.Random(seed)
    more = ("--epochs", "3", "--checkpoint-every", "2", "--dropout", "0.1")
    start = time.monotonic()
    train(chats, folder / "whole", *more)
    whole = time.monotonic() - start
    done, rounds = 0, 0
    while done < n:
        rounds += 1
        out = folder / f"cut{rounds}"
        code = None
        while code != 0:
            process = subprocess.Popen(words(chats, out, *more, "--resume"), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
            try:
                process.wait(timeout=rng.uniform(0, 0.4 * whole) if done < n else 100)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
            code = process.returncode
            assert code in (0, -signal.SIGKILL), process.stderr.read()
        assert (out / "adapter.gguf").read_bytes() == (folder / "whole" / "adapter.gguf").read_bytes()
        assert (out / "manifest.json").read_bytes() == (folder / "whole" / "manifest.json").read_bytes()


def test_a_resume_of_nothing_says_that_it_begins(chats, tmp_path):
    told = f"{tmp_path / 'new'}: holds no training to go on with: it begins\n"
    assert told in train(chats, tmp_path / "new", "--resume", "--epochs", "1").stderr
    assert told not in train(chats, tmp_path / "new", "--resume", "--epochs", "1").stderr


def test_some_kills(chats, tmp_path):
    kills(chats, tmp_path, 8, 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_hundred_kills(chats, tmp_path):
    kills(chats, tmp_path, 200, int(os.environ.get("HEARTH_TEST_SEED", "2")))


def test_bad_words_and_data(chats, tmp_path):
    empty, binary, absent = tmp_path / "empty.json", tmp_path / "binary.json", tmp_path / "absent.json"
    empty.write_bytes(b"")
    binary.write_bytes(bytes(range(256)))
    wrong = ((empty, "is empty", 65), (binary, "is not text", 65), (absent, "absent", 66))
    for i, (file, cause, code) in enumerate(wrong):
        done = train(file, tmp_path / f"bad{i}", code=code)
        assert cause in done.stderr and done.stderr.count("\n") == 1
        assert not (tmp_path / f"bad{i}").exists()
    for more in (("--seq", "100000"), ("--rank", "0"), ("--schedule", "stairs"), ("--mask", "no"),
                 ("--precision", "f8"), ("--moments", "7bit"), ("--targets", "attn_z"), ("--lr", "fast")):
        done = train(chats, tmp_path / "no", *more, code=65 if more[0] in ("--seq", "--targets") else 2)
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "no").exists()
    assert "--seq must lie between 2 and 4194304 (" in train(chats, tmp_path / "no", "--seq", "1", code=2).stderr
    assert subprocess.run([HEARTH, "train"], capture_output=True, check=False).returncode == 2
    done = train(chats, tmp_path / "lost", "--lr", "1e6", "--decay", "1", "--clip", "0", "--warmup", "0", "--epochs",
                 "20", "--schedule", "constant", code=65)
    assert "not a finite number" in done.stderr and "chats.jsonl line" in done.stderr


def test_what_is_left_out_is_told(chats, tmp_path):
    some = tmp_path / "some.jsonl"
    some.write_text(chats.read_text() + '{"messages": 1}\n' + '{"messages": []')
    told = train(some, tmp_path / "run", "--max-steps", "1").stderr
    assert "some.jsonl: left out 1: half-written: the file ends inside it (first: line 42)\n" in told
    assert "some.jsonl: left out 1: a field is missing or of another kind (first: line 41)\n" in told
    some.write_text('{"messages": 1}\n' * 3)
    told = train(f"{some}:messages", tmp_path / "none", "--max-steps", "1", code=65).stderr
    assert "3 records of some.jsonl were left out: a field is missing or of another kind (first: line 1)" in told
    for data, more, cause in ((chats, ("--held-out", "0.99"), "samples are held out"),
                              (f"{chats}:0", (), "weights leave nothing to train on"),
                              (chats, ("--held-out", "0", "--patience", "2"), "patience needs held-out")):
        assert cause in train(data, tmp_path / "no", *more, "--max-steps", "1", code=65).stderr


def on_a_terminal(command, columns):
    """What is drawn on a terminal of so many columns: its lines, each as it once stood."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs) as running:
        os.close(theirs)
        drawn = b""
        try:
            while piece := os.read(ours, 65536):
                drawn += piece
        except OSError:  # the other side is gone
            pass
        assert running.wait() == 0, drawn
    os.close(ours)
    return [line for line in re.split(r"\r\x1b\[K|\r\n", drawn.decode()) if line]


def test_progress_on_a_terminal(tmp_path):
    train_it = [HEARTH, "train", "-m", TINY, "--template", "chatml", "--seq", "128", "--near", "0"]
    many = write_chats(tmp_path / "many.jsonl", 100_000)  # a line is drawn each tenth of a second
    whole = [*train_it, "--data", many, "--held-out", "0", "--max-steps", "1", "--out", tmp_path / "whole"]
    lines = on_a_terminal(whole, 120)
    numbers = [int(line.split()[1]) for line in lines if line.startswith("reading: ")]
    assert numbers and numbers == sorted(numbers) and 0 < numbers[-1] <= 100_000
    data = write_chats(tmp_path / "chats.jsonl", 8000)
    command = [*train_it, "--data", data, "--max-steps", "150", "--eval-every", "75", "--held-out", "0.3", "--out"]
    lines = on_a_terminal([*command, tmp_path / "wide"], 120)
    assert any(re.fullmatch(r"\[ {20}\] step 0 of 150  evaluating what is held out: \d+ %", line) for line in lines)
    step = r"\[=* *\] step \d+ of 150  loss \d\.\d{4}  held out \d\.\d{4}  \d+ tok/s  [-0-9.]+( s| min)? left"
    assert any(re.fullmatch(step, line) for line in lines), lines[-3:]
    lines = on_a_terminal([*command, tmp_path / "narrow"], 60)
    told = [line for line in lines if not line.startswith("hearth: ")]
    assert max(map(len, told)) < 60, "a longer line would stay on the terminal, piece by piece"
    assert any(line.startswith("step ") and " loss " in line for line in told)


def test_a_full_disk_tells_how_to_go_on(chats, tmp_path):
    def limit():  # stands for the disk: the checkpoint fits, the log grows beyond it
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    whole, out = tmp_path / "whole", tmp_path / "run"
    train(chats, whole, "--max-steps", "250")
    full = subprocess.run(words(chats, out, "--max-steps", "250"), capture_output=True, text=True, timeout=250,
                          check=False, preexec_fn=limit)
    assert full.returncode == 74
    first, then, again = full.stderr.splitlines()
    assert first.startswith(f"hearth: {out}/") and "File too large" in first
    step = int(re.fullmatch(r"hearth: not finished; the checkpoint is of step (\d+)\. Go on with:", then)[1])
    assert 50 <= step < 250 and step % 50 == 0
    done = subprocess.run([HEARTH, *shlex.split(again)[1:]], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "adapter.gguf").read_bytes() == (whole / "adapter.gguf").read_bytes()


def test_early_stop_tells_what_stays(chats, tmp_path):
    done = train(chats, tmp_path / "run", "--eval-every", "1", "--patience", "2", "--lora-plus", "900",
                 "--schedule", "constant", "--warmup", "0", "--epochs", "100")  # random words: learnt for so long
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    held_out = {x["step"]: x["held_out"] for x in log if "held_out" in x}
    best = min(held_out, key=held_out.get)
    assert max(held_out) == best + 2
    assert f"held-out loss {held_out[best]:.4f}, before {held_out[0]:.4f}" in done.stdout
    assert ("was better than the beginning" if best == 0 else f"(of step {best}, the best one)") in done.stdout


def test_a_folder_is_an_adapter(chats, tmp_path):
    train(chats, tmp_path / "run", "--max-steps", "2")
    train(chats, tmp_path / "on", "--max-steps", "1", "--init", tmp_path / "run")
    for more in (("--rank", "4"), ("--alpha", "3"), ("--targets", "attn_q"), ("--rslora",)):  # it has its own
        told = train(chats, tmp_path / "no", "--init", tmp_path / "run", *more, code=2).stderr
        assert f"leave {more[0]} out" in told and told.count("\n") == 1
    in_box = subprocess.run([HEARTH, "train", "start", "set", "new", "--init", "old", "--alpha", "3"],
                            capture_output=True, text=True, check=False)
    assert in_box.returncode == 2 and "leave --alpha out" in in_box.stderr

    def adapter(*more):
        return subprocess.run([HEARTH, "adapter", *map(str, more)], capture_output=True, text=True, check=False)

    told = [adapter("inspect", "--json", path).stdout for path in (tmp_path / "run", tmp_path / "run/adapter.gguf")]
    assert told[0] == told[1] and json.loads(told[0])["targets"]
    assert adapter("export", tmp_path / "run", "--to", "peft", "--out", tmp_path / "peft").returncode == 0
    # What is read is never what is written.
    before = (tmp_path / "run/adapter.gguf").read_bytes()
    model = tmp_path / "model.gguf"
    model.write_bytes(Path(TINY).read_bytes())
    for more in (("merge", tmp_path / "run", "-m", TINY, "--out", tmp_path / "run/adapter.gguf"),
                 ("import", tmp_path / "peft", "--base", model, "--out", model)):
        done = adapter(*more)
        assert done.returncode == 2 and "name another file to write" in done.stderr
    assert (tmp_path / "run/adapter.gguf").read_bytes() == before and model.read_bytes() == Path(TINY).read_bytes()


def test_a_huge_file_with_one_line(tmp_path):
    file = tmp_path / "huge.json"
    with open(file, "wb") as out:
        out.write(b'[{"instruction": "a question", "output": "an answer"}, {"instruction": "')
        for _ in range(48):
            out.write(b"x" * (1 << 20))
    assert "not" not in train(file, tmp_path / "run", "--held-out", "0", "--max-steps", "1").stderr
    skipped = json.loads((tmp_path / "run/manifest.json").read_text())["files"][0]["skipped"]
    assert set(skipped.values()) == {1}


def test_a_resume_that_is_another_run(chats, tmp_path):
    out = tmp_path / "run"
    train(chats, out, "--max-steps", "4", "--checkpoint-every", "2")
    before = (out / "adapter.gguf").read_bytes()
    for more, cause in ((("--max-steps", "5"), "--max-steps is 4 there and 5 here"),
                        (("--max-steps", "4", "--alpha", "3"), "--alpha is 16.0 there and 3.0 here")):
        done = train(chats, out, *more, "--resume", code=65)
        assert cause in done.stderr and done.stderr.count("\n") == 1
    if json.loads((out / "manifest.json").read_text())["run"]["precision"] != "f32":
        done = train(chats, out, "--max-steps", "4", "--precision", "f32", "--resume", code=65)
        assert '--precision is "bf16/' in done.stderr and 'there and "f32" here' in done.stderr
    other = write_chats(tmp_path / "chats.jsonl", 41)
    assert "training data has changed" in train(other, out, "--max-steps", "4", "--resume", code=65).stderr
    assert (out / "adapter.gguf").read_bytes() == before


def test_a_folder_has_one_run_at_a_time(chats, tmp_path):
    first = subprocess.Popen(words(chats, tmp_path / "run", "--epochs", "400", "--json"), stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
    try:
        first.stdout.readline()
        assert "another training" in train(chats, tmp_path / "run", "--resume", code=75).stderr
    finally:
        first.kill()
        first.communicate()
