// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/code_fit.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

namespace winnow {
namespace {

constexpr int kRounds = 20;  // of Lloyd: after so many curves hardly change

using Curve = std::array<float, kCodeTerms>;
struct Fitted {
    Curve curve{};
    double error = 0;  ///< mean square
};

// Samples of one dimension, ascending, with the sums of all before each.
struct Sorted {
    explicit Sorted(std::vector<float> x) : values(std::move(x)), sums{0} {
        std::sort(values.begin(), values.end());
        for (const float v : values) sums.push_back(sums.back() + double{v});
    }
    double quantile(double share) const {
        return double{values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))]};
    }
    std::vector<float> values;
    std::vector<double> sums;
};

std::vector<double> values_of(const Curve& curve, std::size_t n) {
    std::vector<double> values;
    for (std::size_t k = 0; k < n; ++k)
        values.push_back(double{code_value(curve.data(), static_cast<std::uint32_t>(k))});
    return values;
}

// As shaders/common/index_codes.glsl finds it.
std::uint32_t nearest(const float* curve, std::uint32_t bits, float x) {
    std::uint32_t code = 0;
    for (std::uint32_t step = (1u << bits) / 2; step > 0; step /= 2)
        if (x >= 0.5f * (code_value(curve, code + step - 1) + code_value(curve, code + step))) code += step;
    return code;
}

// Where each value stands on the curve, from -1 to 1.
double place_of(std::size_t k, std::size_t n) { return (2 * static_cast<double>(k) + 1) / static_cast<double>(n) - 1; }

// The curve nearest to the means of the samples that belong to each value; where none does, to the value.
Curve through_means(const Sorted& samples, const std::vector<double>& values) {
    const std::size_t n = values.size(), n_terms = std::min<std::size_t>(n, kCodeTerms);
    const auto terms = static_cast<Eigen::Index>(n_terms);
    const auto n_samples = static_cast<double>(samples.values.size());
    Eigen::MatrixXd normal = Eigen::MatrixXd::Zero(terms, terms);
    Eigen::VectorXd right = Eigen::VectorXd::Zero(terms);
    std::size_t begin = 0;
    for (std::size_t k = 0; k < n; ++k) {
        std::size_t end = samples.values.size();
        if (k + 1 < n)
            end = static_cast<std::size_t>(
                std::lower_bound(samples.values.begin(), samples.values.end(), 0.5 * (values[k] + values[k + 1])) -
                samples.values.begin());
        const auto count = static_cast<double>(end - begin);
        const double mean = end > begin ? (samples.sums[end] - samples.sums[begin]) / count : values[k];
        const double weight = count + 1e-3 * n_samples / static_cast<double>(n);  // an empty one counts a little
        Eigen::VectorXd row(terms);
        for (Eigen::Index t = 0; t < terms; ++t) row[t] = std::pow(place_of(k, n), static_cast<double>(t));
        normal += weight * row * row.transpose();
        right += weight * mean * row;
        begin = end;
    }
    const Eigen::VectorXd by_place = normal.ldlt().solve(right);
    // The same in k, of which the place is step * k + first: by Horner, one factor at a time.
    const double step = 2 / static_cast<double>(n), first = place_of(0, n);
    std::array<double, kCodeTerms> in_k{};
    for (Eigen::Index t = terms; t-- > 0;) {
        for (std::size_t i = kCodeTerms; i-- > 0;) in_k[i] = first * in_k[i] + (i > 0 ? step * in_k[i - 1] : 0);
        in_k[0] += by_place[t];
    }
    Curve curve;
    std::transform(in_k.begin(), in_k.end(), curve.begin(), [](double x) { return static_cast<float>(x); });
    return curve;
}

Fitted fit_curve(const Sorted& samples, std::uint32_t bits) {
    const std::size_t n = std::size_t{1} << bits;
    const double low = double{samples.values.front()}, high = double{samples.values.back()};
    const double step = (high - low) / static_cast<double>(n);
    Fitted fit;
    fit.curve = {static_cast<float>(low + step / 2), static_cast<float>(step)};
    std::vector<double> values;
    for (std::size_t k = 0; k < n; ++k) {  // between even steps and equal shares of the samples
        const double at = (static_cast<double>(k) + 0.5) / static_cast<double>(n);
        values.push_back(0.7 * samples.quantile(at) + 0.3 * (low + at * (high - low)));
    }
    for (int round = 0; round < kRounds; ++round) {
        const Curve next = through_means(samples, values);
        const std::vector<double> found = values_of(next, n);
        if (!std::is_sorted(found.begin(), found.end())) break;
        fit.curve = next;
        values = found;
    }
    for (const float x : samples.values) {
        const double off = double{x} - double{code_value(fit.curve.data(), nearest(fit.curve.data(), bits, x))};
        fit.error += off * off / static_cast<double>(samples.values.size());
    }
    return fit;
}

}  // namespace

CodeFit fit_codes(const Rows& samples, const Eigen::VectorXd& weights) {
    const auto dim = static_cast<std::uint32_t>(samples.cols());
    std::vector<std::array<Fitted, kMostCodeBits + 1>> fits(dim);
    for (std::uint32_t r = 0; r < dim; ++r) {
        std::vector<float> column(static_cast<std::size_t>(samples.rows()));
        for (std::size_t i = 0; i < column.size(); ++i) column[i] = samples(static_cast<Eigen::Index>(i), r);
        if (column.empty()) column.push_back(0);  // a text of sinks alone
        const Sorted sorted(std::move(column));
        for (std::uint32_t b = 0; b <= kMostCodeBits; ++b) fits[r][b] = fit_curve(sorted, b);
    }
    CodeFit fit;
    fit.bits.assign(dim, 0);
    std::vector<std::uint32_t> room(index_code_words(dim), 16);
    for (;;) {
        double most = 0;
        std::uint32_t best = dim;
        for (std::uint32_t r = 0; r < dim; ++r) {
            if (fit.bits[r] == kMostCodeBits || room[index_code_word(dim, r)] == 0) continue;
            const double gain = weights[r] * (fits[r][fit.bits[r]].error - fits[r][fit.bits[r] + 1u].error);
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
        const Curve& curve = fits[r][fit.bits[r]].curve;
        fit.curves.insert(fit.curves.end(), curve.begin(), curve.end());
    }
    return fit;
}

Rows coded_keys(const Rows& keys, const std::uint8_t* bits, const float* curves) {
    Rows out(keys.rows(), keys.cols());
    for (Eigen::Index r = 0; r < keys.cols(); ++r) {
        const float* curve = curves + r * kCodeTerms;
        for (Eigen::Index t = 0; t < keys.rows(); ++t)
            out(t, r) = code_value(curve, nearest(curve, bits[r], keys(t, r)));
    }
    return out;
}

}  // namespace winnow
