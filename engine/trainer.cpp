// N = B T rows of a micro-batch   H hidden   V vocabulary
#include "engine/trainer.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/convert.h"
#include "base/error.h"
#include "model/decls.h"
#include "model/rotary.h"

namespace tessera {

static ShardMap make_map(const ResolvedRun& run, const std::vector<UnitDecls>& units) {
  return ShardMap(units, run.layout.degree(Axis::Dp), run.precision, Optimizer::grain, run.layout.degree(Axis::Pp) > 1);
}

static Program lower_for(const Mesh& mesh, bool evaluation) {
  const Layout& layout = mesh.layout();
  const Placement placement = one_chunk_per_rank(layout.degree(Axis::Pp));
  const int micro_batches = static_cast<int>(layout.micro_batches());
  return lower(evaluation ? forward_only(placement, micro_batches) : make_schedule(layout.schedule, placement, micro_batches), placement,
               mesh.coordinate(Axis::Pp));
}

Trainer::Trainer(const ResolvedRun& run, Device& device, Mesh& mesh)
    : run_(run),
      device_(device),
      mesh_(mesh),
      units_(declare_model(run.model)),
      map_(make_map(run, units_)),
      stage_(run.model, units_, stage_range(run.model, mesh.coordinate(Axis::Pp), run.layout.degree(Axis::Pp)), run.micro_batch),
      params_(map_, run.precision, static_cast<uint64_t>(run.config.train.seed), stage_.range().first_unit(), stage_.range().last_unit(),
              mesh, device),
      optimizer_(run.optimizer(), params_, device),
      program_(lower_for(mesh, false)),
      evaluation_(lower_for(mesh, true)),
      transfers_(transfers_of(program_)),
      evaluation_transfers_(transfers_of(evaluation_)),
      slots_(device.arena(), program_.slots_of_chunk[mesh.coordinate(Axis::Pp)], stage_.slot_bytes(), MemoryCategory::Activations),
      data_(run.micro_batch, stage_.range().first, stage_.range().last, mesh, device) {
  const Shape hidden{run.micro_batch.rows(), run.model.hidden};  // [N, H]
  const auto ring = [&](int Program::*entries) {
    return Ring(device.arena(), std::max(program_.*entries, evaluation_.*entries), run.precision.compute, hidden,
                MemoryCategory::CommBuffers);
  };
  act_in_ = ring(&Program::act_ring), act_out_ = ring(&Program::send_act_ring);
  grad_in_ = ring(&Program::grad_ring), grad_out_ = ring(&Program::send_grad_ring);
  mesh.progress_on(device.compute());  // transfers move between ops, not only inside waits
  act_ready_.resize(act_in_.count());
  grad_ready_.resize(grad_in_.count());

  const int64_t control_bytes = sizeof(StepControl), partial_bytes = sizeof(StepPartial);
  partials_ = device.arena().permanent(DType::u8, {mesh.world().size() * partial_bytes}, MemoryCategory::CommBuffers);
  control_ = device.arena().permanent(DType::u8, {control_bytes}, MemoryCategory::CommBuffers);
  published_ = Ring(device.arena(), 3, DType::u8, {control_bytes}, MemoryCategory::CommBuffers, MemorySpace::PinnedHost);
  publications_.resize(published_.count());
  if (stage_.range().last) logits_ = device.arena().permanent(run.precision.compute, {1, run.model.vocab}, MemoryCategory::Data);
  rotary_ = make_rotary_table(run.model, run.micro_batch.T, device);
}

std::vector<Trainer::Transfer> Trainer::transfers_of(const Program& program) {
  std::vector<Transfer> transfers(program.actions.size());
  std::map<std::tuple<ActionKind, int, int>, int> entries;  // ring entry of each send and receive
  for (const Action& action : program.actions) entries[{action.kind, action.chunk, action.microbatch}] = action.slot;
  const auto entry = [&](ActionKind kind, const Action& compute) {
    const auto found = entries.find({kind, compute.chunk, compute.microbatch});
    return found == entries.end() ? -1 : found->second;
  };
  for (size_t i = 0; i < transfers.size(); i++) {
    const Action& action = program.actions[i];
    if (action.kind == ActionKind::Forward) transfers[i] = {entry(ActionKind::RecvAct, action), entry(ActionKind::SendAct, action)};
    if (action.kind == ActionKind::Backward) transfers[i] = {entry(ActionKind::RecvGrad, action), entry(ActionKind::SendGrad, action)};
  }
  return transfers;
}

void Trainer::initialize() {
  params_.initialize(device_);
  for (size_t b = 0; b < params_.buckets().size(); b++) {
    for (size_t s = 0; s < optimizer_.states().size(); s++) device_.elementwise().zero(optimizer_.state(b, s), device_.compute());
  }
  const LossScaling scaling = run_.loss_scaling();
  restore({.loss_scale = scaling.initial, .overflows_left = scaling.hysteresis}, 0);
}

void Trainer::restore(const StepControl& control, int64_t samples) {
  device_.write(control_, &control, sizeof control);
  samples_ = samples;
  params_.derive_weights(device_.compute());
}

StepPartial* Trainer::own_partial() const { return static_cast<StepPartial*>(partials_.data) + mesh_.rank(); }

void Trainer::train_step(int64_t step, const BatchSource* data, bool stop_vote) {
  Stream& stream = device_.compute();
  step_ = step;
  stream.set_phase(Phase::Data);
  data_.load(data, samples_, stream);
  samples_ += run_.layout.batch_size;
  device_.update().begin_step(own_partial(), stop_vote ? 1 : 0, stream);
  stream.set_place(-1, -1);
  run_program(program_, transfers_, Mode::Train);  // forward, backward, send, receive, reduce: the schedule is data
  stream.set_phase(Phase::Update);
  params_.add_norm(own_partial(), control(), stream);
  stream.set_place(-1, -1);
  gather_partials();
  // Exact norm, clip scale, skip flag, stop votes: all ranks alike.
  device_.update().agree_step(static_cast<StepControl*>(control_.data), static_cast<const StepPartial*>(partials_.data),
                              mesh_.world().size(), static_cast<float>(run_.config.train.clip), run_.loss_scaling(), stream);
  optimizer_.update(learning_rate(run_.learning_rate(), step), step, control(), stream);
  params_.gather_weights(stream);
  stream.set_place(-1, -1);
  device_.elementwise().copy(published_[step], control_, stream);  // read by the host two steps later: nobody waits
  publications_[step % published_.count()] = stream.record();
}

/// Replicas draw different numbers for the same micro-batch.
PassContext Trainer::pass(int micro_batch) {
  const int64_t of_replica = step_ * run_.layout.micro_batches() + micro_batch;
  const int64_t number = of_replica * run_.layout.degree(Axis::Dp) + mesh_.coordinate(Axis::Dp);
  return {device_, device_.compute(), run_.micro_batch, control(), rotary_, static_cast<uint64_t>(number)};
}

void Trainer::gather_partials() {
  Stream& stream = device_.compute();
  Comm& world = mesh_.world();
  std::vector<int64_t> bounds(world.size() + 1);
  for (int r = 0; r <= world.size(); r++) bounds[r] = r * static_cast<int64_t>(sizeof(StepPartial));
  stream.wait(world.all_gather(partials_, bounds, stream), world.reason());
}

StepControl Trainer::control(int64_t step) const {
  StepControl copy;
  device_.read_pinned(&copy, published_[step], sizeof copy, publications_[step % published_.count()]);
  return copy;
}

void Trainer::run_program(const Program& program, const std::vector<Transfer>& transfers, Mode mode) {
  Stream& stream = device_.compute();
  for (size_t i = 0; i < program.actions.size(); i++) {
    const Action& action = program.actions[i];
    stream.set_place(static_cast<int32_t>(i), -1);
    switch (action.kind) {
      case ActionKind::Forward:
        forward(action, transfers[i], mode);
        break;
      case ActionKind::Backward:
        backward(action, transfers[i]);
        break;
      case ActionKind::SendAct:
        send(action, act_out_, mesh_.pipe_forward());
        break;
      case ActionKind::RecvAct:
        receive(action, act_in_, act_ready_, mesh_.pipe_forward());
        break;
      case ActionKind::SendGrad:
        send(action, grad_out_, mesh_.pipe_backward());
        break;
      case ActionKind::RecvGrad:
        receive(action, grad_in_, grad_ready_, mesh_.pipe_backward());
        break;
      case ActionKind::ReduceChunk:
        stream.set_phase(Phase::Exchange);
        params_.reduce(stream);
        break;
    }
  }
  stream.set_place(-1, -1);
}

void Trainer::forward(const Action& action, Transfer transfer, Mode mode) {
  Stream& stream = device_.compute();
  stream.set_phase(mode == Mode::Train ? Phase::Forward : Phase::Evaluate);
  StageInput input = data_.micro_batch(action.microbatch);
  input.partial = own_partial();
  if (transfer.receive >= 0) {
    stream.wait(act_ready_[transfer.receive], WaitReason::Pp);
    input.received = act_in_[transfer.receive];
  }
  if (transfer.send >= 0) {
    stream.wait(act_out_.free(transfer.send), WaitReason::Pp);
    input.to_send = act_out_[transfer.send];
  }
  PassContext context = pass(action.microbatch);
  stage_.forward(input, slots_, action.slot, params_, context);
  if (mode == Mode::Evaluate && stage_.range().last) stage_.loss(input, slots_, action.slot, params_, context);
}

void Trainer::backward(const Action& action, Transfer transfer) {
  Stream& stream = device_.compute();
  stream.set_phase(Phase::Backward);
  StageInput input = data_.micro_batch(action.microbatch);
  input.partial = own_partial();
  input.token_weight = 1.0f / static_cast<float>(run_.tokens_per_step());
  if (transfer.receive >= 0) {
    stream.wait(grad_ready_[transfer.receive], WaitReason::Pp);
    input.received = grad_in_[transfer.receive];
  }
  if (transfer.send >= 0) {
    stream.wait(grad_out_.free(transfer.send), WaitReason::Pp);
    input.to_send = grad_out_[transfer.send];
  }
  PassContext context = pass(action.microbatch);
  context.first = action.first;
  stage_.backward(input, slots_, action.slot, params_, context);
}

void Trainer::send(const Action& action, Ring& ring, Comm& pipe) {
  const P2p transfer{P2p::Kind::Send, ring[action.slot], action.peer};
  ring.free(action.slot) = pipe.p2p({&transfer, 1}, device_.compute());
}

void Trainer::receive(const Action& action, Ring& ring, std::vector<Event>& ready, Comm& pipe) {
  const P2p transfer{P2p::Kind::Receive, ring[action.slot], action.peer};
  ready[action.slot] = pipe.p2p({&transfer, 1}, device_.compute());
}

double Trainer::evaluate(const BatchSource* data, int64_t batches) {
  Stream& stream = device_.compute();
  std::vector<StepPartial> partials(mesh_.world().size());
  double sum = 0;
  for (int64_t batch = 0; batch < batches; batch++) {
    stream.set_phase(Phase::Evaluate);
    data_.load(data, batch * run_.layout.batch_size, stream);
    device_.update().begin_step(own_partial(), 0, stream);
    run_program(evaluation_, evaluation_transfers_, Mode::Evaluate);
    gather_partials();
    device_.read(partials.data(), partials_, partials_.bytes());
    for (const StepPartial& partial : partials) sum += partial.loss_sum;
  }
  return sum / static_cast<double>(batches * run_.tokens_per_step());
}

std::vector<float> Trainer::next_logits(std::span<const int32_t> tokens) {
  invariant(stage_.range().first && stage_.range().last, "next_logits needs the whole model on one rank");
  invariant(!tokens.empty() && static_cast<int64_t>(tokens.size()) <= run_.micro_batch.T, "next_logits takes 1 to T tokens");
  std::vector<int32_t> padded(run_.micro_batch.rows(), tokens.back());  // causal: what stands behind the last token changes nothing
  std::copy(tokens.begin(), tokens.end(), padded.begin());
  data_.set_tokens(padded);
  device_.compute().set_phase(Phase::Evaluate);
  PassContext context = pass(0);
  StageInput input = data_.micro_batch(0);
  stage_.forward(input, slots_, 0, params_, context);
  stage_.logits(logits_, static_cast<int64_t>(tokens.size()) - 1, slots_, 0, params_, context);
  std::vector<std::byte> stored(static_cast<size_t>(logits_.bytes()));
  device_.read(stored.data(), logits_, logits_.bytes());
  std::vector<float> logits(run_.model.vocab);
  convert(logits.data(), DType::f32, stored.data(), logits_.dtype, run_.model.vocab);
  return logits;
}

}  // namespace tessera
