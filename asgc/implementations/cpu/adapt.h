// Online adaptation (asgc/adapt.py has the formulas): before the step, lay the gradient against the direction measured
// last, move the layer's clip_factor and clip_sharpness, and measure the direction of the coming step.
//
// A layer is measured every few steps only: dots and scalars are in double, the loops over elements otherwise in fp32.
#pragma once
#include <vector>

#include "sensitivity.h"
#include "tile.h"

// Rows of the layer's vector, as in asgc/adapt.py; pairs are of clip_factor and of clip_sharpness.
enum { LOG = 0, RELEVANCE = 2, MEAN_Q = 4, SQUARE_Q = 6, COUNT = 8, ELASTICITY = 9, WEIGHT = 11, LENGTH = 12 };

struct Adapt {  // one layer; `adapted` null: it does not adapt
    double* adapted;
    uint16_t* direction[2];  // bf16, in the parameter's memory order
    int64_t every;
    double rate;
    double decay, kept;  // of the rule's moments from measurement to measurement; decay NaN: no second, 1: a sum
    double low[2], high[2];
    double memory, pull, significance, outlier;
};

struct Measured {  // sums over one block, then over one layer
    double against[2] = {0, 0};  // g . D
    double s2 = 0;               // sum g^2
    double scaled = 0, square[2] = {0, 0}, x2 = 0, elastic[2] = {0, 0};
    int64_t nonfinite = 0;

    void add(const Measured& o) {
        s2 += o.s2, scaled += o.scaled, x2 += o.x2, nonfinite += o.nonfinite;
        for (int j = 0; j < 2; j++) {
            against[j] += o.against[j], square[j] += o.square[j], elastic[j] += o.elastic[j];
        }
    }
};

static inline float from_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

static inline uint16_t to_bf16(float x) {  // to nearest, ties to even
    const uint32_t u = bits_of(x);
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static void lay_against(const Adapt& a, const float* g, int64_t at, int n, Measured& sums) {
    const uint16_t *d0 = a.direction[0] + at, *d1 = a.direction[1] + at;
    double sum0 = 0, sum1 = 0;
#pragma omp simd reduction(+ : sum0, sum1)
    for (int i = 0; i < n; i++) {
        const double x = g[at + i];
        sum0 += x * from_bf16(d0[i]);
        sum1 += x * from_bf16(d1[i]);
    }
    sums.against[0] += sum0;
    sums.against[1] += sum1;
}

// `follow` of asgc/adapt.py.
static void follow(const Adapt& a, const double* against) {
    constexpr double tiny = std::numeric_limits<double>::min();
    double* const v = a.adapted;
    const double count = v[COUNT] + 1, weight = 1 - std::pow(a.memory, count);
    const double noise = (1 - a.memory) / (1 + a.memory) * (1 - std::pow(a.memory, 2 * count)) / (weight * weight);
    bool any = false;
    for (int j = 0; j < 2; j++) {
        const double relevance = v[RELEVANCE + j];
        if (!(relevance > 0) || !std::isfinite(against[j])) continue;
        any = true;
        const double so_far = std::max(1 - std::pow(a.memory, v[COUNT]), tiny);
        const double reach = a.outlier * std::sqrt(v[SQUARE_Q + j] / so_far), raw = -against[j] / relevance;
        const double q = reach > 0 ? std::min(std::max(raw, -reach), reach) : raw;
        const double mean = a.memory * v[MEAN_Q + j] + (1 - a.memory) * q;
        const double square = a.memory * v[SQUARE_Q + j] + (1 - a.memory) * (q * q);
        const double r2 = mean * mean / std::max(square * weight, tiny);
        const double confidence = std::max(0.0, 1 - a.significance * a.significance * noise / std::max(r2, tiny));
        const double move = a.rate * confidence * relevance * q / std::max(std::sqrt(square / weight), tiny);
        v[LOG + j] = std::min(std::max(v[LOG + j] - move - a.pull * v[LOG + j], a.low[j]), a.high[j]);
        v[MEAN_Q + j] = mean;
        v[SQUARE_Q + j] = square;
    }
    if (any) v[COUNT] = count;
}

static inline double sharpness_over_given(const Adapt& a) {  // a power of two: those of 4 have fast forms in clip.h
    return std::exp2(std::nearbyint(a.adapted[LOG + 1] / std::log(2.0)));
}

struct Elastic {  // scalars of a layer that is measured
    Coefficients rule;
    Key key;  // of the elements below 2^32
    float noise;  // its standard deviation
    float tau, p, by_factor;                // value mode; by_factor: dlog tau / dlog clip_factor
    float norm_scale, share, entropy;       // norm mode: phi(r) / r, a_k and a_p of the whole layer
    float e[2];                             // compensation
    bool by_value, noise_zeros;
    bool known;  // there is a compensation, or the rule needs none
    bool skip;   // this step is not to be measured: its first gradient, or not finite
};

// log2(1 + w) and 2^-y for w and y in [0, 1]: minimax polynomials, relative errors 3e-8 and 2e-9 before rounding.
static inline float log2_1p(float w) {
    float r = 0.0075527751f;
    r = r * w - 0.042582363f;
    r = r * w + 0.11288303f;
    r = r * w - 0.19714396f;
    r = r * w + 0.27565467f;
    r = r * w - 0.35841247f;
    r = r * w + 0.48069361f;
    r = r * w - 0.72134024f;
    return (r * w + 1.44269502f) * w;
}

static inline float exp2_minus(float y) {
    float r = 1.08511274e-4f;
    r = 1.27305207e-3f - r * y;
    r = 9.57701169e-3f - r * y;
    r = 5.54894209e-2f - r * y;
    r = 0.240223974f - r * y;
    r = 0.693147004f - r * y;
    return 1.0f - r * y;
}

// x = phi(h), a_k and a_p of n elements of value mode. MILD: p below 1.
template <bool MILD>
static void clip_and_share(float* x, float* a0, float* a1, const float* h, int n, float tau, float p, float by_factor) {
    const float inverse_p = 1.0f / p, least = -126.0f / p;  // of log2 q: below it w is zero
    constexpr float ln2 = 0.69314718f;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float size = std::fabs(h[i]), hi = size > tau ? size : tau;
        const float below = h[i] < tau ? h[i] : tau, lo = below > -tau ? below : -tau;
        const float q = std::fabs(lo) / hi, log_q = log2_of(q > 1.17549435e-38f ? q : 1.17549435e-38f);
        const float log_w = p * (log_q > least ? log_q : least), w = log_q > least ? exp2_of(log_w) : 0.0f;
        const float log_1w = log2_1p(w), minor = w / (1.0f + w);  // w = min(z, 1/z)
        x[i] = lo * (MILD ? exp2_of(-inverse_p * log_1w) : exp2_minus(inverse_p * log_1w));
        a0[i] = by_factor * (size > tau ? 1.0f - minor : minor);
        a1[i] = ln2 * inverse_p * (log_1w - minor * log_w);
    }
}

static void clip_and_share(float* x, float* a0, float* a1, const float* h, int n, const Elastic& el) {
    if (!std::isinf(el.p))
        return el.p < 1 ? clip_and_share<true>(x, a0, a1, h, n, el.tau, el.p, el.by_factor)
                        : clip_and_share<false>(x, a0, a1, h, n, el.tau, el.p, el.by_factor);
    for (int i = 0; i < n; i++) {
        x[i] = h[i] < -el.tau ? -el.tau : h[i] > el.tau ? el.tau : h[i];
        a0[i] = std::fabs(h[i]) >= el.tau ? el.by_factor : 0.0f;
        a1[i] = 0.0f;
    }
}

// D of n elements when nothing is added to it.
static void keep_tile(const Adapt& a, int64_t at, int n, Measured& sums) {
    const float kept = static_cast<float>(a.kept);
    for (int j = 0; j < 2; j++) {
        uint16_t* const d = a.direction[j] + at;
        for (int i = 0; i < n; i++) {
            const float old = kept * from_bf16(d[i]);
            d[i] = to_bf16(old);
            sums.square[j] += static_cast<double>(old) * old;
        }
    }
}

// Sums over n elements of J x (y), both D, and x^2 a; Real: the type of a lane.
template <typename Real>
static void add_squares(const float* x, const float* y, const float* a0, const float* a1, const float* d0,
                        const float* d1, int n, Measured& sums) {
    Real scaled = 0, square0 = 0, square1 = 0, x2 = 0, elastic0 = 0, elastic1 = 0;
#pragma omp simd reduction(+ : scaled, square0, square1, x2, elastic0, elastic1)
    for (int i = 0; i < n; i++) {
        const Real xx = static_cast<Real>(x[i]) * x[i];
        scaled += static_cast<Real>(y[i]) * y[i];
        square0 += static_cast<Real>(d0[i]) * d0[i];
        square1 += static_cast<Real>(d1[i]) * d1[i];
        x2 += xx;
        elastic0 += xx * a0[i];
        elastic1 += xx * a1[i];
    }
    if (sizeof(Real) == sizeof(float) && !(safe(static_cast<float>(scaled)) && safe(static_cast<float>(x2)))) {
        add_squares<double>(x, y, a0, a1, d0, d1, n, sums);  // its squares leave fp32's range
        return;
    }
    sums.scaled += scaled, sums.x2 += x2;
    sums.square[0] += square0, sums.square[1] += square1;
    sums.elastic[0] += elastic0, sums.elastic[1] += elastic1;
}

struct Scratch {
    alignas(64) float h[TILE], x[TILE], y[TILE], a[2][TILE], d[2][TILE];
    alignas(64) uint32_t index[TILE];
};

static void measure_tile(const Layer& layer, const Adapt& a, const Elastic& el, Rule rule, float sign,
                         const float* grad, int64_t at, int n, Key key, Scratch& t, Measured& sums) {
    const float* h = grad + at;
    if (el.noise != 0) {
        const bool permuted = layer.dims > 0;
        if (permuted) logical_indices(layer, at, n, t.index);
        add_noise(t.h, h, n, static_cast<uint32_t>(at), permuted ? t.index : nullptr, key, el.noise, el.noise_zeros);
        h = t.h;
    }
    if (el.by_value) {
        clip_and_share(t.x, t.a[0], t.a[1], h, n, el);
    } else {
        for (int i = 0; i < n; i++) t.x[i] = h[i] * el.norm_scale;
        std::fill(t.a[0], t.a[0] + n, el.share);
        std::fill(t.a[1], t.a[1] + n, el.entropy);
    }
    const float* state[3];
    for (int s = 0; s < 3; s++) state[s] = layer.state[s] == nullptr ? nullptr : layer.state[s] + at;
    const float* p = el.rule.decay != 0 ? layer.param + at : t.x;  // not read from memory for nothing
    sensitivity(rule, t.y, t.x, p, state, n, el.rule, sign);
    if (!el.known) std::fill(t.y, t.y + n, 0.0f);
    const float kept = static_cast<float>(a.kept);
    for (int j = 0; j < 2; j++) {
        uint16_t* const stored = a.direction[j] + at;
        const float *y = t.y, *share = t.a[j], e = el.e[j];
        float* const d = t.d[j];
#pragma omp simd
        for (int i = 0; i < n; i++) {
            d[i] = kept * from_bf16(stored[i]) + y[i] * (share[i] - e);
            stored[i] = to_bf16(d[i]);
        }
    }
    add_squares<float>(t.x, t.y, t.a[0], t.a[1], t.d[0], t.d[1], n, sums);
}

// Scalars of the coming step, from the statistics before it. factor, p: in use. s2: sum of g^2, for norm mode and noise.
static inline void open_measure(const Layer& layer, const Adapt& a, const Group& g, double factor, double p, double s2,
                                Elastic& el) {
    set_rule(layer, g, g.lr, el.rule);
    const double mean = layer.stats[MEAN], var = layer.stats[VAR], t = static_cast<double>(*layer.noise_step);
    el.key = noise_key(static_cast<uint32_t>(static_cast<int64_t>(g.seed)), static_cast<uint32_t>(*layer.noise_step),
                       static_cast<uint32_t>(layer.number), 0);
    const double rms = std::sqrt(s2 / static_cast<double>(std::max<int64_t>(layer.numel, 1))), sigma = std::sqrt(var);
    el.noise_zeros = g.noise_zeros != 0;
    const double level = s2 > 0 || !el.noise_zeros ? std::min(sigma, rms) : sigma;
    el.noise = static_cast<float>(g.noise_scale * std::pow(1 + t, -g.noise_decay / 2) * level);
    el.by_value = g.norm == 0;
    el.p = static_cast<float>(p);
    if (el.by_value) {
        const double tau = std::fabs(mean) + factor * sigma;
        el.tau = static_cast<float>(tau);
        el.by_factor = static_cast<float>(1 - std::fabs(mean) / tau);
    } else {
        const double r = rms, tau = factor * std::sqrt(mean * mean + var);
        const double lo = std::min(r, tau), hi = std::max(r, tau);
        const double w = hi > 0 && !std::isinf(p) ? std::pow(lo / hi, p) : 0, minor = w / (1 + w);
        el.norm_scale = r > 0 ? static_cast<float>(lo / r * std::pow(1 + w, -1 / p)) : 1.0f;
        el.share = static_cast<float>(std::isinf(p) ? r >= tau : r > tau ? 1 - minor : minor);
        el.entropy = w > 0 ? static_cast<float>((std::log1p(w) - minor * std::log(w)) / p) : 0.0f;
    }
    const bool compensated = !std::isnan(a.decay);
    const double weight = a.adapted[WEIGHT];
    el.known = !compensated || weight > 0;
    for (int j = 0; j < 2; j++)
        el.e[j] = compensated && el.known ? static_cast<float>(a.adapted[ELASTICITY + j] / weight) : 0.0f;
}

// `measure` of asgc/adapt.py, after the sums over the layer. `fresh`: this step was measured.
static inline void close_measure(const Adapt& a, const Measured& sums, bool fresh) {
    double* const v = a.adapted;
    v[LENGTH] = a.kept * a.kept * v[LENGTH] + sums.scaled;
    for (int j = 0; j < 2; j++) {
        const double relevance = sums.square[j] / std::max(v[LENGTH], std::numeric_limits<double>::min());
        v[RELEVANCE + j] = std::isfinite(relevance) ? std::sqrt(relevance) : 0;
    }
    if (std::isnan(a.decay) || !fresh) return;
    const double add = a.decay == 1 ? 1 : 1 - a.decay;
    for (int j = 0; j < 2; j++) v[ELASTICITY + j] = a.decay * v[ELASTICITY + j] + add * sums.elastic[j];
    v[WEIGHT] = a.decay * v[WEIGHT] + add * sums.x2;
}

extern "C" {

// Before `asgc_step`, for the layers that adapt: where they are due, moves their values and measures; then puts the
// values in use into their groups (each layer has one of its own, holding the given values).
void asgc_adapt(const Layer* layers, const float* const* grads, int64_t count, Group* groups, const Adapt* adapts,
                int32_t threads) {
    constexpr int64_t block_size = 8192;
    struct Piece {
        int64_t layer, start;
        int size;
    };
    std::vector<Piece> pieces;
    std::vector<int64_t> due, first;
    for (int64_t l = 0; l < count; l++) {
        if (adapts[l].adapted == nullptr || grads[l] == nullptr) continue;
        if (*layers[l].noise_step % adapts[l].every != 0) continue;
        due.push_back(l);
        first.push_back(static_cast<int64_t>(pieces.size()));
        for (int64_t start = 0; start < layers[l].numel; start += block_size)
            pieces.push_back({l, start, static_cast<int>(std::min(block_size, layers[l].numel - start))});
    }
    first.push_back(static_cast<int64_t>(pieces.size()));
    std::vector<Measured> sums(pieces.size());
    std::vector<Elastic> elastics(static_cast<size_t>(count));
    const int64_t n = static_cast<int64_t>(pieces.size()), layers_due = static_cast<int64_t>(due.size());
    const auto total = [&](int64_t k) {
        Measured all;
        for (int64_t i = first[k]; i < first[k + 1]; i++) all.add(sums[i]);
        return all;
    };

#pragma omp parallel for schedule(dynamic, 1) num_threads(n < 8 ? 1 : threads)
    for (int64_t i = 0; i < n; i++) {
        const Piece& piece = pieces[i];
        const Adapt& a = adapts[piece.layer];
        const float* g = grads[piece.layer];
        const Group& group = groups[layers[piece.layer].group];
        const bool needs_square = group.norm != 0 || group.noise_scale != 0;
        for (int done = 0; done < piece.size; done += TILE) {
            const int64_t at = piece.start + done;
            const int size = std::min(TILE, piece.size - done);
            if (a.adapted[RELEVANCE] > 0 || a.adapted[RELEVANCE + 1] > 0) lay_against(a, g, at, size, sums[i]);
            Sums moments;
            if (needs_square) sum_tile(g + at, size, 0.0f, moments);
            else moments.nonfinite = count_nonfinite(g + at, size);
            sums[i].s2 += moments.s2;
            sums[i].nonfinite += moments.nonfinite;
        }
    }
    for (int64_t k = 0; k < layers_due; k++) {
        const int64_t l = due[k];
        const Measured all = total(k);
        follow(adapts[l], all.against);
        const Group& given = groups[layers[l].group];
        const double factor = given.clip_factor * std::exp(adapts[l].adapted[LOG]);
        const double sharpness = given.sharpness * sharpness_over_given(adapts[l]);
        open_measure(layers[l], adapts[l], given, factor, sharpness, all.s2, elastics[l]);
        elastics[l].skip = layers[l].stats[N] == 0 || all.nonfinite > 0;
    }
    for (int64_t i = 0; i < n; i++) sums[i] = Measured{};

#pragma omp parallel for schedule(dynamic, 1) num_threads(n < 8 ? 1 : threads)
    for (int64_t i = 0; i < n; i++) {
        Scratch scratch;
        const Piece& piece = pieces[i];
        const Layer& layer = layers[piece.layer];
        const Group& group = groups[layer.group];
        const Elastic& el = elastics[piece.layer];
        const float* g = grads[piece.layer];
        const uint32_t high = static_cast<uint32_t>(piece.start >> 32);
        const Key key = high == 0 ? el.key
                                  : noise_key(static_cast<uint32_t>(static_cast<int64_t>(group.seed)),
                                              static_cast<uint32_t>(*layer.noise_step),
                                              static_cast<uint32_t>(layer.number), high);
        const Rule rule = static_cast<Rule>(static_cast<int>(group.rule));
        const float sign = group.maximize != 0 ? -1.0f : 1.0f;
        for (int done = 0; done < piece.size; done += TILE) {
            const int64_t at = piece.start + done;
            const int size = std::min(TILE, piece.size - done);
            if (el.skip) keep_tile(adapts[piece.layer], at, size, sums[i]);
            else measure_tile(layer, adapts[piece.layer], el, rule, sign, g, at, size, key, scratch, sums[i]);
        }
    }
    for (int64_t k = 0; k < layers_due; k++) close_measure(adapts[due[k]], total(k), !elastics[due[k]].skip);
    for (int64_t l = 0; l < count; l++) {
        if (adapts[l].adapted == nullptr) continue;
        Group& own = groups[layers[l].group];
        own.clip_factor *= std::exp(adapts[l].adapted[LOG]);
        own.sharpness *= sharpness_over_given(adapts[l]);
    }
}
}
