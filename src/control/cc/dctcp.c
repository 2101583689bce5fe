/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DCTCP (RFC 8257): a window shrinks by as much as there are marks. Alpha estimates their share, updated once
 * an observation window; growth and the answer to losses are Reno's, which the data path does by itself.
 */
#include "control/cc/cc.h"

#define SHIFT_G 4u	   /* RFC 8257 4.2: g = 1/16 */
#define ONE	(1u << 20) /* of alpha, in fixed point */

struct dctcp {
	uint32_t alpha;
};
_Static_assert(sizeof(struct dctcp) <= FLEXTOE_CC_STATE, "fits");

static void begin(void *state, const struct flextoe_cc_sample *s)
{
	struct dctcp *d = state;

	(void)s;
	d->alpha = ONE; /* 4.2: the first marks halve */
}

static void round_ended(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out)
{
	(void)state;
	(void)s;
	(void)out;
}

/* 3.3 (8): alpha = alpha * (1 - g) + g * M */
static void observe(void *state, const struct flextoe_cc_sample *s)
{
	struct dctcp *d = state;
	uint32_t fall = d->alpha >> SHIFT_G;
	uint64_t marked = s->marked < s->acked ? s->marked : s->acked;

	if (!s->acked)
		return;
	if (!fall && d->alpha) /* the last of it goes too */
		fall = d->alpha;
	d->alpha += (uint32_t)((marked * ONE / s->acked) >> SHIFT_G) - fall;
	if (d->alpha > ONE)
		d->alpha = ONE;
}

/* 3.4: a loss is Reno's. */
static void loss(void *state, const struct flextoe_cc_sample *s, bool timeout, struct flextoe_cc_window *out)
{
	(void)state;
	(void)s;
	(void)timeout;
	(void)out;
}

/* 3.3 (9): cwnd = cwnd * (1 - alpha / 2) */
static void mark(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out)
{
	const struct dctcp *d = state;
	uint32_t cut = (uint32_t)((uint64_t)s->cwnd * d->alpha / (2u * ONE));

	out->cwnd = out->ssthresh = cc_floor(s->cwnd - cut, s);
}

const struct flextoe_cc cc_dctcp = {.name = "dctcp",
	.accurate_ecn = true,
	.begin = begin,
	.round = round_ended,
	.loss = loss,
	.mark = mark,
	.observe = observe};
