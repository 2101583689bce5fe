/* SPDX-License-Identifier: BSD-3-Clause */
/* The algorithms there are; one file each. */
#ifndef CONTROL_CC_CC_H
#define CONTROL_CC_CC_H

#include "flextoe/cc.h"

extern const struct flextoe_cc cc_reno, cc_cubic, cc_dctcp;

/* RFC 5681 3.1 (4): a threshold is never below two segments. */
static inline uint32_t cc_floor(uint32_t window, const struct flextoe_cc_sample *s)
{
	return window > 2u * s->mss ? window : 2u * s->mss;
}

#endif
