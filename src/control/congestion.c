/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Congestion control between the data path and the algorithms (include/flextoe/cc.h, cc/): an event of a
 * connection becomes a sample, the algorithm's answer a CTL_WINDOW. The algorithms' state lies in an array
 * beside the connections and is touched at a connection's first event. ECN marks (RFC 3168 6.1.2) are acted
 * on once a window of bytes. Control plane's thread.
 */
#include <errno.h>
#include <string.h>

#include "control/cc/cc.h"
#include "control/state.h"

struct congestion {
	uint64_t state[FLEXTOE_CC_STATE / 8u];
	uint64_t acked_seen; /* bytes, at the last sample */
	uint64_t acked_observed;
	uint32_t marked_seen, marked_observed;
	uint32_t observe_end; /* seq: acknowledged up to here, the observation window ends */
	uint32_t mark_end;    /* seq: marks echoed before this is acknowledged were acted on */
	uint32_t begun;	      /* generation + 1 of the connection, 0: none */
	uint32_t reserved;
};

static const struct flextoe_cc *const algorithms[FLEXTOE_CONGESTIONS] = {
	[FLEXTOE_CONGESTION_RENO] = &cc_reno,
	[FLEXTOE_CONGESTION_CUBIC] = &cc_cubic,
	[FLEXTOE_CONGESTION_DCTCP] = &cc_dctcp,
};

int congestion_init(struct control *ctl)
{
	ctl->congestion = array_reserve(ctl->conns_max, sizeof(*ctl->congestion));
	return ctl->congestion ? 0 : -ENOMEM;
}

void congestion_free(struct control *ctl)
{
	array_release(ctl->congestion, ctl->conns_max, sizeof(*ctl->congestion));
}

uint8_t congestion_number(const char *name)
{
	for (uint8_t i = 1; i < FLEXTOE_CONGESTIONS; i++)
		if (strcmp(algorithms[i]->name, name) == 0)
			return i;
	return 0;
}

uint8_t congestion_of(const struct control *ctl, const struct socket_options *options)
{
	return options->congestion ? options->congestion : ctl->config.congestion;
}

const char *congestion_name(const struct control *ctl, const struct socket_options *options)
{
	return algorithms[congestion_of(ctl, options)]->name;
}

bool congestion_accurate_ecn(const struct control *ctl, const struct socket_options *options)
{
	return algorithms[congestion_of(ctl, options)]->accurate_ecn;
}

static struct congestion *congestion_state(
	struct control *ctl, uint32_t index, const struct flextoe_cc *cc, const struct flextoe_cc_sample *s)
{
	struct congestion *g = &ctl->congestion[index];
	uint32_t begun = (ctl->conns[index].generation + 1u) * FLEXTOE_CONGESTIONS +
			 congestion_of(ctl, &ctl->conns[index].options);
	const struct tcp_state *tcp = &datapath_conn(ctl->dp, index)->tcp;

	if (g->begun == begun)
		return g;
	*g = (struct congestion){.begun = begun, .observe_end = tcp->snd_una, .mark_end = tcp->snd_una};
	cc->begin(g->state, s);
	return g;
}

void congestion_event(struct control *ctl, uint32_t index, uint32_t events)
{
	struct control_conn *c = &ctl->conns[index];
	const struct conn *conn = datapath_conn(ctl->dp, index);
	const struct tcp_state *tcp = &conn->tcp;
	const struct flextoe_cc *cc = algorithms[congestion_of(ctl, &c->options)];
	uint32_t marked = datapath_marked(ctl->dp, index);
	struct ctl_window record = {.type = CTL_WINDOW, .conn = index};
	struct flextoe_cc_window window = {0};
	struct flextoe_cc_sample s = {.now_us = ctl->now_us,
		.mss = tcp->mss,
		.cwnd = tcp->cwnd,
		.ssthresh = tcp->ssthresh,
		.flight = tcp->ssthresh * 2u, /* the data path's own answer was half of it */
		.srtt_us = tcp->srtt_us / 8u};
	struct congestion *g;

	if (c->flags & CTLCONN_DEAD || tcp->mss == 0)
		return;
	g = congestion_state(ctl, index, cc, &s);
	if (cc->observe && seq_geq(tcp->snd_una, g->observe_end)) {
		s.acked = (uint32_t)(conn->host.bytes_acked - g->acked_observed);
		s.marked = marked - g->marked_observed;
		cc->observe(g->state, &s);
		g->acked_observed = conn->host.bytes_acked;
		g->marked_observed = marked;
		g->observe_end = tcp->snd_max;
	}
	s.acked = (uint32_t)(conn->host.bytes_acked - g->acked_seen);
	s.marked = marked - g->marked_seen;
	g->acked_seen = conn->host.bytes_acked;
	g->marked_seen = marked;
	if (events & CONN_EVENT_LOSS) {
		cc->loss(g->state, &s, (tcp->flags & TCPF_RTO_RECOVERY) != 0, &window);
		record.cwr = (tcp->flags & TCPF_ECN) != 0;
		g->mark_end = tcp->snd_max; /* RFC 3168 6.1.2: one answer a window, to marks or losses */
	} else if (events & CONN_EVENT_MARK && seq_geq(tcp->snd_una, g->mark_end)) {
		COUNT(ctl, ecn_reductions);
		cc->mark(g->state, &s, &window);
		g->mark_end = tcp->snd_max;
		record.cwr = true;
	} else if (events & CONN_EVENT_ROUND) {
		cc->round(g->state, &s, &window);
	}
	record.cwnd = window.cwnd;
	record.ssthresh = window.ssthresh;
	if (record.cwnd || record.ssthresh || record.cwr)
		datapath_ctl(ctl->dp, &record, sizeof(record));
}
