// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace winnow::program {
namespace {

// Red at `low`, green at 1.
std::string color_of(double value, double low) {
    if (std::isnan(value)) return "#dddddd";
    const double t = std::clamp((value - low) / (1 - low), 0.0, 1.0);
    return fmt::format("#{:02x}{:02x}50", static_cast<int>(220 - 150 * t), static_cast<int>(70 + 120 * t));
}

std::string heat_map(const std::string& title, const std::vector<float>& values, std::uint32_t n_layers,
                     std::uint32_t n_heads, double low, int x, int y) {
    constexpr int kCell = 12;
    std::string svg = fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", x, y - 6, title);
    for (std::uint32_t layer = 0; layer < n_layers; ++layer) {
        for (std::uint32_t h = 0; h < n_heads; ++h) {
            const double v = values[layer * n_heads + h];
            svg += fmt::format(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"><title>layer {} "
                "head {}: {:.3f}</title></rect>\n",
                x + static_cast<int>(layer) * kCell, y + static_cast<int>(h) * kCell, kCell - 1, kCell - 1,
                color_of(v, low), layer, h, v);
        }
    }
    return svg;
}

// A captured mass; dense attention and heads without lists are not audited.
std::string mass_text(const SparseReport& report, double mass) {
    return report.n_audits == 0 ? "-" : fmt::format("{:.3f}", mass);
}
nlohmann::json mass_json(const SparseReport& report, double mass) {
    return report.n_audits == 0 ? nlohmann::json() : nlohmann::json(mass);
}

}  // namespace

std::string eval_table(const std::vector<EvalRow>& rows) {
    std::string out =
        "| preset | n_ctx | share | mass mean | p5 | min | NLL diff | KL mean | KL p99 | top-1 | "
        "gain kept | copy (dense) | needle | aggregate | repeat | "
        "MB/token |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
        "---: | ---: | ---: | ---: | ---: |\n";
    for (const EvalRow& r : rows) {
        out += fmt::format(
            "| {} | {} | {:.3f} | {} | {} | {} | {:+.4f} | {:.4f} | {:.4f} | {:.3f} | "
            "{:.3f} | {:.2f} ({:.2f}) | {:+.3f} | {:+.3f} | {:.2f}x | {:.2f} |\n",
            r.preset, r.n_ctx, r.report.attended_share, mass_text(r.report, r.report.mass_mean),
            mass_text(r.report, r.report.mass_p5), mass_text(r.report, r.report.mass_min), r.nll_delta, r.kl_mean,
            r.kl_p99, r.top1_agree, r.long_range_gain, r.copy_acc, r.dense_copy_acc, r.needle_nll_delta,
            r.aggregate_nll_delta, r.repeat_ppl / r.dense_repeat_ppl, r.bytes_per_token / 1e6);
    }
    return out;
}

std::string eval_json(const std::vector<EvalRow>& rows) {
    nlohmann::json list = nlohmann::json::array();
    for (const EvalRow& r : rows) {
        list.push_back({{"preset", r.preset},
                        {"n_ctx", r.n_ctx},
                        {"n_probe", r.n_probe},
                        {"nll", r.nll},
                        {"nll_delta", r.nll_delta},
                        {"kl_mean", r.kl_mean},
                        {"kl_p99", r.kl_p99},
                        {"top1_agree", r.top1_agree},
                        {"long_range_gain", r.long_range_gain},
                        {"copy_acc", r.copy_acc},
                        {"dense_copy_acc", r.dense_copy_acc},
                        {"needle_nll_delta", r.needle_nll_delta},
                        {"needle_nll_delta_by_kind", r.needle_deltas},
                        {"aggregate_nll_delta", r.aggregate_nll_delta},
                        {"repeat_ppl", r.repeat_ppl},
                        {"dense_repeat_ppl", r.dense_repeat_ppl},
                        {"mass_mean", mass_json(r.report, r.report.mass_mean)},
                        {"mass_p5", mass_json(r.report, r.report.mass_p5)},
                        {"mass_min", mass_json(r.report, r.report.mass_min)},
                        {"mass_without_sinks_mean", mass_json(r.report, r.report.rest_mean)},
                        {"mass_without_sinks_min", mass_json(r.report, r.report.rest_min)},
                        {"attended_share", r.report.attended_share},
                        {"bytes_per_token", r.bytes_per_token},
                        {"kv_bytes", r.kv_bytes},
                        {"seconds", r.seconds}});
    }
    return list.dump(1) + "\n";
}

std::string eval_svg(const std::vector<EvalRow>& rows, std::uint32_t n_layers, std::uint32_t n_heads,
                     std::uint32_t n_kv_heads) {
    const int row_height = static_cast<int>(n_heads) * 12 + static_cast<int>(n_kv_heads) * 12 + 70;
    const int width = std::max(560, static_cast<int>(n_layers) * 12 + 40);
    std::string body;
    int y = 40;
    for (const EvalRow& r : rows) {
        if (r.report.n_steps == 0) continue;
        body += heat_map(fmt::format("{} at {}: captured mass by layer (across) and query head", r.preset, r.n_ctx),
                         r.report.layer_head_mass, n_layers, n_heads, 0.5, 20, y);
        const int below = y + static_cast<int>(n_heads) * 12 + 24;
        body += heat_map("share of tokens attended, by kv head", r.report.layer_head_share, n_layers, n_kv_heads, 0.0,
                         20, below);
        y += row_height;
    }
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        width, y, body);
}

}  // namespace winnow::program
