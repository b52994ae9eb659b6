#!/usr/bin/env python3
"""A training step of ours beside PyTorch's at its best, on the same machine, in turns.

    python3 tools/bench_peers.py [--python PYTHON] [--rounds 5] [--only NAME ...] [--dtypes bf16 fp32] [--threads N]

Each round runs every candidate once, in a process of its own: `tessera bench step`, and PyTorch eager and compiled, with and without
tcmalloc preloaded (Debian: libtcmalloc-minimal4). PyTorch trains the same model: fused AdamW, clipping, attention in one kernel, bf16 by
autocast over fp32 weights. Printed: medians of tokens/s over the rounds, and ours over the best of PyTorch's. PyTorch is expected in PYTHON.
"""
import argparse
import ctypes.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATIONS = {
    "small": {"layers": 6, "hidden": 384, "heads": 6, "vocab": 4096, "batch": 8, "sequence": 256},
    "gpt2-t64": {"layers": 12, "hidden": 768, "heads": 12, "vocab": 50257, "batch": 4, "sequence": 64},
    "gpt2-t1024": {"layers": 12, "hidden": 768, "heads": 12, "vocab": 50257, "batch": 4, "sequence": 1024},
}
ROOT = Path(__file__).resolve().parent.parent


def train_in_pytorch(c, dtype, compiled, threads, seconds):
    """Tokens/s of whole steps after a warm-up: forward, loss, backward, clipping, AdamW."""
    import torch  # only here: the driver needs no PyTorch
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, hidden, heads):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
            self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
            self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

        def forward(self, x):
            B, T, H = x.shape
            q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1))
            att = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(att.transpose(1, 2).reshape(B, T, H))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.position = nn.Embedding(c["vocab"], c["hidden"]), nn.Embedding(1024, c["hidden"])
            self.blocks = nn.ModuleList(Block(c["hidden"], c["heads"]) for _ in range(c["layers"]))
            self.norm = nn.LayerNorm(c["hidden"])

        def forward(self, tokens, targets):
            x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = self.norm(x) @ self.token.weight.T
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    torch.manual_seed(1)
    torch.set_num_threads(threads)
    model = Gpt2()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run = torch.compile(model) if compiled else model
    tokens, targets = torch.randint(c["vocab"], (2, c["batch"], c["sequence"]))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(3):
        step()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return c["batch"] * c["sequence"] / statistics.median(times)


def train_in_tessera(tessera, c, dtype, threads, seconds):
    sizes = {"model." + key: c[key] for key in ("layers", "hidden", "heads", "vocab")}
    sizes |= {"model.context": max(1024, c["sequence"]), "train.sequence": c["sequence"], "train.batch_size": c["batch"],
              "train.micro_batch_size": c["batch"], "precision.compute": dtype, "parallel.threads": threads}
    command = [tessera, "bench", "step", "--json", "--seconds", str(seconds), "--set", *(f"{key}={value}" for key, value in sizes.items())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def pytorch_process(python, c, dtype, compiled, preload, threads, seconds):
    request = json.dumps({"c": c, "dtype": dtype, "compiled": compiled, "threads": threads, "seconds": seconds})
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | ({"LD_PRELOAD": preload} if preload else {})
    done = subprocess.run([python, __file__, "--request", request], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"PyTorch failed:\n{done.stderr[-2000:]}")
    return float(done.stdout)


def compare(name, dtype, arguments, preload):
    """Prints a table of medians and returns ours over the best of PyTorch's."""
    c, threads = CONFIGURATIONS[name], arguments.threads
    candidates = {"tessera": None}
    for compiled in (False, True):
        for library in ["", preload] if preload else [""]:
            label = f"pytorch {'compiled' if compiled else 'eager'}{' tcmalloc' if library else ''}"
            candidates[label] = (compiled, library)
    rates, steps = {label: [] for label in candidates}, []
    for _ in range(arguments.rounds):
        for label, settings in candidates.items():
            if settings is None:
                steps.append(train_in_tessera(arguments.tessera, c, dtype, threads, arguments.seconds))
                rates[label].append(steps[-1]["tokens_per_second"])
            else:
                rates[label].append(pytorch_process(arguments.python, c, dtype, *settings, threads, arguments.seconds))
    medians = {label: statistics.median(values) for label, values in rates.items()}
    best = max((label for label in medians if label != "tessera"), key=medians.get)
    print(f"\n{name} {dtype}: {c}")
    for label, median in medians.items():
        print(f"  {label:28} {median:10.0f} tokens/s   {min(rates[label]):.0f} to {max(rates[label]):.0f}")
    ratio = medians["tessera"] / medians[best]
    floor, mfu = (statistics.median(step[key] for step in steps) for key in ("floor_share", "mfu"))
    print(f"  ours / {best}: {ratio:.2f}   achieved / floor: {floor:.2f}   MFU {mfu:.1%}")
    return {"name": name, "dtype": dtype, "tokens_per_second": medians, "ratio": ratio, "floor_share": floor, "mfu": mfu, "steps": steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--tessera", default=str(ROOT / "build/release/tools/tessera"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of measured steps for each candidate and round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--dtypes", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--json", type=Path, help="writes what was measured")
    parser.add_argument("--request", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.request:
        print(train_in_pytorch(**json.loads(arguments.request)))
        return
    library = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if not library:
        print("tcmalloc is not installed: PyTorch runs without it")
    results = [compare(name, dtype, arguments, library) for name in arguments.only for dtype in arguments.dtypes]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
