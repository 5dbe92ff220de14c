// SPDX-License-Identifier: Apache-2.0
// Lanes of a subgroup, where a loop shall end when the stage is compiled. The includer defines kGroupSize and kSubgroups.
#ifndef WINNOW_SUBGROUP_LANES_GLSL
#define WINNOW_SUBGROUP_LANES_GLSL
const uint kSubgroupLanes = kGroupSize / kSubgroups;
#endif
