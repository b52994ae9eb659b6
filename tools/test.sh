#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: with CUDA's kernels an estimated 50 minutes on 2 cores from nothing (--quick: 13).
# The last line is "N passed, N failed", summed over everything; the exit status is 1 when anything failed or did not build.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
  cat <<'TEXT'
tools/test.sh [--quick | --mutations] [--no-install]
               release build: every test, the structure of the sources, the quickstart;
               then every test under Address- and UndefinedBehaviorSanitizer, and those with threads under ThreadSanitizer
  --quick      the release build and its tests, and the structure of the sources
  --mutations  the faults of tests/mutations.toml: each must turn a test red
  --no-install the dependencies are there; do not look
TEXT
}

# Tests whose ranks are threads, and others that start threads: what ThreadSanitizer looks at.
threaded_tests='Ranks|SignalWatch|[.]Threads'
op_teams='Teams'  # ops of several threads by OpenMP, whose runtime it does not see into

mode=full install=yes
for argument in "$@"; do
  case $argument in
    --quick) mode=quick ;;
    --mutations) mode=mutations ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $argument" >&2; usage >&2; exit 2 ;;
  esac
done

exec </dev/null
export OMP_WAIT_POLICY=passive  # tests run side by side: a team that spins takes the other's core
jobs=$(nproc)
logs=build/logs
mkdir -p "$logs"
passed=0 failed=0 counted_failed=0

count() { passed=$((passed + $1)); failed=$((failed + $2)); counted_failed=$2; }

finish() {
  echo "$passed passed, $failed failed"
  ((failed == 0 && passed > 0))
  exit
}

heading() { printf '\n== %s (%d min so far)\n' "$1" $((SECONDS / 60)); }

# must LOG COMMAND...: a step without tests of its own; when it fails, that counts as one failed test.
must() {
  local log=$logs/$1.log
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "FAILED  $* (all of it: $log)"
    count 0 1
    return 1
  fi
}

# counted LOG COMMAND...: a step that ends with its own "N passed, N failed". Printed in other words, so that the sum alone stands in these.
counted() {
  local log=$logs/$1.log status
  shift
  "$@" 2>&1 | tee "$log" | sed -u -E 's/^([0-9]+) passed, ([0-9]+) failed$/\1 ok, \2 not/'
  status=${PIPESTATUS[0]}
  if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    count "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    ((status == 0 || counted_failed > 0)) || count 0 1
  else
    echo "FAILED  $* (no count; exit status $status)"
    count 0 1
  fi
}

# Python's unittest as a line of counts.
unittest() {
  local output status=0 ran=0 bad=0
  output=$(python3 "$1" 2>&1) || status=$?
  [[ $output =~ Ran\ ([0-9]+)\ test ]] && ran=${BASH_REMATCH[1]}
  while read -r number; do bad=$((bad + number)); done < <(grep -oE '(failures|errors)=[0-9]+' <<<"$output" | cut -d= -f2)
  if ((status != 0 && bad == 0)); then bad=1; fi
  ((bad == 0)) || echo "$output"
  echo "$((ran > bad ? ran - bad : 0)) passed, $bad failed"
}

# ThreadSanitizer of older compilers cannot map its shadow where the kernel randomizes addresses widely.
fixed_addresses() { if setarch "$(uname -m)" -R true 2>/dev/null; then setarch "$(uname -m)" -R "$@"; else "$@"; fi; }

build() {  # PRESET
  must "$1-configure" cmake --preset "$1" && must "$1-build" fixed_addresses cmake --build --preset "$1" --parallel "$jobs"
}

# run_tests PRESET [CTEST ARGUMENT...]: ctest's own count, from its JUnit file. Logs go by the preset, or by $label.
run_tests() {
  local preset=$1 log=$logs/${label:-$1}
  local report=$PWD/$log-tests.xml
  shift
  rm -f "$report"
  fixed_addresses ctest --test-dir "build/$preset" --parallel "$jobs" --timeout 600 --output-on-failure --no-tests=error \
    --output-junit "$report" "$@" >"$log-tests.log" 2>&1
  counted "${log##*/}-count" python3 - "$report" "$log-tests.log" <<'PYTHON'
import sys, xml.etree.ElementTree as ElementTree
try:
    tests = ElementTree.parse(sys.argv[1]).getroot().findall("testcase")
except (OSError, ElementTree.ParseError):
    print(open(sys.argv[2], errors="replace").read()[-6000:])
    sys.exit("ctest left no report")
skipped = [test for test in tests if test.get("status") == "notrun" and (test.find("skipped") is not None)
           and test.find("skipped").get("message", "").startswith("SKIP_REGULAR")]
for test in skipped:
    print(f"skipped  {test.get('name')}")
tests = [test for test in tests if test not in skipped]
bad = [test for test in tests if test.get("status") != "run"]  # "notrun" too: a test whose program is missing
for test in bad:
    output = test.findtext("system-out") or ""
    print(f"FAILED  {test.get('name')} ({test.get('status')})", *output.splitlines()[-40:], sep="\n  ")
print(f"{len(tests) - len(bad)} passed, {len(bad)} failed")
PYTHON
}

# emulated PRESET VARIABLE=VALUE...: the CUDA kernels in emulation (tests/cuda_emulation/), with what the emulator is asked for. By
# themselves, and under the sanitizers as ops, too.
emulated() {
  local preset=$1 pair label=$1-emulated tests='^(Emulated|OnEmulatedCuda)[.]'
  [[ $preset != release ]] || tests='^Emulated[.]'
  shift
  for pair in "$@"; do label+=-${pair##*=}; done
  echo "emulated CUDA, $preset: $*"
  export "$@"
  run_tests "$preset" -R "$tests"
  for pair in "$@"; do unset "${pair%%=*}"; done
}
is_emulated() { [[ -e build/$1/tests/cuda_emulation/tessera_cuda_emulated_tests ]]; }

trap 'echo; echo "interrupted"; exit 130' INT TERM

if [[ $install == yes ]]; then
  heading "dependencies"
  tools/install_dependencies.sh || { count 0 1; finish; }
fi

if [[ $mode == mutations ]]; then
  heading "mutations"
  counted mutations python3 tools/mutations.py
  finish
fi

heading "structure"
counted structure python3 tools/check_structure.py
counted structure-test unittest tests/check_structure_test.py
counted wheels-test unittest tests/fetch_wheels_test.py

heading "release"
build release || finish
run_tests release
if is_emulated release; then
  emulated release TESSERA_EMULATION_STREAMS=lazy TESSERA_EMULATION_PROTECT=1
else
  echo "skipped  CUDA kernels in emulation: not built; the table that ends the configuration says why ($logs/release-configure.log)"
fi
[[ $mode == quick ]] && finish

heading "quickstart"
counted quickstart unittest tests/quickstart_test.py
counted command unittest tests/command_test.py
counted gpu-check unittest tests/gpu_check_test.py

heading "address and undefined behaviour"
export ASAN_OPTIONS=strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
if build asan; then
  run_tests asan
  if is_emulated asan; then
    emulated asan TESSERA_EMULATION_ORDER=reverse TESSERA_EMULATION_STREAMS=lazy
    emulated asan TESSERA_EMULATION_ORDER=random:7
  fi
fi

heading "threads"
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
export OMP_NUM_THREADS=1  # as above: one thread an op, the ranks remain
if build tsan; then run_tests tsan -R "$threaded_tests" -E "$op_teams"; fi

if is_emulated release; then
  heading "races of CUDA kernels"
  if ! command -v clang++ >/dev/null; then
    echo "skipped  needs clang++, whose ThreadSanitizer is fast enough (tools/install_dependencies.sh installs it where CUDA's headers are)"
  elif build cuda-races; then
    export TSAN_OPTIONS+=:atexit_sleep_ms=0  # it sleeps before it says what a test expects it to say
    emulated cuda-races TESSERA_EMULATION_RACES=block
    emulated cuda-races TESSERA_EMULATION_RACES=grid TESSERA_EMULATION_STREAMS=lazy
  fi
fi

finish
