// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace winnow::program {

/// All bytes of a file; "-" is standard input. @throws Error(kIo), or kInvalidArgument above 1 GiB.
std::string read_file(const std::string& path);

/// A file that appears under its name only when it is complete: written beside it, renamed by
/// commit(), removed otherwise. A destination that exists and is no regular file (a pipe,
/// /dev/null) is written in place.
class OutputFile {
public:
    /// @throws Error(kIo) when it cannot be created.
    explicit OutputFile(std::string path);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    /// @throws Error(kIo), for example when the disk is full.
    void write(std::string_view bytes);
    void commit();

private:
    [[noreturn]] void fail(const char* what, int error) const;

    std::string path_;
    std::string temporary_;  ///< empty when written in place
    int fd_ = -1;
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
