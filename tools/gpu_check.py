"""What tools/gpu_check.sh runs on a GPU machine: sections one after the other, each with its own time limit, and one report.

A section (gpu_check_sections.py) returns its lines of Markdown, raises Failed with them, or raises Skipped. One that fails stops no other.
"""
import argparse
import contextlib
import datetime
import pathlib
import shutil
import sys
import tarfile
import tempfile
import time

from gpu_check_bench import Bench, Failed, Skipped, block
from gpu_check_sections import SECTIONS

HERE = pathlib.Path(__file__).resolve().parent
def unpacked(options, work):
    """The bundle's files below `work`."""
    places = [options.bundle] if options.bundle else [HERE, HERE.parent / "build/gpu_check"]
    archive = next((place / "files.tar.gz" for place in map(pathlib.Path, places) if (place / "files.tar.gz").exists()), None)
    if archive is None:
        sys.exit(f"error: no files.tar.gz in {', '.join(map(str, places))}; `tools/gpu_check.sh pack` makes it where Tessera is built")
    with tarfile.open(archive) as packed:
        packed.extractall(work / "bundle", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return work / "bundle"


def run_section(bench, section):
    """(verdict, seconds, lines)."""
    start = time.monotonic()
    bench.section_end, bench.commands = min(bench.end, start + section.limit_seconds), []
    try:
        if start >= bench.end:
            raise Failed(["no time was left: --seconds"])
        verdict, lines = "passed", section.body(bench)
    except Skipped as why:
        verdict, lines = "skipped", [str(why)]
    except Failed as why:
        verdict, lines = "failed", why.args[0]
    except Exception as error:  # a check that breaks has not passed, and stops no other
        verdict, lines = "failed", [f"the check itself broke: {type(error).__name__}: {error}"]
    commands = ["", *block("\n".join(f"$ {command}" for command in bench.commands))] if bench.commands else []
    return verdict, time.monotonic() - start, [*lines, *commands]


def options_of(arguments, names):
    parser = argparse.ArgumentParser(prog="tools/gpu_check.sh", description="Checks Tessera on a GPU and writes one report.")
    parser.add_argument("--bundle")
    parser.add_argument("--out", default="gpu_check.md")
    parser.add_argument("--seconds", type=float, default=460)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep")
    return parser.parse_args(arguments)


def check(options, sections, work):
    bench = Bench(options, unpacked(options, work), work)
    started = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    head = ["# GPU check", "", f"{started}, commit {bench.manifest['commit']}, packed {bench.manifest['packed']}", "",
            *block(" ".join(["tools/gpu_check.sh", *sys.argv[1:]])), ""]
    body, counts = [], {"passed": 0, "failed": 0, "skipped": 0}
    last = ""
    for section in sections:
        verdict, seconds, lines = run_section(bench, section)
        counts[verdict] += 1
        print(f"{verdict:8} {section.name} ({seconds:.0f} s)" + (f": {lines[0]}" if verdict != "passed" else ""), flush=True)
        body += [f"## {section.title}: {verdict}, {seconds:.1f} s", "", *lines, ""]
        last = f"{counts['passed']} passed, {counts['failed']} failed"
        skipped = [f"{counts['skipped']} skipped", ""] if counts["skipped"] else []
        pathlib.Path(options.out).write_text("\n".join([*head, *body, *skipped, last]) + "\n")  # whatever comes next
    print(f"report   {options.out}\n{last}")
    return 0 if counts["failed"] == 0 and counts["passed"] > 0 else 1


def main():
    options = options_of(sys.argv[1:], [section.name for section in SECTIONS])
    if options.list:
        return print("\n".join(f"{section.name:16} {section.title}" for section in SECTIONS))
    with contextlib.ExitStack() as stack:
        if options.keep:
            work = pathlib.Path(options.keep).resolve()
            shutil.rmtree(work / "runs", ignore_errors=True)
            work.mkdir(parents=True, exist_ok=True)
        else:
            work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu_check_")))
        (work / "runs").mkdir()
        return check(options, [section for section in SECTIONS if section.name in options.only], work)


if __name__ == "__main__":
    sys.exit(main())
