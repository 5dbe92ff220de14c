// SPDX-License-Identifier: Apache-2.0
// What bench writes, on a tiny random model.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace winnow::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class BenchOutput : public OnDevice {
protected:
    static Outcome bench(const std::vector<std::string>& more) {
        std::vector<std::string> arguments = {"bench", "-m", Files::shared().tiny(), "-p", "16", "-n", "4", "-r", "2"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const Outcome outcome = run_program(arguments);
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        return outcome;
    }
};

TEST_F(BenchOutput, JsonAndTable) {
    const json rows = json::parse(bench({"-o", "json", "-b", "1024"}).out, nullptr, false);
    ASSERT_TRUE(rows.is_array());
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0]["n_prompt"], 16);
    EXPECT_EQ(rows[1]["n_gen"], 4);
    EXPECT_GT(rows[1]["avg_ts"], 0);
    EXPECT_GT(rows[1]["gbps"], 0);
    EXPECT_EQ(rows[1]["samples_ns"].size(), 2u);
    EXPECT_EQ(rows[0]["n_batch"], 1024);
    EXPECT_GT(rows[0]["n_ubatch"], 0);  // what was automatic too
    EXPECT_THAT(rows[0]["build_commit"].get<std::string>(), MatchesRegex("unknown|[0-9a-f]{7,40}"));
    const std::string table = bench({"-o", "md"}).out;
    EXPECT_THAT(table, HasSubstr(" pp16 |"));
    EXPECT_THAT(table, HasSubstr(" tg4 |"));
    EXPECT_THAT(table, Not(HasSubstr("type_k")));
    EXPECT_THAT(table, Not(HasSubstr("n_ubatch")));
}

TEST_F(BenchOutput, TheTableShowsChangedSettings) {
    const std::string table = bench({"-ctk", "q8_0", "-ub", "8"}).out;
    EXPECT_THAT(table, HasSubstr("| ngl | n_ubatch | type_k | type_v |"));
    EXPECT_THAT(table, HasSubstr("| all |        8 | q8_0   | q8_0   |"));
}

TEST_F(BenchOutput, SqlFillsATable) {
    const std::string sql = bench({"-o", "sql"}).out;
    EXPECT_TRUE(sql.starts_with("CREATE TABLE IF NOT EXISTS llama_bench (\n  build_commit TEXT,\n")) << sql;
    EXPECT_THAT(sql, HasSubstr("  avg_ns INTEGER,\n"));
    EXPECT_THAT(sql, HasSubstr("  sparse_mass REAL,\n"));
    const std::string lines = bench({"-o", "jsonl"}).out;
    const json row = json::parse(lines.substr(0, lines.find('\n')));
    std::size_t n_rows = 0;
    for (std::size_t at = 0; (at = sql.find("\nINSERT INTO llama_bench (build_commit, ", at)) != sql.npos; ++at)
        ++n_rows;
    EXPECT_EQ(n_rows, 2u);
    EXPECT_THAT(sql, HasSubstr(", '" + row["type_k"].get<std::string>() + "', "));
    EXPECT_THAT(sql, HasSubstr(", NULL"));
    EXPECT_THAT(sql, Not(HasSubstr("samples_")));
}

TEST_F(BenchOutput, ASecondReportGoesToStandardError) {
    const Outcome both = bench({"-o", "jsonl", "-oe", "csv"});
    EXPECT_TRUE(both.out.starts_with("{")) << both.out;
    EXPECT_THAT(both.err, HasSubstr("build_commit,build_number,"));
    const Outcome quiet = bench({"-o", "none", "-oe", "jsonl"});
    EXPECT_EQ(quiet.out, "");
    EXPECT_THAT(quiet.err, HasSubstr("\"n_gen\":4"));
    expect_error(run_program({"bench", "-m", Files::shared().tiny(), "-oe", "xml"}), 2, "xml");
}

}  // namespace
}  // namespace winnow::test
