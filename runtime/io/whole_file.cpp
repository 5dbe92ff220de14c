// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/whole_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "runtime/io/safe_path.h"
#include "winnow/error.h"

namespace winnow {
namespace {

constexpr unsigned kPermissions = 0777;

// Names of the temporaries, where a signal handler may look: copies, since the owner's string may be changing when the
// signal comes.
struct Slot {
    enum State { kFree, kBusy, kReady };
    std::atomic<int> state{kFree};
    char path[PATH_MAX];
};
Slot slots[8];
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may use only lock-free atomics");

// @returns -1 where there is no room: then a signal leaves the file behind.
int note_unfinished(const std::string& path) {
    if (path.size() >= sizeof slots[0].path) return -1;
    for (int i = 0; i < static_cast<int>(std::size(slots)); ++i) {
        int expected = Slot::kFree;
        if (!slots[i].state.compare_exchange_strong(expected, Slot::kBusy)) continue;
        std::strcpy(slots[i].path, path.c_str());
        slots[i].state.store(Slot::kReady);
        return i;
    }
    return -1;
}
void forget_unfinished(int& slot) {
    if (slot >= 0) slots[std::exchange(slot, -1)].state.store(Slot::kFree);
}

std::string real_path(const std::string& path) {
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(path, error);
    return error ? path : real.string();
}

}  // namespace

std::string temporary_of(const std::string& path) { return fmt::format("{}.tmp.{}", real_path(path), getpid()); }

WholeFile::WholeFile(const std::string& path, unsigned mode) : path_(path) {
    struct stat status = {};
    const bool exists = stat(path.c_str(), &status) == 0;
    if (exists && !S_ISREG(status.st_mode)) {
        fd_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
        if (fd_ < 0) fail(errno);
        return;
    }
    // A rename asks for no right to the file that it replaces.
    if (exists && access(path.c_str(), W_OK) != 0) fail(errno);
    temporary_ = temporary_of(path);
    path_ = real_path(path);
    create(exists ? status.st_mode & kPermissions : mode);
    // What the umask took of a mode that is handed on; some file systems have no modes.
    if (exists) fchmod(fd_, status.st_mode & kPermissions);
}

void remove_unfinished_files() noexcept {
    for (Slot& slot : slots)
        if (slot.state.load() == Slot::kReady) unlink(slot.path);
}

void WholeFile::create(unsigned mode) {
    slot_ = note_unfinished(temporary_);
    const auto try_once = [&] { return open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode); };
    fd_ = try_once();
    // Left by a process of the same number that was killed: in containers numbers are few.
    if (fd_ < 0 && errno == EEXIST && unlink(temporary_.c_str()) == 0) fd_ = try_once();
    if (fd_ >= 0) return;
    const int error = errno;
    forget_unfinished(slot_);
    throw Error(ErrorCode::kIo,
                fmt::format("cannot write '{}': its temporary '{}' cannot be made: {}; write into another folder",
                            safe_path(path_), safe_path(temporary_), std::strerror(error)));
}

WholeFile::~WholeFile() {
    if (fd_ < 0) return;
    if (!temporary_.empty() && owns_temporary()) unlink(temporary_.c_str());
    forget_unfinished(slot_);
    close(fd_);
}

// Not where another writer of this process, or one of the same number in another container, took it for a leftover.
bool WholeFile::owns_temporary() const {
    struct stat own = {}, named = {};
    return fstat(fd_, &own) == 0 && stat(temporary_.c_str(), &named) == 0 && own.st_dev == named.st_dev &&
           own.st_ino == named.st_ino;
}

void WholeFile::fail(int error) const {
    throw Error(ErrorCode::kIo, fmt::format("cannot write '{}': {}; give another path, or make room", safe_path(path_),
                                            std::strerror(error)));
}

void WholeFile::write(const void* bytes, std::size_t n) {
    const char* at = static_cast<const char*>(bytes);
    while (n > 0) {
        const ssize_t done = ::write(fd_, at, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) fail(errno);
        at += done;
        n -= static_cast<std::size_t>(done);
    }
}

void WholeFile::commit() {
    // Some file systems tell of a full disk only when a file is closed; a second descriptor, so that the first still
    // tells whose the name is.
    const int second = dup(fd_);
    int error = second >= 0 && close(second) == 0 ? 0 : errno;
    // Else a crash of the machine may leave the new name with none of the bytes. Some file systems cannot, and that is
    // no failure.
    if (error == 0 && !temporary_.empty() && fsync(fd_) != 0 && errno != EINVAL && errno != ENOSYS &&
        errno != ENOTSUP && errno != EROFS)
        error = errno;
    if (!temporary_.empty() && !owns_temporary())
        throw Error(ErrorCode::kIo, fmt::format("cannot write '{}': its temporary '{}' was removed meanwhile",
                                                safe_path(path_), safe_path(temporary_)));
    const std::string temporary = std::exchange(temporary_, {});
    if (!temporary.empty()) {
        if (error == 0 && rename(temporary.c_str(), path_.c_str()) != 0) error = errno;
        if (error != 0) unlink(temporary.c_str());
    }
    forget_unfinished(slot_);
    if (close(std::exchange(fd_, -1)) != 0 && error == 0) error = errno;
    if (error != 0) fail(error);
}

}  // namespace winnow
