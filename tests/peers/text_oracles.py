# SPDX-License-Identifier: Apache-2.0
"""Reference tokenizers built from a GGUF file's own vocabulary, and the texts they are compared on.

Byte-level BPE: the `tokenizers` library with the file's vocabulary and merges, Digits(individual) and
ByteLevel. SentencePiece: the `sentencepiece` library on a ModelProto rebuilt from the file (BPE, no dummy
prefix, spaces in user-defined pieces written as U+2581). Both take ordinary text: control tokens are never
recognised in it.
"""
import json
import os
from pathlib import Path

MARK = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

NAMES = {
    "smollm2": ("HEARTH_TEST_SMOLLM2", "SmolLM2-135M-Instruct-Q4_1.gguf"),
    "gemma3": ("HEARTH_TEST_GEMMA3", "gemma-3-270m-Q4_K_M.gguf"),
}


def model_path(name):
    """The model file, or None where it is absent."""
    variable, file = NAMES[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get(variable) or cache / "hearth" / "models" / file)
    return path if path.is_file() else None


class Vocabulary:
    def __init__(self, path):
        from gguf import GGUFReader

        fields = GGUFReader(str(path)).fields

        def get(key, default=None):
            return fields[key].contents() if key in fields else default

        self.model = get("tokenizer.ggml.model")
        self.pre = get("tokenizer.ggml.pre")
        self.tokens = get("tokenizer.ggml.tokens")
        self.types = get("tokenizer.ggml.token_type")
        self.scores = get("tokenizer.ggml.scores")
        self.merges = get("tokenizer.ggml.merges")
        self.unk = get("tokenizer.ggml.unknown_token_id")
        self.bos = get("tokenizer.ggml.bos_token_id")
        self.eos = get("tokenizer.ggml.eos_token_id")
        self.template = get("tokenizer.chat_template")


def byte_level(vocabulary):
    """text -> ids for a file whose pre-tokenizer is `smollm`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    merges = [tuple(line.split(" ")) for line in vocabulary.merges]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def model_proto(tokens, scores, types, unk, dummy_prefix=False):
    """A sentencepiece BPE model as bytes."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    proto = pb.ModelProto()
    for i, token in enumerate(tokens):
        piece = proto.pieces.add()
        kind = UNKNOWN if i == unk else types[i]
        piece.piece = token.replace(" ", MARK) if kind == USER_DEFINED else token
        piece.score = scores[i]
        piece.type = kind
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = pb.TrainerSpec.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = any(kind == 6 for kind in types)
    trainer.unk_id = unk
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = dummy_prefix
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return proto.SerializeToString()


def sentencepiece_bpe(vocabulary):
    import sentencepiece

    v = vocabulary
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model_proto(v.tokens, v.scores, v.types, v.unk))
    return lambda text: list(processor.EncodeAsIds(text))


def oracle(vocabulary):
    return byte_level(vocabulary) if vocabulary.model == "gpt2" else sentencepiece_bpe(vocabulary)


# ---------------------------------------------------------------- our side


def compile_helper(root, build, source, program):
    """Builds a small C program of this folder against libhearth.a."""
    import subprocess

    pkg_config = ["pkg-config", "--libs", "libutf8proc", "jansson"]
    flags = subprocess.run(pkg_config, check=True, capture_output=True, text=True).stdout.split()
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", f"-I{root}", root / "tests/peers" / source]
    command += [build / "libhearth.a", "-pthread", *flags, "-lm", "-ldl", "-o", program]
    subprocess.run([str(part) for part in command], check=True)


# ---------------------------------------------------------------- texts


def texts(folder):
    """Yields (source, text): whole files, their lines, and the records of JSON files."""

    def load(path):
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()

    torture = folder / "tokenizer_torture"
    for path in sorted(torture.glob("*.txt")) + sorted((folder / "udhr").glob("*.txt")):
        whole = load(path)
        source = "udhr" if path.parent.name == "udhr" else "torture"
        yield source, whole
        yield from ((source, line) for line in whole.split("\n"))
    yield from (("torture", text) for text in json.loads(load(torture / "blns.json")))
    for path in sorted((torture / "llama_cpp_vocab").glob("*.inp")):
        whole = load(path)
        yield "torture", whole
        yield from (("torture", text) for text in whole.split("\n__ggml_vocab_test__\n"))
    for record in json.loads(load(folder / "alpaca" / "alpaca_random_sample.json")):
        for key in ("instruction", "input", "output"):
            yield "alpaca", record[key]
        prompt = record["instruction"] + "\n\n" + record["input"]
        yield "alpaca", prompt + "\n\n### Response:\n" + record["output"]
    for path in sorted((folder / "daily_dialog").glob("*.txt")):
        whole = load(path)
        yield "daily_dialog", whole
        yield from (("daily_dialog", line) for line in whole.split("\n"))
