#!/usr/bin/env bash
# Text in, trained model and sample out. Installs what is missing, builds, trains a tokenizer and a small GPT on TEXT, evaluates, samples,
# and shows where memory and time went. What is done already is not done again; an interrupted training is resumed.
set -euo pipefail
start_folder=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'HELP'
tools/quickstart.sh [--minutes M] [--run-dir DIR] [--no-install] [TEXT...]
  TEXT          text files or folders of them; without: the C and C++ headers and licence texts that the build's packages brought
  --minutes M   time to train (default 3); the number of steps comes from a rate measured at the start
  --run-dir DIR where the run goes (default: runs/quickstart, or runs/quickstart-KEY for other texts or minutes)
  --no-install  the dependencies are there; do not look
The tokenizer and the encoded text go to DIR-text.
HELP
}

preset=configs/runs/quickstart.toml
vocabulary_tokens=4096
system_text_bytes_max=24000000
tessera=build/release/tools/tessera

stop() {  # WHAT HINT
  printf 'error: %s\n  hint:  %s\n' "$1" "$2" >&2
  exit 2
}

absolute() { case $1 in /*) echo "$1" ;; *) echo "$start_folder/$1" ;; esac; }

minutes=3 run_dir='' install=yes texts=() again_options=''
while (($# > 0)); do
  case $1 in
    --minutes | --run-dir)
      (($# > 1)) || stop "$1 needs a value" "tools/quickstart.sh --help"
      if [[ $1 == --minutes ]]; then
        minutes=$2
      else
        run_dir=$(absolute "${2%/}")
        again_options=$(printf ' --run-dir %q' "$run_dir")
      fi
      shift
      ;;
    --no-install) install=no ;;
    -h | --help) usage; exit 0 ;;
    -*) stop "unknown option $1" "tools/quickstart.sh --help" ;;
    *)
      [[ -r $(absolute "$1") ]] || stop "$1 cannot be read" "TEXT is a text file or a folder of them"
      texts+=("$(absolute "${1%/}")")
      ;;
  esac
  shift
done
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ && $minutes =~ [1-9] ]] || stop "--minutes $minutes is not a time" "a number above 0, such as 3 or 0.5"

heading() { printf '\n== %s\n' "$*" >&2; }
shown() { local name=$1; [[ $name == "$PWD"/* ]] && name=${name#"$PWD"/}; printf '%s' "$name"; }
run() { printf '$ %s\n' "$(printf '%q ' "$@")" >&2; "$@"; }
hash_of() { sha256sum | cut -c 1-16; }

# The text of every machine that can build Tessera, folder by folder, sorted, until there is enough: licences, C++, then C.
list_system_text() {
  local folder
  for folder in /usr/share/common-licenses "/usr/include/c++/$(g++ -dumpversion)" /usr/include/{CLI,fmt,gtest,hwy,nlohmann,toml++} /usr/include/linux; do
    if [[ -d $folder ]]; then find "$folder" -type f -size +0 -printf '%s %p\n' | LC_ALL=C sort -k 2; fi
  done | awk -v most="$system_text_bytes_max" '{ bytes += $1; if (bytes > most) exit; sub(/^[0-9]+ /, ""); print }'
}

# What the run depends on. The system's text stays what it was at the first run, whatever is installed later.
describe_request() {
  echo "minutes $minutes"
  echo "vocabulary $vocabulary_tokens"
  if ((${#texts[@]} == 0)); then
    echo "text of the system"
  else
    find -L "${texts[@]}" -type f -printf '%p %s %T@\n' | LC_ALL=C sort
  fi
}

if [[ $install == yes ]]; then
  heading "dependencies"
  tools/install_dependencies.sh >&2
fi

heading "build"
mkdir -p build
if ! { cmake --preset release && cmake --build --preset release --target tessera; } >build/quickstart.log 2>&1 </dev/null; then
  tail -n 40 build/quickstart.log >&2
  stop "the build failed" "all of its output: build/quickstart.log"
fi
echo "built: $tessera" >&2

key=$(describe_request | hash_of)
if [[ -z $run_dir ]]; then
  run_dir=$PWD/runs/quickstart
  ((${#texts[@]} == 0)) && [[ $minutes == 3 ]] || run_dir+=-${key:0:8}
fi
text_dir=$run_dir-text

if [[ -e $text_dir/key && $(<"$text_dir/key") != "$key" ]] || [[ -e $run_dir && ! -e $text_dir/key ]]; then
  stop "$(shown "$run_dir") holds a run of other texts or other minutes; nothing was changed" \
    "give another --run-dir, or remove $(shown "$run_dir") and $(shown "$text_dir")"
fi
mkdir -p "$text_dir"
[[ -e $text_dir/key ]] || echo "$key" >"$text_dir/key"

# once STAMP WHAT COMMAND...: a step of preparation, skipped when its stamp says that it was finished.
once() {
  local stamp=$text_dir/$1.done what=$2
  shift 2
  if [[ -e $stamp ]]; then
    echo "done already: $what" >&2
  else
    run "$@" </dev/null
    touch "$stamp"
  fi
}

write_files_list() {
  if ((${#texts[@]} > 0)); then printf '%s\n' "${texts[@]}"; else list_system_text; fi >"$text_dir/files.txt"
}

heading "text: a tokenizer of $vocabulary_tokens pieces, and the text in tokens"
if [[ ! -e $text_dir/files.txt.done ]]; then write_files_list && touch "$text_dir/files.txt.done"; fi
once tokenizer "tokenizer, $(shown "$text_dir")/tokenizer.model" \
  "$tessera" tokenize train --vocab-size "$vocabulary_tokens" --input-list "$text_dir/files.txt" --output "$text_dir/tokenizer.model"
once text "encoded text, $(shown "$text_dir")/text.bin" \
  "$tessera" tokenize encode --model "$text_dir/tokenizer.model" --input-list "$text_dir/files.txt" --output "$text_dir/text"

is_finished() { [[ -e $run_dir/report.json ]] && grep -qE '"finished": *(true|"yes")' "$run_dir/report.json"; }

heading "training: $minutes minutes"
if is_finished; then
  echo "done already: $(shown "$run_dir")" >&2
else
  if [[ -e $run_dir/config.toml ]]; then
    how=(--resume)
  else
    how=("$preset" --set "data.path=$text_dir/text" "data.tokenizer=$text_dir/tokenizer.model" "train.minutes=$minutes")
  fi
  # Ctrl-C reaches tessera too: it saves and exits 0, and this script goes on to the next lines.
  trap 'signalled=yes' INT TERM
  status=0
  run "$tessera" train --run-dir "$run_dir" "${how[@]}" </dev/null || status=$?
  trap - INT TERM
  again="tools/quickstart.sh$again_options"
  [[ $start_folder == "$PWD" ]] || again=$(printf '%q' "$PWD")/$again
  [[ $minutes == 3 ]] || again+=" --minutes $minutes"
  ((${#texts[@]} == 0)) || again+=$(printf ' %q' "${texts[@]}")
  if ((status != 0)); then
    echo "training stopped with exit status $status; \`$again\` goes on from the last checkpoint" >&2
    exit "$status"
  fi
  if ! is_finished; then
    echo "training was ${signalled:+interrupted and }saved before its end; \`$again\` goes on from there" >&2
    exit 0
  fi
fi

heading "loss on text that was held out from training"
# One line a validation; validation lines are the ones that carry val_loss.
python3 - "$run_dir/metrics.jsonl" <<'PYTHON'
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    rows = [row for row in map(json.loads, file) if row.get("val_loss") is not None]
highest = max((row["val_loss"] for row in rows), default=1)
for row in rows[::max(1, len(rows) // 12)] + ([rows[-1]] if rows and (len(rows) - 1) % max(1, len(rows) // 12) else []):
    print(f"step {row['step']:>6}  {row['val_loss']:8.4f}  {'#' * round(40 * row['val_loss'] / highest)}")
PYTHON
run "$tessera" eval "$run_dir" </dev/null

heading "a sample"
if ((${#texts[@]} == 0)); then prompt='#include <'; else prompt='The'; fi
run "$tessera" sample "$run_dir" --prompt "$prompt" --tokens 200 </dev/null

heading "where memory and time went"
run "$tessera" compare "$run_dir" </dev/null

heading "what lies where, and what next"
here=$(shown "$run_dir") quoted_run=$(printf '%q' "$(shown "$run_dir")") quoted_text=$(printf '%q' "$(shown "$text_dir")")
cat <<HELP
$here/config.toml     every key of the run
$here/metrics.jsonl   a line a step: loss, rate, norm, time
$here/report.json     memory and time, as tables above
$here/tuning.json     which kernel computes each matrix product, and what was measured
$here/checkpoints/    safetensors files: any Python tool opens them
$(shown "$text_dir")/        tokenizer, tokens, the list of text files

Longer:            tools/quickstart.sh --minutes 30
Your own text:     tools/quickstart.sh FILE_OR_FOLDER...
Another sample:    $tessera sample $quoted_run --prompt "template <" --tokens 300
Four ranks:        $tessera train $preset --ranks 4 --set parallel.dp=2 parallel.pp=2 data.path=$quoted_text/text \\
                     data.tokenizer=$quoted_text/tokenizer.model train.minutes=$minutes --run-dir runs/four-ranks
Every key:         $tessera config
How it works:      docs/step.md
HELP
