// Online adaptation (asgc/adapt.py has the formulas): before the step, lay the gradient against the direction measured
// last, move the layer's clip_factor and clip_sharpness, and measure the direction of the coming step.
//
// Everything runs in double but the transform and the rule's derivative; a layer is measured every few steps only.
#pragma once
#include <vector>

#include "tile.h"

// Rows of the layer's vector, as in asgc/adapt.py; pairs are of clip_factor and of clip_sharpness.
enum { LOG = 0, RELEVANCE = 2, MEAN_Q = 4, SQUARE_Q = 6, COUNT = 8, ELASTICITY = 9, WEIGHT = 11 };

struct Adapt {  // one layer; `adapted` null: it does not adapt
    double* adapted;
    uint16_t* direction[2];  // bf16, in the parameter's memory order
    int64_t every;
    double rate, decay;  // decay: of the rule's second moment from measurement to measurement; NaN: none, 1: a sum
    double low[2], high[2];
    double memory, pull, significance;
};

struct Measured {  // sums over one block, then over one layer
    double against[2] = {0, 0};  // g . D
    double s2 = 0;               // sum g^2, of the norm mode's first pass
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
        const double q = -against[j] / relevance;
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

// -d(new parameter) / d(transformed gradient x) of n elements, all moments included (`sensitivity` of asgc/rules.py).
static void sensitivity(Rule rule, float* out, const float* x, const float* p, const float* const state[3], int n,
                        const Coefficients& k, float sign) {
    const float scale = k.scale, decay = k.decay, lr = k.lr, eps = k.eps;
    if (rule == SGD) {
        const float buffer = k.first ? 1.0f : k.two, slope = sign * lr * (k.flag ? 1.0f + k.one * buffer : buffer);
        std::fill(out, out + n, k.momentum ? slope : sign * lr);
        return;
    }
    const float *a = state[0], *b = state[1], *c = state[2];
    const bool amsgrad = rule == ADAM && k.flag, centered = rule == RMSPROP && k.flag;
    const float keep = rule == ADAM ? k.two : rule == RMSPROP ? k.one : 1.0f;          // of the second moment
    const float fresh = rule == ADAM ? k.three : rule == RMSPROP ? k.two : 1.0f;       // of g^2 in it
    const float direct = rule == ADAM ? k.one : 1.0f, root_scale = rule == ADAM ? k.four : 1.0f;
    const float *second = rule == ADAM ? b : a, *first = rule == ADAM ? a : x;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float g = x[i] * scale + decay * p[i];
        const float numerator = rule == ADAM ? first[i] + direct * (g - first[i]) : g;
        float v = keep * second[i] + fresh * g * g, dv = 2 * fresh * g;
        if (centered) {
            const float mean = b[i] + fresh * (g - b[i]);
            v -= mean * mean;
            dv -= 2 * fresh * mean;
        }
        if (amsgrad) {
            dv = v >= c[i] ? dv : 0.0f;
            v = std::max(v, c[i]);
        }
        const float root = std::sqrt(v), denominator = root_scale * root + eps;
        const float slope = root > 0 ? root_scale * dv / (2 * root) : 0.0f;
        const float inverse = denominator > 0 ? 1 / denominator : 0.0f;
        out[i] = sign * lr * (direct - numerator * slope * inverse) * inverse;
    }
}

struct Elastic {  // scalars of a layer that is measured
    Work work;
    double tau, p, by_factor;    // by_factor: dlog tau / dlog clip_factor
    double share, entropy;       // norm mode: a_k and a_p of the whole layer
    float norm_scale;
    float e[2];                  // compensation
};

static inline double entropy_of(double w) {  // H(s) for w = min(z, 1/z), z = s / (1 - s)
    return w > 0 ? std::log1p(w) - w / (1 + w) * std::log(w) : 0;
}

// x = phi(h), a_k and a_p of n elements of value mode.
static void clip_and_share(float* x, float* a0, float* a1, const float* h, int n, const Elastic& el) {
    const float tau = static_cast<float>(el.tau), p = static_cast<float>(el.p);
    const float by_factor = static_cast<float>(el.by_factor);
    if (std::isinf(el.p)) {
        for (int i = 0; i < n; i++) {
            x[i] = h[i] < -tau ? -tau : h[i] > tau ? tau : h[i];
            a0[i] = std::fabs(h[i]) >= tau ? by_factor : 0.0f;
            a1[i] = 0.0f;
        }
        return;
    }
    const float inverse_p = 1.0f / p;
    constexpr float ln2 = 0.69314718f;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float size = std::fabs(h[i]), hi = size > tau ? size : tau;
        const float below = h[i] < tau ? h[i] : tau, lo = below > -tau ? below : -tau, q = std::fabs(lo) / hi;
        float log_w = p * log2_of(q > 1.17549435e-38f ? q : 1.17549435e-38f);  // of w = min(z, 1/z)
        log_w = log_w > -126.0f ? log_w : -126.0f;
        const float w = q > 0.0f ? exp2_of(log_w) : 0.0f, log_1w = log2_of(1.0f + w), minor = w / (1.0f + w);
        x[i] = lo * exp2_of(-inverse_p * log_1w);
        a0[i] = by_factor * (size > tau ? 1.0f - minor : minor);
        a1[i] = ln2 * inverse_p * (log_1w - minor * log_w);
    }
}

static void measure_tile(const Layer& layer, const Adapt& a, const Elastic& el, Rule rule, float sign,
                         const float* grad, int64_t at, int n, Key key, Measured& sums) {
    alignas(64) static thread_local float h[TILE], x[TILE], a0[TILE], a1[TILE], slope[TILE];
    static thread_local Tile tile;
    const Work& w = el.work;
    const float* g = grad + at;
    const float* noisy = g;
    if (w.noise != 0) {
        const bool permuted = layer.dims > 0;
        if (permuted) logical_indices(layer, at, n, tile.index);
        add_noise(h, g, n, static_cast<uint32_t>(at), permuted ? tile.index : nullptr, key, w.noise, w.noise_zeros);
        noisy = h;
    }
    if (w.by_value) {
        clip_and_share(x, a0, a1, noisy, n, el);
        sums.nonfinite += count_nonfinite(g, n);
    } else {
        const float share = static_cast<float>(el.share), entropy = static_cast<float>(el.entropy);
        for (int i = 0; i < n; i++) {
            x[i] = noisy[i] * el.norm_scale;
            a0[i] = share;
            a1[i] = entropy;
        }
    }
    const float* state[3];
    for (int s = 0; s < 3; s++) state[s] = layer.state[s] == nullptr ? nullptr : layer.state[s] + at;
    sensitivity(rule, slope, x, layer.param + at, state, n, w.rule, sign);
    uint16_t *d0 = a.direction[0] + at, *d1 = a.direction[1] + at;
    const float e0 = el.e[0], e1 = el.e[1];
    double scaled = 0, square0 = 0, square1 = 0, x2 = 0, elastic0 = 0, elastic1 = 0;
#pragma omp simd reduction(+ : scaled, square0, square1, x2, elastic0, elastic1)
    for (int i = 0; i < n; i++) {
        const float y = slope[i] * x[i], first = y * (a0[i] - e0), second = y * (a1[i] - e1);
        d0[i] = to_bf16(first);
        d1[i] = to_bf16(second);
        const double xx = static_cast<double>(x[i]) * x[i];
        scaled += static_cast<double>(y) * y;
        square0 += static_cast<double>(first) * first;
        square1 += static_cast<double>(second) * second;
        x2 += xx;
        elastic0 += xx * a0[i];
        elastic1 += xx * a1[i];
    }
    sums.scaled += scaled, sums.x2 += x2;
    sums.square[0] += square0, sums.square[1] += square1;
    sums.elastic[0] += elastic0, sums.elastic[1] += elastic1;
}

// Scalars of the coming step, from the statistics before it; s2: sum of g^2, for norm mode.
static void open_measure(const Layer& layer, const Adapt& a, const Group& g, double s2, Elastic& el) {
    open_layer(layer, g, el.work);
    const double* v = a.adapted;
    el.tau = el.work.threshold;
    el.p = g.sharpness;
    el.by_factor = 1;
    if (el.work.by_value) {
        el.by_factor = 1 - std::fabs(el.work.mean) / el.work.tau;
        el.tau = el.work.tau;
    } else {
        const double r = std::sqrt(s2 / element_count(layer)), phi = clip_scalar(r, el.tau, el.p);
        const double q = r > 0 ? std::min(r, el.tau) / std::max(r, el.tau) : 0;
        const double w = std::isinf(el.p) ? 0 : std::pow(q, el.p), minor = w / (1 + w);
        el.norm_scale = r > 0 ? static_cast<float>(phi / r) : 1.0f;
        el.share = std::isinf(el.p) ? (r >= el.tau) : (r > el.tau ? 1 - minor : minor);
        el.entropy = std::isinf(el.p) ? 0 : entropy_of(w) / el.p;
    }
    for (int j = 0; j < 2; j++)
        el.e[j] = std::isnan(a.decay) || !(v[WEIGHT] > 0) ? 0.0f : static_cast<float>(v[ELASTICITY + j] / v[WEIGHT]);
}

// `measure` of asgc/adapt.py, after the sums over the layer.
static void close_measure(const Adapt& a, const Measured& sums, bool usable) {
    double* const v = a.adapted;
    const bool adaptive = !std::isnan(a.decay), known = v[WEIGHT] > 0;
    const bool finite = sums.nonfinite == 0 && std::isfinite(sums.x2);
    const double length = std::sqrt(sums.scaled);
    for (int j = 0; j < 2; j++) {
        const double relevance = std::sqrt(sums.square[j]) / length;
        const bool measured = usable && finite && length > 0 && (known || !adaptive) && std::isfinite(relevance);
        v[RELEVANCE + j] = measured ? relevance : 0;
    }
    if (!adaptive || !finite || !usable) return;
    const double keep = a.decay == 1 ? 1 : a.decay, add = a.decay == 1 ? 1 : 1 - a.decay;
    for (int j = 0; j < 2; j++) v[ELASTICITY + j] = keep * v[ELASTICITY + j] + add * sums.elastic[j];
    v[WEIGHT] = keep * v[WEIGHT] + add * sums.x2;
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
        const bool by_norm = groups[layers[piece.layer].group].norm != 0;
        for (int done = 0; done < piece.size; done += TILE) {
            const int64_t at = piece.start + done;
            const int size = std::min(TILE, piece.size - done);
            if (a.adapted[RELEVANCE] > 0 || a.adapted[RELEVANCE + 1] > 0) lay_against(a, g, at, size, sums[i]);
            if (!by_norm) continue;
            Sums moments;
            sum_tile(g + at, size, 0.0f, moments);
            sums[i].s2 += moments.s2;
            sums[i].nonfinite += moments.nonfinite;
        }
    }
    std::vector<char> skip(static_cast<size_t>(count));
    for (int64_t k = 0; k < layers_due; k++) {
        const int64_t l = due[k];
        const Measured all = total(k);
        follow(adapts[l], all.against);
        Group own = groups[layers[l].group];
        own.clip_factor *= std::exp(adapts[l].adapted[LOG]);
        own.sharpness *= std::exp(adapts[l].adapted[LOG + 1]);
        open_measure(layers[l], adapts[l], own, all.s2, elastics[l]);
        skip[l] = layers[l].stats[N] == 0 || all.nonfinite > 0;
    }
    for (int64_t i = 0; i < n; i++) sums[i] = Measured{};

#pragma omp parallel for schedule(dynamic, 1) num_threads(n < 8 ? 1 : threads)
    for (int64_t i = 0; i < n; i++) {
        const Piece& piece = pieces[i];
        if (skip[piece.layer]) continue;
        const Layer& layer = layers[piece.layer];
        const Group& group = groups[layer.group];
        const Elastic& el = elastics[piece.layer];
        const Key key = noise_key(el.work.seed, el.work.step_bits, static_cast<uint32_t>(layer.number),
                              static_cast<uint32_t>(piece.start >> 32));
        for (int done = 0; done < piece.size; done += TILE)
            measure_tile(layer, adapts[piece.layer], el, static_cast<Rule>(static_cast<int>(group.rule)),
                   group.maximize != 0 ? -1.0f : 1.0f, grads[piece.layer], piece.start + done,
                   std::min(TILE, piece.size - done), key, sums[i]);
    }
    for (int64_t k = 0; k < layers_due; k++) close_measure(adapts[due[k]], total(k), !skip[due[k]]);
    for (int64_t l = 0; l < count; l++) {
        if (adapts[l].adapted == nullptr) continue;
        Group& own = groups[layers[l].group];
        own.clip_factor *= std::exp(adapts[l].adapted[LOG]);
        own.sharpness *= std::exp(adapts[l].adapted[LOG + 1]);
    }
}
}
