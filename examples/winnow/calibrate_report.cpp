// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/calibrate_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace winnow::program {
namespace {

constexpr int kCell = 12;

struct HeatMap {
    std::string title, column, row;
    const std::vector<float>& values;  // [n_columns, n_rows]
    std::uint32_t n_columns, n_rows;
    float low, high;
};

// White at `low`, blue at `high`, grey where nothing was measured.
std::string draw(const HeatMap& map, int y) {
    std::string svg = fmt::format("<text x=\"20\" y=\"{}\">{}</text>\n", y - 6, map.title);
    for (std::uint32_t c = 0; c < map.n_columns; ++c) {
        for (std::uint32_t r = 0; r < map.n_rows; ++r) {
            const float v = map.values[c * map.n_rows + r];
            const float t = std::clamp((v - map.low) / (map.high - map.low), 0.0f, 1.0f);
            const int red = static_cast<int>(245 - 215 * t);
            const std::string color =
                std::isnan(v) || v < 0
                    ? "#dddddd"
                    : fmt::format("#{:02x}{:02x}{:02x}", red, static_cast<int>(245 - 150 * t), 245 - red / 8);
            svg += fmt::format(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"><title>{} {} {} "
                "{}: {:.3f}</title></rect>\n",
                20 + static_cast<int>(c) * kCell, y + static_cast<int>(r) * kCell, kCell - 1, kCell - 1, color,
                map.column, c, map.row, r, v);
        }
    }
    return svg;
}

// A picture of values that may be missing; below 0 nothing was measured.
std::string not_measured(const std::string& title, int y) {
    return fmt::format("<text x=\"20\" y=\"{}\">{}: not measured, nothing was held out</text>\n", y - 6, title);
}

// What each anchor's lists are worth to the layers that reuse them.
std::string similarity_table(const Calibration& c, const ModelShape& shape) {
    std::string out;
    const auto anchors = [&](const std::vector<std::uint32_t>& layers, const std::vector<float>& values) {
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const std::uint32_t end = i + 1 < layers.size() ? layers[i + 1] : c.n_layers;
            double sum = 0;
            float least = 1;
            std::vector<std::uint32_t> served;
            for (std::uint32_t layer = layers[i] + 1; layer < end; ++layer) {
                if (shape.layers[layer].window != 0) continue;
                served.push_back(layer);
                const float value = values[layers[i] * c.n_layers + layer];
                sum += value;
                least = std::min(least, value);
            }
            if (served.empty()) continue;
            out += fmt::format("| {} | {} | {:.3f} | {:.3f} |\n", layers[i], fmt::join(served, " "),
                               sum / static_cast<double>(served.size()), least);
        }
    };
    if (!c.anchors.empty()) {
        out += fmt::format(
            "anchors: layers {}\n\n| anchor | serves layers | mass of their best 64 tokens that it holds, mean | least "
            "|\n"
            "| ---: | --- | ---: | ---: |\n",
            fmt::join(c.anchors, ", "));
        anchors(c.anchors, c.similarity);
    }
    if (!c.refresh_layers.empty()) {
        out += fmt::format("\nhylra refreshes in layers {}\n", fmt::join(c.refresh_layers, ", "));
        const std::size_t before = out.size();
        anchors(c.refresh_layers, c.overlap);
        if (out.size() > before)
            out.insert(before,
                       "\n| layer | serves layers | their best tokens that are its too, mean | least |\n| ---: | --- | "
                       "---: | ---: |\n");
    }
    return out;
}

}  // namespace

std::string calibration_table(const Calibration& c, const CalibrationReport& r, const ModelShape& shape) {
    std::size_t n_full = 0, n_kv = 0;
    float temperature = 0;
    for (std::size_t i = 0; i < c.full_heads.size(); ++i) {
        if (shape.layers[i / shape.n_kv_heads].window != 0) continue;
        ++n_kv;
        n_full += c.full_heads[i];
        temperature += c.temperatures[i];
    }
    std::string out = fmt::format(
        "moments: {} tokens of text, {} random ones, rotated to {} tokens\n"
        "retrieval heads: {} of {} kv heads ({:.1f} %)\n"
        "index: {} dimensions of {}, mean temperature {:.3f}; an estimated mass of 0.9 holds "
        "{:.3f}\n",
        r.n_text, r.n_random, c.target_ctx, n_full, n_kv, 100 * c.full_share, c.index_dim, c.head_dim,
        temperature / static_cast<float>(std::max<std::size_t>(n_kv, 1)), r.captured);
    if (r.dense_repeat > 0)
        out += fmt::format(
            "safety check: perplexity of repeated random tokens {:.2f} with these roles, {:.2f} "
            "dense{}\n",
            r.roles_repeat, r.dense_repeat,
            r.roles_safe || !r.has_structure ? "" : "; too far apart, so `auto` keeps every head");
    if (!r.has_structure)
        out +=
            "no structure: no head of this model looks back at copies or at the needle, so there are no roles to "
            "find\n";
    out += fmt::format("auto: {}\n", c.preset);
    out += similarity_table(c, shape);
    if (!c.settings.empty()) {
        out +=
            "\nSettings that hold 0.9 of the attention, as the exact audit finds it:\n\n"
            "| preset | setting | audited mass | MB read per token | repeats, over dense |\n"
            "| --- | --- | ---: | ---: | ---: |\n";
        for (const PresetSetting& s : c.settings)
            out += fmt::format(
                "| {} | {} | {:.3f} | {:.2f} | {} |\n", s.preset,
                s.mass > 0 ? fmt::format("mass {:.2f}", s.mass)
                           : fmt::format("{:.1f} % of the tokens, at least {}", 100 * s.budget_share, s.budget),
                s.captured, s.bytes_per_token / 1e6, s.repeat_ratio > 0 ? fmt::format("{:.2f}x", s.repeat_ratio) : "-");
        out += "\n";
    }
    if (r.indexes.empty()) {
        out += "nothing was held out to measure the index on: give a longer text with -f\n";
    } else {
        out += fmt::format(
            "\nOn {} tokens that no moment has seen; the index chooses 64. Attention mass of its choice over that of "
            "the "
            "best 64, and share of those that it finds: all heads / the 15 % that find the needle best\n\n"
            "| index | dimensions | mass | recall |\n| --- | ---: | ---: | ---: |\n",
            r.n_held_out);
        for (const IndexQuality& q : r.indexes)
            out += fmt::format("| {} | {} | {:.3f} / {:.3f} | {:.3f} / {:.3f} |\n", q.name, q.index_dim, q.mass,
                               q.retrieval_mass, q.recall, q.retrieval_recall);
        if (const FilterReport& f = r.filter; f.n_heads != 0)
            out += fmt::format(
                "\nhisa: its filter by codes leaves an overlap of {:.4f} with what the index chooses from all tokens "
                "(worst kv head {:.3f}) and {:.4f} of its attention, for {:.3f} of the index bytes. "
                "Budgets: the shares that they are of {} tokens\n",
                f.overlap, f.least, f.mass, f.bytes_share, kFilterContext);
    }
    out += "\n| phase | seconds |\n| --- | ---: |\n";
    for (const PhaseTime& phase : r.phases) out += fmt::format("| {} | {:.1f} |\n", phase.name, phase.seconds);
    return out + fmt::format("| all | {:.1f} |\n", r.seconds);
}

std::string calibration_svg(const Calibration& c) {
    std::vector<HeatMap> maps;
    const auto most = [](const std::vector<float>& values) {
        return std::max(*std::max_element(values.begin(), values.end()), 0.05f);
    };
    maps.push_back({"induction by layer (across) and query head", "layer", "head", c.induction, c.n_layers, c.n_heads,
                    0, most(c.induction)});
    maps.push_back(
        {"attention to the needle", "layer", "head", c.retrieval, c.n_layers, c.n_heads, 0, most(c.retrieval)});
    maps.push_back(
        {"attention beyond sinks and window", "layer", "head", c.far_mass, c.n_layers, c.n_heads, 0, most(c.far_mass)});
    maps.push_back(
        {"recall of the best 64 tokens by the index", "layer", "head", c.index_recall, c.n_layers, c.n_heads, 0, 1});
    maps.push_back({"mass that one layer's best tokens (across) hold of another's", "layer", "for layer", c.similarity,
                    c.n_layers, c.n_layers, 0, 1});
    maps.push_back({"share of a layer's best tokens that another's (across) are too", "layer", "for layer", c.overlap,
                    c.n_layers, c.n_layers, 0, 1});
    std::string body;
    int y = 40;
    for (const HeatMap& map : maps) {
        body += map.values.empty() ? not_measured(map.title, y) : draw(map, y);
        y += (map.values.empty() ? 0 : static_cast<int>(map.n_rows) * kCell) + 40;
    }
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
        std::max(560, static_cast<int>(c.n_layers) * kCell + 40), y, body);
}

}  // namespace winnow::program
