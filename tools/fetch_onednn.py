#!/usr/bin/env python3
"""Puts oneDNN 3.2 into .dependencies/onednn, where CMake looks before the system: two wheels of PyPI, each pinned by its SHA-256.

    tools/fetch_onednn.py [FOLDER]

By pip, so that the index, the proxy and the cache set up for it serve. Done once: what is there and is the pinned one is kept, without a
look at the network.
Exit status: 0 it is there; 3 it could not be had, and a line says why; 1 what came is not what is pinned, or could not be kept.
"""
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "3.2"
# Project, version and SHA-256 of each wheel. The build with GNU's OpenMP, the one that our own loops use: newer wheels ask for SYCL.
PINS = [("onednn-cpu-gomp", "2023.2.0", "2f22a54d6a890ed14bfa185d42a4be65d8b5b1df85dc1f0f3a9abe31620416fb"),
        ("onednn-devel-cpu-gomp", "2023.2.0", "9763c69e8c907e119056bd52ad918ca84ac9ba939d130a99dfa95ccca3e5e284")]
LIBRARY = "libdnnl.so.3.2"
LINKS = ["libdnnl.so.3", "libdnnl.so"]  # the wheel holds three copies
TIMEOUT_SECONDS = 15  # for a connection


class Unavailable(Exception):
    """The wheels cannot be had from here; the system's oneDNN may serve."""


def wheel_name(project, version):
    return f"{project.replace('-', '_')}-{version}-py2.py3-none-manylinux1_x86_64.whl"


def download_by_pip(folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps",
               "--only-binary", ":all:", "--retries", "1", "--timeout", str(TIMEOUT_SECONDS), "--dest", str(folder)]
    done = subprocess.run([*command, *(f"{project}=={version}" for project, version, _ in PINS)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Unavailable("pip: " + next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1]))


def unpack(wheels, folder):
    """Headers, one copy of the library and its licence: out of each wheel's PROJECT-VERSION.data/data/."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                inside = name.partition(".data/data/")[2]
                if inside.startswith(("include/", "share/")) or inside == f"lib/{LIBRARY}":
                    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, open(folder / inside, "wb") as target:
                        shutil.copyfileobj(source, target)
    for link in LINKS:
        (folder / "lib" / link).symlink_to(LIBRARY)


def pinned_sums():
    return "".join(f"{sha256}  {wheel_name(project, version)}\n" for project, version, sha256 in PINS)


def fetch(folder, download=download_by_pip):
    """Whether anything had to be fetched. Unavailable; ValueError when a file is not the pinned one; OSError."""
    stamp = folder / "SHA256SUMS"
    if stamp.is_file() and stamp.read_text() == pinned_sums():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        wheels, unpacked = Path(work) / "wheels", Path(work) / "unpacked"
        wheels.mkdir()
        download(wheels)
        for project, version, expected in PINS:
            name = wheel_name(project, version)
            if not (wheels / name).is_file():
                raise Unavailable(f"{name} did not come")
            found = hashlib.sha256((wheels / name).read_bytes()).hexdigest()
            if found != expected:
                raise ValueError(f"{name} is not the pinned file: its SHA-256 is {found}, expected {expected}")
        unpack([wheels / wheel_name(project, version) for project, version, _ in PINS], unpacked)
        (unpacked / stamp.name).write_text(pinned_sums())
        if folder.exists():
            shutil.rmtree(folder)
        try:
            unpacked.rename(folder)  # at once: nobody sees half of it
        except OSError:
            if not stamp.is_file() or stamp.read_text() != pinned_sums():  # else another process was faster
                raise
    return True


def main():
    root = Path(__file__).resolve().parent.parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else root / ".dependencies/onednn"
    try:
        if fetch(folder):
            print(f"dependencies: fetched oneDNN {VERSION} into {folder.relative_to(root) if folder.is_relative_to(root) else folder}")
    except Unavailable as reason:
        print(f"dependencies: oneDNN {VERSION} could not be fetched, so the system's (libdnnl-dev) serves: {reason}", file=sys.stderr)
        return 3
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: oneDNN {VERSION}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
