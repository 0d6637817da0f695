// Sums over one tile: fp32 SIMD lanes over a few hundred elements, then double; where fp32 overflows or underflows
// the tile is summed again in double, so the totals are as good as a double sum at any gradient scale.
#pragma once
#include <cstdint>

#include "clip.h"

// Elements of a tile: gradient, buffer and state of this size stay in the L1 cache. (Measured: longer pays only for the
// pipeline of wide registers.)
#if defined(__AVX512BW__)
constexpr int TILE = 1024;
#else
constexpr int TILE = 512;
#endif
constexpr float SAFE_LOW = 1e-30f;  // squares lost to underflow are below 1e-5 of such a sum
constexpr float SAFE_HIGH = 1e37f;

struct Sums {
    double s1 = 0, s2 = 0, d2 = 0;  // sum g, sum g^2, sum (g - mean)^2
    double before = 0, square = 0;  // of the elements that are clipped: sums of squares before and after
    double second = 0;              // sum of what the rule's denominators are the roots of
    double limits = 0, update = 0;  // of the elements' own thresholds, and of the update: sums of squares
    int64_t clipped = 0, nonfinite = 0;

    void add(const Sums& o) {
        s1 += o.s1;
        s2 += o.s2;
        d2 += o.d2;
        before += o.before;
        square += o.square;
        second += o.second;
        limits += o.limits;
        update += o.update;
        clipped += o.clipped;
        nonfinite += o.nonfinite;
    }
};

static inline bool is_finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }

static inline bool safe(float sum) { return sum >= SAFE_LOW && sum <= SAFE_HIGH; }  // false for NaN

static inline int32_t count_nonfinite(const float* g, int n) {
    int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int i = 0; i < n; i++) count += (bits_of(g[i]) & 0x7f800000u) == 0x7f800000u;
    return count;
}

// s1, s2, d2 of the finite elements in double, and the number of the others.
static __attribute__((noinline)) void sum_in_double(const float* g, int n, double mean, Sums& sums) {
    double s1 = 0, s2 = 0, d2 = 0;
#pragma omp simd reduction(+ : s1, s2, d2)
    for (int i = 0; i < n; i++) {
        const double x = is_finite(g[i]) ? static_cast<double>(g[i]) : 0.0;
        const double centred = x - mean;
        s1 += x;
        s2 += x * x;
        d2 += centred * centred;
    }
    sums.s1 += s1;
    sums.s2 += s2;
    sums.d2 += d2;
    sums.nonfinite += count_nonfinite(g, n);
}

// Adds the sums of one tile, given those made in fp32 and whether any element is not zero. True if all are finite.
static inline bool settle_sums(const float* g, int n, float mean, float s1, float s2, float d2, bool any, Sums& sums) {
    if (!any) {
        sums.d2 += static_cast<double>(n) * mean * mean;
        return true;
    }
    if (safe(s2) && safe(d2)) {
        sums.s1 += s1;
        sums.s2 += s2;
        sums.d2 += d2;
        return true;
    }
    const int64_t before = sums.nonfinite;
    sum_in_double(g, n, mean, sums);
    return sums.nonfinite == before;
}

static inline bool sum_tile(const float* g, int n, float mean, Sums& sums) {
    float s1 = 0, s2 = 0, d2 = 0;
    uint32_t any = 0;
#pragma omp simd reduction(+ : s1, s2, d2) reduction(| : any)
    for (int i = 0; i < n; i++) {
        const float x = g[i], centred = x - mean;
        s1 += x;
        s2 += x * x;
        d2 += centred * centred;
        any |= bits_of(x) << 1;
    }
    return settle_sums(g, n, mean, s1, s2, d2, any != 0, sums);
}

// Sum of squares of values of any scale; `fast` is the fp32 sum made on the way.
static inline double sum_of_squares(const float* x, int n, float fast) {
    if (safe(fast) || n == 0) return fast;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += static_cast<double>(x[i]) * x[i];
    return sum;
}
