// SPDX-License-Identifier: Apache-2.0
// The decode step's state; include with STATE_BINDING defined, STATE_WRITE where the shader changes it.
#ifndef WINNOW_STEP_STATE_GLSL
#define WINNOW_STEP_STATE_GLSL
#include "shaders/common/interface.h"

#ifdef STATE_WRITE
layout(set = 0, binding = STATE_BINDING, scalar) restrict buffer State { StepState state; };
#else
layout(set = 0, binding = STATE_BINDING, scalar) restrict readonly buffer State { StepState state; };
#endif

#endif
