# SPDX-License-Identifier: Apache-2.0
"""A small model file for tests that only need a file that Hearth opens: one layer, 256 byte tokens, 5 MiB."""

import random
import struct

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
N_VOCAB, N_EMBD, N_FF = 261, 1024, 64


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name, kind, data):
    return text(name) + struct.pack("<I", kind) + data


def strings(values):
    return struct.pack("<IQ", STRING, len(values)) + b"".join(text(v) for v in values)


def byte_letters():
    """The printable stand-ins of byte-level BPE, byte by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in plain}
    extra = (b for b in range(256) if b not in letters)
    letters.update({b: chr(256 + n) for n, b in enumerate(extra)})
    return [letters[b] for b in range(256)]


def file_of(keys, tensors):
    infos, offset = [], 0
    for name, shape, blob in tensors:
        infos.append(
            text(name)
            + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            + struct.pack("<IQ", 1 if len(shape) > 1 else 0, offset)
        )
        offset += len(blob)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    head += b"\0" * (-len(head) % 32)
    return head + b"".join(blob for _, _, blob in tensors)


def tiny_model(seed=1, context=128):
    return file_of(*keys_and_tensors(seed, context))


def tiny_parts(n):
    """The same model in several files."""
    keys, tensors = keys_and_tensors(1, 128)
    parts = []
    for i in range(n):
        own = tensors[len(tensors) * i // n : len(tensors) * (i + 1) // n]
        split = [("no", i), ("count", n), ("tensors.count", len(tensors))]
        split = [key(f"split.{name}", U32, struct.pack("<I", value)) for name, value in split]
        parts.append(file_of((keys if i == 0 else []) + split, own))
    return parts


def keys_and_tensors(seed, context):
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + byte_letters() + ["he", "ll"]
    keys = [
        key("general.architecture", STRING, text("llama")),
        key("general.name", STRING, text("tiny")),
        key("llama.block_count", U32, struct.pack("<I", 1)),
        key("llama.context_length", U32, struct.pack("<I", context)),
        key("llama.embedding_length", U32, struct.pack("<I", N_EMBD)),
        key("llama.feed_forward_length", U32, struct.pack("<I", N_FF)),
        key("llama.attention.head_count", U32, struct.pack("<I", 16)),
        key("llama.attention.head_count_kv", U32, struct.pack("<I", 1)),
        key("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        key("tokenizer.ggml.model", STRING, text("gpt2")),
        key("tokenizer.ggml.pre", STRING, text("smollm")),
        key("tokenizer.ggml.tokens", ARRAY, strings(tokens)),
        key(
            "tokenizer.ggml.token_type",
            ARRAY,
            struct.pack("<IQ", I32, N_VOCAB) + struct.pack(f"<{N_VOCAB}i", *[3] * 3, *[1] * 258),
        ),
        key("tokenizer.ggml.merges", ARRAY, strings(["h e", "l l"])),
        key("tokenizer.ggml.bos_token_id", U32, struct.pack("<I", 1)),
        key("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 2)),
    ]
    shapes = {
        "token_embd.weight": (N_EMBD, N_VOCAB),
        "output_norm.weight": (N_EMBD,),
        "blk.0.attn_norm.weight": (N_EMBD,),
        "blk.0.attn_q.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_k.weight": (N_EMBD, 64),
        "blk.0.attn_v.weight": (N_EMBD, 64),
        "blk.0.attn_output.weight": (N_EMBD, N_EMBD),
        "blk.0.ffn_norm.weight": (N_EMBD,),
        "blk.0.ffn_gate.weight": (N_EMBD, N_FF),
        "blk.0.ffn_up.weight": (N_EMBD, N_FF),
        "blk.0.ffn_down.weight": (N_FF, N_EMBD),
    }
    draw = random.Random(seed)
    tensors = []
    for name, shape in shapes.items():
        n = 1
        for side in shape:
            n *= side
        # f16 weights 2^-6 … with random signs and mantissas; f32 norms of 1
        blob = (
            b"".join(
                struct.pack("<H", 0x2400 | draw.getrandbits(10) | draw.getrandbits(1) << 15) for _ in range(n)
            )
            if len(shape) > 1
            else struct.pack("<f", 1.0) * n
        )
        blob += b"\0" * (-len(blob) % 32)
        tensors.append((name, shape, blob))
    return keys, tensors
