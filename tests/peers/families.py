# SPDX-License-Identifier: Apache-2.0
"""Small random models of every family in every weight format, for test_training_families.py: a GGUF file, and the same
values in transformers. Blocks of the formats that gguf-py cannot make are random bytes with scales that suit."""
import importlib.util

import gguf
import numpy as np
import torch
import transformers
from peers import ROOT
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

GOLDEN = ROOT / "tests" / "golden" / "make_tiny.py"
spec = importlib.util.spec_from_file_location("make_tiny", GOLDEN)
make_tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_tiny)

TYPES = gguf.GGMLQuantizationType
BASES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3"}
N_VOCAB = make_tiny.N_VOCAB
# byte of a block at which its scale stands, and that of its minima with the ratio that centres the values
SCALES = {
    "Q2_K": (80, (82, 1.5)), "Q3_K": (108, None), "Q4_K": (0, (2, 7.5)), "Q5_K": (0, (2, 15.5)), "Q6_K": (208, None),
    "IQ4_NL": (0, None),
}
NARROW = dict(
    vocab_size=N_VOCAB, hidden_size=32, intermediate_size=64, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128, attention_dropout=0.0, tie_word_embeddings=True,
    rms_norm_eps=1e-5)
WIDE = dict(NARROW, hidden_size=256, intermediate_size=512, num_attention_heads=8, head_dim=32)  # K-quants: 256 a row
GEMMA = dict(sliding_window=8, hidden_activation="gelu_pytorch_tanh", num_hidden_layers=3,
             layer_types=["sliding_attention", "full_attention", "sliding_attention"])


def rope_of(family, base=1e6, **scaling):
    own = {"rope_type": "default", "rope_theta": base, **scaling}
    if family != "gemma3":
        return own
    return {"full_attention": own, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}


def config_of(family, settings):
    base = {"num_hidden_layers": 2}
    if family == "gemma3":
        base = dict(GEMMA, query_pre_attn_scalar=settings["head_dim"])
    config_class = getattr(transformers, BASES[family] + ("TextConfig" if family == "gemma3" else "Config"))
    config = config_class(**{**base, "rope_parameters": rope_of(family), **settings})
    config._attn_implementation = "eager"
    return config


def random_blocks(rng, shape, name):
    """Blocks of a format whose values have a standard deviation of about 0.1."""
    per_block, n_bytes = gguf.GGML_QUANT_SIZES[TYPES[name]]
    at, minima = SCALES[name]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // per_block, n_bytes), dtype=np.uint8)

    def scale_by(scales):
        blocks[:, at:at + 2] = scales.astype("<f2")[:, None].view(np.uint8)
        if minima:
            blocks[:, minima[0]:minima[0] + 2] = (scales * minima[1]).astype("<f2")[:, None].view(np.uint8)

    scale_by(np.ones(len(blocks)))
    unit = gguf.quants.dequantize(blocks, TYPES[name]).std()
    scale_by(rng.uniform(0.05, 0.15, len(blocks)) / unit)
    return blocks.reshape(shape[0], -1)


def stored(rng, values, name):
    """What the file holds, and what it means."""
    if name in SCALES:
        blocks = random_blocks(rng, values.shape, name)
    else:
        blocks = gguf.quants.quantize(values, TYPES[name])
    return blocks, gguf.quants.dequantize(blocks, TYPES[name]).astype(np.float32).reshape(values.shape)


def type_of(formats, key):
    """`formats`: one name for all, or names by a part of the key, "" for the others."""
    if isinstance(formats, str):
        return formats
    return next(formats[part] for part in sorted(formats, key=len, reverse=True) if part in key)


def write_keys(w, family, config, extra):
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_key_length(config.head_dim)
    w.add_value_length(config.head_dim)
    rope = config.rope_parameters["full_attention"] if family == "gemma3" else config.rope_parameters
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if family == "gemma3":
        w.add_sliding_window(config.sliding_window)
        local = [kind == "sliding_attention" for kind in config.layer_types]
        w.add_sliding_window_pattern(2 if local == [i % 2 == 0 for i in range(len(local))] else local)
        if config.final_logit_softcapping:
            w.add_final_logit_softcapping(config.final_logit_softcapping)
    for key, value in extra.items():
        w.add_uint32(f"{family}.{key}", value)
    write_tokens(w, config.vocab_size)


def write_tokens(w, n_vocab):
    tokens = make_tiny.byte_tokens() + ["th", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    tokens += [f"<unused{i}>" for i in range(n_vocab - len(tokens))]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([1] * 257 + [3] * (n_vocab - 257))
    w.add_token_merges(["t h"])
    w.add_bos_token_id(259)
    w.add_eos_token_id(258)
    w.add_add_bos_token(False)
    w.add_chat_template("{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}")


def turning_what_is_given(modeling):
    """RoPE there, too, turns only as many values of a head as there are cosines."""
    whole = modeling.apply_rotary_pos_emb

    def apply(q, k, cos, sin, **kwargs):
        n = cos.shape[-1]
        return tuple(torch.cat((turned, x[..., n:]), -1)
                     for turned, x in zip(whole(q[..., :n], k[..., :n], cos, sin, **kwargs), (q, k)))

    modeling.apply_rotary_pos_emb = apply


for modeling_ in (modeling_qwen2, modeling_qwen3):
    turning_what_is_given(modeling_)


def rotate_partly(model, n_rot, base):
    half = 1.0 / base ** (torch.arange(0, n_rot, 2).float() / n_rot)
    model.model.rotary_emb.register_buffer("inv_freq", half, persistent=False)


def fill(model, family, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("o_proj.bias"):  # llama's attention_bias has one, GGUF's llama has not
                p.zero_()
            elif p.dim() == 1:
                p.copy_(torch.randn_like(p) * 0.2 + (0.0 if family == "gemma3" or "bias" in key else 1.0))
            else:
                p.copy_(torch.randn_like(p) * (0.8 / p.shape[1] ** 0.5))


def build(path, family, settings, formats="F16", n_rot=None, extra=None, arch=None):
    """Writes the file and gives the model in transformers. `extra`: whole numbers by key; `arch`: what the file is."""
    config = config_of(family, settings)
    model = getattr(transformers, BASES[family] + "ForCausalLM")(config).float().eval()
    fill(model, family, 1)
    if n_rot:
        rotate_partly(model, n_rot, config.rope_parameters["rope_theta"])
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, arch or family)
    write_keys(w, family, config, {**({"rope.dimension_count": n_rot} if n_rot else {}), **(extra or {})})
    for key, p in model.named_parameters():
        if key.endswith("o_proj.bias"):
            continue
        values = p.detach().numpy()
        kind = "F32" if p.dim() == 1 else type_of(formats, key)
        blocks, means = stored(rng, values + np.float32(p.dim() == 1 and family == "gemma3"), kind)
        with torch.no_grad():
            p.copy_(torch.from_numpy(means - np.float32(p.dim() == 1 and family == "gemma3")))
        if family == "llama" and (".q_proj." in key or ".k_proj." in key):
            heads = config.num_attention_heads if ".q_proj." in key else config.num_key_value_heads
            blocks = make_tiny.permute(blocks, heads)
        w.add_tensor(make_tiny.gguf_name(key, family), np.ascontiguousarray(blocks), raw_dtype=TYPES[kind])
    scaling = config.rope_parameters
    if family == "llama" and scaling["rope_type"] == "llama3":
        plain = scaling["rope_theta"] ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        w.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return model
