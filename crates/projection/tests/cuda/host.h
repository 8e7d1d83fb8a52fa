// What the kernels use of CUDA, for a C++ compiler of the CPU: a block's threads are this process's threads, and
// the intrinsics do what CUDA's documentation says.
#pragma once

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#define HOST
#define __device__
#define __forceinline__ inline
#define KERNEL(THREADS) extern "C" void
#define GRID_CONSTANT

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct Place {
    unsigned x;
};

inline thread_local Place blockIdx, threadIdx;
inline Place gridDim, blockDim;

/// Where a block's threads wait for each other.
class Barrier {
    std::mutex mutex;
    std::condition_variable all_here;
    unsigned here = 0, round = 0;

  public:
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        unsigned mine = round;
        if (++here == blockDim.x) {
            here = 0;
            ++round;
            all_here.notify_all();
        } else {
            all_here.wait(lock, [&] { return round != mine; });
        }
    }
};

inline Barrier barrier;
inline std::vector<unsigned> shared_memory;

inline unsigned* shared_words() {
    return shared_memory.data();
}

inline void __syncthreads() {
    barrier.wait();
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

/// To the nearest integer, half to even, which is the rounding mode that programs start with.
inline long long __float2ll_rn(float value) {
    return llrintf(value);
}

/// A vector load needs its alignment on the GPU, so it is demanded here as well.
template <class T>
T __ldg(const T* from) {
    if ((uintptr_t)from % alignof(T) != 0) __builtin_trap();
    return *from;
}

template <class T>
T __ldcg(const T* from) {
    return __ldg(from);
}

template <class T>
T atomicAdd(T* to, T term) {
    return __atomic_fetch_add(to, term, __ATOMIC_RELAXED);
}

inline unsigned atomicOr(unsigned* to, unsigned bits) {
    return __atomic_fetch_or(to, bits, __ATOMIC_RELAXED);
}
