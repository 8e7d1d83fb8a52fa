// The kernels: apply (theta -> dW, or W + dW), reduce (dL/dW -> 64-bit sums a group) and count (weights a group).
//
// One launch is one run of weights that lies in one segment of the partition: groups are numbered from 0 within
// the segment, and `theta` and `sums` point to its first group. Every launch: any number of blocks of one dimension,
// at least 16 threads in all, 64-bit offsets. Threads of a warp go over neighbouring vectors of 16 bytes, and each
// thread has 8 weights under way. What lies before the first 16-byte boundary of the main array (`out`, `grad`) and
// after the last is done one weight a thread.
#include "arithmetic.cuh"

// A C++ compiler for the CPU is given its own (tests/cuda/host.h).
#ifndef HOST
#define KERNEL(THREADS) extern "C" __global__ void __launch_bounds__(THREADS)
#define GRID_CONSTANT __grid_constant__
INLINE u32* shared_words() {
    extern __shared__ u32 words[];
    return words;
}
#endif

// Threads a block at most; as `PLAIN_THREADS` and `SHARED_THREADS` in launch.rs.
#define PLAIN 256
#define SHARING 1024

// --- Parameters: the same structures as in crates/projection/src/cuda/launch.rs ---------------------------------

/// Where groups come from.
struct Groups {
    Modulus modulus;
    /// Hashed: the state of the launch's first weight, seed + index + gamma.
    u64 state;
    /// Stored: the group of the launch's first weight, and those of the others behind it.
    const u32* stored;
};

struct ApplyParameters {
    Groups groups;
    Mask mask;
    u64 numel;
    /// s theta, from the segment's first group on.
    const float* theta;
    /// W in f32; only for the kernels that add it.
    const float* base;
    void* out;
};

struct ReduceParameters {
    Groups groups;
    Mask mask;
    u64 numel;
    const void* grad;
    /// From the segment's first group on.
    u64* sums;
    /// Becomes 1 where a term does not fit.
    u32* flag;
    /// What gradients are multiplied by first: the reciprocal of how much too large they are, a power of two.
    float factor;
    Format format;
    /// In shared memory: 2^copies sums a group, so that few groups are not all threads' bottleneck.
    u32 copies;
};

static_assert(sizeof(Groups) == 40, "as in Rust");
static_assert(sizeof(ApplyParameters) == 104, "as in Rust");
static_assert(sizeof(ReduceParameters) == 120, "as in Rust");

// --- A run of weights, cut into vectors -------------------------------------------------------------------------

/// `head` single weights, `vectors` vectors of `width`, and the rest.
struct Cut {
    u64 head;
    u64 vectors;
    u64 rest;
};

/// Cuts `numel` words of `size` bytes at `address` where vectors of 16 bytes are aligned.
INLINE Cut cut(const void* address, u32 size, u64 numel) {
    u64 head = ((16u - ((u64)address & 15u)) & 15u) / size;
    if (head > numel) head = numel;
    u64 vectors = (numel - head) / (16u / size);
    return Cut{head, vectors, numel - head - vectors * (16u / size)};
}

INLINE bool is_aligned(const void* address) {
    return ((u64)address & 15u) == 0;
}

/// Reads what nobody writes during the launch, through the cache for constants.
struct Constant {
    template <class T>
    static INLINE T load(const T* from) { return __ldg(from); }
};

/// Reads what this thread itself may write later in the launch: `base` may be `out`. Past the first cache, which is
/// theta's.
struct Written {
    template <class T>
    static INLINE T load(const T* from) { return __ldcg(from); }
};

/// N words; N is a multiple of 4.
template <class Way, int N>
INLINE void load_words(const u32* from, bool aligned, u32 (&words)[N]) {
    if (aligned) {
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            uint4 vector = Way::load((const uint4*)(from + k));
            words[k] = vector.x;
            words[k + 1] = vector.y;
            words[k + 2] = vector.z;
            words[k + 3] = vector.w;
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) words[k] = Way::load(from + k);
    }
}

INLINE u64 thread_number() {
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

/// Hands `body` its share of a run: `body.vectors<U>(first, step)` for U vectors that are `step` apart, and
/// `body.single(offset)` for a weight by itself.
template <int U, class Body>
INLINE void share(const Cut& run, u32 width, Body& body) {
    u64 stride = (u64)gridDim.x * blockDim.x * U;
    for (u64 first = (u64)blockIdx.x * blockDim.x * U + threadIdx.x; first < run.vectors; first += stride) {
        if (first + (u64)(U - 1) * blockDim.x < run.vectors) {
            body.template vectors<U>(first, blockDim.x);
        } else {
            for (u64 vector = first; vector < run.vectors; vector += blockDim.x) {
                body.template vectors<1>(vector, 0);
            }
        }
    }
    // Fewer than 16 weights.
    u64 thread = thread_number();
    if (thread < run.head) {
        body.single(thread);
    } else if (thread < run.head + run.rest) {
        body.single(run.vectors * width + thread);
    }
}

// --- Groups of a vector -----------------------------------------------------------------------------------------

struct Hashed {
    template <int N>
    static INLINE void read(const Groups& from, u64 offset, bool, u32 (&groups)[N]) {
        hashed_groups(from.modulus, from.state + offset, groups);
    }
    static INLINE u32 one(const Groups& from, u64 offset) {
        u32 group[1];
        hashed_groups(from.modulus, from.state + offset, group);
        return group[0];
    }
};

struct Stored {
    template <int N>
    static INLINE void read(const Groups& from, u64 offset, bool aligned, u32 (&groups)[N]) {
        load_words<Constant>(from.stored + offset, aligned, groups);
    }
    static INLINE u32 one(const Groups& from, u64 offset) { return __ldg(from.stored + offset); }
};

// --- Apply ------------------------------------------------------------------------------------------------------

template <class Source, bool MASK, class Out, bool BASE>
struct Apply {
    const ApplyParameters& p;
    u64 head;
    /// Whether these are aligned where `out` is.
    bool base_aligned, groups_aligned;

    INLINE float value(float theta, float multiplier, float base) const {
        float value = theta;
        if (MASK) value = value * multiplier;
        if (BASE) value = base + value;
        return value;
    }

    template <int U>
    INLINE void vectors(u64 first, u64 step) const {
        const int W = Out::WIDTH;
        u32 groups[U][W];
        u32 base[U][W];
        float values[U][W];
#pragma unroll
        for (int u = 0; u < U; ++u) {
            u64 offset = head + (first + u * step) * W;
            Source::read(p.groups, offset, groups_aligned, groups[u]);
            if (BASE) load_words<Written>((const u32*)p.base + offset, base_aligned, base[u]);
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
#pragma unroll
            for (int k = 0; k < W; ++k) values[u][k] = __ldg(p.theta + groups[u][k]);
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
            u64 vector = first + u * step;
            float multiplier[W];
            if (MASK) multipliers(p.mask, head + vector * W, multiplier);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                values[u][k] = value(values[u][k], MASK ? multiplier[k] : 1.0f,
                                     BASE ? __uint_as_float(base[u][k]) : 0.0f);
            }
            ((uint4*)((typename Out::Word*)p.out + head))[vector] = Out::pack(values[u]);
        }
    }

    INLINE void single(u64 offset) const {
        float multiplier[1] = {1.0f};
        if (MASK) multipliers(p.mask, offset, multiplier);
        float theta = __ldg(p.theta + Source::one(p.groups, offset));
        float sum = value(theta, multiplier[0], BASE ? Written::load(p.base + offset) : 0.0f);
        ((typename Out::Word*)p.out)[offset] = Out::encode(sum);
    }
};

template <class Source, bool MASK, class Out, bool BASE>
INLINE void apply(const ApplyParameters& p) {
    Cut run = cut(p.out, sizeof(typename Out::Word), p.numel);
    Apply<Source, MASK, Out, BASE> body = {p, run.head, is_aligned(p.base + run.head),
                                           is_aligned(p.groups.stored + run.head)};
    share<8 / Out::WIDTH>(run, Out::WIDTH, body);
}

// --- Sums -------------------------------------------------------------------------------------------------------

/// Sums in global memory alone: for so many groups that they fit nowhere else, or so few weights that it is not
/// worth the while.
struct Global {
    static const int THREADS = PLAIN;
    u64* sums;

    INLINE explicit Global(const ReduceParameters& p) : sums(p.sums) {}
    INLINE void begin() {}
    INLINE void end() {}
    INLINE void add(u32 group, i64 term) {
        // Two's complement wraps like unsigned.
        if (term != 0) atomicAdd(sums + group, (u64)term);
    }
};

/// Sums of the block in shared memory, added to those in global memory at the end.
///
/// A sum is two words of 32 bits, as shared memory has no 64-bit addition: whoever makes the low word wrap adds the
/// carry to the high one. Each wrap is seen by exactly one addition, so the pair is exact whatever the order.
struct Shared {
    static const int THREADS = SHARING;
    const ReduceParameters& p;
    u32* low;
    u32* high;
    u32 groups, copy;

    INLINE explicit Shared(const ReduceParameters& p)
        : p(p), low(shared_words()), groups((u32)p.groups.modulus.d), copy(threadIdx.x & ((1u << p.copies) - 1u)) {
        high = low + (groups << p.copies);
    }

    INLINE void begin() {
        for (u32 k = threadIdx.x; k < 2u * (groups << p.copies); k += blockDim.x) low[k] = 0;
        __syncthreads();
    }

    INLINE void add(u32 group, i64 term) {
        u32 slot = (group << p.copies) | copy;
        u32 low_word = (u32)term, high_word = (u32)((u64)term >> 32);
        if (low_word != 0) {
            u32 sum = atomicAdd(low + slot, low_word) + low_word;
            high_word += sum < low_word ? 1u : 0u;
        }
        // Rare: a negative term's high word is all ones, and a carry makes it zero.
        if (high_word != 0) atomicAdd(high + slot, high_word);
    }

    INLINE void end() {
        __syncthreads();
        for (u32 group = threadIdx.x; group < groups; group += blockDim.x) {
            u64 sum = 0;
            for (u32 k = group << p.copies; k < (group + 1) << p.copies; ++k) sum += ((u64)high[k] << 32) + low[k];
            if (sum != 0) atomicAdd(p.sums + group, sum);
        }
    }
};

// --- Reduce -----------------------------------------------------------------------------------------------------

template <class Source, bool MASK, class Grad, class Sums>
struct Reduce {
    const ReduceParameters& p;
    u64 head;
    bool groups_aligned;
    Sums& sums;
    bool bad;

    INLINE void add(u32 group, float grad, float multiplier) {
        grad = grad * p.factor;
        if (MASK) grad = grad * multiplier;
        sums.add(group, fixed_point(grad, p.format, bad));
    }

    template <int U>
    INLINE void vectors(u64 first, u64 step) {
        const int W = Grad::WIDTH;
        u32 groups[U][W];
        float grads[U][W];
#pragma unroll
        for (int u = 0; u < U; ++u) {
            u64 vector = first + u * step;
            Grad::unpack(__ldg((const uint4*)((const typename Grad::Word*)p.grad + head) + vector), grads[u]);
            Source::read(p.groups, head + vector * W, groups_aligned, groups[u]);
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
            float multiplier[W];
            if (MASK) multipliers(p.mask, head + (first + u * step) * W, multiplier);
#pragma unroll
            for (int k = 0; k < W; ++k) add(groups[u][k], grads[u][k], MASK ? multiplier[k] : 1.0f);
        }
    }

    INLINE void single(u64 offset) {
        float multiplier[1] = {1.0f};
        if (MASK) multipliers(p.mask, offset, multiplier);
        float grad = Grad::decode(__ldg((const typename Grad::Word*)p.grad + offset));
        add(Source::one(p.groups, offset), grad, multiplier[0]);
    }
};

template <class Source, bool MASK, class Grad, class Sums>
INLINE void reduce(const ReduceParameters& p) {
    Cut run = cut(p.grad, sizeof(typename Grad::Word), p.numel);
    Sums sums(p);
    Reduce<Source, MASK, Grad, Sums> body = {p, run.head, is_aligned(p.groups.stored + run.head), sums, false};
    sums.begin();
    share<8 / Grad::WIDTH>(run, Grad::WIDTH, body);
    sums.end();
    if (body.bad) atomicOr(p.flag, 1u);
}

// --- Count ------------------------------------------------------------------------------------------------------

template <class Source, class Sums>
struct Count {
    const ReduceParameters& p;
    u64 head;
    Sums& sums;

    template <int U>
    INLINE void vectors(u64 first, u64 step) {
        u32 groups[U][4];
#pragma unroll
        for (int u = 0; u < U; ++u) Source::read(p.groups, head + (first + u * step) * 4, true, groups[u]);
#pragma unroll
        for (int u = 0; u < U; ++u) {
#pragma unroll
            for (int k = 0; k < 4; ++k) sums.add(groups[u][k], 1);
        }
    }

    INLINE void single(u64 offset) { sums.add(Source::one(p.groups, offset), 1); }
};

template <class Source, class Sums>
INLINE void count(const ReduceParameters& p) {
    // Groups are the main array; where they are hashed, it is the null pointer, which is aligned.
    Cut run = cut(p.groups.stored, sizeof(u32), p.numel);
    Sums sums(p);
    Count<Source, Sums> body = {p, run.head, sums};
    sums.begin();
    share<2>(run, 4, body);
    sums.end();
}

// --- Instances: the names are those of `Kernel::name` in crates/projection/src/cuda/launch.rs -------------------

#define APPLY(NAME, SOURCE, MASK, OUT, BASE) \
    KERNEL(PLAIN) NAME(const GRID_CONSTANT ApplyParameters p) { apply<SOURCE, MASK, OUT, BASE>(p); }

#define APPLY_EACH(NAME, SOURCE, MASK) \
    APPLY(apply_##NAME##_base_f32, SOURCE, MASK, F32, true) \
    APPLY(apply_##NAME##_f32, SOURCE, MASK, F32, false) \
    APPLY(apply_##NAME##_bf16, SOURCE, MASK, BF16, false) \
    APPLY(apply_##NAME##_f16, SOURCE, MASK, F16, false)

#define REDUCE(NAME, SOURCE, MASK, GRAD, SUMS) \
    KERNEL(SUMS::THREADS) NAME(const GRID_CONSTANT ReduceParameters p) { reduce<SOURCE, MASK, GRAD, SUMS>(p); }

#define REDUCE_EACH(NAME, SOURCE, MASK) \
    REDUCE(reduce_##NAME##_f32_global, SOURCE, MASK, F32, Global) \
    REDUCE(reduce_##NAME##_bf16_global, SOURCE, MASK, BF16, Global) \
    REDUCE(reduce_##NAME##_f16_global, SOURCE, MASK, F16, Global) \
    REDUCE(reduce_##NAME##_f32_shared, SOURCE, MASK, F32, Shared) \
    REDUCE(reduce_##NAME##_bf16_shared, SOURCE, MASK, BF16, Shared) \
    REDUCE(reduce_##NAME##_f16_shared, SOURCE, MASK, F16, Shared)

#define COUNT(NAME, SOURCE, SUMS) \
    KERNEL(SUMS::THREADS) NAME(const GRID_CONSTANT ReduceParameters p) { count<SOURCE, SUMS>(p); }

APPLY_EACH(hashed, Hashed, false)
APPLY_EACH(hashed_masked, Hashed, true)
APPLY_EACH(stored, Stored, false)
APPLY_EACH(stored_masked, Stored, true)

REDUCE_EACH(hashed, Hashed, false)
REDUCE_EACH(hashed_masked, Hashed, true)
REDUCE_EACH(stored, Stored, false)
REDUCE_EACH(stored_masked, Stored, true)

COUNT(count_hashed_global, Hashed, Global)
COUNT(count_hashed_shared, Hashed, Shared)
COUNT(count_stored_global, Stored, Global)
COUNT(count_stored_shared, Stored, Shared)
