#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/memory_kind.h"
#include "report/json_file.h"

namespace tessera {

/// One line of the account: what one rank holds of one category in one space, in bytes at the peak.
/// A column without a value was not computed or not measured; that is not zero.
struct MemoryRow {
  int rank = 0;
  MemorySpace space = MemorySpace::Host;
  MemoryCategory category = MemoryCategory::Weights;
  std::optional<int64_t> paper_bytes;     // the closed form of the literature
  std::optional<int64_t> formula_bytes;   // our exact closed form (planner/)
  std::optional<int64_t> dry_run_bytes;   // counted by the trainer's own code on the null device
  std::optional<int64_t> measured_bytes;  // the arena's peak
  bool operator==(const MemoryRow&) const = default;
};

/// The columns, left to right, as they are named in MemoryRow.
using MemoryColumn = std::optional<int64_t> MemoryRow::*;

/// Bytes that are none of the arena's: "context", "library workspace", "allocator".
struct NamedBytes {
  std::string name;
  int64_t bytes = 0;
  bool operator==(const NamedBytes&) const = default;
};

/// One process (or one device of it) seen from outside, by a source that knows nothing of the arena.
struct ProcessMemory {
  std::string source;                 // "RssAnon + RssShmem", "cudaMemGetInfo"
  std::vector<int> ranks;             // the ranks that live in this process
  int64_t start_bytes = 0;            // before anything was allocated
  int64_t peak_bytes = 0;             // the most that was seen
  int64_t explained_bytes = 0;        // what the rows of these ranks say of the spaces that `source` sees
  std::vector<NamedBytes> remainder;  // what is known of the rest

  int64_t grown_bytes() const { return peak_bytes - start_bytes; }
  /// explained / grown: 1 is a full account, above 1 a table that claims more than was used. 0 when nothing grew.
  double explained_share() const;
  /// What neither the rows nor the named remainder explain; negative when they claim too much.
  int64_t unexplained_bytes() const;
  bool operator==(const ProcessMemory&) const = default;
};

/// Memory by rank, space and category in four columns (paper | formula | dry run | measured), and the processes from outside.
/// At most one row for a rank, space and category.
class MemoryTable {
 public:
  /// Fills the row of this rank, space and category. InternalError when a column has another value already: a column has one source.
  void add(const MemoryRow& row);
  void add(ProcessMemory process) { processes_.push_back(std::move(process)); }
  /// Adds every row and process of `other`: the planner's columns meet the run's.
  void merge(const MemoryTable& other);

  /// In the order rank, space, category.
  const std::vector<MemoryRow>& rows() const { return rows_; }
  const std::vector<ProcessMemory>& processes() const { return processes_; }
  /// The row, or null.
  const MemoryRow* find(int rank, MemorySpace space, MemoryCategory category) const;
  std::vector<int> ranks() const;

  /// Sum of a column over one rank and space; no value when no row has one. Rows without a value count nothing.
  std::optional<int64_t> total(int rank, MemorySpace space, MemoryColumn column) const;
  /// Sum of a column over some ranks in one space, as `ProcessMemory::explained_bytes` wants it.
  std::optional<int64_t> total(const std::vector<int>& ranks, MemorySpace space, MemoryColumn column) const;

  /// Aligned columns; ranks with equal rows share one block, each space has its total, then one paragraph for each process.
  std::string text() const;
  bool operator==(const MemoryTable&) const = default;

 private:
  std::vector<MemoryRow> rows_;
  std::vector<ProcessMemory> processes_;
};

/// Keys: rank, space, category, paper_bytes, formula_bytes, dry_run_bytes, measured_bytes; null where there is no value.
void to_json(Json& json, const MemoryRow& row);
void from_json(const Json& json, MemoryRow& row);
/// Keys: source, ranks, start_bytes, peak_bytes, explained_bytes, explained_share, remainder {name: bytes}, unexplained_bytes.
void to_json(Json& json, const ProcessMemory& process);
void from_json(const Json& json, ProcessMemory& process);

/// "0", "0-3", "0-2, 5": ranks in ascending order, runs folded.
std::string rank_list(const std::vector<int>& ranks);

}  // namespace tessera
