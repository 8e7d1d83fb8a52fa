// The kernels on the CPU, as a library: a launch, and the arithmetic by itself.
#include "host.h"

#include "kernels.cu"

namespace {

template <class Parameters>
void launch(void* function, unsigned blocks, unsigned threads, const void* parameters) {
    auto kernel = (void (*)(Parameters))function;
    const Parameters& p = *(const Parameters*)parameters;
    for (unsigned block = 0; block < blocks; ++block) {
        auto thread = [&](unsigned number) {
            blockIdx.x = block;
            threadIdx.x = number;
            kernel(p);
        };
        if (shared_memory.empty()) {
            for (unsigned number = 0; number < threads; ++number) thread(number);
        } else {
            // Garbage, as on the GPU: the kernel has to clear it.
            for (unsigned& word : shared_memory) word = 0xDEADBEEF;
            std::vector<std::thread> all;
            for (unsigned number = 0; number < threads; ++number) all.emplace_back(thread, number);
            for (std::thread& each : all) each.join();
        }
    }
}

}  // namespace

extern "C" {

/// Runs a kernel of this library. One launch at a time.
void host_launch(void* function, bool is_apply, unsigned blocks, unsigned threads, unsigned shared_bytes,
                 const void* parameters) {
    gridDim.x = blocks;
    blockDim.x = threads;
    shared_memory.assign(shared_bytes / 4, 0);
    if (is_apply) {
        launch<ApplyParameters>(function, blocks, threads, parameters);
    } else {
        launch<ReduceParameters>(function, blocks, threads, parameters);
    }
}

void host_groups(const Modulus* modulus, u64 state, u32* out, u64 count) {
    u64 k = 0;
    for (; k + 8 <= count; k += 8) hashed_groups(*modulus, state + k, *(u32(*)[8])(out + k));
    for (; k < count; ++k) hashed_groups(*modulus, state + k, *(u32(*)[1])(out + k));
}

u32 host_remainder(const Modulus* modulus, u64 z) {
    if (modulus->kind == POWER_OF_TWO) return (u32)z & (u32)(modulus->d - 1);
    if (modulus->kind == NARROW) return remainder_narrow(z, modulus->reciprocal, (u32)modulus->d);
    return remainder_wide(z, modulus->reciprocal, modulus->d);
}

void host_multipliers(const Mask* mask, float* out, u64 count) {
    u64 k = 0;
    for (; k + 8 <= count; k += 8) multipliers(*mask, k, *(float(*)[8])(out + k));
    for (; k < count; ++k) multipliers(*mask, k, *(float(*)[1])(out + k));
}

/// Returns whether any was out of range.
bool host_fixed_point(float limit, float unit, const float* grads, i64* out, u64 count) {
    bool bad = false;
    for (u64 k = 0; k < count; ++k) out[k] = fixed_point(grads[k], Format{limit, unit}, bad);
    return bad;
}

void host_round(bool bfloat, const float* values, u16* out, u64 count) {
    for (u64 k = 0; k < count; ++k) out[k] = bfloat ? to_bf16(values[k]) : to_f16(values[k]);
}

void host_widen(bool bfloat, const u16* values, float* out, u64 count) {
    for (u64 k = 0; k < count; ++k) out[k] = bfloat ? from_bf16(values[k]) : from_f16(values[k]);
}
}
