/* SPDX-License-Identifier: BSD-3-Clause */
/* Keepalive probes, corking and the hints of applications, on the TCP state alone. Ours is S(n), virtual
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/seq.h"
#include "datapath/protocol.h"
#include "flextoe/abi.h"

#define IRS  5000u
#define ISS  0xffffff00u
#define S(n) (ISS + 1u + (uint32_t)(n))
#define MSS  1000u
#define MS   1000u

static struct tcp_state t;
static struct ooo_pool pool;
static uint32_t now;

static int setup(void **state)
{
	(void)state;
	ooo_pool_init(&pool, 2);
	now = 0xfffff000u;
	t = (struct tcp_state){.rcv_nxt = IRS + 1,
		.rcv_adv = IRS + 60000,
		.rx_base = IRS + 1,
		.rx_tail = IRS + 1,
		.rcv_acked = IRS + 1,
		.snd_una = S(0),
		.snd_nxt = S(0),
		.snd_max = S(0),
		.tx_base = S(0),
		.tx_end = S(0),
		.snd_wnd = 60000,
		.max_snd_wnd = 60000,
		.snd_wl1 = IRS,
		.snd_wl2 = S(0),
		.cwnd = 10 * MSS,
		.ssthresh = UINT32_MAX / 2,
		.recover = ISS,
		.rto_us = RTO_INITIAL_US,
		.mss = MSS,
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
	ooo_pool_free(&pool);
	return 0;
}

static void in(uint32_t ack, uint32_t len, uint16_t wnd)
{
	struct segment s = {.seq = t.rcv_nxt, .ack = ack, .len = len, .wnd = wnd, .flags = TCP_ACK_};
	struct verdict v;

	protocol_rx(&t, &pool, &s, now, &v);
}

static void app(uint32_t end, uint32_t flags)
{
	bool send = false;

	assert_int_equal(protocol_host(&t, S(end), t.rx_tail, flags, &send), 0);
}

static void out(uint32_t seq, uint32_t len)
{
	struct tx_plan p;

	assert_true(protocol_tx(&t, &pool, MSS, now, &p));
	assert_int_equal(p.seq, seq);
	assert_int_equal(p.len, len);
}

static void out_nothing(void)
{
	struct tx_plan p;

	assert_false(protocol_tx(&t, &pool, MSS, now, &p));
}

static bool timeout_after(uint32_t us)
{
	bool send = false;

	now += us;
	protocol_timeout(&t, &pool, now, &send);
	return send;
}

static void probe_has_the_number_before(void **state)
{
	struct tx_plan p;

	(void)state;
	app(10, 0);
	assert_false(protocol_keepalive(&t, &p)); /* about to send */
	out(S(0), 10);
	assert_false(protocol_keepalive(&t, &p)); /* waits for an ACK */
	in(S(10), 0, 60000);
	assert_true(protocol_keepalive(&t, &p));
	assert_int_equal(p.seq, S(9));
	assert_int_equal(p.len, 0);
	assert_int_equal(p.ack, t.rcv_nxt);
	assert_int_equal(p.flags, TCP_ACK_);
	assert_int_equal(t.probes, 1);
	assert_true(protocol_keepalive(&t, &p));
	assert_int_equal(t.probes, 2);
	in(S(10), 0, 60000); /* the answer */
	assert_int_equal(t.probes, 0);
	out_nothing();
	t.phase = TCP_PHASE_CLOSED;
	assert_false(protocol_keepalive(&t, &p));
}

static void more_holds_a_part_back(void **state)
{
	(void)state;
	app(300, FLEXTOE_HC_MORE);
	out_nothing();
	app(1500, FLEXTOE_HC_MORE);
	out(S(0), MSS); /* full ones go */
	out_nothing();
	in(S(1000), 0, 60000);
	out_nothing(); /* an ACK changes nothing */
	app(1600, FLEXTOE_HC_PUSH);
	out(S(1000), 600);
	app(1700, 0); /* and it is over */
	out(S(1600), 100);
}

static void no_longer_than_200_ms(void **state)
{
	(void)state;
	app(300, FLEXTOE_HC_MORE);
	out_nothing();
	assert_true(t.flags & TCPF_RTO_ARMED); /* somebody watches */
	assert_false(timeout_after(150 * MS));
	app(400, FLEXTOE_HC_MORE); /* more does not put it off */
	out_nothing();
	assert_false(timeout_after(49 * MS));
	assert_true(timeout_after(1 * MS));
	out(S(0), 400);
	assert_int_equal(t.probes, 0);
	assert_int_equal(t.backoff, 0);
	app(500, FLEXTOE_HC_MORE); /* still corked */
	out_nothing();
}

static void the_end_of_the_stream_uncorks(void **state)
{
	struct tx_plan p;

	(void)state;
	app(300, FLEXTOE_HC_MORE);
	out_nothing();
	app(300, FLEXTOE_HC_FIN);
	assert_true(protocol_tx(&t, &pool, MSS, now, &p));
	assert_int_equal(p.len, 300);
	assert_true(p.flags & TCP_FIN_);
}

/* A closed window is probed, corked or not. */
static void a_closed_window_is_not_the_cork(void **state)
{
	(void)state;
	in(S(0), 0, 0);
	app(300, FLEXTOE_HC_MORE);
	out_nothing();
	assert_true(timeout_after(RTO_INITIAL_US));
	assert_true(t.due & DUE_PROBE);
	assert_true(t.flags & TCPF_CORK);
}

static void quickack_and_its_end(void **state)
{
	(void)state;
	t.quick_acks = 0;
	in(S(0), 100, 60000);
	assert_false(t.due & DUE_ACK);
	app(0, FLEXTOE_HC_QUICKACK);
	assert_true(t.due & DUE_ACK); /* what was owed */
	t.due = 0;
	in(S(0), 100, 60000);
	assert_true(t.due & DUE_ACK);
	t.due = 0;
	app(0, FLEXTOE_HC_SLOWACK);
	t.rcv_acked = t.rcv_nxt;
	in(S(0), 100, 60000);
	assert_false(t.due & DUE_ACK);
}

/* What was too large for the path is sent again in smaller pieces, with the same window. */
static void smaller_segments_for_the_path(void **state)
{
	bool send = false;
	uint32_t cwnd;

	(void)state;
	app(3000, 0);
	for (int i = 0; i < 3; i++)
		out(S(i * MSS), MSS);
	cwnd = t.cwnd;
	protocol_mss(&t, &pool, MSS + 1, &send); /* never larger */
	assert_false(send);
	protocol_mss(&t, &pool, 400, &send);
	assert_true(send);
	for (int i = 0; i < 7; i++) {
		struct tx_plan p;

		assert_true(protocol_tx(&t, &pool, 400, now, &p));
		assert_int_equal(p.seq, S(i * 400));
		assert_int_equal(p.len, 400);
		assert_true(p.retransmission);
	}
	out(S(2800), 200);
	assert_int_equal(t.cwnd, cwnd);
	assert_true(t.ssthresh > cwnd);
	for (int i = 0; i < 4; i++) /* our own doing, not a loss */
		in(S(0), 0, 60000);
	assert_false(t.flags & TCPF_RECOVERY);
	assert_true(t.cwnd >= cwnd);
	in(S(3000), 0, 60000);
	assert_false(t.flags & TCPF_RTO_RECOVERY);
}

/* One telling a window of bytes above ssthresh, one a loss or timeout; none in slow start or with the window
   unused. */
static void rounds_and_losses_are_told(void **state)
{
	(void)state;
	t.ssthresh = 5 * MSS;
	app(40000, 0);
	for (int i = 0; i < 10; i++)
		out(S(i * MSS), MSS);
	for (int i = 1; i <= 9; i++) {
		in(S(i * MSS), 0, 60000);
		out(S((9 + i) * MSS), MSS);
		assert_int_equal(t.due & (DUE_ROUND | DUE_LOSS), 0);
	}
	in(S(10 * MSS), 0, 60000);
	assert_int_equal(t.due & (DUE_ROUND | DUE_LOSS), DUE_ROUND);
	t.due = 0;
	for (int i = 0; i < 3; i++)
		in(S(10 * MSS), 0, 60000);
	assert_int_equal(t.due & (DUE_ROUND | DUE_LOSS), DUE_LOSS);
	t.due = 0;
	protocol_window(&t, 50 * MSS, 7 * MSS); /* in recovery ssthresh alone */
	assert_int_equal(t.ssthresh, 7 * MSS);
	assert_int_not_equal(t.cwnd, 50 * MSS);
	timeout_after(RTO_INITIAL_US + 1);
	assert_int_equal(t.due & (DUE_ROUND | DUE_LOSS), DUE_LOSS);
	t.due = 0;
	timeout_after(2 * RTO_INITIAL_US + 1); /* RFC 5681 3.1: once for a loss */
	assert_int_equal(t.due & DUE_LOSS, 0);
	t.flags = 0;
	protocol_window(&t, 8 * MSS, 1);
	assert_int_equal(t.cwnd, 8 * MSS);
	assert_int_equal(t.ssthresh, 2 * MSS);
	protocol_window(&t, 1, 0);
	assert_int_equal(t.cwnd, MSS);
	protocol_window(&t, UINT32_MAX, 0); /* no more than the buffer can use */
	assert_int_equal(t.cwnd, 2u << 16);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(probe_has_the_number_before),
		CASE(more_holds_a_part_back),
		CASE(no_longer_than_200_ms),
		CASE(the_end_of_the_stream_uncorks),
		CASE(a_closed_window_is_not_the_cork),
		CASE(quickack_and_its_end),
		CASE(smaller_segments_for_the_path),
		CASE(rounds_and_losses_are_told),
	};

	return cmocka_run_group_tests_name("protocol_control", tests, NULL, NULL);
}
