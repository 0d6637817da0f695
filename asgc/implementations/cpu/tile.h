// The gradient transform of one tile: sums, noise and clip, into a buffer that stays in the L1 cache.
#pragma once
#include "row.h"

struct Tile {
    alignas(64) float out[TILE];
    alignas(64) float clean[TILE];
    alignas(64) float noise[TILE];
    alignas(64) float limit[TILE];  // of each element
    alignas(64) uint32_t index[TILE];
};

// Row-major indices of the elements at start.. in memory order, for a layer whose memory order is another one.
static void logical_indices(const Layer& layer, int64_t start, int n, uint32_t* index) {
    const int last = static_cast<int>(layer.dims) - 1;
    int64_t at[MAX_DIMS], base = 0, rest = start;
    for (int d = last; d >= 0; d--) {
        at[d] = rest % layer.size[d];
        rest /= layer.size[d];
        if (d < last) base += at[d] * layer.stride[d];
    }
    const uint32_t inner = static_cast<uint32_t>(layer.stride[last]);
    for (int done = 0; done < n;) {
        const int run = static_cast<int>(std::min<int64_t>(n - done, layer.size[last] - at[last]));
        const uint32_t first = static_cast<uint32_t>(base + at[last] * layer.stride[last]);
        for (int i = 0; i < run; i++) index[done + i] = first + inner * static_cast<uint32_t>(i);
        done += run;
        at[last] = 0;
        for (int d = last - 1; d >= 0; d--) {
            base += layer.stride[d];
            if (++at[d] < layer.size[d]) break;
            base -= layer.size[d] * layer.stride[d];
            at[d] = 0;
        }
    }
}

static inline float square_tile(const float* x, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

// Thresholds of n elements with the second moments `second`: that of the layer where there is none yet. Their sum of
// squares goes into the sums.
static void set_limits(const Shared& s, const Row& r, const float* second, int n, float* limit, Sums& sums) {
    const float factor = s.element_factor, correction = s.element_correction, tau = r.tau;
#pragma omp simd
    for (int i = 0; i < n; i++) limit[i] = second[i] > 0.0f ? factor * std::sqrt(second[i] * correction) : tau;
    sums.limits += sum_of_squares(limit, n, square_tile(limit, n));
}

// Contained non-finite elements of value mode: a NaN gives 0, an infinite one +-tau (0 where tau is infinite).
static void contain_tile(float* out, const float* g, int n, float tau, const float* limit, Sums& sums) {
    for (int i = 0; i < n; i++) {
        if (is_finite(g[i])) continue;
        const float own = limit == nullptr ? tau : limit[i];
        out[i] = g[i] != g[i] || std::isinf(own) ? 0.0f : std::copysign(own, g[i]);
        sums.clipped += g[i] == g[i] && !std::isinf(own);
    }
}

// Returns where the transformed gradient of n elements lies: g itself or tile.out. The elements' row-major indices are
// in `index`, or count up from `start`.
static inline const float* transform_tile(const Shared& s, const Row& r, const float* g, int n, uint32_t start,
                                          const uint32_t* index, Key key, bool finite, Tile& tile, Sums& sums) {
    if (r.zero) {
        std::fill(tile.out, tile.out + n, 0.0f);
        return tile.out;
    }
    const float* x = g;
    if (!finite) {
        for (int i = 0; i < n; i++) tile.clean[i] = is_finite(g[i]) ? g[i] : 0.0f;
        x = tile.clean;
    }
    if (r.noise != 0) {
        add_noise(tile.out, x, n, start, index, key, r.noise, s.noise_zeros);
        x = tile.out;
        if (r.clips) sums.before += sum_of_squares(x, n, square_tile(x, n));
    }
    if (r.clips && (s.by_element || r.tau > 0)) {
        int32_t clipped;
        float square;
        if (s.by_element) clip_elements(s.kind, tile.out, x, tile.limit, n, s.sharpness, clipped, square);
        else clip_tile(s.kind, tile.out, x, n, r.tau, s.sharpness, clipped, square);
        x = tile.out;
        sums.clipped += clipped;
        sums.square += sum_of_squares(x, n, square);
    } else if (r.clips) {
        for (int i = 0; i < n; i++) {
            sums.clipped += x[i] != 0.0f;
            tile.out[i] = 0.0f;
        }
        x = tile.out;
    }
    if (!finite) {
        if (x != tile.out) std::copy(x, x + n, tile.out);
        x = tile.out;
        const bool own = s.by_element && !r.was_new;
        contain_tile(tile.out, g, n, r.was_new ? std::numeric_limits<float>::infinity() : r.tau,
                     own ? tile.limit : nullptr, sums);
    }
    return x;
}
