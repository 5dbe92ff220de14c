// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "examples/winnow/interrupt.h"
#include "winnow/error.h"

namespace winnow::program {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 30;

class Descriptor {
public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ > STDERR_FILENO) close(fd_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return fd_; }

private:
    int fd_;
};

[[noreturn]] void cannot_read(const std::string& path, int error) {
    throw Error(ErrorCode::kIo, fmt::format("cannot read '{}': {}; check the path", path, std::strerror(error)));
}

}  // namespace

std::string read_file(const std::string& path) {
    const Descriptor file(path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) cannot_read(path, errno);
    std::string bytes;
    char block[1 << 16];
    while (true) {
        // Somebody may be asked to type it: reading alone would go on waiting after Ctrl-C.
        pollfd sources[2] = {{file.get(), POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
        poll(sources, 2, -1);
        throw_if_interrupted();
        if (sources[0].revents == 0) continue;
        const ssize_t n = read(file.get(), block, sizeof block);
        if (n == 0) return bytes;
        if (n < 0) {
            if (errno == EINTR) continue;
            cannot_read(path, errno);
        }
        bytes.append(block, static_cast<std::size_t>(n));
        if (bytes.size() > kMostBytes) {
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("'{}' is larger than 1 GiB: give a shorter text", path));
        }
    }
}

void check_writable(const std::string& path) {
    struct stat status = {};
    const bool exists = stat(path.c_str(), &status) == 0;
    // Who reads a pipe would take the end of the probe for the end of all.
    if (path.empty() || (exists && S_ISFIFO(status.st_mode))) return;
    const OutputFile probe(path);
}

void NpyFile::begin(std::uint64_t n_rows, std::uint64_t n_columns) {
    static_assert(std::endian::native == std::endian::little, "the header says little-endian");
    n_missing_ = n_rows * n_columns;
    std::string header =
        fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", n_rows, n_columns);
    constexpr std::size_t kPreamble = 10;
    constexpr std::size_t kAlignment = 64;
    while ((kPreamble + header.size() + 1) % kAlignment != 0) header += ' ';
    header += '\n';
    std::string preamble("\x93NUMPY\x01\x00", 8);
    preamble += static_cast<char>(header.size() & 0xff);
    preamble += static_cast<char>(header.size() >> 8);
    file_.write(preamble + header);
}

void NpyFile::append(std::span<const float> values) {
    if (values.size() > n_missing_) throw Error(ErrorCode::kInternal, "more logits than tokens");
    n_missing_ -= values.size();
    file_.write({reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

void NpyFile::commit() {
    if (n_missing_ != 0) throw Error(ErrorCode::kInternal, "fewer logits than tokens");
    file_.commit();
}

}  // namespace winnow::program
