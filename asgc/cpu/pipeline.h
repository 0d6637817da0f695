// The default configuration, adam with noise or the elementwise clip of sharpness 4, as one software-pipelined loop.
//
// Each turn adds noise to one register of gradients, clips the one before and updates parameters with the one before
// that. The three chains are independent, so the integer units (hash), the multipliers (clip) and the divider (adam)
// work at the same time and while memory is read: a quarter faster than the loops of tile.h one after the other, which
// compute the same and serve everything else.
#pragma once
#include "tile.h"

#ifdef ASGC_SIMD

static inline Floats load(const float* x) {
    Floats value;
    std::memcpy(&value, x, sizeof value);
    return value;
}

static inline void store(float* x, Floats value) { std::memcpy(x, &value, sizeof value); }

static inline float sum_of(Floats x) {
    float total = 0.0f;
    for (int lane = 0; lane < LANES; lane++) total += x[lane];
    return total;
}

// Clip and adam together need more registers than AVX2 has, so there the clip stays a loop of its own.
static inline bool pipelined(const Layer& layer, const Work& w, Rule rule, int n) {
    const bool plain_adam = rule == ADAM && !w.rule.flag && w.rule.one < 0.5f;
    const bool clip = LANES == 16 && w.kind == POWER_4 && w.tau > 0 && !w.first_pass;
    return plain_adam && layer.dims == 0 && !w.zero && n >= 2 * LANES && n % LANES == 0 &&
           (w.clips ? clip : !w.by_value && w.noise != 0);
}

// One tile. p, a, b: parameter, exp_avg, exp_avg_sq at the place of the gradients g. With CLIP (value mode) it makes
// the tile's sums too; infinite elements become +-tau by the formula itself.
template <bool NOISE, bool CLIP>
static void adam_pipeline(float* p, float* a, float* b, const float* g, int n, uint32_t start, Key key, const Work& w,
                          Sums& sums) {
    const Coefficients& k = w.rule;
    const Words k0 = key.k0 - Words{}, k1 = key.k1 - Words{}, all = (w.noise_zeros ? ~0u : 0u) - Words{};
    const Floats limit = w.tau - Floats{};
    const float noise_scale = w.noise, mean = static_cast<float>(w.mean), scale = k.scale, decay = k.decay, keep = k.keep;
    const float lr = k.lr, weight = k.one, beta2 = k.two, fresh = k.three, correction = k.four, eps = k.eps;
    Words index = start - Words{}, any{};
    for (int lane = 0; lane < LANES; lane++) index[lane] += static_cast<uint32_t>(lane);
    Floats s1{}, s2{}, d2{}, square{};
    int32_t beyond = 0;

    const auto noisy = [&](int i) {
        const Floats x = load(g + i);
        Floats h = x;
        if (NOISE) h = with_noise(x, index, k0, k1, noise_scale, all);
        index += LANES;
        if (CLIP) {
            const Floats centred = x - mean;
            s1 += x;
            s2 += x * x;
            d2 += centred * centred;
            any |= (Words)x << 1;
            h = without_nan(h);
        }
        return h;
    };
    const auto clipped = [&](Floats h) {
        Floats y = h;
        if (CLIP) y = clip_register(h, limit, beyond);
        square += y * y;
        return y;
    };
    const auto update = [&](int i, Floats y) {
        const Floats old = load(p + i), m = load(a + i), x = y * scale + decay * old;
        const Floats first = m + weight * (x - m), second = beta2 * load(b + i) + fresh * x * x;
        store(a + i, first);
        store(b + i, second);
        store(p + i, old * keep - lr * (first / (square_root(second) * correction + eps)));
    };

    Floats y = clipped(noisy(0)), h = noisy(LANES);
    int i = 0;
    for (; i + 2 * LANES < n; i += LANES) {
        const Floats next_h = noisy(i + 2 * LANES), next_y = clipped(h);
        update(i, y);
        h = next_h;
        y = next_y;
    }
    update(i, y);
    update(i + LANES, clipped(h));

    bool finite = true;
    if (CLIP) {
        uint32_t bits = 0;
        for (int lane = 0; lane < LANES; lane++) bits |= any[lane];
        finite = settle_sums(g, n, mean, sum_of(s1), sum_of(s2), sum_of(d2), bits, sums);
        sums.clipped += beyond;
    }
    const float total = sum_of(square);
    if (safe(total)) {
        sums.square += total;
    } else {  // its squares leave fp32's range: make the transformed gradient again for their sum
        Tile tile;
        Sums again;
        const float* x = transform_tile(w, g, n, start, nullptr, key, finite, tile, again);
        sums.square += sum_of_squares(x, n, 0.0f);
    }
}

static inline void adam_pipeline(float* p, float* a, float* b, const float* g, int n, uint32_t start, Key key,
                                 const Work& w, Sums& sums) {
    if (!w.clips) return adam_pipeline<true, false>(p, a, b, g, n, start, key, w, sums);
    if (w.noise != 0) return adam_pipeline<true, true>(p, a, b, g, n, start, key, w, sums);
    return adam_pipeline<false, true>(p, a, b, g, n, start, key, w, sums);
}

#endif
