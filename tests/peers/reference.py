# SPDX-License-Identifier: Apache-2.0
"""A GGUF model in transformers, float32, on the dequantised weights: loaded tensor by tensor from the file with
gguf-py, because transformers' own GGUF reader loses details of both models."""
import gguf
import numpy as np
import torch
import transformers

LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
}
NORMS = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
               "post_ffw_norm": "post_feedforward_layernorm"},
}


def field(reader, key, default=None):
    f = reader.get_field(key)
    return default if f is None else f.contents()


def config_for(reader, arch):
    heads, embd = field(reader, f"{arch}.attention.head_count"), field(reader, f"{arch}.embedding_length")
    vocab = next(t.shape[1] for t in reader.tensors if t.name == "token_embd.weight")
    common = dict(
        vocab_size=int(vocab), hidden_size=embd, intermediate_size=field(reader, f"{arch}.feed_forward_length"),
        num_hidden_layers=field(reader, f"{arch}.block_count"), num_attention_heads=heads,
        num_key_value_heads=field(reader, f"{arch}.attention.head_count_kv"),
        max_position_embeddings=field(reader, f"{arch}.context_length"), tie_word_embeddings=True,
        rms_norm_eps=field(reader, f"{arch}.attention.layer_norm_rms_epsilon"),
        rope_theta=field(reader, f"{arch}.rope.freq_base"),
        head_dim=field(reader, f"{arch}.attention.key_length", embd // heads),
    )
    if arch == "llama":
        return transformers.LlamaConfig(**common)
    pattern = field(reader, "gemma3.attention.sliding_window_pattern", 6)
    if isinstance(pattern, int):
        pattern = [i % pattern < pattern - 1 for i in range(common["num_hidden_layers"])]
    return transformers.Gemma3TextConfig(
        **common, sliding_window=field(reader, "gemma3.attention.sliding_window"), rope_local_base_freq=10000.0,
        query_pre_attn_scalar=common["head_dim"], hidden_activation="gelu_pytorch_tanh",
        layer_types=["sliding_attention" if local else "full_attention" for local in pattern])


def unpermute(rows, n_heads):
    """Undoes the conversion's reordering of q and k rows (adjacent rotation pairs to half-split)."""
    return rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def load(path):
    reader = gguf.GGUFReader(path)
    arch = field(reader, "general.architecture")
    config = config_for(reader, arch)
    config._attn_implementation = "eager"
    kind = transformers.LlamaForCausalLM if arch == "llama" else transformers.Gemma3ForCausalLM
    model = kind(config).float().eval()
    parameters = dict(model.named_parameters())
    seen = set()
    for t in reader.tensors:
        values = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        if t.name.startswith("blk."):
            _, layer, rest = t.name.split(".", 2)
            stem, suffix = rest.rsplit(".", 1)
            name = f"model.layers.{layer}.{ {**LAYER, **NORMS[arch]}[stem]}.{suffix}"
        else:
            name = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[t.name]
        if arch == "llama" and (".attn_q." in t.name or ".attn_k." in t.name):
            heads = config.num_attention_heads if ".attn_q." in t.name else config.num_key_value_heads
            values = unpermute(values, heads)
        if arch == "gemma3" and values.ndim == 1:
            values = values - np.float32(1)
        with torch.no_grad():
            parameters[name].copy_(torch.from_numpy(values.reshape(parameters[name].shape)))
        seen.add(name)
    missing = set(parameters) - seen
    assert not missing, f"not in the file: {sorted(missing)[:3]}"
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()
