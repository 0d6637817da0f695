// Layers, groups, and what all rows of a layer share in one step: the rule's coefficients, the noise's key and scale.
// Layer and Group mirror asgc/implementations/cpu/layer_structs.py field by field;
// formulas: the reference in asgc/functional.py and rules.py.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "clip.h"
#include "noise.h"
#include "rules.h"

constexpr int MAX_DIMS = 8;

// What a layer's step must stay below (asgc/ceiling.py); in, and the last two out.
enum { ALLOWED, DECAYED, BEFORE, LEFT, UPDATE };  // see asgc/implementations/cpu/ceilings.py

struct Layer {
    float* param;
    float* state[3];
    float* stats;         // STATISTICS numbers a row; those of one name follow each other
    float* step;          // the rule's step count
    int64_t* noise_step;  // t
    int64_t numel, number, group;
    int64_t rows;              // units with statistics of their own, one after the other in memory
    int64_t fresh;             // sgd: the momentum buffer was made for this step
    double* ceiling;           // null: none
    int64_t dims;              // 0: memory order is row-major order; else the dimensions below
    int64_t size[MAX_DIMS];    // outermost in memory first
    int64_t stride[MAX_DIMS];  // row-major (logical) stride of each

    int64_t row_size() const { return rows == 0 ? 0 : numel / rows; }
};

struct Group {  // every option as double
    double rule, norm, lr, weight_decay, eps, maximize, decoupled, beta1, beta2, amsgrad, momentum, dampening, nesterov,
        alpha, centered, lr_decay, clip_factor, threshold, sharpness, noise_scale, noise_decay, noise_zeros, langevin,
        stats_decay, outlier_share, seed, eps_scale, element;  // threshold NaN: the adaptive one
};

struct Shared {  // one layer in one step
    const Group* group;
    Rule rule;
    Coefficients coefficients;
    double c_t;       // noise_scale (1 + t)^(-noise_decay / 2)
    double elements;  // of a row
    double bound;     // of a row's mean square in one step, in units of its variance
    Sharpness kind;
    float sharpness;
    uint32_t seed, step_bits, number;
    Key key;  // of the elements below 2^32
    bool by_value, noise_zeros, langevin;
    bool by_element;                           // each element is clipped at a threshold of its own:
    float element_factor, element_correction;  // factor * sqrt(correction * second moment)

    Key key_at(int64_t index) const {
        const uint32_t high = static_cast<uint32_t>(index >> 32);
        return high == 0 ? key : noise_key(seed, step_bits, number, high);
    }
};

static inline void set_rule(const Layer& layer, const Group& g, double lr, Coefficients& k) {
    const double step = static_cast<double>(*layer.step) + 1;
    k = Coefficients{};
    k.first = layer.fresh != 0;
    k.scale = g.maximize != 0 ? -1.0f : 1.0f;
    k.decay = static_cast<float>(g.decoupled != 0 ? 0 : g.weight_decay);
    k.keep = static_cast<float>(g.decoupled != 0 ? 1 - lr * g.weight_decay : 1);
    k.eps = static_cast<float>(g.eps);
    k.lr = k.noise_lr = static_cast<float>(lr);
    switch (static_cast<Rule>(static_cast<int>(g.rule))) {
        case SGD:
            k.one = static_cast<float>(g.momentum);
            k.two = static_cast<float>(1 - g.dampening);
            k.momentum = g.momentum != 0;
            k.flag = g.nesterov != 0;
            break;
        case ADAM: {
            k.lr = static_cast<float>(lr / (1 - std::pow(g.beta1, step)));
            k.one = static_cast<float>(1 - g.beta1);
            k.two = static_cast<float>(g.beta2);
            k.three = static_cast<float>(1 - g.beta2);
            k.four = static_cast<float>(1 / std::sqrt(1 - std::pow(g.beta2, step)));
            k.flag = g.amsgrad != 0;
            break;
        }
        case RMSPROP:
            k.one = static_cast<float>(g.alpha);
            k.two = static_cast<float>(1 - g.alpha);
            k.three = static_cast<float>(g.momentum);
            k.momentum = g.momentum > 0;
            k.flag = g.centered != 0;
            break;
        case ADAGRAD:
            k.lr = k.noise_lr = static_cast<float>(lr / (1 + (step - 1) * g.lr_decay));
            break;
    }
}

static inline void open_layer(const Layer& layer, const Group& g, Shared& s) {
    s.group = &g;
    s.rule = static_cast<Rule>(static_cast<int>(g.rule));
    set_rule(layer, g, g.lr, s.coefficients);
    s.c_t = g.noise_scale * std::pow(1 + static_cast<double>(*layer.noise_step), -g.noise_decay / 2);
    s.elements = static_cast<double>(std::max<int64_t>(layer.row_size(), 1));
    s.bound = 1 / g.outlier_share + 3 * std::sqrt(2 / s.elements);
    s.kind = sharpness_kind(g.sharpness);
    s.sharpness = static_cast<float>(g.sharpness);
    s.seed = static_cast<uint32_t>(static_cast<int64_t>(g.seed));
    s.step_bits = static_cast<uint32_t>(*layer.noise_step);
    s.number = static_cast<uint32_t>(layer.number);
    s.key = noise_key(s.seed, s.step_bits, s.number, 0);
    s.by_value = g.norm == 0;
    s.noise_zeros = g.noise_zeros != 0;
    s.langevin = g.langevin != 0;
    s.by_element = g.element != 0;
    const double decay = s.rule == ADAM ? g.beta2 : g.alpha;
    const double known = 1 - std::pow(decay, static_cast<double>(*layer.step));
    s.element_factor = static_cast<float>(g.clip_factor);
    s.element_correction = known > 0 ? static_cast<float>(1 / known) : 1.0f;
}
