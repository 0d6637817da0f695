// Layers, groups and the scalar arithmetic between the passes: statistics, threshold, noise scale, coefficients.
// The structs mirror asgc/cpu/table.py field by field; formulas: the reference in asgc/statistics.py and rules.py.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "clip.h"
#include "noise.h"
#include "rules.h"
#include "sums.h"

constexpr int MAX_DIMS = 8;

struct Layer {
    float* param;
    float* state[3];
    float* stats;         // n, mean, var, age, burst, nonfinite, threshold, clipped, attenuation
    float* step;          // the rule's step count
    int64_t* noise_step;  // t
    int64_t numel, number, group;
    int64_t fresh;             // sgd: the momentum buffer was made for this step
    int64_t dims;              // 0: memory order is row-major order; else the dimensions below
    int64_t size[MAX_DIMS];    // outermost in memory first
    int64_t stride[MAX_DIMS];  // row-major (logical) stride of each
};

struct Group {  // every option as double
    double rule, norm, lr, weight_decay, eps, maximize, decoupled, beta1, beta2, amsgrad, momentum, dampening, nesterov,
        alpha, centered, lr_decay, clip_factor, threshold, sharpness, noise_scale, noise_decay, noise_zeros, stats_decay,
        outlier_share, seed;  // threshold NaN: the adaptive one
};

enum { N, MEAN, VAR, AGE, BURST, NONFINITE, THRESHOLD, CLIPPED, ATTENUATION };

constexpr float COUNT_LIMIT = 8388608.0f;  // 2^23: counters stop here, where fp32 still counts exactly

struct Work {  // one layer in one step
    double mean, var, threshold;
    float tau, noise;  // threshold in fp32, c_t * sigma
    Sharpness kind;
    float sharpness;
    double norm_scale;  // phi(r) / r in norm mode, else 1
    uint32_t seed, step_bits;
    bool noise_zeros, by_value;
    bool clips;       // element by element: value mode with a finite threshold
    bool first_pass;  // needs its sums before the main pass
    bool was_new;     // had no statistics before this step
    bool zero;        // the transformed gradient is zero
    bool dirty;       // has non-finite elements (known from the first pass)
    bool norm_clipped;
    Coefficients rule;
    Sums total;
};

// The stored variance stays a positive normal number: with 0 the layer would be clipped to nothing for ever.
static inline float stored_variance(double x) {
    constexpr double low = std::numeric_limits<float>::min(), high = std::numeric_limits<float>::max();
    return static_cast<float>(std::min(std::max(x, low), high));
}

static inline double element_count(const Layer& layer) { return static_cast<double>(std::max<int64_t>(layer.numel, 1)); }

static inline void count_up(float& counter) { counter = std::min(counter + 1.0f, COUNT_LIMIT); }

static inline void set_rule(const Layer& layer, const Group& g, Work& w) {
    Coefficients& k = w.rule;
    const double step = static_cast<double>(*layer.step) + 1;
    k = Coefficients{};
    k.first = layer.fresh != 0;
    k.scale = g.maximize != 0 ? -1.0f : 1.0f;
    k.decay = static_cast<float>(g.decoupled != 0 ? 0 : g.weight_decay);
    k.keep = static_cast<float>(g.decoupled != 0 ? 1 - g.lr * g.weight_decay : 1);
    k.eps = static_cast<float>(g.eps);
    k.lr = static_cast<float>(g.lr);
    switch (static_cast<Rule>(static_cast<int>(g.rule))) {
        case SGD:
            k.one = static_cast<float>(g.momentum);
            k.two = static_cast<float>(1 - g.dampening);
            k.momentum = g.momentum != 0;
            k.flag = g.nesterov != 0;
            break;
        case ADAM:
            k.lr = static_cast<float>(g.lr / (1 - std::pow(g.beta1, step)));
            k.one = static_cast<float>(1 - g.beta1);
            k.two = static_cast<float>(g.beta2);
            k.three = static_cast<float>(1 - g.beta2);
            k.four = static_cast<float>(1 / std::sqrt(1 - std::pow(g.beta2, step)));
            k.flag = g.amsgrad != 0;
            break;
        case RMSPROP:
            k.one = static_cast<float>(g.alpha);
            k.two = static_cast<float>(1 - g.alpha);
            k.three = static_cast<float>(g.momentum);
            k.momentum = g.momentum > 0;
            k.flag = g.centered != 0;
            break;
        case ADAGRAD:
            k.lr = static_cast<float>(g.lr / (1 + (step - 1) * g.lr_decay));
            break;
    }
}

// Threshold and noise scale from the statistics as they are now.
static inline void set_threshold(const Layer& layer, const Group& g, Work& w) {
    w.mean = layer.stats[MEAN];
    w.var = layer.stats[VAR];
    const double sigma = std::sqrt(w.var);
    double tau = g.threshold;
    if (std::isnan(tau)) {
        if (std::isinf(g.clip_factor)) tau = g.clip_factor;
        else tau = w.by_value ? std::fabs(w.mean) + g.clip_factor * sigma
                              : g.clip_factor * std::sqrt(w.mean * w.mean + w.var);
    }
    w.threshold = tau;
    w.tau = static_cast<float>(tau);
    const double t = static_cast<double>(*layer.noise_step);
    w.noise = static_cast<float>(g.noise_scale * std::pow(1 + t, -g.noise_decay / 2) * sigma);
    w.clips = w.by_value && !std::isinf(w.tau);
}

static inline void open_layer(const Layer& layer, const Group& g, Work& w) {
    w.by_value = g.norm == 0;
    w.kind = sharpness_kind(g.sharpness);
    w.sharpness = static_cast<float>(g.sharpness);
    w.norm_scale = 1;
    w.seed = static_cast<uint32_t>(static_cast<int64_t>(g.seed));
    w.step_bits = static_cast<uint32_t>(*layer.noise_step);
    w.noise_zeros = g.noise_zeros != 0;
    w.zero = w.dirty = w.norm_clipped = false;
    w.total = Sums{};
    w.was_new = layer.stats[N] == 0;
    w.first_pass = !w.by_value || w.was_new;
    set_rule(layer, g, w);
    set_threshold(layer, g, w);
}

// After the first pass: the very first statistics, the norm mode's factor, and what a non-finite gradient means.
static inline void close_first_pass(const Layer& layer, const Group& g, Work& w) {
    float* s = layer.stats;
    const double s2 = w.total.s2 / element_count(layer);
    w.dirty = w.total.nonfinite > 0;
    if (s[N] == 0 && !w.dirty && w.total.s2 > 0) {
        s[N] = 1;
        s[MEAN] = 0;
        s[VAR] = stored_variance(s2);
        s[AGE] = 1;
        s[BURST] = 0;
        set_threshold(layer, g, w);
    }
    if (s[N] == 0 && w.dirty && std::isnan(g.threshold)) {  // no scale known yet: the finite elements pass as they are
        w.tau = std::numeric_limits<float>::infinity();
        w.clips = false;
    }
    if (w.by_value) return;
    if (w.dirty) {
        w.zero = true;
        return;
    }
    const double r = std::sqrt(s2), phi = clip_scalar(r, w.threshold, g.sharpness);
    w.norm_clipped = r > w.threshold;
    w.norm_scale = r > 0 ? phi / r : (w.threshold > 0 ? 1 : 0);
    w.rule.scale *= static_cast<float>(w.norm_scale);
}

// Section 6: the statistics take this step in, after everything else was done with the old ones.
static inline void update_statistics(const Layer& layer, const Group& g, const Work& w) {
    float* s = layer.stats;
    const double d = element_count(layer);
    const double m1 = w.total.s1 / d, s2 = w.total.s2 / d, d2 = w.total.d2 / d;
    const double level = w.mean * w.mean + w.var;
    const bool burst = s2 > 100 * level;
    const bool warming = s[AGE] < 1 / (1 - g.stats_decay);
    if (warming && (s2 < level / 100 || (burst && s[BURST] != 0))) {
        s[N] = 1;
        s[MEAN] = 0;
        s[VAR] = stored_variance(s2);
    } else {
        count_up(s[N]);
        const double weight = std::max(1.0 / s[N], 1 - g.stats_decay);
        const double limit = w.var * (1 / g.outlier_share + 3 * std::sqrt(2 / d)), reach = std::sqrt(limit);
        s[MEAN] = static_cast<float>(w.mean + weight * std::min(std::max(m1 - w.mean, -reach), reach));
        s[VAR] = stored_variance(w.var + weight * (std::min(d2, limit) - w.var));
    }
    count_up(s[AGE]);
    s[BURST] = burst ? 1.0f : 0.0f;
}

// |phi(h)| / |g|, g without its non-finite elements; 1 where that is zero.
static inline double attenuation(const Work& w) {
    const Sums& total = w.total;
    if (!(total.s2 > 0) || (w.dirty && !w.by_value)) return 1;
    if (w.noise == 0 && !w.clips) return w.norm_scale;
    return w.norm_scale * std::sqrt(total.square / total.s2);
}

static inline void close_layer(const Layer& layer, const Group& g, const Work& w) {
    float* s = layer.stats;
    const Sums& total = w.total;
    if (total.nonfinite > 0) count_up(s[NONFINITE]);
    else if (!w.was_new && total.s2 > 0) update_statistics(layer, g, w);
    s[THRESHOLD] = w.tau;
    s[CLIPPED] = w.by_value ? static_cast<float>(static_cast<double>(total.clipped) / element_count(layer))
                            : static_cast<float>(w.norm_clipped);
    s[ATTENUATION] = static_cast<float>(attenuation(w));
    *layer.step += 1;
    *layer.noise_step += 1;
}
