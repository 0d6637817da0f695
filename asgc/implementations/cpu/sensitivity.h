// How much a base rule's new parameter depends on the gradient that it is given: what adapt.h lays gradients against.
#pragma once
#include <cmath>

#include "rules.h"

// FLAG: amsgrad or centered. a, b, c: state as in rules.h. out is the sensitivity times x.
template <Rule RULE, bool FLAG>
static void sensitivity_tile(float* out, const float* x, const float* p, const float* a, const float* b, const float* c,
                             int n, const Coefficients& k, float sign) {
    const float scale = k.scale, decay = k.decay, step_size = sign * k.lr, eps = k.eps;
    const float keep = RULE == ADAM ? k.two : RULE == RMSPROP ? k.one : 1.0f;  // of the second moment
    const float fresh = RULE == ADAM ? k.three : RULE == RMSPROP ? k.two : 1.0f;
    const float direct = RULE == ADAM ? k.one : 1.0f, correction = RULE == ADAM ? k.four : 1.0f;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        const float g = x[i] * scale + decay * p[i];
        const float numerator = RULE == ADAM ? a[i] + direct * (g - a[i]) : g;
        float v = keep * (RULE == ADAM ? b[i] : a[i]) + fresh * g * g, half_dv = fresh * g;
        if (RULE == RMSPROP && FLAG) {
            const float mean = b[i] + fresh * (g - b[i]);
            v -= mean * mean;
            half_dv -= fresh * mean;
        }
        if (RULE == ADAM && FLAG) {
            half_dv = v >= c[i] ? half_dv : 0.0f;
            v = v >= c[i] ? v : c[i];
        }
        const float root = std::sqrt(v), denominator = correction * root + eps, product = root * denominator;
        const float inverse = product > 1e-37f ? 1.0f / product : 0.0f, one_over = inverse * root;  // 1 / denominator
        const float slope = correction * half_dv * inverse * denominator;                         // of the denominator
        out[i] = step_size * (direct - numerator * slope * one_over) * one_over * x[i];
    }
}

// J x of n elements: minus the new parameter's derivative by log x, all moments included (asgc/rules.py).
static void sensitivity(Rule rule, float* out, const float* x, const float* p, const float* const state[3], int n,
                        const Coefficients& k, float sign) {
    const float *a = state[0], *b = state[1], *c = state[2];
    switch (rule) {
        case SGD: {
            const float buffer = k.first ? 1.0f : k.two, through = k.flag ? 1.0f + k.one * buffer : buffer;
            const float slope = sign * k.lr * (k.momentum ? through : 1.0f);
            for (int i = 0; i < n; i++) out[i] = slope * x[i];
            return;
        }
        case ADAM:
            if (k.flag) return sensitivity_tile<ADAM, true>(out, x, p, a, b, c, n, k, sign);
            return sensitivity_tile<ADAM, false>(out, x, p, a, b, c, n, k, sign);
        case RMSPROP:
            if (k.flag) return sensitivity_tile<RMSPROP, true>(out, x, p, a, b, c, n, k, sign);
            return sensitivity_tile<RMSPROP, false>(out, x, p, a, b, c, n, k, sign);
        case ADAGRAD:
            return sensitivity_tile<ADAGRAD, false>(out, x, p, a, b, c, n, k, sign);
    }
}
