"""What the sections of tools/gpu_check.sh share: the unpacked bundle, its environment, commands with time limits, and how a section ends."""
import glob
import json
import os
import signal
import subprocess
import sys
import time

# Opened by name when they are there; the bundle's manifest names what must be.
OPTIONAL_LIBRARIES = ["libcudnn.so.9", "libnccl.so.2"]
CUDA_FOLDERS = ["/usr/local/cuda/lib64", "/usr/local/cuda/lib", "/usr/local/cuda*/lib64", "/usr/local/cuda*/lib", "/usr/local/cuda*/targets/x86_64-linux/lib",
                "/opt/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]


class Failed(Exception):
    """The lines of a section that failed."""


class Skipped(Exception):
    """Why a section was not run; it counts as neither passed nor failed."""


class Bench:
    """What sections share: the unpacked bundle, the environment, the clock, and what earlier sections found."""

    def __init__(self, options, bundle, work):
        self.options, self.work = options, work
        self.bin, self.manifest = bundle / "bin", json.loads((bundle / "manifest.json").read_text())
        self.device, self.quick = options.device, options.quick
        self.end = time.monotonic() + options.seconds
        self.section_end = self.end
        self.runs = {}  # name -> run directory
        self.commands = []  # of this section
        self.library_folders = cuda_folders(self.manifest["cuda_libraries"])
        folders = [str(bundle / "lib"), *self.library_folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        self.environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(folders), "TESSERA_TEST_DEVICE": self.device}

    def run(self, *command, check=True):
        """(exit status, stdout, stderr) of a command that ends with the section's time at the latest."""
        command = [str(word) for word in command]
        self.commands.append(" ".join(command).replace(str(self.bin) + "/", "").replace(str(self.work) + "/", ""))
        process = subprocess.Popen(command, cwd=self.work, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, errors="replace", start_new_session=True)
        try:
            stdout, stderr = process.communicate(timeout=max(0.1, self.section_end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            raise Failed(["the time limit came before the end; the last lines:", *block(stdout + stderr, 12)]) from None
        if check and process.returncode != 0:
            raise Failed([f"exit status {process.returncode}:", *block(stdout + stderr, 20)])
        return process.returncode, stdout, stderr

    def tessera(self, *arguments, check=True):
        return self.run(self.bin / "tessera", *arguments, check=check)


def block(text, last=None):
    """Lines of output as Markdown."""
    lines = text.rstrip().splitlines()
    return ["```text", *(lines[-last:] if last else lines), "```"]


def cuda_folders(wanted):
    """The folders that hold CUDA's libraries where the loader does not look by itself."""
    python = [pattern for path in sys.path for pattern in (f"{path}/nvidia/*/lib", f"{path}/nvidia/*/lib64")]
    named = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    folders = [folder for pattern in [*named, *CUDA_FOLDERS, *python] for folder in sorted(glob.glob(pattern))]
    found = []
    for name in [*wanted, *OPTIONAL_LIBRARIES]:
        folder = next((folder for folder in folders if os.path.exists(f"{folder}/{name}")), None)
        if folder and folder not in found:
            found.append(folder)
    return found
