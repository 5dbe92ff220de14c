// SPDX-License-Identifier: Apache-2.0
// The sizes of submissions follow from measured times alone, so they can be tested without a device.
#include "runtime/decode/pace.h"

#include <gtest/gtest.h>

namespace winnow::test {
namespace {

TEST(Pace, GrowsNoFasterThanTwofold) {
    Pace pace(0.1, 8, 1, 100);
    EXPECT_EQ(pace.fitting(), 8);
    pace.note(8, 1e-9);
    EXPECT_EQ(pace.fitting(), 16);
    pace.note(16, 0.08);
    EXPECT_DOUBLE_EQ(pace.fitting(), 20);
    for (int i = 0; i < 5; ++i) pace.note(20, 0);
    EXPECT_EQ(pace.fitting(), 100);
}

TEST(Pace, ShrinksAtOnceToWhatFits) {
    Pace pace(0.1, 32, 1, 32);
    pace.note(32, 0.4);
    EXPECT_DOUBLE_EQ(pace.fitting(), 8);
    pace.note(8, 100);
    EXPECT_EQ(pace.fitting(), 1);
}

// The last piece of a text is a short one: its time counts for as many items as it had.
TEST(Pace, AShortPieceSaysWhatItTook) {
    Pace pace(1, 64, 8, 512);
    pace.note(4, 0.05);
    EXPECT_DOUBLE_EQ(pace.fitting(), 80);
}

TEST(Pace, ItsLeastOutranksItsMost) {
    const Pace pace(1, 16, 8, 4);
    EXPECT_EQ(pace.fitting(), 8);
}

}  // namespace
}  // namespace winnow::test
