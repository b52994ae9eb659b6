#!/usr/bin/env python3
"""Puts parts of wheels of PyPI, each pinned by its SHA-256, into .dependencies/NAME, where CMake looks before the system:

    tools/fetch_wheels.py onednn [FOLDER]           oneDNN 3.2
    tools/fetch_wheels.py cudnn-frontend [FOLDER]   cudnn-frontend 1.18.0, the headers alone

By pip, so that the index, the proxy and the cache set up for it serve. Done once: what is there and is the pinned one is kept, without a
look at the network.
Exit status: 0 it is there; 3 it could not be had, and a line says why; 1 what came is not what is pinned, or could not be kept; 2 usage.
"""
import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_SECONDS = 15  # for a connection


class Unavailable(Exception):
    """The wheels cannot be had from here."""


@dataclass
class Wheel:
    project: str
    version: str
    tags: str    # the end of its file's name
    sha256: str
    kept: dict   # what of it is kept: the beginning of a member's name, and what stands in its place

    def file(self):
        return f"{self.project.replace('-', '_')}-{self.version}-{self.tags}.whl"

    def pip_arguments(self):
        """The very file, whatever interpreter and system ask for it."""
        python, abi, platforms = self.tags.split("-")
        if abi == "none":
            return []
        return ["--python-version", python[2:], "--abi", abi, *(f"--platform={platform}" for platform in platforms.split("."))]


@dataclass
class Package:
    title: str
    otherwise: str  # what happens without it
    wheels: list
    links: dict = field(default_factory=dict)  # name -> what it points to


def onednn_wheel(project, version, sha256):
    inside = f"{project.replace('-', '_')}-{version}.data/data/"
    kept = {inside + name: name for name in ("include/", "share/", "lib/libdnnl.so.3.2")}
    return Wheel(project, version, "py2.py3-none-manylinux1_x86_64", sha256, kept)


PACKAGES = {
    # The build with GNU's OpenMP, the one that our own loops use: newer wheels ask for SYCL. The wheel holds three copies of the library.
    "onednn": Package(
        "oneDNN 3.2", "so the system's (libdnnl-dev) serves",
        [onednn_wheel("onednn-cpu-gomp", "2023.2.0", "2f22a54d6a890ed14bfa185d42a4be65d8b5b1df85dc1f0f3a9abe31620416fb"),
         onednn_wheel("onednn-devel-cpu-gomp", "2023.2.0", "9763c69e8c907e119056bd52ad918ca84ac9ba939d130a99dfa95ccca3e5e284")],
        {"lib/libdnnl.so.3": "libdnnl.so.3.2", "lib/libdnnl.so": "libdnnl.so.3.2"}),
    # The last one without kernels of its own.
    "cudnn-frontend": Package(
        "cudnn-frontend 1.18.0", "so attention on GPUs is our own alone",
        [Wheel("nvidia-cudnn-frontend", "1.18.0", "cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64",
               "382ea063b92cbfd5b442cb75ff8422932d78276aecf139e46713ed1ad3d07af4",
               {"include/": "include/", "nvidia_cudnn_frontend-1.18.0.dist-info/licenses/": "share/doc/cudnn-frontend/"})]),
}


def download_by_pip(wheels, folder):
    for wheel in wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--retries", "1", "--timeout", str(TIMEOUT_SECONDS), "--dest", str(folder)]
        done = subprocess.run([*command, *wheel.pip_arguments(), f"{wheel.project}=={wheel.version}"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise Unavailable("pip: " + next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1]))


def unpack(wheel, archive_path, folder):
    with zipfile.ZipFile(archive_path) as archive:
        for name in archive.namelist():
            begin = next((begin for begin in wheel.kept if name.startswith(begin)), None)
            if begin is None or name.endswith("/"):
                continue
            target = folder / (wheel.kept[begin] + name[len(begin):])
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)


def pinned_sums(package):
    return "".join(f"{wheel.sha256}  {wheel.file()}\n" for wheel in package.wheels)


def fetch(package, folder, download=download_by_pip):
    """Whether anything had to be fetched. Unavailable; ValueError when a file is not the pinned one; OSError."""
    stamp = folder / "SHA256SUMS"
    if stamp.is_file() and stamp.read_text() == pinned_sums(package):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        wheels, unpacked = Path(work) / "wheels", Path(work) / "unpacked"
        wheels.mkdir()
        unpacked.mkdir()
        download(package.wheels, wheels)
        for wheel in package.wheels:
            name = wheel.file()
            if not (wheels / name).is_file():
                raise Unavailable(f"{name} did not come")
            found = hashlib.sha256((wheels / name).read_bytes()).hexdigest()
            if found != wheel.sha256:
                raise ValueError(f"{name} is not the pinned file: its SHA-256 is {found}, expected {wheel.sha256}")
            unpack(wheel, wheels / name, unpacked)
        for link, target in package.links.items():
            (unpacked / link).symlink_to(target)
        (unpacked / stamp.name).write_text(pinned_sums(package))
        if folder.exists():
            shutil.rmtree(folder)
        try:
            unpacked.rename(folder)  # at once: nobody sees half of it
        except OSError:
            if not stamp.is_file() or stamp.read_text() != pinned_sums(package):  # else another process was faster
                raise
    return True


def main():
    parser = argparse.ArgumentParser(description="Parts of pinned wheels into .dependencies/.")
    parser.add_argument("name", choices=PACKAGES)
    parser.add_argument("folder", nargs="?", type=Path, help="default: .dependencies/NAME")
    arguments = parser.parse_args()
    package = PACKAGES[arguments.name]
    root = Path(__file__).resolve().parent.parent
    folder = arguments.folder or root / ".dependencies" / arguments.name
    try:
        if fetch(package, folder):
            print(f"dependencies: fetched {package.title} into {folder.relative_to(root) if folder.is_relative_to(root) else folder}")
    except Unavailable as reason:
        print(f"dependencies: {package.title} could not be fetched, {package.otherwise}: {reason}", file=sys.stderr)
        return 3
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {package.title}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
