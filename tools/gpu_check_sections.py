"""The sections of tools/gpu_check.sh: what each runs, what it must find, and the figures it leaves in the report."""
import array
import dataclasses
import glob
import hashlib
import json
import os
import pathlib
import platform
import random
import re
import shutil
import typing

from gpu_check_bench import Failed, Skipped, block

MIB = 1 << 20
BF16_EPSILON = 2.0**-7
# Kernels of every family on small shapes: parameters of one digit are the smallest, and what has no parameters is small.
SMALL_TESTS = ("*AttentionOps.*/?:*LossOps.*/?:*MatmulOps.*/?:*Norms.*/?:Elementwise.*:Gelu.*:Swiglu.*:Rotary.*:Embedding.*:LayerNorm.*:Update.*:"
               "GradientNorm.*:AddLoss.*:StepControl.*:LossScale.*")
QUICK_TESTS = "Gelu.*:StepControl.*:LossScale.*"


@dataclasses.dataclass
class Section:
    name: str
    title: str
    limit_seconds: float
    body: typing.Callable


def human(value, unit):
    """12.3 TFLOP/s"""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def table(heading, rows):
    return ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading), *("| " + " | ".join(map(str, row)) + " |" for row in rows)]


def verdict(good, lines):
    if not good:
        raise Failed(lines)
    return lines


# The machine


def machine(bench):
    glibc = os.confstr("CS_GNU_LIBC_VERSION").split()[-1]
    lines = [f"- host: {platform.platform()}, {os.cpu_count()} cores, glibc {glibc} (wanted {bench.manifest['glibc']} or newer)",
             f"- CUDA's libraries: {', '.join(bench.library_folders) or 'where the loader looks'}"]
    if shutil.which("nvidia-smi"):
        fields = "name,driver_version,memory.total,memory.used,clocks.max.sm,power.limit"
        _, stdout, stderr = bench.run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", check=False)
        lines += [f"- nvidia-smi ({fields}): {row}" for row in (stdout or stderr).strip().splitlines()]
    _, info, _ = bench.tessera("info")
    info = info.split("\n\n")[0]  # without the presets
    found = bench.device == "cpu" or re.search(r"^gpu 0", info, re.MULTILINE)
    return verdict(found, [*lines, "", *block(info)] if found else ["Tessera sees no GPU", *lines, "", *block(info)])


# The tests of ops and devices


def count_tests(report):
    """(ran, skipped, names of failed tests with their first message, ran by suite) of gtest's JSON."""
    ran = skipped = 0
    failed, suites = [], {}
    for suite in report["testsuites"]:
        for test in suite["testsuite"]:
            if test.get("result") == "SKIPPED":
                skipped += 1
                continue
            ran += 1
            name = suite["name"].split("/")[-1]
            suites[name] = suites.get(name, 0) + 1
            if test.get("failures"):
                message = " ".join(test["failures"][0]["failure"].split())
                failed.append(f"{suite['name']}.{test['name']}: {message[:300]}")
    return ran, skipped, failed, suites


def device_tests(bench, test_filter, *before):
    """Runs tests; lines of figures. Failed when one fails, when none ran, or when the program died."""
    result = bench.work / "tests.json"
    result.unlink(missing_ok=True)
    status, stdout, stderr = bench.run(*before, bench.bin / "tessera_device_tests", f"--gtest_filter={test_filter}", f"--gtest_output=json:{result}",
                                       "--gtest_brief=1", check=False)
    if not result.exists():
        raise Failed([f"the tests died with status {status}:", *block(stdout + stderr, 20)])
    ran, skipped, failed, suites = count_tests(json.loads(result.read_text()))
    lines = [f"{ran - len(failed)} of {ran} tests passed, {skipped} skipped: " + ", ".join(f"{name} {count}" for name, count in suites.items())]
    lines += [f"- {name}" for name in failed[:40]]
    if status != 0 and not failed:
        lines += [f"exit status {status}:", *block(stdout + stderr, 40)]
    return verdict(ran > 0 and status == 0 and not failed, lines)


def ops(bench):
    return device_tests(bench, QUICK_TESTS if bench.quick else "-*DeviceRanks*")


def ranks(bench):
    return device_tests(bench, "*DeviceRanks.TwoRuns*/gpt2" if bench.quick else "*DeviceRanks*")


# Runs by the command


def write_tokens(path, vocabulary, count):
    """Text without a network: each token follows from the one before in three of four cases, so that there is something to learn."""
    draw = random.Random(7)
    follower = [draw.randrange(vocabulary) for _ in range(vocabulary)]
    tokens = array.array("H", [0])
    for _ in range(count - 1):
        tokens.append(follower[tokens[-1]] if draw.random() < 0.75 else draw.randrange(vocabulary))
    path.write_bytes(tokens.tobytes())


def train(bench, name, device, compute, sets):
    """A run directory, new."""
    run_dir = bench.work / "runs" / name
    tokens = bench.work / "tokens.bin"
    if not tokens.exists():
        write_tokens(tokens, 64 if bench.quick else 512, 400_000)
    config = bench.work / "run.toml"
    config.write_text("[optimizer]\nlearning_rate = 1e-3\nwarmup_steps = 5\n")
    own = bench.options.set if device == bench.device and name.startswith("device") else []
    bench.tessera("train", config, "--run-dir", run_dir, "--device", device, "--set", f"data.path={tokens}", "checkpoint.keep=1",
                  f"precision.compute={compute}", *sets, *own)
    bench.runs[name] = run_dir
    return run_dir


def metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def worst(got, expected, key):
    """The largest relative difference of a column of metrics.jsonl."""
    pairs = [(a[key], b[key]) for a, b in zip(got, expected)]
    if len(got) != len(expected) or not pairs or any(a is None or b is None for a, b in pairs):
        return float("inf")
    return max(abs(a - b) / abs(b) for a, b in pairs)


SMALL_MODEL = ["model.layers=4", "model.hidden=256", "model.heads=4", "model.vocab=512", "model.context=256", "train.batch_size=8",
               "train.micro_batch_size=4", "train.sequence=256", "train.steps=20", "train.eval_every=20", "train.eval_batches=1"]
QUICK_MODEL = ["model.layers=1", "model.hidden=16", "model.heads=2", "model.vocab=64", "model.context=16", "train.batch_size=2",
               "train.micro_batch_size=1", "train.sequence=16", "train.steps=20", "train.eval_every=20", "train.eval_batches=1"]


def compare_16_bits(here, there, exact, lines, what):
    """Whether the device in bf16 is as near to fp32 as the cpu in bf16: at most twice as far, plus one epsilon."""
    cpu, device = worst(metrics(here), metrics(exact), "loss"), worst(metrics(there), metrics(exact), "loss")
    bound = 2 * cpu + BF16_EPSILON
    lines.append(f"- {what}: losses at most {device:.2e} from fp32 on the cpu, relative; the cpu's bf16 is {cpu:.2e} away; bound {bound:.2e}")
    return device <= bound


def agreement(bench):
    """20 steps. fp32 by docs/numerics.md, step 4: 2 rate steps x sqrt(K) u x sqrt(P) x norm / loss = 2e-5 at worst here; the next power of ten
    is the bound, and ten times it that of norms."""
    sets = QUICK_MODEL if bench.quick else SMALL_MODEL
    cpu = {compute: train(bench, f"cpu_{compute}", "cpu", compute, sets) for compute in ("fp32", "bf16")}
    device = {compute: train(bench, f"device_{compute}", bench.device, compute, sets) for compute in ("fp32", "bf16")}
    losses, norms = (worst(metrics(device["fp32"]), metrics(cpu["fp32"]), key) for key in ("loss", "grad_norm"))
    rows = [[a["step"], a["loss"], b["loss"], c["loss"], d["loss"]]
            for a, b, c, d in zip(*(metrics(runs[compute]) for compute in ("fp32", "bf16") for runs in (cpu, device)))]
    lines = [f"- fp32: losses differ by {losses:.2e}, relative (bound 1e-4), gradient norms by {norms:.2e} (bound 1e-3)"]
    good = compare_16_bits(cpu["bf16"], device["bf16"], cpu["fp32"], lines, "bf16")
    learned = bench.quick or metrics(device["bf16"])[-1]["loss"] < metrics(device["bf16"])[0]["loss"]
    if not learned:
        lines.append("- the loss did not fall")
    lines += ["", *table(["step", "fp32 cpu", f"fp32 {bench.device}", "bf16 cpu", f"bf16 {bench.device}"], rows[:3] + rows[-2:])]
    return verdict(good and learned and losses <= 1e-4 and norms <= 1e-3, lines)


def state_files(run_dir):
    """Checkpoint files of tensors with their hash."""
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(run_dir.glob("checkpoints/*/*.safetensors"))}


def determinism(bench):
    sets = QUICK_MODEL if bench.quick else SMALL_MODEL
    lines, good = [], True
    for compute in ("fp32", "bf16"):
        first = train(bench, f"device_{compute}_first", bench.device, compute, sets)
        tuning = first / "tuning.json"
        second = train(bench, f"device_{compute}_second", bench.device, compute, [*sets, f"train.tuning={tuning}"] if tuning.exists() else sets)
        columns = [[(line["loss"], line["grad_norm"], line.get("val_loss")) for line in metrics(run)] for run in (first, second)]
        files = [state_files(run) for run in (first, second)]
        same = columns[0] == columns[1] and files[0] == files[1] and len(files[0]) > 0
        good = good and same
        lines.append(f"- {compute}: two runs of {len(columns[0])} steps with one tuning table: losses and norms "
                     f"{'equal' if columns[0] == columns[1] else 'DIFFER'}, {len(files[0])} checkpoint files {'equal' if files[0] == files[1] else 'DIFFER'}")
    return verdict(good, lines)


def memory(bench):
    """The report of a run: every device row to the byte as counted before, and nearly all that the GPU says is in use explained."""
    run_dir = next((bench.runs[name] for name in ("device_gpt2", "device_bf16", "device_bf16_first") if name in bench.runs), None)
    if run_dir is None:
        run_dir = train(bench, "device_memory", bench.device, "bf16", QUICK_MODEL if bench.quick else SMALL_MODEL)
    report = json.loads((run_dir / "report.json").read_text())
    rows = [row for row in report["memory"] if row["measured_bytes"] is not None]
    wrong = [row for row in rows if row["measured_bytes"] != row["dry_run_bytes"]]
    lines = [f"- {len(rows) - len(wrong)} of {len(rows)} categories measured as the dry run counted them, to the byte"]
    lines += [f"  - {row['category']}: dry run {row['dry_run_bytes']}, measured {row['measured_bytes']}" for row in wrong]
    source = "cudaMemGetInfo" if bench.device == "cuda" else "RssAnon + RssShmem"
    outside = [process for process in report["processes"] if process["source"] == source]
    good = not wrong and len(rows) > 0 and len(outside) == 1
    for process in outside:
        bound = 128 * MIB + process["peak_bytes"] // 50
        named = ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in process["remainder"].items())
        lines.append(f"- {source}: {process['peak_bytes'] / MIB:.1f} MiB in use; the table explains {process['explained_bytes'] / MIB:.1f} MiB; {named}; "
                     f"unexplained {process['unexplained_bytes'] / MIB:.1f} MiB (bound {bound / MIB:.0f}: kernels that are loaded when first used)")
        good = good and abs(process["unexplained_bytes"]) <= bound
    _, text, _ = bench.tessera("compare", run_dir)
    return verdict(good, [*lines, "", *block(text[text.find("category"):])])


def gpt2(bench):
    """8 steps of GPT-2 124M beside the cpu: what the curve of the small model says, with the real shapes. The rate is low, so that the loss falls
    from the first step: where it jumps, roundings grow."""
    if bench.quick:
        raise Skipped("GPT-2 124M takes long: --quick leaves it out")
    sets = ["model.preset=gpt2-124m", "train.batch_size=4", "train.micro_batch_size=4", "train.sequence=64", "train.steps=8", "train.eval_every=8",
            "train.eval_batches=1", "optimizer.learning_rate=1e-4"]
    runs = {}
    for name, device, compute in (("device_gpt2", bench.device, "bf16"), ("cpu_gpt2_bf16", "cpu", "bf16"), ("cpu_gpt2_fp32", "cpu", "fp32")):
        runs[name] = train(bench, name, device, compute, sets)
        shutil.rmtree(runs[name] / "checkpoints")  # 1.5 GB
    lines = []
    good = compare_16_bits(runs["cpu_gpt2_bf16"], runs["device_gpt2"], runs["cpu_gpt2_fp32"], lines, "GPT-2 124M in bf16, 4 x 64 tokens")
    rows = [[a["step"], a["loss"], b["loss"], c["loss"]]
            for a, b, c in zip(*(metrics(runs[name]) for name in ("cpu_gpt2_fp32", "cpu_gpt2_bf16", "device_gpt2")))]
    return verdict(good, [*lines, "", *table(["step", "fp32 cpu", "bf16 cpu", f"bf16 {bench.device}"], rows)])


# Speed


def bench_json(bench, which):
    """`tessera bench step|ops` of GPT-2 124M in bf16, 16 sequences of 1024 in the largest micro-batch that fits."""
    if bench.quick:
        sizes, model, seconds = [2], [word for word in QUICK_MODEL if word.startswith("model.")], 0
    else:
        sizes, model, seconds = [16, 8, 4, 2], ["model.preset=gpt2-124m"], 5
    for micro_batch in sizes:
        status, stdout, stderr = bench.tessera(
            "bench", which, "--device", bench.device, "--seconds", seconds, "--json", "--set", *model, "precision.compute=bf16", f"train.batch_size={sizes[0]}",
            f"train.micro_batch_size={micro_batch}", f"train.sequence={16 if bench.quick else 1024}", check=False)
        if status == 0:
            return micro_batch, json.loads(stdout)
        if status != 4:  # out of memory
            break
    raise Failed([f"exit status {status}:", *block(stdout + stderr, 20)])


def speed_lines(bench, micro_batch, figures):
    model = "a tiny model" if bench.quick else "GPT-2 124M, 16 x 1024 tokens"
    nominal = f", {100 * figures['nominal_mfu']:.1f}% of the nominal peak" if figures["nominal_mfu"] else ""
    return [f"- {model}, {figures['dtype']}, {figures['device']}, {figures['isa']}, micro-batches of {micro_batch}: **{figures['tokens_per_second']:.0f} tokens/s**, "
            f"{1e3 * figures['step_seconds']:.2f} ms a step (of {figures['steps']}), MFU {100 * figures['mfu']:.1f}% of the matmul measured{nominal}",
            f"- ceilings, measured in the same run: {human(figures['matmul_flops_per_second'], 'FLOP/s')} in the largest matmul, "
            f"{human(figures['bytes_per_second'], 'B/s')} of memory",
            f"- floor {1e3 * figures['floor_seconds']:.2f} ms: {figures['floor_share']:.2f} of it reached; {1e3 * figures['outside_seconds']:.2f} ms "
            "outside ops"]


def measured(figures):
    rates = [figures[key] for key in ("tokens_per_second", "matmul_flops_per_second", "bytes_per_second", "floor_seconds")]
    return all(rate > 0 for rate in rates) and all(op["seconds"] > 0 for op in figures["ops"])


def bench_step(bench):
    micro_batch, figures = bench_json(bench, "step")
    kinds = {}
    for op in figures["ops"]:
        seconds, floor = kinds.get(op["op"], (0, 0))
        kinds[op["op"]] = (seconds + op["seconds"], floor + op["floor_seconds"])
    rows = [[name, f"{1e3 * seconds:.3f}", f"{100 * seconds / figures['step_seconds']:.1f}%", f"{1e3 * floor:.3f}", f"{floor / seconds:.2f}" if seconds else "-"]
            for name, (seconds, floor) in sorted(kinds.items(), key=lambda kind: -kind[1][0])]
    return verdict(measured(figures), [*speed_lines(bench, micro_batch, figures), "", *table(["op", "ms a step", "share", "floor, ms", "reached"], rows)])


def roofline_row(op, figures):
    """One kernel: what it does in a call, how long it takes, and its share of both ceilings; the larger one bounds it."""
    each = op["seconds"] / op["calls"]
    if each <= 0:
        return None
    by_flops, by_bytes = op["flops"] / each / figures["matmul_flops_per_second"], op["bytes"] / each / figures["bytes_per_second"]
    shape = " x ".join(str(extent) for extent in op["shape"] if extent)
    return [op["op"], op["dtype"], shape, op["phase"], op["calls"], human(op["flops"], "FLOP"), human(op["bytes"], "B"), f"{1e6 * each:.1f}",
            human(op["flops"] / each, "FLOP/s"), human(op["bytes"] / each, "B/s"), f"{by_flops:.2f}", f"{by_bytes:.2f}",
            "FLOPs" if by_flops > by_bytes else "bytes", op["choice"] or ""]


def bench_ops(bench):
    micro_batch, figures = bench_json(bench, "ops")
    rows = [roofline_row(op, figures) for op in figures["ops"]]
    heading = ["op", "dtype", "shape", "phase", "calls", "FLOPs", "bytes", "us a call", "rate", "bandwidth", "of matmul", "of memory", "bound by", "chosen"]
    return verdict(measured(figures), [*speed_lines(bench, micro_batch, figures), "", *table(heading, filter(None, rows))])


# NVIDIA's checkers


def sanitizer():
    found = shutil.which("compute-sanitizer")
    found = found or next(iter(sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer") + glob.glob("/opt/nvidia/*/compute-sanitizer"))), None)
    if not found:
        raise Skipped("compute-sanitizer is not here")
    return found


def checked_by(tool, *arguments):
    """Tests of small kernels under a tool of compute-sanitizer, whose own count must be none."""

    def body(bench):
        if bench.device == "cpu":
            raise Skipped("nothing runs on a GPU")
        program = sanitizer()
        log = bench.work / f"{tool}.log"
        try:
            lines = device_tests(bench, QUICK_TESTS if bench.quick else SMALL_TESTS, program, "--tool", tool, "--error-exitcode", "9", "--log-file", log,
                                 *arguments)
        except Failed as why:
            raise Failed([*why.args[0], *(block(log.read_text(errors="replace"), 30) if log.exists() else [])]) from None
        return [*lines, "", *block(log.read_text(errors="replace"), 4)]

    return body


SECTIONS = [
    Section("machine", "The machine", 40, machine),
    Section("ops", "Every op against fp64", 110, ops),
    Section("ranks", "Tiny models on one and two ranks beside the cpu, twice, and their memory", 60, ranks),
    Section("agreement", "20 steps by the command on the cpu and the device", 60, agreement),
    Section("determinism", "Two runs give the same bits", 40, determinism),
    Section("step", "Speed of a step", 60, bench_step),
    Section("roofline", "Every kernel beside the ceilings", 60, bench_ops),
    Section("gpt2", "GPT-2 124M: losses beside the cpu", 90, gpt2),
    Section("memory", "The memory table against what the GPU says", 30, memory),
    Section("memcheck", "compute-sanitizer memcheck", 75, checked_by("memcheck")),
    Section("racecheck", "compute-sanitizer racecheck, our own kernels", 75, checked_by("racecheck", "--kernel-name", "kns=tessera")),
]
