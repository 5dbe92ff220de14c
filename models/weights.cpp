// SPDX-License-Identifier: Apache-2.0
#include "models/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/vk/upload.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {
namespace {

constexpr std::uint64_t kVectorAlignment = 256;  // at least any device's minStorageBufferOffsetAlignment
constexpr std::uint64_t kRowUnit = 64;           // row ranges start at whole groups of every stage

std::uint64_t align_up(std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; }

float half_to_float(std::uint16_t h) {
    const int exponent = (h >> 10) & 31;
    const int mantissa = h & 1023;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
    if (exponent == 31) value = mantissa == 0 ? INFINITY : NAN;
    return (h & 0x8000) != 0 ? -value : value;
}

// A norm or bias vector as f32.
std::vector<float> vector_values(const GgufTensor& tensor) {
    std::vector<float> values(tensor.n_in());
    if (tensor.type == WeightType::kF32) {
        std::memcpy(values.data(), tensor.bytes.data(), values.size() * 4);
    } else {
        for (std::size_t i = 0; i < values.size(); ++i) {
            std::uint16_t h = 0;
            std::memcpy(&h, tensor.bytes.data() + 2 * i, 2);
            values[i] = half_to_float(h);
        }
    }
    return values;
}

// All small f32 data of a model in one buffer.
class VectorArena {
public:
    std::uint64_t add(const std::vector<float>& values) {
        const std::uint64_t at = data_.size() * 4;
        data_.insert(data_.end(), values.begin(), values.end());
        data_.resize(align_up(data_.size() * 4, kVectorAlignment) / 4);
        sizes_[at] = values.size() * 4;
        return at;
    }
    std::uint64_t size_of(std::uint64_t at) const { return sizes_.at(at); }
    const std::vector<float>& data() const { return data_; }

private:
    std::vector<float> data_;
    std::map<std::uint64_t, std::uint64_t> sizes_;
};

// cos and sin for position p as the product of two small tables, exact to double rounding whatever p:
// [256][n_rot/2] for p % 256, then [ceil(n_ctx / 256)][n_rot/2] for p / 256.
std::vector<float> rope_table(const ModelShape& shape, const LayerShape& layer, std::uint32_t n_ctx) {
    const std::uint32_t half = shape.n_rot / 2;
    const std::uint32_t n_high = (n_ctx + 255) / 256 + 1;
    std::vector<float> table;
    table.reserve(std::size_t{2} * half * (256 + n_high));
    const auto put = [&](double position) {
        for (std::uint32_t i = 0; i < half; ++i) {
            double frequency = std::pow(static_cast<double>(layer.rope_freq_base), -2.0 * i / shape.n_rot);
            if (!shape.rope_freq_divisors.empty()) frequency /= shape.rope_freq_divisors[i];
            const double angle = position * layer.rope_freq_scale * frequency;
            table.push_back(static_cast<float>(std::cos(angle)));
            table.push_back(static_cast<float>(std::sin(angle)));
        }
    };
    for (std::uint32_t p = 0; p < 256; ++p) put(p);
    for (std::uint32_t p = 0; p < n_high; ++p) put(256.0 * p);
    return table;
}

struct VectorPlaces {
    struct Layer {
        std::uint64_t attn_norm = 0, ffn_norm = 0, post_attn = 0, post_ffn = 0, params = 0, rope = 0;
    };
    std::vector<Layer> layers;
    std::uint64_t output_norm = 0;
    VectorArena norms;
    VectorArena rope;
};

VectorPlaces place_vectors(const ModelShape& shape, const ModelTensors& tensors, std::uint32_t n_ctx) {
    VectorPlaces places;
    std::vector<std::pair<LayerShape, std::uint64_t>> ropes;
    for (std::size_t l = 0; l < shape.layers.size(); ++l) {
        const LayerTensors& t = tensors.layers[l];
        VectorPlaces::Layer place;
        place.attn_norm = places.norms.add(vector_values(*t.attn_norm));
        place.ffn_norm = places.norms.add(vector_values(*t.ffn_norm));
        place.post_attn = place.attn_norm;
        place.post_ffn = place.ffn_norm;
        if (shape.post_norms) {
            place.post_attn = places.norms.add(vector_values(*t.post_attention_norm));
            place.post_ffn = places.norms.add(vector_values(*t.post_ffw_norm));
        }
        std::vector<float> params;
        const auto append = [&](const GgufTensor* tensor) {
            const std::vector<float> values = vector_values(*tensor);
            params.insert(params.end(), values.begin(), values.end());
        };
        if (shape.qk_norm) {
            append(t.attn_q_norm);
            append(t.attn_k_norm);
        }
        if (shape.qkv_bias) {
            append(t.attn_q_bias);
            append(t.attn_k_bias);
            append(t.attn_v_bias);
        }
        if (params.empty()) params.assign(4, 0.0f);  // a binding may not be empty
        place.params = places.norms.add(params);
        const LayerShape& layer = shape.layers[l];
        const auto same = std::find_if(ropes.begin(), ropes.end(), [&](const auto& known) {
            return known.first.rope_freq_base == layer.rope_freq_base &&
                   known.first.rope_freq_scale == layer.rope_freq_scale;
        });
        if (same != ropes.end()) {
            place.rope = same->second;
        } else {
            place.rope = places.rope.add(rope_table(shape, layer, n_ctx));
            ropes.emplace_back(layer, place.rope);
        }
        places.layers.push_back(place);
    }
    places.output_norm = places.norms.add(vector_values(*tensors.output_norm));
    return places;
}

// Consecutive rows of a matrix.
struct Rows {
    const GgufTensor* tensor;
    std::uint64_t first;
    std::uint64_t n;
};

// Rows that share a buffer: of one matrix, of gate and up, or of Q, K and V.
struct Piece {
    std::vector<Rows> matrices;
    std::uint64_t bytes() const {
        std::uint64_t sum = 0;
        for (const Rows& r : matrices) sum += weight_planes(r.tensor->type, r.n, r.tensor->n_in()).total;
        return sum;
    }
};

// A matrix made of units: so many rows each, which stay together.
struct Units {
    const GgufTensor* tensor;
    std::uint64_t n_rows = kRowUnit;
};

// Cuts matrices of equally many units at the same units, so that a piece fits a binding.
std::vector<Piece> cut(const std::vector<Units>& matrices, std::uint64_t limit) {
    const auto piece = [&](std::uint64_t begin, std::uint64_t end) {
        Piece p;
        for (const Units& m : matrices) {
            const std::uint64_t first = begin * m.n_rows;
            p.matrices.push_back({m.tensor, first, std::min(end * m.n_rows, m.tensor->n_rows()) - first});
        }
        return p;
    };
    const Units& front = matrices.front();
    const std::uint64_t n_units = (front.tensor->n_rows() + front.n_rows - 1) / front.n_rows;
    Piece whole = piece(0, n_units);
    if (whole.bytes() <= limit) return {std::move(whole)};
    std::uint64_t unit_bytes = 0;
    for (const Units& m : matrices) unit_bytes += m.n_rows * repacked_row_bytes(m.tensor->type, m.tensor->n_in());
    const std::uint64_t slack = 256 * matrices.size();
    if (limit < slack + unit_bytes)
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("tensor '{}' is too large for this device even in parts of {} rows; choose another "
                                "with --device",
                                front.tensor->name, front.n_rows));
    const std::uint64_t step = (limit - slack) / unit_bytes;
    std::vector<Piece> pieces;
    for (std::uint64_t at = 0; at < n_units; at += step) pieces.push_back(piece(at, std::min(at + step, n_units)));
    return pieces;
}

struct LayerPieces {
    std::vector<Piece> qkv, output, gate_up, down;
};
struct ModelPieces {
    std::vector<Piece> table, output;
    std::vector<LayerPieces> layers;
    template <typename Visit>
    void each(Visit&& visit) const {
        for (const Piece& p : table) visit(p);
        for (const Piece& p : output) visit(p);
        for (const LayerPieces& l : layers) {
            for (const auto* list : {&l.qkv, &l.output, &l.gate_up, &l.down})
                for (const Piece& p : *list) visit(p);
        }
    }
};

ModelPieces plan_pieces(const ModelShape& shape, const ModelTensors& t, std::uint64_t limit) {
    // A kv head with the query heads of its group: the qkv stage works on whole heads.
    const std::uint64_t q_rows = std::uint64_t{shape.n_group()} * shape.head_dim;
    const std::uint64_t kv_rows = shape.head_dim;
    ModelPieces pieces;
    pieces.table = cut({{t.token_embd}}, limit);
    if (t.output != t.token_embd) pieces.output = cut({{t.output}}, limit);
    for (const LayerTensors& l : t.layers) {
        LayerPieces layer;
        layer.qkv = cut({{l.attn_q, q_rows}, {l.attn_k, kv_rows}, {l.attn_v, kv_rows}}, limit);
        layer.output = cut({{l.attn_output}}, limit);
        layer.gate_up = cut({{l.ffn_gate}, {l.ffn_up}}, limit);
        layer.down = cut({{l.ffn_down}}, limit);
        pieces.layers.push_back(std::move(layer));
    }
    return pieces;
}

class Loader {
public:
    Loader(vk::Device& device, ModelWeights& weights, std::uint64_t total,
           const std::function<void(std::uint64_t, std::uint64_t)>& progress)
        : device_(device), weights_(weights), uploader_(device), total_(total), progress_(progress) {}

    // Buffer of a Piece; one MatrixRef per matrix.
    std::pair<vk::BufferRange, std::vector<MatrixRef>> load(const Piece& piece) {
        std::vector<std::byte> packed(piece.bytes());
        std::vector<MatrixRef> refs;
        std::uint64_t at = 0;
        for (const auto& [t, first, n] : piece.matrices) {
            const std::uint64_t row_size = stored_row_bytes(t->type, t->n_in());
            const std::uint64_t size = weight_planes(t->type, n, t->n_in()).total;
            repack_matrix(t->type, t->bytes.subspan(first * row_size, n * row_size), t->n_in(), n,
                          std::span(packed).subspan(at, size));
            refs.push_back({static_cast<std::uint32_t>(at / 16), static_cast<std::uint32_t>(n),
                            static_cast<std::uint32_t>(t->type)});
            at += size;
        }
        return {store(std::string(piece.matrices.front().tensor->name), std::as_bytes(std::span(packed))), refs};
    }

    vk::BufferRange store(const std::string& name, std::span<const std::byte> bytes) {
        weights_.buffers.emplace_back(device_, name, bytes.size(), vk::BufferUse::kDevice);
        uploader_.upload(weights_.buffers.back(), bytes);
        done_ += bytes.size();
        weights_.bytes += bytes.size();
        if (progress_) progress_(done_, total_);
        return weights_.buffers.back();
    }

    std::vector<MatrixRange> load_matrix(const std::vector<Piece>& pieces) {
        std::vector<MatrixRange> ranges;
        for (const Piece& piece : pieces) {
            auto [where, refs] = load(piece);
            ranges.push_back({where, refs.front(), static_cast<std::uint32_t>(piece.matrices.front().first)});
        }
        return ranges;
    }

    void finish() { uploader_.finish(); }

private:
    vk::Device& device_;
    ModelWeights& weights_;
    vk::Uploader uploader_;
    std::uint64_t total_;
    std::uint64_t done_ = 0;
    const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
};

std::uint64_t total_bytes(const ModelPieces& pieces, const VectorPlaces& places) {
    std::uint64_t sum = 4 * (places.norms.data().size() + places.rope.data().size());
    pieces.each([&](const Piece& p) { sum += p.bytes(); });
    return sum;
}

}  // namespace

std::uint64_t weight_bytes(const ModelShape& shape, const ModelTensors& tensors, std::uint32_t n_ctx,
                           std::uint64_t max_binding_bytes) {
    return total_bytes(plan_pieces(shape, tensors, max_binding_bytes), place_vectors(shape, tensors, n_ctx));
}

ModelWeights upload_weights(vk::Device& device, const ModelShape& shape, const ModelTensors& tensors,
                            std::uint32_t n_ctx, const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    const ModelPieces pieces = plan_pieces(shape, tensors, device.limits().max_matrix_bytes);
    const VectorPlaces places = place_vectors(shape, tensors, n_ctx);

    ModelWeights weights;
    std::size_t n_buffers = 2;
    pieces.each([&](const Piece&) { ++n_buffers; });
    weights.buffers.reserve(n_buffers);  // ranges point into it
    Loader loader(device, weights, total_bytes(pieces, places), progress);

    const vk::BufferRange norms = loader.store("norms", std::as_bytes(std::span(places.norms.data())));
    const auto norm = [&](std::uint64_t at) { return vk::BufferRange(*norms.buffer, at, places.norms.size_of(at)); };
    weights.rope = loader.store("rope", std::as_bytes(std::span(places.rope.data())));
    weights.output_norm = norm(places.output_norm);
    weights.table = loader.load_matrix(pieces.table);
    weights.output = pieces.output.empty() ? weights.table : loader.load_matrix(pieces.output);
    for (std::size_t l = 0; l < pieces.layers.size(); ++l) {
        const LayerPieces& p = pieces.layers[l];
        const VectorPlaces::Layer& place = places.layers[l];
        LayerWeights w;
        for (const Piece& piece : p.qkv) {
            auto [where, refs] = loader.load(piece);
            const Rows& k = piece.matrices[1];
            w.qkv.push_back({where, refs[0], refs[1], refs[2], static_cast<std::uint32_t>(k.first / shape.head_dim),
                             static_cast<std::uint32_t>(k.n / shape.head_dim)});
        }
        w.output = loader.load_matrix(p.output);
        for (const Piece& piece : p.gate_up) {
            auto [where, refs] = loader.load(piece);
            w.gate_up.push_back({where, refs[0], refs[1], static_cast<std::uint32_t>(piece.matrices.front().first)});
        }
        w.down = loader.load_matrix(p.down);
        w.attn_norm = norm(place.attn_norm);
        w.ffn_norm = norm(place.ffn_norm);
        w.post_attn_norm = norm(place.post_attn);
        w.post_ffn_norm = norm(place.post_ffn);
        w.params = norm(place.params);
        w.rope_offset = static_cast<std::uint32_t>(place.rope / 8);
        weights.layers.push_back(std::move(w));
    }
    loader.finish();
    return weights;
}

}  // namespace winnow
