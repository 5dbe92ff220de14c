# SPDX-License-Identifier: Apache-2.0
# From the log of GoogleTest programs: a line for each skipped test, with its reason. Of tests that pass ctest shows nothing.
/^\[ RUN  / { reason = "" }
/: Skipped$/ { getline; reason = $0 }
/^\[  SKIPPED \].*ms\)$/ { print "skipped " $4 ": " reason }
