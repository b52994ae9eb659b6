#!/usr/bin/env bash
# What the compiler does not say: layout, static checks, include directions, README tables; then the quick tests. By hand, for CI, and as a
# git hook: ln -s ../../tools/check.sh .git/hooks/pre-commit
set -uo pipefail
cd "$(git rev-parse --show-toplevel)" || exit 1

usage() {
  cat <<'HELP'
tools/check.sh [--all] [--fix] [--without-clang] [--without-tests]
  --all            clang-tidy on every source, not only on those that differ from the last commit
  --fix            let clang-format rewrite what it would complain about
  --without-clang  neither clang-format nor clang-tidy (tools/install_dependencies.sh --check installs both)
  --without-tests  no build and no tests; clang-tidy then needs an earlier release build
HELP
}

all=no fix=no clang=yes tests=yes
for argument in "$@"; do
  case $argument in
    --all) all=yes ;;
    --fix) fix=yes ;;
    --without-clang) clang=no ;;
    --without-tests) tests=no ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $argument" >&2; usage >&2; exit 2 ;;
  esac
done

passed=0 failed=0
verdict() {  # STATUS WHAT
  if (($1 == 0)); then passed=$((passed + 1)); echo "passed  $2"; else failed=$((failed + 1)); echo "FAILED  $2"; fi
}

mapfile -t sources < <(git ls-files --cached --others --exclude-standard -- '*.h' '*.cpp' '*.cu' | while read -r name; do [[ -e $name ]] && echo "$name"; done)

if [[ $clang == yes ]]; then
  for program in clang-format clang-tidy; do
    if ! command -v "$program" >/dev/null; then
      echo "error: $program is not installed" >&2
      echo "  hint:  tools/install_dependencies.sh --check installs it; --without-clang leaves it out" >&2
      exit 1
    fi
  done
  if [[ $fix == yes ]]; then clang-format -i "${sources[@]}"; fi
  clang-format --dry-run -Werror "${sources[@]}"
  verdict $? "clang-format"
fi

python3 tools/check_structure.py
verdict $? "structure: include directions, README tables, lengths"

if [[ $tests == yes ]]; then
  tools/test.sh --quick
  verdict $? "quick tests"
fi

if [[ $clang == yes ]]; then
  commands=build/release/compile_commands.json
  if [[ ! -e $commands ]]; then
    echo "error: $commands is missing: clang-tidy needs a configured release build" >&2
    echo "  hint:  cmake --preset release" >&2
    exit 1
  fi
  if [[ $all == yes ]]; then
    changed=("${sources[@]}")
  else
    mapfile -t changed < <({ git diff --name-only --diff-filter=d HEAD 2>/dev/null; git ls-files --others --exclude-standard; } | sort -u)
  fi
  # Sources only, with the headers that they include; tests are written in GoogleTest's names.
  printf '%s\n' ${changed[@]+"${changed[@]}"} | grep -E '\.cpp$' | grep -v '^tests/' | xargs -r -P "$(nproc)" -n 4 clang-tidy --quiet -p build/release 2>/dev/null
  verdict "${PIPESTATUS[3]}" "clang-tidy"
fi

echo "$passed passed, $failed failed"
((failed == 0))
