# SPDX-License-Identifier: Apache-2.0
"""Adapters beside peft and llama.cpp: what peft makes imports here, our export loads there with equal tensors, q and k
of llama have their rows turned as a computation of its own says, llama.cpp reads our GGUF-LoRA; and on real models all
three answer alike, and peft trains on where we have stopped."""
import json
import subprocess

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
import peers
import reference
import training
from peers import HEARTH, ROOT, llama_folder, run
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GGUF_NAMES = dict(
    q_proj="attn_q", k_proj="attn_k", v_proj="attn_v", o_proj="attn_output", gate_proj="ffn_gate", up_proj="ffn_up",
    down_proj="ffn_down"
)


def base_of(family):
    return ROOT / "tests" / "golden" / f"tiny-{family}.gguf"


def sizes(family):
    reader = gguf.GGUFReader(base_of(family))
    fields, tensors = reader.fields, {t.name: t for t in reader.tensors}
    heads = fields[f"{family}.attention.head_count"].contents()
    return {
        "hidden_size": fields[f"{family}.embedding_length"].contents(),
        "intermediate_size": fields[f"{family}.feed_forward_length"].contents(),
        "num_hidden_layers": fields[f"{family}.block_count"].contents(),
        "num_attention_heads": heads,
        "num_key_value_heads": fields[f"{family}.attention.head_count_kv"].contents(),
        "head_dim": (
            fields[f"{family}.attention.key_length"].contents()
            if f"{family}.attention.key_length" in fields
            else fields[f"{family}.embedding_length"].contents() // heads
        ),
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def model_of(family):
    config, model = FAMILIES[family]
    torch.manual_seed(1)
    return model(config(**sizes(family)))


def make_adapter(family, folder, **options):
    model = get_peft_model(model_of(family), LoraConfig(task_type="CAUSAL_LM", **options))
    torch.manual_seed(2)
    for name, value in model.named_parameters():
        if "lora_B" in name:  # PEFT begins with zeros
            torch.nn.init.normal_(value)
    model.save_pretrained(folder)
    made = load_file(folder / "adapter_model.safetensors")
    # beside an adapter of the head peft lays a copy of the head itself
    return {name: value for name, value in made.items() if not name.endswith("lm_head.base_layer.weight")}


def turned(b, heads):
    """Rows of the Hugging Face layout in GGUF's order for llama, by reshaping."""
    n, rank = b.shape
    return b.reshape(heads, 2, n // heads // 2, rank).swapaxes(1, 2).reshape(n, rank)


def check_import(family, made, path):
    read = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    shape = sizes(family)
    assert len(read) == len(made)
    for name, tensor in made.items():
        parts = name.split(".")
        want = tensor.numpy()
        if parts[2] == "lm_head":
            assert np.array_equal(read[f"output.weight.{parts[3].lower()}"], want)
            continue
        layer, module, half = parts[4], parts[6], parts[7]
        if family == "llama" and half == "lora_B" and module in ("q_proj", "k_proj"):
            want = turned(want, shape["num_attention_heads" if module == "q_proj" else "num_key_value_heads"])
        got = read[f"blk.{layer}.{GGUF_NAMES[module]}.weight.{half.lower()}"]
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_both_ways(family, rslora, tmp_path):
    """With rsLoRA the head has a part, too: tied to the embeddings in all families but llama's."""
    linears = ALL + ["lm_head"] if rslora else ALL
    made = make_adapter(family, tmp_path / "made", r=4, lora_alpha=6, target_modules=linears, use_rslora=rslora)
    assert ("base_model.model.lm_head.lora_A.weight" in made) == rslora
    run(HEARTH, "adapter", "import", tmp_path / "made", "--base", base_of(family), "--out", tmp_path / "a.gguf")
    check_import(family, made, tmp_path / "a.gguf")
    run(HEARTH, "adapter", "export", tmp_path / "a.gguf", "--to", "peft", "--out", tmp_path / "back")
    back = load_file(tmp_path / "back" / "adapter_model.safetensors")
    assert back.keys() == made.keys()
    assert all(torch.equal(back[k], made[k]) for k in made)
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 6, rslora)
    # peft loads it, and its model computes the same
    ids = torch.arange(12)[None]
    logits = []
    for folder in ("made", "back"):
        model = PeftModel.from_pretrained(model_of(family), tmp_path / folder).eval()
        with torch.no_grad():
            logits.append(model(ids).logits)
    assert torch.equal(*logits)
    with torch.no_grad():
        assert not torch.equal(logits[0], model_of(family).eval()(ids).logits)
    # and our own import of our own export needs no base
    run(HEARTH, "adapter", "import", tmp_path / "back", "--out", tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_patterns(tmp_path):
    made = make_adapter(
        "llama", tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"v_proj": 2, "layers.1.self_attn.q_proj": 3}, alpha_pattern={"^model.layers.0.mlp.down_proj": 16},
    )
    told = json.loads(
        run(HEARTH, "adapter", "inspect", tmp_path / "made", "--base", base_of("llama"), "--json")
    )
    by_name = {t["name"]: t for t in told["targets"]}
    assert by_name["blk.0.attn_v.weight"]["rank"] == 2 and by_name["blk.0.attn_v.weight"]["scale"] == 4
    assert by_name["blk.1.attn_q.weight"]["rank"] == 3 and by_name["blk.0.attn_q.weight"]["rank"] == 4
    assert by_name["blk.0.ffn_down.weight"]["scale"] == 4 and by_name["blk.1.ffn_down.weight"]["scale"] == 2
    delta = made["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"].double() @ made[
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    ].double()
    assert by_name["blk.0.ffn_down.weight"]["norm_delta"] == pytest.approx(4 * float(delta.norm()), rel=1e-12)
    run(HEARTH, "adapter", "import", tmp_path / "made", "--base", base_of("llama"), "--out", tmp_path / "a.gguf")
    run(HEARTH, "adapter", "export", tmp_path / "a.gguf", "--to", "peft", "--out", tmp_path / "back")
    ids = torch.arange(12)[None]
    logits = []
    for folder in ("made", "back"):
        model = PeftModel.from_pretrained(model_of("llama"), tmp_path / folder).eval()
        with torch.no_grad():
            logits.append(model(ids).logits)
    # one alpha for all in the file: a factor of 2 went into one B
    assert torch.allclose(*logits, rtol=0, atol=1e-5)


def test_refusals_of_what_peft_makes(tmp_path):
    for number, (options, word) in enumerate([
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"lora_bias": True}, "lora_bias"),
    ]):
        folder = tmp_path / str(number)
        make_adapter("llama", folder, r=2, target_modules=["q_proj"], **options)
        done = subprocess.run(
            [HEARTH, "adapter", "import", folder, "--base", base_of("llama"), "--out", tmp_path / "no.gguf"],
            capture_output=True, text=True,
        )
        assert done.returncode != 0 and word in done.stderr and not (tmp_path / "no.gguf").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_linears(family, tmp_path):
    """q, k, v and gate, up as one, as Phi-3's adapters have them, are what they are when divided by hand."""
    shape = sizes(family)
    rows = [shape[key] * shape["head_dim"] for key in ("num_attention_heads", *2 * ["num_key_value_heads"])]
    fused = {"self_attn.qkv_proj": (["q_proj", "k_proj", "v_proj"], rows),
             "mlp.gate_up_proj": (["gate_proj", "up_proj"], 2 * [shape["intermediate_size"]])}
    torch.manual_seed(5)
    whole, apart = {}, {}
    for layer in range(shape["num_hidden_layers"]):
        for module, (names, n) in fused.items():
            start = f"base_model.model.model.layers.{layer}."
            a, b = torch.randn(4, shape["hidden_size"]), torch.randn(sum(n), 4) * 0.05
            whole |= {f"{start}{module}.lora_A.weight": a, f"{start}{module}.lora_B.weight": b}
            for name, part in zip(names, b.split(n)):
                one = f"{start}{module.split('.')[0]}.{name}"
                apart |= {f"{one}.lora_A.weight": a.clone(), f"{one}.lora_B.weight": part.clone()}
    (tmp_path / "ids.txt").write_text(" ".join(map(str, range(40))))
    logits = []
    for folder, tensors in (("whole", whole), ("apart", apart)):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "adapter_model.safetensors")
        (tmp_path / folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
        run(HEARTH, "adapter", "import", tmp_path / folder, "--base", base_of(family), "--out",
            tmp_path / f"{folder}.gguf")
        for adapter in (folder, f"{folder}.gguf"):
            peers.hearth_logits(base_of(family), tmp_path / "ids.txt", tmp_path / "out.npy", "--adapter",
                                tmp_path / adapter)
            logits.append((tmp_path / "out.npy").read_bytes())
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "apart.gguf").read_bytes()
    assert len(set(logits)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_reads_ours(family, tmp_path):
    make_adapter(family, tmp_path / "made", r=4, lora_alpha=6, target_modules=ALL)
    run(HEARTH, "adapter", "import", tmp_path / "made", "--base", base_of(family), "--out", tmp_path / "a.gguf")
    done, told = llama_cpp_with(base_of(family), tmp_path / "a.gguf")
    assert "failed to apply lora" not in told and "loaded" in told and done.returncode == 0, told[-2000:]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_llama_cpp_and_the_head(family, tmp_path):
    """It reads an adapter of a head of its own; a tied one has no tensor there that it could belong to."""
    tied = sizes(family)["tie_word_embeddings"]
    make_adapter(family, tmp_path / "made", r=4, lora_alpha=6, target_modules=["q_proj", "lm_head"])
    run(HEARTH, "adapter", "import", tmp_path / "made", "--base", base_of(family), "--out", tmp_path / "a.gguf")
    done, told = llama_cpp_with(base_of(family), tmp_path / "a.gguf")
    assert tied == (family == "qwen2") and (done.returncode != 0) == tied, told[-2000:]
    if tied:  # merged it has the tensor, and llama.cpp reads the file
        run(HEARTH, "adapter", "merge", tmp_path / "a.gguf", "-m", base_of(family), "--out", tmp_path / "merged.gguf")
        done, told = llama_cpp_with(tmp_path / "merged.gguf")
    assert done.returncode == 0, told[-2000:]


def llama_cpp_with(model, adapter=None):
    lora = ["--lora", adapter] if adapter else []
    done = subprocess.run(
        [llama_folder() / "llama-completion", "-m", model, *lora, "-p", "a", "-n", "1", "-no-cnv", "-c", "64", "-v",
         "-t", "1"],
        capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=1000,
    )
    return done, done.stdout + done.stderr


# ---- on real models

N_TOKENS = 256
EXACT_BOUND = 5e-4


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def real(request, tmp_path_factory):
    """An adapter that peft made for a real model, as its folder and as our GGUF; and what peft computes with it."""
    base, folder = peers.model_path(request.param), tmp_path_factory.mktemp(request.param)
    model = get_peft_model(
        reference.load(base), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=ALL)
    ).eval()
    torch.manual_seed(3)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.03)
    model.save_pretrained(folder / "made")
    run(HEARTH, "adapter", "import", folder / "made", "--base", base, "--out", folder / "a.gguf")
    ids = peers.tokenize(base, peers.sample_text(), N_TOKENS)
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    return base, folder, peers.write_ids(folder, ids), ids, want


def test_exact_logits_are_those_of_peft(real):
    base, folder, ids_file, ids, want = real
    plain = peers.hearth_logits(base, ids_file, folder / "plain.npy", "--exact")
    told = {"moved": float(np.abs(np.asarray(plain) - want).max())}
    assert told["moved"] > 1  # the adapter does something
    for name in ("made", "a.gguf"):  # peft's own folder, which names no base, and our file
        got = peers.hearth_logits(base, ids_file, folder / f"{name}.npy", "--exact", "--adapter", folder / name)
        told[name] = float(np.abs(np.asarray(got) - want).max())
    assert (folder / "made.npy").read_bytes() == (folder / "a.gguf.npy").read_bytes()
    # our export, in peft: our logits
    run(HEARTH, "adapter", "export", folder / "a.gguf", "--to", "peft", "--out", folder / "back")
    with torch.no_grad():
        model = PeftModel.from_pretrained(reference.load(base), folder / "back").eval()
        back = model(torch.tensor([ids])).logits[0].numpy()
    told["back"] = float(np.abs(np.asarray(got) - back).max())
    print(json.dumps({"model": base.name, **told, "bound": EXACT_BOUND}))
    assert max(told["made"], told["a.gguf"], told["back"]) <= EXACT_BOUND


def test_quantised_activations_cost_an_adapter_little(real):
    """The fast path under the adapter is as near to --exact as without one."""
    base, folder, ids_file, _, _ = real
    kl = {}
    for name, flags in {"base": (), "adapter": ("--adapter", folder / "a.gguf")}.items():
        exact = peers.hearth_logits(base, ids_file, folder / "e.npy", "--exact", *flags)
        fast = peers.hearth_logits(base, ids_file, folder / "f.npy", *flags)
        kl[name] = peers.mean_kl(exact, fast)
    print(json.dumps({"model": base.name, **kl}))
    assert kl["adapter"] <= 3 * kl["base"]


def test_llama_cpp_gives_what_we_give(real):
    """Our file in llama.cpp: as near to our --exact logits under the adapter as it is without one."""
    base, folder, ids_file, ids, want = real
    kl = {}
    for name, ours, theirs in (("base", (), ()), ("adapter", ("--adapter", folder / "a.gguf"), (folder / "a.gguf",))):
        exact = peers.hearth_logits(base, ids_file, folder / "e.npy", "--exact", *ours)
        run(llama_folder() / "llama-logits", base, ids_file, folder / "l.bin", 2, 512, 0, *theirs)
        kl[name] = peers.mean_kl(exact, np.fromfile(folder / "l.bin", np.float32).reshape(len(ids), -1))
        if name == "base":  # what it would be if llama.cpp took no notice of the adapter
            kl["without"] = peers.mean_kl(want, np.fromfile(folder / "l.bin", np.float32).reshape(len(ids), -1))
    print(json.dumps({"model": base.name, **kl}))
    assert kl["adapter"] <= 2 * kl["base"] and kl["without"] > 3 * kl["adapter"]


# ---- there and back

LOSS_BOUND = 1e-4  # f32


def loss_here(folder, base, adapter, texts):
    """Of one micro-batch, under an adapter, by our own graph."""
    rows = training.write_rows(folder / "rows", texts[None])
    command = [training.build(folder), base, adapter, rows, "f32", 1, 0, 0, ""]
    return json.loads(run(*command).decode().splitlines()[0])["loss"]


def test_peft_trains_on(tmp_path):
    """What was trained here, the head too, goes on there from the loss at which we have left it, and comes back."""
    base = peers.model_path("smollm2")
    texts = training.batches_of(base, training.SMALL, 1)[0]
    (tmp_path / "texts.txt").write_text("\n\n".join([peers.sample_text()[:6000]] * 2))
    run(HEARTH, "train", "-m", base, "--data", f"{tmp_path / 'texts.txt'}:text", "--out", tmp_path / "run", "--targets",
        "all,output", "--mask", "all", "--seq", "128", "--batch", "1", "--max-steps", "6", "--held-out", "0", "--lr",
        "1e-3", "--precision", "f32")
    ours = tmp_path / "run" / "adapter.gguf"
    here = {"base": loss_here(tmp_path, base, "new:8", texts),
            "trained": loss_here(tmp_path, base, ours, texts)}
    run(HEARTH, "adapter", "export", ours, "--to", "peft", "--out", tmp_path / "peft")
    model = PeftModel.from_pretrained(reference.load(base), tmp_path / "peft", is_trainable=True)
    losses, _ = training.train_peft(model, texts[None], 1e-3, steps=6)
    print(json.dumps({"here": here, "there": losses.tolist()}))
    assert here["trained"] < here["base"] - 0.01
    assert abs(losses[0] - here["trained"]) <= LOSS_BOUND
    assert losses[-1] < 0.95 * losses[0]
    model.eval().save_pretrained(tmp_path / "on")
    run(HEARTH, "adapter", "import", tmp_path / "on", "--base", base, "--out", tmp_path / "on.gguf")
    ids = texts.reshape(-1).tolist()
    want, file = reference.logits(model, ids), peers.write_ids(tmp_path, ids)
    got = peers.hearth_logits(base, file, tmp_path / "on.npy", "--exact", "--adapter", tmp_path / "on.gguf")
    left = peers.hearth_logits(base, file, tmp_path / "left.npy", "--exact", "--adapter", ours)
    off, moved = (float(np.abs(np.asarray(x) - want).max()) for x in (got, left))
    print(json.dumps({"off": off, "moved": moved}))
    assert off <= EXACT_BOUND and moved > 0.5
