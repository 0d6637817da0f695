// The base rules of torch.optim (single-tensor forms) on one tile of transformed gradients.
// x: gradient, read as sign * scale * x; p: parameter; a, b, c: state, in the order of asgc/implementations/cpu/layer_structs.py.
#pragma once
#include <cmath>

enum Rule { SGD = 0, ADAM = 1, RMSPROP = 2, ADAGRAD = 3 };

struct Coefficients {  // of one row in one step; every one rounded once from double, as torch does with scalars
    float scale;       // factor on x: minus one for maximize, times the norm mode's attenuation of the row
    float decay;       // coupled weight decay
    float keep;        // 1 - lr * weight_decay where decoupled, else 1
    float lr;          // sgd, rmsprop: lr; adam: lr / bias_correction1; adagrad: decayed lr
    float one;         // sgd: momentum; adam: 1 - beta1; rmsprop: alpha
    float two;         // sgd: 1 - dampening; adam: beta2; rmsprop: 1 - alpha
    float three;       // adam: 1 - beta2; rmsprop: momentum
    float four;        // adam: 1 / sqrt(bias_correction2)
    float noise_lr;    // of noise after the rule: lr, decayed for adagrad
    float eps;
    bool first;        // sgd: the momentum buffer takes the gradient itself
    bool flag;         // sgd: nesterov; adam: amsgrad; rmsprop: centered
    bool momentum;     // sgd, rmsprop: keeps a momentum buffer
};

template <bool MOMENTUM>
static void sgd_tile(float* p, float* a, const float* x, int n, const Coefficients& k) {
    const float scale = k.scale, decay = k.decay, lr = k.lr;
    const float momentum = k.first ? 0.0f : k.one, fresh = k.first ? 1.0f : k.two;
    const float along = k.flag ? 1.0f : 0.0f, buffer_weight = k.flag ? k.one : 1.0f;  // nesterov: g + momentum * buffer
#pragma omp simd
    for (int i = 0; i < n; i++) {
        float g = x[i] * scale + decay * p[i];
        if (MOMENTUM) {
            a[i] = momentum * a[i] + fresh * g;
            g = along * g + buffer_weight * a[i];
        }
        p[i] -= lr * g;
    }
}

// LOW: 1 - beta1 < 0.5, the branch of torch.lerp that starts from the old value.
template <bool AMSGRAD, bool LOW>
static void adam_tile(float* p, float* a, float* b, float* c, const float* x, int n, const Coefficients& k) {
    const float scale = k.scale, decay = k.decay, keep = k.keep, lr = k.lr, weight = k.one, rest = 1.0f - k.one;
    const float beta2 = k.two, fresh = k.three, correction = k.four, eps = k.eps;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float g = x[i] * scale + decay * p[i];
        const float m = LOW ? a[i] + weight * (g - a[i]) : g - rest * (g - a[i]);
        const float v = beta2 * b[i] + fresh * g * g;
        float second = v;
        a[i] = m;
        b[i] = v;
        if (AMSGRAD) {
            second = c[i] > v ? c[i] : v;
            c[i] = second;
        }
        p[i] = p[i] * keep - lr * (m / (std::sqrt(second) * correction + eps));
    }
}

// a: square_avg, b: grad_avg (centered), c: momentum_buffer
template <bool CENTERED, bool MOMENTUM>
static void rmsprop_tile(float* p, float* a, float* b, float* c, const float* x, int n, const Coefficients& k) {
    const float scale = k.scale, decay = k.decay, lr = k.lr, alpha = k.one, fresh = k.two, momentum = k.three;
    const float eps = k.eps;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float g = x[i] * scale + decay * p[i];
        const float square = alpha * a[i] + fresh * g * g;
        float variance = square;
        a[i] = square;
        if (CENTERED) {
            const float mean = fresh < 0.5f ? b[i] + fresh * (g - b[i]) : g - alpha * (g - b[i]);
            b[i] = mean;
            variance = square - mean * mean;
        }
        float u = g / (std::sqrt(variance) + eps);
        if (MOMENTUM) {
            u = momentum * c[i] + u;
            c[i] = u;
        }
        p[i] -= lr * u;
    }
}

static void adagrad_tile(float* p, float* a, const float* x, int n, const Coefficients& k) {
    const float scale = k.scale, decay = k.decay, lr = k.lr, eps = k.eps;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float g = x[i] * scale + decay * p[i];
        const float sum = a[i] + g * g;
        a[i] = sum;
        p[i] -= lr * (g / (std::sqrt(sum) + eps));
    }
}

static inline void rule_tile(Rule rule, float* p, float* a, float* b, float* c, const float* x, int n,
                             const Coefficients& k) {
    switch (rule) {
        case SGD:
            return k.momentum ? sgd_tile<true>(p, a, x, n, k) : sgd_tile<false>(p, a, x, n, k);
        case ADAM:
            if (k.flag)
                return k.one < 0.5f ? adam_tile<true, true>(p, a, b, c, x, n, k)
                                    : adam_tile<true, false>(p, a, b, c, x, n, k);
            return k.one < 0.5f ? adam_tile<false, true>(p, a, b, c, x, n, k)
                                : adam_tile<false, false>(p, a, b, c, x, n, k);
        case RMSPROP:
            if (k.flag)
                return k.momentum ? rmsprop_tile<true, true>(p, a, b, c, x, n, k)
                                  : rmsprop_tile<true, false>(p, a, b, c, x, n, k);
            return k.momentum ? rmsprop_tile<false, true>(p, a, b, c, x, n, k)
                              : rmsprop_tile<false, false>(p, a, b, c, x, n, k);
        case ADAGRAD:
            return adagrad_tile(p, a, x, n, k);
    }
}

// Sum of what the rule's denominators are the roots of, over n elements of the state as the steps before have left it.
static inline double sum_of_seconds(Rule rule, float* const state[3], int64_t start, int n, bool flag) {
    double sum = 0;
    if (rule == SGD) return sum;
    const float* const second = state[rule == ADAM ? (flag ? 2 : 1) : 0] + start;
    if (rule == RMSPROP && flag) {
        const float* const mean = state[1] + start;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < n; i++) sum += static_cast<double>(second[i]) - static_cast<double>(mean[i]) * mean[i];
    } else {
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < n; i++) sum += second[i];
    }
    return sum;
}
