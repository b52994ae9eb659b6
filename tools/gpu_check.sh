#!/usr/bin/env bash
# What only a GPU can prove, by one command on a machine that has one and nothing of ours: no packages, no network, no compiler.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'TEXT'
tools/gpu_check.sh pack [DIR]   where Tessera is built (with nvcc): the command, the tests of ops and devices and the libraries
                                that they need, in one folder to carry; default build/gpu_check
tools/gpu_check.sh [OPTION...]  on the GPU machine, from that folder or beside it: every check, in less than 8 minutes, and one report
  --bundle DIR        the folder; default: where this script lies, or build/gpu_check
  --out FILE          the report, Markdown; default gpu_check.md
  --seconds N         for all checks together; default 460
  --only NAME ...     these checks alone; --list names them
  --quick             small sizes, no bench of GPT-2 124M: does the check itself work?
  --device cuda|cpu   what is checked against the cpu; default cuda
  --set KEY=VALUE ... of the runs on that device alone: to see the check fail
  --keep DIR          runs and logs stay in DIR
The GPU machine has: bash, coreutils, python3 (3.8 or newer, its standard library), NVIDIA's driver (of CUDA 13: 580 or newer), and CUDA's
cuBLASLt, which is looked for in LD_LIBRARY_PATH, /usr/local/cuda* and Python's nvidia packages; so are cuDNN and NCCL, which may be missing.
compute-sanitizer is used where it is.
TEXT
}

# Libraries of the system, the driver and CUDA: the GPU machine has its own.
not_packed='^(linux-vdso|ld-linux|libc|libm|libdl|libpthread|librt|libresolv|libutil|libcuda|libnvidia-ml|libcublas|libcublasLt|libcudnn|libnccl|libcudart)[.-]'

# The files that the given ones need, directly and by each other.
needed() {
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u | while read -r name path; do
    [[ $name =~ $not_packed ]] || echo "$path"
  done
}

# The newest version of glibc that any of the files asks for.
glibc_needed() { objdump -T "$@" 2>/dev/null | grep -oE 'GLIBC_[0-9]+\.[0-9]+' | sort -uV | tail -n 1 | cut -d_ -f2; }

stage=''
pack() {
  local folder=${1:-build/gpu_check} release=$here/../build/release file
  local tests=$release/tests/tessera_device_tests
  for file in tools/tessera libtessera.so libtessera_cuda.so tests/tessera_device_tests; do
    [[ -e $release/$file ]] || { echo "error: no build/release/$file; cmake --preset release (with nvcc), then build" >&2; exit 1; }
  done
  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
  mkdir -p "$stage/bin" "$stage/lib"
  cp "$release/tools/tessera" "$tests" "$stage/bin"
  cp "$release/libtessera_cuda.so" "$stage/lib"
  needed "$release/tools/tessera" "$tests" "$release/libtessera_cuda.so" | while read -r file; do cp -L "$file" "$stage/lib/"; done
  strip --strip-unneeded "$stage"/bin/* "$stage"/lib/*
  mkdir -p "$folder"
  rm -f "$folder/files.tar.gz"
  python3 - "$stage" "$(glibc_needed "$stage"/bin/* "$stage"/lib/*)" "$(git -C "$here" describe --always --dirty 2>/dev/null || echo unknown)" \
    "$(readelf -d "$stage/lib/libtessera_cuda.so" | sed -nE 's/.*NEEDED.*\[(libcu[^]]*|libnccl[^]]*)\].*/\1/p')" <<'PYTHON'
import datetime, json, sys
stage, glibc, commit, cuda = sys.argv[1:]
manifest = {"commit": commit, "packed": datetime.date.today().isoformat(), "glibc": glibc, "cuda_libraries": cuda.split()}
open(stage + "/manifest.json", "w").write(json.dumps(manifest, indent=1) + "\n")
print(f"needs glibc {glibc}, {', '.join(manifest['cuda_libraries'])} and a GPU; commit {commit}")
PYTHON
  tar -C "$stage" -czf "$folder/files.tar.gz" bin lib manifest.json
  cp "$here"/gpu_check.sh "$here"/gpu_check*.py "$folder"
  du -sh "$stage/bin" "$stage/lib" | sed "s|$stage/||"
  echo "$(du -sh "$folder" | cut -f1) in $folder, $(du -sh "$stage" | cut -f1) unpacked"
}

case ${1:-} in
  pack) shift; pack "$@" ;;
  -h | --help) usage ;;
  *) exec python3 "$here/gpu_check.py" "$@" ;;
esac
