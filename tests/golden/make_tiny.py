#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/tiny-*.gguf and tiny-*.logits: one small random model per family and its logits.

The weights are drawn from a seed, rounded to what the file holds, and run through transformers in float32. So
the logits are an independent answer to the same file. Needs torch, transformers, gguf, numpy; run it from the
repository root. Logits file: u32 n_tokens, u32 n_vocab, i32 ids[n_tokens], f32 logits[n_tokens][n_vocab].
"""
import struct
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
N_TOKENS, N_VOCAB = 40, 264
COMMON = dict(vocab_size=N_VOCAB, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=128, attention_dropout=0.0, tie_word_embeddings=True)

FAMILIES = {
    "llama": ("Llama", dict(COMMON, num_hidden_layers=2, rms_norm_eps=1e-5, rope_theta=10000.0,
                            tie_word_embeddings=False,
                            rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                              high_freq_factor=4.0, original_max_position_embeddings=32))),
    "qwen2": ("Qwen2", dict(COMMON, num_hidden_layers=2, rms_norm_eps=1e-6, rope_theta=1e6)),
    "qwen3": ("Qwen3", dict(COMMON, num_hidden_layers=2, rms_norm_eps=1e-6, rope_theta=1e6, head_dim=12)),
    "gemma3": ("Gemma3", dict(COMMON, num_hidden_layers=3, rms_norm_eps=1e-6, rope_theta=1e6, head_dim=24,
                              query_pre_attn_scalar=24, sliding_window=8, rope_local_base_freq=10000.0,
                              layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                              hidden_activation="gelu_pytorch_tanh")),
}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
GEMMA_NAMES = dict(NAMES, post_attention_layernorm="post_attention_norm", pre_feedforward_layernorm="ffn_norm",
                   post_feedforward_layernorm="post_ffw_norm")


def make_model(family):
    name, settings = FAMILIES[family]
    config_class = getattr(transformers, name + ("TextConfig" if name == "Gemma3" else "Config"))
    config = config_class(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(20261122)
    model = getattr(transformers, name + "ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(torch.randn_like(p) * 0.2 + (0.0 if family == "gemma3" or "bias" in key else 1.0))
            else:
                p.copy_((torch.randn_like(p) * 0.15))
    return model


def gguf_name(key, family):
    key = key.removeprefix("model.")
    if key == "embed_tokens.weight":
        return "token_embd.weight"
    if key == "norm.weight":
        return "output_norm.weight"
    if key == "lm_head.weight":
        return "output.weight"
    _, layer, rest = key.split(".", 2)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{(GEMMA_NAMES if family == 'gemma3' else NAMES)[stem]}.{kind}"


def permute(rows, n_heads):
    """Reorders q and k rows from half-split to adjacent rotation pairs, as llama files hold them."""
    return rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def quantised(values, how):
    """What the file holds, and the float32 values that it means."""
    blocks = gguf.quants.quantize(values, how)
    return blocks, gguf.quants.dequantize(blocks, how).astype(np.float32)


def byte_tokens():
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 256
    for b in range(256):
        if b in visible:
            table[b] = chr(b)
        else:
            table[b] = chr(extra)
            extra += 1
    return [table[b] for b in range(256)]


def write_header(w, family, config):
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(FAMILIES[family][1]["rope_theta"])
    if "head_dim" in FAMILIES[family][1]:
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
    if family == "gemma3":
        w.add_sliding_window(8)
        w.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    bytes_ = byte_tokens()
    space, t, h, e = bytes_[32], "t", "h", "e"
    tokens = bytes_ + [t + h, t + h + e, space + t, space + "a", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<unk>"]
    assert len(tokens) == N_VOCAB
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([1] * 260 + [3, 3, 3, 2])
    w.add_token_merges([f"{t} {h}", f"{t + h} {e}", f"{space} {t}", f"{space} a"])
    w.add_bos_token_id(262)
    w.add_eos_token_id(261)
    w.add_add_bos_token(False)
    w.add_chat_template("{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}")


def save(family, how, suffix):
    model = make_model(family)
    config = model.config
    w = gguf.GGUFWriter(HERE / f"tiny-{family}{suffix}.gguf", family)
    write_header(w, family, config)
    with torch.no_grad():
        for key, p in model.named_parameters():
            values = p.numpy().astype(np.float32)
            if p.dim() == 1:
                stored = values + (1.0 if family == "gemma3" else 0.0)
                blocks = stored.astype(np.float32)
                p.copy_(torch.from_numpy(blocks - (1.0 if family == "gemma3" else 0.0)))
            else:
                type_ = gguf.GGMLQuantizationType.F16 if how is None else how
                blocks, means = quantised(values, type_)
                p.copy_(torch.from_numpy(means))
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            if family == "llama" and ("q_proj" in key or "k_proj" in key):
                blocks = permute(blocks, heads)
            raw = None if p.dim() == 1 else (gguf.GGMLQuantizationType.F16 if how is None else how)
            w.add_tensor(gguf_name(key, family), np.ascontiguousarray(blocks), raw_dtype=raw)
    if family == "llama":
        inv = model.model.rotary_emb.inv_freq.numpy()
        base = 10000.0 ** (-np.arange(0, len(inv) * 2, 2, dtype=np.float32) / np.float32(len(inv) * 2))
        w.add_tensor("rope_freqs.weight", (base / inv).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    ids = np.random.default_rng(7).integers(0, N_VOCAB, N_TOKENS, dtype=np.int32)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy().astype(np.float32)
    with open(HERE / f"tiny-{family}{suffix}.logits", "wb") as f:
        f.write(struct.pack("<II", N_TOKENS, N_VOCAB) + ids.tobytes() + logits.tobytes())
    print(family + suffix, "logits in", logits.min(), logits.max())


if __name__ == "__main__":
    for family_ in FAMILIES:
        save(family_, None, "")
    save("llama", gguf.GGMLQuantizationType.Q8_0, "-q8_0")
    save("qwen2", gguf.GGMLQuantizationType.Q4_1, "-q4_1")
