// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/code_fit.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace winnow {
namespace {

constexpr int kRounds = 20;  // of Lloyd: after so many the tables hardly change

struct Table {
    std::vector<float> values;
    double error = 0;  ///< mean square
};

// Samples of one dimension, ascending, with the sums of all before each.
struct Sorted {
    explicit Sorted(std::vector<float> x) : values(std::move(x)), sums{0} {
        std::sort(values.begin(), values.end());
        for (const float v : values) sums.push_back(sums.back() + double{v});
    }
    float quantile(double share) const {
        return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
    }
    std::vector<float> values;
    std::vector<double> sums;
};

// As shaders/common/index_codes.glsl finds it.
std::size_t nearest(const float* table, std::size_t n, float x) {
    std::size_t code = 0;
    for (std::size_t step = n / 2; step > 0; step /= 2)
        if (x >= 0.5f * (table[code + step - 1] + table[code + step])) code += step;
    return code;
}

// First sample that belongs to each value, and their number.
std::vector<std::size_t> cells_of(const Sorted& samples, const std::vector<float>& table) {
    std::vector<std::size_t> begins{0};
    for (std::size_t k = 1; k < table.size(); ++k) {
        const auto at =
            std::lower_bound(samples.values.begin(), samples.values.end(), 0.5f * (table[k - 1] + table[k]));
        begins.push_back(static_cast<std::size_t>(at - samples.values.begin()));
    }
    begins.push_back(samples.values.size());
    return begins;
}

Table fit_table(const Sorted& samples, std::uint32_t bits) {
    const std::size_t n = std::size_t{1} << bits;
    const float low = samples.values.front(), high = samples.values.back();
    Table t;
    for (std::size_t k = 0; k < n; ++k) {  // between even steps and equal shares of the samples
        const double at = (static_cast<double>(k) + 0.5) / static_cast<double>(n);
        t.values.push_back(0.7f * samples.quantile(at) + 0.3f * (low + static_cast<float>(at) * (high - low)));
    }
    for (int round = 0; round < kRounds; ++round) {
        const std::vector<std::size_t> begins = cells_of(samples, t.values);
        for (std::size_t k = 0; k < n; ++k)
            if (begins[k + 1] > begins[k])
                t.values[k] = static_cast<float>((samples.sums[begins[k + 1]] - samples.sums[begins[k]]) /
                                                 static_cast<double>(begins[k + 1] - begins[k]));
        std::sort(t.values.begin(), t.values.end());  // one that no sample belongs to stays where it was
    }
    for (const float x : samples.values) {
        const double off = double{x} - double{t.values[nearest(t.values.data(), n, x)]};
        t.error += off * off / static_cast<double>(samples.values.size());
    }
    return t;
}

}  // namespace

CodeFit fit_codes(const Rows& samples, const Eigen::VectorXd& weights) {
    const auto dim = static_cast<std::uint32_t>(samples.cols());
    std::vector<std::array<Table, kMostCodeBits + 1>> tables(dim);
    for (std::uint32_t r = 0; r < dim; ++r) {
        std::vector<float> column(static_cast<std::size_t>(samples.rows()));
        for (std::size_t i = 0; i < column.size(); ++i) column[i] = samples(static_cast<Eigen::Index>(i), r);
        const Sorted sorted(std::move(column));
        for (std::uint32_t b = 0; b <= kMostCodeBits; ++b) tables[r][b] = fit_table(sorted, b);
    }
    CodeFit fit;
    fit.bits.assign(dim, 0);
    std::vector<std::uint32_t> room(index_code_words(dim), 16);
    for (;;) {
        double most = 0;
        std::uint32_t best = dim;
        for (std::uint32_t r = 0; r < dim; ++r) {
            if (fit.bits[r] == kMostCodeBits || room[index_code_word(dim, r)] == 0) continue;
            const double gain = weights[r] * (tables[r][fit.bits[r]].error - tables[r][fit.bits[r] + 1u].error);
            if (gain > most) {
                most = gain;
                best = r;
            }
        }
        if (best == dim) break;
        ++fit.bits[best];
        --room[index_code_word(dim, best)];
    }
    for (std::uint32_t r = 0; r < dim; ++r) {
        const std::vector<float>& values = tables[r][fit.bits[r]].values;
        fit.values.insert(fit.values.end(), values.begin(), values.end());
        fit.values.resize((r + 1) * std::size_t{kCodeValues}, values.back());
    }
    return fit;
}

Rows coded_keys(const Rows& keys, const std::uint8_t* bits, const float* values) {
    Rows out(keys.rows(), keys.cols());
    for (Eigen::Index r = 0; r < keys.cols(); ++r) {
        const float* table = values + r * kCodeValues;
        const std::size_t n = std::size_t{1} << bits[r];
        for (Eigen::Index t = 0; t < keys.rows(); ++t) out(t, r) = table[nearest(table, n, keys(t, r))];
    }
    return out;
}

}  // namespace winnow
