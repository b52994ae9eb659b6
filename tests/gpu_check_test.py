#!/usr/bin/env python3
"""tools/gpu_check.sh without a GPU: the bundle on its own, the whole check against the emulated device, and what must make it fail."""
import os
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "build/release"
EMULATED = RELEASE / "tests/cuda_emulation/libtessera_cuda_emulated.so"
WORK = ROOT / "build/gpu_check_test"
MIB = 1 << 20

sys.path.insert(0, str(ROOT / "tools"))
import gpu_check  # noqa: E402
import gpu_check_sections as sections  # noqa: E402
from gpu_check_bench import Bench, Failed  # noqa: E402


def check(*arguments, **environment):
    """(exit status, lines printed, report) of the check, from the packed folder as on another machine."""
    report = WORK / "report.md"
    report.unlink(missing_ok=True)
    result = subprocess.run([WORK / "bundle/gpu_check.sh", "--out", report, "--quick", *arguments], cwd=WORK, stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, timeout=600, env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment}, check=False)
    return result.returncode, result.stdout.splitlines(), report.read_text() if report.exists() else result.stderr


def line(step, loss, norm=1.0):
    return {"step": step, "loss": loss, "grad_norm": norm}


@unittest.skipUnless((RELEASE / "libtessera_cuda.so").exists() and (RELEASE / "tests/tessera_device_tests").exists(), "built without CUDA")
class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        packed = subprocess.run([ROOT / "tools/gpu_check.sh", "pack", WORK / "bundle"], capture_output=True, text=True, check=False)
        assert packed.returncode == 0, packed.stderr
        assert "needs glibc 2." in packed.stdout, packed.stdout

    def test_the_bundle_brings_every_library_but_the_systems_and_is_small(self):
        folder = WORK / "unpacked"
        folder.mkdir()
        subprocess.run(["tar", "-xzf", WORK / "bundle/files.tar.gz", "-C", folder], check=True)
        files = [*folder.glob("bin/*"), folder / "lib/libtessera.so.0"]
        resolved = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True, env={"LD_LIBRARY_PATH": str(folder / "lib")}).stdout
        self.assertNotIn("not found", resolved)
        elsewhere = {words[0] for words in map(str.split, resolved.splitlines()) if len(words) > 2 and words[1] == "=>" and str(folder) not in words[2]}
        self.assertLessEqual(elsewhere, {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"})
        self.assertLess(sum(path.stat().st_size for path in (WORK / "bundle").iterdir()), 60 * MIB)

    @unittest.skipUnless(EMULATED.exists(), "no emulated device")
    def test_every_section_passes_on_the_emulated_device(self):
        status, printed, report = check(TESSERA_CUDA_MODULE=str(EMULATED))
        self.assertEqual(status, 0, report)
        self.assertRegex(printed[-1], r"^\d+ passed, 0 failed$")
        self.assertEqual(report.splitlines()[-1], printed[-1])
        for words in ("emulated CUDA device", "tokens/s", "cudaMemGetInfo", "checkpoint files equal", "tests passed", "compute-sanitizer memcheck: skipped"):
            self.assertIn(words, report)

    def test_another_learning_rate_on_the_device_alone_is_a_failure_and_stops_nothing(self):
        status, printed, report = check("--device", "cpu", "--only", "agreement", "determinism", "--set", "optimizer.learning_rate=2e-3")
        self.assertEqual(status, 1, report)
        self.assertTrue(printed[0].startswith("failed   agreement"), printed)
        self.assertTrue(printed[1].startswith("passed   determinism"), printed)
        self.assertEqual(printed[-1], "1 passed, 1 failed")

    def test_a_module_that_cannot_be_opened_is_a_failure(self):
        status, printed, report = check("--only", "machine", "ops", "step", TESSERA_CUDA_MODULE="/nowhere.so")
        self.assertEqual((status, printed[-1]), (1, "0 passed, 3 failed"), report)


class Verdicts(unittest.TestCase):
    def bench(self):
        bench = Bench.__new__(Bench)
        bench.work, bench.bin, bench.environment = ROOT, ROOT, dict(os.environ)
        bench.end = time.monotonic() + 60
        return bench

    def section(self, body, limit=60):
        return gpu_check.run_section(self.bench(), sections.Section("name", "title", limit, body))

    def test_a_section_that_breaks_or_outlasts_its_limit_has_failed(self):
        def breaks(_):
            raise KeyError("figures")

        self.assertEqual(self.section(breaks)[0], "failed")
        verdict, seconds, lines = self.section(lambda bench: bench.run("sleep", 30), limit=0.3)
        self.assertEqual(verdict, "failed")
        self.assertLess(seconds, 20)
        self.assertIn("time limit", lines[0])
        self.assertEqual(self.section(lambda bench: bench.run("false"))[0], "failed")
        self.assertEqual(self.section(lambda bench: ["fine"])[0], "passed")

    def test_losses_that_are_missing_or_not_finite_differ(self):
        self.assertAlmostEqual(sections.worst([line(1, 4.0), line(2, 3.0)], [line(1, 4.0), line(2, 3.3)], "loss"), 0.3 / 3.3)
        self.assertEqual(sections.worst([line(1, 4.0)], [line(1, 4.0), line(2, 3.0)], "loss"), float("inf"))
        self.assertEqual(sections.worst([line(1, None)], [line(1, 4.0)], "loss"), float("inf"))
        self.assertEqual(sections.worst([], [], "loss"), float("inf"))

    def test_failed_tests_are_counted_and_named(self):
        suite = {"name": "All/Ops", "testsuite": [{"name": "A", "result": "COMPLETED"}, {"name": "B", "result": "SKIPPED"},
                                                  {"name": "C", "result": "COMPLETED", "failures": [{"failure": "f.cpp:1\nExpected: 1"}]}]}
        ran, skipped, failed, suites = sections.count_tests({"testsuites": [suite]})
        self.assertEqual((ran, skipped, suites), (2, 1, {"Ops": 2}))
        self.assertEqual(failed, ["All/Ops.C: f.cpp:1 Expected: 1"])

    def memory(self, measured, unexplained):
        run_dir = WORK / "memory"
        run_dir.mkdir(parents=True, exist_ok=True)
        process = {"source": "cudaMemGetInfo", "peak_bytes": 1000 * MIB, "explained_bytes": 900 * MIB, "remainder": {}, "unexplained_bytes": unexplained}
        row = {"category": "weights", "dry_run_bytes": 7, "measured_bytes": measured}
        (run_dir / "report.json").write_text(sections.json.dumps({"memory": [row], "processes": [process]}))
        return sections.memory(SimpleNamespace(runs={"device_bf16": run_dir}, device="cuda", tessera=lambda *_: (0, "category", "")))

    def test_memory_that_is_not_as_counted_or_not_explained_is_a_failure(self):
        self.assertIn("1 of 1 categories", self.memory(7, MIB)[0])
        for measured, unexplained in ((8, 0), (7, 300 * MIB), (7, -300 * MIB)):
            with self.assertRaises(Failed):
                self.memory(measured, unexplained)

    def test_a_kernel_stands_below_the_ceiling_that_bounds_it(self):
        op = {"op": "gelu", "dtype": "bf16", "shape": [8, 0, 0, 0, 0], "phase": "forward", "calls": 2, "flops": 100, "bytes": 1000, "seconds": 4.0,
              "choice": None}
        row = sections.roofline_row(op, {"matmul_flops_per_second": 500, "bytes_per_second": 1000})
        self.assertEqual(row[-4:], ["0.10", "0.50", "bytes", ""])


if __name__ == "__main__":
    unittest.main()
