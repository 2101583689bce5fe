/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/counters.h"

const struct counter_info counter_info[COUNTERS] = {
#define COUNTER(name, kind, text) {#name, COUNTER_##kind, text},
#include "core/counters.def"
#undef COUNTER
};
