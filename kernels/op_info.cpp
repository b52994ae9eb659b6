#include "kernels/op_info.h"

#include <cstring>

namespace tessera {

const char* name_of(OpKind kind) {
  constexpr std::array<const char*, op_kinds> names = {"linear_forward",
                                                       "linear_backward_input",
                                                       "linear_backward_weight",
                                                       "pack_weight",
                                                       "attention_forward",
                                                       "attention_backward",
                                                       "layer_norm_forward",
                                                       "layer_norm_backward_input",
                                                       "layer_norm_backward_weight",
                                                       "rms_norm_forward",
                                                       "rms_norm_backward_input",
                                                       "rms_norm_backward_weight",
                                                       "embedding_forward",
                                                       "token_embedding_backward",
                                                       "position_embedding_backward",
                                                       "gelu_forward",
                                                       "gelu_backward",
                                                       "swiglu_forward",
                                                       "swiglu_backward",
                                                       "rotary",
                                                       "add",
                                                       "cast",
                                                       "copy",
                                                       "zero",
                                                       "ordered_sum",
                                                       "cross_entropy",
                                                       "cross_entropy_loss",
                                                       "sgd",
                                                       "momentum",
                                                       "adagrad",
                                                       "adam",
                                                       "adamw",
                                                       "gradient_norm",
                                                       "add_loss",
                                                       "begin_step",
                                                       "agree_step",
                                                       "all_gather",
                                                       "all_to_all",
                                                       "send",
                                                       "receive",
                                                       "record",
                                                       "wait"};
  return names[static_cast<int>(kind)];
}

const char* name_of(Phase phase) {
  constexpr std::array<const char*, phases> names = {"setup",    "data",   "forward",  "backward",  "recompute",
                                                     "exchange", "update", "evaluate", "checkpoint"};
  return names[static_cast<int>(phase)];
}

const char* name_of(WaitReason reason) {
  constexpr std::array<const char*, wait_reasons> names = {"tp", "dp", "pp", "tied", "data", "offload", "checkpoint", "control"};
  return names[static_cast<int>(reason)];
}

bool TraceEntry::operator==(const TraceEntry& other) const {
  return info == other.info && std::strcmp(stream, other.stream) == 0 && action == other.action && unit == other.unit;
}

}  // namespace tessera
