// SIMD registers for what the compiler does not vectorize well by itself: noise, the default clip, and their pipeline.
// Elsewhere, and on other CPUs, plain loops are vectorized by the compiler.
#pragma once
#include <cstdint>

#if defined(__AVX512BW__) || defined(__AVX2__)
#define ASGC_SIMD
#include <immintrin.h>

#if defined(__AVX512BW__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef float Floats __attribute__((vector_size(4 * LANES)));

#if defined(__AVX512BW__)
static inline Floats smallest(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
static inline Floats largest(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
static inline Floats absolute(Floats a) { return (Floats)_mm512_abs_ps((__m512)a); }
static inline Floats square_root(Floats a) { return (Floats)_mm512_sqrt_ps((__m512)a); }
static inline Floats without_nan(Floats a) {  // 0 in place of NaN
    return (Floats)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_ORD_Q), (__m512)a);
}
static inline int32_t count_greater(Floats a, Floats b) {
    return __builtin_popcount(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ));
}
static inline bool any_bits(Words a) { return _mm512_test_epi32_mask((__m512i)a, (__m512i)a) != 0; }
static inline float sum_of(Floats a) { return _mm512_reduce_add_ps((__m512)a); }
#else
static inline Floats smallest(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
static inline Floats largest(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
static inline Floats absolute(Floats a) { return (Floats)((Words)a & 0x7fffffffu); }
static inline Floats square_root(Floats a) { return (Floats)_mm256_sqrt_ps((__m256)a); }
static inline Floats without_nan(Floats a) { return (Floats)((Words)a & (Words)(a == a)); }
static inline int32_t count_greater(Floats a, Floats b) {
    return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps((__m256)(a > b))));
}
static inline bool any_bits(Words a) { return _mm256_testz_si256((__m256i)a, (__m256i)a) == 0; }
static inline float sum_of(Floats a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#endif
#endif
