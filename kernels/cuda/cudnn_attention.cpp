// The only file that includes cudnn-frontend, which takes a compiler 20 s and 1 GB.
// B sequences   T tokens   A query heads   K key/value heads   D head width   S sequences at a time
#include "kernels/cuda/cudnn_attention.h"

#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <cmath>
#include <exception>
#include <initializer_list>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/cudnn_library.h"

namespace tessera::cuda {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using Node = std::shared_ptr<Tensor_attributes>;

/// What cuDNN calls a tensor of ours.
enum Id : int64_t { id_q = 1, id_k, id_v, id_y, id_lse, id_dy, id_dq, id_dk, id_dv };

AttentionShape attention_of(const ShapeKey& shape) {
  const auto [B, T, A, K, D] = shape.extents;
  return {.B = B, .T = T, .A = A, .K = K, .D = D};
}

/// Columns of the matrix that holds queries, keys and values, and of the one that holds what heads give.
int64_t fused_columns(const AttentionShape& s) { return (s.A + 2 * s.K) * s.D; }
int64_t dense_columns(const AttentionShape& s) { return s.A * s.D; }

/// The tensors of `s.B` sequences.
class AttentionGraph {
 public:
  AttentionGraph(AttentionShape s, DType dtype) : s_(s) {
    graph_ = std::make_unique<Graph>();
    graph_->set_io_data_type(dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
  }

  std::unique_ptr<Graph> forward() && {
    const auto [q, k, v] = inputs();
    const auto options =
        fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true).set_causal_mask(true).set_attn_scale(scale());
    const auto [y, lse] = graph_->sdpa(q, k, v, options);
    output(y, id_y, s_.A, dense_columns(s_));
    lse->set_output(true).set_uid(id_lse).set_data_type(fe::DataType_t::FLOAT).set_dim(rows_dim()).set_stride(rows_stride());
    return std::move(graph_);
  }

  std::unique_ptr<Graph> backward() && {
    const auto [q, k, v] = inputs();
    const Node y = input(id_y, s_.A, dense_columns(s_)), dy = input(id_dy, s_.A, dense_columns(s_));
    const Node lse = graph_->tensor(
        Tensor_attributes().set_uid(id_lse).set_data_type(fe::DataType_t::FLOAT).set_dim(rows_dim()).set_stride(rows_stride()));
    const auto options = fe::graph::SDPA_backward_attributes()
                             .set_name("attention_backward")
                             .set_causal_mask(true)
                             .set_attn_scale(scale())
                             .set_deterministic_algorithm(true);
    const auto [dq, dk, dv] = graph_->sdpa_backward(q, k, v, y, dy, lse, options);
    output(dq, id_dq, s_.A, fused_columns(s_));
    output(dk, id_dk, s_.K, fused_columns(s_));
    output(dv, id_dv, s_.K, fused_columns(s_));
    return std::move(graph_);
  }

 private:
  using Extents = std::vector<int64_t>;
  float scale() const { return 1 / std::sqrt(static_cast<float>(s_.D)); }
  /// Heads of a matrix [B T, columns] as [B, heads, T, D], a token's columns apart from the next one's by `columns`.
  Extents dim(int64_t heads) const { return {s_.B, heads, s_.T, s_.D}; }
  Extents stride(int64_t columns) const { return {s_.T * columns, s_.D, columns, 1}; }
  /// [B, A, T, 1]
  Extents rows_dim() const { return {s_.B, s_.A, s_.T, 1}; }
  Extents rows_stride() const { return {s_.A * s_.T, s_.T, 1, 1}; }

  Node input(Id id, int64_t heads, int64_t columns) {
    return graph_->tensor(Tensor_attributes().set_uid(id).set_dim(dim(heads)).set_stride(stride(columns)));
  }
  std::array<Node, 3> inputs() {
    const int64_t columns = fused_columns(s_);
    return {input(id_q, s_.A, columns), input(id_k, s_.K, columns), input(id_v, s_.K, columns)};
  }
  void output(const Node& node, Id id, int64_t heads, int64_t columns) const {
    node->set_output(true).set_uid(id).set_dim(dim(heads)).set_stride(stride(columns));
  }

  AttentionShape s_;
  std::unique_ptr<Graph> graph_;
};

/// A tensor of the op, and how many bytes of it a sequence takes. Lies as planned: rows as far apart as the plan says, at 16 bytes.
struct Operand {
  Id id;
  Tensor tensor;
  int64_t columns;  // from one token's to the next one's; 0: the statistics, dense [B, A, T]

  bool lies_as_planned() const {
    const bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
    return aligned && (columns == 0 || tensor.row_stride() == columns);
  }
  void* of_sequence(int64_t b, const AttentionShape& s) const {
    const int64_t elements = columns == 0 ? s.A * s.T : columns * s.T;
    return static_cast<std::byte*>(tensor.data) + b * elements * bytes_of(tensor.dtype);
  }
};

std::vector<Operand> operands_of(OpKind kind, const AttentionTensors& t, const AttentionShape& s) {
  const int64_t fused = fused_columns(s), dense = dense_columns(s);
  std::vector<Operand> all = {{id_q, t.q, fused}, {id_k, t.k, fused}, {id_v, t.v, fused}, {id_y, t.y, dense}, {id_lse, t.lse, 0}};
  if (kind == OpKind::AttentionBackward)
    all.insert(all.end(), {{id_dy, t.dy, dense}, {id_dq, t.dq, fused}, {id_dk, t.dk, fused}, {id_dv, t.dv, fused}});
  return all;
}

/// The first line of what cudnn-frontend says, which can be pages.
std::string first_line(const std::string& message) { return message.substr(0, message.find('\n')); }

}  // namespace

/// cuDNN on the current GPU, or the description of another one.
struct CudnnAttention::Library {
  explicit Library(const CudnnTarget& target) {
    why_not = why_no_cudnn();
    if (!why_not.empty()) return;
    if (target.description.empty()) {
      const cudnnStatus_t status = cudnnCreate(&handle);
      if (status != CUDNN_STATUS_SUCCESS) why_not = cudnnGetErrorString(status);
    } else {
      described = std::make_shared<fe::DeviceProperties>();
      fe::error_t error = described->deserialize({target.description.begin(), target.description.end()});
      if (error.is_bad()) why_not = error.get_message();
    }
  }
  ~Library() {
    if (handle) (void)cudnnDestroy(handle);
  }
  Library(const Library&) = delete;

  fe::error_t build(Graph& graph, int compute_capability) {
    if (handle) return graph.build(handle, {fe::HeurMode_t::A});
    graph.set_device_properties(described).set_sm_version(compute_capability);
    return graph.build({fe::HeurMode_t::A});
  }

  cudnnHandle_t handle = nullptr;
  std::shared_ptr<fe::DeviceProperties> described;
  std::string why_not;
};

struct CudnnAttention::Plan {
  std::unique_ptr<Graph> graph;
  int64_t sequences = 0;        // at a time: a divisor of B
  int64_t workspace_bytes = 0;  // of so many
  std::string why_not;

  /// For `count` sequences. False, and why_not says why, where cuDNN has none.
  bool make(Library& library, const CudnnTarget& target, OpKind kind, const ShapeKey& shape, int64_t count) {
    AttentionShape s = attention_of(shape);
    s.B = sequences = count;
    try {
      AttentionGraph parts(s, shape.dtype);
      graph = kind == OpKind::AttentionForward ? std::move(parts).forward() : std::move(parts).backward();
      fe::error_t error = library.build(*graph, target.compute_capability);
      if (error.is_good()) error = graph->get_workspace_size(workspace_bytes);
      if (error.is_good()) return true;
      why_not = first_line(error.get_message());
    } catch (const std::exception& error) {  // cudnn-frontend throws where descriptors are made
      why_not = first_line(error.what());
    }
    if (why_not.empty()) why_not = "cuDNN does not say";
    graph.reset();
    return false;
  }
};

CudnnAttention::CudnnAttention(CudnnTarget target) : target_(std::move(target)) {}
CudnnAttention::~CudnnAttention() = default;

CudnnAttention::Plan& CudnnAttention::plan_of(OpKind kind, const ShapeKey& shape, int64_t workspace_bytes) {
  std::unique_ptr<Plan>& plan = plans_[{kind, shape}];
  if (plan) return *plan;
  plan = std::make_unique<Plan>();
  if (shape.dtype == DType::f32) {
    plan->why_not = "cuDNN's attention is for 16 bits";
    return *plan;
  }
  if (!library_) library_ = std::make_unique<Library>(target_);
  plan->why_not = library_->why_not;
  if (!plan->why_not.empty()) return *plan;
  const int64_t B = shape.extents[0];
  if (!plan->make(*library_, target_, kind, shape, B) || plan->workspace_bytes <= workspace_bytes) return *plan;
  // The workspace grows with the sequences.
  const int64_t of_one = plan->workspace_bytes / B;
  int64_t count = std::max<int64_t>(1, std::min(B - 1, workspace_bytes / std::max<int64_t>(1, of_one)));
  while (B % count != 0) count--;
  if (plan->make(*library_, target_, kind, shape, count) && plan->workspace_bytes > workspace_bytes) {
    plan->why_not = "its workspace is larger than ours";
    plan->graph.reset();
  }
  return *plan;
}

const std::string& CudnnAttention::why_not(OpKind kind, const ShapeKey& shape, int64_t workspace_bytes) {
  return plan_of(kind, shape, workspace_bytes).why_not;
}

int64_t CudnnAttention::sequences_at_a_time(OpKind kind, const ShapeKey& shape) const {
  const auto plan = plans_.find({kind, shape});
  return plan == plans_.end() || !plan->second->graph ? 0 : plan->second->sequences;
}

bool CudnnAttention::enqueue(OpKind kind, const AttentionTensors& tensors, AttentionShape shape, std::span<std::byte> workspace,
                             cudaStream_t stream) {
  const auto found = plans_.find({kind, attention_shape(shape, tensors.q.dtype)});
  if (found == plans_.end() || !found->second->graph || !library_->handle) return false;
  const Plan& plan = *found->second;
  const std::vector<Operand> operands = operands_of(kind, tensors, shape);
  if (!std::ranges::all_of(operands, &Operand::lies_as_planned)) return false;
  invariant(plan.workspace_bytes <= std::ssize(workspace), "the workspace is smaller than when cuDNN's plan was made");
  invariant(cudnnSetStream(library_->handle, stream) == CUDNN_STATUS_SUCCESS, "cudnnSetStream failed");
  for (int64_t b = 0; b < shape.B; b += plan.sequences) {
    std::unordered_map<int64_t, void*> places;
    for (const Operand& operand : operands) places[operand.id] = operand.of_sequence(b, shape);
    fe::error_t error = plan.graph->execute(library_->handle, places, workspace.data());
    if (error.is_bad()) throw InternalError("cuDNN's attention: " + error.get_message());
  }
  return true;
}

}  // namespace tessera::cuda
