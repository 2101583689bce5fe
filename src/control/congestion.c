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

/* Positions are counts of bytes acknowledged, as host_state.bytes_acked. */
struct congestion {
	uint64_t state[FLEXTOE_CC_STATE / 8u];
	uint64_t before[FLEXTOE_CC_STATE / 8u]; /* the same, before the last loss */
	uint64_t acked_seen;			/* at the last sample */
	uint64_t acked_observed;
	uint64_t observe_end; /* acknowledged up to here, the observation window ends */
	uint64_t mark_end;    /* marks echoed before this is acknowledged were acted on */
	uint64_t loss_end;    /* what was in flight when the last loss was found ends here */
	uint32_t marked_seen, marked_observed;
	uint32_t begun; /* generation + 1 of the connection, 0: none */
	bool can_undo;	/* `before` holds something */
};

static bool in_recovery(const struct tcp_state *tcp)
{
	return (tcp->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)) != 0;
}

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

	if (g->begun == begun)
		return g;
	*g = (struct congestion){.begun = begun};
	cc->begin(g->state, s);
	return g;
}

/* What the data path has taken back is forgotten here too (RFC 9438 4.9); its windows are in place. */
static void loss_undone(struct congestion *g, const struct tcp_state *tcp, struct flextoe_cc_window *window)
{
	if (g->can_undo)
		memcpy(g->state, g->before, sizeof(g->state));
	g->can_undo = false;
	g->loss_end = g->mark_end = 0;
	window->cwnd = tcp->cwnd; /* again, behind what answered the loss */
	window->ssthresh = tcp->ssthresh;
}

static void loss_found(struct congestion *g, const struct conn *conn, const struct flextoe_cc *cc,
	struct flextoe_cc_sample *s, uint64_t window_end, struct flextoe_cc_window *window)
{
	bool timeout = (conn->tcp.flags & TCPF_RTO_RECOVERY) != 0;

	if (timeout && conn->host.bytes_acked < g->loss_end) {
		s->flight = 0;
	} else {
		memcpy(g->before, g->state, sizeof(g->before));
		g->can_undo = true;
	}
	cc->loss(g->state, s, timeout, window);
	if (!in_recovery(&conn->tcp)) /* a tail loss probe has repaired it already */
		window->cwnd = window->ssthresh;
	/* RFC 3168 6.1.2: one answer a window, to marks or losses */
	g->loss_end = g->mark_end = window_end;
}

void congestion_event(struct control *ctl, uint32_t index, uint32_t events)
{
	struct control_conn *c = &ctl->conns[index];
	const struct conn *conn = datapath_conn(ctl->dp, index);
	const struct tcp_state *tcp = &conn->tcp;
	const struct flextoe_cc *cc = algorithms[congestion_of(ctl, &c->options)];
	uint32_t marked = datapath_marked(ctl->dp, index);
	uint64_t acked = conn->host.bytes_acked, window_end = acked + (tcp->snd_max - tcp->snd_una);
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
	if (cc->observe && acked >= g->observe_end) {
		s.acked = (uint32_t)(acked - g->acked_observed);
		s.marked = marked - g->marked_observed;
		cc->observe(g->state, &s);
		g->acked_observed = acked;
		g->marked_observed = marked;
		g->observe_end = window_end;
	}
	s.acked = (uint32_t)(acked - g->acked_seen);
	s.marked = marked - g->marked_seen;
	g->acked_seen = acked;
	g->marked_seen = marked;
	if ((events & CONN_EVENT_LOSS) && (events & CONN_EVENT_UNDO) && !in_recovery(tcp))
		return; /* this loss was undone; else the one before it */
	if (events & CONN_EVENT_UNDO)
		loss_undone(g, tcp, &window);
	if (events & CONN_EVENT_LOSS) {
		window = (struct flextoe_cc_window){0};
		loss_found(g, conn, cc, &s, window_end, &window);
		record.cwr = (tcp->flags & TCPF_ECN) != 0;
	} else if (events & CONN_EVENT_UNDO) {
		/* nothing else is to be decided on these windows */
	} else if ((events & CONN_EVENT_MARK) && acked >= g->mark_end && !in_recovery(tcp)) {
		COUNT(ctl, ecn_reductions);
		cc->mark(g->state, &s, &window);
		g->mark_end = window_end;
		record.cwr = true;
	} else if (events & CONN_EVENT_ROUND) {
		cc->round(g->state, &s, &window);
	}
	record.cwnd = window.cwnd;
	record.ssthresh = window.ssthresh;
	if (record.cwnd || record.ssthresh || record.cwr)
		datapath_ctl(ctl->dp, &record, sizeof(record));
}
