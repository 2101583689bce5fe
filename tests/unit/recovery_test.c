/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * recovery.c as a dialogue of segments, see protocol_test.c: a connection with SACK, a round trip of 100 ms
 * and ten segments of window. S(n) is our byte n, R(n) the peer's. ack(n, {start, end}, ...) is an ACK of
 * S(n) with blocks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "core/platform.h"
#include "core/seq.h"
#include "datapath/protocol.h"
#include "datapath/recovery.h"
#include "flextoe/abi.h"

#define IRS  0xfffffff0u
#define ISS  0xfffff000u /* wraps among the first segments */
#define R(n) (IRS + 1u + (uint32_t)(n))
#define S(n) (ISS + 1u + (uint32_t)(n))
#define MSS  1000u
#define WND  60000u
#define RTT  100000u

static struct tcp_state t;
static struct ooo_pool pool;
static struct verdict v;
static uint32_t now;

static int setup(void **state)
{
	(void)state;
	ooo_pool_init(&pool, 8);
	now = 0xfffff000u;
	t = (struct tcp_state){.rcv_nxt = R(0),
		.rcv_adv = R(65535),
		.rx_base = R(0),
		.rx_tail = R(0),
		.rcv_acked = R(0),
		.snd_una = S(0),
		.snd_nxt = S(0),
		.snd_max = S(0),
		.tx_base = S(0),
		.tx_end = S(0),
		.snd_wnd = WND,
		.max_snd_wnd = WND,
		.snd_wl1 = IRS,
		.snd_wl2 = S(0),
		.cwnd = 10 * MSS,
		.ssthresh = UINT32_MAX / 2,
		.recover = ISS,
		.srtt_us = RTT * 8,
		.rttvar_us = RTT,
		.rto_us = 3 * RTT,
		.mss = MSS,
		.flags = TCPF_SACK,
		.phase = TCP_PHASE_ESTABLISHED,
		.ooo = CONN_NONE,
		.rx_shift = 16,
		.tx_shift = 16,
		.challenge_stamp = (uint8_t)((now >> 16) - 1)};
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	reassembly_drop(&t, &pool);
	assert_int_equal(pool.used, 0);
	ooo_pool_free(&pool);
	return 0;
}

struct block {
	uint32_t start, end;
};

static void in_blocks(
	uint32_t seq, uint32_t ack, uint32_t len, uint32_t wnd, const struct block *blocks, unsigned n)
{
	struct sack_list list = {.count = n};
	struct segment s = {
		.seq = seq, .ack = ack, .len = len, .wnd = (uint16_t)wnd, .flags = TCP_ACK_, .sack = &list};

	for (unsigned i = 0; i < n; i++) {
		list.block[i][0] = S(blocks[i].start);
		list.block[i][1] = S(blocks[i].end);
	}
	if (n)
		s.has_ts = SEGMENT_SACK;
	protocol_rx(&t, &pool, &s, now, &v);
}

#define ack(n, ...)                                                                                          \
	in_blocks(R(0), S(n), 0, WND, (const struct block[]){__VA_ARGS__},                                   \
		sizeof((const struct block[]){__VA_ARGS__}) / sizeof(struct block))
#define ack_plain(n) in_blocks(R(0), S(n), 0, WND, NULL, 0)

static void out_flags(uint32_t seq, uint32_t len, unsigned flags)
{
	struct tx_plan p;

	assert_true(protocol_tx(&t, &pool, MSS, now, &p));
	assert_int_equal(p.seq - S(0), seq - S(0));
	assert_int_equal(p.len, len);
	if (flags)
		assert_int_equal(p.flags, flags);
}
/* The next segment of one MSS. */
static void out(uint32_t at)
{
	out_flags(S(at), MSS, 0);
}
static void out_nothing(void)
{
	struct tx_plan p;

	assert_false(protocol_tx(&t, &pool, MSS, now, &p));
}

static int app(uint32_t end, uint32_t flags)
{
	bool send = false;

	return protocol_host(&t, S(end), R(0), flags, &send);
}

static enum counter timeout(void)
{
	bool send = false;

	now = protocol_deadline(&t);
	return protocol_timeout(&t, &pool, now, &send);
}

static bool counted(enum counter c)
{
	return v.counter == c || (c >= CNT_sack_refused && v.also & 1u << (c - CNT_sack_refused));
}

/* The application has written so many segments, and as many as the window takes are out. */
static void sent(unsigned segments, unsigned written)
{
	app(written * MSS, 0);
	for (unsigned i = 0; i < segments; i++)
		out(i * MSS);
}

/* What congestion control is told since the last time it was asked. */
static unsigned told(void)
{
	unsigned due = t.due & DUE_CONGESTION;

	t.due &= (uint8_t)~DUE_CONGESTION;
	return due;
}

static bool at_ease(void)
{
	return !recovery_has_board(&t) && !(t.flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)) &&
	       t.ooo == CONN_NONE;
}

/* ---- losses ---- */

static void one_lost_segment_is_sent_again_alone(void **state)
{
	(void)state;
	sent(10, 10);
	ack(0, {1000, 2000});
	out_nothing();
	ack(0, {1000, 3000});
	out_nothing();
	assert_int_equal(told(), 0);
	ack(0, {1000, 4000});
	assert_true(t.flags & TCPF_RECOVERY);
	assert_int_equal(t.ssthresh, 5 * MSS);
	assert_int_equal(told(), DUE_LOSS);
	out(0);
	out_nothing();
	ack(0, {1000, 10000});
	out_nothing();
	ack_plain(10000);
	assert_int_equal(v.acked, 10000);
	assert_true(at_ease());
	assert_int_equal(t.cwnd, 5 * MSS);
	assert_int_equal(told(), 0);
}

static void sacked_bytes_let_new_ones_out_before_recovery(void **state) /* RFC 3042, RFC 6675 5 */
{
	(void)state;
	sent(10, 20);
	out_nothing();
	ack(0, {1000, 2000});
	out(10000);
	out_nothing();
	ack(0, {1000, 3000});
	out(11000);
	out_nothing();
}

/* The path takes smaller segments only: the board counted in larger ones, and is given back. */
static void smaller_segments_end_the_board(void **state)
{
	bool send = false;
	struct tx_plan p;

	(void)state;
	sent(10, 10);
	ack(0, {1000, 4000});
	assert_true(recovery_has_board(&t));
	protocol_mss(&t, &pool, 500, &send);
	assert_true(send);
	assert_false(recovery_has_board(&t));
	assert_int_equal(pool.used, 0);
	assert_true(protocol_tx(&t, &pool, 500, now, &p));
	assert_int_equal(p.seq, S(0));
	assert_int_equal(p.len, 500);
	ack_plain(10000);
	assert_int_equal(v.acked, 10000);
	assert_true(at_ease());
}

static void many_holes_are_filled_in_one_round_trip(void **state)
{
	(void)state;
	t.cwnd = 20 * MSS;
	sent(20, 20);
	ack(0, {1000, 2000}); /* 0, 3 and 6 are lost */
	ack(0, {1000, 3000});
	ack(0, {4000, 5000}, {1000, 3000});
	out(0);
	out_nothing(); /* at the pace of RFC 6937 */
	ack(0, {4000, 6000}, {1000, 3000});
	ack(0, {7000, 9000}, {4000, 6000}, {1000, 3000});
	out(3000);
	out_nothing();
	ack(0, {7000, 11000}, {4000, 6000}, {1000, 3000});
	out(6000);
	out_nothing();
	ack(3000, {7000, 20000}, {4000, 6000});
	ack(6000, {7000, 20000});
	out_nothing();
	ack_plain(20000);
	assert_true(at_ease());
}

static void lost_retransmission_is_sent_again_without_a_timeout(void **state)
{
	(void)state;
	sent(10, 30);
	ack(0, {1000, 4000});
	out(0);
	ack(0, {1000, 8000}); /* the pace allows new data now */
	out(10000);
	now += RTT;
	ack(0, {1000, 10000});
	assert_true(t.flags & TCPF_RECOVERY);
	out(11000);
	ack(0, {10000, 11000}, {1000, 10000}); /* sent after the retransmission, and there before it */
	out(0);
}

static void later_retransmission_overtakes_an_earlier_one(void **state)
{
	(void)state;
	t.cwnd = 20 * MSS;
	sent(20, 20);
	ack(0, {1000, 3000}, {4000, 6000}); /* 0 and 3 */
	out(0);
	now += 10;
	ack(0, {1000, 3000}, {4000, 8000});
	out(3000);
	now += RTT;
	ack(0, {1000, 8000}); /* the second has come, the first not */
	out(0);
	out_nothing();
}

static void window_is_halved_at_the_pace_of_the_acks(void **state) /* RFC 6937 */
{
	unsigned new_segments = 0;
	struct tx_plan p;

	(void)state;
	t.cwnd = 20 * MSS;
	sent(20, 60);
	ack(0, {1000, 4000});
	out(0);
	for (unsigned i = 4; i < 20; i++) {
		ack(0, {1000, (i + 1) * MSS});
		while (protocol_tx(&t, &pool, MSS, now, &p)) {
			assert_false(p.retransmission);
			new_segments++;
		}
	}
	/* 20 were in flight, ten may be: with the retransmission about one for two that arrived */
	assert_in_range(new_segments, 7, 10);
	assert_in_range(board_pipe(&pool.boards[t.ooo], t.snd_max), 8 * MSS, 10 * MSS);
	ack_plain(20000);
	assert_int_equal(t.cwnd, 10 * MSS);
}

/* RFC 9438 4.6: the threshold that congestion control answers with is the one to go down to. */
static void recovery_goes_down_to_the_threshold_asked_for(void **state)
{
	unsigned new_segments = 0;
	struct tx_plan p;

	(void)state;
	t.cwnd = 20 * MSS;
	sent(20, 60);
	ack(0, {1000, 4000});
	protocol_window(&t, 0, 14 * MSS);
	out(0);
	for (unsigned i = 4; i < 20; i++) {
		ack(0, {1000, (i + 1) * MSS});
		while (protocol_tx(&t, &pool, MSS, now, &p))
			new_segments++;
	}
	assert_in_range(new_segments, 11, 14);
	assert_in_range(board_pipe(&pool.boards[t.ooo], t.snd_max), 12 * MSS, 14 * MSS);
	ack_plain(20000);
	assert_int_equal(t.cwnd, 14 * MSS);
}

static void lost_fin_is_part_of_it(void **state)
{
	(void)state;
	app(4500, FLEXTOE_HC_FIN);
	for (unsigned i = 0; i < 4; i++)
		out(i * MSS);
	out_flags(S(4000), 500, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	ack(0, {1000, 4000});
	out(0);
	ack(4000);
	assert_int_equal(timeout(), CNT_retransmit_timeout);
	out_flags(S(4000), 500, TCP_ACK_ | TCP_FIN_);
	ack_plain(4501);
	assert_int_equal(t.phase, TCP_PHASE_FIN_WAIT_2);
}

static void blocks_ride_on_data_too(void **state)
{
	(void)state;
	sent(10, 10);
	in_blocks(R(0), S(0), 100, WND, (const struct block[]){{1000, 4000}}, 1);
	assert_int_equal(v.delivered, 100);
	out(0);
}

/* ---- reordering ---- */

static void late_segment_teaches_to_wait(void **state)
{
	(void)state;
	sent(10, 10);
	ack(0, {1000, 2000});
	assert_int_equal(t.reorder, 0);
	now += RTT;
	ack_plain(3000); /* it came after all */
	assert_true(t.reorder);
	assert_true(at_ease());
	app(20000, 0);
	for (unsigned i = 10; i < 13; i++)
		out(i * MSS);
	ack(3000, {4000, 9000}); /* would be loss for one that had seen no reordering */
	assert_false(t.flags & TCPF_RECOVERY);
	now += RTT / 4 - 1;
	ack(3000, {4000, 10000});
	assert_false(t.flags & TCPF_RECOVERY);
	now += 1;
	ack(3000, {4000, 11000});
	assert_true(t.flags & TCPF_RECOVERY);
	out(3000);
}

static void reordering_window_has_a_timer(void **state)
{
	uint32_t armed = now;

	(void)state;
	sent(10, 10);
	t.flags |= TCPF_TIMER_ON;
	ack(0, {1000, 2000}); /* one SACK alone is no proof of loss */
	assert_false(t.flags & TCPF_RECOVERY);
	assert_false(t.flags & TCPF_TIMER_ON); /* the control plane is to look anew */
	assert_int_equal(timeout(), COUNTERS);
	assert_int_equal(now - armed, RTT / 4);
	assert_true(t.flags & TCPF_RECOVERY);
	out(0);
	assert_int_equal(protocol_deadline(&t) - now, t.rto_us); /* and the timeout is armed behind it */
}

static void needless_retransmission_is_undone(void **state)
{
	(void)state;
	sent(10, 20);
	ack(0, {1000, 4000});
	out(0);
	assert_int_equal(t.ssthresh, 5 * MSS);
	assert_int_equal(told(), DUE_LOSS);
	now += 10;
	ack(0, {1000, 8000});
	out(10000);
	ack_plain(10000);      /* it was only late */
	ack(10000, {0, 1000}); /* RFC 2883: and the repeated one came twice */
	assert_true(counted(CNT_recovery_undone));
	assert_true(t.cwnd >= 10 * MSS);
	assert_true(t.ssthresh > 10 * MSS);
	assert_int_equal(t.reorder & 15, 1);
	assert_int_equal(told() & ~DUE_ROUND, DUE_UNDO);
	assert_true(at_ease());
}

static void duplicates_by_others_undo_nothing(void **state)
{
	(void)state;
	sent(10, 10);
	ack(0, {1000, 4000});
	out(0);
	ack(0, {2000, 3000}, {1000, 4000}); /* the network doubled it */
	assert_true(counted(CNT_dsack_received));
	ack(0, {-3000u, -2000u}, {1000, 4000}); /* from before */
	for (unsigned i = 0; i < 1000; i++)
		ack(0, {1000, 1001}, {1000, 4000});
	assert_int_equal(t.dupacks, DUPACKS_BOARD);
	assert_true((t.reorder & 15) <= 1); /* a step a round trip at most */
}

static void dsack_is_no_duplicate_ack(void **state)
{
	(void)state;
	sent(10, 10);
	ack_plain(2000);
	for (unsigned i = 0; i < 5; i++)
		ack(2000, {0, 1000});
	assert_true(at_ease());
	out_nothing();
}

/* ---- timeouts ---- */

static void timeout_repeats_only_what_the_peer_lacks(void **state)
{
	(void)state;
	sent(10, 10);
	ack(0, {1000, 2000}, {5000, 6000});
	assert_int_equal(timeout(), COUNTERS); /* the reordering window */
	out(0);
	while (timeout() != CNT_retransmit_timeout)
		;
	assert_int_equal(t.cwnd, MSS);
	out(0);
	out_nothing();
	ack_plain(2000);
	out(2000);
	out(3000);
	out_nothing();
	ack(4000, {5000, 6000});
	out(4000);
	out(6000);
	ack(6000);
	out(7000);
	out(8000);
	ack_plain(10000);
	assert_true(at_ease());
}

static void spurious_timeout_is_found_by_new_data(void **state) /* RFC 5682 3.1 */
{
	(void)state;
	t.srtt_us = 0; /* no probe */
	sent(10, 20);
	assert_int_equal(timeout(), CNT_retransmit_timeout);
	out(0);
	out_nothing();
	ack_plain(1000); /* of the first: of which one? */
	out(10000);	 /* new data, not S(1000) */
	out(11000);
	out_nothing();
	ack_plain(2000); /* S(1000) was not sent again, so it was on its way */
	assert_true(counted(CNT_timeouts_spurious));
	assert_int_equal(told() & ~DUE_ROUND, 0); /* neither of the loss nor of its end */
	assert_false(t.flags & TCPF_RTO_RECOVERY);
	assert_true(t.cwnd >= 10 * MSS);
	ack_plain(12000);
	assert_true(at_ease());
}

static void real_timeout_goes_on_repeating(void **state)
{
	(void)state;
	t.srtt_us = 0;
	sent(10, 20);
	assert_int_equal(timeout(), CNT_retransmit_timeout);
	out(0);
	ack_plain(1000);
	out(10000);
	out(11000);
	ack(1000, {10000, 11000}); /* the new one came and S(1000) did not */
	assert_true(t.flags & TCPF_RTO_RECOVERY);
	out(1000);
	ack(1000, {10000, 12000});
	out(2000);
	ack(2000, {10000, 12000});
	out(3000);
}

static void without_new_data_a_timeout_repeats_on(void **state)
{
	(void)state;
	t.srtt_us = 0;
	sent(10, 10);
	assert_int_equal(timeout(), CNT_retransmit_timeout);
	out(0);
	ack_plain(1000);
	out(1000);
	out(2000);
	out_nothing();
}

/* New data that Nagle, a cork or the peer's window holds back tells F-RTO nothing: nothing would ever come.
 */
static void new_data_that_is_held_back_holds_up_no_timeout(void **state)
{
	static const struct {
		uint32_t written, window, flags;
	} cases[] = {{10500, WND, FLEXTOE_HC_NAGLE}, {10500, WND, FLEXTOE_HC_MORE}, {12000, 9500, 0}};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		t.srtt_us = 0;
		app(10000, 0);
		for (unsigned n = 0; n < 10; n++)
			out(n * MSS);
		app(cases[i].written, cases[i].flags);
		assert_int_equal(timeout(), CNT_retransmit_timeout);
		out(0);
		in_blocks(R(0), S(1000), 0, cases[i].window, NULL, 0);
		out(1000);
		teardown(state);
		setup(state);
	}
}

static void peer_that_reneges_gets_everything_again(void **state) /* RFC 2018 8 */
{
	(void)state;
	sent(10, 10);
	ack(0, {1000, 10000});
	out(0);
	ack_plain(1000); /* without the blocks: it has thrown them away */
	while (timeout() != CNT_retransmit_timeout)
		;
	for (unsigned i = 1; i < 10; i++) {
		out(i * MSS);
		ack_plain((i + 1) * MSS);
	}
	assert_true(at_ease());
}

static void timeouts_double_and_give_up(void **state)
{
	unsigned n = 0;

	(void)state;
	t.srtt_us = 0;
	sent(3, 3);
	while (t.phase != TCP_PHASE_CLOSED && n++ < 100) {
		assert_int_equal(
			protocol_deadline(&t) - now, min_u32(3 * RTT << (n > 1 ? t.backoff : 0), RTO_MAX_US));
		timeout();
		if (t.phase != TCP_PHASE_CLOSED) {
			out(0);
			out_nothing();
		}
	}
	assert_int_equal(n, PROTOCOL_RETRIES_MAX + 1);
	assert_int_equal(t.error, ETIMEDOUT);
}

static void window_that_shrinks_holds_back_all_but_the_first(void **state)
{
	(void)state;
	t.srtt_us = 0;
	sent(10, 10);
	in_blocks(R(0), S(0), 0, 0, NULL, 0);
	for (unsigned i = 0; i < 40; i++) { /* for as long as it answers */
		assert_int_equal(timeout(), CNT_retransmit_timeout);
		out(0);
		out_nothing();
		in_blocks(R(0), S(0), 0, 0, NULL, 0);
	}
	in_blocks(R(0), S(1000), 0, 1500, NULL, 0);
	out(1000);
}

/* ---- tail loss probes ---- */

static void probe_repeats_the_last_segment(void **state) /* RFC 8985 7 */
{
	(void)state;
	sent(4, 4);
	assert_int_equal(protocol_deadline(&t) - now, 2 * RTT);
	assert_int_equal(timeout(), CNT_tail_probes);
	out(3000);
	out_nothing();
	assert_int_equal(protocol_deadline(&t) - now, t.rto_us); /* one probe, then the timeout */
	now += RTT;
	ack(0, {3000, 4000}); /* the tail was lost: now it is known */
	timeout();	      /* the reordering window */
	out(0);
	assert_true(t.flags & TCPF_RECOVERY);
}

static void probe_prefers_new_data(void **state)
{
	(void)state;
	t.cwnd = 4 * MSS;
	sent(4, 8);
	out_nothing();
	assert_int_equal(timeout(), CNT_tail_probes);
	out(4000);
	out_nothing();
	ack_plain(5000);
	assert_true(at_ease());
	assert_int_equal(t.ssthresh, UINT32_MAX / 2);
}

static void probe_that_repairs_a_loss_halves_the_window(void **state)
{
	(void)state;
	sent(4, 4);
	timeout();
	out(3000);
	ack_plain(4000);
	assert_int_equal(told(), 0);
	app(5000, 0);
	out(4000);
	ack_plain(5000);
	assert_int_equal(t.cwnd, 5 * MSS);
	assert_int_equal(told(), DUE_LOSS);
	assert_true(at_ease());
}

static void probe_that_was_needless_does_not(void **state)
{
	(void)state;
	sent(4, 4);
	timeout();
	out(3000);
	ack_plain(4000);
	ack(4000, {3000, 4000});
	assert_true(at_ease());
	assert_true(t.cwnd >= 10 * MSS);
}

/* The fuzzer found it: the probe was due, and what it was to repeat was acknowledged before it could leave.
 */
static void probe_that_an_ack_overtakes_is_not_sent(void **state)
{
	(void)state;
	app(3000, FLEXTOE_HC_FIN);
	out(0);
	out(1000);
	out_flags(S(2000), MSS, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	assert_int_equal(timeout(), CNT_tail_probes);
	ack_plain(3001);
	out_nothing();
	assert_true(at_ease());
}

static void one_segment_may_wait_for_a_delayed_ack(void **state)
{
	(void)state;
	t.rto_us = 10 * RTT;
	sent(1, 1);
	assert_int_equal(protocol_deadline(&t) - now, 2 * RTT + PTO_ACK_DELAY_US);
}

/* ---- hostile and short of things ---- */

static void blocks_that_cannot_be_are_refused(void **state)
{
	(void)state;
	sent(10, 10);
	ack(0, {2000, 1000});
	assert_false(recovery_has_board(&t));
	ack(0, {9000, 10001}, {20000, 30000});
	assert_false(recovery_has_board(&t));
	ack(0, {1000, 1000});
	assert_false(recovery_has_board(&t));
	ack(0, {0x80000000u, 5000});
	assert_false(recovery_has_board(&t));
	setup(state); /* they were duplicate ACKs too */
	sent(10, 10);
	ack(0, {1000, 2000}, {9000, 10001}, {0x80000000u, 0x80001000u});
	assert_true(counted(CNT_sack_refused));
	assert_int_equal(board_pipe(&pool.boards[t.ooo], t.snd_max), 9 * MSS);
}

static void without_a_board_it_is_newreno(void **state)
{
	struct tcp_state other[8];

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		other[i].ooo = CONN_NONE;
		ooo_take(&other[i], &pool, OOO_BOARD);
	}
	sent(10, 10);
	ack(0, {1000, 2000});
	assert_true(counted(CNT_sack_board_none));
	ack(0, {1000, 3000});
	ack(0, {1000, 4000});
	out(0);
	ack(5000, {6000, 10000}); /* partial */
	out(5000);
	for (unsigned i = 0; i < 8; i++)
		reassembly_drop(&other[i], &pool);
	ack(5000, {6000, 10000}); /* not in the middle of it */
	assert_false(recovery_has_board(&t));
	ack_plain(10000);
	assert_true(at_ease());
}

static void duplicate_acks_without_blocks_are_counted_to_an_end(void **state)
{
	(void)state;
	sent(10, 10);
	for (unsigned i = 0; i < 1000; i++) {
		ack_plain(0);
		assert_false(recovery_has_board(&t));
	}
	out(0);
}

static void full_board_forgets_but_goes_on(void **state)
{
	bool full = false;

	(void)state;
	t.cwnd = t.snd_wnd = t.max_snd_wnd = 500 * MSS;
	t.tx_shift = 20;
	sent(300, 300);
	for (unsigned i = 1; i < 299; i += 2) {
		in_blocks(R(0), S(0), 0, 60000, (const struct block[]){{i * MSS, (i + 1) * MSS}}, 1);
		full |= counted(CNT_sack_board_full);
		assert_true(pool.boards[t.ooo].count <= BOARD_RANGES);
	}
	assert_true(full);
	while (timeout() != CNT_retransmit_timeout)
		;
	for (unsigned i = 0; i < 300 && t.snd_una != S(300000); i++) { /* and recovers what it can */
		struct tx_plan p;

		while (protocol_tx(&t, &pool, MSS, now, &p))
			;
		in_blocks(R(0), t.snd_una + MSS, 0, 60000, NULL, 0);
	}
	assert_int_equal(t.snd_una, S(300000));
	assert_true(at_ease());
}

/* ---- our own blocks ---- */

static unsigned blocks_out(uint32_t block[SACK_BLOCKS][2])
{
	struct tx_plan p;
	unsigned n = reassembly_sack(&t, &pool, block, SACK_BLOCKS);

	assert_true(t.due & DUE_SACK);
	protocol_ack(&t, &p);
	reassembly_told(&t, &pool);
	assert_false(t.due & (DUE_SACK | DUE_ACK));
	return n;
}

static void duplicate_is_reported(void **state) /* RFC 2883 4 */
{
	uint32_t block[SACK_BLOCKS][2];

	(void)state;
	in_blocks(R(0), S(0), 1000, WND, NULL, 0);
	in_blocks(R(0), S(0), 1000, WND, NULL, 0);
	assert_int_equal(blocks_out(block), 1);
	assert_int_equal(block[0][0], R(0));
	assert_int_equal(block[0][1], R(1000));
	assert_int_equal(t.ooo, CONN_NONE);
	in_blocks(R(2000), S(0), 1000, WND, NULL, 0);
	in_blocks(R(5000), S(0), 1000, WND, NULL, 0);
	blocks_out(block);
	in_blocks(R(2000), S(0), 1000, WND, NULL, 0);
	assert_int_equal(blocks_out(block), 3);
	assert_int_equal(block[0][0], R(2000));
	assert_int_equal(block[1][0], R(2000));
	assert_int_equal(block[2][0], R(5000));
	in_blocks(R(0), S(0), 2000, WND, NULL, 0); /* in part: no report */
	assert_int_equal(blocks_out(block), 1);
	assert_int_equal(block[0][0], R(5000));
}

static void data_does_not_take_the_place_of_blocks(void **state) /* RFC 2018 4 */
{
	(void)state;
	in_blocks(R(2000), S(0), 1000, WND, NULL, 0);
	app(1000, 0);
	out(0); /* carries the number, but no blocks */
	assert_true(t.due & DUE_SACK);
}

/* ---- anything at all ---- */

static uint64_t seed = 88172645463325252u;

static uint32_t below(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % n;
}

static void check(void)
{
	const struct scoreboard *b;

	assert_true(seq_leq(t.snd_una, t.snd_max));
	assert_true(seq_leq(t.snd_max, t.tx_end));
	assert_true(t.snd_una == t.snd_max || (t.flags & TCPF_RTO_ARMED));
	if (!recovery_has_board(&t)) {
		assert_int_equal(pool.used, t.ooo != CONN_NONE);
		return;
	}
	b = &pool.boards[t.ooo];
	assert_int_equal(b->una, t.snd_una);
	assert_true(b->count < BOARD_RANGES);
	assert_true(seq_leq(b->end, t.snd_max));
	assert_true(board_pipe(b, t.snd_max) <= t.snd_max - t.snd_una);
	for (unsigned i = 0; i < b->count; i++) {
		assert_int_equal(b->range[0].start, b->una);
		assert_true(seq_lt(b->range[i].start, i + 1u < b->count ? b->range[i + 1].start : b->end));
	}
}

static void any_segments_leave_it_sound(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 300; round++) {
		t.cwnd = (1 + below(60)) * MSS;
		for (unsigned i = 0; i < 300; i++) {
			uint32_t flight = t.snd_max - t.snd_una;
			struct block blocks[SACK_BLOCKS];
			unsigned n = below(5), sends = below(20);
			struct tx_plan p;
			bool send;

			app(t.snd_una - S(0) + below(60000), 0);
			while (sends-- && protocol_tx(&t, &pool, below(2) ? MSS : 8 * MSS, now, &p))
				check();
			for (unsigned k = 0; k < n; k++) {
				blocks[k].start = t.snd_una - S(0) + below(flight + 2 * MSS) - MSS * below(2);
				blocks[k].end = blocks[k].start + below(below(4) ? 3 * MSS : 60000);
				if (!below(50))
					blocks[k].start = below(UINT32_MAX);
			}
			in_blocks(R(0),
				t.snd_una + (below(3) ? 0 : below(flight + 1)) - (below(10) ? 0 : below(MSS)),
				0, below(20) ? 60000 : below(3000), blocks, n);
			check();
			now += below(below(8) ? 2000 : 100000);
			if ((t.flags & TCPF_RTO_ARMED) && seq_geq(now, protocol_deadline(&t)))
				protocol_timeout(&t, &pool, now, &send);
			check();
			assert_int_not_equal(t.phase, TCP_PHASE_CLOSED);
		}
		teardown(state);
		setup(state);
		now = below(UINT32_MAX);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(one_lost_segment_is_sent_again_alone),
		T(sacked_bytes_let_new_ones_out_before_recovery), T(smaller_segments_end_the_board),
		T(many_holes_are_filled_in_one_round_trip),
		T(lost_retransmission_is_sent_again_without_a_timeout),
		T(later_retransmission_overtakes_an_earlier_one), T(window_is_halved_at_the_pace_of_the_acks),
		T(recovery_goes_down_to_the_threshold_asked_for), T(lost_fin_is_part_of_it),
		T(blocks_ride_on_data_too), T(late_segment_teaches_to_wait), T(reordering_window_has_a_timer),
		T(needless_retransmission_is_undone), T(duplicates_by_others_undo_nothing),
		T(dsack_is_no_duplicate_ack), T(timeout_repeats_only_what_the_peer_lacks),
		T(spurious_timeout_is_found_by_new_data), T(real_timeout_goes_on_repeating),
		T(without_new_data_a_timeout_repeats_on), T(new_data_that_is_held_back_holds_up_no_timeout),
		T(peer_that_reneges_gets_everything_again), T(timeouts_double_and_give_up),
		T(window_that_shrinks_holds_back_all_but_the_first), T(probe_repeats_the_last_segment),
		T(probe_prefers_new_data), T(probe_that_repairs_a_loss_halves_the_window),
		T(probe_that_was_needless_does_not), T(probe_that_an_ack_overtakes_is_not_sent),
		T(one_segment_may_wait_for_a_delayed_ack), T(blocks_that_cannot_be_are_refused),
		T(without_a_board_it_is_newreno), T(duplicate_acks_without_blocks_are_counted_to_an_end),
		T(full_board_forgets_but_goes_on), T(duplicate_is_reported),
		T(data_does_not_take_the_place_of_blocks), T(any_segments_leave_it_sound)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
