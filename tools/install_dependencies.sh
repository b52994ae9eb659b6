#!/usr/bin/env bash
# Installs what Tessera needs from the system's packages, and from PyPI into .dependencies/: oneDNN 3.2 (where that cannot be had, the
# system's serves) and, where cuDNN's headers are, cudnn-frontend. Only what is missing, and says what. Nothing missing: no network, no root.
# Supported: Debian 12 and 13, Ubuntu 24.04.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
tools/install_dependencies.sh [--check] [--list] [--anyway]
  --check   also what tools/check.sh needs: clang-format and clang-tidy
  --list    print the packages and what each is for; install nothing
  --anyway  try apt-get on a system of the Debian family that is not supported
DNNL_ROOT in the environment names a oneDNN of your own: none is fetched, and CMake takes that one.
TEXT
}

# package | command that makes it unnecessary (tools only) | purpose
build_packages="
g++                 | g++        | compiler, C++20: version 12 or newer
cmake               | cmake      | build, version 3.25 or newer
ninja-build         | ninja      | build
pkg-config          | pkg-config | finds the libraries
git                 | git        | lists the files that the checks read
python3             | python3    | checks the sources, counts tests (3.11 or newer, no modules)
libhwy-dev          |            | Google Highway: SIMD loops with run-time dispatch
libsentencepiece-dev |           | SentencePiece: tokenizer
libtomlplusplus-dev |            | toml++: configuration files
libcli11-dev        |            | CLI11: command line
nlohmann-json3-dev  |            | JSON: metrics, reports, checkpoints
libfmt-dev          |            | fmt: formatting
libxxhash-dev       |            | xxHash: checksums of checkpoints
libgtest-dev        |            | GoogleTest: tests
"
pip_package="
python3-pip         |            | fetches oneDNN 3.2: only where neither that nor a oneDNN of the system is there
"
onednn_package="
libdnnl-dev         |            | oneDNN, matrix products on the CPU: only where 3.2 cannot be fetched from PyPI
"
# Where CUDA's headers are: its kernels are tested in emulation.
cuda_packages="
libboost-context-dev |           | Boost.Context: fibers of the CUDA emulation in tests
clang               | clang++    | ThreadSanitizer for CUDA kernels in emulation: version 14 or newer
libomp-dev          |            | OpenMP with clang
"
check_packages="
clang-format        | clang-format | layout of the sources
clang-tidy          | clang-tidy   | static checks and names
"

packages=$build_packages
anyway=no
list=no
for argument in "$@"; do
  case $argument in
    --check) packages+=$check_packages ;;
    --anyway) anyway=yes ;;
    --list) list=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $argument" >&2; usage >&2; exit 2 ;;
  esac
done

has_header() {  # FILE: among CUDA's
  local root
  for root in "${CUDAToolkit_ROOT:-}" "${CUDA_PATH:-}" "${CUDA_HOME:-}" /usr/local/cuda /usr; do
    if [[ -n $root && -e $root/include/$1 ]]; then return 0; fi
  done
  return 1
}
if has_header cuda_runtime.h; then packages+=$cuda_packages; fi

rows() { tr -d '\t' <<<"$1" | sed -e '/^ *$/d' -e 's/ *| */|/g'; }
print_purposes() { rows "$packages$pip_package$onednn_package" | awk -F'|' '{ printf "  %-22s %s\n", $1, $3 }'; }
is_installed() {  # PACKAGE COMMAND
  if [[ -n $2 ]] && command -v "$2" >/dev/null; then return 0; fi
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true) == installed ]]
}

if [[ $list == yes ]]; then print_purposes; exit 0; fi

system=unknown
if [[ -r /etc/os-release ]]; then
  system=$(. /etc/os-release && echo "${ID:-unknown} ${VERSION_ID:-}")
fi

refuse() {
  {
    echo "error: $1"
    echo "  where: this system is '${system% }'"
    echo "  legal: Debian 12, Debian 13, Ubuntu 24.04"
    echo "  hint:  $2; Tessera needs:"
    print_purposes
  } >&2
  exit 1
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  refuse "packages can be installed with apt-get only, and this system has none" "install these by the system's own means, then build with cmake --preset release"
fi

require_supported() {  # PACKAGE...
  case $system in
    "debian 12" | "debian 13" | "ubuntu 24.04") ;;
    *) [[ $anyway == yes ]] || refuse "this system is not supported, and packages are missing: $*" "--anyway tries the same package names" ;;
  esac
}

as_root=()
find_root() {  # PACKAGE...
  if (($(id -u) == 0)); then return 0; fi
  if ! command -v sudo >/dev/null; then
    echo "error: packages are missing, and only root may install them (there is no sudo)" >&2
    echo "  hint:  as root: apt-get update && apt-get install $*" >&2
    exit 1
  fi
  as_root=(sudo)
  if [[ -n ${CI:-} || ! -t 0 ]]; then as_root=(sudo -n); fi  # nobody is there to type a password
}

apt_get() {
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
installed=no

# install_missing ROWS: the packages of these rows that are not there yet.
install_missing() {
  local missing=() package command
  while IFS='|' read -r package command _; do
    is_installed "$package" "$command" || missing+=("$package")
  done < <(rows "$1")
  if ((${#missing[@]} == 0)); then return 0; fi
  require_supported "${missing[@]}"
  find_root "${missing[@]}"
  echo "dependencies: installing ${missing[*]}"
  installed=yes
  if { apt_get update && apt_get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then return 0; fi
  tail -n 30 "$log" >&2
  echo "error: apt-get could not install ${missing[*]}" >&2
  echo "  hint:  its last lines stand above; without network, install these packages by hand" >&2
  if [[ $system == ubuntu* ]]; then echo "  hint:  some of them are in 'universe': add-apt-repository universe" >&2; fi
  exit 1
}

install_missing "$packages"

if [[ -n ${DNNL_ROOT:-} ]]; then
  echo "dependencies: oneDNN from DNNL_ROOT, $DNNL_ROOT"
else
  has_pip() { python3 -m pip --version >/dev/null 2>&1; }
  if [[ ! -f .dependencies/onednn/SHA256SUMS ]] && ! has_pip && ! is_installed libdnnl-dev ""; then install_missing "$pip_package"; fi
  status=0
  python3 tools/fetch_wheels.py onednn || status=$?
  case $status in
    0) ;;
    3) install_missing "$onednn_package" ;;
    *) exit 1 ;;
  esac
fi

# Headers, for attention by cuDNN; nothing else asks for them.
if has_header cudnn.h; then
  status=0
  python3 tools/fetch_wheels.py cudnn-frontend || status=$?
  ((status == 0 || status == 3)) || exit 1
fi

if [[ $installed == yes ]]; then echo "dependencies: installed"; else echo "dependencies: all installed"; fi
