/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The watch over deadlines, on one timer wheel: those of connections (which the data path sets and moves in
 * tcp_state without telling), of handshakes, and of next hops. Control plane's thread.
 *
 * A connection is watched only while it is active: CONN_EVENT_TIMER begins it, and the entry in the wheel
 * comes due at the earlier of its two deadlines as they were then. Coming due it looks again: a deadline that
 * has passed makes CTL_TIMEOUT (the data path looks for itself before it acts), one that has moved is waited
 * for, and with none set CTL_TIMERS_OFF asks to end the watch. So an idle connection costs nothing, and a
 * busy one an entry every few milliseconds, not one a segment. Nobody tells when a deadline has moved to an
 * earlier time (an ACK is owed while a backed-off retransmission is a minute away, or the peer is back and
 * the backoff over), so the look is never further away than WATCH_MAX_US. Deadlines are 32-bit microseconds
 * that wrap.
 *
 * A connection the application has given up is looked at now and then as well: it may not wait for its peer
 * for ever, with its FIN acknowledged (FIN-WAIT-2) or before a closed window.
 */
#include <errno.h>

#include "control/state.h"
#include "datapath/deadline.h"

#define ORPHAN_LOOK_US 15000000u
#define ORPHAN_MAX_US  60000000u
#define TIMERS_BATCH   512u
/* With the delay itself a delayed ACK is out after 140 ms, before anybody's retransmission at 200 ms. */
#define WATCH_MAX_US 100000u

void timer_set(struct control *ctl, struct timer *timer, uint32_t kind, uint32_t index, uint64_t due_us)
{
	timer->kind = kind;
	timer->index = index;
	wheel_add(&ctl->wheel, &timer->entry, due_us);
	if (due_us < ctl->timers_next_us)
		ctl->timers_next_us = due_us;
}

void timer_stop(struct control *ctl, struct timer *timer)
{
	wheel_cancel(&ctl->wheel, &timer->entry);
}

/* The earlier of the deadlines that are set, as a 64-bit time; false: there is none. */
static bool next_deadline(const struct control *ctl, const struct tcp_state *tcp, uint64_t *due_us)
{
	uint32_t now = (uint32_t)ctl->now_us;
	int32_t left = INT32_MAX;
	uint16_t flags = tcp->flags;

	if (flags & TCPF_RTO_ARMED)
		left = (int32_t)(protocol_deadline(tcp) - now);
	if (flags & TCPF_ACK_DELAYED) {
		int32_t ack = (int32_t)(tcp->ack_deadline_us - now);

		if (ack < left)
			left = ack;
	}
	*due_us = left > 0 ? ctl->now_us + (uint32_t)left : ctl->now_us;
	return flags & (TCPF_RTO_ARMED | TCPF_ACK_DELAYED);
}

static void conn_timer_set(struct control *ctl, uint32_t index, uint64_t due_us)
{
	timer_set(ctl, &ctl->conns[index].timer, TIMER_CONN, index, due_us);
}

/* Looks again when the deadline has come, as far as it is known now. */
static void watch_set(struct control *ctl, uint32_t index, uint64_t due_us)
{
	uint64_t latest = ctl->now_us + WATCH_MAX_US;

	conn_timer_set(ctl, index, due_us < latest ? due_us : latest);
}

void timers_watch(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	uint64_t due;

	c->flags |= CTLCONN_WATCHED;
	c->flags &= (uint16_t)~CTLCONN_OFF_ASKED;
	if (c->flags & CTLCONN_DEAD)
		return;
	c->una_seen = datapath_conn(ctl->dp, index)->tcp.snd_una; /* the user timeout counts from here */
	c->una_us = ctl->now_us;
	next_deadline(
		ctl, &datapath_conn(ctl->dp, index)->tcp, &due); /* none left already: found when it is due */
	watch_set(ctl, index, due > ctl->now_us ? due : ctl->now_us + TIMER_TICK_US);
}

void timers_idle(struct control *ctl, uint32_t index)
{
	ctl->conns[index].flags &= (uint16_t) ~(CTLCONN_WATCHED | CTLCONN_OFF_ASKED);
}

void timers_look(struct control *ctl, uint32_t index, uint64_t due_us)
{
	const struct timer *timer = &ctl->conns[index].timer;

	if (!wheel_pending(&timer->entry) || timer->entry.due_us > due_us)
		conn_timer_set(ctl, index, due_us);
}

/* How long an orphan may wait in FIN-WAIT-2 once it was found there: TCP_LINGER2, less what a look is late.
 */
static uint64_t orphan_limit_us(const struct control_conn *c)
{
	uint64_t seconds = (uint64_t)c->options.linger2_s * 1000000u;

	if (c->options.linger2_s < 0)
		return TIMER_TICK_US;
	if (!c->options.linger2_s)
		return ORPHAN_MAX_US - ORPHAN_LOOK_US;
	return seconds - (seconds / 2u < ORPHAN_LOOK_US ? seconds / 2u : ORPHAN_LOOK_US);
}

void timers_orphan(struct control *ctl, uint32_t index)
{
	uint64_t limit = orphan_limit_us(&ctl->conns[index]) / 2u;

	timers_look(ctl, index, ctl->now_us + (limit < ORPHAN_LOOK_US ? limit : ORPHAN_LOOK_US));
}

/* True when it was reset. *next_us: look again no later. */
static bool orphan_look(struct control *ctl, uint32_t index, const struct tcp_state *tcp, uint64_t *next_us)
{
	struct control_conn *c = &ctl->conns[index];
	bool waits = tcp->phase == TCP_PHASE_FIN_WAIT_2 || tcp->flags & TCPF_PERSIST;
	uint64_t limit =
		tcp->phase == TCP_PHASE_FIN_WAIT_2 ? orphan_limit_us(c) : ORPHAN_MAX_US - ORPHAN_LOOK_US;
	uint64_t step = limit / 2u < ORPHAN_LOOK_US ? limit / 2u + TIMER_TICK_US : ORPHAN_LOOK_US;

	if (ctl->now_us + step < *next_us)
		*next_us = ctl->now_us + step;
	if (!waits) {
		c->orphan_since_us = 0;
		return false;
	}
	if (!c->orphan_since_us) {
		c->orphan_since_us = ctl->now_us;
		return false;
	}
	if (ctl->now_us - c->orphan_since_us < limit)
		return false;
	conn_reset(ctl, index, ETIMEDOUT);
	return true;
}

static void conn_timer(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	const struct tcp_state *tcp = &datapath_conn(ctl->dp, index)->tcp;
	struct ctl_conn record = {.conn = index};
	uint64_t due, next = UINT64_MAX;

	if (c->flags & CTLCONN_DEAD)
		return;
	if (c->flags & CTLCONN_RELEASED && orphan_look(ctl, index, tcp, &next))
		return;
	if (liveness_look(ctl, index, tcp, &next))
		return;
	if (c->flags & CTLCONN_WATCHED && !(c->flags & CTLCONN_OFF_ASKED)) {
		if (!next_deadline(ctl, tcp, &due)) {
			record.type = CTL_TIMERS_OFF;
			datapath_ctl(ctl->dp, &record, sizeof(record));
			c->flags |= CTLCONN_OFF_ASKED;
			due = next;
		} else if (due <= ctl->now_us) {
			record.type = CTL_TIMEOUT;
			record.error = c->soft_error;
			datapath_ctl(ctl->dp, &record, sizeof(record));
			due = ctl->now_us +
			      TIMER_TICK_US; /* by then the data path has set the next deadline */
		}
		if (due > ctl->now_us + WATCH_MAX_US && !(c->flags & CTLCONN_OFF_ASKED))
			due = ctl->now_us + WATCH_MAX_US;
		if (due < next)
			next = due;
	}
	if (next != UINT64_MAX)
		conn_timer_set(ctl, index, next);
}

/* A bound that may be too early, after an entry was cancelled; the exact time costs a walk over the wheel. */
uint64_t timers_next_us(struct control *ctl)
{
	if (!ctl->wheel.count)
		return UINT64_MAX;
	if (ctl->timers_next_us <= ctl->now_us)
		ctl->timers_next_us = wheel_next_us(&ctl->wheel, ctl->now_us);
	return ctl->timers_next_us > ctl->timers_look_us ? ctl->timers_next_us : ctl->timers_look_us;
}

/* Looks once a tick: until then the slot of the tick would be walked in vain. */
unsigned timers_step(struct control *ctl)
{
	unsigned n = 0;

	if (ctl->now_us < ctl->timers_look_us)
		return 0;

	while (n < TIMERS_BATCH && ctl_has_room(ctl)) {
		struct wheel_entry *entry = wheel_expire(&ctl->wheel, ctl->now_us);
		struct timer *timer;

		if (!entry) {
			ctl->timers_look_us = (ctl->now_us / TIMER_TICK_US + 1u) * TIMER_TICK_US;
			break;
		}
		timer = container_of(entry, struct timer, entry);
		n++;
		COUNT(ctl, timers_fired);
		switch (timer->kind) {
		case TIMER_CONN:
			conn_timer(ctl, timer->index);
			break;
		case TIMER_HANDSHAKE:
			handshake_timer(ctl, timer->index);
			break;
		case TIMER_NEIGHBOUR:
		default:
			neighbour_timer(ctl, timer->index);
			break;
		}
	}
	return n;
}
