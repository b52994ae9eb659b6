#pragma once
#include <string>

#include "engine/run_config.h"
#include "kernels/device.h"
#include "kernels/tuning.h"
#include "parallel/host_group.h"
#include "report/messages.h"

namespace tessera {

/// A tuning table as the text of tuning.json: the device, then each op with what was chosen and the seconds of every candidate.
std::string tuning_text(const TuningTable& table, const DeviceTraits& device);
/// DataError naming `where` and the place when the text is no tuning table.
TuningTable read_tuning(const std::string& text, const std::string& where);
/// Whether the table of this text was measured on such a device, with as many threads.
bool is_tuning_of(const std::string& text, const DeviceTraits& device);

/// Makes every rank's device compute the ops of `trace` alike, as train.tuning says. Those that `saved` (the text of an earlier tuning.json
/// of the run, or nothing) does not know are timed by the lowest rank that runs them. The table is the same on every rank. Collective;
/// the device has memory, of which nothing is taken. Messages, on rank 0 only: tables of other devices, ops that are unknown here.
TuningTable tune(const ResolvedRun& run, const Trace& trace, const std::string& saved, Device& device, HostGroup& host, Messages& messages);

}  // namespace tessera
