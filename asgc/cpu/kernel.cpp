// One ASGC step for all layers of all groups: fp32 parameters, statistics by layer, noise at the gradient.
//
// The elements of all layers are cut into blocks of a fixed size; threads take blocks, and every sum is formed per
// tile, then per block, then per layer in block order, so the result does not depend on the number of threads.
// Value mode reads the gradient once. Norm mode (and a layer's first step) needs the layer's sums first: the layers
// are walked in waves small enough that the gradient is still in the cache when the main pass reads it again.
#include <vector>

#include "adapt.h"
#include "pipeline.h"

namespace {

constexpr int64_t BLOCK = 8192;             // elements; a power of two: the high word of an index is constant in it
constexpr int64_t WAVE = 1 << 20;           // elements
constexpr int64_t PARALLEL_FROM = 1 << 15;  // elements below which a second thread costs more than it brings

struct Block {
    int64_t start;
    int32_t layer, size;
};

struct Span {  // blocks first..last-1 of one layer or one wave
    int64_t first, last;
};

struct Plan {
    std::vector<Block> blocks;
    std::vector<Span> layers;      // blocks of each layer (none without a gradient)
    std::vector<Span> waves;       // blocks of each wave
    std::vector<int64_t> members;  // first layer of each wave, and the number of layers
    int64_t elements = 0;
};

void make_plan(const Layer* layers, const float* const* grads, int64_t count, Plan& plan) {
    plan = Plan{};
    int64_t in_wave = 0;
    plan.members.push_back(0);
    for (int64_t l = 0; l < count; l++) {
        const int64_t first = static_cast<int64_t>(plan.blocks.size());
        const int64_t numel = grads[l] == nullptr ? 0 : layers[l].numel;
        if (in_wave > 0 && in_wave + numel > WAVE) {
            plan.waves.push_back({plan.waves.empty() ? 0 : plan.waves.back().last, first});
            plan.members.push_back(l);
            in_wave = 0;
        }
        for (int64_t start = 0; start < numel; start += BLOCK)
            plan.blocks.push_back({start, static_cast<int32_t>(l), static_cast<int32_t>(std::min(BLOCK, numel - start))});
        plan.layers.push_back({first, static_cast<int64_t>(plan.blocks.size())});
        in_wave += numel;
        plan.elements += numel;
    }
    plan.waves.push_back({plan.waves.empty() ? 0 : plan.waves.back().last, static_cast<int64_t>(plan.blocks.size())});
    plan.members.push_back(count);
}

void first_pass(const float* grad, const Work& w, const Block& block, Sums& sums) {
    for (int done = 0; done < block.size; done += TILE)
        sum_tile(grad + block.start + done, std::min(TILE, block.size - done), static_cast<float>(w.mean), sums);
}

void main_pass(const Layer& layer, const float* grad, const Work& w, Rule rule, const Block& block, Sums& sums) {
    Tile tile;
    const Key key = noise_key(w.seed, w.step_bits, static_cast<uint32_t>(layer.number),
                              static_cast<uint32_t>(block.start >> 32));
    const float mean = static_cast<float>(w.mean);
    for (int done = 0; done < block.size; done += TILE) {
        const int n = std::min(TILE, block.size - done);
        const int64_t at = block.start + done;
        float* state[3];
        for (int s = 0; s < 3; s++) state[s] = layer.state[s] == nullptr ? nullptr : layer.state[s] + at;
        const uint32_t start = static_cast<uint32_t>(at);
#ifdef ASGC_SIMD
        if (pipelined(layer, w, rule, n)) {
            adam_pipeline(layer.param + at, state[0], state[1], grad + at, n, start, key, w, sums);
            continue;
        }
#endif
        const bool finite = w.first_pass ? !w.dirty : sum_tile(grad + at, n, mean, sums);
        const bool permuted = layer.dims > 0 && w.noise != 0;
        if (permuted) logical_indices(layer, at, n, tile.index);
        const uint32_t* index = permuted ? tile.index : nullptr;
        const float* x = transform_tile(w, grad + at, n, start, index, key, finite, tile, sums);
        rule_tile(rule, layer.param + at, state[0], state[1], state[2], x, n, w.rule);
    }
}

void add_up(const Span& blocks, const Sums* partial, Sums& total) {
    for (int64_t b = blocks.first; b < blocks.last; b++) total.add(partial[b]);
}

}  // namespace

extern "C" {

// All layers with a gradient (null: none) take one step. Gradients have the memory order of their parameters.
void asgc_step(const Layer* layers, const float* const* grads, int64_t count, const Group* groups, int32_t threads) {
    static thread_local Plan plan;  // the buffers are kept between steps
    static thread_local std::vector<Work> work;
    static thread_local std::vector<Sums> early, late;
    make_plan(layers, grads, count, plan);
    work.resize(static_cast<size_t>(count));
    early.assign(plan.blocks.size(), Sums{});
    late.assign(plan.blocks.size(), Sums{});
    for (int64_t l = 0; l < count; l++)
        if (grads[l] != nullptr) open_layer(layers[l], groups[layers[l].group], work[l]);

    const Plan& todo = plan;  // thread_local names inside the region would be each thread's own
    Work* const works = work.data();
    Sums *const sums_early = early.data(), *const sums_late = late.data();
#pragma omp parallel num_threads(plan.elements < PARALLEL_FROM ? 1 : threads)
    for (size_t wave = 0; wave < todo.waves.size(); wave++) {
        const Span& span = todo.waves[wave];
        bool twice = false;
        for (int64_t l = todo.members[wave]; l < todo.members[wave + 1]; l++)
            twice |= grads[l] != nullptr && works[l].first_pass;
        if (twice) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t b = span.first; b < span.last; b++) {
                const Block& block = todo.blocks[b];
                const Work& w = works[block.layer];
                if (w.first_pass) first_pass(grads[block.layer], w, block, sums_early[b]);
            }
#pragma omp for schedule(static)
            for (int64_t l = todo.members[wave]; l < todo.members[wave + 1]; l++) {
                if (grads[l] == nullptr || !works[l].first_pass) continue;
                add_up(todo.layers[l], sums_early, works[l].total);
                close_first_pass(layers[l], groups[layers[l].group], works[l]);
            }
        }
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t b = span.first; b < span.last; b++) {
            const Block& block = todo.blocks[b];
            const Layer& layer = layers[block.layer];
            const Rule rule = static_cast<Rule>(static_cast<int>(groups[layer.group].rule));
            main_pass(layer, grads[block.layer], works[block.layer], rule, block, sums_late[b]);
        }
    }
    for (int64_t l = 0; l < count; l++) {
        if (grads[l] == nullptr) continue;
        add_up(plan.layers[l], late.data(), work[l].total);
        close_layer(layers[l], groups[layers[l].group], work[l]);
    }
}

// eps of n elements from index `start` on (which must not cross a multiple of 2^32): for tests against asgc/noise.py.
void asgc_noise(float* out, int64_t n, int64_t start, uint32_t seed, uint32_t step, uint32_t layer) {
    const Key key = noise_key(seed, step, layer, static_cast<uint32_t>(start >> 32));
    std::fill(out, out + n, 0.0f);
    for (int64_t i = 0; i < n; i += TILE)
        add_noise(out + i, out + i, static_cast<int>(std::min<int64_t>(TILE, n - i)), static_cast<uint32_t>(start + i),
                  nullptr, key, 1.0f, true);
}

// phi of n elements, for tests against asgc/functional.py.
void asgc_clip(float* out, const float* x, int64_t n, float tau, double sharpness) {
    for (int64_t i = 0; i < n; i += TILE) {
        int32_t clipped;
        float square;
        clip_tile(sharpness_kind(sharpness), out + i, x + i, static_cast<int>(std::min<int64_t>(TILE, n - i)), tau,
                  static_cast<float>(sharpness), clipped, square);
    }
}

}
