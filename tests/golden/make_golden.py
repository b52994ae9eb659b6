#!/usr/bin/env python3
"""Writes what PyTorch computes for tiny models, for tests/golden_ranks_test.cpp and tests/precision_test.cpp.

    python3 make_golden.py        (needs PyTorch; the files in the repository came from 2.15 on a CPU)

gpt2_tiny.safetensors, llama_tiny.safetensors: 20 AdamW steps in fp32. Names, shapes and update rules are ours (model/, optim/); the
arithmetic is PyTorch's. In each file:
    weight/NAME     initial weights
    gradient/NAME   gradients of step 1, over the whole batch, before clipping
    tokens          int32 [steps x batch, context + 1]: row i is sample i
    losses, norms   float64 [steps]: mean loss, global gradient norm before clipping
gpt2_curve.safetensors, llama_curve.safetensors: 300 steps on real text, the bytes of this project's own documents.
    weight/NAME     initial weights
    tokens          uint8 [steps x batch, context + 1]
    losses          float64 [steps], fp32
    losses_bf16     float64 [steps], bf16 autocast over fp32 weights
"""
import json
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Model:
    """A tiny model; odd sizes: rows that fill no vector register, and for llama heads that are wider together than the hidden state."""

    architecture: str
    layers: int = 2
    hidden: int = 24
    heads: int = 3
    kv_heads: int = 3
    head_dim: int = 8
    ffn: int = 96
    vocab: int = 89
    context: int = 16
    std: float = 0.06

    @property
    def llama(self):
        return self.architecture == "llama"


@dataclass(frozen=True)
class Recipe:
    steps: int = 20
    batch: int = 4
    micro_batch: int = 2
    peak: float = 1e-2
    final_fraction: float = 0.1
    warmup: int = 4
    weight_decay: float = 0.1
    betas: tuple = (0.9, 0.95)
    epsilon: float = 1e-8
    clip: float = 1.0


GPT2 = Model("gpt2")
LLAMA = Model("llama", heads=4, kv_heads=2, ffn=40)
TINY = Recipe()
CURVE = Recipe(steps=300, peak=3e-3, warmup=20)


def projections(m):
    """(name, outputs, inputs) of the matrices of a block."""
    wide, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    yield from (("attention.q_proj", wide, m.hidden), ("attention.k_proj", kv, m.hidden), ("attention.v_proj", kv, m.hidden))
    yield "attention.out_proj", m.hidden, wide
    if m.llama:
        yield "mlp.gate_proj", m.ffn, m.hidden
    yield from (("mlp.up_proj", m.ffn, m.hidden), ("mlp.down_proj", m.hidden, m.ffn))


def initial_weights(m):
    """Three times GPT-2's 0.02, in biases and norms too, so that every parameter counts: each gradient is at least a hundredth of its
    share of the whole. Not more: the key biases' gradients are zero in theory, and their rounding noise, in PyTorch as in any fp32, grows
    with about the third power of this scale. Here PyTorch's is below a tenth of the test's bound; at 0.15 it is nine tenths."""
    shapes = {"embedding.token.weight": (m.vocab, m.hidden)}
    if not m.llama:
        shapes["embedding.position.weight"] = (m.context, m.hidden)
    norms = ["head.norm"]
    for layer in range(m.layers):
        for name, outputs, inputs in projections(m):
            shapes[f"blocks.{layer}.{name}.weight"] = (outputs, inputs)
            if not m.llama:
                shapes[f"blocks.{layer}.{name}.bias"] = (outputs,)
        norms += [f"blocks.{layer}.attention.norm", f"blocks.{layer}.mlp.norm"]
    for norm_name in norms:
        shapes[norm_name + ".weight"] = (m.hidden,)
        if not m.llama:
            shapes[norm_name + ".bias"] = (m.hidden,)
    if m.llama:
        shapes["head.weight"] = (m.vocab, m.hidden)  # untied
    return {name: torch.randn(shape) * m.std + (1 if name.endswith("norm.weight") else 0) for name, shape in shapes.items()}


def norm(m, x, w, name):
    if m.llama:
        return F.rms_norm(x, (m.hidden,), w[name + ".weight"], eps=1e-5)
    return F.layer_norm(x, (m.hidden,), w[name + ".weight"], w[name + ".bias"], eps=1e-5)


def linear(x, w, name):
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def rotated(x, theta=10000.0):
    """Channels i and i + D/2 turn together.   x [B, A, T, D]"""
    T, D = x.shape[2:]
    angles = torch.arange(T, dtype=torch.float64)[:, None] * theta ** (-2 * torch.arange(D // 2, dtype=torch.float64) / D)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def attention(m, x, w, name):
    B, T, _ = x.shape
    q, k, v = (linear(x, w, f"{name}{p}_proj").view(B, T, -1, m.head_dim).transpose(1, 2) for p in "qkv")  # [B, A, T, D]
    if m.llama:
        q, k = rotated(q), rotated(k)
    k, v = (t.repeat_interleave(m.heads // m.kv_heads, dim=1) for t in (k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(m.head_dim)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return linear((weights @ v).transpose(1, 2).reshape(B, T, -1), w, name + "out_proj")


def mlp(m, x, w, name):
    up = linear(x, w, name + "up_proj")
    activation = F.silu(linear(x, w, name + "gate_proj")) * up if m.llama else F.gelu(up, approximate="tanh")
    return linear(activation, w, name + "down_proj")


def loss_sum(m, tokens, w):
    """Cross entropy summed over the tokens of a micro-batch [B, T + 1]."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    h = w["embedding.token.weight"][inputs]
    if not m.llama:
        h = h + w["embedding.position.weight"][: inputs.shape[1]]
    for layer in range(m.layers):
        name = f"blocks.{layer}."
        h = h + attention(m, norm(m, h, w, name + "attention.norm"), w, name + "attention.")
        h = h + mlp(m, norm(m, h, w, name + "mlp.norm"), w, name + "mlp.")
    logits = norm(m, h, w, "head.norm") @ w["head.weight" if m.llama else "embedding.token.weight"].T
    return F.cross_entropy(logits.flatten(0, 1).float() if logits.dtype == torch.bfloat16 else logits.flatten(0, 1), targets.flatten(),
                           reduction="sum")


def learning_rate(r, step):
    """optim/learning_rate.h: linear warm-up, then a cosine that reaches its end at the last step."""
    if step < r.warmup:
        return r.peak * (step + 1) / r.warmup
    least, progress = r.peak * r.final_fraction, (step - r.warmup) / (r.steps - 1 - r.warmup)
    return least + (r.peak - least) * 0.5 * (1 + math.cos(math.pi * progress))


def train(m, r, initial, tokens, dtype, autocast=False):
    """Losses and norms of every step and the gradients of the first."""
    w = {name: value.to(dtype).clone().requires_grad_() for name, value in initial.items()}
    matrices, vectors = [p for p in w.values() if p.dim() == 2], [p for p in w.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": r.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
                                  betas=r.betas, eps=r.epsilon, foreach=False)
    losses, norms, gradients = [], [], {}
    for step in range(r.steps):
        optimizer.zero_grad()
        batch = tokens[step * r.batch : (step + 1) * r.batch]
        total = 0.0
        for micro_batch in batch.split(r.micro_batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = loss_sum(m, micro_batch, w)
            (loss / (r.batch * m.context)).backward()  # adds to what the other micro-batches left
            total += loss.item()
        losses.append(total / (r.batch * m.context))
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in w.items()}
        norms.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in w.values())))
        for p in w.values():
            p.grad *= min(1.0, r.clip / norms[-1])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(r, step)
        optimizer.step()
    return losses, norms, gradients


def invented_tokens(m, r):
    """Each token is a fixed successor of the one before it, or one time in four anything: something to learn, and every step new."""
    samples = r.steps * r.batch
    successor, anything, random = torch.randperm(m.vocab), torch.randint(m.vocab, (samples, m.context + 1)), torch.rand(samples, m.context + 1)
    tokens = anything.clone()
    for t in range(1, m.context + 1):
        tokens[:, t] = torch.where(random[:, t] < 0.75, successor[tokens[:, t - 1]], anything[:, t])
    return tokens


def text_tokens(m, r):
    """Pieces of this project's documents, byte by byte, in a random order."""
    documents = sorted((Path(__file__).resolve().parents[2] / "docs").glob("*.md"))
    text = torch.tensor(list(b"".join(path.read_bytes() for path in documents)))
    length = m.context + 1
    pieces = text[: len(text) // length * length].view(-1, length)
    return pieces[torch.randint(len(pieces), (r.steps * r.batch,))]


def write_safetensors(path, tensors):
    """https://huggingface.co/docs/safetensors: length of the header, header, data."""
    names = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.uint8: "U8"}
    header, data = {}, b""
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # wide elements first: all aligned
        content = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_tiny(folder, m, r):
    torch.manual_seed(1234)
    initial, tokens = initial_weights(m), invented_tokens(m, r)
    losses, norms, gradients = train(m, r, initial, tokens, torch.float32)
    exact, _, _ = train(m, r, initial, tokens, torch.float64)
    tensors = {"weight/" + name: value for name, value in initial.items()}
    tensors |= {"gradient/" + name: value for name, value in gradients.items()}
    tensors |= {"tokens": tokens.int()}
    tensors |= {"losses": torch.tensor(losses, dtype=torch.float64), "norms": torch.tensor(norms, dtype=torch.float64)}
    write_safetensors(folder / f"{m.architecture}_tiny.safetensors", tensors)
    for step, (loss, size, double) in enumerate(zip(losses, norms, exact), start=1):
        clipped = "  clipped" if size > r.clip else ""
        print(f"{m.architecture} step {step:2}  loss {loss:.7f}  from fp64 {abs(loss - double) / double:.1e}  norm {size:.4f}{clipped}")


def write_curve(folder, m):
    torch.manual_seed(4321)
    m = replace(m, vocab=256, context=64, hidden=32, std=0.02)
    initial, tokens = initial_weights(m), text_tokens(m, CURVE)
    fp32, _, _ = train(m, CURVE, initial, tokens, torch.float32)
    bf16, _, _ = train(m, CURVE, initial, tokens, torch.float32, autocast=True)
    tensors = {"weight/" + name: value for name, value in initial.items()}
    tensors |= {"tokens": tokens.to(torch.uint8)}
    tensors |= {"losses": torch.tensor(fp32, dtype=torch.float64), "losses_bf16": torch.tensor(bf16, dtype=torch.float64)}
    write_safetensors(folder / f"{m.architecture}_curve.safetensors", tensors)
    apart = max(abs(a - b) / a for a, b in zip(fp32, bf16))
    print(f"{m.architecture} curve: fp32 {fp32[0]:.4f} to {fp32[-1]:.4f}, bf16 {bf16[-1]:.4f}, at most {apart:.1e} apart")


def main():
    torch.set_num_threads(1)
    folder = Path(__file__).resolve().parent
    for model, clip in ((GPT2, 1.2), (LLAMA, 1.5)):  # between the smallest and the largest norm
        write_tiny(folder, model, replace(TINY, clip=clip))
        write_curve(folder, model)
    for path in sorted(folder.glob("*.safetensors")):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
