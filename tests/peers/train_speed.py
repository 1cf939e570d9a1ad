# SPDX-License-Identifier: Apache-2.0
"""How fast and in how much memory PEFT trains the dequantised base: LoRA on all linears, AdamW, every token a target,
or a share of them. Prints one JSON object. `train_speed.py MODEL.gguf --dtype bf16 --threads 2`; needs the Python
environment of the peers."""
import argparse
import json
import resource
import statistics
import time

import reference
import torch
from peft import LoraConfig, get_peft_model

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--micro", type=int, default=4, help="sequences computed together")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--targets", type=float, default=1, help="share of the tokens that are learnt")
    parser.add_argument("--checkpointing", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    base = reference.load(args.model).to(torch.bfloat16 if args.dtype == "bf16" else torch.float32)
    base.set_attn_implementation("sdpa")
    base.config.use_cache = False
    if args.checkpointing:
        base.gradient_checkpointing_enable()
        base.enable_input_require_grads()
    peft = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=LINEARS))
    peft.train()
    learning = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=2e-4)
    seconds = []
    for _ in range(args.steps):
        start = time.monotonic()
        ids = torch.randint(100, 40000, (args.batch, args.seq))
        labels = torch.where(torch.rand(ids.shape) < args.targets, ids, -100)
        for part, learnt in zip(ids.split(args.micro), labels.split(args.micro)):
            (peft(input_ids=part, labels=learnt).loss * len(part) / args.batch).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - start)
    print(json.dumps({
        "tokens_per_second": args.batch * args.seq / statistics.median(seconds[1:]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


if __name__ == "__main__":
    main()
