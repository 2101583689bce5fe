/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Each algorithm's rules with the numbers of its RFC, and the control plane between it and the data path: the
 * events of connection 5 and the windows that answer them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "control/cc/cc.h"
#include "fake_datapath.h"

#define MSS    1000u
#define SECOND 1000000u

static uint64_t memory[FLEXTOE_CC_STATE / 8];
static struct flextoe_cc_sample s;
static struct flextoe_cc_window w;

static void begin(const struct flextoe_cc *cc, uint32_t srtt_us)
{
	memset(memory, 0, sizeof(memory));
	s = (struct flextoe_cc_sample){
		.now_us = 77 * SECOND, .mss = MSS, .cwnd = 10 * MSS, .srtt_us = srtt_us};
	cc->begin(memory, &s);
}

/* A round trip above ssthresh: the data path has added a segment, the algorithm decides. */
static void round_trip(const struct flextoe_cc *cc)
{
	s.now_us += s.srtt_us;
	s.acked = s.cwnd;
	s.cwnd += MSS;
	w = (struct flextoe_cc_window){0};
	cc->round(memory, &s, &w);
	if (w.cwnd)
		s.cwnd = w.cwnd;
}

static void lose(const struct flextoe_cc *cc, uint32_t flight, bool timeout)
{
	w = (struct flextoe_cc_window){0};
	s.flight = flight;
	s.ssthresh = flight / 2u;
	cc->loss(memory, &s, timeout, &w);
	if (w.ssthresh)
		s.ssthresh = w.ssthresh;
	s.cwnd = s.ssthresh; /* recovery is over */
}

#define assert_near(value, expected, percent)                                                                \
	assert_in_range(value, (expected) * (100 - (percent)) / 100, (expected) * (100 + (percent)) / 100)

/* RFC 9438 4.2, 4.6: beta 0.7, K = cbrt((100 - 70) / 0.4) = 4.217 s; W_cubic(K) = W_max, and as much above
   it at 2 K as below it at 0. */
static void cubic_concave_and_convex(void **state)
{
	uint64_t start;
	uint32_t last;

	(void)state;
	begin(&cc_cubic, 100000);
	lose(&cc_cubic, 100 * MSS, false);
	assert_int_equal(w.ssthresh, 70 * MSS);
	start = s.now_us;
	while (s.now_us < start + 2 * SECOND) {
		last = s.cwnd;
		round_trip(&cc_cubic);
		assert_true(s.cwnd >= last);
	}
	/* 0.4 (2.1 - 4.217)^3 + 100 = 96.2: the target is that of one round trip ahead */
	assert_near(s.cwnd, 96200, 1);
	while (s.now_us < start + 4217000)
		round_trip(&cc_cubic);
	assert_near(s.cwnd, 100000, 1);
	while (s.now_us < start + 8334000)
		round_trip(&cc_cubic);
	assert_near(s.cwnd, 130000, 2);
}

/* RFC 9438 4.3: with short round trips what Reno would have is more: 0.53 segments a round trip, and 1 from
   the old window on. */
static void cubic_is_no_less_than_reno(void **state)
{
	(void)state;
	begin(&cc_cubic, 1000);
	lose(&cc_cubic, 20 * MSS, false);
	assert_int_equal(s.cwnd, 14 * MSS);
	for (int i = 0; i < 10; i++)
		round_trip(&cc_cubic);
	assert_near(s.cwnd, 14000 + 5294, 1);
	for (int i = 0; i < 12; i++)
		round_trip(&cc_cubic);
	/* 2 round trips more until 20 (11.33 in all), then 1 each */
	assert_near(s.cwnd, 30353, 1);
}

/* RFC 9438 4.7: a window that did not get back to where it was gives way: W_max = w (1 + 0.7) / 2. */
static void cubic_converges_fast(void **state)
{
	uint64_t start;

	(void)state;
	begin(&cc_cubic, 100000);
	lose(&cc_cubic, 100 * MSS, false);
	lose(&cc_cubic, 80 * MSS, false); /* W_max 68, below 80: from 56 it takes cbrt(12 / 0.4) = 3.107 s */
	assert_int_equal(s.cwnd, 56 * MSS);
	start = s.now_us;
	while (s.now_us < start + 3107000)
		round_trip(&cc_cubic);
	assert_true(s.cwnd >= 68 * MSS);
	assert_true(s.cwnd <= 74 * MSS); /* 56 + 31 * 0.53 = 72.4 of Reno's at most */
}

/* RFC 9438 4.4: not more than half as much again in a round trip, however long that is. */
static void cubic_target_is_bounded(void **state)
{
	(void)state;
	begin(&cc_cubic, 20000000);
	lose(&cc_cubic, 20 * MSS, false);
	round_trip(&cc_cubic);
	assert_int_equal(s.cwnd, 21 * MSS);
}

/* RFC 9438 4.8: after a timeout K is 0: the window grows from the first round on, convex. */
static void cubic_after_a_timeout(void **state)
{
	(void)state;
	begin(&cc_cubic, 100000);
	lose(&cc_cubic, 100 * MSS, true);
	assert_int_equal(w.ssthresh, 70 * MSS);
	for (int i = 0; i < 50; i++)
		round_trip(&cc_cubic);
	/* 0.4 * 5.1^3 = 53.1 */
	assert_near(s.cwnd, 70000 + 53100, 3);
}

/* Time without anything to send is not time of the epoch. */
static void cubic_does_not_grow_while_idle(void **state)
{
	uint32_t before;

	(void)state;
	begin(&cc_cubic, 100000);
	lose(&cc_cubic, 100 * MSS, false);
	for (int i = 0; i < 20; i++)
		round_trip(&cc_cubic);
	before = s.cwnd;
	s.now_us += 60 * SECOND;
	round_trip(&cc_cubic);
	assert_in_range(s.cwnd, before, before + 2 * MSS);
}

static void marks_reduce_as_losses_do(void **state)
{
	(void)state;
	begin(&cc_cubic, 1000);
	s.cwnd = 100 * MSS;
	cc_cubic.mark(memory, &s, &w);
	assert_int_equal(w.cwnd, 70 * MSS);
	assert_int_equal(w.ssthresh, 70 * MSS);
	begin(&cc_reno, 1000);
	s.cwnd = 100 * MSS;
	cc_reno.mark(memory, &s, &w);
	assert_int_equal(w.cwnd, 50 * MSS);
	s.cwnd = 3 * MSS; /* RFC 5681 (4) */
	cc_reno.mark(memory, &s, &w);
	assert_int_equal(w.cwnd, 2 * MSS);
}

static void observe(uint32_t acked, uint32_t marked)
{
	s.acked = acked;
	s.marked = marked;
	cc_dctcp.observe(memory, &s);
}

static uint32_t dctcp_cut(void)
{
	s.cwnd = 1000 * MSS;
	cc_dctcp.mark(memory, &s, &w);
	return 1000 * MSS - w.cwnd;
}

/* RFC 8257 3.3 and 4.2: alpha from 1, g = 1/16, cwnd (1 - alpha / 2). */
static void dctcp_alpha(void **state)
{
	(void)state;
	begin(&cc_dctcp, 100);
	assert_int_equal(dctcp_cut(), 500 * MSS);
	observe(100000, 0);
	assert_near(dctcp_cut(), 1000u * MSS * 15 / 32, 1);
	observe(100000, 0);
	assert_near(dctcp_cut(), 1000u * MSS * 225 / 512, 1);
	for (int i = 0; i < 200; i++)
		observe(100000, 25000);
	assert_near(dctcp_cut(), 125u * MSS, 1); /* converges to the share of marks */
	for (int i = 0; i < 400; i++)
		observe(100000, 0);
	assert_int_equal(dctcp_cut(), 0);
	for (int i = 0; i < 200; i++)
		observe(100000, 200000); /* never more than all */
	assert_near(dctcp_cut(), 500u * MSS, 1);
	observe(0, 0);
	w = (struct flextoe_cc_window){0};
	cc_dctcp.loss(memory, &s, false, &w);
	assert_int_equal(w.ssthresh, 0); /* a loss is the data path's own half */
}

/* ---- events and answers ---- */

#define CONN 5u

static struct datapath *dp;
static struct control *ctl;
static struct conn *conn;

static int setup(void **state)
{
	struct control_config config;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	fake_clear(dp);
	ctl->conns[CONN].flags = CTLCONN_USED;
	ctl->conns_high = CONN + 1;
	conn = datapath_conn(dp, CONN);
	conn->tcp = (struct tcp_state){.phase = TCP_PHASE_ESTABLISHED,
		.flags = TCPF_ECN,
		.mss = MSS,
		.cwnd = 100 * MSS,
		.ssthresh = 50 * MSS,
		.srtt_us = 8 * 100000,
		.snd_una = 1000,
		.snd_max = 101000};
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

static const struct ctl_window *answer(uint32_t events)
{
	const struct fake_record *r;

	fake_event(dp, CONN, events);
	control_poll(ctl, fake_now, false);
	r = fake_take(dp);
	if (!r)
		return NULL;
	assert_int_equal(r->type, CTL_WINDOW);
	return (const struct ctl_window *)r->bytes;
}

static void acknowledge(uint32_t bytes)
{
	conn->tcp.snd_una += bytes;
	conn->host.bytes_acked += bytes;
}

static void cubic_is_the_default_and_options_choose(void **state)
{
	const struct ctl_window *a;

	(void)state;
	conn->tcp.flags |= TCPF_RECOVERY;
	a = answer(CONN_EVENT_LOSS); /* ssthresh is half of 100 segments */
	assert_non_null(a);
	assert_int_equal(a->ssthresh, 70 * MSS);
	assert_int_equal(a->cwnd, 0);
	assert_true(a->cwr);
	ctl->conns[CONN].options.congestion = FLEXTOE_CONGESTION_RENO;
	conn->tcp.flags = 0;
	assert_null(answer(CONN_EVENT_LOSS));
	assert_null(answer(CONN_EVENT_ROUND));
	ctl->conns[CONN].flags |= CTLCONN_DEAD;
	ctl->conns[CONN].options.congestion = 0;
	assert_null(answer(CONN_EVENT_LOSS));
}

/* A tail loss probe has found the loss and repaired it: no recovery will bring the window down. */
static void repaired_loss_reduces_at_once(void **state)
{
	(void)state;
	assert_int_equal(answer(CONN_EVENT_LOSS)->cwnd, 70 * MSS);
}

/* Rounds of 100 ms. */
static void rounds(unsigned n)
{
	const struct ctl_window *a;

	while (n--) {
		acknowledge(conn->tcp.cwnd);
		conn->tcp.snd_max = conn->tcp.snd_una + conn->tcp.cwnd;
		conn->tcp.cwnd += MSS;
		fake_now += 100000;
		a = answer(CONN_EVENT_ROUND);
		if (a && a->cwnd)
			conn->tcp.cwnd = a->cwnd;
	}
}

/* Loses when so many segments are in flight, and recovers. */
static void lose_and_recover(uint32_t segments)
{
	conn->tcp.flags |= TCPF_RECOVERY;
	conn->tcp.ssthresh = segments * MSS / 2u;
	conn->tcp.cwnd = answer(CONN_EVENT_LOSS)->ssthresh;
	conn->tcp.flags &= (uint16_t)~TCPF_RECOVERY;
}

/* RFC 9438 4.9: W_max is not that of the loss that was none. */
static void undone_loss_is_forgotten(void **state)
{
	const struct ctl_window *a;

	(void)state;
	lose_and_recover(100);
	conn->tcp.cwnd = 100 * MSS; /* the data path has undone it */
	conn->tcp.ssthresh = 1000 * MSS;
	a = answer(CONN_EVENT_UNDO);
	assert_int_equal(a->cwnd, 100 * MSS); /* whatever answered the loss on the way */
	assert_int_equal(a->ssthresh, 1000 * MSS);
	assert_null(answer(CONN_EVENT_LOSS | CONN_EVENT_UNDO)); /* told at once */
	lose_and_recover(80);					/* W_max 80, K 3.9 s; else 68 and 3.1 */
	rounds(35);
	assert_in_range(conn->tcp.cwnd, 78 * MSS, 82 * MSS);
}

static void real_loss_is_remembered(void **state)
{
	(void)state;
	lose_and_recover(100);
	lose_and_recover(80); /* fast convergence, as cubic_converges_fast */
	rounds(29);
	assert_in_range(conn->tcp.cwnd, 66 * MSS, 72 * MSS);
}

/* A timeout amid recovery is part of the same loss; what it undoes is all of it. */
static void timeout_in_recovery_reduces_no_more(void **state)
{
	(void)state;
	conn->tcp.flags = TCPF_RECOVERY;
	assert_int_equal(answer(CONN_EVENT_LOSS)->ssthresh, 70 * MSS);
	conn->tcp.flags = TCPF_RTO_RECOVERY;
	conn->tcp.ssthresh = 50 * MSS;
	assert_null(answer(CONN_EVENT_LOSS));
	conn->tcp.flags = 0;
	conn->tcp.ssthresh = 1000 * MSS;
	answer(CONN_EVENT_UNDO);
	lose_and_recover(80);
	rounds(35);
	assert_in_range(conn->tcp.cwnd, 78 * MSS, 82 * MSS);
}

static void marks_do_not_count_in_recovery(void **state)
{
	(void)state;
	conn->tcp.flags |= TCPF_RECOVERY;
	assert_null(answer(CONN_EVENT_MARK));
	conn->tcp.flags = TCPF_ECN | TCPF_RTO_RECOVERY;
	assert_null(answer(CONN_EVENT_MARK));
	conn->tcp.flags = TCPF_ECN;
	assert_non_null(answer(CONN_EVENT_MARK));
}

/* Sequence numbers come round in between: 3 GiB after a mark the next one counts. */
static void marks_count_after_gigabytes(void **state)
{
	(void)state;
	assert_non_null(answer(CONN_EVENT_MARK));
	for (int i = 0; i < 3; i++)
		acknowledge(1u << 30);
	conn->tcp.snd_max = conn->tcp.snd_una + 100000;
	assert_non_null(answer(CONN_EVENT_MARK));
}

static void marks_count_once_a_window(void **state)
{
	(void)state;
	assert_int_equal(answer(CONN_EVENT_MARK)->cwnd, 70 * MSS);
	conn->tcp.cwnd = 70 * MSS;
	acknowledge(49000);
	assert_null(answer(CONN_EVENT_MARK));
	acknowledge(50999);
	assert_null(answer(CONN_EVENT_MARK));
	acknowledge(1);
	conn->tcp.snd_max = 180000;
	assert_int_equal(answer(CONN_EVENT_MARK)->cwnd, 49 * MSS);
	assert_int_equal(control_counters(ctl)[CNT_ecn_reductions], 2);
	answer(CONN_EVENT_LOSS);
	acknowledge(69000); /* the loss was answered: its window's marks are not another reason */
	assert_null(answer(CONN_EVENT_MARK));
}

static void dctcp_observes_a_window_at_a_time(void **state)
{
	uint32_t cut;

	(void)state;
	ctl->conns[CONN].options.congestion = FLEXTOE_CONGESTION_DCTCP;
	conn->tcp.snd_una = 2000;
	conn->host.bytes_acked = 1000;
	answer(CONN_EVENT_ROUND);	/* begins */
	for (int i = 0; i < 100; i++) { /* a tenth of each window is marked */
		conn->host.bytes_acked += 100000;
		fake_marked(dp, CONN, 10000);
		conn->tcp.snd_una = conn->tcp.snd_max;
		conn->tcp.snd_max += 100000;
		answer(CONN_EVENT_ROUND);
	}
	conn->tcp.cwnd = 100 * MSS;
	cut = 100 * MSS - answer(CONN_EVENT_MARK)->cwnd;
	assert_in_range(cut, 4900, 5300);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cubic_concave_and_convex),
		cmocka_unit_test(cubic_is_no_less_than_reno),
		cmocka_unit_test(cubic_converges_fast),
		cmocka_unit_test(cubic_target_is_bounded),
		cmocka_unit_test(cubic_after_a_timeout),
		cmocka_unit_test(cubic_does_not_grow_while_idle),
		cmocka_unit_test(marks_reduce_as_losses_do),
		cmocka_unit_test(dctcp_alpha),
		CASE(cubic_is_the_default_and_options_choose),
		CASE(repaired_loss_reduces_at_once),
		CASE(undone_loss_is_forgotten),
		CASE(real_loss_is_remembered),
		CASE(timeout_in_recovery_reduces_no_more),
		CASE(marks_do_not_count_in_recovery),
		CASE(marks_count_after_gigabytes),
		CASE(marks_count_once_a_window),
		CASE(dctcp_observes_a_window_at_a_time),
	};

	return cmocka_run_group_tests_name("congestion", tests, NULL, NULL);
}
