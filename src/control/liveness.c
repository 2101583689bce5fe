/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Is the peer alive? Keepalive (RFC 9293 3.8.4) of connections that have it on, and the user timeout
 * (RFC 5482) of those that have one. Called by the watch over a connection's deadlines (timers.c), on the
 * control plane's thread; connections with neither cost nothing.
 *
 * When the peer was heard last is not written down for the control plane; it is found out. With timestamps
 * the data path keeps the time of TS.Recent, which every segment in order renews. Without, a position that
 * has moved between two looks tells, and the looks are a quarter of the idle time apart, so that a first
 * probe may come so much late. Probes without an answer are counted in tcp_state.probes, which any
 * acceptable segment sets to 0. A time in microseconds has 32 bits there: nothing is left alone for longer
 * than LOOK_MAX_US.
 *
 * The user timeout counts from when the oldest byte not acknowledged began to wait, for its acknowledgement
 * or for a window, as it is seen in looks that are at most a tenth of a second apart while there is one. It
 * takes the place of the number of keepalive probes (RFC 5482 4.2).
 */
#include <errno.h>

#include "control/state.h"

#define LOOK_MAX_US 1800000000u

static uint32_t heard_mark(const struct tcp_state *tcp)
{
	if (tcp->flags & TCPF_TIMESTAMPS)
		return tcp->ts_recent_us;
	return tcp->rcv_nxt ^ (tcp->snd_una << 16 | tcp->snd_una >> 16);
}

static bool waits_for_peer(const struct tcp_state *tcp)
{
	return tcp->snd_una != tcp->snd_max || tcp->flags & TCPF_PERSIST;
}

static void give_up(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];

	COUNT(ctl, conn_timeouts);
	conn_reset(ctl, index, c->soft_error ? c->soft_error : ETIMEDOUT);
}

void liveness_begin(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	const struct tcp_state *tcp = &datapath_conn(ctl->dp, index)->tcp;

	c->una_seen = tcp->snd_una;
	c->una_us = ctl->now_us;
	c->heard_mark = heard_mark(tcp);
	c->heard_us = ctl->now_us;
	if (c->options.keep_idle_s)
		timers_look(ctl, index, ctl->now_us); /* a first look finds out when it is due */
}

/* True: it waited too long. */
static bool user_timeout_look(struct control *ctl, struct control_conn *c, const struct tcp_state *tcp)
{
	bool moved = c->una_seen != tcp->snd_una || !waits_for_peer(tcp);

	if (moved) {
		c->una_seen = tcp->snd_una;
		c->una_us = ctl->now_us;
		c->soft_error = 0;
	}
	return c->options.user_timeout_ms && !moved &&
	       ctl->now_us - c->una_us >= c->options.user_timeout_ms * 1000ull;
}

/* True: no answer. *next_us as in liveness_look(). */
static bool keepalive_look(
	struct control *ctl, uint32_t index, const struct tcp_state *tcp, uint64_t *next_us)
{
	struct control_conn *c = &ctl->conns[index];
	const struct socket_options *o = &c->options;
	uint64_t idle = o->keep_idle_s * 1000000ull, interval = o->keep_interval_s * 1000000ull, due;
	uint32_t mark = heard_mark(tcp);
	struct ctl_conn probe = {.type = CTL_KEEPALIVE, .conn = index};

	if (mark != c->heard_mark) {
		c->heard_mark = mark;
		c->heard_us = ctl->now_us;
		if (tcp->flags & TCPF_TIMESTAMPS)
			c->heard_us -= (uint32_t)((uint32_t)ctl->now_us - mark);
	} else if (tcp->probes == 0 && ctl->now_us >= c->heard_us + idle && c->keep_sent) {
		c->heard_us = c->keep_us; /* the answer to a probe, of a peer without timestamps */
	}
	if (tcp->probes == 0)
		c->keep_sent = false;
	due = c->keep_sent ? c->keep_us + interval : c->heard_us + idle;
	if (waits_for_peer(tcp)) { /* its retransmissions ask the same question */
		due = ctl->now_us + idle;
	} else if (due <= ctl->now_us) {
		bool late = o->user_timeout_ms ? ctl->now_us - c->heard_us >= o->user_timeout_ms * 1000ull
					       : tcp->probes >= o->keep_count;

		if (c->keep_sent && late)
			return true;
		datapath_ctl(ctl->dp, &probe, sizeof(probe));
		c->keep_sent = true;
		c->keep_us = ctl->now_us;
		due = ctl->now_us + interval;
	} else if (!(tcp->flags & TCPF_TIMESTAMPS) && due > ctl->now_us + idle / 4u) {
		due = ctl->now_us + idle / 4u;
	}
	if (due > ctl->now_us + LOOK_MAX_US)
		due = ctl->now_us + LOOK_MAX_US;
	if (due < *next_us)
		*next_us = due;
	return false;
}

bool liveness_look(struct control *ctl, uint32_t index, const struct tcp_state *tcp, uint64_t *next_us)
{
	struct control_conn *c = &ctl->conns[index];

	if (user_timeout_look(ctl, c, tcp) ||
		(c->options.keep_idle_s && keepalive_look(ctl, index, tcp, next_us))) {
		give_up(ctl, index);
		return true;
	}
	return false;
}
