#include "engine/training_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/config.h"
#include "base/error.h"
#include "base/system_memory.h"
#include "base/units.h"
#include "engine/accounts.h"
#include "engine/checkpoint.h"
#include "engine/checkpoint_ranges.h"
#include "engine/dry_run.h"
#include "engine/shared_memory.h"
#include "engine/tuning.h"
#include "parallel/nccl_group.h"
#include "report/json_file.h"
#include "report/live_line.h"
#include "report/metrics.h"
#include "report/run_report.h"

namespace tessera {

namespace {

/// The loop of one rank and what it knows between steps.
class TrainingRun {
 public:
  TrainingRun(const ResolvedRun& run, const RunData& data, const TrainingOptions& options, HostGroup& host, Messages& messages,
              SignalWatch* signals);
  TrainingResult run();

 private:
  struct Finished {  // a step whose control has not been read yet
    double seconds = 0;
    std::optional<float> val_loss;
  };
  struct MemorySample {  // of the whole process
    int64_t resident_bytes = 0, heap_bytes = 0;
  };

  bool leads() const { return host_.rank() == 0; }
  std::string saved_tuning() const;
  StepControl read_control(int64_t step);
  void start_or_resume();
  void resume(const CheckpointState& state);
  void carry_on_metrics();
  void choose_steps_by_time();
  void write_config() const;
  void settle(int64_t step);
  void settle_until(int64_t step) {
    while (settled_ < step) settle(settled_);
  }
  void log(int64_t step, const StepControl& control, const Finished& finished);
  std::optional<float> evaluate();
  void save();
  void write_report();
  int64_t sample_memory();
  bool has_report() const;
  std::string step_text() const { return fmt::format("{} of {}", step_, run_.config.train.steps); }
  MemoryTable gather_memory();
  std::string own_gpu_memory();
  std::optional<Waterfall> gather_waterfall();
  int64_t eval_batches() const;

  ResolvedRun run_;
  const RunData& data_;
  const TrainingOptions& options_;
  HostGroup& host_;
  Messages& messages_;
  SignalWatch* signals_;
  RunFiles files_;
  DryRun dry_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<HostGroup> nccl_;  // nullptr: host_'s own communicators
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<Trainer> trainer_;
  CheckpointStore store_;
  std::unique_ptr<MetricsLog> metrics_;
  double peak_flops_ = 0;
  std::string peak_name_;
  TuningTable tuning_;
  MemorySample before_arena_, peak_memory_;
  int64_t library_bytes_ = 0, reserved_bytes_ = 0;  // of a GPU, seen from outside: for libraries, for the arenas of its ranks
  int64_t step_ = 0;                                // the next step
  int64_t first_ = 0;                               // of this process
  int64_t settled_ = 0;                             // steps whose control the host has read
  int64_t saved_ = -1;
  int64_t stop_at_ = std::numeric_limits<int64_t>::max();  // the step that a stop vote keeps from running
  std::map<int64_t, Finished> finished_;
  std::optional<float> first_loss_, last_loss_, val_loss_;
  int64_t timed_steps_ = 0;
  double timed_seconds_ = 0, save_seconds_ = 0;  // of the timed steps, and of saves between them
  double waited_seconds_ = 0;                    // in the step that runs, for the device to come so far
};

/// The first steps of a process are left out of averages: pages are touched and caches filled for the first time.
constexpr int64_t untimed_steps = 2;

/// What an MFU divides by, and where it is from.
struct Peak {
  double flops_per_second = 0;
  std::string name;
};

/// The manufacturer's figure where it is known. Else a matmul's, on a device of its own, whose memory is gone when the run's is taken.
Peak peak_of(const ResolvedRun& run, const DeviceTraits& traits, int rank) {
  const DType compute = run.precision.compute;
  if (const auto nominal = nominal_peak_flops(traits.name, compute)) {
    return {*nominal, fmt::format("nominal, {}, dense {}", traits.name, name_of(compute))};
  }
  const auto device = Device::real(traits.kind, rank, run.threads);
  device->reserve(device->workspace_size());
  const std::string where = traits.gpu >= 0 ? traits.name : fmt::format("{} thread{}", run.threads, run.threads == 1 ? "" : "s");
  return {measured_matmul_flops_per_second(*device, compute), fmt::format("measured by a matmul, {}, {}", name_of(compute), where)};
}

TrainingRun::TrainingRun(const ResolvedRun& run, const RunData& data, const TrainingOptions& options, HostGroup& host, Messages& messages,
                         SignalWatch* signals)
    : run_(run),
      data_(data),
      options_(options),
      host_(host),
      messages_(messages),
      signals_(signals),
      files_(options.run_dir),
      store_(files_.checkpoints, run.config.checkpoint.keep, host, host.rank() == 0 ? &messages : nullptr) {
  device_ = Device::real(options.device, host.rank(), run.threads);
  nccl_ = make_nccl_group(host, device_->traits().gpu, communicator_of(run.config.parallel.communicator));
  dry_ = dry_run(run, host.rank(), device_->traits(), true);
  expect_all_fit(dry_, *device_, host);  // nobody allocates before everybody has looked
  // All ranks at once, as in a step: ranks that share cores share the peak.
  const Peak peak = peak_of(run, device_->traits(), host.rank());
  peak_name_ = peak.name;
  for (const std::string& flops : host.gather(fmt::format("{}", peak.flops_per_second))) peak_flops_ += std::stod(flops) / host.size();
  mesh_ = std::make_unique<Mesh>(run.layout, nccl_ ? *nccl_ : host);  // its libraries' memory counts as theirs
  before_arena_ = {resident_memory_bytes(), heap_bytes()};
  host.barrier();  // nobody reserves before everybody has looked
  if (const auto in_use = device_->memory_in_use()) library_bytes_ = in_use->used_bytes - in_use->context_bytes;
  host.barrier();
  device_->reserve(dry_.size);
  host.barrier();
  if (const auto in_use = device_->memory_in_use()) reserved_bytes_ = in_use->used_bytes - in_use->context_bytes - library_bytes_;
  tuning_ = tune(run, dry_.trace, saved_tuning(), *device_, host, messages);
  dry_.trace = {};
  trainer_ = std::make_unique<Trainer>(run, *device_, *mesh_);
}

/// Resuming keeps the choices with which the run began.
std::string TrainingRun::saved_tuning() const {
  return options_.resume && leads() && std::filesystem::exists(files_.tuning) ? read_text_file(files_.tuning) : std::string();
}

void TrainingRun::start_or_resume() {
  std::optional<CheckpointState> state;
  if (options_.resume) state = store_.newest();
  if (state) {
    resume(*state);
  } else {
    if (options_.resume && leads()) messages_.notice(fmt::format("no checkpoint in {}, starting at step 1", files_.checkpoints.string()));
    trainer_->initialize();
    if (run_.config.train.minutes > 0) choose_steps_by_time();
    if (signals_ && leads()) signals_->begin(0, run_.config.train.steps);
  }
  sample_memory();
  first_ = step_;
  if (!leads()) return;
  write_config();
  carry_on_metrics();
}

void TrainingRun::resume(const CheckpointState& state) {
  const std::string where = (files_.checkpoints / fmt::format("{:08}", state.step)).string();
  expect_same_run(state.config, run_, where);
  if (state.data != data_.fingerprint) {
    throw ConfigError({fmt::format("{} holds other tokens than the run was trained on", run_.config.data.path), where,
                       "data.path of the same token file, wherever it lies now", "another --run-dir starts another run"});
  }
  const TrainConfig& train = run_.config.train;
  if (train.minutes > 0 || train.steps < state.step) {
    throw ConfigError({train.minutes > 0 ? std::string("train.minutes sets the length of a new run only")
                                         : fmt::format("train.steps = {}, but the run has done {} steps", train.steps, state.step),
                       where,
                       fmt::format("train.steps of {} or more", state.step),
                       {}});
  }
  if (signals_ && leads()) signals_->begin(state.step, train.steps);
  store_.load(state.step, ranges_to_load(*trainer_), *device_, LoadWhat::Whole);
  const LossScaling scaling = run_.loss_scaling();
  StepControl control{.step = state.step,
                      .applied_steps = state.applied_steps,
                      .skipped_in_a_row = state.skipped_in_a_row,
                      .loss_scale = scaling.initial,
                      .overflows_left = scaling.hysteresis};
  if (keeps_loss_scale(state.config, run_)) {
    control.loss_scale = static_cast<float>(state.loss_scale);
    control.good_steps = static_cast<int32_t>(state.good_steps);
    control.overflows_left = static_cast<int32_t>(state.overflows_left);
  }
  trainer_->restore(control, state.samples);
  step_ = settled_ = saved_ = state.step;
  if (leads()) messages_.notice(fmt::format("resumed from step {}", state.step));
}

/// Lines behind the checkpoint are dropped; the report goes on with the losses of those before it.
void TrainingRun::carry_on_metrics() {
  metrics_ = std::make_unique<MetricsLog>(files_.metrics);
  metrics_->truncate_after(step_);
  for (const StepMetrics& metrics : MetricsLog::read(files_.metrics)) {
    if (metrics.step == 1) first_loss_ = metrics.loss;
    last_loss_ = metrics.loss;
    if (metrics.val_loss) val_loss_ = metrics.val_loss;
  }
}

/// Steps for the time budget, from a rate measured on the first batches; then everything starts anew.
void TrainingRun::choose_steps_by_time() {
  constexpr double measured_seconds = 3;
  double seconds = 0;
  int64_t timed_steps = 0;
  for (int64_t i = 0; i < untimed_steps + 2 || (seconds < measured_seconds && i < 1000); i++) {
    const double start = steady_seconds();
    trainer_->train_step(i, data_.training.get(), false);
    trainer_->control(i);
    if (i >= untimed_steps) seconds += steady_seconds() - start, timed_steps++;
    seconds = std::stod(host_.broadcast(fmt::format("{}", seconds)));  // rank 0's clock decides for all
  }
  double evaluation = steady_seconds();
  evaluate();
  evaluation = steady_seconds() - evaluation;
  // Eleven evaluations at most: one every tenth of the run, one at its end.
  const double budget = std::max(0.0, run_.config.train.minutes * 60 - 11 * evaluation);
  const int64_t steps = std::max<int64_t>(1, static_cast<int64_t>(budget * static_cast<double>(timed_steps) / seconds));
  run_.set_steps(std::stoll(host_.broadcast(std::to_string(steps))));
  trainer_->set_steps(run_.config.train.steps);
  trainer_->initialize();
  device_->compute().profile() = {};
  val_loss_.reset();
}

void TrainingRun::write_config() const {
  std::error_code failed;
  std::filesystem::create_directories(options_.run_dir, failed);
  if (failed)
    throw DataError({fmt::format("{} cannot be made: {}", options_.run_dir.string(), failed.message()), options_.run_dir.string(), {}, {}});
  write_text_atomically(files_.config, write_toml(run_.config));
  if (!tuning_.empty()) write_text_atomically(files_.tuning, tuning_text(tuning_));
}

int64_t TrainingRun::eval_batches() const {
  return data_.validation ? std::clamp<int64_t>(data_.validation_samples / run_.layout.batch_size, 1, run_.config.train.eval_batches) : 0;
}

std::optional<float> TrainingRun::evaluate() {
  if (eval_batches() == 0) return std::nullopt;
  const Profile steps_only = device_->compute().profile();
  val_loss_ = static_cast<float>(trainer_->evaluate(data_.validation.get(), eval_batches()));
  device_->compute().profile() = steps_only;  // the waterfall is that of a step
  return val_loss_;
}

TrainingResult TrainingRun::run() {
  start_or_resume();
  device_->compute().profile() = {};
  while (step_ < run_.config.train.steps) {
    waited_seconds_ = 0;
    if (step_ - 2 >= settled_) settle(step_ - 2);  // the fixed point at which the host reads: all ranks decide alike
    if (step_ >= stop_at_) break;                  // a save may have read the vote before
    if (step_ == first_ + untimed_steps) device_->compute().profile() = {}, timed_steps_ = 0, timed_seconds_ = save_seconds_ = 0;
    const bool vote = signals_ && leads() && signals_->vote(step_);
    const double start = steady_seconds();
    trainer_->train_step(step_, data_.training.get(), vote);
    double seconds = steady_seconds() - start;
    Finished& finished = finished_[step_++];
    const bool last = step_ == run_.config.train.steps, evaluates = last || step_ % run_.config.train.eval_every == 0;
    const int64_t every = run_.config.checkpoint.every_steps;
    const bool saves = !last && every != 0 && step_ % every == 0;
    if (evaluates || saves) read_control(step_ - 1);  // what a queue has left of the step belongs to it
    seconds += waited_seconds_;
    timed_steps_++, timed_seconds_ += seconds;
    finished.seconds = seconds;
    if (evaluates) finished.val_loss = evaluate();
    if (saves) {
      const double save_start = steady_seconds();
      save();
      save_seconds_ += steady_seconds() - save_start;
    }
  }
  settle_until(step_);
  if (saved_ != step_) save();
  write_report();
  return {step_, run_.config.train.steps};
}

/// Where ops are enqueued, the host spends most of a step here: waiting for the step before the last.
StepControl TrainingRun::read_control(int64_t step) {
  const double start = steady_seconds();
  const StepControl control = trainer_->control(step);
  waited_seconds_ += steady_seconds() - start;
  return control;
}

void TrainingRun::settle(int64_t step) {
  const StepControl control = read_control(step);
  settled_ = step + 1;
  if (control.stop_votes > 0) stop_at_ = std::min(stop_at_, step + 2);
  if (leads()) log(step, control, finished_[step]);
  finished_.erase(step);
  if (control.skipped_in_a_row >= run_.config.train.max_skipped_steps) {
    const bool scaled = run_.precision.compute == DType::f16;  // a resumed run takes its scale from the checkpoint
    throw DataError(
        {fmt::format("{} steps in a row were not finite and were skipped, the last of them step {}", control.skipped_in_a_row, step + 1),
         options_.run_dir.string(),
         {},
         saved_ > 0 ? fmt::format("the last checkpoint is that of step {}; resume with a lower optimizer.learning_rate", saved_)
                    : fmt::format("lower optimizer.learning_rate{} or raise optimizer.warmup_steps",
                                  scaled ? ", lower precision.loss_scale" : "")});
  }
}

void TrainingRun::log(int64_t step, const StepControl& control, const Finished& finished) {
  const float loss = static_cast<float>(control.loss_sum / static_cast<double>(run_.tokens_per_step()));
  if (!first_loss_) first_loss_ = loss;
  last_loss_ = loss;
  UtilizationInput input = utilization_input(run_);
  input.seconds = finished.seconds, input.peak_flops = peak_flops_;
  const UtilizationReceipt receipt = utilization(*convention_of(run_.config.log.convention), input);
  StepMetrics metrics{.step = step + 1,
                      .loss = loss,
                      .lr = static_cast<float>(learning_rate(run_.learning_rate(), step)),
                      .grad_norm = static_cast<float>(control.gradient_norm),
                      .tokens = (step + 1) * run_.tokens_per_step(),
                      .step_seconds = static_cast<float>(finished.seconds),
                      .tokens_per_second = static_cast<float>(static_cast<double>(run_.tokens_per_step()) / finished.seconds),
                      .mfu = static_cast<float>(receipt.mfu().value_or(0)),
                      .hfu = static_cast<float>(receipt.hfu().value_or(0)),
                      .loss_scale = control.clip_scale / control.gradient_factor,  // that of the step itself
                      .val_loss = finished.val_loss,
                      .skipped = control.skip != 0};
  metrics_->append(metrics);
  const double mean_seconds = timed_seconds_ / static_cast<double>(std::max<int64_t>(1, timed_steps_));
  input.seconds = mean_seconds;
  messages_.live(format_live_line({.step = step + 1,
                                   .steps = run_.config.train.steps,
                                   .loss = loss,
                                   .grad_norm = metrics.grad_norm,
                                   .lr = metrics.lr,
                                   .val_loss = finished.val_loss,
                                   .skipped = metrics.skipped,
                                   .step_seconds = mean_seconds,
                                   .tokens_per_second = static_cast<double>(run_.tokens_per_step()) / mean_seconds,
                                   .mfu = utilization(*convention_of(run_.config.log.convention), input).mfu(),
                                   .convention = run_.config.log.convention,
                                   .memory_bytes = sample_memory(),
                                   .capacity_bytes = device_->traits().memory_bytes,
                                   .seconds_left = mean_seconds * static_cast<double>(run_.config.train.steps - step - 1)}));
}

void TrainingRun::save() {
  settle_until(step_);
  const StepControl control = trainer_->control(step_ - 1);
  const double start = steady_seconds();
  store_.save({.step = step_,
               .applied_steps = control.applied_steps,
               .skipped_in_a_row = control.skipped_in_a_row,
               .seed = run_.config.train.seed,
               .samples = trainer_->samples(),
               .loss_scale = control.loss_scale,
               .good_steps = control.good_steps,
               .overflows_left = control.overflows_left,
               .config = write_toml(run_.config),
               .data = data_.fingerprint},
              ranges_to_save(*trainer_), *device_);
  saved_ = step_;
  sample_memory();
  if (leads()) {
    messages_.notice(fmt::format("{} | {} in {}", format_step("saved", step_, run_.config.train.steps),
                                 (files_.checkpoints / fmt::format("{:08}", step_)).string(), format_seconds(steady_seconds() - start)));
  }
}

/// Resident bytes now, or those in use of a GPU. Called wherever they may have grown: the largest sample is the report's peak.
int64_t TrainingRun::sample_memory() {
  const MemorySample now{resident_memory_bytes(), heap_bytes()};
  if (now.resident_bytes > peak_memory_.resident_bytes) peak_memory_ = now;
  const auto in_use = device_->memory_in_use();
  return in_use ? in_use->used_bytes : now.resident_bytes;
}

/// Dry run and arena of every rank, and the process from outside; on rank 0.
MemoryTable TrainingRun::gather_memory() {
  sample_memory();  // before the gather: no rank has given its arena back yet
  MemoryTable own;
  add_memory_rows(own, host_.rank(), dry_.use, &MemoryRow::dry_run_bytes);
  add_memory_rows(own, host_.rank(), device_->arena().use(), &MemoryRow::measured_bytes);
  Json rows = Json::array();
  for (const MemoryRow& row : own.rows()) rows.push_back(row);
  MemoryTable table = options_.predicted;
  for (const std::string& text : host_.gather(rows.dump())) {
    for (const Json& row : Json::parse(text)) table.add(row.get<MemoryRow>());
  }
  ProcessMemory process{.source = "RssAnon + RssShmem",
                        .ranks = table.ranks(),
                        .start_bytes = options_.start_bytes,
                        .peak_bytes = peak_memory_.resident_bytes};
  process.remainder = {{"libraries and start-up", before_arena_.resident_bytes - options_.start_bytes},
                       {"allocator since then", peak_memory_.heap_bytes - before_arena_.heap_bytes}};
  for (int space = 0; space < memory_spaces; space++) {
    if (static_cast<MemorySpace>(space) == MemorySpace::Device && !device_->traits().host_memory) continue;
    process.explained_bytes += table.total(process.ranks, static_cast<MemorySpace>(space), &MemoryRow::measured_bytes).value_or(0);
  }
  table.add(std::move(process));
  for (const std::string& text : host_.gather(own_gpu_memory())) {
    if (text.empty()) continue;
    ProcessMemory gpu = Json::parse(text).get<ProcessMemory>();
    complete_gpu_memory(gpu, table);
    table.add(std::move(gpu));
  }
  return table;
}

/// The GPU from outside, told by the lowest of the ranks that share it; nothing of other ranks and of devices in the process's memory.
std::string TrainingRun::own_gpu_memory() {
  const std::vector<int> ranks = ranks_beside(*device_, host_);
  const auto in_use = device_->memory_in_use();
  if (!in_use || ranks.front() != host_.rank()) return {};
  return Json(gpu_memory(*in_use, ranks, library_bytes_, reserved_bytes_)).dump();
}

/// The mean step of this process, over all ranks; no value when none was timed.
std::optional<Waterfall> TrainingRun::gather_waterfall() {
  if (timed_steps_ == 0) return std::nullopt;
  const Waterfall own = waterfall_of(device_->compute().profile(), timed_steps_, timed_seconds_, save_seconds_);
  std::vector<Waterfall> ranks;
  for (const std::string& text : host_.gather(Json(own).dump())) ranks.push_back(Json::parse(text).get<Waterfall>());
  return mean_of(ranks);
}

/// Whether a report of this very step stands there already: a process that is killed behind its last save leaves none, or an older one.
bool TrainingRun::has_report() const {
  try {
    const RunReport report = read_run_report(files_.report);
    return std::ranges::find(report.config, std::pair<std::string, std::string>("steps", step_text())) != report.config.end();
  } catch (const DataError&) {
    return false;
  }
}

void TrainingRun::write_report() {
  const MemoryTable memory = gather_memory();
  const std::optional<Waterfall> waterfall = gather_waterfall();
  if (!leads()) return;
  messages_.end_live();
  if (step_ == first_) {
    messages_.notice(fmt::format("nothing was left to do: {}; --set train.steps=N makes the run longer", step_text()));
    if (has_report()) return;  // by the process that did the steps, with its times
  }
  RunReport report;
  const bool finished = step_ >= run_.config.train.steps;
  report.config = {
      {"model", fmt::format("{} {} layers, hidden {}, {} heads, vocabulary {}, {} parameters", run_.model.architecture, run_.model.layers,
                            run_.model.hidden, run_.model.heads, run_.model.vocab, utilization_input(run_).parameters)},
      {"layout", fmt::format("pp {} x dp {}, ZeRO-{}, {}, {} thread{} a rank", run_.layout.degree(Axis::Pp), run_.layout.degree(Axis::Dp),
                             run_.layout.zero, run_.layout.schedule, run_.threads, run_.threads == 1 ? "" : "s")},
      {"batch", fmt::format("{} sequences of {} tokens, {} micro-batches of {}", run_.layout.batch_size, run_.micro_batch.T,
                            run_.layout.micro_batches(), run_.micro_batch.B)},
      {"steps", step_text()},
      {"finished", finished ? "yes" : "no"}};
  report.first_loss = first_loss_, report.last_loss = last_loss_, report.val_loss = val_loss_;
  report.memory = memory;
  report.waterfall = waterfall;
  if (timed_steps_ > 0) {
    UtilizationInput input = utilization_input(run_);
    input.seconds = timed_seconds_ / static_cast<double>(timed_steps_);
    input.peak_flops = peak_flops_;
    input.peak_name = peak_name_;
    const Convention quoted = *convention_of(run_.config.log.convention);
    report.utilization.push_back(utilization(quoted, input));
    for (int c = 0; c < conventions; c++) {
      if (static_cast<Convention>(c) != quoted) report.utilization.push_back(utilization(static_cast<Convention>(c), input));
    }
  }
  write_run_report(files_.report, report);
}

}  // namespace

TrainingResult run_training(const ResolvedRun& run, const RunData& data, const TrainingOptions& options, HostGroup& host,
                            Messages& messages, SignalWatch* signals) {
  return TrainingRun(run, data, options, host, messages, signals).run();
}

}  // namespace tessera
