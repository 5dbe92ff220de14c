// SPDX-License-Identifier: Apache-2.0
// A file is there as a whole or not at all, whoever was in the way.
#include "runtime/io/whole_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "tests/support/temporary_folder.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class WholeFileTest : public ::testing::Test {
protected:
    static void put(WholeFile& file, std::string_view text) { file.write(text.data(), text.size()); }
    void write_whole(const std::string& name, std::string_view text, unsigned mode = 0666) const {
        WholeFile file(folder_.path(name), mode);
        put(file, text);
        file.commit();
    }
    unsigned mode_of(const std::string& name) const {
        return static_cast<unsigned>(fs::status(folder_.path(name)).permissions() & fs::perms::mask);
    }
    template <typename Work>
    static std::string failure_of(Work&& work) {
        try {
            work();
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kIo);
            return error.what();
        }
        ADD_FAILURE() << "no failure";
        return "";
    }
    TemporaryFolder folder_;
};

// As a handler of SIGTERM does it.
TEST_F(WholeFileTest, WhatIsUnfinishedCanBeRemovedAtOnce) {
    folder_.write("first", "old");
    WholeFile first(folder_.path("first"));
    put(first, "half");
    {
        WholeFile second(folder_.path("second"));
        put(second, "half");
        EXPECT_EQ(folder_.count(), 3u);
        write_whole("third", "whole");
        remove_unfinished_files();
        EXPECT_EQ(folder_.count(), 2u);
    }
    EXPECT_EQ(folder_.read("first"), "old");
    EXPECT_EQ(folder_.read("third"), "whole");
    for (int i = 0; i < 20; ++i) write_whole("third", "again");  // places are given back
    WholeFile last(folder_.path("last"));
    EXPECT_EQ(folder_.count(), 3u);
    remove_unfinished_files();
    EXPECT_EQ(folder_.count(), 2u);
}

TEST_F(WholeFileTest, AppearsWhenItIsComplete) {
    folder_.write("file", "old");
    {
        WholeFile file(folder_.path("file"));
        put(file, "half");
        EXPECT_EQ(folder_.read("file"), "old");
    }
    EXPECT_EQ(folder_.read("file"), "old");
    EXPECT_EQ(folder_.count(), 1u);
    write_whole("file", "new");
    EXPECT_EQ(folder_.read("file"), "new");
    EXPECT_EQ(folder_.count(), 1u);
}

TEST_F(WholeFileTest, TheModeIsThatOfTheFileThatIsReplaced) {
    const mode_t before = umask(022);
    write_whole("open", "a");
    EXPECT_EQ(mode_of("open"), 0644u);
    write_whole("private", "a", 0600);
    EXPECT_EQ(mode_of("private"), 0600u);
    fs::permissions(folder_.path("open"), fs::perms{0662});  // more than the umask would leave
    write_whole("open", "b", 0600);
    EXPECT_EQ(mode_of("open"), 0662u);
    fs::permissions(folder_.path("private"), fs::perms{0640});
    write_whole("private", "b");
    EXPECT_EQ(mode_of("private"), 0640u);
    umask(before);
}

TEST_F(WholeFileTest, WhatALinkPointsToIsReplaced) {
    folder_.write("file", "old");
    fs::create_symlink("file", folder_.path("link"));
    write_whole("link", "new");
    EXPECT_TRUE(fs::is_symlink(folder_.path("link")));
    EXPECT_EQ(folder_.read("file"), "new");
    EXPECT_EQ(folder_.count(), 2u);
}

TEST_F(WholeFileTest, ALeftoverIsNoObstacle) {
    const std::string leftover = temporary_of(folder_.path("file"));
    folder_.write(fs::path(leftover).filename().string(), "of a process that was killed");
    write_whole("file", "new");
    EXPECT_EQ(folder_.read("file"), "new");
    EXPECT_EQ(folder_.count(), 1u);
    fs::create_directory(leftover);  // what cannot be removed so is named
    EXPECT_THAT(failure_of([&] { WholeFile(folder_.path("file")); }),
                AllOf(HasSubstr("cannot write"), HasSubstr(leftover)));
    EXPECT_EQ(folder_.read("file"), "new");
}

TEST_F(WholeFileTest, OfTwoWritersAtATimeOneWins) {
    WholeFile first(folder_.path("file"));
    put(first, "first");
    {
        WholeFile second(folder_.path("file"));
        put(second, "sec");
        EXPECT_THAT(failure_of([&] { first.commit(); }), HasSubstr("removed meanwhile"));
        put(second, "ond");
        second.commit();
    }
    EXPECT_EQ(folder_.read("file"), "second");
    EXPECT_EQ(folder_.count(), 1u);
}

TEST_F(WholeFileTest, WhatIsNoFileIsWrittenInPlace) {
    WholeFile null("/dev/null");
    put(null, "a");
    null.commit();
    EXPECT_TRUE(fs::is_character_file("/dev/null"));
    WholeFile full("/dev/full");
    EXPECT_THAT(failure_of([&] { put(full, "a"); }), HasSubstr("No space left"));
    EXPECT_THAT(failure_of([&] { WholeFile(folder_.path("")); }), HasSubstr("Is a directory"));
    EXPECT_THAT(failure_of([&] { WholeFile(folder_.path("no/folder")); }), HasSubstr("No such file"));
}

}  // namespace
}  // namespace winnow::test
