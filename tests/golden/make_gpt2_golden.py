#!/usr/bin/env python3
"""Writes gpt2_tiny.safetensors: 20 AdamW steps of a tiny GPT-2 in PyTorch, fp32, for tests/golden_gpt2_test.cpp.

    python3 make_gpt2_golden.py        (needs PyTorch; the file in the repository came from 2.15 on a CPU)

Names, shapes and update rules are ours (model/, optim/); the arithmetic is PyTorch's. In the file:
    weight/NAME     initial weights
    gradient/NAME   gradients of step 1, over the whole batch, before clipping
    tokens          int32 [steps x batch, context + 1]: row i is sample i
    losses, norms   float64 [steps]: mean loss, global gradient norm before clipping
"""
import json
import math
import struct
from pathlib import Path

import torch
import torch.nn.functional as F

LAYERS, HIDDEN, HEADS, VOCAB, CONTEXT = 2, 24, 3, 89, 16  # odd sizes: rows that fill no vector register
BATCH, MICRO_BATCH, STEPS = 4, 2, 20
PEAK, FINAL_FRACTION, WARMUP, WEIGHT_DECAY, BETAS, EPSILON, CLIP = 1e-2, 0.1, 4, 0.1, (0.9, 0.95), 1e-8, 1.2


def initial_weights():
    """Three times GPT-2's 0.02, in biases and norms too, so that every parameter counts: each gradient is at least a hundredth of its
    share of the whole. Not more: the key biases' gradients are zero in theory, and their rounding noise, in PyTorch as in any fp32, grows
    with about the third power of this scale. Here PyTorch's is below a tenth of the test's bound; at 0.15 it is nine tenths."""
    shapes = {"embedding.token.weight": (VOCAB, HIDDEN), "embedding.position.weight": (CONTEXT, HIDDEN)}
    for layer in range(LAYERS):
        attention, mlp = f"blocks.{layer}.attention.", f"blocks.{layer}.mlp."
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {attention + projection + ".weight": (HIDDEN, HIDDEN), attention + projection + ".bias": (HIDDEN,)}
        shapes |= {mlp + "up_proj.weight": (4 * HIDDEN, HIDDEN), mlp + "up_proj.bias": (4 * HIDDEN,)}
        shapes |= {mlp + "down_proj.weight": (HIDDEN, 4 * HIDDEN), mlp + "down_proj.bias": (HIDDEN,)}
        for norm in (attention, mlp):
            shapes |= {norm + "norm.weight": (HIDDEN,), norm + "norm.bias": (HIDDEN,)}
    shapes |= {"head.norm.weight": (HIDDEN,), "head.norm.bias": (HIDDEN,)}
    return {name: torch.randn(shape) * 0.06 + (1 if name.endswith("norm.weight") else 0) for name, shape in shapes.items()}


def norm(x, w, name):
    return F.layer_norm(x, (HIDDEN,), w[name + "norm.weight"], w[name + "norm.bias"], eps=1e-5)


def linear(x, w, name):
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def attention(x, w, name):
    B, T, _ = x.shape
    q, k, v = (linear(x, w, f"{name}{p}_proj").view(B, T, HEADS, -1).transpose(1, 2) for p in "qkv")  # [B, A, T, D]
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return linear((weights @ v).transpose(1, 2).reshape(B, T, -1), w, name + "out_proj")


def mlp(x, w, name):
    return linear(F.gelu(linear(x, w, name + "up_proj"), approximate="tanh"), w, name + "down_proj")


def loss_sum(tokens, w):
    """Cross entropy summed over the tokens of a micro-batch [B, T + 1]."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    h = w["embedding.token.weight"][inputs] + w["embedding.position.weight"][: inputs.shape[1]]
    for layer in range(LAYERS):
        name = f"blocks.{layer}."
        h = h + attention(norm(h, w, name + "attention."), w, name + "attention.")
        h = h + mlp(norm(h, w, name + "mlp."), w, name + "mlp.")
    logits = norm(h, w, "head.") @ w["embedding.token.weight"].T  # tied
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def learning_rate(step):
    """optim/learning_rate.h: linear warm-up, then a cosine that reaches its end at the last step."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    least, progress = PEAK * FINAL_FRACTION, (step - WARMUP) / (STEPS - 1 - WARMUP)
    return least + (PEAK - least) * 0.5 * (1 + math.cos(math.pi * progress))


def train(initial, tokens, dtype):
    """Losses and norms of every step and the gradients of the first."""
    w = {name: value.to(dtype).clone().requires_grad_() for name, value in initial.items()}
    matrices, vectors = [p for p in w.values() if p.dim() == 2], [p for p in w.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
                                  betas=BETAS, eps=EPSILON, foreach=False)
    losses, norms, gradients = [], [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        batch = tokens[step * BATCH : (step + 1) * BATCH]
        total = 0.0
        for micro_batch in batch.split(MICRO_BATCH):
            loss = loss_sum(micro_batch, w)
            (loss / (BATCH * CONTEXT)).backward()  # adds to what the other micro-batches left
            total += loss.item()
        losses.append(total / (BATCH * CONTEXT))
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in w.items()}
        norms.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in w.values())))
        for p in w.values():
            p.grad *= min(1.0, CLIP / norms[-1])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
    return losses, norms, gradients


def sample_tokens():
    """Each token is a fixed successor of the one before it, or one time in four anything: something to learn, and every step new."""
    samples = STEPS * BATCH
    successor, anything, random = torch.randperm(VOCAB), torch.randint(VOCAB, (samples, CONTEXT + 1)), torch.rand(samples, CONTEXT + 1)
    tokens = anything.clone()
    for t in range(1, CONTEXT + 1):
        tokens[:, t] = torch.where(random[:, t] < 0.75, successor[tokens[:, t - 1]], anything[:, t])
    return tokens


def write_safetensors(path, tensors):
    """https://huggingface.co/docs/safetensors: length of the header, header, data."""
    names = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32"}
    header, data = {}, b""
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # wide elements first: all aligned
        content = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    torch.manual_seed(1234)
    torch.set_num_threads(1)
    initial, tokens = initial_weights(), sample_tokens()
    losses, norms, gradients = train(initial, tokens, torch.float32)
    exact, _, _ = train(initial, tokens, torch.float64)
    tensors = {"weight/" + name: value for name, value in initial.items()}
    tensors |= {"gradient/" + name: value for name, value in gradients.items()}
    tensors |= {"tokens": tokens.int()}
    tensors |= {"losses": torch.tensor(losses, dtype=torch.float64), "norms": torch.tensor(norms, dtype=torch.float64)}
    path = Path(__file__).resolve().parent / "gpt2_tiny.safetensors"
    write_safetensors(path, tensors)
    for step, (loss, size, double) in enumerate(zip(losses, norms, exact), start=1):
        clipped = "  clipped" if size > CLIP else ""
        print(f"step {step:2}  loss {loss:.7f}  from fp64 {abs(loss - double) / double:.1e}  norm {size:.4f}{clipped}")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
