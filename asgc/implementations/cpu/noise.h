// Hash noise: a pure function of (seed, step, layer, index), the same bits as asgc/noise.py.
#pragma once
#include <cstdint>
#include <cstring>

#include "simd.h"

static inline uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

struct Key {
    uint32_t k0, k1;
};

// high: upper word of the element's index.
static inline Key noise_key(uint32_t seed, uint32_t step, uint32_t layer, uint32_t high) {
    uint32_t k0 = mix(mix(mix(seed ^ 0x243f6a88u) + step) + layer);
    if (high != 0) k0 = mix(k0 + high);
    return {k0, mix(k0 ^ 0x85a308d3u)};
}

// Sum of the eight bytes of two hashed words, centred: Irwin-Hall, close to N(0, 1).
static inline float gaussian(uint32_t index, uint32_t k0, uint32_t k1) {
    const uint32_t a = mix(index ^ k0), b = mix(a + k1);
    const uint32_t pairs = (a & 0x00ff00ffu) + ((a >> 8) & 0x00ff00ffu) + (b & 0x00ff00ffu) + ((b >> 8) & 0x00ff00ffu);
    const int32_t sum = static_cast<int32_t>((pairs & 0xffffu) + (pairs >> 16));
    return static_cast<float>(sum - 1020) * static_cast<float>(1 / 209.0217);
}

#ifdef ASGC_SIMD
// The same on a SIMD register of words. Only the byte sum needs intrinsics: it halves the cost of the noise.
static inline Words mix_words(Words x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

// Sum of the four bytes of a and the four of b in each lane, minus their mean.
static inline Integers byte_sums(Words a, Words b) {
#if defined(__AVX512VNNI__)
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i sum = _mm512_dpbusd_epi32(_mm512_set1_epi32(-1020), (__m512i)a, ones);
    return (Integers)_mm512_dpbusd_epi32(sum, (__m512i)b, ones);
#elif defined(__AVX512BW__)
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16((__m512i)a, ones), _mm512_maddubs_epi16((__m512i)b, ones));
    return (Integers)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)) - 1020;
#else
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)a, ones), _mm256_maddubs_epi16((__m256i)b, ones));
    return (Integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)) - 1020;
#endif
}

static inline Floats gaussians(Words index, Words k0, Words k1) {
    const Words a = mix_words(index ^ k0), b = mix_words(a + k1);
    return __builtin_convertvector(byte_sums(a, b), Floats) * static_cast<float>(1 / 209.0217);
}

// scale * eps; where x is exactly zero only with `zeros` (all bits of a lane set). The product is rounded before it is
// added to x, as in the reference: fused with the addition it would leave other numbers where the two nearly cancel.
static inline Floats noise_for(Floats x, Words index, Words k0, Words k1, float scale, Words zeros) {
    Floats noise = gaussians(index, k0, k1) * scale;
    __asm__("" : "+v"(noise));  // the compiler must not look through here, or it fuses
    const Words wanted = (Words)(x != 0.0f) | zeros;
    return (Floats)((Words)noise & wanted);
}
#endif

// out = x + scale * eps, or scale * eps ALONE, for the elements index[0..n), or start.. where there is no index; eps has
// the same bits as gaussian(). Elements that are exactly zero get none unless asked for.
template <bool ALONE = false>
static inline void add_noise(float* out, const float* x, int n, uint32_t start, const uint32_t* index, Key key,
                             float scale, bool zeros) {
    int i = 0;
#ifdef ASGC_SIMD
    const Words k0 = key.k0 - Words{}, k1 = key.k1 - Words{}, all = (zeros ? ~0u : 0u) - Words{};
    Words at = start - Words{};
    for (int lane = 0; lane < LANES; lane++) at[lane] += static_cast<uint32_t>(lane);
    for (; i + LANES <= n; i += LANES, at += LANES) {
        Words words = at;
        Floats value;
        if (index != nullptr) std::memcpy(&words, index + i, sizeof words);
        std::memcpy(&value, x + i, sizeof value);
        const Floats noise = noise_for(value, words, k0, k1, scale, all);
        value = ALONE ? noise : value + noise;
        std::memcpy(out + i, &value, sizeof value);
    }
#endif
    for (float noise[64]; i < n; i += 64) {  // in memory, so that nothing is fused here either
        const int count = n - i < 64 ? n - i : 64;
        for (int j = 0; j < count; j++) {
            const uint32_t place = index != nullptr ? index[i + j] : start + static_cast<uint32_t>(i + j);
            noise[j] = scale * gaussian(place, key.k0, key.k1);
        }
        for (int j = 0; j < count; j++) {
            const float wanted = zeros || x[i + j] != 0.0f ? noise[j] : 0.0f;
            out[i + j] = ALONE ? wanted : x[i + j] + wanted;
        }
    }
}
