/* SPDX-License-Identifier: BSD-3-Clause */
/* See recovery.h. Called by protocol.c alone; work per segment is bounded by four blocks and one board. */
#include "datapath/recovery.h"

/* scoreboard.flags */
#define BOARD_REORDER 0x1u /* rto_deadline_us is the end of a reordering window */
#define BOARD_UNDO    0x2u /* undo_* hold what to go back to, until undo_end is acknowledged */

/* scoreboard.probe: the tail loss probe (RFC 8985 7) */
#define PROBE_DUE   1u /* to be sent */
#define PROBE_NEW   2u /* out, and was new data */
#define PROBE_AGAIN 3u /* out, and repeated the last segment */

/* scoreboard.frto: steps of RFC 5682 3.1 */
#define FRTO_FIRST 1u /* the first segment was sent again */
#define FRTO_NEW   2u /* its ACK came: new data goes out before more is repeated */

#define DUPACK_SEGMENTS 3u /* RFC 6675 2, DupThresh */

/* tcp_state.reorder: RACK.reo_wnd_mult (0: no reordering seen), RACK.reo_wnd_persist */
#define REORDER_MULT	    0x0fu
#define REORDER_PERSIST	    0x10u /* a recovery without a sign of reordering takes one off */
#define REORDER_PERSIST_ALL 0xf0u

static struct scoreboard *board_of(const struct tcp_state *t, const struct ooo_pool *pool)
{
	return &pool->boards[t->ooo];
}

static struct scoreboard *board_open(struct tcp_state *t, struct ooo_pool *pool)
{
	if (!ooo_take(t, pool, OOO_BOARD))
		return NULL;
	t->dupacks = DUPACKS_BOARD;
	board_init(board_of(t, pool), t->snd_una);
	board_of(t, pool)->widened = t->snd_una;
	return board_of(t, pool);
}

/* Gives the board back as soon as it has nothing to tell. */
static void board_rest(struct tcp_state *t, struct ooo_pool *pool)
{
	struct scoreboard *b = board_of(t, pool);

	if ((t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)) || b->probe || !board_plain(b))
		return;
	if ((b->flags & BOARD_UNDO) && seq_lt(t->snd_una, b->undo_end) && t->snd_una != t->snd_max)
		return;
	t->dupacks = 0;
	t->due &= (uint8_t)~DUE_RETRANSMIT;
	ooo_leave(t, pool, OOO_BOARD);
}

void recovery_forget(struct tcp_state *t, struct ooo_pool *pool)
{
	if (!recovery_has_board(t))
		return;
	t->dupacks = 0;
	t->due &= (uint8_t)~DUE_RETRANSMIT;
	ooo_leave(t, pool, OOO_BOARD);
}

/* ---- reordering (RFC 8985 6.2 step 4) ---- */

static void reordering_seen(struct tcp_state *t)
{
	if (!(t->reorder & REORDER_MULT))
		t->reorder = REORDER_PERSIST_ALL | 1u;
}

/* Needless retransmissions: the window was too small. At most a step a round trip. */
static void reordering_widen(struct tcp_state *t, struct scoreboard *b)
{
	uint8_t mult = t->reorder & REORDER_MULT;

	if (seq_lt(t->snd_una, b->widened))
		return;
	b->widened = t->snd_max;
	t->reorder = (uint8_t)(REORDER_PERSIST_ALL | (mult < REORDER_MULT ? mult + 1u : mult));
}

static void reordering_fade(struct tcp_state *t)
{
	if (t->reorder >= REORDER_PERSIST)
		t->reorder -= REORDER_PERSIST;
	else if (t->reorder)
		t->reorder = 1;
}

static uint32_t reordering_window(const struct tcp_state *t, const struct scoreboard *b)
{
	uint32_t srtt = t->srtt_us / 8u, mult = t->reorder & REORDER_MULT, wnd;
	unsigned ranges;

	if (!mult) {
		if ((t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)) ||
			board_sacked(b, &ranges) > (DUPACK_SEGMENTS - 1u) * t->mss ||
			ranges >= DUPACK_SEGMENTS)
			return 0;
		mult = 1;
	}
	/* Not RFC 8985: a quarter of SRTT, where it says the smallest round trip, which is not kept */
	wnd = srtt / 4u * mult;
	return max_u32(min_u32(wnd, srtt), 1u);
}

/* ---- the window ---- */

static void undo_remember(struct tcp_state *t, struct scoreboard *b)
{
	b->flags |= BOARD_UNDO;
	b->undo_cwnd = t->cwnd;
	b->undo_ssthresh = t->ssthresh;
	b->undo_start = t->snd_una;
	b->undo_end = t->snd_max;
	b->undo_bytes = 0;
}

static void undo(struct tcp_state *t, struct scoreboard *b)
{
	t->cwnd = max_u32(t->cwnd, b->undo_cwnd);
	t->ssthresh = max_u32(t->ssthresh, b->undo_ssthresh);
	t->flags &= (uint16_t) ~(TCPF_RECOVERY | TCPF_RTO_RECOVERY);
	t->due &= (uint8_t)~DUE_RETRANSMIT;
	b->flags &= (uint8_t)~BOARD_UNDO;
	b->frto = 0;
	board_forgive(b);
	if (t->due & DUE_LOSS) /* nobody has heard of it yet */
		t->due &= (uint8_t)~DUE_LOSS;
	else
		t->due |= DUE_UNDO;
}

static void recovery_enter(struct tcp_state *t, struct scoreboard *b)
{
	undo_remember(t, b);
	reordering_fade(t);
	t->ssthresh = flight_half(t);
	t->recover = t->snd_max;
	t->cwnd_acked = 0;
	t->flags |= TCPF_RECOVERY;
	t->due |= DUE_LOSS;
	b->probe = 0;
	b->prr_delivered = b->prr_out = 0;
	b->prr_flight = max_u32(t->snd_max - t->snd_una, t->mss);
}

static void recovery_exit(struct tcp_state *t, struct scoreboard *b)
{
	t->flags &= (uint16_t)~TCPF_RECOVERY;
	t->cwnd = t->ssthresh;
	b->undo_end = t->snd_max; /* duplicates are reported until a round trip from now */
}

/* RFC 6937 3.1; the reduction bound is that of its successor: slow start only while all goes well. */
static void recovery_pace(
	struct tcp_state *t, struct scoreboard *b, const struct board_news *news, bool advanced)
{
	uint32_t pipe = board_pipe(b, t->snd_max);
	int64_t send;

	b->prr_delivered += news->delivered;
	if (pipe > t->ssthresh) {
		uint64_t share = (uint64_t)b->prr_delivered * t->ssthresh;

		send = (int64_t)((share + b->prr_flight - 1u) / b->prr_flight) - b->prr_out;
	} else {
		send = (int64_t)b->prr_delivered - b->prr_out;
		if (send < news->delivered)
			send = news->delivered;
		if (advanced && !news->lost)
			send += t->mss;
		if (send > t->ssthresh - pipe)
			send = t->ssthresh - pipe;
	}
	if (!b->prr_out && send < t->mss)
		send = t->mss; /* the fast retransmit itself */
	t->cwnd = max_u32(pipe + (uint32_t)(send > 0 ? send : 0), t->mss);
}

/* ---- ACKs ---- */

/* RFC 2883 4: the first block reports a duplicate when it lies below the ACK or within the second. */
static bool is_duplicate(const struct segment *s)
{
	const struct sack_list *l = s->sack;
	uint32_t start = l->block[0][0], end = l->block[0][1];

	if (seq_geq(start, end))
		return false;
	if (seq_leq(end, s->ack))
		return true;
	return l->count > 1 && seq_geq(start, l->block[1][0]) && seq_leq(end, l->block[1][1]);
}

/* The part of a block that can be true; false: there is none. */
static bool block_clip(const struct tcp_state *t, const uint32_t block[2], uint32_t *start, uint32_t *end)
{
	*start = seq_max(block[0], t->snd_una);
	*end = block[1];
	return seq_lt(block[0], block[1]) && seq_leq(*end, t->snd_max) && seq_lt(*start, *end) &&
	       seq_geq(block[0], t->snd_una - t->max_snd_wnd);
}

static bool blocks_tell(const struct tcp_state *t, const struct segment *s, unsigned first)
{
	uint32_t start, end;

	for (unsigned i = first; i < s->sack->count; i++)
		if (block_clip(t, s->sack->block[i], &start, &end))
			return true;
	return false;
}

static void blocks_take(const struct tcp_state *t, struct scoreboard *b, const struct segment *s,
	unsigned first, struct board_news *news, struct verdict *v)
{
	for (unsigned i = first; i < s->sack->count; i++) {
		uint32_t start, end;

		if (block_clip(t, s->sack->block[i], &start, &end)) {
			if (!board_sack(b, start, end, news))
				verdict_note(v, CNT_sack_board_full);
		} else if (!seq_leq(s->sack->block[i][1], t->snd_una)) { /* else only late */
			verdict_note(v, CNT_sack_refused);
		}
	}
}

/* The peer got a byte range twice. */
static void duplicate_heed(
	struct tcp_state *t, struct scoreboard *b, const struct segment *s, struct verdict *v)
{
	uint32_t start = s->sack->block[0][0], end = s->sack->block[0][1];

	if (b->probe == PROBE_AGAIN &&
		end == b->probe_end) { /* RFC 8985 7.4.2: probe and original are there */
		b->probe = 0;
		return;
	}
	if (!(b->flags & BOARD_UNDO) || !b->undo_bytes || seq_lt(start, b->undo_start) ||
		seq_gt(end, t->snd_max))
		return; /* not of what we repeated: the network's doing, or made up */
	reordering_widen(t, b);
	b->undo_bytes -= min_u32(b->undo_bytes, end - start);
	if (!b->undo_bytes) {
		undo(t, b);
		verdict_note(v, CNT_recovery_undone);
	}
}

/* RFC 8985 7.4.2. */
static void probe_ack(struct tcp_state *t, struct scoreboard *b, const struct segment *s, bool advanced)
{
	if (b->probe == PROBE_DUE && advanced)
		b->probe = 0; /* the peer is there: the time starts anew */
	if (b->probe < PROBE_NEW || seq_lt(s->ack, b->probe_end))
		return;
	if (b->probe == PROBE_AGAIN) {
		if (s->ack == b->probe_end && advanced)
			return; /* of the original or of the probe: what comes next tells */
		if (seq_gt(s->ack, b->probe_end) && !(t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY))) {
			/* the probe has repaired a loss, which congestion control must hear of */
			t->ssthresh = max_u32(t->cwnd / 2u, 2u * t->mss);
			t->cwnd = t->ssthresh;
			t->cwnd_acked = 0;
			t->due |= DUE_LOSS;
		}
	}
	b->probe = 0;
}

/* While resending after a timeout: RFC 5682 3.1, its version for SACK. True: the timeout was spurious. */
static bool frto_ack(struct tcp_state *t, struct scoreboard *b, const struct segment *s,
	const struct board_news *news, bool advanced)
{
	uint8_t step = b->frto;

	b->frto = 0;
	if (!step || !(b->flags & BOARD_UNDO) || seq_geq(s->ack, t->recover))
		return false;
	if (!advanced) {
		if (!news->sacked)
			b->frto = step; /* nothing new: neither here nor there */
		return false;
	}
	if (news->spared)
		return true; /* 3b: what was sent before the timeout, and not since, arrives */
	if (step == FRTO_FIRST)
		b->frto = FRTO_NEW;
	return false;
}

/* A reordering window is waited for: the timer is due then, if not before. */
static void reordering_wait(struct tcp_state *t, struct scoreboard *b, uint32_t until_us, bool waited)
{
	if (!(t->flags & TCPF_RTO_ARMED) || seq_geq(until_us, t->rto_deadline_us))
		return;
	t->rto_deadline_us = until_us;
	b->flags |= BOARD_REORDER;
	if (!waited) /* earlier than the control plane knows: it is told again */
		t->flags &= (uint16_t)~TCPF_TIMER_ON;
}

bool recovery_ack(struct tcp_state *t, struct ooo_pool *pool, const struct segment *s, bool advanced,
	uint32_t now_us, struct verdict *v, struct recovery_growth *growth)
{
	bool sack = (s->has_ts & SEGMENT_SACK) != 0, duplicate = sack && is_duplicate(s), waits, waited;
	uint32_t until_us = 0, start, end;
	struct board_news news = {0};
	struct scoreboard *b;

	if (duplicate)
		verdict_note(v, CNT_dsack_received);
	if (!recovery_has_board(t)) {
		if (!sack || (t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)) || t->snd_nxt != t->snd_max ||
			!blocks_tell(t, s, duplicate))
			return duplicate; /* RFC 2883: such an ACK is no duplicate ACK */
		if (!board_open(t, pool)) {
			verdict_note(v, CNT_sack_board_none);
			return duplicate;
		}
	}
	b = board_of(t, pool);
	growth->flight = board_pipe(b, t->snd_max);
	board_advance(b, t->snd_una, &news);
	if (duplicate)
		duplicate_heed(t, b, s, v);
	if (sack)
		blocks_take(t, b, s, duplicate, &news, v);
	probe_ack(t, b, s, advanced);
	if (news.resent && now_us - news.resent_us < t->srtt_us / 16u)
		news.resent = false; /* half a round trip: that was the original */
	if (news.late)
		reordering_seen(t);
	board_overtake(b, now_us, &news);
	waits = board_detect(b, now_us, reordering_window(t, b), &news, &until_us);
	waited = (b->flags & BOARD_REORDER) != 0;
	if (advanced)
		b->flags &= (uint8_t)~BOARD_REORDER; /* the retransmission timer has just been armed */
	v->send = true;

	if (t->flags & TCPF_RTO_RECOVERY) {
		if (frto_ack(t, b, s, &news, advanced)) {
			undo(t, b);
			verdict_note(v, CNT_timeouts_spurious);
		} else {
			if (seq_geq(s->ack, t->recover))
				t->flags &= (uint16_t)~TCPF_RTO_RECOVERY;
			growth->bytes = min_u32(news.delivered, 2u * t->mss); /* RFC 3465 2.3 */
		}
	} else {
		if ((t->flags & TCPF_RECOVERY) && seq_geq(t->snd_una, t->recover))
			recovery_exit(t, b);
		else if (advanced && !(t->flags & TCPF_RECOVERY))
			growth->bytes = news.delivered;
		if (!(t->flags & TCPF_RECOVERY) && board_lost(b, &start, &end))
			recovery_enter(t, b);
		if (t->flags & TCPF_RECOVERY)
			recovery_pace(t, b, &news, advanced);
	}
	if (board_lost(b, &start, &end))
		t->due |= DUE_RETRANSMIT;
	if (waits)
		reordering_wait(t, b, until_us, waited);
	board_rest(t, pool);
	return true;
}

/* ---- sending ---- */

/* [start, end) of what was sent before, a FIN at its end included. */
static void plan_range(struct tcp_state *t, struct tx_plan *plan, uint32_t start, uint32_t end)
{
	plan->seq = start;
	plan->len = end - start;
	plan->retransmission = true;
	if ((t->flags & TCPF_FIN_SENT) && end == t->tx_end + 1u) {
		plan->len--;
		plan->flags |= TCP_FIN_;
	}
}

/* RFC 8985 7.3: new data if there is some and the peer's window takes it, else the last segment. */
static void plan_probe(struct tcp_state *t, struct scoreboard *b, struct tx_plan *plan, uint32_t now_us)
{
	uint32_t fresh = t->tx_end - t->snd_nxt, start;

	if ((int32_t)fresh > 0) {
		fresh = min_u32(fresh, t->mss);
		if (seq_leq(t->snd_nxt + fresh, t->snd_una + t->snd_wnd)) {
			plan->seq = t->snd_nxt;
			plan->len = fresh;
			b->probe = PROBE_NEW;
			b->probe_end = plan->seq + fresh;
			return;
		}
	}
	start = t->snd_max - min_u32(t->mss, t->snd_max - t->snd_una);
	plan_range(t, plan, start, t->snd_max);
	b->probe = PROBE_AGAIN;
	b->probe_end = t->snd_max;
	board_resent(b, start, t->snd_max, now_us, t->snd_max);
}

enum recovery_next recovery_next(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t max_len, uint32_t now_us, struct tx_plan *plan)
{
	struct scoreboard *b = board_of(t, pool);
	uint32_t start, end, len, room, mss = t->mss;

	if (b->probe == PROBE_DUE) {
		t->due &= (uint8_t)~DUE_RETRANSMIT;
		plan_probe(t, b, plan, now_us);
		return RECOVERY_PLANNED;
	}
	if (!board_lost(b, &start, &end)) {
		t->due &= (uint8_t)~DUE_RETRANSMIT;
		return RECOVERY_NEW;
	}
	/* A whole segment: nothing (Nagle, cork, the window) holds it back, so its ACK will come. */
	if (b->frto == FRTO_NEW && seq_geq(seq_min(t->tx_end, t->snd_una + t->snd_wnd), t->snd_nxt + mss))
		return RECOVERY_NEW;
	/* A window that has shrunk since holds all back but the first segment, which asks for news of it. */
	if (start != t->snd_una && seq_geq(start, t->snd_una + t->snd_wnd))
		return RECOVERY_WAITS;
	room = recovery_room(t, pool);
	len = min_u32(end - start, max_len);
	if (room < len)
		len = room;
	if (len > mss && len != end - start)
		len -= len % mss;
	if (len < mss && len < end - start) {
		if (board_pipe(b, t->snd_max)) /* else there is nobody to wait for */
			return RECOVERY_WAITS;
		len = min_u32(end - start, mss);
	}
	plan_range(t, plan, start, start + len);
	board_resent(b, start, start + len, now_us, t->snd_max);
	b->prr_out += len;
	b->undo_bytes += len;
	/* RFC 6675 5 (end): the timer is for the first segment, so it starts with it */
	if (start == t->snd_una && !(b->flags & BOARD_REORDER))
		t->flags &= (uint16_t)~TCPF_RTO_ARMED;
	return RECOVERY_PLANNED;
}

uint32_t recovery_room(const struct tcp_state *t, const struct ooo_pool *pool)
{
	uint32_t pipe = board_pipe(board_of(t, pool), t->snd_max);

	return t->cwnd > pipe ? t->cwnd - pipe : 0;
}

void recovery_sent(struct tcp_state *t, struct ooo_pool *pool, uint32_t len)
{
	board_of(t, pool)->prr_out += len;
}

/* ---- timers ---- */

bool recovery_timeout(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t now_us, enum counter *counter, bool *arm)
{
	struct board_news news = {0};
	struct scoreboard *b;
	uint32_t start, end;

	*counter = COUNTERS;
	*arm = true;
	if (recovery_has_board(t)) {
		uint32_t until_us = 0;
		bool waits;

		b = board_of(t, pool);
		if (!(b->flags & BOARD_REORDER))
			return false;
		b->flags &= (uint8_t)~BOARD_REORDER;
		waits = board_detect(b, now_us, reordering_window(t, b), &news, &until_us);
		if (!(t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)) && board_lost(b, &start, &end)) {
			recovery_enter(t, b);
			recovery_pace(t, b, &news, false);
		}
		if (board_lost(b, &start, &end))
			t->due |= DUE_RETRANSMIT;
		if (waits) {
			t->rto_deadline_us = until_us;
			b->flags |= BOARD_REORDER;
			*arm = false;
		}
		return true;
	}
	if (seq_geq(now_us, t->rto_deadline_us))
		return false;
	/* The tail loss probe. A pool that is short of entries keeps them for those who know of a loss. */
	if (pool->used >= pool->max / 2u || !board_open(t, pool)) {
		t->dupacks =
			1; /* as if one had come: no probe until the next ACK, and a segment of RFC 3042 */
		*arm = false;
		return true;
	}
	board_of(t, pool)->probe = PROBE_DUE;
	t->due |= DUE_RETRANSMIT;
	*counter = CNT_tail_probes;
	return true;
}

bool recovery_rto(struct tcp_state *t, struct ooo_pool *pool)
{
	bool again = (t->flags & TCPF_RTO_RECOVERY) != 0, renegs;
	struct scoreboard *b;

	if (!(t->flags & TCPF_SACK))
		return false;
	if (!recovery_has_board(t) && !board_open(t, pool))
		return false;
	b = board_of(t, pool);
	/* RFC 2018 8: bytes that it SACKed and does not acknowledge although they are next, it has thrown
	 * away */
	renegs = b->count && b->range[0].state == RANGE_SACKED;
	if (again) {
		b->frto = b->frto ? FRTO_FIRST : 0;
	} else if (!(t->flags & TCPF_RECOVERY)) {
		undo_remember(t, b);
		b->frto = renegs ? 0 : FRTO_FIRST;
	}
	b->probe = 0;
	b->flags &= (uint8_t)~BOARD_REORDER;
	board_lose(b, t->snd_max, renegs);
	return true;
}
