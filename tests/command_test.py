"""The `tessera` command as a user meets it: exit statuses, messages, signals, files, memory."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESSERA = ROOT / "build/release/tools/tessera"

RUN = """
[model]
layers = 2
hidden = 64
heads = 2
context = 64
[train]
batch_size = 4
micro_batch_size = 2
eval_batches = 2
"""


def tessera(*arguments, **options):
    return subprocess.run([TESSERA, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False, **options)


class Command(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        text = cls.path / "text"
        text.mkdir()
        for i in range(8):
            (text / f"{i}.txt").write_text("\n".join(f"line {j} of file {i} says {i * j % 97}" for j in range(400)))
        assert tessera("tokenize", "train", "--vocab-size", 300, "--input", text, "--output", cls.path / "tok.model").returncode == 0
        assert tessera("tokenize", "encode", "--model", cls.path / "tok.model", "--input", text, "--output", cls.path / "data").returncode == 0
        cls.run_toml = cls.path / "small.toml"
        cls.run_toml.write_text(RUN + f'[data]\npath = "{cls.path}/data"\ntokenizer = "{cls.path}/tok.model"\n')

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def expect_error(self, status, words, *arguments, **options):
        result = tessera(*arguments, **options)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertTrue(result.stderr.startswith("error: "), result.stderr)
        self.assertEqual(result.stdout, "")
        for word in words:
            self.assertIn(word, result.stderr)

    def test_bad_input_names_what_where_and_what_is_legal(self):
        run = self.run_toml
        self.expect_error(2, ["train.stpes", "--set", "did you mean `train.steps`"], "train", run, "--set", "train.stpes=1")
        self.expect_error(2, ["parallel.pp = 3", "legal: 1, 2, 4"], "train", run, "--ranks", 4, "--set", "parallel.pp=3")
        self.expect_error(2, ["did you mean `train`"], "trian")
        self.expect_error(2, ["did you mean `gpt2-124m`"], "plan", "--set", "model.preset=gpt2-123m")
        self.expect_error(3, ["/nothing.idx"], "train", run, "--set", "data.path=/nothing")
        self.expect_error(3, ["beyond the vocabulary"], "train", run, "--set", "model.vocab=20")
        lines = self.path / "lines.jsonl"
        lines.write_text('{"text": "one"}\n{"body": "two"}\n')
        self.expect_error(3, ["lines.jsonl, line 2: no field `text`", "strings here: body"], "tokenize", "encode", "--model", self.path / "tok.model",
                          "--input", lines, "--output", self.path / "lines")
        self.expect_error(3, ["holds no run"], "sample", self.path / "nothing")
        self.expect_error(4, ["needed", "activations", "train.micro_batch_size"], "train", run, "--set", "model.layers=400", "model.hidden=8192", "model.heads=64",
                          "--run-dir", self.path / "huge")
        self.assertFalse((self.path / "huge").exists())

    def test_several_data_sets_of_several_formats_train_and_are_evaluated(self):
        (self.path / "raw.bin").write_bytes(bytes(2 * (1 - i % 2) * (i // 2 % 90) for i in range(8000)))
        lines = self.path / "story.jsonl"
        lines.write_text("".join(json.dumps({"n": i, "story": f"line {i} says {i * 7 % 97}\n" * 40}) + "\n" for i in range(20)))
        result = tessera("tokenize", "encode", "--model", self.path / "tok.model", "--input", lines, "--text-key", "story", "--output", self.path / "story")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("20 documents", result.stderr)
        directory = self.path / "mixture"
        result = tessera("train", self.run_toml, "--run-dir", directory, "--set", "train.steps=3", "data.path=",
                         f"data.paths={self.path}/data,{self.path}/story,{self.path}/raw.bin", "data.weights=[0.5, 0.3, 0.2]")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("held-out loss", tessera("eval", directory).stdout)

    def test_a_command_line_is_answered_like_a_configuration(self):
        run = self.run_toml
        self.expect_error(2, ["unknown option `--resme`", "where: command line", "--run-dir", "did you mean `--resume`"], "train", run, "--resme")
        self.expect_error(2, ["no subcommand", "legal: train, plan"])
        self.expect_error(2, ["no subcommand", "legal: train, encode"], "tokenize")
        self.expect_error(2, ["unknown subcommand `trian`", "did you mean `train`"], "tokenize", "trian")
        self.expect_error(2, ["RUN_DIR is required", "`tessera sample --help`"], "sample")
        self.expect_error(2, ["`other.toml` is one argument too many"], "plan", run, "other.toml")
        self.expect_error(2, ["--ranks = 0", "legal: 1 to 1048576"], "train", run, "--ranks", 0)
        self.expect_error(2, ["--ranks = two", "legal: 1 to 1048576"], "plan", run, "--ranks", "two")
        self.expect_error(2, ["--device = nul", "legal: cpu, cuda, null", "did you mean `null`"], "train", run, "--device", "nul")
        for option, value in {"--temperature": "nan", "--top-k": -1, "--top-p": 2, "--seed": -1, "--tokens": 0}.items():
            self.expect_error(2, [f"{option} = {value}", "legal: "], "sample", self.path, option, value)
        self.expect_error(2, ["--vocab-size = 0", "legal: at least 1"], "tokenize", "train", "--vocab-size", 0, "--output", self.path / "no.model")
        self.expect_error(2, ["where: --vocab-size 100", "at least"], "tokenize", "train", "--vocab-size", 100, "--input", self.path / "text",
                          "--output", self.path / "no.model")
        self.expect_error(3, ["where: /nothing"], "tokenize", "train", "--input-list", "/nothing", "--output", self.path / "no.model")
        self.expect_error(2, ["where: /nothing.toml"], "plan", "/nothing.toml")
        self.assertEqual(tessera("train", "--help").returncode, 0)

    def test_sizes_beyond_all_counting_are_refused_by_name(self):
        for key, value in {"parallel.pp": 2**32, "parallel.threads": 2**32, "train.micro_batch_size": 2**62, "model.hidden": 3 * 10**12,
                           "model.layers": 10**8}.items():
            self.expect_error(2, [f"{key} = {value} is not a legal value", "legal: integer, "], "plan", self.run_toml, "--set", f"{key}={value}")
        self.expect_error(2, ["too many ranks", "legal: at most 1048576"], "plan", self.run_toml, "--set", "parallel.pp=1048576", "parallel.dp=2")

    def test_what_only_counts_times_nothing_to_choose_a_precision(self):
        for isa, chosen in (("AVX2", "fp32, because this processor has no instructions"), (None, "because this processor has")):
            environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
            for arguments in (["plan", self.run_toml], ["train", self.run_toml, "--device", "null"]):
                result = tessera(*arguments, "--set", "precision.compute=auto", env=environment)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertRegex(result.stderr, f"precision.compute = auto: .*{chosen}.*not timed")

    def test_a_dry_run_as_cuda_counts_pinned_memory(self):
        as_cpu, as_cuda = (tessera("train", self.run_toml, "--device", "null", "--as", kind).stdout for kind in ("cpu", "cuda"))
        self.assertRegex(as_cuda, r"pinned_host memory\n(.*\n)+?data ")
        self.assertNotRegex(as_cpu, r"pinned_host memory\n(.*\n)+?data ")
        self.expect_error(2, ["--as = gpu", "legal: cpu, cuda"], "train", self.run_toml, "--device", "null", "--as", "gpu")

    def test_cuda_without_a_gpu_says_why_and_writes_nothing(self):
        info = tessera("info").stdout
        reason = re.search(r"^cuda +(?:not available|no GPU): (.*)$", info, re.MULTILINE)
        if not reason:
            self.assertRegex(info, r"(?m)^gpu 0 ")
            return
        run_dir = self.path / "no_gpu"
        self.expect_error(2, ["no GPU can be used: " + reason[1], "where: --device cuda"], "train", self.run_toml, "--device", "cuda", "--run-dir",
                          run_dir)
        self.assertFalse(run_dir.exists())

    def test_info_names_the_library_that_multiplies(self):
        self.assertRegex(tessera("info").stdout, r"\nmatmul .* by oneDNN [23]\.\d+\.\d+\n")

    def test_data_that_cannot_be_written_is_an_error(self):
        for arguments in (["plan", self.run_toml], ["config"], ["info"]):
            with open("/dev/full", "w") as full:
                result = subprocess.run([TESSERA, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            self.assertEqual(result.returncode, 3, result.stderr)
            self.assertIn("error: cannot write to stdout", result.stderr)
        self.expect_error(3, ["File name too long"], "train", self.run_toml, "--run-dir", self.path / ("x" * 300))

    def test_skipped_input_is_counted(self):
        mixed = self.path / "mixed"
        mixed.mkdir()
        (mixed / "a.txt").write_text("some text\n" * 100)
        (mixed / "binary").write_bytes(b"\0" * 100)
        (mixed / "empty").touch()
        result = tessera("tokenize", "encode", "--model", self.path / "tok.model", "--input", mixed, "--output", self.path / "mixed-data")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("files and folders skipped: 2 ", result.stderr)
        self.assertIn("1 documents", result.stderr)
        whole = tessera("tokenize", "encode", "--model", self.path / "tok.model", "--input", self.path / "text", "--output", self.path / "mixed-data")
        self.assertNotIn("skipped", whole.stderr)

    def test_an_existing_run_is_refused_and_never_overwritten(self):
        directory = self.path / "exists"
        self.assertEqual(tessera("train", self.run_toml, "--run-dir", directory, "--set", "train.steps=3").returncode, 0)
        before = (directory / "metrics.jsonl").read_bytes()
        self.expect_error(2, ["--resume"], "train", self.run_toml, "--run-dir", directory)
        self.assertEqual((directory / "metrics.jsonl").read_bytes(), before)

    def test_resuming_needs_a_run(self):
        directory = self.path / "misspelt"
        self.expect_error(2, ["misspelt holds no run to resume"], "train", self.run_toml, "--run-dir", directory, "--resume")
        self.assertFalse(directory.exists())

    def steps_of(self, directory):
        return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]

    def announced(self, messages):
        return int([line for line in messages.splitlines() if line.startswith("stopping after step ")][-1].split()[3].rstrip(","))

    def start_endless(self, directory, *arguments):
        process = subprocess.Popen([TESSERA, "train", self.run_toml, "--run-dir", directory, *map(str, arguments), "--set", "train.steps=1000000"],
                                   stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # even where these tests run under nohup
        while not (directory / "metrics.jsonl").exists() or (directory / "metrics.jsonl").stat().st_size == 0:
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        return process

    def test_the_first_signal_saves_and_the_run_resumes(self):
        directory = self.path / "signal"
        process = self.start_endless(directory)
        process.send_signal(signal.SIGINT)
        messages = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 0, messages)
        announced = self.announced(messages)
        self.assertEqual(self.steps_of(directory), list(range(1, announced + 1)))
        self.assertTrue((directory / "checkpoints" / f"{announced:08}" / "manifest.json").exists())
        last = announced + 3
        resumed = tessera("train", self.run_toml, "--run-dir", directory, "--resume", "--set", f"train.steps={last}")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(self.steps_of(directory), list(range(1, last + 1)))
        self.assertIn("paper", tessera("compare", directory).stdout)
        self.assertIn("held-out loss", tessera("eval", directory).stdout)
        self.assertNotEqual(tessera("sample", directory, "--tokens", 5).stdout, "")

    def test_a_closed_terminal_saves_however_often_it_says_so(self):
        directory = self.path / "hangup"
        process = self.start_endless(directory)
        process.send_signal(signal.SIGHUP)
        while not process.stderr.readline().startswith("stopping after step "):
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0)
        self.assertTrue(any((directory / "checkpoints").glob("*/manifest.json")))

    def test_a_reader_of_messages_that_goes_away_ends_nothing(self):
        directory = self.path / "pipe"
        process = self.start_endless(directory)
        process.stderr.close()
        steps = (directory / "metrics.jsonl").read_text().count("\n")
        while (directory / "metrics.jsonl").read_text().count("\n") < steps + 5:
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=120), 0)
        self.assertTrue(any((directory / "checkpoints").glob("*/manifest.json")))

    def test_a_run_that_saves_every_step_stops_after_the_announced_one(self):
        directory = self.path / "every"
        process = self.start_endless(directory, "--set", "checkpoint.every_steps=1")
        process.send_signal(signal.SIGINT)
        messages = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 0, messages)
        self.assertEqual(self.steps_of(directory)[-1], self.announced(messages), messages)

    def test_a_signal_before_a_resumed_run_begins_stops_it_after_the_announced_step(self):
        directory = self.path / "early"
        self.assertEqual(tessera("train", self.run_toml, "--run-dir", directory, "--set", "train.steps=4").returncode, 0)

        def signalled_already():  # the signal waits before the program has begun
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            os.kill(os.getpid(), signal.SIGINT)

        resumed = tessera("train", "--run-dir", directory, "--resume", "--set", "train.steps=1000000", preexec_fn=signalled_already)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(self.announced(resumed.stderr), 6, resumed.stderr)
        self.assertEqual(self.steps_of(directory), [1, 2, 3, 4, 5, 6])

    def test_the_printed_command_goes_on_with_the_run(self):
        directory = self.path / "it's a run; $HOME"
        process = self.start_endless(directory, "--ranks", 4, "--set", "parallel.pp=2", "parallel.zero=1", "train.micro_batch_size=1")
        process.send_signal(signal.SIGTERM)
        messages = process.communicate(timeout=120)[1]
        done = self.steps_of(directory)[-1]
        again = messages.split("to go on: ")[1].splitlines()[0]
        self.assertIn("--ranks 4", again)
        path = f"{TESSERA.parent}{os.pathsep}{os.environ['PATH']}"
        resumed = subprocess.run(["sh", "-c", f"{again} --set train.steps={done + 2}"], capture_output=True, text=True, timeout=300, check=False,
                                 stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path})
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertIn(f"resumed from step {done}", resumed.stderr)
        self.assertEqual(self.steps_of(directory), list(range(1, done + 3)))
        self.assertIn("pp 2 x dp 2, ZeRO-1", json.loads((directory / "report.json").read_text())["config"]["layout"])

    def test_a_resumed_run_is_what_its_own_file_says(self):
        directory = self.path / "own"
        edited = self.path / "edited.toml"
        edited.write_text(self.run_toml.read_text() + "[optimizer]\nlearning_rate = 1e-3\n")
        self.assertEqual(tessera("train", edited, "--run-dir", directory, "--set", "train.steps=3").returncode, 0)
        stored, report = (directory / "config.toml").read_text(), (directory / "report.json").read_bytes()
        edited.write_text(edited.read_text().replace("layers = 2", "layers = 3").replace("1e-3", "5e-3"))
        resumed = tessera("train", edited, "--run-dir", directory, "--resume")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertIn("edited.toml is not read", resumed.stderr)
        self.assertEqual((directory / "config.toml").read_text(), stored)
        self.assertEqual((directory / "report.json").read_bytes(), report)
        self.expect_error(2, ["model.layers = 3, but 2 in the checkpoint", "legal: model.layers = 2"], "train", "--run-dir", directory, "--resume", "--set",
                          "model.layers=3", "train.steps=4")
        self.assertEqual((directory / "config.toml").read_text(), stored)

    def test_a_run_needs_neither_its_folder_nor_its_text_where_it_was(self):
        here = self.path / "here"
        here.mkdir()
        for name in ("data.bin", "data.idx", "tok.model"):
            shutil.copy(self.path / name, here / name)
        (here / "relative.toml").write_text(RUN + '[data]\npath = "data"\ntokenizer = "tok.model"\n')
        self.assertEqual(tessera("train", "relative.toml", "--run-dir", "run", "--set", "train.steps=2", cwd=here).returncode, 0)
        sampled = tessera("sample", here / "run", "--tokens", 3, cwd="/")
        self.assertEqual(sampled.returncode, 0, sampled.stderr)
        moved = here.rename(self.path / "moved")
        resumed = tessera("train", "--run-dir", moved / "run", "--resume", "--set", f"data.path={moved}/data", f"data.tokenizer={moved}/tok.model",
                          "train.steps=4", cwd="/")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(self.steps_of(moved / "run"), [1, 2, 3, 4])

    def test_a_run_directory_belongs_to_one_process(self):
        directory = self.path / "mine"
        process = self.start_endless(directory)
        while not (directory / "config.toml").exists():
            time.sleep(0.02)
        self.expect_error(2, ["another process is training in", "mine"], "train", "--run-dir", directory, "--resume")
        process.send_signal(signal.SIGINT)
        messages = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 0, messages)
        self.assertEqual(sorted(path.name for path in directory.iterdir()), ["checkpoints", "config.toml", "metrics.jsonl", "report.json", "tuning.json"])

    def test_a_second_signal_quits_without_saving(self):
        directory = self.path / "twice"
        process = self.start_endless(directory)
        os.kill(process.pid, signal.SIGSTOP)  # both signals wait before the process can act on either
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate(timeout=120)
        self.assertIn(process.returncode, (128 + signal.SIGINT, 128 + signal.SIGTERM))
        self.assertFalse(any((directory / "checkpoints").glob("*/manifest.json")))

    def test_a_killed_run_resumes_from_its_last_checkpoint(self):
        directory = self.path / "killed"
        process = subprocess.Popen([TESSERA, "train", self.run_toml, "--run-dir", directory, "--set", "train.steps=1000000", "checkpoint.every_steps=5"],
                                   stderr=subprocess.DEVNULL)
        while not any((directory / "checkpoints").glob("*/manifest.json")):
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        process.kill()
        process.wait()
        resumed = tessera("train", self.run_toml, "--run-dir", directory, "--resume", "--set", "train.steps=5000", "checkpoint.every_steps=5", "train.minutes=0",
                          "--set", f"train.steps={max(int(p.parent.name) for p in (directory / 'checkpoints').glob('*/manifest.json')) + 2}")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertIn("resumed from step", resumed.stderr)

    def test_the_memory_of_gpt2_124m_is_explained_within_five_percent(self):
        big = self.path / "big.toml"
        big.write_text(f'[model]\npreset = "gpt2-124m"\n[data]\npath = "{self.path}/data"\n[train]\nsteps = 2\nbatch_size = 2\nmicro_batch_size = 2\nsequence = 64\n')
        for name, extra in {"one": [], "two": ["--ranks", 2, "--set", "parallel.pp=2", "train.micro_batch_size=1"]}.items():
            directory = self.path / f"big-{name}"
            result = tessera("train", big, "--run-dir", directory, *extra)
            self.assertEqual(result.returncode, 0, result.stderr)
            process = json.loads((directory / "report.json").read_text())["processes"][0]
            self.assertLess(abs(process["explained_share"] - 1), 0.05, process)
            for row in json.loads((directory / "report.json").read_text())["memory"]:
                self.assertEqual(row["dry_run_bytes"], row["measured_bytes"])
            subprocess.run(["rm", "-r", directory], check=True)

    def test_gpt3_175b_is_dry_run_in_two_seconds_and_200_megabytes(self):
        arguments = ["train", "--device", "null", "--set", "model.preset=gpt3-175b", "train.batch_size=1", "train.micro_batch_size=1"]
        process = subprocess.Popen([TESSERA, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        output = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)  # of this child alone: its peak, libraries included, and its processor time
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        self.assertIn("650.5 GiB", output)
        self.assertLess(usage.ru_maxrss * 1024, 200_000_000)
        self.assertLess(usage.ru_utime + usage.ru_stime, 2)

    def test_every_key_is_documented(self):
        self.assertEqual(tessera("config", "--markdown").stdout, (ROOT / "docs/configuration.md").read_text(), "run `tessera config --markdown > docs/configuration.md`")


if __name__ == "__main__":
    unittest.main()
