#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/json_file.h"
#include "report/memory_table.h"
#include "report/utilization.h"
#include "report/waterfall.h"

namespace tessera {

/// What a run says about itself, as report.json keeps it and `tessera compare` reads it.
struct RunReport {
  std::vector<std::pair<std::string, std::string>> config;  // what a reader must know of the run, in order: {"model", "gpt2-124m"}
  std::optional<float> first_loss, last_loss, val_loss;     // mean over a step's tokens; the newest evaluation
  MemoryTable memory;
  std::optional<Waterfall> waterfall;           // none for a run that took no time: a dry run
  std::vector<UtilizationReceipt> utilization;  // the convention that the run quotes first

  /// Configuration, losses, time, utilization and memory, for people.
  std::string text() const;
  bool operator==(const RunReport&) const = default;
};

/// Keys: config {name: text}; losses {first, last, val}; memory [rows]; processes [...]; waterfall_seconds {...}; utilization [receipts].
/// What does not exist is null; a loss that is not finite is null too.
void to_json(Json& json, const RunReport& report);
void from_json(const Json& json, RunReport& report);

/// Writes PATH whole or not at all. DataError.
void write_run_report(const std::filesystem::path& path, const RunReport& report);
/// DataError when the file is missing, is not JSON, or is not such a report, naming the key.
RunReport read_run_report(const std::filesystem::path& path);

}  // namespace tessera
