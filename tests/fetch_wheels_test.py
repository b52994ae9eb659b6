#!/usr/bin/env python3
"""tools/fetch_wheels.py on wheels made here: nothing is downloaded."""
import hashlib
import os
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache behind in tools/
SCRIPT = Path(__file__).resolve().parent.parent / "tools/fetch_wheels.py"
sys.path.insert(0, str(SCRIPT.parent))
import fetch_wheels  # noqa: E402

FILES = {"some-lib": {"some_lib-{}.data/data/lib/libsome.so": "copy", "some_lib-{}.data/data/lib/libsome.so.3": "library",
                      "some_lib-{}.data/scripts/run": "never", "some_lib-{}.data/data/share/doc/LICENSE": "licence"},
         "some-devel": {"include/some/some.h": "header", "some/module.py": "never"}}


def kept(project, version):
    data = f"some_lib-{version}.data/data/"
    return {"include/": "include/"} if project == "some-devel" else {data + "share/": "share/", data + "lib/libsome.so.3": "lib/libsome.so.3"}


class FetchWheels(unittest.TestCase):
    def setUp(self):
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        self.shop, self.folder = Path(work.name) / "shop", Path(work.name) / "deep/some"
        self.shop.mkdir()
        self.package = self.pinned("1")

    def pinned(self, version):
        package = fetch_wheels.Package("Some 3", "so nothing serves", [], {"lib/libsome.so": "libsome.so.3"})
        for project, files in FILES.items():
            wheel = fetch_wheels.Wheel(project, version, "py3-none-any", "", kept(project, version))
            with zipfile.ZipFile(self.shop / wheel.file(), "w") as archive:
                for name, text in files.items():
                    archive.writestr(name.format(version), f"{text} {version}")
            wheel.sha256 = hashlib.sha256((self.shop / wheel.file()).read_bytes()).hexdigest()
            package.wheels.append(wheel)
        return package

    def copy(self, wheels, folder):
        for wheel in wheels:
            (folder / wheel.file()).write_bytes((self.shop / wheel.file()).read_bytes())

    def unpacked(self):
        return {path.relative_to(self.folder).as_posix(): path.read_text() for path in self.folder.rglob("*") if path.is_file()}

    def test_headers_one_library_under_its_names_and_the_licence_are_kept(self):
        self.assertTrue(fetch_wheels.fetch(self.package, self.folder, self.copy))
        found = self.unpacked()
        self.assertEqual(found.pop("SHA256SUMS"), fetch_wheels.pinned_sums(self.package))
        self.assertEqual(found, {"lib/libsome.so": "library 1", "lib/libsome.so.3": "library 1", "include/some/some.h": "header 1",
                                 "share/doc/LICENSE": "licence 1"})
        self.assertEqual([path.name for path in self.folder.parent.iterdir()], ["some"], "nothing is left beside it")

    def test_what_is_there_is_not_fetched_again_and_another_pin_replaces_it(self):
        fetch_wheels.fetch(self.package, self.folder, self.copy)
        self.assertFalse(fetch_wheels.fetch(self.package, self.folder, lambda *_: self.fail("was there")))
        fetch_wheels.fetch(self.pinned("2"), self.folder, self.copy)
        self.assertEqual(self.unpacked()["lib/libsome.so"], "library 2")

    def test_a_file_that_is_not_the_pinned_one_is_an_error_that_names_it(self):
        wheel = self.shop / self.package.wheels[1].file()
        wheel.write_bytes(wheel.read_bytes() + b"x")
        with self.assertRaisesRegex(ValueError, f"^{wheel.name} is not the pinned file: its SHA-256 is [0-9a-f]+, expected"):
            fetch_wheels.fetch(self.package, self.folder, self.copy)
        self.assertEqual(list(self.folder.parent.iterdir()), [])

    def test_a_wheel_for_one_interpreter_is_asked_for_by_name_and_one_for_all_is_not(self):
        one = fetch_wheels.Wheel("a", "1", "cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64", "", {})
        self.assertEqual(one.pip_arguments(), ["--python-version", "311", "--abi", "cp311", "--platform=manylinux_2_27_x86_64",
                                               "--platform=manylinux_2_28_x86_64"])
        self.assertEqual(self.package.wheels[0].pip_arguments(), [])

    def test_without_network_one_line_says_so(self):
        nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull,
                   "no_proxy": "*"}
        for name, otherwise in (("onednn", "so the system's .* serves"), ("cudnn-frontend", "so attention on GPUs is our own alone")):
            with self.subTest(name):
                done = subprocess.run([sys.executable, str(SCRIPT), name, str(self.folder)], env={**os.environ, **nowhere},
                                      stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertRegex(done.stderr, rf"^dependencies: .* could not be fetched, {otherwise}: .+\n$")
                self.assertFalse(self.folder.exists())


if __name__ == "__main__":
    unittest.main()
