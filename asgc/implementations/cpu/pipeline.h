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

// Clip and adam together need more registers than AVX2 has, so there the clip stays a loop of its own.
static inline bool pipelined(const Layer& layer, const Shared& s, const Row& r, int n) {
    const bool plain_adam = s.rule == ADAM && !r.rule.flag && r.rule.one < 0.5f;
    const bool noise = r.noise != 0 || r.langevin != 0;  // then the first pass has made the sums
    const bool clip = LANES == 16 && s.kind == POWER_4 && r.tau > 0 && (noise || !r.first_pass);
    if (s.by_element || layer.ceiling != nullptr) return false;
    return plain_adam && layer.dims == 0 && !r.zero && n >= 2 * LANES && n % LANES == 0 && (r.clips ? clip : noise);
}

enum Noise { NONE, AT_GRADIENT, AT_UPDATE };

// One tile. p, a, b: parameter, exp_avg, exp_avg_sq at the place of the gradients g. With CLIP (value mode) and without
// noise it makes the tile's sums too; infinite elements become +-tau by the formula itself.
template <Noise NOISE, bool CLIP>
static void adam_pipeline(float* p, float* a, float* b, const float* g, int n, uint32_t start, Key key, const Shared& s,
                          const Row& r, Sums& sums) {
    constexpr bool SUM = CLIP && NOISE == NONE;
    const Coefficients& k = r.rule;
    const Words k0 = key.k0 - Words{}, k1 = key.k1 - Words{}, all = (s.noise_zeros ? ~0u : 0u) - Words{};
    const Floats limit = r.tau - Floats{};
    const float noise_scale = r.noise + r.langevin, mean = static_cast<float>(r.mean), scale = k.scale, decay = k.decay;
    const float lr = k.lr, weight = k.one, beta2 = k.two, fresh = k.three, correction = k.four, eps = k.eps;
    const float keep = k.keep, noise_lr = k.noise_lr;
    Words index = start - Words{}, any{};
    for (int lane = 0; lane < LANES; lane++) index[lane] += static_cast<uint32_t>(lane);
    Floats s1{}, s2{}, d2{}, before{}, square{};
    int32_t beyond = 0;

    const auto noisy = [&](int i) {
        const Floats x = load(g + i);
        Floats h = x;
        if (NOISE == AT_GRADIENT) {
            h += noise_for(x, index, k0, k1, noise_scale, all);
            index += LANES;
        }
        if (SUM) {
            const Floats centred = x - mean;
            s1 += x;
            s2 += x * x;
            d2 += centred * centred;
            any |= (Words)x << 1;
            h = without_nan(h);
        }
        if (CLIP && NOISE == AT_GRADIENT) before += h * h;
        return h;
    };
    const auto clipped = [&](Floats h) {
        if (!CLIP) return h;
        const Floats y = clip_register(h, limit, beyond);
        square += y * y;
        return y;
    };
    const auto update = [&](int i, Floats y) {
        const Floats old = load(p + i), m = load(a + i), x = y * scale + decay * old;
        const Floats first = m + weight * (x - m), second = beta2 * load(b + i) + fresh * x * x;
        Floats moved = old * keep - lr * (first / (square_root(second) * correction + eps));
        if (NOISE == AT_UPDATE) {
            moved -= noise_lr * noise_for(load(g + i), index, k0, k1, noise_scale, all);
            index += LANES;
        }
        store(a + i, first);
        store(b + i, second);
        store(p + i, moved);
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

    if (!CLIP) return;
    const bool finite = !SUM || settle_sums(g, n, mean, sum_of(s1), sum_of(s2), sum_of(d2), any_bits(any), sums);
    const float total = sum_of(square), total_before = sum_of(before);
    sums.clipped += beyond;
    if (finite && safe(total) && (NOISE != AT_GRADIENT || safe(total_before))) {
        sums.square += total;
        sums.before += total_before;
    } else {  // squares leave fp32's range, or are those of infinite elements, too: make the transformed gradient again
        Tile tile;
        Sums again;
        transform_tile(s, r, g, n, start, nullptr, key, finite, tile, again);
        sums.square += again.square;
        sums.before += again.before;
    }
}

static inline void adam_pipeline(float* p, float* a, float* b, const float* g, int n, uint32_t start, Key key,
                                 const Shared& s, const Row& r, Sums& sums) {
    if (r.langevin != 0)
        return r.clips ? adam_pipeline<AT_UPDATE, true>(p, a, b, g, n, start, key, s, r, sums)
                       : adam_pipeline<AT_UPDATE, false>(p, a, b, g, n, start, key, s, r, sums);
    if (r.noise == 0) return adam_pipeline<NONE, true>(p, a, b, g, n, start, key, s, r, sums);
    return r.clips ? adam_pipeline<AT_GRADIENT, true>(p, a, b, g, n, start, key, s, r, sums)
                   : adam_pipeline<AT_GRADIENT, false>(p, a, b, g, n, start, key, s, r, sums);
}

#endif
