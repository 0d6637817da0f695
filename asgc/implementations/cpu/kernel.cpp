// One ASGC step for all layers of all groups, fp32 parameters.
//
// A row is what has statistics of its own: a layer, or one of its units. Long rows are cut into blocks of a fixed size,
// short rows of a layer share a block; threads take blocks. Every sum is formed per tile, then per block, then per row in
// block order, so the result does not depend on the number of threads.
// Value mode without noise reads the gradient once. Norm mode, noise and a row's first step need the row's sums first: a
// short row is done whole while its gradient is in the cache; long ones are walked in waves small enough for that.
#include <vector>

#include "adapt.h"
#include "pipeline.h"

namespace {

constexpr int64_t BLOCK = 8192;             // elements of a long row
constexpr int64_t WAVE = 1 << 20;           // elements
constexpr int64_t PARALLEL_FROM = 1 << 15;  // elements below which a second thread costs more than it brings
constexpr int64_t ROW_COST = 128;           // elements that take about as long as a row's scalar arithmetic
// Blocks of whole rows end with either. They are larger, since memory idles during the rows' scalar arithmetic.
constexpr int64_t ROWS_BLOCK = 4 * BLOCK;   // elements
constexpr int64_t MOST_ROWS = 64;

struct Span {  // numbers first..last-1
    int64_t first, last;
};

struct Block {
    int64_t layer;
    Span rows;            // short rows, whole (number is -1),
    int64_t number;       // or a piece of the long row of this number in the plan:
    int64_t start, size;  // its elements
};

struct LongRow {
    int64_t layer, row;
    Span blocks;
};

struct Wave {
    Span blocks, rows;  // and the long rows among them
};

struct Plan {
    std::vector<Block> blocks;
    std::vector<LongRow> rows;
    std::vector<Wave> waves;
    int64_t in_wave = 0, cost = 0;  // elements

    void close_wave() {
        const Wave before = waves.empty() ? Wave{} : waves.back();
        waves.push_back({{before.blocks.last, static_cast<int64_t>(blocks.size())},
                         {before.rows.last, static_cast<int64_t>(rows.size())}});
        in_wave = 0;
    }

    void add(int64_t elements) {  // that must not be in two waves
        if (in_wave > 0 && in_wave + elements > WAVE) close_wave();
        in_wave += elements;
        cost += elements;
    }
};

void make_plan(const Layer* layers, const float* const* grads, int64_t count, Plan& plan) {
    plan.blocks.clear();
    plan.rows.clear();
    plan.waves.clear();
    plan.in_wave = plan.cost = 0;
    for (int64_t l = 0; l < count; l++) {
        if (grads[l] == nullptr) continue;
        const int64_t rows = layers[l].rows, size = layers[l].row_size(), cost = std::max(size, ROW_COST);
        if (size > BLOCK) {
            for (int64_t row = 0; row < rows; row++) {
                plan.add(size);
                const int64_t first = static_cast<int64_t>(plan.blocks.size());
                const int64_t number = static_cast<int64_t>(plan.rows.size());
                for (int64_t done = 0; done < size; done += BLOCK)
                    plan.blocks.push_back({l, {row, row + 1}, number, row * size + done, std::min(BLOCK, size - done)});
                plan.rows.push_back({l, row, {first, static_cast<int64_t>(plan.blocks.size())}});
            }
        } else {
            const int64_t together = std::min(MOST_ROWS, ROWS_BLOCK / cost);
            for (int64_t row = 0; row < rows; row += together) {
                const int64_t last = std::min(row + together, rows);
                plan.add((last - row) * cost);
                plan.blocks.push_back({l, {row, last}, -1, 0, 0});
            }
        }
    }
    plan.close_wave();
}

void first_pass(const Layer& layer, const Shared& s, const float* grad, const Row& r, int64_t start, int64_t size,
                Sums& sums) {
    for (int64_t done = 0; done < size; done += TILE) {
        const int n = static_cast<int>(std::min<int64_t>(TILE, size - done));
        const int64_t here = start + done;
        sum_tile(grad + here, n, static_cast<float>(r.mean), sums);
        if (s.langevin && s.c_t != 0)
            sums.second += sum_of_seconds(s.rule, layer.state, here, n, r.rule.flag);
    }
}

// Elements of the tile at `start` when `rest` are left: the high word of the index is constant in it.
int tile_size(int64_t start, int64_t rest) {
    const int64_t word = int64_t{1} << 32;
    return static_cast<int>(std::min<int64_t>({TILE, rest, word - start % word}));
}

// Sum of squares of the update that transformed gradients x lead to, before the rule takes them: the step of parameters
// of 0 at a learning rate of 1 (asgc/ceiling.py, `follow`). Langevin noise is in tile.noise.
void measure_update(const Layer& layer, const Shared& s, const Row& r, const float* param, float* const state[3],
                    const float* x, int n, const Tile& tile, Sums& sums) {
    float y[TILE], moved[TILE] = {}, copies[3][TILE];
    for (int i = 0; i < n; i++) y[i] = x[i] * r.rule.scale + r.rule.decay * param[i];
    for (int k = 0; k < 3; k++)
        if (state[k] != nullptr) std::copy(state[k], state[k] + n, copies[k]);
    Coefficients bare;
    set_rule(layer, *s.group, 1.0, bare);
    bare.scale = bare.keep = 1;
    bare.decay = 0;
    bare.eps = r.rule.eps;
    rule_tile(s.rule, moved, copies[0], copies[1], copies[2], y, n, bare);
    if (r.langevin != 0 && !r.zero)
        for (int i = 0; i < n; i++) moved[i] -= bare.noise_lr * tile.noise[i];
    sums.update += sum_of_squares(moved, n, square_tile(moved, n));
}

void main_pass(const Layer& layer, const Shared& s, const Row& r, const float* grad, int64_t start, int64_t size,
               Sums& sums) {
    Tile tile;
    const float mean = static_cast<float>(r.mean);
    const int64_t end = start + size;
    for (int64_t at = start; at < end;) {
        const int n = tile_size(at, end - at);
        float* state[3];
        for (int k = 0; k < 3; k++) state[k] = layer.state[k] == nullptr ? nullptr : layer.state[k] + at;
        const float* const g = grad + at;
        float* const param = layer.param + at;
        const uint32_t low = static_cast<uint32_t>(at);
        const Key key = s.key_at(at);
        const int64_t here = at;
        at += n;
#ifdef ASGC_SIMD
        if (pipelined(layer, s, r, n)) {
            adam_pipeline(param, state[0], state[1], g, n, low, key, s, r, sums);
            continue;
        }
#endif
        const bool finite = r.first_pass ? !r.dirty : sum_tile(g, n, mean, sums);
        const bool permuted = layer.dims > 0 && (r.noise != 0 || r.langevin != 0);
        if (permuted) logical_indices(layer, here, n, tile.index);
        const uint32_t* const index = permuted ? tile.index : nullptr;
        if (s.by_element) set_limits(s, r, state[s.rule == ADAM ? 1 : 0], n, tile.limit, sums);
        const float* const x = transform_tile(s, r, g, n, low, index, key, finite, tile, sums);
        const bool after = r.langevin != 0 && !r.zero;
        if (after) add_noise<true>(tile.noise, g, n, low, index, key, r.langevin, s.noise_zeros);
        if (layer.ceiling != nullptr && s.rule != SGD) measure_update(layer, s, r, param, state, x, n, tile, sums);
        rule_tile(s.rule, param, state[0], state[1], state[2], x, n, r.rule);
        if (after)
            for (int i = 0; i < n; i++) param[i] -= r.rule.noise_lr * tile.noise[i];
    }
}

// Short rows, whole. One loop for each stage: memory is read in long runs, and the divisions and square roots of
// neighbouring rows overlap.
void step_rows(const Layer& layer, const Shared& s, const float* grad, Span span) {
    Row rows[MOST_ROWS];
    const int count = static_cast<int>(span.last - span.first);
    const int64_t size = layer.row_size(), start = span.first * size;
    for (int i = 0; i < count; i++) open_row(layer, s, span.first + i, rows[i]);
    for (int i = 0; i < count; i++)
        if (rows[i].first_pass) first_pass(layer, s, grad, rows[i], start + i * size, size, rows[i].total);
    for (int i = 0; i < count; i++)
        if (rows[i].first_pass) close_first_pass(s, rows[i]);
    for (int i = 0; i < count; i++) lower_step(layer, s, rows[i]);
    for (int i = 0; i < count; i++) main_pass(layer, s, rows[i], grad, start + i * size, size, rows[i].total);
    for (int i = 0; i < count; i++) close_row(layer, s, span.first + i, rows[i]);
}

void add_up(const Span& blocks, const Sums* partial, Sums& total) {
    for (int64_t b = blocks.first; b < blocks.last; b++) total.add(partial[b]);
}

}  // namespace

extern "C" {

// All layers with a gradient (null: none) take one step. Gradients have the memory order of their parameters. Returns the
// longest streak of steps in which a row's gradient was not finite, up to this one.
int32_t asgc_step(const Layer* layers, const float* const* grads, int64_t count, const Group* groups, int32_t threads) {
    static thread_local Plan plan;  // the buffers are kept between steps
    static thread_local std::vector<Shared> shared;
    static thread_local std::vector<Row> rows;
    static thread_local std::vector<Sums> early, late;
    make_plan(layers, grads, count, plan);
    shared.resize(static_cast<size_t>(count));
    rows.resize(plan.rows.size());
    early.assign(plan.blocks.size(), Sums{});
    late.assign(plan.blocks.size(), Sums{});
    for (int64_t l = 0; l < count; l++)
        if (grads[l] != nullptr) open_layer(layers[l], groups[layers[l].group], shared[l]);
    for (size_t i = 0; i < rows.size(); i++) {
        const LongRow& row = plan.rows[i];
        open_row(layers[row.layer], shared[row.layer], row.row, rows[i]);
        if (!rows[i].first_pass) lower_step(layers[row.layer], shared[row.layer], rows[i]);
    }

    const Plan& todo = plan;  // thread_local names inside the region would be each thread's own
    const Shared* const by_layer = shared.data();
    Row* const long_rows = rows.data();
    Sums *const sums_early = early.data(), *const sums_late = late.data();
#pragma omp parallel num_threads(plan.cost < PARALLEL_FROM ? 1 : threads)
    for (const Wave& wave : todo.waves) {
        bool twice = false;
        for (int64_t i = wave.rows.first; i < wave.rows.last; i++) twice |= long_rows[i].first_pass;
        if (twice) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t b = wave.blocks.first; b < wave.blocks.last; b++) {
                const Block& block = todo.blocks[b];
                if (block.number < 0 || !long_rows[block.number].first_pass) continue;
                first_pass(layers[block.layer], by_layer[block.layer], grads[block.layer], long_rows[block.number],
                           block.start, block.size, sums_early[b]);
            }
#pragma omp for schedule(static)
            for (int64_t i = wave.rows.first; i < wave.rows.last; i++) {
                if (!long_rows[i].first_pass) continue;
                add_up(todo.rows[i].blocks, sums_early, long_rows[i].total);
                const int64_t l = todo.rows[i].layer;
                close_first_pass(by_layer[l], long_rows[i]);
                lower_step(layers[l], by_layer[l], long_rows[i]);
            }
        }
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t b = wave.blocks.first; b < wave.blocks.last; b++) {
            const Block& block = todo.blocks[b];
            const int64_t l = block.layer;
            if (block.number >= 0) {
                main_pass(layers[l], by_layer[l], long_rows[block.number], grads[l], block.start, block.size, sums_late[b]);
                continue;
            }
            step_rows(layers[l], by_layer[l], grads[l], block.rows);
        }
    }
    for (size_t i = 0; i < rows.size(); i++) {
        const LongRow& row = plan.rows[i];
        add_up(row.blocks, late.data(), rows[i].total);
        close_row(layers[row.layer], shared[row.layer], row.row, rows[i]);
    }
    float streak = 0;
    for (int64_t l = 0; l < count; l++) {
        if (grads[l] == nullptr) continue;
        *layers[l].step += 1;
        *layers[l].noise_step += 1;
        const float* const streaks = layers[l].stats + STREAK * layers[l].rows;
        for (int64_t row = 0; row < layers[l].rows; row++) streak = std::max(streak, streaks[row]);
    }
    return static_cast<int32_t>(streak);
}

// eps of n elements from index `start` on: for tests against asgc/noise.py.
void asgc_noise(float* out, int64_t n, int64_t start, uint32_t seed, uint32_t step, uint32_t layer) {
    std::fill(out, out + n, 0.0f);
    for (int64_t i = 0; i < n;) {
        const int size = tile_size(start + i, n - i);
        const Key key = noise_key(seed, step, layer, static_cast<uint32_t>((start + i) >> 32));
        add_noise(out + i, out + i, size, static_cast<uint32_t>(start + i), nullptr, key, 1.0f, true);
        i += size;
    }
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
