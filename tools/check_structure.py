#!/usr/bin/env python3
"""Checks what the compiler does not: include directions, rules for CUDA kernels, README tables, lengths. Reads the sources only; needs no build.

    tools/check_structure.py [ROOT]

Each rule is one test; the last line is "N passed, N failed", the exit status 1 when a rule failed.
"""
import fnmatch
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

# base -> report -> kernels -> parallel -> {model, optim} -> engine -> planner -> tools: who may include whom, beside itself.
MAY_INCLUDE = {
    "base": set(),
    "report": {"base"},
    "kernels": {"base", "report"},
    "parallel": {"base", "report", "kernels"},
    "model": {"base", "report", "kernels", "parallel"},
    "optim": {"base", "report", "kernels", "parallel"},
    "tokenizer": {"base"},
    "engine": {"base", "report", "kernels", "parallel", "model", "optim", "tokenizer"},
    "planner": {"base", "report", "kernels", "parallel", "model", "optim", "tokenizer", "engine"},
    "tools": {"base", "report", "kernels", "parallel", "model", "optim", "tokenizer", "engine", "planner"},
}
MAY_INCLUDE["tests"] = set(MAY_INCLUDE)

# The formulas must predict the engine, not call it: plain data only.
FORMULA = "planner/formula*"
FORMULA_MAY_INCLUDE = ["base/*", "report/*", "model/spec.h", "model/decls.h", "parallel/layout.h", "parallel/schedule.h",
                       "parallel/shard_map.h", "planner/*"]

# Headers of vendors, and the only files that may see them: whole folders, or the source of the matching communicator.
VENDOR_HEADERS = [
    (re.compile(r"^(cuda|cublas|cudnn|curand|cupti|nvml|nvToolsExt|nvtx3|cub/|thrust/|cutlass|cute/|driver_types)"), ["kernels/cuda/*", "parallel/nccl/*", "tests/cuda_emulation/*"]),
    (re.compile(r"^nccl"), ["kernels/cuda/*", "parallel/*nccl*"]),
    (re.compile(r"^mpi(\.h|-ext\.h)$"), ["parallel/*mpi*"]),
]

# What kernels may say only through kernels/cuda/: pattern, the files where it may stand, what to write instead (kernels/cuda/README.md).
CUDA_RULES = [
    (re.compile(r"<<<|\bcudaLaunch(?:Cooperative)?Kernel\w*|\bcuLaunch\w+"), ["kernels/cuda/launch.h"], "kernels start through launch()"),
    (re.compile(r"\b__shared__\b"), ["kernels/cuda/shared.h"], "shared memory comes from shared<T>() or dynamic_shared<T>()"),
    (re.compile(r"\b(?:asm|__asm__?)\b"), ["kernels/cuda/instructions.h"], "inline assembly stands in instructions.h, with its emulation"),
    (re.compile(r"\bTESSERA_CUDA_EMULATION\b"), ["kernels/cuda/shared.h", "kernels/cuda/instructions.h"], "kernels do not ask whether they are emulated"),
    (re.compile(r"\bcudaStreamCreate\s*\(|\bcudaStream(?:Default|Legacy|PerThread)\b|"
                r"\bcudaStreamCreateWith\w+\s*\((?![^;]*cudaStreamNonBlocking)"), [], "streams are created with cudaStreamNonBlocking"),
    (re.compile(r"\batomic\w+\s*\(\s*(?:reinterpret_cast\s*<\s*|\(\s*)(?:float|double|__half|__nv_bfloat16)|\batomicAdd\s*<\s*(?:float|double)"), [],
     "no atomics on floating-point numbers: two runs give the same bits"),
    (re.compile(r"(?:\A|[;{}]|(?<!\(void)\))\s*(?:cuda|cublas|cudnn|nccl)[A-Z]\w*\s*\("), [],
     "calls go through check(); where nothing can be thrown, (void) says so"),
]

SOURCE_ENDINGS = {".h", ".cpp", ".cu", ".cuh"}
COUNTED_ENDINGS = SOURCE_ENDINGS | {".py", ".sh"}
LONGEST_FILE_LINES = 600
LONGEST_README_LINES = 40

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
LISTED_FILE = re.compile(r"[\w.*/-]+\.(?:h|cuh|cpp|cu|py|sh|cmake|toml|json|md)\b")


class Tree:
    """The project's files: tracked ones and new ones that git does not ignore. Outside a git repository: all files."""

    def __init__(self, root):
        self.root = Path(root)
        git = subprocess.run(["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, check=False)
        if (self.root / ".git").exists() and git.returncode == 0:
            names = [name for name in git.stdout.decode().split("\0") if name]
        else:
            names = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]
        self.files = sorted(name for name in set(names) if (self.root / name).is_file())
        self._texts = {}

    def text(self, name):
        if name not in self._texts:
            self._texts[name] = (self.root / name).read_text(encoding="utf-8", errors="replace")
        return self._texts[name]

    def lines(self, name):
        return len(self.text(name).splitlines())

    def sources(self):
        return [name for name in self.files if PurePosixPath(name).suffix in SOURCE_ENDINGS and folder_of(name) in MAY_INCLUDE]


def folder_of(name):
    """The top folder of a file or of an include path; "" for a bare name."""
    return name.split("/", 1)[0] if "/" in name else ""


def includes_of(tree, name):
    """(line number, path, quoted) of every include."""
    text = tree.text(name)
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start(2)) + 1, match[2], match[1] == '"'


def check_include_directions(tree):
    """each folder includes only what stands to its left"""
    for name in tree.sources():
        folder = folder_of(name)
        for line, path, quoted in includes_of(tree, name):
            target = folder_of(path)
            if target not in MAY_INCLUDE:
                if quoted:
                    yield f'{name}:{line}: "{path}" is not relative to the root (ours), or wants <> (others\')'
                continue
            if target != folder and target not in MAY_INCLUDE[folder]:
                legal = ", ".join(other for other in MAY_INCLUDE if other in MAY_INCLUDE[folder] | {folder})
                yield f'{name}:{line}: {folder}/ must not include "{path}"; legal: {legal}'
            elif path not in tree.files:
                yield f'{name}:{line}: "{path}" does not exist'


def check_formula_is_plain_data(tree):
    """planner/formula includes plain data only"""
    for name in tree.sources():
        if not fnmatch.fnmatch(name, FORMULA):
            continue
        for line, path, _ in includes_of(tree, name):
            if folder_of(path) in MAY_INCLUDE and not any(fnmatch.fnmatch(path, legal) for legal in FORMULA_MAY_INCLUDE):
                yield f'{name}:{line}: a formula must not include "{path}"; legal: {", ".join(FORMULA_MAY_INCLUDE)}'


def check_vendor_headers(tree):
    """CUDA, NCCL and MPI headers stay in their own places"""
    for name in tree.sources():
        for line, path, _ in includes_of(tree, name):
            for vendor, homes in VENDOR_HEADERS:
                if vendor.match(path) and not any(fnmatch.fnmatch(name, home) for home in homes):
                    yield f'{name}:{line}: <{path}> belongs in {", ".join(homes)} only'


def without_comments(text):
    """The same text, line for line, with comments blanked out. Strings are left as they are, so "//" in one ends its line."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
    return re.sub(r"//[^\n]*|/\*.*?\*/", blank, text, flags=re.DOTALL)


def check_cuda_rules(tree):
    """CUDA sources launch, share, assemble, create streams and call by kernels/cuda/'s rules"""
    for name in tree.sources():
        if not fnmatch.fnmatch(name, "kernels/cuda/*"):
            continue
        text = without_comments(tree.text(name))
        for pattern, homes, rule in CUDA_RULES:
            if name in homes:
                continue
            for match in pattern.finditer(text):
                place = match.end() - len(match[0].lstrip(";{}) \t\n"))
                yield f"{name}:{text.count(chr(10), 0, place) + 1}: {rule}"


def table_rows(text):
    """The cells of every table row of a Markdown text, without head and rule."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.strip().startswith("|")]
    return [cells for cells in rows if cells[0] not in ("file", "folder", "") and not set(cells[0]) <= set("-: ")]


def readme_of(tree, name):
    """The README nearest to a file, from its folder upwards; None when only the top one is left."""
    for folder in PurePosixPath(name).parents:
        readme = f"{folder}/README.md"
        if str(folder) != "." and readme in tree.files:
            return readme
    return None


def check_readme_tables(tree):
    """every folder has a README; its table lists every header, and nothing that is gone"""
    for folder in sorted({folder_of(name) for name in tree.files} - {""}):
        if not folder.startswith(".") and f"{folder}/README.md" not in tree.files:
            yield f"{folder}/: has no README.md"
    listed = {}  # README -> paths in the first cells of its tables
    for readme in (name for name in tree.files if name.endswith("/README.md")):
        home = PurePosixPath(readme).parent
        listed[readme] = []
        for cells in table_rows(tree.text(readme)):
            own = [f"{home}/{path}" for path in LISTED_FILE.findall(cells[0])]
            listed[readme] += own
            elsewhere = [path for cell in cells[1:] for path in LISTED_FILE.findall(cell) if path.startswith("tests/")]
            for path in own + elsewhere:
                if not any(fnmatch.fnmatch(name, path) for name in tree.files):
                    yield f"{readme}: lists {path}, which does not exist"
    for name in tree.sources():
        if PurePosixPath(name).suffix not in (".h", ".cuh"):
            continue
        readme = readme_of(tree, name)
        if readme and not any(fnmatch.fnmatch(name, path) for path in listed[readme]):
            yield f"{readme}: its table does not list {PurePosixPath(name).relative_to(PurePosixPath(readme).parent)}"


def check_readme_lengths(tree):
    """a folder's README has at most 40 lines"""
    for name in tree.files:
        if name.endswith("/README.md") and tree.lines(name) > LONGEST_README_LINES:
            yield f"{name}: {tree.lines(name)} lines; at most {LONGEST_README_LINES}"


def check_file_lengths(tree):
    """a source file has at most 600 lines"""
    for name in tree.files:
        if PurePosixPath(name).suffix in COUNTED_ENDINGS and tree.lines(name) > LONGEST_FILE_LINES:
            yield f"{name}: {tree.lines(name)} lines; at most {LONGEST_FILE_LINES}"


CHECKS = [check_include_directions, check_formula_is_plain_data, check_vendor_headers, check_cuda_rules, check_readme_tables,
          check_readme_lengths, check_file_lengths]


def main(arguments):
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    tree = Tree(root)
    failed = 0
    for check in CHECKS:
        findings = list(check(tree))
        failed += bool(findings)
        print(f"{'FAILED' if findings else 'passed'}  {check.__doc__}")
        for finding in findings:
            print(f"  {finding}")
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
