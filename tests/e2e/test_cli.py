# SPDX-License-Identifier: Apache-2.0
"""The `hearth` command from outside: help, exit codes, JSON, terminals, and answers of the default model."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import fcntl
import time
from pathlib import Path

import numpy
import pytest
from gguf_tiny import N_EMBD, N_VOCAB, tiny_model

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("HEARTH_TEST_BUILD", ROOT / "build"))
HEARTH = str(BUILD / "hearth")
COMMANDS = (
    "run chat pull models status doctor pair people devices token conversations tokenize logits bench inspect data "
    "adapter eval train"
).split()
LATER = (
    "convert quantize imatrix embed recipe consent forget nights backup service"
).split()
COMMON = {"--device", "--threads", "--json", "--help"}
MAN = (ROOT / "docs/man/hearth.1").read_text()


@pytest.fixture
def home(tmp_path):
    return tmp_path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    file.write_bytes(tiny_model())
    return str(file)


@pytest.fixture(scope="session")
def smollm2():
    path = os.environ.get("HEARTH_TEST_SMOLLM2")
    cached = Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache",
        "hearth/models/SmolLM2-135M-Instruct-Q4_1.gguf",
    )
    if not path and not cached.exists():
        pytest.skip("no SmolLM2 model")
    return path or str(cached)


def environment(home, **more):
    keep = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("HEARTH_") and k not in ("NO_COLOR", "XDG_RUNTIME_DIR")
    }
    folders = {f"XDG_{n}_HOME": str(home / n.lower()) for n in ("CACHE", "CONFIG", "DATA", "STATE")}
    return keep | folders | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")} | more


def run(home, *words, stdin="", timeout=120, binary=False, **env):
    return subprocess.run(
        [HEARTH, *words],
        env=environment(home, **env),
        input=stdin.encode() if binary else stdin,
        capture_output=True,
        text=not binary,
        timeout=timeout,
    )


def one_line(done, code):
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1 and done.stdout == "", (done.stdout, done.stderr)


def flags_of(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


# ---------------------------------------------------------------- help and usage


def test_help_of_hearth(home):
    done = run(home, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: hearth") and done.stderr == ""
    assert set(re.findall(r"^  ([a-z]+) ", done.stdout, re.M)) - {"hearth"} == set(COMMANDS + LATER)
    assert run(home, "--version").stdout.startswith("hearth ")


def test_without_a_command(home):
    done = run(home)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("Usage:")
    one_line(run(home, "dance"), 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(home, command):
    done = run(home, command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"Usage: hearth {command}")
    last = done.stdout.rstrip("\n").split("\n")
    assert last[-2] == "Example:" and "hearth " + command in last[-1]
    assert COMMON <= flags_of(done.stdout)
    assert max(map(len, last)) <= 120


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_option(home, command):
    one_line(run(home, command, "--no-such-option"), 2)


@pytest.mark.parametrize("command", LATER)
def test_what_comes_later(home, command):
    done = run(home, command, "--anything")
    one_line(done, 69)
    assert "later" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_man_page_agrees(home, command):
    """Every flag of --help stands in the command's section of the man page, and the other way round."""
    section = re.search(rf"^\.SS hearth {command}\b.*?(?=^\.S[SH] )", MAN, re.M | re.S)
    assert section, f"hearth.1 has no section on {command}"
    written = flags_of(section[0].replace("\\-", "-")) | COMMON
    assert written == flags_of(run(home, command, "--help").stdout.split("\nExample:")[0])


def test_man_page_of_hearthd_agrees(home):
    written = flags_of((ROOT / "docs/man/hearthd.8").read_text().replace("\\-", "-"))
    help_text = subprocess.run([BUILD / "hearthd", "--help"], capture_output=True, text=True).stdout
    assert written == flags_of(help_text)


def test_completion_knows_commands_and_flags(home):
    script = f"""
        source '{ROOT}/tools/completions/hearth.bash'
        PATH='{BUILD}':$PATH
        COMP_WORDS=(hearth to); COMP_CWORD=1; _hearth; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(hearth run --te); COMP_CWORD=2; _hearth; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(hearth models ''); COMP_CWORD=2; _hearth; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], env=environment(home), capture_output=True, text=True)
    assert done.stdout.splitlines() == ["token tokenize", "--temp --template", "list use rm"], done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", "-n"],
        ["run", "--temp", "warm"],
        ["run", "--temp", "9"],
        ["run", "--temp", "nan"],
        ["run", "-n", "12x"],
        ["run", "--threads", "0"],
        ["run", "--threads", "-1"],
        ["run", "--seed", "99999999999999999999999"],
        ["run", "--device", "tpu"],
        ["run", "--kv", "f8"],
        ["run", "--template", "none-of-these"],
        ["run", "one", "two"],
        ["models"],
        ["models", "dance"],
        ["models", "use"],
        ["people", "add"],
        ["devices", "revoke"],
        ["token", "make"],
        ["token", "create", "--person", "Ann"],
        ["conversations", "show"],
        ["conversations", "list", "x"],
        ["pair"],
        ["pair", "--person", "Ann", "--ttl", "1"],
        ["pull"],
        ["pull", "--sha256", "abc", "x"],
        ["logits", "--ids", "x"],
        ["inspect"],
        ["tokenize", "extra"],
    ],
)
def test_usage_errors(home, words):
    one_line(run(home, *words), 2)


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    "words",
    [["run", "-p", "x"], ["tokenize"], ["bench"], ["inspect", "default"], ["doctor", "--fit", "default"]],
)
def test_missing_default_model(home, words):
    done = run(home, *words)
    one_line(done, 66)
    assert "hearth pull default" in done.stderr


def test_missing_and_broken_model_file(home, tiny):
    one_line(run(home, "run", "-m", "nowhere/x.gguf", "-p", "x"), 66)
    one_line(run(home, "run", "-m", str(home), "-p", "x"), 66)
    broken = home / "broken.gguf"
    broken.write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 64)
    for words in (["run", "-p", "x"], ["tokenize"], ["bench"]):
        one_line(run(home, words[0], "-m", str(broken), *words[1:]), 65)
    one_line(run(home, "inspect", str(broken)), 65)


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "vulkan", "vulkan:1"])
@pytest.mark.parametrize("words", [["run", "-p", "x"], ["bench"], ["tokenize"]])
def test_absent_device(home, tiny, device, words):
    one_line(run(home, *words, "-m", tiny, "--device", device), 69)


def peft_folder(folder, seed=1, k=N_EMBD):
    """What PEFT would write for v_proj of the tiny model's one layer."""
    random = numpy.random.default_rng(seed)
    name = "base_model.model.model.layers.0.self_attn.v_proj.lora_"
    values = {name + "A.weight": (2, k), name + "B.weight": (64, 2)}
    header, data = {}, b""
    for tensor, shape in values.items():
        block = random.standard_normal(shape).astype("<f4").tobytes()
        header[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(block)]}
        data += block
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_answers_with_adapters(home, tiny, tmp_path):
    folder, ids, out = peft_folder(tmp_path / "a"), tmp_path / "ids", tmp_path / "out.npy"
    ids.write_text("1 2 3 70 80 90 100")

    def logits(*adapters):
        words = [w for a in adapters for w in ("--adapter", a)]
        done = run(home, "logits", "-m", tiny, "--ids", str(ids), "--out", str(out), *words)
        assert done.returncode == 0, done.stderr
        return numpy.load(out)

    base, under = logits(), logits(folder)
    assert not numpy.array_equal(base, under)
    assert numpy.array_equal(base, logits(folder + ":0"))
    assert numpy.array_equal(under, logits(folder + ":1.0"))
    # imported: the same, and its base is checked; a folder that training writes; a sum
    trained = tmp_path / "trained"
    trained.mkdir()
    file = str(trained / "adapter.gguf")
    assert run(home, "adapter", "import", folder, "--base", tiny, "--out", file).returncode == 0
    assert numpy.array_equal(under, logits(file))
    assert numpy.array_equal(under, logits(str(trained)))
    assert numpy.allclose(logits(folder + ":2"), logits(folder, str(trained)), atol=1e-3)
    assert numpy.array_equal(base, logits(folder + ":0", file + ":0"))
    # the hash of the base is remembered only while the file stays as it is
    other = tmp_path / "other.gguf"
    changed = bytearray(Path(tiny).read_bytes())
    other.write_bytes(changed)
    done = run(home, "logits", "-m", str(other), "--ids", str(ids), "--out", str(out), "--adapter", file)
    assert done.returncode == 0, done.stderr
    changed[-1] ^= 1
    other.write_bytes(changed)
    done = run(home, "logits", "-m", str(other), "--ids", str(ids), "--out", str(out), "--adapter", file)
    one_line(done, 65)
    assert "another base" in done.stderr
    # answers
    plain = run(home, "run", "-m", tiny, "-p", "hello", "--temp", "0", "-n", "20", "--raw")
    same = run(home, "run", "-m", tiny, "-p", "hello", "--temp", "0", "-n", "20", "--raw", "--adapter", folder + ":0")
    more = run(home, "run", "-m", tiny, "-p", "hello", "--temp", "0", "-n", "20", "--raw", "--adapter", folder + ":5")
    assert plain.returncode == same.returncode == more.returncode == 0
    assert plain.stdout == same.stdout != more.stdout


def test_adapters_that_cannot_be(home, tiny, tmp_path):
    folder = peft_folder(tmp_path / "a")
    wrong = peft_folder(tmp_path / "b", k=96)
    for word, code in (
        (str(tmp_path / "none"), 66), (folder + ":", 2), (folder + ":x", 2), (folder + ":nan", 2), (wrong, 65),
        ("", 66), (tiny, 69),
    ):
        one_line(run(home, "run", "-m", tiny, "-p", "x", "--adapter", word), code)
    (tmp_path / "a:7").symlink_to(folder)  # a name with a colon is a name
    assert run(home, "run", "-m", tiny, "-p", "x", "-n", "1", "--adapter", str(tmp_path / "a:7")).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["people", "list"],
        ["pair", "--person", "Ann"],
        ["devices", "list"],
        ["token", "create", "--person", "Ann", "--name", "x"],
        ["conversations", "list"],
        ["chat"],
    ],
)
def test_without_hearthd(home, words):
    done = run(home, *words)
    one_line(done, 69)
    assert "not running" in done.stderr


def test_doctor_without_a_model(home):
    done = run(home, "doctor", "--json")
    report = json.loads(done.stdout)
    found = {check["name"]: check["result"] for check in report["checks"]}
    assert done.returncode == 1 and report["ok"] is False and found["model"] == "problem"
    assert {"cpu", "threads", "memory", "disk", "tls", "hearthd", "state"} <= found.keys()
    state = home / "state/hearth"
    state.mkdir(parents=True)
    state.chmod(0o755)
    done = run(home, "doctor")
    assert re.search(r"^problem +state +.*chmod 700", done.stdout, re.M)


def test_output_that_cannot_be_written(home, tiny):
    with open("/dev/full", "w") as full:
        for words in (["--help"], ["inspect", tiny], ["pull", "--list"]):
            done = subprocess.run(
                [HEARTH, *words], env=environment(home), stdout=full, stderr=subprocess.PIPE, text=True
            )
            assert done.returncode == 74, (words, done.stderr)


# ---------------------------------------------------------------- models


def test_models_list_use_rm(home, tiny):
    assert run(home, "pull", tiny, "--name", "small.gguf").returncode == 0
    listed = json.loads(run(home, "models", "list", "--json").stdout)
    assert [m["name"] for m in listed] == ["small"] and listed[0]["used"] is False
    assert listed[0]["memory_bytes"] > 0 and listed[0]["size_bytes"] == Path(tiny).stat().st_size
    one_line(run(home, "tokenize", stdin="hello"), 66)
    assert run(home, "models", "use", "small").returncode == 0
    assert json.loads(run(home, "models", "list", "--json").stdout)[0]["used"] is True
    assert run(home, "tokenize", stdin="hello").stdout == "259 260 114\n"
    one_line(run(home, "models", "use", "absent"), 66)
    one_line(run(home, "models", "rm", "../config/model"), 2)
    assert run(home, "models", "rm", "small").returncode == 0
    one_line(run(home, "models", "rm", "small"), 66)
    assert json.loads(run(home, "models", "list", "--json").stdout) == []


def test_pull_list(home):
    entries = json.loads(run(home, "pull", "--list", "--json").stdout)
    assert [e["name"] for e in entries][:2] == ["default", "gemma3-270m"]
    assert entries[0]["size_bytes"] == 98362432 and entries[0]["memory_bytes"] > 98362432
    assert all(e["here"] is False for e in entries)
    assert "default" in run(home, "pull", "--list", "--fits").stdout


def test_one_memory_for_one_model(home, tiny):
    """However it is asked for: the fit's, also where the catalogue has a figure for who has not got the file yet."""
    assert run(home, "pull", tiny, "--name", "SmolLM2-135M-Instruct-Q4_1.gguf").returncode == 0
    (listed,) = json.loads(run(home, "models", "list", "--json").stdout)
    known = json.loads(run(home, "pull", "--list", "--json").stdout)[0]
    assert known["here"] is True and known["memory_bytes"] == listed["memory_bytes"] > 0


def test_fit(home, tiny):
    fit = json.loads(run(home, "doctor", "--fit", tiny, "--json").stdout)
    assert fit["fits"] is True and 0 < fit["n_ctx_fit"] <= fit["n_ctx_train"] == 128
    assert (
        fit["weight_bytes"] > 0
        and fit["kv_bytes_per_position"] > 0
        and fit["available_bytes"] > fit["weight_bytes"]
    )
    done = run(home, "doctor", "--fit", tiny, "--ctx", "1000000", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["fits"] is False


def test_inspect(home, tiny):
    told = json.loads(run(home, "inspect", tiny, "--json").stdout)
    assert told["n_tensors"] == 11 and told["keys"]["general.name"]["value"] == "tiny"
    assert "blk.0.ffn_down.weight" in run(home, "inspect", tiny).stdout


# ---------------------------------------------------------------- tokens and logits


@pytest.mark.parametrize(
    "text", ["", "hello", "  two  blanks\n\n\ttabs ", "Grüße, 世界! 🙂", "<|im_start|>user", "a" * 3000]
)
def test_tokenize_round_trip(home, smollm2, text):
    ids = run(home, "tokenize", "-m", smollm2, stdin=text)
    assert ids.returncode == 0 and re.fullmatch(r"(\d+( \d+)*)?\n", ids.stdout), ids.stderr
    assert run(home, "tokenize", "-m", smollm2, "--decode", stdin=ids.stdout).stdout == text
    assert json.loads(run(home, "tokenize", "-m", smollm2, "--json", stdin=text).stdout)["ids"] == [
        int(x) for x in ids.stdout.split()
    ]


def test_tokenize_special(home, smollm2):
    plain = run(home, "tokenize", "-m", smollm2, stdin="<|im_start|>").stdout.split()
    special = run(home, "tokenize", "-m", smollm2, "--special", stdin="<|im_start|>").stdout.split()
    assert len(plain) > 1 and special == ["1"]
    back = run(home, "tokenize", "-m", smollm2, "--special", "--decode", stdin="1").stdout
    assert back == "<|im_start|>" and run(home, "tokenize", "-m", smollm2, "--decode", stdin="1").stdout == ""


def test_decode_refuses_what_is_no_id(home, tiny):
    for text in ("1 two 3", "1.5", "-1", "99999999999"):
        one_line(run(home, "tokenize", "-m", tiny, "--decode", stdin=text), 65)
    one_line(run(home, "tokenize", "-m", tiny, "--decode", stdin=str(N_VOCAB)), 65)
    broken = json.loads(run(home, "tokenize", "-m", tiny, "--decode", "--json", stdin="100 230").stdout)
    assert isinstance(broken["text"], str), "bytes that are no UTF-8 are still valid JSON"


def logits(home, model, ids, *words):
    (home / "ids").write_text(" ".join(map(str, ids)))
    out = home / "logits.npy"
    done = run(home, "logits", "-m", model, "--ids", str(home / "ids"), "--out", str(out), *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and not Path(f"{out}.part").exists()
    return out.read_bytes()


@pytest.mark.parametrize("words", [[], ["--exact"], ["--kv", "q8"]])
def test_logits_do_not_depend_on_chunks_and_threads(home, tiny, words):
    ids = [(7 * i * i + 3) % N_VOCAB for i in range(50)]
    first = logits(home, tiny, ids, *words)
    for more in (["--chunk", "1"], ["--chunk", "7"], ["--chunk", "50", "--threads", "1"]):
        assert logits(home, tiny, ids, *words, *more) == first, more
    array = numpy.load(home / "logits.npy")
    assert array.shape == (50, N_VOCAB) and array.dtype == numpy.float32 and numpy.isfinite(array).all()


def test_logits_of_the_default_model(home, smollm2):
    ids = [504, 3575, 282, 4649, 314]  # "The capital of France is"
    assert logits(home, smollm2, ids, "--chunk", "2") == logits(home, smollm2, ids)
    best = numpy.load(home / "logits.npy")[-1].argmax()
    assert run(home, "tokenize", "-m", smollm2, "--decode", stdin=str(best)).stdout.strip() in (
        "Paris",
        "the",
        "a",
        "one",
    )


def test_logits_errors(home, tiny):
    (home / "ids").write_text("1 2 3")
    out = str(home / "x.npy")
    one_line(run(home, "logits", "-m", tiny, "--ids", "absent", "--out", out), 66)
    one_line(run(home, "logits", "-m", tiny, "--ids", str(home / "ids"), "--out", str(home / "no/x.npy")), 73)
    one_line(run(home, "logits", "-m", tiny, "--ids", str(home / "ids"), "--out", "/dev/full"), 74)
    (home / "ids").write_text(f"1 {N_VOCAB}")
    one_line(run(home, "logits", "-m", tiny, "--ids", str(home / "ids"), "--out", out), 65)
    (home / "ids").write_text("\n")
    one_line(run(home, "logits", "-m", tiny, "--ids", str(home / "ids"), "--out", out), 65)
    assert not Path(out).exists() and not Path(out + ".part").exists()


# ---------------------------------------------------------------- answers


def test_one_answer_and_nothing_else(home, smollm2):
    done = run(home, "run", "-m", smollm2, "-p", "What is the capital of France?", "--temp", "0", "-n", "40")
    assert done.returncode == 0 and done.stderr == ""
    assert (
        "Paris" in done.stdout
        and done.stdout.endswith("\n")
        and "\x1b" not in done.stdout
        and "\r" not in done.stdout
    )


def test_answer_as_json(home, smollm2):
    words = [
        "run",
        "-m",
        smollm2,
        "-p",
        "What is the capital of France?",
        "--temp",
        "0",
        "-n",
        "40",
        "--json",
    ]
    told = json.loads(run(home, *words).stdout)
    assert "Paris" in told["text"]
    usage = told["usage"]
    assert (
        usage["completion_tokens"] > 0
        and usage["prompt_tokens"] > 5
        and re.fullmatch(r"[0-9a-f]{32}", usage["numerics_id"])
    )
    assert usage["stop_reason"] in ("end", "max_tokens")


def test_each_line_of_a_pipe_is_a_question(home, smollm2):
    text = "What is the capital of France?\n\nAnd what is the capital of Italy?\n"
    done = run(home, "run", "-m", smollm2, "-n", "40", stdin=text)
    assert done.returncode == 0 and done.stderr == ""
    assert "Paris" in done.stdout and "Rome" in done.stdout
    assert (
        run(home, "run", "-m", smollm2, "-n", "40", stdin=text).stdout == done.stdout
    ), "programs get the same answer"


def test_verbose_tells_on_stderr(home, tiny):
    done = run(home, "run", "-m", tiny, "--raw", "-p", "hello", "-n", "4", "--seed", "7", "-v")
    assert done.returncode == 0
    assert re.search(r"tok/s.*seed 7; numerics [0-9a-f]{32}", done.stderr)


def test_seed(home, tiny):
    words = ["run", "-m", tiny, "--raw", "-p", "hello", "-n", "12", "--temp", "2", "--json"]
    answers = [json.loads(run(home, *words, "--seed", seed).stdout) for seed in ("1", "1", "2")]
    assert answers[0]["text"] == answers[1]["text"] != answers[2]["text"]
    assert answers[0]["usage"]["seed"] == "1"


def test_stop_string(home, smollm2):
    words = ["run", "-m", smollm2, "-p", "What is the capital of France?", "--temp", "0", "-n", "40"]
    done = run(home, *words, "--stop", "Paris", "--json")
    told = json.loads(done.stdout)
    assert "Paris" not in told["text"] and told["usage"]["stop_reason"] == "stop_string"


def test_prompt_that_does_not_fit(home, tiny):
    done = run(home, "run", "-m", tiny, "--raw", "--ctx", "64", "-p", "x" * 500)
    one_line(done, 65)
    assert "500" in done.stderr and "64" in done.stderr, "both counts are told"


def test_model_without_a_template(home, tiny):
    done = run(home, "run", "-m", tiny, "-p", "hello", "-n", "3", "--temp", "0")
    assert done.returncode == 0 and "no chat template" in done.stderr
    done = run(home, "run", "-m", tiny, "-p", "hello", "-n", "3", "--temp", "0", "--template", "chatml")
    assert done.returncode == 0 and done.stderr == ""


def test_bench_fields(home, tiny):
    words = ["bench", "-m", tiny, "--prompt", "32", "--gen", "8", "--clients", "2", "--repeat", "1", "--json"]
    done = run(home, *words, "--threads", "1")
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) == 1
    told = json.loads(done.stdout)
    assert (
        list(told)
        == (
            "prefill_tokens_per_second decode_tokens_per_second clients_tokens_per_second "
            "decode_gib_per_second copy_gib_per_second first_token_ms peak_rss_mib barrier_ns threads device cpu "
            "weight_mib int8_peak_gops int8_amx_peak_gops"
        ).split()
    )
    assert told["threads"] == 1 and told["device"].startswith("cpu") and told["cpu"]
    assert all(told[k] > 0 for k in list(told)[:7])
    assert told["copy_gib_per_second"] < 10000, "no machine reads that fast"


def test_bench_finds_a_conversation_again(home, smollm2):
    """In its session, in another, and by another engine: else the whole prompt is computed anew."""
    words = ["bench", "-m", smollm2, "--prompt", "32", "--gen", "8", "--repeat", "1", "--second-turn", "--json"]
    told = json.loads(run(home, *words).stdout)
    for key in ("second_turn_ms", "second_turn_new_session_ms", "second_turn_restart_ms"):
        assert 0 < told[key] < told["first_turn_ms"] / 2, key


# ---------------------------------------------------------------- terminals


class Terminal:
    """A command on a pseudo terminal of its own."""

    def __init__(self, home, *words, **env):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(HEARTH, [HEARTH, *words], environment(home, TERM="xterm", LANG="C.UTF-8", **env))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.text = ""

    def until(self, pattern, timeout=60):
        end = time.monotonic() + timeout
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        assert re.search(pattern, self.text), f"no {pattern!r} in {self.text!r}"

    def type(self, text):
        self.text = ""
        os.write(self.fd, text.encode())

    def end(self, timeout=60):
        stop = time.monotonic() + timeout
        while time.monotonic() < stop:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:  # the other side is closed
                    time.sleep(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"it does not end: {self.text!r}")


def test_talking_on_a_terminal(home, tiny):
    terminal = Terminal(
        home, "run", "-m", tiny, "--template", "chatml", "--temp", "0", "-n", "100", "--ctx", "4096"
    )
    terminal.until(r"/help.*\n.*> ")
    terminal.type("/help\n")
    terminal.until("/reset.*(?s:.)*> ")
    terminal.type("/reset\n")
    terminal.until("A new conversation(?s:.)*> ")
    terminal.type("hello\n")
    terminal.until(r"> $")
    terminal.type("\x03")  # an empty line is dropped, the talk goes on
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_interrupt_stops_the_answer_only(home, smollm2):
    terminal = Terminal(home, "run", "-m", smollm2, "--temp", "0")
    terminal.until(r"/help.*\n.*> ")
    terminal.type("Count from one to five hundred in words, one a line.\n")
    terminal.until(r"(?s)one a line\.\r\n.*\w+.*\w+")
    terminal.type("\x03")
    terminal.until("> $")
    terminal.type("/quit\n")
    assert terminal.end() == 0


def test_interrupt_of_a_single_answer(home, smollm2):
    endless = home / "endless.gbnf"  # no token of the vocabulary can spell its end
    endless.write_text("root ::= [a-z ]+ [\\x04]\n")
    process = subprocess.Popen(
        [HEARTH, "run", "-m", smollm2, "-p", "Count in words.", "--grammar", str(endless)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.read(3)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_bars_are_for_terminals(home, smollm2):
    """On a terminal hashing 92 MiB shows a bar; elsewhere there is none (the other tests see that)."""
    terminal = Terminal(home, "pull", smollm2, "--name", "copy.gguf")
    read = Path(f"/proc/{terminal.pid}/io")
    while int(re.search(r"rchar: (\d+)", read.read_text())[1]) < 4 << 20:
        pass
    os.kill(terminal.pid, signal.SIGSTOP)  # a job that is over at once would show no bar
    time.sleep(0.3)
    os.kill(terminal.pid, signal.SIGCONT)
    assert terminal.end() == 0
    assert "checking [" in terminal.text and "MiB" in terminal.text
    (home / "cache/hearth/models/copy.gguf").unlink()


def test_adapter(home, tiny, tmp_path):
    one_line(run(home, "adapter", "inspect", tiny), 69)  # a model is no adapter
    one_line(run(home, "adapter", "inspect", str(tmp_path / "none")), 66)
    assert run(home, "adapter", "merge", "a").returncode == 2  # no --out
    assert run(home, "adapter", "diff", "a").returncode == 2
    assert run(home, "adapter", "export", "a", "--to", "zip", "--out", "b").returncode == 2
    assert run(home, "adapter", "import", "a").returncode == 2
