/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CUBIC (RFC 9438), names as there; windows in segments, times in seconds. An epoch is a stage of congestion
 * avoidance: it begins with the first round after slow start or a loss. Time in which the window was not what
 * limited the sender does not count (RFC 9438 4.2: t); it shows as a gap between rounds.
 */
#include "control/cc/cc.h"

#define C	   0.4				       /* RFC 9438 5.1 */
#define BETA	   0.7				       /* 4.6 */
#define ALPHA	   (3.0 * (1.0 - BETA) / (1.0 + BETA)) /* 4.3: 0.53 */
#define TARGET_MAX 1.5				       /* 4.4: of cwnd, in a round trip */
#define GAP_US	   10000u /* beyond two round trips between two rounds, there was nothing to send */

struct cubic {
	double w_max;	   /* window before the last reduction */
	double cwnd_prior; /* the same, without fast convergence */
	double k;	   /* seconds from the epoch's begin until W_cubic is w_max again */
	double w_est;	   /* what Reno would have */
	uint64_t epoch_us; /* 0: none has begun */
	uint64_t round_us; /* the last one */
	bool timed_out;
};
_Static_assert(sizeof(struct cubic) <= FLEXTOE_CC_STATE, "fits");

static double cube_root(double v)
{
	double x = v > 1.0 ? v : 1.0;

	if (v <= 0)
		return 0;
	for (unsigned i = 0; i < 80; i++) { /* Newton, from above: falls until it is there */
		double next = (2.0 * x + v / (x * x)) / 3.0;

		if (next >= x)
			break;
		x = next;
	}
	return x;
}

static void begin(void *state, const struct flextoe_cc_sample *s)
{
	(void)state;
	(void)s;
}

static void epoch_begin(struct cubic *c, const struct flextoe_cc_sample *s)
{
	double cwnd = (double)(s->cwnd - s->mss) / s->mss; /* without this round's growth */

	c->epoch_us = s->now_us - s->srtt_us;
	c->w_est = cwnd;
	/* 4.8 after a timeout, 4.10 when no loss has ended slow start: K is 0, and W_max the window now */
	if (c->timed_out || c->w_max <= cwnd) {
		c->w_max = cwnd;
		c->k = 0;
	} else {
		c->k = cube_root((c->w_max - cwnd) / C); /* figure 2 */
	}
	c->timed_out = false;
}

static double w_cubic(const struct cubic *c, double t)
{
	double d = t - c->k;

	return C * d * d * d + c->w_max; /* figure 1 */
}

static void round_ended(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out)
{
	struct cubic *c = state;
	double before = (double)(s->cwnd - s->mss) / s->mss, rtt = s->srtt_us / 1e6, t, target;
	uint64_t gap = s->now_us - c->round_us;

	if (!c->epoch_us)
		epoch_begin(c, s);
	else if (gap > 2ull * s->srtt_us + GAP_US)
		c->epoch_us += gap - s->srtt_us;
	c->round_us = s->now_us;
	t = (double)(s->now_us - c->epoch_us) / 1e6;
	/* 4.3: one window is acknowledged, so W_est grows by alpha; by 1 once it has what was lost */
	c->w_est += c->w_est >= c->cwnd_prior ? 1.0 : ALPHA;
	if (w_cubic(c, t) < c->w_est) {
		target = c->w_est > before ? c->w_est : before;
	} else { /* 4.4, 4.5: (target - cwnd) / cwnd for each segment is target - cwnd for the window */
		target = w_cubic(c, t + rtt);
		if (target < before)
			target = before;
		if (target > before * TARGET_MAX)
			target = before * TARGET_MAX;
	}
	out->cwnd = (uint32_t)(target * s->mss);
}

/* 4.6 and 4.7: multiplicative decrease with fast convergence. */
static uint32_t decrease(struct cubic *c, const struct flextoe_cc_sample *s, uint32_t window)
{
	double w = (double)window / s->mss;

	c->cwnd_prior = w;
	c->w_max = w < c->w_max ? w * (1.0 + BETA) / 2.0 : w;
	c->epoch_us = 0;
	return cc_floor((uint32_t)((double)window * BETA), s);
}

static void loss(void *state, const struct flextoe_cc_sample *s, bool timeout, struct flextoe_cc_window *out)
{
	struct cubic *c = state;

	if (s->flight)
		out->ssthresh = decrease(c, s, s->flight);
	c->timed_out = timeout;
}

static void mark(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out)
{
	out->cwnd = out->ssthresh = decrease(state, s, s->cwnd);
}

const struct flextoe_cc cc_cubic = {
	.name = "cubic", .begin = begin, .round = round_ended, .loss = loss, .mark = mark};
