/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Socket options that belong to the engine: takes them from an application's descriptor, checks every one,
 * and keeps them where they act: with an endpoint (its connections begin with them), for a context's next
 * CONNECT, or with a connection. What stands in the headers goes on to the data path. Control plane's thread.
 */
#include "control/state.h"

#define SECONDS_MAX 32767u /* Linux's bound for the keepalive times */
#define COUNT_MAX   127u

static bool in_range(uint32_t value, uint32_t low, uint32_t high)
{
	return value >= low && value <= high;
}

/* False: one is out of range. */
static bool options_take(const struct flextoe_hc_options *hc, struct socket_options *out)
{
	if (hc->keep_idle_s &&
		(hc->keep_idle_s > SECONDS_MAX || !in_range(hc->keep_interval_s, 1, SECONDS_MAX) ||
			!in_range(hc->keep_count, 1, COUNT_MAX)))
		return false;
	if (hc->syn_retries > COUNT_MAX || hc->linger2_s < -1 || hc->linger2_s > 120 ||
		(hc->maxseg && !in_range(hc->maxseg, 88, 32767)) || hc->congestion >= FLEXTOE_CONGESTIONS)
		return false;
	*out = (struct socket_options){
		.user_timeout_ms = hc->user_timeout_ms,
		.keep_idle_s = hc->keep_idle_s,
		.keep_interval_s = hc->keep_interval_s,
		.linger2_s = hc->linger2_s,
		.maxseg = hc->maxseg,
		.defer_accept_s = hc->defer_accept_s,
		.keep_count = hc->keep_count,
		.syn_retries = hc->syn_retries,
		.tos = hc->tos & 0xfcu,
		.ttl = hc->ttl,
		.congestion = hc->congestion,
	};
	return true;
}

static void conn_options(struct control *ctl, uint32_t index, const struct socket_options *options)
{
	struct control_conn *c = &ctl->conns[index];
	struct ctl_options record = {
		.type = CTL_OPTIONS, .conn = index, .tos = options->tos, .ttl = options->ttl};
	bool headers = options->tos != c->options.tos || options->ttl != c->options.ttl;

	c->options = *options;
	if (c->flags & CTLCONN_DEAD)
		return;
	if (headers)
		datapath_ctl(ctl->dp, &record, sizeof(record));
	liveness_begin(ctl, index);
}

void options_request(struct control *ctl, const struct exc_hc *exc)
{
	const struct flextoe_hc_options *hc = &exc->hc.options;
	struct socket_options options;
	struct control_conn *c;
	struct endpoint *ep;

	if (!options_take(hc, &options)) {
		COUNT(ctl, options_bad);
		return;
	}
	switch (hc->applies_to) {
	case FLEXTOE_OPTIONS_CONN:
		c = conn_named(ctl, hc->target, exc->app);
		if (c)
			conn_options(ctl, (uint32_t)(c - ctl->conns), &options);
		break;
	case FLEXTOE_OPTIONS_ENDPOINT:
		ep = endpoint_named(ctl, hc->target, exc->app);
		if (ep)
			ep->options = options;
		break;
	case FLEXTOE_OPTIONS_CONNECT:
		ctl->contexts[exc->context].connect_options = options;
		break;
	default:
		COUNT(ctl, options_bad);
		break;
	}
}
