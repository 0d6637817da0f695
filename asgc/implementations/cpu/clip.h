// Smooth clip phi_p(x; tau) = lo (1 + |q|^p)^(-1/p), lo = x limited to +-tau, hi = max(|x|, tau), q = lo/hi.
// The loops below are plain on purpose: the compiler vectorizes them (-O3 -march=native).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "noise.h"

enum Sharpness { POWER_4, POWER_2, POWER_1, POWER_8, POWER_16, HARD, POWER_ANY };

static inline Sharpness sharpness_kind(double p) {
    if (p == 4) return POWER_4;
    if (p == 2) return POWER_2;
    if (p == 1) return POWER_1;
    if (p == 8) return POWER_8;
    if (p == 16) return POWER_16;
    if (std::isinf(p)) return HARD;
    return POWER_ANY;
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u;
}

static inline float float_of(uint32_t u) {
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

// (1 + z)^(-1/4) on [0, 1]: minimax polynomial of degree 7, relative error 1e-7 (1.5e-7 with rounding).
template <typename T>
static inline T inverse_fourth_root(T z) {
    T r = z * -0.0043200823f + 0.021926017f;
    r = r * z - 0.052501954f;
    r = r * z + 0.084729217f;
    r = r * z - 0.11496235f;
    r = r * z + 0.15601705f;
    r = r * z - 0.24999157f;
    return r * z + 1.0f;
}

// log2 of a positive normal number: exponent + (2 / ln 2) atanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)).
static inline float log2_of(float x) {
    const uint32_t u = bits_of(x) - 0x3f3504f3u;
    const float exponent = static_cast<float>(static_cast<int32_t>(u) >> 23);
    const float m = float_of((u & 0x007fffffu) + 0x3f3504f3u);
    const float t = (m - 1.0f) / (m + 1.0f), s = t * t;
    float r = 0.32059889f;
    r = r * s + 0.41219857f;
    r = r * s + 0.57707801f;
    r = r * s + 0.96179669f;
    r = r * s + 2.88539008f;
    return r * t + exponent;
}

// 2^x for x in [-126, 126].
static inline float exp2_of(float x) {
    const float shifted = x + 12582912.0f;  // 1.5 * 2^23: the low bits now hold round(x)
    const float f = x - (shifted - 12582912.0f);
    float r = 1.5252734e-5f;
    r = r * f + 1.5403530e-4f;
    r = r * f + 1.3333558e-3f;
    r = r * f + 9.6181291e-3f;
    r = r * f + 5.5504109e-2f;
    r = r * f + 2.4022651e-1f;
    r = r * f + 6.9314718e-1f;
    r = r * f + 1.0f;
    return float_of(bits_of(r) + (bits_of(shifted) << 23));
}

template <Sharpness KIND>
static inline float shrink(float q, float p, float inverse_p) {
    if (KIND == POWER_4) {
        const float s = q * q;
        return inverse_fourth_root(s * s);
    }
    if (KIND == POWER_8 || KIND == POWER_16) {
        const float s = q * q, t = s * s, z = t * t;
        if (KIND == POWER_8) return std::sqrt(inverse_fourth_root(z));
        return std::sqrt(std::sqrt(inverse_fourth_root(z * z)));
    }
    if (KIND == POWER_2) return 1.0f / std::sqrt(1.0f + q * q);
    if (KIND == POWER_1) return 1.0f / (1.0f + q);
    if (KIND == HARD) return 1.0f;
    const float exponent = p * log2_of(q > 1.17549435e-38f ? q : 1.17549435e-38f);
    const float z = q > 0.0f ? exp2_of(exponent > -126.0f ? exponent : -126.0f) : 0.0f;
    const float root = -inverse_p * log2_of(1.0f + z);
    return exp2_of(root > -126.0f ? root : -126.0f);
}

// out = phi(x; tau) for 0 < tau < inf; adds the number of elements beyond tau and the sum of out^2.
template <Sharpness KIND>
static void clip_tile(float* out, const float* x, int n, float tau, float p, int32_t& clipped, float& square) {
    const float inverse_p = 1.0f / p;
    int32_t beyond = 0;
    float sum = 0.0f;
#pragma omp simd reduction(+ : beyond, sum)
    for (int i = 0; i < n; i++) {
        const float a = std::fabs(x[i]), hi = a > tau ? a : tau;
        const float below = x[i] < tau ? x[i] : tau, lo = below > -tau ? below : -tau;
        const float q = KIND == POWER_4 || KIND == POWER_2 ? lo / hi : std::fabs(lo) / hi;  // even powers need no sign
        const float y = lo * shrink<KIND>(q, p, inverse_p);
        beyond += a > tau;
        sum += y * y;
        out[i] = y;
    }
    clipped = beyond;
    square = sum;
}

#ifdef ASGC_SIMD
static inline Floats clip_register(Floats value, Floats limit, int32_t& beyond) {
    const Floats size = absolute(value), lo = largest(smallest(value, limit), -limit);
    const Floats q = lo / largest(size, limit), s = q * q;
    beyond += count_greater(size, limit);
    return lo * inverse_fourth_root(s * s);
}

// The default sharpness on whole registers, a quarter faster than what the compiler makes of the loop above.
template <>
void clip_tile<POWER_4>(float* out, const float* x, int n, float tau, float, int32_t& clipped, float& square) {
    const Floats limit = tau - Floats{};
    Floats sum{};
    int32_t beyond = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        Floats value;
        std::memcpy(&value, x + i, sizeof value);
        const Floats y = clip_register(value, limit, beyond);
        sum += y * y;
        std::memcpy(out + i, &y, sizeof y);
    }
    float total = 0.0f;
    for (; i < n; i++) {
        const float a = std::fabs(x[i]), below = x[i] < tau ? x[i] : tau, lo = below > -tau ? below : -tau;
        const float q = lo / (a > tau ? a : tau), s = q * q, y = lo * inverse_fourth_root(s * s);
        beyond += a > tau;
        total += y * y;
        out[i] = y;
    }
    clipped = beyond;
    square = total + sum_of(sum);
}
#endif

// f of the kind as a constant, which templates need.
template <typename F>
static inline void with_kind(Sharpness kind, F f) {
    switch (kind) {
        case POWER_4: return f(std::integral_constant<Sharpness, POWER_4>{});
        case POWER_2: return f(std::integral_constant<Sharpness, POWER_2>{});
        case POWER_1: return f(std::integral_constant<Sharpness, POWER_1>{});
        case POWER_8: return f(std::integral_constant<Sharpness, POWER_8>{});
        case POWER_16: return f(std::integral_constant<Sharpness, POWER_16>{});
        case HARD: return f(std::integral_constant<Sharpness, HARD>{});
        case POWER_ANY: return f(std::integral_constant<Sharpness, POWER_ANY>{});
    }
}

static inline void clip_tile(Sharpness kind, float* out, const float* x, int n, float tau, float p, int32_t& clipped,
                             float& square) {
    with_kind(kind, [&](auto known) { clip_tile<known.value>(out, x, n, tau, p, clipped, square); });
}

// out = phi(x; limit) with a threshold for each element, which may be 0 or infinite.
template <Sharpness KIND>
static void clip_elements(float* out, const float* x, const float* limit, int n, float p, int32_t& clipped,
                          float& square) {
    const float inverse_p = 1.0f / p;
    int32_t beyond = 0;
    float sum = 0.0f;
#pragma omp simd reduction(+ : beyond, sum)
    for (int i = 0; i < n; i++) {
        const float tau = limit[i], a = std::fabs(x[i]), hi = a > tau ? a : tau;
        const float below = x[i] < tau ? x[i] : tau, lo = below > -tau ? below : -tau;
        const float y = hi > 0.0f ? lo * shrink<KIND>(std::fabs(lo) / hi, p, inverse_p) : 0.0f;
        beyond += a > tau;
        sum += y * y;
        out[i] = y;
    }
    clipped = beyond;
    square = sum;
}

static inline void clip_elements(Sharpness kind, float* out, const float* x, const float* limit, int n, float p,
                                 int32_t& clipped, float& square) {
    with_kind(kind, [&](auto known) { clip_elements<known.value>(out, x, limit, n, p, clipped, square); });
}

// The same for one number in double precision (the norm of a row).
static inline double clip_scalar(Sharpness kind, double x, double tau, double p) {
    if (std::isinf(tau)) return x;
    if (tau == 0 || x == 0) return 0;
    const double lo = x < tau ? x : tau, hi = x < tau ? tau : x;
    const double q = std::isinf(hi) ? 0 : lo / hi;
    switch (kind) {
        case POWER_4: return lo / std::sqrt(std::sqrt(1 + q * q * q * q));
        case POWER_2: return lo / std::sqrt(1 + q * q);
        case POWER_1: return lo / (1 + q);
        case HARD: return lo;
        default: break;
    }
    return lo * std::pow(1 + std::pow(q, p), -1 / p);
}
