#!/usr/bin/env python3
"""tools/quickstart.sh from outside, on a small text, with the release build that is there. Takes about two minutes."""
import json
import os
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/quickstart_test"
STEPS_WAIT_SECONDS_MAX = 300


def listen_to_interrupts():
    """A background shell starts its children deaf to Ctrl-C; these must hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(run_dir, *arguments):
    command = ["tools/quickstart.sh", "--no-install", "--run-dir", str(run_dir), *arguments, str(WORK / "texts")]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True, preexec_fn=listen_to_interrupts)


def run(run_dir, *arguments):
    process = start(run_dir, *arguments)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def fingerprint(*folders):
    """Every file with its time and size: equal fingerprints mean that nothing was written."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for folder in folders for path in folder.rglob("*") if path.is_file()}


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def finished(run_dir):
    report = run_dir / "report.json"
    return report.exists() and json.loads(report.read_text())["config"]["finished"] == "yes"


class Quickstart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(WORK, ignore_errors=True)
        (WORK / "texts").mkdir(parents=True)
        sources = sorted(path for folder in ("base", "kernels", "docs") for path in (ROOT / folder).rglob("*") if path.is_file())
        for number, path in enumerate(sources):
            shutil.copyfile(path, WORK / "texts" / f"{number:04}{path.suffix}")

    def test_a_second_run_does_no_work_twice(self):
        run_dir = WORK / "twice"
        status, stdout, stderr = run(run_dir, "--minutes", "0.2")
        self.assertEqual(status, 0, stderr)
        self.assertTrue(finished(run_dir))
        before = fingerprint(run_dir, WORK / "twice-text")
        status, stdout, stderr = run(run_dir, "--minutes", "0.2")
        self.assertEqual(status, 0, stderr)
        after = fingerprint(run_dir, WORK / "twice-text")
        for derived in ("report.json", "report.html"):  # `tessera eval` and `tessera compare` may complete these
            before, after = ({path: value for path, value in prints.items() if Path(path).name != derived} for prints in (before, after))
        self.assertEqual(before, after)
        self.assertIn("done already", stderr)

    def test_other_options_never_touch_a_run_that_is_there(self):
        run_dir = WORK / "other"
        (run_dir / "checkpoints").mkdir(parents=True)
        (run_dir / "checkpoints/mine").write_text("mine")
        before = fingerprint(run_dir)
        status, _, stderr = run(run_dir)
        self.assertEqual(status, 2)
        self.assertIn("nothing was changed", stderr)
        self.assertEqual(before, fingerprint(run_dir))

    def interrupt_after(self, run_dir, lines):
        """Starts a training far from its end, and presses Ctrl-C once metrics.jsonl has more than `lines` lines. Its messages."""
        process = start(run_dir, "--minutes", "20")
        give_up = time.monotonic() + STEPS_WAIT_SECONDS_MAX
        while len(lines_of(run_dir / "metrics.jsonl")) <= lines and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.05)
        self.assertIsNone(process.poll(), "ended by itself")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the script and to what it runs
        _, stderr = process.communicate()
        self.assertEqual(process.returncode, 0, stderr)
        self.assertFalse(finished(run_dir))
        self.assertIn("goes on from there", stderr)
        self.assertNotIn("== a sample", stderr)
        self.assertTrue(any((run_dir / "checkpoints").iterdir()))
        return stderr

    def test_an_interrupted_training_is_saved_and_resumed(self):
        run_dir = WORK / "interrupted"
        self.assertNotIn("resumed from step", self.interrupt_after(run_dir, 1))
        first = lines_of(run_dir / "metrics.jsonl")
        self.assertIn("resumed from step", self.interrupt_after(run_dir, len(first)))
        both = lines_of(run_dir / "metrics.jsonl")
        self.assertEqual(both[: len(first)], first)
        self.assertEqual([json.loads(line)["step"] for line in both], list(range(json.loads(both[0])["step"], len(both) + json.loads(both[0])["step"])))


if __name__ == "__main__":
    unittest.main()
