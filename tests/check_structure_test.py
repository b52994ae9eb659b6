#!/usr/bin/env python3
"""tools/check_structure.py finds what it is there to find: each test breaks one rule in a small tree of its own."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no cache behind in tools/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import check_structure  # noqa: E402

README = "# {0}/\n| file | subject | tested in |\n|---|---|---|\n{1}"


class CheckStructure(unittest.TestCase):
    def findings(self, check, files):
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = Path(root) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return list(check(check_structure.Tree(root)))

    def test_an_include_to_the_left_is_legal(self):
        files = {"base/error.h": "", "kernels/arena.h": '#include <vector>\n#include "base/error.h"\n', "tests/a_test.cpp": '#include "kernels/arena.h"\n'}
        self.assertEqual(self.findings(check_structure.check_include_directions, files), [])

    def test_an_include_to_the_right_is_found_with_its_line(self):
        files = {"base/error.h": '#pragma once\n\n  #  include "kernels/arena.h"\n', "kernels/arena.h": ""}
        [finding] = self.findings(check_structure.check_include_directions, files)
        self.assertIn("base/error.h:3: base/ must not include", finding)

    def test_model_and_optim_are_strangers(self):
        files = {"model/a.h": '#include "optim/b.h"\n', "optim/b.h": '#include "model/a.h"\n'}
        self.assertEqual(len(self.findings(check_structure.check_include_directions, files)), 2)

    def test_the_tokenizer_knows_base_only(self):
        files = {"tokenizer/a.h": '#include "report/b.h"\n', "report/b.h": "", "engine/c.h": '#include "tokenizer/a.h"\n'}
        [finding] = self.findings(check_structure.check_include_directions, files)
        self.assertIn("tokenizer/a.h:1", finding)

    def test_an_include_beside_the_file_is_not_relative_to_the_root(self):
        [finding] = self.findings(check_structure.check_include_directions, {"base/a.h": '#include "b.h"\n', "base/b.h": ""})
        self.assertIn("not relative to the root", finding)

    def test_a_missing_file_is_found(self):
        [finding] = self.findings(check_structure.check_include_directions, {"base/a.h": '#include "base/b.h"\n'})
        self.assertIn("does not exist", finding)

    def test_a_formula_includes_no_engine(self):
        files = {"planner/formula_memory.cpp": '#include "base/a.h"\n#include "engine/b.h"\n', "base/a.h": "", "engine/b.h": "",
                 "planner/plan.cpp": '#include "engine/b.h"\n'}
        [finding] = self.findings(check_structure.check_formula_is_plain_data, files)
        self.assertIn("planner/formula_memory.cpp:2", finding)

    def test_vendor_headers_stay_at_home(self):
        files = {"kernels/cuda/a.cu": "#include <cuda_runtime.h>\n", "kernels/a.h": "#include <cuda_runtime.h>\n",
                 "parallel/mpi_comm.cpp": "#include <mpi.h>\n", "engine/a.cpp": "#include <mpi.h>\n"}
        self.assertEqual(len(self.findings(check_structure.check_vendor_headers, files)), 2)

    def test_each_rule_for_cuda_kernels_is_found_with_its_line(self):
        planted = {
            "k<<<1, 32, 0, stream>>>(x);": "launch()",
            "check(cudaLaunchKernelExC(&config, k, arguments));": "launch()",
            "__shared__ float row[32];": "shared<T>()",
            'asm volatile("bar.sync 0;");': "instructions.h",
            "#ifdef TESSERA_CUDA_EMULATION": "emulated",
            "check(cudaStreamCreate(&stream));": "cudaStreamNonBlocking",
            "check(cudaStreamCreateWithFlags(&stream, flags));": "cudaStreamNonBlocking",
            "launch(k, shape, cudaStreamPerThread);": "cudaStreamNonBlocking",
            "atomicAdd(reinterpret_cast<float*>(sum), x);": "same bits",
            "cudaFree(memory);": "check()",
            "int a = 0; cublasLtDestroy(handle);": "check()",
            "if (memory) cudaFree(memory);": "check()",
        }
        for line, rule in planted.items():
            with self.subTest(line):
                [finding] = self.findings(check_structure.check_cuda_rules, {"kernels/cuda/a.cu": f"// a kernel\n\n  {line}\n"})
                self.assertIn("kernels/cuda/a.cu:3: ", finding)
                self.assertIn(rule, finding)

    def test_what_the_rules_for_cuda_kernels_ask_for_is_legal(self):
        files = {"kernels/cuda/a.cu": "check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), \"\");\n(void)cudaFree(p);  // not __shared__ nor asm\n"
                                      "const cudaError_t e =\n    cudaMalloc(&p, 8);\natomicAdd(&counter, 1u);\n",
                 "kernels/cuda/instructions.h": "#ifdef TESSERA_CUDA_EMULATION\nasm;\n", "kernels/cuda/shared.h": "__shared__ char x;\n",
                 "kernels/cuda/launch.h": "cudaLaunchKernelEx(&config, kernel);\n".replace("cuda", "status = cuda"), "tests/a.cu": "k<<<1, 1>>>();"}
        self.assertEqual(self.findings(check_structure.check_cuda_rules, files), [])

    def test_a_header_missing_from_the_table_is_found(self):
        files = {"base/README.md": README.format("base", "| a.h | A | |\n"), "base/a.h": "", "base/b.h": ""}
        [finding] = self.findings(check_structure.check_readme_tables, files)
        self.assertIn("does not list b.h", finding)

    def test_a_listed_file_that_is_gone_is_found_and_so_is_its_test(self):
        files = {"base/README.md": README.format("base", "| `a.h` | A | tests/a_test.cpp |\n"), "base/b.cpp": ""}
        self.assertEqual(len(self.findings(check_structure.check_readme_tables, files)), 2)

    def test_a_folder_below_is_listed_above_unless_it_has_its_own_readme(self):
        files = {"kernels/README.md": README.format("kernels", "| cpu/a.h | A | |\n"), "kernels/cpu/a.h": "", "kernels/null/b.h": "",
                 "kernels/null/README.md": README.format("null", "| b.h | B | |\n")}
        self.assertEqual(self.findings(check_structure.check_readme_tables, files), [])

    def test_a_folder_without_readme_is_found(self):
        [finding] = self.findings(check_structure.check_readme_tables, {"optim/a.cpp": ""})
        self.assertIn("optim/: has no README.md", finding)

    def test_long_files_are_found(self):
        files = {"base/README.md": "x\n" * 41, "base/a.cpp": "\n" * 601, "base/b.cpp": "\n" * 600, "docs/step.md": "x\n" * 900}
        self.assertEqual(len(self.findings(check_structure.check_readme_lengths, files)), 1)
        self.assertEqual(len(self.findings(check_structure.check_file_lengths, files)), 1)


if __name__ == "__main__":
    unittest.main()
