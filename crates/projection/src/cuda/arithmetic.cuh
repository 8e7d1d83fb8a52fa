// All arithmetic of the kernels: groups, the dropout mask, fixed point and the rounding of 16-bit formats.
//
// Plain functions over a few of CUDA's intrinsics, so that a C++ compiler that is given those (tests/cuda/host.h)
// makes the same functions for the CPU, where they are compared with the Rust code bit by bit. The constants and
// formulas are those of `partition::Stateless`, `projection::Dropout` and `projection::FixedPoint`. f32 operations
// must be rounded one by one: compile without contraction to fused multiply-add and without flushing subnormals.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define INLINE __device__ __forceinline__

// --- Groups -----------------------------------------------------------------------------------------------------

/// The finalizer of SplitMix64.
INLINE u64 split_mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/// Remainders modulo d, 1 <= d <= 2^32, without a division.
struct Modulus {
    u64 d;
    /// m = floor((2^64 - 1) / d). Then q = floor(z m / 2^64) is floor(z / d) or one less for every z.
    u64 reciprocal;
    /// A `ModulusKind`.
    u32 kind;
    u32 padding;
};

enum ModulusKind {
    /// d is a power of two: the low bits.
    POWER_OF_TWO = 0,
    /// d <= 2^31: z - q d is below 2 d <= 2^32, so its low 32 bits are all of it.
    NARROW = 1,
    /// Any other.
    WIDE = 2,
};

INLINE u32 remainder_narrow(u64 z, u64 reciprocal, u32 d) {
    u32 r = (u32)z - (u32)__umul64hi(z, reciprocal) * d;
    return r >= d ? r - d : r;
}

INLINE u32 remainder_wide(u64 z, u64 reciprocal, u64 d) {
    u64 r = z - __umul64hi(z, reciprocal) * d;
    return (u32)(r >= d ? r - d : r);
}

/// The groups of N weights whose states before mixing are `state`, `state + 1`, ...
///
/// The kind is the same for the whole launch: one branch for N weights, and no thread leaves its warp.
template <int N>
INLINE void hashed_groups(const Modulus& modulus, u64 state, u32 (&groups)[N]) {
    u64 z[N];
#pragma unroll
    for (int k = 0; k < N; ++k) z[k] = split_mix(state + k);
    if (modulus.kind == POWER_OF_TWO) {
#pragma unroll
        for (int k = 0; k < N; ++k) groups[k] = (u32)z[k] & (u32)(modulus.d - 1);
    } else if (modulus.kind == NARROW) {
#pragma unroll
        for (int k = 0; k < N; ++k) groups[k] = remainder_narrow(z[k], modulus.reciprocal, (u32)modulus.d);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) groups[k] = remainder_wide(z[k], modulus.reciprocal, modulus.d);
    }
}

// --- Dropout ----------------------------------------------------------------------------------------------------

/// The mask of one micro-batch, see crates/projection/src/dropout.rs.
struct Mask {
    u64 key[2];
    /// Global index of the launch's first weight.
    u64 first_index;
    u32 threshold;
    float factor;
};

/// The finalizer of MurmurHash3 with a key between its two multiplications.
INLINE u64 murmur(u64 z, u64 key) {
    z = (z ^ (z >> 33)) * 0xFF51AFD7ED558CCDull;
    z = (z ^ (z >> 33) ^ key) * 0xC4CEB9FE1A85EC53ull;
    return z ^ (z >> 33);
}

INLINE float choose(const Mask& mask, u32 bits) {
    return bits >= mask.threshold ? mask.factor : 0.0f;
}

/// The multipliers of N weights, the first of which is `offset` weights into the launch. A word serves the weights
/// 2k (low half) and 2k + 1 (high half).
template <int N>
INLINE void multipliers(const Mask& mask, u64 offset, float (&out)[N]) {
    const u64 weyl = 0xD1B54A32D192ED03ull;
    u64 index = mask.first_index + offset;
    u64 counter = (index >> 1) * weyl + mask.key[0];
    if (index & 1) {
        u64 word = murmur(counter, mask.key[1]);
#pragma unroll
        for (int k = 0; k < N; k += 2) {
            out[k] = choose(mask, (u32)(word >> 32));
            if (k + 1 < N) {
                counter += weyl;
                word = murmur(counter, mask.key[1]);
                out[k + 1] = choose(mask, (u32)word);
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k += 2) {
            u64 word = murmur(counter, mask.key[1]);
            counter += weyl;
            out[k] = choose(mask, (u32)word);
            if (k + 1 < N) out[k + 1] = choose(mask, (u32)(word >> 32));
        }
    }
}

// --- Fixed point ------------------------------------------------------------------------------------------------

/// The format of the sums, see crates/projection/src/fixed_point.rs.
struct Format {
    /// Terms must be smaller than this in size.
    float limit;
    /// 2^e.
    float unit;
};

/// round-half-even(grad 2^e); 0, and `bad` is set, where that is out of range or not a number.
INLINE i64 fixed_point(float grad, const Format& format, bool& bad) {
    bool fits = fabsf(grad) < format.limit;
    bad = bad || !fits;
    return fits ? __float2ll_rn(grad * format.unit) : 0;
}

// --- 16-bit formats ---------------------------------------------------------------------------------------------

/// f32 to bfloat16, half to even.
INLINE u16 to_bf16(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0;
    return (u16)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

INLINE float from_bf16(u16 half) {
    return __uint_as_float((u32)half << 16);
}

/// f32 to IEEE binary16, half to even.
INLINE u16 to_f16(float value) {
    u32 bits = __float_as_uint(value);
    u32 sign = (bits >> 16) & 0x8000u;
    u32 size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) return (u16)(sign | 0x7E00u);
    // From 65520 on, which lies half way between the largest number and 2^16.
    if (size >= 0x477FF000u) return (u16)(sign | 0x7C00u);
    // From 2^-14 on: 13 bits of the significand go, and the exponent's bias from 127 to 15.
    if (size >= 0x38800000u) return (u16)(sign | ((size + 0xFFFu + ((size >> 13) & 1u) - 0x38000000u) >> 13));
    // Up to 2^-25, half of the smallest number.
    if (size <= 0x33000000u) return (u16)sign;
    // Subnormal: significand 2^(exponent - 150) in units of 2^-24.
    u32 shift = 126u - (size >> 23);
    u32 significand = (size & 0x7FFFFFu) | 0x800000u;
    u32 quotient = significand >> shift;
    u32 rest = significand & ((1u << shift) - 1u);
    u32 half = 1u << (shift - 1u);
    u32 up = (rest > half || (rest == half && (quotient & 1u))) ? 1u : 0u;
    return (u16)(sign | (quotient + up));
}

INLINE float from_f16(u16 half) {
    u32 sign = (u32)(half & 0x8000u) << 16;
    u32 size = half & 0x7FFFu;
    if (size >= 0x7C00u) return __uint_as_float(sign | 0x7F800000u | ((size & 0x3FFu) << 13));
    if (size >= 0x400u) return __uint_as_float(sign | ((size << 13) + 0x38000000u));
    // Subnormal: exact, as an integer below 2^10 times 2^-24.
    return __uint_as_float(sign | __float_as_uint((float)size * 5.9604644775390625e-8f));
}

// --- Vectors of 16 bytes ----------------------------------------------------------------------------------------

/// A format of numbers in memory: `Word` holds one, a vector of 16 bytes `WIDTH`.
struct F32 {
    typedef u32 Word;
    static const int WIDTH = 4;
    static INLINE float decode(u32 word) { return __uint_as_float(word); }
    static INLINE u32 encode(float value) { return __float_as_uint(value); }
    static INLINE void unpack(const uint4& vector, float (&out)[4]) {
        const u32 words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) out[k] = decode(words[k]);
    }
    static INLINE uint4 pack(const float (&values)[4]) {
        uint4 vector;
        vector.x = encode(values[0]);
        vector.y = encode(values[1]);
        vector.z = encode(values[2]);
        vector.w = encode(values[3]);
        return vector;
    }
};

/// What the two 16-bit formats have in common; `Half` converts one number.
template <class Half>
struct Halves {
    typedef u16 Word;
    static const int WIDTH = 8;
    static INLINE void unpack(const uint4& vector, float (&out)[8]) {
        const u32 words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            out[2 * k] = Half::decode((u16)words[k]);
            out[2 * k + 1] = Half::decode((u16)(words[k] >> 16));
        }
    }
    static INLINE u32 pair(float low, float high) { return Half::encode(low) | (u32)Half::encode(high) << 16; }
    static INLINE uint4 pack(const float (&values)[8]) {
        uint4 vector;
        vector.x = pair(values[0], values[1]);
        vector.y = pair(values[2], values[3]);
        vector.z = pair(values[4], values[5]);
        vector.w = pair(values[6], values[7]);
        return vector;
    }
};

struct BF16 : Halves<BF16> {
    static INLINE float decode(u16 word) { return from_bf16(word); }
    static INLINE u16 encode(float value) { return to_bf16(value); }
};

struct F16 : Halves<F16> {
    static INLINE float decode(u16 word) { return from_f16(word); }
    static INLINE u16 encode(float value) { return to_f16(value); }
};
