#!/usr/bin/env python3
"""tools/fetch_onednn.py on wheels made here: nothing is downloaded."""
import hashlib
import os
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True  # leaves no cache behind in tools/
SCRIPT = Path(__file__).resolve().parent.parent / "tools/fetch_onednn.py"
sys.path.insert(0, str(SCRIPT.parent))
import fetch_onednn  # noqa: E402

FILES = {"onednn-cpu-gomp": {"data/lib/libdnnl.so": "copy", "data/lib/libdnnl.so.3.2": "library", "scripts/run": "never",
                             "data/share/doc/onednn/LICENSE": "licence"},
         "onednn-devel-cpu-gomp": {"data/include/oneapi/dnnl/dnnl.h": "header", "data/lib/cmake/dnnl/dnnl-config.cmake": "never"}}


class FetchOneDnn(unittest.TestCase):
    def setUp(self):
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        self.shop, self.folder = Path(work.name) / "shop", Path(work.name) / "deep/onednn"
        self.shop.mkdir()
        self.pin("1")

    def pin(self, version):
        pins = []
        for project, files in FILES.items():
            wheel = self.shop / fetch_onednn.wheel_name(project, version)
            with zipfile.ZipFile(wheel, "w") as archive:
                for name, text in files.items():
                    archive.writestr(f"{project.replace('-', '_')}-{version}.data/{name}", f"{text} {version}")
            pins.append((project, version, hashlib.sha256(wheel.read_bytes()).hexdigest()))
        patch = mock.patch.object(fetch_onednn, "PINS", pins)
        patch.start()
        self.addCleanup(patch.stop)

    def copy(self, folder):
        for wheel in self.shop.glob("*.whl"):
            (folder / wheel.name).write_bytes(wheel.read_bytes())

    def unpacked(self):
        return {path.relative_to(self.folder).as_posix(): path.read_text() for path in self.folder.rglob("*") if path.is_file()}

    def test_headers_one_library_under_its_names_and_the_licence_are_kept(self):
        self.assertTrue(fetch_onednn.fetch(self.folder, self.copy))
        found = self.unpacked()
        self.assertEqual(found.pop("SHA256SUMS"), fetch_onednn.pinned_sums())
        names = ("lib/libdnnl.so", "lib/libdnnl.so.3", "lib/libdnnl.so.3.2")
        self.assertEqual(found, {**{name: "library 1" for name in names}, "include/oneapi/dnnl/dnnl.h": "header 1",
                                 "share/doc/onednn/LICENSE": "licence 1"})
        self.assertEqual([path.name for path in self.folder.parent.iterdir()], ["onednn"], "nothing is left beside it")

    def test_what_is_there_is_not_fetched_again_and_another_pin_replaces_it(self):
        fetch_onednn.fetch(self.folder, self.copy)
        self.assertFalse(fetch_onednn.fetch(self.folder, lambda _: self.fail("was there")))
        self.pin("2")
        self.assertTrue(fetch_onednn.fetch(self.folder, self.copy))
        self.assertEqual(self.unpacked()["lib/libdnnl.so"], "library 2")

    def test_a_file_that_is_not_the_pinned_one_is_an_error_that_names_it(self):
        wheel = self.shop / fetch_onednn.wheel_name("onednn-devel-cpu-gomp", "1")
        wheel.write_bytes(wheel.read_bytes() + b"x")
        with self.assertRaisesRegex(ValueError, f"^{wheel.name} is not the pinned file: its SHA-256 is [0-9a-f]+, expected"):
            fetch_onednn.fetch(self.folder, self.copy)
        self.assertEqual(list(self.folder.parent.iterdir()), [])

    def test_without_network_one_line_says_so(self):
        nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull,
                   "no_proxy": "*"}
        done = subprocess.run([sys.executable, str(SCRIPT), str(self.folder)], env={**os.environ, **nowhere}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertRegex(done.stderr, r"^dependencies: oneDNN 3.2 could not be fetched, so the system's .* serves: .+\n$")
        self.assertFalse(self.folder.exists())


if __name__ == "__main__":
    unittest.main()
