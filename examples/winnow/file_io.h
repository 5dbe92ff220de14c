// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/io/whole_file.h"

namespace winnow::program {

/// All bytes of a file; "-" is standard input. @throws Error(kIo), or kInvalidArgument above 1 GiB.
std::string read_file(const std::string& path);

/// A WholeFile for text.
class OutputFile {
public:
    /// @throws Error(kIo) when it cannot be created.
    explicit OutputFile(const std::string& path) : file_(path) {}

    /// @throws Error(kIo), for example when the disk is full.
    void write(std::string_view bytes) { file_.write(bytes.data(), bytes.size()); }
    void commit() { file_.commit(); }

private:
    WholeFile file_;
};

/// Before long work: that its result can be written there. Leaves the file as it is; nothing for an empty path.
/// @throws Error(kIo).
void check_writable(const std::string& path);

/// Logits as a .npy file: f32, C order, [n_rows, n_columns].
class NpyFile {
public:
    explicit NpyFile(const std::string& path) : file_(path) {}
    void begin(std::uint64_t n_rows, std::uint64_t n_columns);
    void append(std::span<const float> values);
    /// @throws Error(kInternal) when fewer values came than begin() announced.
    void commit();

private:
    OutputFile file_;
    std::uint64_t n_missing_ = 0;
};

}  // namespace winnow::program
