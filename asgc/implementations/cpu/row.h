// The scalar arithmetic of one row (a layer, or one of its units) around the passes: statistics, threshold, noise scale.
// Formulas: the reference in asgc/gradient_statistics.py and asgc/functional.py.
#pragma once
#include <limits>

#include "layer.h"
#include "sums.h"

enum { N, MEAN, VAR, AGE, BURST, NONFINITE, THRESHOLD, CLIPPED, ATTENUATION, NOISE, STREAK, STATISTICS };

constexpr float COUNT_LIMIT = 8388608.0f;  // 2^23: counters stop here, where fp32 still counts exactly

struct Row {  // in one step
    float stats[STATISTICS];
    double mean, var, threshold;
    float tau;         // threshold in fp32
    float noise;       // standard deviation of the noise: of the gradient,
    float langevin;    // or of the update
    double norm_scale;  // phi(r) / r in norm mode, else 1
    bool clips;         // element by element: value mode with a finite threshold
    bool first_pass;    // needs its sums before the main pass
    bool was_new;       // had no statistics before this step
    bool zero;          // the transformed gradient is zero
    bool dirty;         // has non-finite elements (known from the first pass)
    bool norm_clipped;
    Coefficients rule;
    Sums total;
};

// The stored variance stays a positive normal number: with 0 the row would be clipped to nothing for ever.
static inline float stored_variance(double x) {
    constexpr double low = std::numeric_limits<float>::min(), high = std::numeric_limits<float>::max();
    return static_cast<float>(std::min(std::max(x, low), high));
}

static inline void count_up(float& counter) { counter = std::min(counter + 1.0f, COUNT_LIMIT); }

// Threshold from the statistics as they are now.
static inline void set_threshold(const Shared& s, Row& r) {
    const Group& g = *s.group;
    r.mean = r.stats[MEAN];
    r.var = r.stats[VAR];
    const double sigma = std::sqrt(r.var);
    double tau = g.threshold;
    if (std::isnan(tau)) {
        if (std::isinf(g.clip_factor)) tau = g.clip_factor;
        else tau = s.by_value ? std::fabs(r.mean) + g.clip_factor * sigma
                              : g.clip_factor * std::sqrt(r.mean * r.mean + r.var);
    }
    r.threshold = tau;
    r.tau = static_cast<float>(tau);
    r.clips = s.by_value && (!std::isinf(r.tau) || s.by_element);
    if (g.eps_scale != 0) {  // at least: a layer without a gradient yet, with eps = 0, would divide 0 by 0
        const double least = std::numeric_limits<float>::min();
        r.rule.eps = static_cast<float>(std::max(g.eps + g.eps_scale * sigma, least));
    }
}

// noise_level of gradient_statistics.py; of noise after the rule, in units of the rule's denominators (rules.py).
static inline void set_noise(const Shared& s, double s2, Row& r) {
    const double sigma = std::sqrt(r.var), rms = std::sqrt(s2);
    double level = r.dirty ? 0 : s2 > 0 || !s.noise_zeros ? std::min(sigma, rms) : sigma;
    r.stats[NOISE] = static_cast<float>(s.c_t * level);
    if (!s.langevin) {
        r.noise = r.stats[NOISE];
        return;
    }
    if (s.rule != SGD && level > 0) {
        const double correction = s.rule == ADAM ? r.rule.four : 1;
        const double mean = std::max(r.total.second / s.elements, 0.0);
        level /= std::max(level, std::sqrt(mean) * correction + r.rule.eps);
    }
    r.langevin = static_cast<float>(s.c_t * level);
}

static inline void open_row(const Layer& layer, const Shared& s, int64_t row, Row& r) {
    for (int k = 0; k < STATISTICS; k++) r.stats[k] = layer.stats[k * layer.rows + row];
    r.norm_scale = 1;
    r.noise = r.langevin = r.stats[NOISE] = 0;
    r.zero = r.dirty = r.norm_clipped = false;
    r.was_new = r.stats[N] == 0;
    r.first_pass = !s.by_value || r.was_new || s.c_t != 0;
    r.rule = s.coefficients;
    r.total = Sums{};
    set_threshold(s, r);
}

// After the first pass: the very first statistics, the noise's scale, the norm mode's factor, and what a non-finite
// gradient means.
static inline void close_first_pass(const Shared& s, Row& r) {
    const double s2 = r.total.s2 / s.elements;
    r.dirty = r.total.nonfinite > 0;
    if (r.was_new && !r.dirty && r.total.s2 > 0) {
        r.stats[N] = 1;
        r.stats[MEAN] = 0;
        r.stats[VAR] = stored_variance(s2);
        r.stats[AGE] = 1;
        r.stats[BURST] = 0;
        set_threshold(s, r);
    }
    set_noise(s, s2, r);
    if (r.was_new && r.dirty && std::isnan(s.group->threshold)) {  // no scale known yet: the finite elements pass
        r.tau = std::numeric_limits<float>::infinity();
        r.clips = s.by_element;
    }
    if (s.by_value) return;
    if (r.dirty) {
        r.zero = true;
        return;
    }
    const double size = std::sqrt(s2), phi = clip_scalar(s.kind, size, r.threshold, s.group->sharpness);
    r.norm_clipped = size > r.threshold;
    r.norm_scale = size > 0 ? phi / size : (r.threshold > 0 ? 1 : 0);
    r.rule.scale *= static_cast<float>(r.norm_scale);
}

// asgc/ceiling.py, U of sgd: a bound on the root mean square of the coming update.
static inline double coming_momentum(const Layer& layer, const Shared& s, const Row& r) {
    const Group& g = *s.group;
    const double noise = r.stats[NOISE], inside = s.langevin ? 0 : noise, after = s.langevin ? noise : 0;
    const double square = r.dirty ? 0 : r.total.s2 / s.elements;
    double rho = std::sqrt(square + inside * inside) * r.norm_scale;
    if (s.by_value) rho = std::isinf(r.tau) ? static_cast<double>(r.tau) : r.threshold;
    rho += layer.ceiling[DECAYED];
    double bound = rho;
    if (g.momentum != 0) {
        const double buffer = layer.fresh != 0 ? rho : g.momentum * layer.ceiling[BEFORE] + (1 - g.dampening) * rho;
        bound = g.nesterov != 0 ? rho + g.momentum * buffer : buffer;
    }
    return std::sqrt(bound * bound + after * after);
}

// After the first pass, where there is one: the step is taken with a lower learning rate where it would be too large.
static inline void lower_step(const Layer& layer, const Shared& s, Row& r) {
    if (layer.ceiling == nullptr) return;
    const Group& g = *s.group;
    const double update = s.rule == SGD ? coming_momentum(layer, s, r) : layer.ceiling[BEFORE];
    const double reach = g.lr * update, allowed = layer.ceiling[ALLOWED];
    const double left = reach > allowed ? allowed / reach : 1;
    layer.ceiling[LEFT] = left;
    r.rule.lr = static_cast<float>(r.rule.lr * left);
    r.rule.noise_lr = static_cast<float>(r.rule.noise_lr * left);
    if (g.decoupled != 0) r.rule.keep = static_cast<float>(1 - g.lr * left * g.weight_decay);
}

// Section 6: the statistics take this step in, after everything else was done with the old ones.
static inline void update_statistics(const Shared& s, Row& r) {
    const Group& g = *s.group;
    float* stats = r.stats;
    const double m1 = r.total.s1 / s.elements, s2 = r.total.s2 / s.elements, d2 = r.total.d2 / s.elements;
    const double level = r.mean * r.mean + r.var;
    const bool burst = s2 > 100 * level;
    const bool warming = stats[AGE] < 1 / (1 - g.stats_decay);
    if (warming && (s2 < level / 100 || (burst && stats[BURST] != 0))) {
        stats[N] = 1;
        stats[MEAN] = 0;
        stats[VAR] = stored_variance(s2);
    } else {
        count_up(stats[N]);
        const double weight = std::max(1.0 / stats[N], 1 - g.stats_decay);
        const double limit = r.var * s.bound, reach = std::sqrt(limit);
        stats[MEAN] = static_cast<float>(r.mean + weight * std::min(std::max(m1 - r.mean, -reach), reach));
        stats[VAR] = stored_variance(r.var + weight * (std::min(d2, limit) - r.var));
    }
    count_up(stats[AGE]);
    stats[BURST] = burst ? 1.0f : 0.0f;
}

// |phi(h)| / |h| over the elements with a finite gradient; 1 where h is zero.
static inline double attenuation(const Shared& s, const Row& r) {
    if (!s.by_value) return r.total.s2 > 0 && !r.dirty ? r.norm_scale : 1;
    const double before = r.noise == 0 ? r.total.s2 : r.total.before;
    return r.clips && before > 0 ? std::min(1.0, std::sqrt(r.total.square / before)) : 1;
}

static inline void close_row(const Layer& layer, const Shared& s, int64_t row, Row& r) {
    const Sums& total = r.total;
    if (total.nonfinite > 0) {
        count_up(r.stats[NONFINITE]);
        count_up(r.stats[STREAK]);
    } else {
        r.stats[STREAK] = 0;
    }
    if (total.nonfinite == 0 && !r.was_new && total.s2 > 0) update_statistics(s, r);
    r.stats[THRESHOLD] = s.by_element ? static_cast<float>(std::sqrt(total.limits / s.elements)) : r.tau;
    if (layer.ceiling != nullptr) layer.ceiling[UPDATE] = std::sqrt(total.update / s.elements);
    r.stats[CLIPPED] = s.by_value ? static_cast<float>(static_cast<double>(total.clipped) / s.elements)
                                  : static_cast<float>(r.norm_clipped);
    r.stats[ATTENUATION] = static_cast<float>(attenuation(s, r));
    for (int k = 0; k < STATISTICS; k++) layer.stats[k * layer.rows + row] = r.stats[k];
}
