# SPDX-License-Identifier: Apache-2.0
"""Learning on every family and in every weight format, beside PEFT on the same dequantised values: the first loss, the
gradient of every matrix of the adapter, ten steps, and the trained adapter's logits in PEFT and llama.cpp."""
import json
import struct
import subprocess

import families
import gguf
import numpy as np
import peers
import pytest
import torch
import training
from families import NARROW, WIDE, rope_of
from peers import HEARTH, run
from peft import LoraConfig, PeftModel, get_peft_model

HEAD = [*training.LINEARS, "lm_head"]
NAMES = dict(q_proj="attn_q", k_proj="attn_k", v_proj="attn_v", o_proj="attn_output", gate_proj="ffn_gate",
             up_proj="ffn_up", down_proj="ffn_down")
N_BATCHES, N_STEPS, RATE, N_DRAWS = 2, 10, 3e-3, 300
LENGTHS = (13, 1, 21, 2)  # packed into a micro-batch; longer than Gemma's window of 8, and a text of one token
LOSS_BOUND, GRADIENT_BOUND, CURVE_BOUND, LOGITS_BOUND = 1e-5, 1e-4, 1e-5, 1e-4
BF16_LOSS_BOUND, BF16_TIMES = 0.02, 3e4


def case(name, family, settings=NARROW, formats="F16", lengths=LENGTHS, n_rot=None, **lora):
    return pytest.param((family, settings, formats, lengths, n_rot, lora), id=name)


def narrow(**more):
    return dict(NARROW, **more)


MIXED = {"": "Q4_K", "v_proj": "Q6_K", "down_proj": "Q5_1", "up_proj": "Q8_0", "embed_tokens": "Q8_0", "k_proj": "F16"}
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
ODD = narrow(hidden_size=33, intermediate_size=65, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
             vocab_size=271)
CASES = [
    *(case(f"{family}-{name}", family, WIDE, name) for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")
      for family in ("llama", "gemma3")),
    *(case(f"{family}-{name}", family, NARROW, name) for name in ("F32", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
      for family in ("llama", "gemma3")),
    *(case(f"{family}-{name}", family, WIDE, name) for name in ("Q4_0", "Q4_K") for family in ("qwen2", "qwen3")),
    *(case(f"{family}-mixed", family, WIDE, MIXED) for family in families.BASES),
    *(case(f"{family}-own-head", family, narrow(tie_word_embeddings=False), target_modules=HEAD)
      for family in families.BASES),
    *(case(f"{family}-tied-head", family, target_modules=HEAD) for family in families.BASES),
    *(case(f"{family}-odd", family, ODD, "F32") for family in families.BASES),
    case("llama-biases", "llama", narrow(attention_bias=True)),
    case("llama-rope-freqs", "llama", narrow(rope_parameters=rope_of("llama", 1e4, **LLAMA3))),
    case("llama-rope-linear", "llama", narrow(rope_parameters=rope_of("llama", 1e4, rope_type="linear", factor=4.0))),
    case("gemma3-rope-linear", "gemma3",
         narrow(rope_parameters=rope_of("gemma3", 1e4, rope_type="linear", factor=8.0))),
    case("gemma3-soft-cap", "gemma3", narrow(final_logit_softcapping=3.0), target_modules=HEAD),
    case("gemma3-window-of-two", "gemma3", narrow(sliding_window=2)),
    case("gemma3-window-beyond", "gemma3", narrow(sliding_window=100)),
    case("gemma3-windows-irregular", "gemma3", narrow(num_hidden_layers=4, layer_types=[  # the file has a bool a layer
        "full_attention", "sliding_attention", "sliding_attention", "full_attention"])),
    case("gemma3-62-layers", "gemma3", narrow(  # its q is scaled otherwise
        head_dim=12, num_hidden_layers=62, layer_types=["sliding_attention", "full_attention"] * 31,
        query_pre_attn_scalar=8), lengths=(12,), target_modules=["q_proj", "up_proj"],
        layers_to_transform=[0, 1, 60, 61]),
    case("qwen2-partly-rotated", "qwen2", n_rot=4),
    case("qwen3-partly-rotated", "qwen3", narrow(head_dim=12), n_rot=6),
    case("qwen3-wide-heads", "qwen3", narrow(head_dim=20)),
    case("llama-one-kv-head", "llama", narrow(num_key_value_heads=1)),
    case("llama-all-kv-heads", "llama", narrow(num_key_value_heads=4)),
    case("llama-one-layer", "llama", narrow(num_hidden_layers=1)),
    case("gemma3-rank-1", "gemma3", r=1),
    case("llama-rank-256", "llama", r=256, use_rslora=True),
    case("qwen3-rank-256", "qwen3", r=256, use_rslora=True, target_modules=HEAD),
    case("qwen2-rslora", "qwen2", r=5, use_rslora=True),
    case("llama-ranks", "llama", r=4, rank_pattern={"v_proj": 2, "layers.1.self_attn.q_proj": 3, "down_proj": 17}),
    case("llama-q-of-one-layer", "llama", r=4, target_modules=["q_proj"], layers_to_transform=[1]),
    case("gemma3-down-of-the-first", "gemma3", r=4, target_modules=["down_proj"], layers_to_transform=[0]),
    case("llama-one-text", "llama", lengths=(100,)),
    case("gemma3-one-text", "gemma3", lengths=(100,)),
    case("qwen2-three-tokens", "qwen2", lengths=(3,)),
    case("gemma3-many-texts", "gemma3", lengths=(3,) * 30),
]


def rows_of(rng, lengths, n_vocab):
    """A batch: for each text its ids, and the weights of its targets, all of which add up to 1."""
    ids = [rng.integers(0, n_vocab, n).astype("<i4") for n in lengths]
    weights = [rng.choice([0, 0.5, 1, 2], max(n - 1, 0)).astype(np.float32) for n in lengths]
    weights[0][:] = 1
    total = sum(w.sum() for w in weights)
    return ids, [w / total for w in weights]


def write_rows(path, batches):
    lengths = [len(ids) for ids in batches[0][0]]
    first = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths).astype("<u4")
    position = np.concatenate([np.arange(n) for n in lengths]).astype("<u4")
    with open(path, "wb") as f:
        f.write(struct.pack("<II", sum(lengths), len(batches)))
        for ids, weights in batches:
            target = np.concatenate([np.append(one[1:], np.int32(-1)) for one in ids]).astype("<i4")
            weight = np.concatenate([np.append(w, np.float32(0)) for w in weights]).astype("<f4")
            for part in (np.concatenate(ids), position, first, target, weight):
                f.write(part.tobytes())
    return path


def loss_there(model, batch):
    """Each text on its own."""
    loss = 0
    for ids, weights in zip(*batch):
        if len(ids) > 1 and weights.any():
            ids = torch.from_numpy(ids.astype(np.int64))
            logits = model(ids[None]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits.double(), ids[1:], reduction="none")
            loss = loss + (each * torch.from_numpy(weights).double()).sum()
    return loss


def trained_there(model, batches):
    """Losses; from the adapter that is there, which may have a gradient already."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    losses = []
    for step in range(N_STEPS):
        optimizer.zero_grad()
        loss = loss_there(model, batches[step % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def here(program, model, adapter, rows, steps, out, precision="f32", micro=1):
    """Losses of `steps` steps, or of the gradient with none; None where the CPU has no such precision."""
    command = [program, model, adapter, rows, precision, steps, micro, RATE, out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode == 3:
        return None
    assert done.returncode == 0, done.stderr
    return np.array([json.loads(line)["loss"] for line in done.stdout.splitlines()[:-1]])


def new_adapter(model, base, folder, lora):
    """As an adapter that has learned something; its base stays as it is."""
    torch.manual_seed(7)
    lora = {"r": 6, "target_modules": training.LINEARS, **lora}
    peft = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_alpha=9, **lora))
    for name, value in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1 / lora["r"] ** 0.5)
    peft.save_pretrained(folder)
    run(HEARTH, "adapter", "import", folder, "--base", model, "--out", folder.with_suffix(".gguf"))
    return peft, folder.with_suffix(".gguf")


def gguf_name(key):
    parts = key.split(".")
    half = "lora_a" if "lora_A" in key else "lora_b"
    if "lm_head" in key:
        return f"output.weight.{half}"
    at = parts.index("layers")
    return f"blk.{parts[at + 1]}.{NAMES[parts[at + 3]]}.weight.{half}"


def gradients_there(peft, family, config):
    """By GGUF's name, in GGUF's order of rows."""
    out = {}
    for key, p in peft.named_parameters():
        if not p.requires_grad:
            continue
        gradient, name = p.grad.numpy().copy(), gguf_name(key)
        if family == "llama" and name.endswith(("attn_q.weight.lora_b", "attn_k.weight.lora_b")):
            heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
            gradient = families.make_tiny.permute(gradient, heads)
        out[name] = gradient
    return out


class Learner:
    """A model with an adapter that has learned something, two batches, and PEFT's loss and gradient of the first."""

    def __init__(self, what, folder):
        self.family, settings, formats, lengths, n_rot, lora = what.values[0]
        self.folder, self.model = folder, folder / "model.gguf"
        base = families.build(self.model, self.family, settings, formats, n_rot)
        rng = np.random.default_rng(3)
        self.batches = [rows_of(rng, lengths, settings["vocab_size"]) for _ in range(N_BATCHES)]
        self.rows = write_rows(folder / "rows", self.batches)
        self.peft, self.adapter = new_adapter(self.model, base, folder / "made", lora)
        loss = loss_there(self.peft, self.batches[0])
        loss.backward()
        self.loss, self.gradients = loss.item(), gradients_there(self.peft, self.family, base.config)
        size = self.size()
        for name, gradient in self.gradients.items():
            assert np.linalg.norm(gradient) > 1e-5 * size, f"{name} could not be wrong"

    def size(self):
        return np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in self.gradients.values()))

    def off(self, program, precision):
        """By how much the loss is off, each matrix of the gradient, and the gradient as a whole, of their sizes."""
        losses = here(program, self.model, self.adapter, self.rows, 0, self.folder / "gradient.gguf", precision)
        if losses is None:
            pytest.skip("no bf16 products on this CPU")
        read = {t.name: t.data for t in gguf.GGUFReader(self.folder / "gradient.gguf").tensors}
        assert read.keys() == self.gradients.keys()
        away = {name: np.linalg.norm(read[name] - want) for name, want in self.gradients.items()}
        each = {name: away[name] / np.linalg.norm(want) for name, want in self.gradients.items()}
        whole, worst = np.linalg.norm(list(away.values())) / self.size(), max(each, key=each.get)
        print(f"{precision}: loss {losses[0]:.7f}, PEFT {self.loss:.7f}; gradient off by {whole:.1e}, of {len(each)} "
              f"matrices {worst} by {each[worst]:.1e}")
        return abs(losses[0] - self.loss), each[worst], whole


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return training.build(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module", params=CASES)
def learner(request, tmp_path_factory):
    return Learner(pytest.param(request.param), tmp_path_factory.mktemp("case"))


def test_f32_gradients(program, learner):
    loss_off, worst, _ = learner.off(program, "f32")
    assert loss_off <= LOSS_BOUND and worst <= GRADIENT_BOUND


@pytest.mark.parametrize("precision", ["bf16", "bf16/avx512"])
def test_bf16_gradients(program, learner, precision):
    """8 bits of each factor instead of 24: a hundredth of the gradient, or where a random model makes much of rounding,
    as many times what f32 is off by."""
    _, exact_worst, exact_whole = learner.off(program, "f32")
    loss_off, worst, whole = learner.off(program, precision)
    assert loss_off <= BF16_LOSS_BOUND
    assert whole <= max(0.03, BF16_TIMES * exact_whole) and worst <= max(0.1, BF16_TIMES * exact_worst)


def test_curve_and_what_comes_of_it(program, learner):
    """Ten steps, and the adapter's logits here and, exported, in PEFT."""
    folder, adapter, base = learner.folder, learner.folder / "trained.gguf", learner.peft.get_base_model()
    losses = here(program, learner.model, learner.adapter, learner.rows, N_STEPS, adapter)
    theirs = trained_there(learner.peft, learner.batches)
    off = np.abs(losses / theirs - 1).max()
    print(f"curve {losses[0]:.4f} to {losses[-1]:.4f}, off by {off:.1e}")
    assert off <= CURVE_BOUND and losses[-2:].sum() < losses[:2].sum()

    ids = np.random.default_rng(5).integers(0, base.config.vocab_size, 40).tolist()
    file = peers.write_ids(folder, ids)
    ours = np.asarray(peers.hearth_logits(learner.model, file, folder / "o.npy", "--exact", "--adapter", adapter))
    plain = np.asarray(peers.hearth_logits(learner.model, file, folder / "p.npy", "--exact"))
    run(HEARTH, "adapter", "export", adapter, "--to", "peft", "--out", folder / "export")
    with torch.no_grad():
        exported = PeftModel.from_pretrained(learner.peft.unload(), folder / "export").eval()
        theirs = exported(torch.tensor([ids])).logits[0].numpy()
    off, moved = np.abs(ours - theirs).max(), np.abs(ours - plain).max()
    print(f"logits off by {off:.1e}, moved by the adapter by {moved:.1e}")
    assert off <= LOGITS_BOUND and moved > 100 * off


@pytest.mark.parametrize("formats", ["F16", "Q4_K"])
@pytest.mark.parametrize("family", families.BASES)
def test_trained_adapter_in_llama_cpp(program, family, formats, tmp_path):
    """It answers there as here. Its products of quantised activations are less exact than ours with --exact."""
    learner = Learner(case("", family, WIDE, formats, (30,)), tmp_path)
    adapter = tmp_path / "trained.gguf"
    here(program, learner.model, learner.adapter, learner.rows, N_STEPS, adapter)
    ids = np.random.default_rng(5).integers(0, families.N_VOCAB, 60).tolist()
    file, kl = peers.write_ids(tmp_path, ids), {}
    for name, ours, theirs in (("base", (), ()), ("adapter", ("--adapter", adapter), (adapter,))):
        exact = peers.hearth_logits(learner.model, file, tmp_path / "o.npy", "--exact", *ours)
        run(peers.llama_folder() / "llama-logits", learner.model, file, tmp_path / "l.bin", 1, 512, 0, *theirs)
        logits = np.fromfile(tmp_path / "l.bin", np.float32).reshape(len(ids), -1)
        kl[name] = peers.mean_kl(exact, logits)
        if name == "base":
            plain = logits
    kl["without"] = peers.mean_kl(exact, plain)
    print(json.dumps(kl))
    assert kl["adapter"] <= 3 * kl["base"] + 1e-6 and kl["without"] > 30 * kl["adapter"]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_dropout_is_peft_s(program, family, tmp_path):
    """The gradient of many draws has PEFT's mean, as far apart as means of so many draws are."""
    learner = Learner(case("", family, lengths=(30,), lora_dropout=0.4), tmp_path)
    learner.peft.train()
    draws = {name: [] for name in learner.gradients}
    for _ in range(N_DRAWS):
        learner.peft.zero_grad()
        loss_there(learner.peft, learner.batches[0]).backward()
        for name, gradient in gradients_there(learner.peft, family, learner.peft.config).items():
            draws[name].append(gradient)
    write_rows(learner.rows, learner.batches[:1])
    here(program, learner.model, learner.adapter, learner.rows, 0, tmp_path / "sum.gguf", micro=N_DRAWS)
    apart, moved = {}, {}
    for tensor in gguf.GGUFReader(tmp_path / "sum.gguf").tensors:
        theirs = np.stack(draws[tensor.name]).astype(np.float64)
        error = theirs.std(0, ddof=1) / N_DRAWS ** 0.5
        apart[tensor.name] = np.mean(((tensor.data / N_DRAWS - theirs.mean(0)) / error) ** 2) / 2
        moved[tensor.name] = np.mean(((learner.gradients[tensor.name] - theirs.mean(0)) / error) ** 2)
    mean = np.mean(list(apart.values()))
    print(f"{len(apart)} matrices apart by {mean:.3f} of what chance gives, {min(apart.values()):.2f} to "
          f"{max(apart.values()):.2f}; without dropout by {np.mean(list(moved.values())):.1f}")
    assert 0.85 < mean < 1.15 and max(apart.values()) < 2 and min(apart.values()) > 0.5


@pytest.mark.parametrize(("arch", "extra", "cause"), [
    *((arch, {}, f'architecture "{arch}" is not supported') for arch in ("gpt2", "gptneox", "bloom", "phi2", "gemma2")),
    ("qwen2", {"expert_count": 4, "expert_used_count": 2}, "mixtures of experts are not supported"),
    ("llama", {"attention.sliding_window": 16}, "key llama.attention.sliding_window is not understood"),
])
def test_what_is_not_served_is_not_trained(arch, extra, cause, tmp_path):
    family = arch if arch in families.BASES else "llama"
    families.build(tmp_path / "model.gguf", family, NARROW, extra=extra, arch=arch)
    data, out = tmp_path / "data.txt", tmp_path / "run"
    data.write_text("the sun is a star\n" * 20)
    command = [HEARTH, "train", "-m", tmp_path / "model.gguf", "--data", data, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 69 and cause in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(out.glob("*"))
