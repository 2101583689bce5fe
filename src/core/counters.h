/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Names of everything that is counted, made from counters.def. Each thread counts in an array of its own;
 * readers add the arrays up.
 */
#ifndef CORE_COUNTERS_H
#define CORE_COUNTERS_H

#include <stdint.h>

enum counter_kind {
	COUNTER_INFO,  /* happens in a healthy engine */
	COUNTER_DROP,  /* a frame or request was dropped */
	COUNTER_FAULT, /* a peer or an application did something wrong, or a resource ran out */
};

enum counter {
#define COUNTER(name, kind, text) CNT_##name,
#include "core/counters.def"
#undef COUNTER
	COUNTERS
};

struct counter_info {
	const char *name; /* lower case with underscores */
	enum counter_kind kind;
	const char *text; /* a sentence */
};
extern const struct counter_info counter_info[COUNTERS];

#endif
