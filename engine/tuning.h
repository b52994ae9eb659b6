#pragma once
#include <string>

#include "engine/run_config.h"
#include "kernels/device.h"
#include "kernels/tuning.h"
#include "parallel/host_group.h"
#include "report/messages.h"

namespace tessera {

/// A tuning table as the text of tuning.json: each op with what was chosen, the seconds of every candidate, and the device.
std::string tuning_text(const TuningTable& table);
/// DataError naming `where` and the place when the text is no tuning table. An op or a type of another version gets the kind Count.
TuningTable read_tuning(const std::string& text, const std::string& where);

/// Makes every rank's device compute the ops of `trace` alike, as train.tuning says. `saved`, the text of an earlier tuning.json of the run
/// (rank 0; empty where there is none), comes before a file that train.tuning names. What neither knows is timed by the lowest rank that
/// runs it ("measure"), or left to the rule. The table is the same on every rank. Collective; the device has memory, of which nothing is
/// taken. Messages, on rank 0 only: tables of other devices, ops that are unknown here.
TuningTable tune(const ResolvedRun& run, const Trace& trace, const std::string& saved, Device& device, HostGroup& host, Messages& messages);

}  // namespace tessera
