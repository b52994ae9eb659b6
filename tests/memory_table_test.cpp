#include "report/memory_table.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace tessera {

constexpr int64_t MiB = int64_t{1} << 20;

static MemoryRow weights(int rank, std::optional<int64_t> dry_run, std::optional<int64_t> measured = {}) {
  return {rank, MemorySpace::Host, MemoryCategory::Weights, {}, {}, dry_run, measured};
}

TEST(MemoryTable, MergeJoinsThePlannersColumnsWithTheRuns) {
  MemoryTable plan, run;
  plan.add({0, MemorySpace::Host, MemoryCategory::Weights, 100, 110, {}, {}});
  plan.add({0, MemorySpace::Host, MemoryCategory::Logits, {}, 7, {}, {}});
  run.add({0, MemorySpace::Host, MemoryCategory::Weights, {}, {}, 110, 111});
  run.add({0, MemorySpace::Host, MemoryCategory::Data, {}, {}, 5, 5});
  run.add(ProcessMemory{"RssAnon", {0}, 1, 2, 1, {}});
  plan.merge(run);

  ASSERT_EQ(plan.rows().size(), 3u);
  EXPECT_EQ(*plan.find(0, MemorySpace::Host, MemoryCategory::Weights),
            (MemoryRow{0, MemorySpace::Host, MemoryCategory::Weights, 100, 110, 110, 111}));
  EXPECT_EQ(plan.find(0, MemorySpace::Host, MemoryCategory::Logits)->dry_run_bytes, std::nullopt);
  EXPECT_EQ(plan.find(0, MemorySpace::Device, MemoryCategory::Weights), nullptr);
  EXPECT_EQ(plan.processes().size(), 1u);
}

TEST(MemoryTable, RefusesASecondValueForAColumn) {
  MemoryTable table;
  table.add(weights(0, 100));
  EXPECT_NO_THROW(table.add(weights(0, 100, 100)));
  EXPECT_THROW(table.add(weights(0, 101)), InternalError);
}

TEST(MemoryTable, RowsAreOrderedByRankSpaceAndCategory) {
  MemoryTable table;
  table.add({1, MemorySpace::Device, MemoryCategory::Weights, {}, {}, 1, {}});
  table.add({0, MemorySpace::Host, MemoryCategory::Weights, {}, {}, 2, {}});
  table.add({0, MemorySpace::Device, MemoryCategory::Logits, {}, {}, 3, {}});
  table.add({0, MemorySpace::Device, MemoryCategory::Weights, {}, {}, 4, {}});
  std::vector<int64_t> order;
  for (const MemoryRow& row : table.rows()) order.push_back(*row.dry_run_bytes);
  EXPECT_EQ(order, (std::vector<int64_t>{4, 3, 2, 1}));
  EXPECT_EQ(table.ranks(), (std::vector<int>{0, 1}));
}

TEST(MemoryTable, TotalsAddOneColumnOfOneSpaceAndKeepUnknownApartFromZero) {
  MemoryTable table;
  table.add(weights(0, 100));
  table.add({0, MemorySpace::Host, MemoryCategory::Logits, {}, {}, 20, {}});
  table.add({0, MemorySpace::Device, MemoryCategory::Logits, {}, {}, 3000, {}});
  table.add(weights(1, 7));
  table.add(weights(2, 50000));
  EXPECT_EQ(table.total(0, MemorySpace::Host, &MemoryRow::dry_run_bytes), 120);
  EXPECT_EQ(table.total({0, 1}, MemorySpace::Host, &MemoryRow::dry_run_bytes), 127);
  EXPECT_EQ(table.total(0, MemorySpace::Host, &MemoryRow::measured_bytes), std::nullopt);
}

TEST(MemoryTable, TextFoldsRanksThatAreAlikeAndAlignsItsColumns) {
  MemoryTable table;
  for (int rank : {0, 1, 2, 3}) {
    table.add({rank, MemorySpace::Host, MemoryCategory::Weights, {}, 475 * MiB, 475 * MiB, 475 * MiB});
    table.add(
        {rank, MemorySpace::Host, MemoryCategory::Activations, 900 * MiB, 1024 * MiB, 1024 * MiB, rank == 2 ? 2048 * MiB : 1024 * MiB});
  }
  EXPECT_EQ(table.text(),
            "ranks 0-1, 3, host memory, each\n"
            "category         |      paper |    formula |    dry run |   measured\n"
            "weights          |          - |  475.0 MiB |  475.0 MiB |  475.0 MiB\n"
            "activations      |  900.0 MiB |    1.0 GiB |    1.0 GiB |    1.0 GiB\n"
            "total            |  900.0 MiB |    1.5 GiB |    1.5 GiB |    1.5 GiB\n"
            "\n"
            "rank 2, host memory\n"
            "category         |      paper |    formula |    dry run |   measured\n"
            "weights          |          - |  475.0 MiB |  475.0 MiB |  475.0 MiB\n"
            "activations      |  900.0 MiB |    1.0 GiB |    1.0 GiB |    2.0 GiB\n"
            "total            |  900.0 MiB |    1.5 GiB |    1.5 GiB |    2.5 GiB\n");
}

TEST(ProcessMemory, NamesWhatTheTableDoesNotExplain) {
  const ProcessMemory process{"RssAnon + RssShmem", {0, 1}, 50 * MiB, 1050 * MiB, 960 * MiB, {{"allocator", 25 * MiB}}};
  EXPECT_EQ(process.grown_bytes(), 1000 * MiB);
  EXPECT_DOUBLE_EQ(process.explained_share(), 0.96);
  EXPECT_EQ(process.unexplained_bytes(), 15 * MiB);
  EXPECT_EQ(ProcessMemory{}.explained_share(), 0);

  MemoryTable table;
  table.add(process);
  EXPECT_EQ(table.text(),
            "process of ranks 0-1 (RssAnon + RssShmem)\n"
            "  at the start               50.0 MiB\n"
            "  peak                        1.0 GiB\n"
            "  explained by the table    960.0 MiB  96.0% of the growth of 1000.0 MiB\n"
            "  allocator                  25.0 MiB\n"
            "  unexplained                15.0 MiB\n");
}

TEST(MemoryRow, JsonHasExactlyTheKeysThatPeopleScriptOn) {
  const MemoryRow row{3, MemorySpace::PinnedHost, MemoryCategory::OptimizerStates, {}, 5, 6, 7};
  const std::string text = R"({"rank":3,"space":"pinned_host","category":"optimizer_states","paper_bytes":null,)"
                           R"("formula_bytes":5,"dry_run_bytes":6,"measured_bytes":7})";
  EXPECT_EQ(Json(row).dump(), text);
  EXPECT_EQ(Json::parse(text).get<MemoryRow>(), row);
}

TEST(MemoryRow, JsonOfAnUnknownCategoryIsRefused) {
  Json json = weights(0, 1);
  json["category"] = "wieghts";
  EXPECT_THROW(json.get<MemoryRow>(), DataError);
}

TEST(ProcessMemory, JsonReadsBackAsItWas) {
  const ProcessMemory process{"cudaMemGetInfo", {4}, 1, int64_t{1} << 40, 3, {{"context", 4}, {"library workspace", 5}}};
  EXPECT_EQ(Json(process).get<ProcessMemory>(), process);
}

TEST(RankList, FoldsRuns) {
  EXPECT_EQ(rank_list({}), "");
  EXPECT_EQ(rank_list({7}), "7");
  EXPECT_EQ(rank_list({0, 1, 2, 5, 7, 8}), "0-2, 5, 7-8");
}

}  // namespace tessera
