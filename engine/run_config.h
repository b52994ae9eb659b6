#pragma once
#include <string>
#include <vector>

#include "base/config.h"
#include "base/precision.h"
#include "model/spec.h"
#include "optim/learning_rate.h"
#include "optim/optimizer.h"
#include "parallel/layout.h"

namespace tessera {

/// Upper bounds, beyond anything that runs, and low enough that the products of a few of them fit 64 bits; a model's own are in model/spec.h.
constexpr int64_t most_ranks = 1 << 20, most_threads = 1024, most_sequences = 1 << 24, most_steps = 1'000'000'000'000;

struct ModelConfig {
  std::string preset, architecture = "gpt2";
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0, context = 0;
  bool tied = true;
  double norm_epsilon = 1e-5, init_std = 0.02, rope_theta = 10000;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("preset", self.preset, any(), "a published model (tessera info lists them); the other keys of this table override it");
    visit("architecture", self.architecture, one_of({"gpt2", "llama"}),
          "gpt2: LayerNorm, learned positions, GELU, biases; llama: RMSNorm, rotary positions, SwiGLU, no biases");
    visit("layers", self.layers, between(0, most_layers), "blocks; 0: the preset's");
    visit("hidden", self.hidden, between(0, most_width), "width of the residual stream; 0: the preset's");
    visit("heads", self.heads, between(0, most_width), "attention heads; 0: the preset's");
    visit("kv_heads", self.kv_heads, between(0, most_width), "key/value heads (llama); 0: the preset's, else one for each head");
    visit("head_dim", self.head_dim, between(0, most_head_dim), "width of a head; 0: hidden / heads");
    visit("ffn", self.ffn, between(0, 4 * most_width),
          "width inside the MLP; 0: the preset's, else 4 x hidden (gpt2), 8/3 x hidden rounded up to a multiple of 256 (llama)");
    visit("vocab", self.vocab, between(0, most_vocab), "vocabulary; 0: the preset's, else the tokenizer's");
    visit("context", self.context, between(0, most_context), "the most positions of a sequence; 0: the preset's, else train.sequence");
    visit("tied", self.tied, any(), "the head repeats the token embedding");
    visit("norm_epsilon", self.norm_epsilon, between(1e-30, 1), "added to the variance in norms");
    visit("init_std", self.init_std, at_least(0), "standard deviation of initial weights; residual projections: / sqrt(2 layers)");
    visit("rope_theta", self.rope_theta, positive(), "base of the rotary positions' wavelengths (llama)");
  }
};

struct DataConfig {
  std::string path, tokenizer;
  std::vector<std::string> paths;
  std::vector<double> weights;
  double validation_fraction = 0.05;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("path", self.path, any(),
          "token file: the PREFIX of PREFIX.bin and PREFIX.idx (`tessera tokenize encode`, Megatron), or a .bin of llm.c or nanoGPT; a "
          "pattern, "
          "shards_*.bin, joins what it matches");
    visit("paths", self.paths, any(), "several data sets in place of data.path, each as there");
    visit("weights", self.weights, positive(), "of each of data.paths: its share of the samples, in any unit");
    visit("tokenizer", self.tokenizer, any(), "SentencePiece model, for sampling and the vocabulary's size");
    visit("validation_fraction", self.validation_fraction, half_open(0, 1), "share of each data set, at its end, that is held out");
  }
};

struct TrainConfig {
  int64_t steps = 1000, batch_size = 8, micro_batch_size = 8, sequence = 0, seed = 1;
  double minutes = 0, clip = 1;
  std::string tuning = "measure";
  int64_t max_skipped_steps = 20, eval_every = 0, eval_batches = 8;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("steps", self.steps, between(1, most_steps), "optimizer steps to run");
    visit("minutes", self.minutes, between(0, 365 * 24 * 60),
          "time budget: when above 0, train.steps comes from a rate measured at the start");
    visit("batch_size", self.batch_size, between(1, most_sequences), "sequences a step, over all ranks");
    visit("micro_batch_size", self.micro_batch_size, between(1, most_sequences),
          "sequences that pass through the model together on one rank");
    visit("sequence", self.sequence, between(0, most_context), "tokens of a sequence; 0: model.context");
    visit("seed", self.seed, at_least(0), "of initial values and data order");
    visit("clip", self.clip, at_least(0), "the largest global gradient norm; 0: no clipping");
    visit("max_skipped_steps", self.max_skipped_steps, at_least(1), "non-finite steps in a row that end the run");
    visit("eval_every", self.eval_every, at_least(0), "steps between evaluations on held-out text; 0: a tenth of the run");
    visit("eval_batches", self.eval_batches, at_least(1), "batches of an evaluation");
    visit("tuning", self.tuning, any(),
          "how ops that can be computed in several ways are: measure times them at the start and writes tuning.json, fixed goes by rule, "
          "any other word is the path of such a file");
  }
};

struct OptimizerConfig {
  std::string name = "adamw";
  double learning_rate = 1e-3, final_fraction = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  std::string schedule = "cosine";
  int64_t warmup_steps = 0, decay_steps = 0;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("name", self.name, one_of({"sgd", "momentum", "adagrad", "adam", "adamw"}), "update rule");
    visit("learning_rate", self.learning_rate, at_least(0), "at its peak");
    visit("final_fraction", self.final_fraction, between(0, 1), "of the peak, reached exactly at the last step");
    visit("schedule", self.schedule, one_of({"constant", "linear", "cosine", "wsd"}),
          "how the learning rate falls after the warm-up; wsd: it stays, and falls over the last decay_steps");
    visit("warmup_steps", self.warmup_steps, at_least(0), "steps over which the learning rate rises to its peak");
    visit("decay_steps", self.decay_steps, at_least(0), "of the schedule wsd; 0: a fifth of the run");
    visit("beta1", self.beta1, half_open(0, 1), "decay of the mean of gradients; the momentum of momentum");
    visit("beta2", self.beta2, half_open(0, 1), "decay of the mean of squared gradients");
    visit("epsilon", self.epsilon, between(1e-30, 1), "added to the root of the second moment");
    visit("weight_decay", self.weight_decay, at_least(0),
          "on matrices and embeddings; decoupled in adamw, part of the gradient in the others");
  }
};

struct PrecisionConfig {
  std::string compute = "fp32", master = "fp32", gradients = "fp32", moments = "fp32";
  std::string packed_weights = "auto";
  double loss_scale = 65536;
  int64_t loss_scale_growth_steps = 1000, loss_scale_hysteresis = 2;
  bool loss_scale_dynamic = true;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("compute", self.compute, one_of({"fp32", "bf16", "fp16", "auto"}),
          "weights in use, activations and their gradients; auto: bf16 where a matmul at the start runs faster in it, or, where "
          "nothing is computed, where the processor has instructions for it");
    visit("master", self.master, one_of({"fp32", "bf16"}), "weights that the optimizer changes; bf16 is rounded stochastically");
    visit("gradients", self.gradients, one_of({"fp32", "bf16"}), "sums of weight gradients; bf16 is rounded stochastically");
    visit("moments", self.moments, one_of({"fp32", "bf16"}), "optimizer states; bf16 is rounded stochastically");
    visit(
        "packed_weights", self.packed_weights, one_of({"auto", "on", "off"}),
        "bf16 weights of linear layers also in the order in which matrix instructions read them, packed anew after each update: 4 bytes a "
        "weight for faster matmuls; auto: on with AMX and at least 2048 tokens a step and replica");
    visit("loss_scale", self.loss_scale, between(1, 16777216), "what the loss is multiplied by at the start (fp16); a power of two");
    visit("loss_scale_dynamic", self.loss_scale_dynamic, any(), "the loss scale doubles after good steps and halves on overflows (fp16)");
    visit("loss_scale_growth_steps", self.loss_scale_growth_steps, between(1, 1000000), "good steps before the loss scale doubles");
    visit("loss_scale_hysteresis", self.loss_scale_hysteresis, between(1, 100), "overflows before the loss scale halves");
  }
};

struct ParallelConfig {
  int64_t pp = 1, dp = 0, cp = 1, tp = 1, zero = 0, threads = 0;
  std::string schedule = "1f1b", communicator = "threads";
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("pp", self.pp, between(1, most_ranks), "pipeline stages");
    visit("dp", self.dp, between(0, most_ranks), "data-parallel replicas; 0: ranks / the other axes");
    visit("cp", self.cp, between(1, 1), "context parallelism");
    visit("tp", self.tp, between(1, 1), "tensor parallelism");
    visit("zero", self.zero, between(0, 1), "ZeRO stage: 0 everything on each replica, 1 optimizer states sharded over dp");
    visit("schedule", self.schedule, one_of({"gpipe", "1f1b"}), "order of the micro-batches in a pipeline");
    visit("communicator", self.communicator, one_of({"auto", "threads", "nccl"}),
          "what moves data between ranks; auto: nccl where each rank has a GPU of its own");
    visit("threads", self.threads, between(0, most_threads), "threads of each rank; 0: cores / ranks of this machine");
  }
};

struct CheckpointConfig {
  int64_t every_steps = 0, keep = 2;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("every_steps", self.every_steps, at_least(0), "steps between checkpoints; 0: only at the end and on a signal");
    visit("keep", self.keep, at_least(1), "checkpoints to keep, the newest ones");
  }
};

struct LogConfig {
  std::string convention = "causal";
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("convention", self.convention, one_of({"causal", "palm", "megatron", "lecture"}), "how FLOPs are counted for MFU");
  }
};

/// RUN.toml: every key with its default, legal values and meaning.
struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  PrecisionConfig precision;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  LogConfig log;
  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit.table("model", self.model);
    visit.table("data", self.data);
    visit.table("train", self.train);
    visit.table("optimizer", self.optimizer);
    visit.table("precision", self.precision);
    visit.table("parallel", self.parallel);
    visit.table("checkpoint", self.checkpoint);
    visit.table("log", self.log);
  }
};

/// What follows from a configuration: checked, with every default that depends on other keys resolved.
/// `config` says all of it: each key that followed from others, from the tokenizer, the number of ranks, the cores or the working
/// directory holds its value, so that write_toml(config), read and resolved anywhere, gives the same run.
struct ResolvedRun {
  RunConfig config;
  ModelSpec model;
  Layout layout;
  BatchShape micro_batch;
  Precision precision;
  int threads = 1;  // of each rank

  /// Whether train.tuning is the path of a tuning table.
  bool tuning_file() const { return config.train.tuning != "measure" && config.train.tuning != "fixed"; }
  int64_t tokens_per_step() const { return layout.batch_size * micro_batch.T; }
  OptimizerSettings optimizer() const;
  LossScaling loss_scaling() const;
  LearningRateCurve learning_rate() const;
  /// The run's length, where a time budget (train.minutes) did not tell it before: the budget is spent, and what depends on the length follows.
  void set_steps(int64_t steps);
};

/// parallel.threads, or the machine's cores shared by `ranks`.
int threads_of_a_rank(const RunConfig& config, int ranks);

/// Where a run computes, as far as its configuration depends on it.
struct RunsOn {
  DType fast = DType::f32;  // what precision.compute = "auto" means there
  DeviceKind device = DeviceKind::Cpu;
};

/// `ranks`: how many the launcher started. `tokenizer_vocab`: used where neither model.vocab nor a preset gives one (0: unknown).
/// ConfigError naming key, value, where it was given and what would be legal.
ResolvedRun resolve(const RunConfig& config, const ConfigSource& source, int ranks, int64_t tokenizer_vocab, RunsOn where = {});

/// Resuming: ConfigError naming every key that makes `run` another run than the one that wrote `saved_toml`: [model],
/// data.validation_fraction, data.weights, optimizer.name, train.seed and train.sequence. Every other key may change. `where`: of the
/// checkpoint.
void expect_same_run(const std::string& saved_toml, const ResolvedRun& run, const std::string& where);
/// Whether the loss scale that a run found means something to the one that goes on: precision and scaling are as they were.
bool keeps_loss_scale(const std::string& saved_toml, const ResolvedRun& run);

}  // namespace tessera
