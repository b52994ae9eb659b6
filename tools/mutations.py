#!/usr/bin/env python3
"""Proves that the tests can fail: applies each one-line fault of tests/mutations.toml to a copy of the tree, rebuilds what changed, runs
the named test and demands that it turns red. The tree itself is never touched: the copy lives in build/mutations and is kept, so that a
second run rebuilds only what changed since.

    tools/mutations.py [--only TEXT] [--list]

Ends with "N passed, N failed"; a mutation passes when its test noticed it.
"""
import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

KEYS = {"name", "file", "find", "replace", "test"}
OPTIONAL_KEYS = {"job"}

# The jobs of tools/test.sh that a mutation may name: preset, target, environment. Of kernels by themselves, and of ops.
KERNELS, OPS = "tessera_cuda_emulated_tests", "tessera_device_tests"
REVERSE = {"TESSERA_EMULATION_ORDER": "reverse", "TESSERA_EMULATION_STREAMS": "lazy"}
RANDOM = {"TESSERA_EMULATION_ORDER": "random:7"}
BLOCK = {"TESSERA_EMULATION_RACES": "block"}
GRID = {"TESSERA_EMULATION_RACES": "grid", "TESSERA_EMULATION_STREAMS": "lazy"}
JOBS = {
    "release": ("release", "tessera_tests", {}),
    "emulated": ("release", KERNELS, {}),
    "emulated-module": ("release", OPS, {}),
    "emulated-lazy": ("release", KERNELS, {"TESSERA_EMULATION_STREAMS": "lazy", "TESSERA_EMULATION_PROTECT": "1"}),
    "emulated-asan": ("asan", KERNELS, {}),
    "emulated-asan-reverse": ("asan", KERNELS, REVERSE),
    "emulated-asan-random": ("asan", KERNELS, RANDOM),
    "emulated-races-block": ("cuda-races", KERNELS, BLOCK),
    "emulated-races-grid": ("cuda-races", KERNELS, GRID),
    "emulated-ops-asan": ("asan", OPS, {}),
    "emulated-ops-asan-reverse": ("asan", OPS, REVERSE),
    "emulated-ops-asan-random": ("asan", OPS, RANDOM),
    "emulated-ops-races-block": ("cuda-races", OPS, BLOCK),
    "emulated-ops-races-grid": ("cuda-races", OPS, GRID),
}
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1:atexit_sleep_ms=0",
}
TEST_SECONDS_MAX = 300  # a fault may well hang the test that notices it


def read_mutations(root):
    """The mutations of tests/mutations.toml; ValueError names what is wrong with one."""
    with open(root / "tests/mutations.toml", "rb") as file:
        mutations = tomllib.load(file).get("mutation", [])
    names = set()
    for number, mutation in enumerate(mutations, start=1):
        where = f"tests/mutations.toml, mutation {number} ({mutation.get('name', 'no name')})"
        if not KEYS <= set(mutation) <= KEYS | OPTIONAL_KEYS or not all(isinstance(value, str) for value in mutation.values()):
            raise ValueError(f"{where}: has the keys {', '.join(sorted(mutation))}; legal: the strings {', '.join(sorted(KEYS))}")
        if mutation.setdefault("job", "release") not in JOBS:
            raise ValueError(f"{where}: job = {mutation['job']}; legal: {', '.join(JOBS)}")
        if mutation["name"] in names:
            raise ValueError(f"{where}: the name stands twice")
        names.add(mutation["name"])
        path = root / mutation["file"]
        if not path.is_file():
            raise ValueError(f"{where}: {mutation['file']} does not exist")
        count = path.read_text(encoding="utf-8").count(mutation["find"]) if mutation["find"] else 0
        if count != 1:
            raise ValueError(f"{where}: `find` stands {count} times in {mutation['file']}; it must stand once")
        if mutation["find"] == mutation["replace"]:
            raise ValueError(f"{where}: `replace` changes nothing")
    return mutations


def project_files(root):
    """Tracked files and new ones that git does not ignore."""
    output = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            stdout=subprocess.PIPE, check=True).stdout.decode()
    return sorted({name for name in output.split("\0") if name and (root / name).is_file()})


def sync(root, copy):
    """Makes `copy` equal to the tree. Equal files keep their times, so that only what changed is rebuilt."""
    names = project_files(root)
    for name in names:
        source, target = root / name, copy / name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)
    wanted = set(names)
    for path in copy.rglob("*"):
        name = path.relative_to(copy).as_posix()
        if path.is_file() and name not in wanted and not name.startswith("build/"):
            path.unlink()


def run(command, copy, log, seconds=None):
    """The exit status; None when it took too long. Output goes to the end of `log`."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n$ {' '.join(map(str, command))}\n")
        file.flush()
        try:
            return subprocess.run(command, cwd=copy, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            return None


def fixed_addresses(command):
    """ThreadSanitizer of older compilers cannot map its shadow where the kernel randomizes addresses widely."""
    setarch = ["setarch", os.uname().machine, "-R"]
    allowed = shutil.which("setarch") and subprocess.run([*setarch, "true"], capture_output=True, check=False).returncode == 0
    return setarch + command if allowed else command


@functools.cache
def configured(copy, preset, log):
    """Also where it was before: the tree may have changed since."""
    return run(["cmake", "--preset", preset], copy, log) == 0


def build(copy, job, log):
    preset, target, _ = JOBS[job]
    return configured(copy, preset, log) and run(fixed_addresses(["cmake", "--build", f"build/{preset}", "--target", target]), copy, log) == 0


def is_possible(copy, job, log):
    """False for emulated CUDA on a machine without its headers, Boost.Context or clang."""
    preset, target, _ = JOBS[job]
    if target not in (KERNELS, OPS):
        return True
    if preset == "cuda-races" and not shutil.which("clang++"):
        return False
    return configured(copy, preset, log) and (copy / f"build/{preset}/tests/cuda_emulation").is_dir()


def test_pattern(test):
    """The regular expression of ctest for a test name with * as in GoogleTest's filters."""
    return "^(" + "|".join(".*".join(re.escape(part) for part in name.split("*")) for name in test.split(":")) + ")$"


def ctest(copy, job, test, log):
    """"green", "red", "hung", or "absent" when no test has that name."""
    preset, _, environment = JOBS[job]
    asked = [f"{name}={value}" for name, value in (environment | SANITIZER_OPTIONS).items()]
    command = fixed_addresses(["env", *asked, "ctest", "--test-dir", f"build/{preset}", "-R", test_pattern(test)])
    listed = subprocess.run([*command, "--show-only=json-v1"], cwd=copy, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if listed.returncode != 0 or not json.loads(listed.stdout).get("tests"):
        return "absent"
    status = run([*command, "--output-on-failure", "--timeout", str(TEST_SECONDS_MAX)], copy, log, 4 * TEST_SECONDS_MAX)
    return "hung" if status is None else "green" if status == 0 else "red"


def try_mutation(mutation, copy, log):
    """(whether the test noticed, what happened). The build also undoes the mutation before this one."""
    path = copy / mutation["file"]
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(original.replace(mutation["find"], mutation["replace"]), encoding="utf-8")
        if not build(copy, mutation["job"], log):
            return False, "does not compile"
        after = ctest(copy, mutation["job"], mutation["test"], log)
    finally:
        path.write_text(original, encoding="utf-8")  # newer than the objects of the fault, so the next build replaces them
    return after in ("red", "hung"), "SURVIVED" if after == "green" else after


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutations whose name contains TEXT")
    parser.add_argument("--list", action="store_true", help="print the mutations and stop")
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    try:
        mutations = [mutation for mutation in read_mutations(root) if arguments.only in mutation["name"]]
    except (ValueError, tomllib.TOMLDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        for mutation in mutations:
            print(f"{mutation['name']:<60} {mutation['job']:<22} {mutation['file']:<36} {mutation['test']}")
        return 0
    work = root / "build/mutations"
    copy, log = work / "tree", work / "log.txt"
    copy.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    os.environ["CTEST_PARALLEL_LEVEL"] = str(os.cpu_count() or 1)
    pinned = root / ".dependencies/onednn"  # git ignores it, so the copy lacks it
    if pinned.is_dir():
        os.environ.setdefault("DNNL_ROOT", str(pinned))
    sync(root, copy)
    passed, failed = 0, 0
    print(f"building the copy in {copy.relative_to(root)}", file=sys.stderr)
    impossible = {job for job in {mutation["job"] for mutation in mutations} if not is_possible(copy, job, log)}
    for mutation in mutations:
        if mutation["job"] in impossible:
            print(f"skipped  {mutation['name']}: {mutation['job']} cannot be built here")
    mutations = [mutation for mutation in mutations if mutation["job"] not in impossible]
    for job in sorted({mutation["job"] for mutation in mutations}):
        if not build(copy, job, log):
            print(f"error: the unchanged copy does not build for {job}: see {log.relative_to(root)}", file=sys.stderr)
            print("0 passed, 1 failed")
            return 1
    width = max((len(mutation["name"]) for mutation in mutations), default=8)
    print(f"{'mutation':<{width}}  {'result':<24}  {'seconds':>7}  job: test", flush=True)
    unchanged = {(mutation["job"], mutation["test"]): None for mutation in mutations}
    for job, test in unchanged:  # a test that is red anyway proves nothing
        unchanged[job, test] = ctest(copy, job, test, log)
    for mutation in mutations:
        start = time.monotonic()
        before = unchanged[mutation["job"], mutation["test"]]
        noticed, result = try_mutation(mutation, copy, log) if before == "green" else (False, f"{before} without the fault")
        passed, failed = passed + noticed, failed + (not noticed)
        print(f"{mutation['name']:<{width}}  {result:<24}  {time.monotonic() - start:>7.0f}  {mutation['job']}: {mutation['test']}",
              flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
