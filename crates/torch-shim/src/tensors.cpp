// Operations on tensors that the bindings leave out. Tensors come and go as the bindings hold them: pointers to at::Tensor.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "guarded.h"

extern "C" {

// Gradients of the sum of output · upstream by some tensors of its graph, which is used up.
int gpart_gradients(
    const at::Tensor* output,
    const at::Tensor* upstream,
    const at::Tensor* const* inputs,
    int count,
    at::Tensor** gradients) {
  return guarded([=] {
    torch::autograd::variable_list wanted;
    for (int i = 0; i < count; ++i) {
      wanted.push_back(*inputs[i]);
    }
    auto found = torch::autograd::grad(
        {*output}, wanted, {*upstream}, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/false);
    for (int i = 0; i < count; ++i) {
      gradients[i] = new at::Tensor(std::move(found[i]));
    }
  });
}

// Causal attention within each of several sequences that lie end to end: query [N, A, D], key and value [N, K, D];
// cumulative int32 [sequences + 1] on the device; window: keys that a query sees before itself, or -1 for all.
int gpart_packed_attention(
    const at::Tensor* query,
    const at::Tensor* key,
    const at::Tensor* value,
    const at::Tensor* cumulative,
    int64_t longest,
    int64_t window,
    at::Tensor** attended) {
  return guarded([=] {
    std::optional<c10::SymInt> left, right;
    if (window >= 0) {
      left = c10::SymInt(window);
      right = c10::SymInt(0);
    }
    auto found = at::_flash_attention_forward_symint(
        *query, *key, *value, *cumulative, *cumulative, c10::SymInt(longest), c10::SymInt(longest),
        /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, std::nullopt, left, right);
    *attended = new at::Tensor(std::move(std::get<0>(found)));
  });
}

// A copy in page-locked memory, from which a device can copy on its own.
int gpart_pinned(const at::Tensor* tensor, at::Tensor** pinned) {
  return guarded([=] { *pinned = new at::Tensor(tensor->pin_memory()); });
}

// Page-locked memory for so many bytes.
int gpart_pinned_bytes(int64_t length, at::Tensor** pinned) {
  return guarded([=] {
    *pinned = new at::Tensor(at::empty({length}, at::TensorOptions().dtype(at::kByte).pinned_memory(true)));
  });
}

// Starts a copy, which libtorch keeps in order with whatever uses the target; page-locked memory of the source is not
// handed out again before it is done.
int gpart_copy_in_order(const at::Tensor* target, const at::Tensor* source) {
  return guarded([=] { target->copy_(*source, /*non_blocking=*/true); });
}

}  // extern "C"
