// SPDX-License-Identifier: Apache-2.0
#include "models/gguf_writer.h"

#include <cstring>

#include "runtime/io/whole_file.h"

namespace winnow {
namespace {

constexpr std::uint64_t kAlignment = 32;

template <typename T>
void put(std::vector<std::byte>& out, const T& value) {
    out.resize(out.size() + sizeof(T));
    std::memcpy(out.data() + out.size() - sizeof(T), &value, sizeof(T));
}
void put_string(std::vector<std::byte>& out, std::string_view text) {
    put(out, static_cast<std::uint64_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    out.insert(out.end(), bytes, bytes + text.size());
}
void pad(std::vector<std::byte>& out) { out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment); }

}  // namespace

void GgufWriter::begin_key(std::string_view key, std::uint32_t type) {
    put_string(metadata_, key);
    put(metadata_, type);
    ++n_keys_;
}
void GgufWriter::add_uint(std::string_view key, std::uint32_t value) {
    begin_key(key, 4);
    put(metadata_, value);
}
void GgufWriter::add_float(std::string_view key, float value) {
    begin_key(key, 6);
    put(metadata_, value);
}
void GgufWriter::add_bool(std::string_view key, bool value) {
    begin_key(key, 7);
    put(metadata_, static_cast<std::uint8_t>(value));
}
void GgufWriter::add_string(std::string_view key, std::string_view value) {
    begin_key(key, 8);
    put_string(metadata_, value);
}
void GgufWriter::add_strings(std::string_view key, const std::vector<std::string>& values) {
    begin_key(key, 9);
    put(metadata_, std::uint32_t{8});
    put(metadata_, static_cast<std::uint64_t>(values.size()));
    for (const std::string& value : values) put_string(metadata_, value);
}
void GgufWriter::add_floats(std::string_view key, const std::vector<float>& values) {
    begin_key(key, 9);
    put(metadata_, std::uint32_t{6});
    put(metadata_, static_cast<std::uint64_t>(values.size()));
    for (const float value : values) put(metadata_, value);
}
void GgufWriter::add_ints(std::string_view key, const std::vector<std::int32_t>& values) {
    begin_key(key, 9);
    put(metadata_, std::uint32_t{5});
    put(metadata_, static_cast<std::uint64_t>(values.size()));
    for (const std::int32_t value : values) put(metadata_, value);
}

void GgufWriter::add_tensor(std::string_view name, WeightType type, const std::vector<std::uint64_t>& dims,
                            std::span<const std::byte> bytes) {
    tensors_.push_back({std::string(name), type, dims, {bytes.begin(), bytes.end()}});
}

std::vector<std::byte> GgufWriter::bytes() const {
    std::vector<std::byte> out;
    put(out, std::uint32_t{0x46554747});  // "GGUF"
    put(out, std::uint32_t{3});
    put(out, static_cast<std::uint64_t>(tensors_.size()));
    put(out, n_keys_);
    out.insert(out.end(), metadata_.begin(), metadata_.end());
    std::uint64_t offset = 0;
    for (const Tensor& t : tensors_) {
        put_string(out, t.name);
        put(out, static_cast<std::uint32_t>(t.dims.size()));
        for (const std::uint64_t d : t.dims) put(out, d);
        put(out, static_cast<std::uint32_t>(t.type));
        put(out, offset);
        offset += (t.bytes.size() + kAlignment - 1) / kAlignment * kAlignment;
    }
    pad(out);
    for (const Tensor& t : tensors_) {
        out.insert(out.end(), t.bytes.begin(), t.bytes.end());
        pad(out);
    }
    return out;
}

void GgufWriter::write(const std::filesystem::path& path) const {
    const std::vector<std::byte> data = bytes();
    WholeFile file(path.string());
    file.write(data.data(), data.size());
    file.commit();
}

}  // namespace winnow
