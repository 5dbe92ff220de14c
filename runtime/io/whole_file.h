// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>

namespace winnow {

/// A file that appears under its name only when it is complete: written beside it, renamed by commit(), removed
/// otherwise. What a link points to is replaced, not the link, and hands on its mode; a link to nothing is replaced
/// itself. A destination that exists and is no regular file (a pipe, /dev/null) is written in place.
class WholeFile {
public:
    /// @param mode of a file that is new, less what the umask takes.
    /// @throws Error(kIo) when it cannot be created.
    explicit WholeFile(const std::string& path, unsigned mode = 0666);
    ~WholeFile();
    WholeFile(const WholeFile&) = delete;
    WholeFile& operator=(const WholeFile&) = delete;

    /// @throws Error(kIo), for example when the disk is full.
    void write(const void* bytes, std::size_t n);
    /// @throws Error(kIo); what stood under the name is then as it was.
    void commit();

private:
    void create(unsigned mode);
    bool owns_temporary() const;
    [[noreturn]] void fail(int error) const;

    std::string path_;
    std::string temporary_;  ///< empty when written in place, and after commit()
    int slot_ = -1;          ///< of the table that remove_unfinished_files() reads
    int fd_ = -1;
};

/// Removes what all WholeFiles of this process have written so far: for a signal handler, before it ends the process.
void remove_unfinished_files() noexcept;

/// The name that a WholeFile of this process is written under.
std::string temporary_of(const std::string& path);

}  // namespace winnow
