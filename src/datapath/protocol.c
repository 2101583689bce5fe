/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TCP for connections in synchronized states, see protocol.h. protocol_rx() walks a segment in the order of
 * RFC 9293 3.10.7.4; recovery is recovery.c's with SACK, and without RFC 5681 with NewReno (RFC 6582) and
 * limited transmit (RFC 3042); timeouts are RFC 6298, timestamps RFC 7323, and what is blind is answered as
 * RFC 5961 says. Called by the pipeline, one call at a time per connection; never does I/O, never reads a
 * clock.
 */
#include "datapath/protocol.h"

#include <errno.h>
#include <string.h>

#include "core/seq.h"
#include "datapath/recovery.h"
#include "flextoe/abi.h"

#define DUPACKS_FAST_RETRANSMIT 3u /* RFC 5681 3.2 */
#define TS_RECENT_VALID_US                                                                                   \
	2000000000u /* RFC 7323 5.5 says 24 days; a 32-bit clock in us can tell 33 minutes */

static void ack_now(struct tcp_state *t)
{
	t->due |= DUE_ACK;
}

/* An ACK that must tell what lies beyond rcv_nxt, or what came twice. */
static void ack_sack(struct tcp_state *t)
{
	t->due |= DUE_ACK | DUE_SACK;
}

/*
 * An ACK in answer to a segment that made no sense: at most one in 65 ms, so that two ends that do not
 * understand each other cannot feed an endless exchange (RFC 5961 7, and 9293's own "send an ACK").
 */
static void ack_challenge(struct tcp_state *t, uint32_t now_us)
{
	uint8_t stamp = (uint8_t)(now_us >> 16);

	if (t->challenge_stamp == stamp)
		return;
	t->challenge_stamp = stamp;
	t->due |= DUE_ACK;
}

static void rto_arm(struct tcp_state *t, uint32_t now_us)
{
	uint64_t rto = (uint64_t)t->rto_us << t->backoff;

	t->rto_deadline_us = now_us + (uint32_t)(rto < RTO_MAX_US ? rto : RTO_MAX_US);
	t->flags |= TCPF_RTO_ARMED;
}

/* RFC 6298 2.2, 2.3. */
static void rtt_sample(struct tcp_state *t, uint32_t rtt_us)
{
	uint32_t rto;

	if (rtt_us == 0)
		rtt_us = 1;
	if (rtt_us > RTO_MAX_US)
		rtt_us = RTO_MAX_US;
	if (t->srtt_us == 0) {
		t->srtt_us = rtt_us * 8u;
		t->rttvar_us = rtt_us * 2u; /* R/2, times 4 */
	} else {
		int32_t err = (int32_t)(rtt_us - t->srtt_us / 8u);

		t->rttvar_us += (uint32_t)(err < 0 ? -err : err) - t->rttvar_us / 4u;
		t->srtt_us += (uint32_t)err;
	}
	rto = t->srtt_us / 8u + t->rttvar_us;
	t->rto_us = min_u32(max_u32(rto, RTO_MIN_US), RTO_MAX_US);
}

/* RFC 5681 3.1, counting bytes (RFC 3465), and only while the window is what limits us. */
static void cwnd_grow(struct tcp_state *t, uint32_t acked, uint32_t flight)
{
	uint32_t limit = 2u << t->tx_shift;

	if (flight < t->cwnd / 2u || t->cwnd >= limit)
		return;
	if (t->cwnd < t->ssthresh) {
		t->cwnd += acked;
		return;
	}
	t->cwnd_acked += acked;
	if (t->cwnd_acked >= t->cwnd) {
		t->cwnd_acked -= t->cwnd;
		if (t->cwnd_acked > t->cwnd)
			t->cwnd_acked = 0;
		t->cwnd += t->mss;
		t->due |= DUE_ROUND;
	}
}

/* ACK acceptable and new: snd_una < ack <= snd_max. */
static void ack_advance(struct tcp_state *t, const struct segment *s, uint32_t now_us, struct verdict *v)
{
	uint32_t flight = t->snd_max - t->snd_una;
	uint32_t una_data = tx_data_una(t);
	uint32_t acked = s->ack - t->snd_una;
	bool fin_acked;

	if ((t->flags & TCPF_RTT_TIMING) && seq_geq(s->ack, t->rtt_seq)) {
		t->flags &= (uint16_t)~TCPF_RTT_TIMING;
		rtt_sample(t, now_us - t->rtt_start_us);
	}
	t->snd_una = s->ack;
	t->snd_nxt = seq_max(t->snd_nxt, s->ack);
	t->backoff = 0;
	fin_acked = (t->flags & TCPF_FIN_SENT) && s->ack == t->tx_end + 1u;
	v->acked = s->ack - fin_acked - una_data;

	if (recovery_has_board(t)) {
		/* recovery_ack() is next */
	} else if (t->flags & TCPF_RECOVERY) {
		if (seq_geq(s->ack, t->recover)) { /* RFC 6582 3.2 3, full acknowledgment */
			t->flags &= (uint16_t)~TCPF_RECOVERY;
			t->cwnd = min_u32(t->ssthresh, max_u32(t->snd_max - t->snd_una, t->mss) + t->mss);
			t->dupacks = 0;
		} else { /* partial: the next hole */
			t->due |= DUE_RETRANSMIT;
			t->cwnd = max_u32(t->cwnd - min_u32(t->cwnd, acked), t->mss);
			if (acked >= t->mss)
				t->cwnd += t->mss;
		}
	} else {
		t->dupacks = 0;
		if ((t->flags & TCPF_RTO_RECOVERY) && seq_geq(s->ack, t->recover))
			t->flags &= (uint16_t)~TCPF_RTO_RECOVERY;
		cwnd_grow(t, acked, flight);
	}
	if (t->snd_una == t->snd_max) {
		t->flags &= (uint16_t) ~(TCPF_RTO_ARMED | TCPF_PERSIST); /* RFC 6298 5.2 */
		t->due &= (uint8_t)~DUE_PROBE;				 /* its timer is off */
	} else {
		rto_arm(t, now_us); /* RFC 6298 5.3 */
	}
	v->send = true;

	if (fin_acked) {
		if (t->phase == TCP_PHASE_FIN_WAIT_1)
			t->phase = TCP_PHASE_FIN_WAIT_2;
		else if (t->phase == TCP_PHASE_CLOSING)
			t->phase = TCP_PHASE_TIME_WAIT;
		else if (t->phase == TCP_PHASE_LAST_ACK)
			t->phase = TCP_PHASE_CLOSED;
		v->notify = true;
	}
}

/* RFC 5681 2: a duplicate acknowledgment while something is outstanding. */
static void ack_duplicate(struct tcp_state *t, struct verdict *v)
{
	if (t->dupacks < DUPACKS_BOARD - 1u)
		t->dupacks++;
	v->send = true; /* limited transmit, or inflated window */
	if (t->flags & TCPF_RECOVERY) {
		t->cwnd = min_u32(t->cwnd + t->mss, 2u << t->tx_shift);
		return;
	}
	/* RFC 6582 3.2 2: not for duplicates that our own retransmissions provoke */
	if (t->dupacks != DUPACKS_FAST_RETRANSMIT || (t->flags & TCPF_RTO_RECOVERY))
		return;
	t->ssthresh = flight_half(t);
	t->recover = t->snd_max;
	t->cwnd = t->ssthresh + DUPACKS_FAST_RETRANSMIT * t->mss;
	t->cwnd_acked = 0;
	t->flags |= TCPF_RECOVERY;
	t->due |= DUE_RETRANSMIT | DUE_LOSS;
}

static void fin_arrived(struct tcp_state *t, struct verdict *v)
{
	t->rcv_nxt++;
	if (seq_lt(t->rcv_adv, t->rcv_nxt))
		t->rcv_adv = t->rcv_nxt;
	t->flags |= TCPF_FIN_RCVD;
	v->notify = true;
	ack_now(t);
	if (t->phase == TCP_PHASE_ESTABLISHED)
		t->phase = TCP_PHASE_CLOSE_WAIT;
	else if (t->phase == TCP_PHASE_FIN_WAIT_1)
		t->phase =
			TCP_PHASE_CLOSING; /* our FIN's ACK, had it been in this segment, was seen before */
	else if (t->phase == TCP_PHASE_FIN_WAIT_2)
		t->phase = TCP_PHASE_TIME_WAIT;
}

void protocol_abort(struct tcp_state *t, uint8_t error, bool reset)
{
	t->phase = TCP_PHASE_CLOSED;
	t->error = error;
	t->due = reset ? DUE_RST : 0;
	t->flags &= (uint16_t) ~(TCPF_RTO_ARMED | TCPF_ACK_DELAYED | TCPF_PERSIST);
}

/* Window update (RFC 9293 3.10.7.4, fifth): only from a segment that is newer than the last one used. */
static bool window_update(struct tcp_state *t, const struct segment *s)
{
	uint32_t wnd = (uint32_t)s->wnd << t->snd_wscale;
	bool changed = wnd != t->snd_wnd;

	if (!(seq_lt(t->snd_wl1, s->seq) || (t->snd_wl1 == s->seq && seq_leq(t->snd_wl2, s->ack))))
		return false;
	t->snd_wnd = wnd;
	t->snd_wl1 = s->seq;
	t->snd_wl2 = s->ack;
	t->max_snd_wnd = max_u32(t->max_snd_wnd, wnd);
	if (changed && wnd && (t->flags & TCPF_PERSIST)) {
		t->flags &= (uint16_t) ~(TCPF_PERSIST | TCPF_RTO_ARMED);
		t->backoff = 0;
		t->due &= (uint8_t)~DUE_PROBE;
		if (t->snd_una != t->snd_max)
			t->flags |= TCPF_RTO_ARMED; /* the probe's byte is in flight; the deadline stands */
	}
	return changed;
}

/* In-order text has come: RFC 9293 3.8.6.3, every second full segment at least; RFC 5681 4.2, a filled hole
 * at once. */
static inline void text_ack(struct tcp_state *t, bool at_once, uint32_t now_us)
{
	if (at_once || t->quick_acks || t->rcv_nxt - t->rcv_acked >= 2u * t->mss) {
		ack_now(t);
		if (t->quick_acks)
			t->quick_acks--;
	} else if (!(t->flags & TCPF_ACK_DELAYED)) {
		t->flags |= TCPF_ACK_DELAYED;
		t->ack_deadline_us = now_us + ACK_DELAY_US;
	}
}

/*
 * What nearly all segments are on a connection at ease: next in sequence, plain ACK, timestamps in order,
 * nothing missing, inside the window. Does what rx_walk() would do, which is the rule.
 */
HOT_INLINE bool protocol_rx_usual(
	struct tcp_state *t, const struct segment *s, uint32_t now_us, struct verdict *v)
{
	uint32_t wnd = (uint32_t)s->wnd << t->snd_wscale, acked = s->ack - t->snd_una;

	if (unlikely(s->seq != t->rcv_nxt || (s->flags & ~TCP_PSH_) != TCP_ACK_ ||
		     !protocol_at_ease(t, UNUSUAL | TCPF_TIMESTAMPS, s->has_ts) || t->ooo != CONN_NONE ||
		     s->len > t->rcv_adv - t->rcv_nxt || acked > t->snd_max - t->snd_una ||
		     !(s->len | acked) || seq_lt(s->tsval, t->ts_recent) || seq_lt(s->ack, t->snd_wl2)))
		return false;
	*v = (struct verdict){.counter = COUNTERS};
	if (s->has_ts && seq_leq(s->seq, t->rcv_acked)) {
		t->ts_recent = s->tsval;
		t->ts_recent_us = now_us;
	}
	t->probes = 0;
	t->snd_wl1 = s->seq;
	t->snd_wl2 = s->ack;
	if (wnd != t->snd_wnd) {
		t->snd_wnd = wnd;
		t->max_snd_wnd = max_u32(t->max_snd_wnd, wnd);
		v->send = true;
	}
	if (acked) {
		if ((t->flags & TCPF_RTT_TIMING) && seq_geq(s->ack, t->rtt_seq)) {
			t->flags &= (uint16_t)~TCPF_RTT_TIMING;
			rtt_sample(t, now_us - t->rtt_start_us);
		}
		cwnd_grow(t, acked, t->snd_max - t->snd_una);
		t->snd_una = s->ack;
		t->snd_nxt = seq_max(t->snd_nxt, s->ack);
		t->backoff = 0;
		if (s->ack == t->snd_max)
			t->flags &= (uint16_t)~TCPF_RTO_ARMED;
		else
			rto_arm(t, now_us);
		v->acked = acked;
		v->send = true;
	}
	if (s->len) {
		v->place_len = v->delivered = s->len;
		v->place_seq = s->seq;
		t->rcv_nxt = s->seq + s->len;
		text_ack(t, false, now_us);
	}
	return true;
}

/* The walk of RFC 9293 3.10.7.4, for every segment that is not a usual one. */
COLD static void rx_walk(struct tcp_state *t, struct ooo_pool *pool, const struct segment *s, uint32_t now_us,
	struct verdict *v)
{
	uint32_t seq = s->seq, len = s->len, skip = 0;
	uint32_t right;
	struct recovery_growth growth = {0};
	bool fin = (s->flags & TCP_FIN_) != 0;
	bool changed, advanced;

	/* RFC 7323 5.3 R1: an old timestamp is an old segment; RST is exempt */
	if ((t->flags & TCPF_TIMESTAMPS) && !(s->flags & TCP_RST_)) {
		if (unlikely(!(s->has_ts & SEGMENT_TS))) {
			v->counter = CNT_drop_no_timestamp;
			return;
		}
		if (unlikely(seq_lt(s->tsval, t->ts_recent)) &&
			now_us - t->ts_recent_us < TS_RECENT_VALID_US) {
			v->counter = CNT_drop_paws;
			if (len || fin)
				ack_now(t);
			else
				ack_challenge(t, now_us);
			return;
		}
	}

	/* first: sequence number. What lies left of rcv_nxt is cut off, then what lies right of the window */
	if (unlikely(seq != t->rcv_nxt)) {
		uint32_t old = t->rcv_nxt - seq;

		if ((int32_t)old > 0) {		/* begins before rcv_nxt */
			if (old >= len + fin) { /* and brings nothing new */
				if (s->flags & TCP_RST_) {
					v->counter = CNT_drop_rst_out_of_window;
					return;
				}
				v->counter = CNT_rx_duplicate;
				if (len && old <= 1u << t->rx_shift) {
					reassembly_duplicate(t, pool, seq, seq + len);
					ack_sack(t);
				} else if (len || fin || old == 1u) /* a keep-alive (RFC 9293 3.8.4) */
					ack_now(t);
				else
					ack_challenge(t, now_us);
				/* Its ACK may still be news when it is only late: */
				if (!(s->flags & TCP_ACK_) || (s->flags & TCP_SYN_) ||
					old > 1u << t->rx_shift)
					return;
				len = 0;
				fin = false;
				seq = t->rcv_nxt;
			} else {
				if (old > len)
					old = len;
				skip = old;
				len -= old;
				seq = t->rcv_nxt;
			}
		} else if (seq_gt(seq, t->rcv_adv) || (seq == t->rcv_adv && (len || fin))) {
			/* Not RFC 9293: a pure ACK on the very edge is taken, as Linux does: a peer that has
			   filled our window sends all its ACKs from there */
			v->counter =
				s->flags & TCP_RST_ ? CNT_drop_rst_out_of_window : CNT_drop_out_of_window;
			if (s->flags & TCP_RST_)
				return;
			if (len || fin)
				ack_now(t);
			else
				ack_challenge(t, now_us);
			return;
		}
	}
	right = seq + len;
	if (unlikely(seq_gt(right + fin, t->rcv_adv))) {
		if (seq_gt(right, t->rcv_adv)) {
			v->counter = CNT_drop_out_of_window; /* in part, or all of it: a zero-window probe */
			right = t->rcv_adv;
			len = right - seq;
			fin = false;
			ack_now(t);
		}
		/* A FIN alone beyond a closed window is taken: it needs no buffer */
	}

	/* second: RST (RFC 5961 3.2: only the exact number resets, others in the window are challenged) */
	if (unlikely(s->flags & (TCP_RST_ | TCP_SYN_))) {
		if (s->flags & TCP_RST_) {
			if (s->seq != t->rcv_nxt) {
				v->counter = CNT_challenge_acks;
				ack_challenge(t, now_us);
				return;
			}
			/* 9293 3.10.7.4: from CLOSING, LAST-ACK on it only ends what was over */
			protocol_abort(t, t->phase >= TCP_PHASE_CLOSING ? 0 : ECONNRESET, false);
			v->counter = CNT_conn_resets_in;
			v->notify = true;
			return;
		}
		/* fourth: SYN (RFC 5961 4.2) */
		v->counter = CNT_challenge_acks;
		ack_challenge(t, now_us);
		return;
	}

	/* fifth: ACK */
	if (unlikely(!(s->flags & TCP_ACK_))) {
		v->counter = CNT_drop_tcp_flags;
		return;
	}
	if (unlikely(seq_gt(s->ack, t->snd_max))) {
		v->counter = CNT_drop_ack_invalid;
		ack_challenge(t, now_us);
		return;
	}
	if (unlikely(seq_lt(s->ack, t->snd_una - t->max_snd_wnd))) { /* RFC 5961 5.2 */
		v->counter = CNT_drop_ack_invalid;
		ack_challenge(t, now_us);
		return;
	}
	t->probes = 0;

	/* RFC 7323 4.3 (2): the timestamp of the segment that ended at or before the last ACK sent */
	if ((s->has_ts & SEGMENT_TS) && seq_leq(s->seq, t->rcv_acked)) {
		t->ts_recent = s->tsval;
		t->ts_recent_us = now_us;
	}

	changed = window_update(t, s);
	advanced = seq_gt(s->ack, t->snd_una);
	if (advanced)
		ack_advance(t, s, now_us, v);
	if (((s->has_ts & SEGMENT_SACK) || recovery_has_board(t)) && (t->flags & TCPF_SACK) &&
		recovery_ack(t, pool, s, advanced, now_us, v, &growth)) {
		if (growth.bytes)
			cwnd_grow(t, growth.bytes, growth.flight);
	} else if (s->ack == t->snd_una && !advanced && t->snd_max != t->snd_una && s->len == 0 && !changed &&
		   !fin && !(t->flags & TCPF_PERSIST)) {
		ack_duplicate(t, v);
	}
	if (changed)
		v->send = true;
	if (unlikely(protocol_ended(t)))
		goto ended;

	/* sixth: urgent data is delivered in line. seventh: the text */
	if (len) {
		if (unlikely(t->flags & (TCPF_FIN_RCVD | TCPF_APP_CLOSED))) {
			if (t->flags & TCPF_FIN_RCVD) { /* beyond the peer's own FIN */
				v->counter = CNT_drop_out_of_window;
				return;
			}
			/* RFC 2525 2.17: nobody will read this */
			protocol_abort(t, ECONNRESET, true);
			v->counter = CNT_conn_resets_out;
			v->notify = true;
			return;
		}
		v->place_len = len;
		v->place_skip = skip;
		v->place_seq = seq;
		if (likely(seq == t->rcv_nxt)) {
			uint32_t before = t->rcv_nxt;
			bool held = reassembly_holds(t, pool);

			t->rcv_nxt = right;
			if (unlikely(held)) {
				fin |= reassembly_join(t, pool);
				ack_sack(t);
			}
			v->delivered = t->rcv_nxt - before;
			text_ack(t, held, now_us);
		} else {
			ack_sack(t); /* RFC 5681 4.2: a duplicate ACK tells of the hole */
			t->quick_acks = QUICK_ACKS;
			if (!reassembly_add(t, pool, seq, right, fin)) {
				v->place_len = 0;
				v->counter = CNT_drop_ooo_full;
				return;
			}
			v->counter = CNT_rx_out_of_order;
			return;
		}
	} else if (fin && seq != t->rcv_nxt) {
		ack_now(t);
		if (!(t->flags & TCPF_FIN_RCVD) && !reassembly_add(t, pool, seq, seq, true))
			v->counter = CNT_drop_ooo_full;
		return;
	}

	/* eighth: FIN */
	if (unlikely(fin) && !(t->flags & TCPF_FIN_RCVD))
		fin_arrived(t, v);
ended:
	if (unlikely(protocol_ended(t))) {
		t->flags &= (uint16_t) ~(TCPF_RTO_ARMED | TCPF_ACK_DELAYED | TCPF_PERSIST);
		t->error = 0; /* it was `reorder` until now */
	}
}

/* rx_walk() for the pipeline, which looks at verdict.also only where it counts. */
COLD static void rx_unusual(struct tcp_state *t, struct ooo_pool *pool, const struct segment *s,
	uint32_t now_us, struct verdict *v)
{
	rx_walk(t, pool, s, now_us, v);
	if (v->also && v->counter == COUNTERS) {
		v->counter = (uint16_t)(CNT_sack_refused + __builtin_ctz(v->also));
		v->also &= (uint16_t)(v->also - 1u);
	}
}

void protocol_rx(struct tcp_state *t, struct ooo_pool *pool, const struct segment *s, uint32_t now_us,
	struct verdict *v)
{
	if (likely(protocol_rx_usual(t, s, now_us, v)))
		return;
	*v = (struct verdict){.counter = COUNTERS};
	rx_unusual(t, pool, s, now_us, v);
}

/*
 * The window to announce (RFC 9293 3.8.6.2.2): the right edge moves only by a worthwhile step, never back.
 * After the peer's FIN it does not matter any more.
 */
static inline uint16_t window_announce(struct tcp_state *t)
{
	uint32_t size = 1u << t->rx_shift;
	uint32_t edge = t->rx_tail + size;
	uint32_t wnd;

	if ((int32_t)(edge - t->rcv_adv) >= (int32_t)min_u32(size / 2u, t->mss))
		t->rcv_adv = edge;
	wnd = (t->rcv_adv - t->rcv_nxt) >> t->rcv_wscale;
	return (uint16_t)min_u32(wnd, 65535u);
}

static inline void plan_ack(struct tcp_state *t, struct tx_plan *plan)
{
	plan->ack = t->rcv_nxt;
	plan->wnd = window_announce(t);
	t->rcv_acked = t->rcv_nxt;
	t->flags &= (uint16_t)~TCPF_ACK_DELAYED;
	t->due &= (uint8_t)~DUE_ACK;
}

void protocol_ack(struct tcp_state *t, struct tx_plan *plan)
{
	bool reset = (t->due & DUE_RST) != 0;

	/* snd_max, not snd_nxt: it must be acceptable also while we resend older bytes */
	*plan = (struct tx_plan){.seq = t->snd_max, .flags = reset ? TCP_RST_ | TCP_ACK_ : TCP_ACK_};
	plan_ack(t, plan);
	t->due &= (uint8_t) ~(DUE_RST | DUE_SACK);
}

HOT_INLINE void protocol_ack_usual(struct tcp_state *t, struct tx_plan *plan)
{
	*plan = (struct tx_plan){.seq = t->snd_max, .flags = TCP_ACK_};
	plan_ack(t, plan);
}

/* Bytes (and FIN) at snd_nxt go out, new or again. */
static inline void plan_sent(struct tcp_state *t, struct tx_plan *plan, uint32_t end, uint32_t now_us)
{
	if (seq_gt(end, t->snd_max)) {
		if (!(t->flags & TCPF_RTT_TIMING) &&
			plan->seq == t->snd_max) { /* RFC 6298 3: new bytes only */
			t->flags |= TCPF_RTT_TIMING;
			t->rtt_seq = end;
			t->rtt_start_us = now_us;
		}
		t->snd_max = end;
	}
	if (!(t->flags & TCPF_RTO_ARMED) || (t->flags & TCPF_PERSIST)) { /* RFC 6298 5.1 */
		t->flags &= (uint16_t)~TCPF_PERSIST;
		rto_arm(t, now_us);
	}
	if (plan->flags & TCP_FIN_) {
		t->flags |= TCPF_FIN_SENT;
		if (t->phase == TCP_PHASE_ESTABLISHED)
			t->phase = TCP_PHASE_FIN_WAIT_1;
		else if (t->phase == TCP_PHASE_CLOSE_WAIT)
			t->phase = TCP_PHASE_LAST_ACK;
	}
	plan_ack(t, plan);
}

static void persist_arm(struct tcp_state *t, uint32_t now_us)
{
	if (t->flags & TCPF_RTO_ARMED)
		return;
	t->flags |= TCPF_PERSIST;
	rto_arm(t, now_us);
	if ((t->flags & TCPF_CORK) && t->snd_wnd)
		t->rto_deadline_us = now_us + CORK_MAX_US;
}

/*
 * What nearly all transmissions are: all that the application has written fits the windows and leaves as one
 * segment behind what was sent before. Does what tx_any() would do, which is the rule.
 */
HOT_INLINE bool protocol_tx_usual(
	struct tcp_state *t, uint32_t max_len, uint32_t now_us, struct tx_plan *plan)
{
	uint32_t seq = t->snd_nxt, end = t->tx_end, len = end - seq, span = end - t->snd_una;

	if (unlikely(!protocol_at_ease(t, UNUSUAL, 0) || (t->due & (DUE_RETRANSMIT | DUE_PROBE)) ||
		     seq != t->snd_max || len - 1u >= max_len || span > t->cwnd || span > t->snd_wnd ||
		     ((t->flags & TCPF_NAGLE) && len < t->mss && len != span)))
		return false;
	*plan = (struct tx_plan){.seq = seq, .len = len, .flags = TCP_ACK_ | TCP_PSH_};
	t->snd_nxt = t->snd_max = end;
	if (!(t->flags & TCPF_RTT_TIMING)) { /* RFC 6298 3 */
		t->flags |= TCPF_RTT_TIMING;
		t->rtt_seq = end;
		t->rtt_start_us = now_us;
	}
	if (!(t->flags & TCPF_RTO_ARMED)) /* RFC 6298 5.1 */
		rto_arm(t, now_us);
	plan_ack(t, plan);
	return true;
}

/* Every other transmission, in the order of RFC 9293 3.8.6. */
COLD static bool tx_any(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t max_len, uint32_t now_us, struct tx_plan *plan)
{
	uint32_t avail, limit, room, cwnd, len, flight;
	bool fin_queued = (t->flags & TCPF_FIN_QUEUED) != 0, board = recovery_has_board(t), last;

	if (protocol_ended(t))
		return false;
	*plan = (struct tx_plan){.flags = TCP_ACK_};

	if (board && (t->due & DUE_RETRANSMIT)) {
		switch (recovery_next(t, pool, max_len, now_us, plan)) {
		case RECOVERY_PLANNED: {
			uint32_t end = plan->seq + plan->len + ((plan->flags & TCP_FIN_) != 0);

			plan_sent(t, plan, end, now_us);
			t->snd_nxt = seq_max(t->snd_nxt, end);
			t->flags &= (uint16_t)~TCPF_RTT_TIMING; /* Karn */
			return true;
		}
		case RECOVERY_WAITS:
			return false;
		case RECOVERY_NEW:
			break;
		}
	} else if (unlikely(t->due & (DUE_RETRANSMIT | DUE_PROBE))) {
		bool probe = !(t->due & DUE_RETRANSMIT);

		t->due &= (uint8_t) ~(probe ? DUE_PROBE : DUE_RETRANSMIT);
		plan->seq = t->snd_una;
		plan->len = min_u32(seq_gt(t->tx_end, t->snd_una) ? t->tx_end - t->snd_una : 0,
			probe ? max_u32(1u,
					min_u32(t->mss, t->snd_wnd)) /* RFC 9293 3.8.6.2.1: the override */
			      : min_u32(t->mss, t->snd_max - t->snd_una));
		if (fin_queued && plan->seq + plan->len == t->tx_end && (probe || (t->flags & TCPF_FIN_SENT)))
			plan->flags |= TCP_FIN_;
		if (plan->len || (plan->flags & TCP_FIN_)) {
			uint32_t end = plan->seq + plan->len + ((plan->flags & TCP_FIN_) != 0);

			plan->retransmission = seq_lt(plan->seq, t->snd_max);
			if (plan->retransmission)
				t->flags &= (uint16_t)~TCPF_RTT_TIMING; /* Karn */
			if (probe) { /* the persist timer stays in charge; snd_nxt stays on the byte */
				t->snd_max = seq_max(t->snd_max, end);
				if (plan->flags & TCP_FIN_) {
					uint16_t timers = t->flags & (TCPF_PERSIST | TCPF_RTO_ARMED);

					plan_sent(t, plan, end, now_us);
					t->flags = (uint16_t)((t->flags & ~TCPF_PERSIST) | timers);
				}
				plan_ack(t, plan);
			} else {
				plan_sent(t, plan, end, now_us);
				t->snd_nxt = seq_max(t->snd_nxt, end);
			}
			return true;
		}
	}

	if (seq_gt(t->snd_nxt, t->tx_end))
		return false; /* the FIN is out */
	avail = t->tx_end - t->snd_nxt;
	if (avail == 0 && !(fin_queued && seq_leq(t->snd_nxt, t->tx_end)))
		return false;
	flight = t->snd_max - t->snd_una;
	cwnd = t->cwnd;
	if (!(t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)))
		cwnd += min_u32(t->dupacks, 2u) * t->mss; /* RFC 3042 */
	limit = t->snd_una + min_u32(cwnd, t->snd_wnd);
	if (board) /* RFC 6675 5 (C): what is SACKed or lost leaves room */
		limit = seq_min(t->snd_nxt + recovery_room(t, pool), t->snd_una + t->snd_wnd);
	room = seq_gt(limit, t->snd_nxt) ? limit - t->snd_nxt : 0;
	len = min_u32(min_u32(avail, room), max_len);
	last = len == avail;
	if (len > t->mss && !last)
		len -= len % t->mss;

	if (len < t->mss) { /* RFC 9293 3.8.6.2.1, and Nagle 3.7.4 */
		bool idle = t->snd_nxt == t->snd_una;
		bool send = last && len && !(t->flags & TCPF_CORK) &&
			    (!(t->flags & TCPF_NAGLE) || idle || fin_queued);

		send |= last && fin_queued && room >= len; /* FIN, with or without bytes */
		send |= len && len >= t->max_snd_wnd / 2u;
		if (send && last && fin_queued && len == 0 && t->snd_wnd == 0 && flight == 0)
			send = false; /* a FIN needs a place in the window too: probe with it */
		if (!send) {
			if (flight == 0)
				persist_arm(t, now_us);
			return false;
		}
	}
	plan->seq = t->snd_nxt;
	plan->len = len;
	plan->retransmission = seq_lt(plan->seq, t->snd_max);
	if (last) {
		plan->flags |= TCP_PSH_;
		if (fin_queued)
			plan->flags |= TCP_FIN_;
	}
	t->snd_nxt += len + ((plan->flags & TCP_FIN_) != 0);
	plan_sent(t, plan, t->snd_nxt, now_us);
	if (board) {
		recovery_sent(t, pool, len);
		t->flags &= (uint16_t)~TCPF_RTT_TIMING; /* its ACK waits for the holes before it */
	}
	return true;
}

bool protocol_tx(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t max_len, uint32_t now_us, struct tx_plan *plan)
{
	return likely(protocol_tx_usual(t, max_len, now_us, plan)) || tx_any(t, pool, max_len, now_us, plan);
}

/* RFC 9293 3.8.6.2.2: the application has taken bytes; the peer is told when it can do something with it. */
static inline void space_freed(struct tcp_state *t)
{
	uint32_t size = 1u << t->rx_shift, left = t->rcv_adv - t->rcv_nxt;
	uint32_t grown = t->rx_tail + size - t->rcv_adv;

	if (grown >= size / 4u || (left < 2u * t->mss && grown >= min_u32(size / 2u, t->mss)))
		ack_now(t);
}

HOT_INLINE bool protocol_host_usual(struct tcp_state *t, uint32_t tx_end, uint32_t rx_tail)
{
	uint32_t size = 1u << t->tx_shift, taken = rx_tail - t->rx_tail;

	if (unlikely(!protocol_at_ease(t, UNUSUAL, 0) || tx_end - t->tx_end > size ||
		     tx_end - t->snd_una > size || taken > t->rcv_nxt - t->rx_tail))
		return false;
	t->tx_end = tx_end;
	t->rx_tail = rx_tail;
	if (taken)
		space_freed(t);
	return true;
}

int protocol_host(struct tcp_state *t, uint32_t tx_end, uint32_t rx_tail, uint32_t flags, bool *send)
{
	uint32_t data_end = rx_data_end(t);
	bool tx_new = seq_gt(tx_end, t->tx_end), rx_new = seq_gt(rx_tail, t->rx_tail);

	if (tx_new && ((t->flags & TCPF_FIN_QUEUED) || tx_end - tx_data_una(t) > 1u << t->tx_shift))
		return -EINVAL;
	if (rx_new && seq_gt(rx_tail, data_end))
		return -EINVAL;

	if (flags & FLEXTOE_HC_NAGLE)
		t->flags |= TCPF_NAGLE;
	if (flags & FLEXTOE_HC_NODELAY)
		t->flags &= (uint16_t)~TCPF_NAGLE;
	if (rx_new)
		t->rx_tail = rx_tail;
	if (protocol_ended(t)) {
		if (flags & (FLEXTOE_HC_CLOSE | FLEXTOE_HC_ABORT))
			t->flags |= TCPF_APP_CLOSED;
		return 0;
	}
	if (tx_new) {
		t->tx_end = tx_end;
		*send = true;
	}
	if (rx_new && !(t->flags & TCPF_FIN_RCVD))
		space_freed(t);
	if (likely(!flags))
		return 0;
	protocol_hints(t, flags, send);
	if (flags & FLEXTOE_HC_ABORT) {
		protocol_abort(t, ECONNABORTED, true);
		t->flags |= TCPF_APP_CLOSED;
		return 0;
	}
	if (flags & (FLEXTOE_HC_FIN | FLEXTOE_HC_CLOSE)) {
		if (!(t->flags & TCPF_FIN_QUEUED)) {
			t->flags = (uint16_t)((t->flags & ~TCPF_CORK) | TCPF_FIN_QUEUED);
			*send = true;
		}
	}
	if (flags & FLEXTOE_HC_CLOSE) {
		t->flags |= TCPF_APP_CLOSED;
		if (t->rx_tail != data_end) /* RFC 2525 2.17: bytes came that nobody will read */
			protocol_abort(t, ECONNRESET, true);
	}
	return 0;
}

enum counter protocol_timeout(struct tcp_state *t, struct ooo_pool *pool, uint32_t now_us, bool *send)
{
	enum counter counter;
	uint32_t half;
	bool arm, board;

	if (protocol_ended(t))
		return COUNTERS;
	if ((t->flags & TCPF_ACK_DELAYED) && seq_geq(now_us, t->ack_deadline_us)) {
		t->flags &= (uint16_t)~TCPF_ACK_DELAYED;
		ack_now(t);
	}
	if (!(t->flags & TCPF_RTO_ARMED) || seq_lt(now_us, protocol_deadline(t)))
		return COUNTERS;
	if (!(t->flags & TCPF_PERSIST) && recovery_timeout(t, pool, now_us, &counter, &arm)) {
		if (arm)
			rto_arm(t, now_us);
		*send = true;
		return counter;
	}

	if ((t->flags & TCPF_PERSIST) && (t->flags & TCPF_CORK) && t->snd_wnd) {
		t->flags &= (uint16_t) ~(TCPF_PERSIST | TCPF_RTO_ARMED | TCPF_CORK);
		*send = true;
		return COUNTERS;
	}
	if (t->flags & TCPF_PERSIST) {
		/* RFC 9293 3.8.6.1: for as long as the peer answers, however long its window stays closed */
		if (t->probes >= PROTOCOL_RETRIES_MAX) {
			protocol_abort(t, ETIMEDOUT, true);
			return CNT_conn_timeouts;
		}
		t->probes++;
		if (t->backoff < 10)
			t->backoff++;
		t->due |= DUE_PROBE;
		rto_arm(t, now_us);
		*send = true;
		return CNT_window_probes;
	}
	if (t->snd_wnd == 0 &&
		t->probes < PROTOCOL_RETRIES_MAX) { /* the peer shut its window on what is in flight */
		t->probes++;
		if (t->backoff > 9)
			t->backoff = 9;
	}
	if (t->backoff >= PROTOCOL_RETRIES_MAX) {
		protocol_abort(t, ETIMEDOUT, true);
		return CNT_conn_timeouts;
	}
	/* RFC 6298 5.4 to 5.7; RFC 5681 3.1: half the flight once a loss, then from one segment */
	board = recovery_rto(t, pool);
	half = flight_half(t);
	if (t->backoff == 0) { /* in recovery the window has been reduced already */
		t->ssthresh = t->flags & TCPF_RECOVERY ? min_u32(t->ssthresh, half) : half;
		t->due |= DUE_LOSS;
	}
	t->backoff++;
	t->cwnd = t->mss;
	t->cwnd_acked = 0;
	t->dupacks = board ? DUPACKS_BOARD : 0;
	t->recover = t->snd_max;
	t->snd_nxt = board ? t->snd_max : t->snd_una;
	t->flags = (uint16_t)((t->flags & ~(TCPF_RECOVERY | TCPF_RTT_TIMING)) | TCPF_RTO_RECOVERY);
	t->due &= (uint8_t)~DUE_RETRANSMIT;
	if (board ||
		t->snd_wnd <
			t->mss) /* RFC 9293 3.8.6: sent again even where the window has shut on it since */
		t->due |= DUE_RETRANSMIT;
	rto_arm(t, now_us);
	*send = true;
	return CNT_retransmit_timeout;
}
