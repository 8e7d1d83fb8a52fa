// Switches of libtorch that the bindings leave out. No function lets an exception pass.

#include <ATen/Context.h>

#include "guarded.h"

extern "C" {

// Text of the last exception on this thread, until the next one.
const char* gpart_last_error(void) {
  return gpart_last_error_text().c_str();
}

// Algorithms that give the same bits every time, on CUDA; 1 where libtorch refuses.
int gpart_set_deterministic(int on) {
  return guarded([on] {
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    // Otherwise every new tensor is filled with NaN first, for the sake of programs that read what they have not written.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setBenchmarkCuDNN(false);
  });
}

// Products in float32 by TF32, which keeps 10 bits of the mantissa.
int gpart_set_tf32(int on) {
  return guarded([on] {
    at::globalContext().setAllowTF32CuBLAS(on != 0);
    at::globalContext().setAllowTF32CuDNN(on != 0);
  });
}

// Sums of half-precision products in half precision.
int gpart_set_reduced_precision_sums(int on) {
  return guarded([on] {
    at::globalContext().setAllowFP16ReductionCuBLAS(on != 0);
    at::globalContext().setAllowBF16ReductionCuBLAS(on != 0);
  });
}

int gpart_deterministic(void) {
  return at::globalContext().deterministicAlgorithms() ? 1 : 0;
}

int gpart_tf32(void) {
  int on = 0;
  guarded([&on] { on = at::globalContext().allowTF32CuBLAS() ? 1 : 0; });
  return on;
}

}  // extern "C"
