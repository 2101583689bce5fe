/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NewReno (RFC 5681, RFC 6582): what the data path does by itself is all of it but the answer to ECN marks,
 * which is that of a loss without one (RFC 3168 6.1.2).
 */
#include "control/cc/cc.h"

static void begin(void *state, const struct flextoe_cc_sample *s)
{
	(void)state;
	(void)s;
}

static void round_ended(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out)
{
	(void)state;
	(void)s;
	(void)out;
}

static void loss(void *state, const struct flextoe_cc_sample *s, bool timeout, struct flextoe_cc_window *out)
{
	(void)state;
	(void)s;
	(void)timeout;
	(void)out;
}

static void mark(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out)
{
	(void)state;
	out->cwnd = out->ssthresh = cc_floor(s->cwnd / 2u, s);
}

const struct flextoe_cc cc_reno = {
	.name = "reno", .begin = begin, .round = round_ended, .loss = loss, .mark = mark};
