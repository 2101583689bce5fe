/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * protocol.c as a dialogue of segments: in() gives the state a segment from the peer, out() takes the next
 * one it wants to send and checks it. Sequence numbers are relative: the peer's first byte is R(0), ours
 * S(0). Virtual time in `now`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "core/seq.h"
#include "datapath/protocol.h"
#include "flextoe/abi.h"

#define IRS  0xfffffff0u /* both streams wrap early on */
#define ISS  0xfffffe00u
#define R(n) (IRS + 1u + (uint32_t)(n))
#define S(n) (ISS + 1u + (uint32_t)(n))
#define MSS  1000u
#define WND  60000u

static struct tcp_state t;
static struct ooo_pool pool;
static struct verdict v;
static uint32_t now;

static int setup(void **state)
{
	(void)state;
	ooo_pool_init(&pool, 2);
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

static void in_wnd(uint32_t seq, unsigned flags, uint32_t ack, uint32_t len, uint16_t wnd)
{
	struct segment s = {.seq = seq, .ack = ack, .len = len, .wnd = wnd, .flags = (uint8_t)flags};

	protocol_rx(&t, &pool, &s, now, &v);
}

static void in(uint32_t seq, unsigned flags, uint32_t ack, uint32_t len)
{
	in_wnd(seq, flags, ack, len, WND);
}

/* The next data segment. */
static void out(uint32_t seq, uint32_t len, unsigned flags)
{
	struct tx_plan p;

	assert_true(protocol_tx(&t, &pool, MSS, now, &p));
	assert_int_equal(p.seq, seq);
	assert_int_equal(p.len, len);
	assert_int_equal(p.flags, flags);
	assert_int_equal(p.ack, t.rcv_nxt);
}

static void out_nothing(void)
{
	struct tx_plan p;

	assert_false(protocol_tx(&t, &pool, MSS, now, &p));
}

static void out_ack(uint32_t ack)
{
	struct tx_plan p;

	assert_true(t.due & DUE_ACK);
	protocol_ack(&t, &p);
	assert_int_equal(p.flags, TCP_ACK_);
	assert_int_equal(p.ack, ack);
	assert_int_equal(p.seq, t.snd_max);
	assert_false(t.due & DUE_ACK);
}

static void out_rst(uint32_t seq)
{
	struct tx_plan p;

	assert_true(t.due & DUE_RST);
	protocol_ack(&t, &p);
	assert_int_equal(p.flags, TCP_RST_ | TCP_ACK_);
	assert_int_equal(p.seq, seq);
}

static void placed(uint32_t seq, uint32_t skip, uint32_t len)
{
	assert_int_equal(v.place_len, len);
	if (!len)
		return;
	assert_int_equal(v.place_seq, seq);
	assert_int_equal(v.place_skip, skip);
}

/* The application writes up to S(end), has read up to R(tail), sets flags. */
static int app(uint32_t end, uint32_t tail, uint32_t flags)
{
	bool send = false;

	return protocol_host(&t, S(end), R(tail), flags, &send);
}

static enum counter timeout_at(uint32_t at)
{
	bool send = false;

	now = at;
	return protocol_timeout(&t, &pool, now, &send);
}

#define DATA (TCP_ACK_ | TCP_PSH_)

static void in_order_data_is_placed_and_acked(void **state)
{
	(void)state;
	in(R(0), DATA, S(0), 100);
	placed(R(0), 0, 100);
	assert_int_equal(v.delivered, 100);
	assert_false(t.due & DUE_ACK); /* delayed */
	assert_true(t.flags & TCPF_ACK_DELAYED);
	timeout_at(now + ACK_DELAY_US - 1);
	assert_false(t.due & DUE_ACK);
	timeout_at(now + 1);
	out_ack(R(100));
}

static void every_second_full_segment_is_acked_at_once(void **state)
{
	(void)state;
	in(R(0), TCP_ACK_, S(0), MSS);
	assert_false(t.due & DUE_ACK);
	in(R(MSS), TCP_ACK_, S(0), MSS);
	out_ack(R(2 * MSS));
}

static void reply_carries_the_ack(void **state)
{
	(void)state;
	in(R(0), DATA, S(0), 64);
	assert_int_equal(app(64, 64, 0), 0);
	out(S(0), 64, DATA);
	assert_false(t.flags & TCPF_ACK_DELAYED);
	assert_false(t.due & DUE_ACK);
	in(R(64), TCP_ACK_, S(64), 0);
	assert_int_equal(v.acked, 64);
	assert_false(t.flags & TCPF_RTO_ARMED);
}

static void overlap_is_cut_off(void **state)
{
	(void)state;
	in(R(0), TCP_ACK_, S(0), 100);
	in(R(50), TCP_ACK_, S(0), 100);
	placed(R(100), 50, 50);
	in(R(20), TCP_ACK_, S(0), 30); /* nothing new */
	placed(0, 0, 0);
	assert_int_equal(v.counter, CNT_rx_duplicate);
	out_ack(R(150));
}

static void holes_are_filled_in_any_order(void **state)
{
	static const uint8_t order[] = {8, 2, 4, 6, 1, 5, 3, 7}; /* of nine segments, 0 last */

	(void)state;
	for (unsigned i = 0; i < sizeof(order); i++) {
		in(R(order[i] * 100u), TCP_ACK_, S(0), 100);
		placed(R(order[i] * 100u), 0, 100);
		assert_int_equal(v.delivered, 0);
		out_ack(R(0));
	}
	in(R(0), TCP_ACK_, S(0), 100);
	assert_int_equal(v.delivered, 900);
	out_ack(R(900));
	assert_int_equal(t.ooo, CONN_NONE);
	assert_int_equal(pool.used, 0);
}

static void more_holes_than_intervals_loses_the_segment(void **state)
{
	(void)state;
	for (unsigned i = 0; i < OOO_INTERVALS; i++)
		in(R(100 + 200 * i), TCP_ACK_, S(0), 100);
	in(R(100 + 200 * OOO_INTERVALS), TCP_ACK_, S(0), 100);
	placed(0, 0, 0);
	assert_int_equal(v.counter, CNT_drop_ooo_full);
	in(R(0), TCP_ACK_, S(0), 100);
	assert_int_equal(t.rcv_nxt, R(200));
}

static void fin_ahead_of_a_hole_waits(void **state)
{
	(void)state;
	in(R(100), TCP_ACK_ | TCP_FIN_, S(0), 100);
	out_ack(R(0));
	assert_int_equal(t.phase, TCP_PHASE_ESTABLISHED);
	in(R(0), TCP_ACK_, S(0), 100);
	assert_int_equal(v.delivered, 200);
	out_ack(R(201));
	assert_int_equal(t.phase, TCP_PHASE_CLOSE_WAIT);
	assert_int_equal(rx_data_end(&t), R(200));
}

static void window_is_never_violated(void **state)
{
	(void)state;
	in(R(65530), TCP_ACK_, S(0), 100); /* half in, half out */
	placed(R(65530), 0, 5);
	in(R(65535), TCP_ACK_, S(0), 1);
	placed(0, 0, 0);
	assert_int_equal(v.counter, CNT_drop_out_of_window);
}

static void closed_window_answers_probes_and_opens(void **state)
{
	struct tx_plan p;

	(void)state;
	for (unsigned i = 0; i < 65; i++)
		in(R(i * MSS), TCP_ACK_, S(0), MSS);
	in(R(65000), TCP_ACK_, S(0), 535);
	protocol_ack(&t, &p);
	assert_int_equal(p.wnd, 0); /* a step of one byte is too small: RFC 9293 3.8.6.2.2 */
	in(R(65535), TCP_ACK_, S(0), 1);
	out_ack(t.rcv_nxt);
	assert_int_equal(app(0, 40000, 0), 0);
	assert_true(t.due & DUE_ACK); /* a window update worth sending */
	protocol_ack(&t, &p);
	assert_true(p.wnd >= 39000);
}

static void zero_window_is_probed_for_ever_while_answered(void **state)
{
	struct tx_plan p;

	(void)state;
	in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
	assert_int_equal(app(5000, 0, 0), 0);
	out_nothing();
	assert_true(t.flags & TCPF_PERSIST);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(timeout_at(t.rto_deadline_us), CNT_window_probes);
		assert_true(protocol_tx(&t, &pool, MSS, now, &p));
		assert_int_equal(p.seq, S(0));
		assert_int_equal(p.len, 1);
		out_nothing();
		in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
		assert_int_equal(t.phase, TCP_PHASE_ESTABLISHED);
	}
	in_wnd(R(0), TCP_ACK_, S(0), 0, 3000); /* opens without taking the probe's byte */
	out(S(0), MSS, TCP_ACK_);
	out(S(MSS), MSS, TCP_ACK_);
	out(S(2 * MSS), MSS, TCP_ACK_);
	out_nothing();
}

static void probe_that_was_due_when_the_last_one_was_taken_has_a_timer(void **state)
{
	(void)state;
	in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
	app(5000, 0, 0);
	out_nothing();
	timeout_at(t.rto_deadline_us);
	out(S(0), 1, TCP_ACK_);
	timeout_at(t.rto_deadline_us);
	in_wnd(R(0), TCP_ACK_, S(1), 0, 0); /* before the second probe has left */
	out_nothing();
	assert_true(t.flags & TCPF_RTO_ARMED);
	assert_int_equal(timeout_at(t.rto_deadline_us), CNT_window_probes);
	out(S(1), 1, TCP_ACK_);
}

static void small_window_gets_what_fits_in_time(void **state)
{
	(void)state;
	in_wnd(R(0), TCP_ACK_, S(0), 0, 300);
	assert_int_equal(app(5000, 0, 0), 0);
	out_nothing(); /* a silly window (RFC 9293 3.8.6.2.1): wait for more */
	assert_true(t.flags & TCPF_PERSIST);
	timeout_at(t.rto_deadline_us);
	out(S(0), 300, TCP_ACK_); /* but not for ever */
	in_wnd(R(0), TCP_ACK_, S(300), 0, 300);
	out_nothing();
	timeout_at(t.rto_deadline_us);
	out(S(300), 300, TCP_ACK_);
	in_wnd(R(0), TCP_ACK_, S(600), 0, 5000);
	out(S(600), MSS, TCP_ACK_);
}

static void zero_window_unanswered_gives_up(void **state)
{
	struct tx_plan p;
	unsigned n = 0;

	(void)state;
	in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
	app(5000, 0, 0);
	out_nothing();
	while (t.phase != TCP_PHASE_CLOSED && n++ < 100) {
		timeout_at(t.rto_deadline_us);
		protocol_tx(&t, &pool, MSS, now, &p);
	}
	assert_int_equal(t.error, ETIMEDOUT);
	assert_int_equal(n, PROTOCOL_RETRIES_MAX + 1);
}

static void fin_waits_for_the_window_too(void **state)
{
	(void)state;
	in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
	app(0, 0, FLEXTOE_HC_FIN);
	out_nothing();
	timeout_at(t.rto_deadline_us);
	out(S(0), 0, TCP_ACK_ | TCP_FIN_); /* the probe is the FIN */
	in(R(0), TCP_ACK_, S(1), 0);
	assert_int_equal(t.phase, TCP_PHASE_FIN_WAIT_2);
}

static void old_window_update_is_ignored(void **state)
{
	(void)state;
	in_wnd(R(0), TCP_ACK_, S(0), 10, 4000);
	in_wnd(R(10), TCP_ACK_, S(0), 10, 5000);
	assert_int_equal(t.snd_wnd, 5000);
	in_wnd(R(0), TCP_ACK_, S(0), 0, 100); /* older: begins before */
	assert_int_equal(t.snd_wnd, 5000);
}

static void shrunken_window_sends_nothing(void **state)
{
	(void)state;
	app(8000, 0, 0);
	for (unsigned i = 0; i < 8; i++)
		out(S(i * MSS), MSS, i == 7 ? DATA : TCP_ACK_);
	in_wnd(R(0), TCP_ACK_, S(1000), 0, 2000); /* far left of snd_nxt */
	app(12000, 0, 0);
	out_nothing();
}

/* The peer dropped what was in flight and shut its window; its update gets lost too. */
static void window_shut_on_bytes_in_flight_is_not_waited_for(void **state)
{
	(void)state;
	app(8000, 0, 0);
	for (unsigned i = 0; i < 8; i++)
		out(S(i * MSS), MSS, i == 7 ? DATA : TCP_ACK_);
	in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
	out_nothing();
	for (unsigned i = 0; i < 40; i++) { /* for as long as the peer answers */
		assert_int_equal(timeout_at(t.rto_deadline_us), CNT_retransmit_timeout);
		out(S(0), MSS, TCP_ACK_);
		out_nothing();
		in_wnd(R(0), TCP_ACK_, S(0), 0, 0);
	}
	in_wnd(R(0), TCP_ACK_, S(0), 0, MSS / 2); /* less than a segment: no window for new ones */
	assert_int_equal(timeout_at(t.rto_deadline_us), CNT_retransmit_timeout);
	out(S(0), MSS, TCP_ACK_);
	in(R(0), TCP_ACK_, S(MSS), 0);
	out(S(MSS), MSS, TCP_ACK_);
}

static void three_duplicates_retransmit_once(void **state)
{
	(void)state;
	app(10000, 0, 0);
	for (unsigned i = 0; i < 10; i++)
		out(S(i * MSS), MSS, i == 9 ? DATA : TCP_ACK_);
	in(R(0), TCP_ACK_, S(0), 0);
	in(R(0), TCP_ACK_, S(0), 0);
	out_nothing();
	in(R(0), TCP_ACK_, S(0), 0);
	out(S(0), MSS, TCP_ACK_);
	out_nothing();
	in(R(0), TCP_ACK_, S(3000), 0); /* partial: the next hole */
	out(S(3000), MSS, TCP_ACK_);
	in(R(0), TCP_ACK_, S(10000), 0);
	assert_false(t.flags & TCPF_RECOVERY);
	assert_true(t.cwnd <= t.ssthresh);
	assert_int_equal(t.ssthresh, 5000);
}

static void not_every_ack_is_a_duplicate(void **state)
{
	(void)state;
	in(R(0), TCP_ACK_, S(0), 0); /* nothing outstanding */
	assert_int_equal(t.dupacks, 0);
	app(1000, 0, 0);
	out(S(0), 1000, DATA);
	in_wnd(R(0), TCP_ACK_, S(0), 0, 50000); /* a window update */
	assert_int_equal(t.dupacks, 0);
	in(R(0), TCP_ACK_, S(0), 10); /* carries data */
	assert_int_equal(t.dupacks, 0);
}

static void timeout_doubles_and_gives_up(void **state)
{
	uint32_t last = 0;
	unsigned n = 0;

	(void)state;
	app(3000, 0, 0);
	out(S(0), MSS, TCP_ACK_);
	out(S(1000), MSS, TCP_ACK_);
	out(S(2000), MSS, DATA);
	while (t.phase != TCP_PHASE_CLOSED && n++ < 100) {
		uint32_t wait = t.rto_deadline_us - now;

		if (n > 1)
			assert_int_equal(wait, min_u32(last * 2, RTO_MAX_US));
		last = wait;
		timeout_at(t.rto_deadline_us);
		if (t.phase != TCP_PHASE_CLOSED) {
			out(S(0), MSS, TCP_ACK_);
			out_nothing(); /* cwnd is one segment */
		}
	}
	assert_int_equal(n, PROTOCOL_RETRIES_MAX + 1);
	assert_int_equal(t.error, ETIMEDOUT);
	out_rst(S(3000));
}

static void timeout_then_ack_of_all_goes_on(void **state)
{
	(void)state;
	app(4000, 0, 0);
	for (unsigned i = 0; i < 4; i++)
		out(S(i * MSS), MSS, i == 3 ? DATA : TCP_ACK_);
	assert_int_equal(timeout_at(t.rto_deadline_us), CNT_retransmit_timeout);
	out(S(0), MSS, TCP_ACK_);
	in(R(0), TCP_ACK_, S(4000), 0); /* only the first was lost */
	assert_int_equal(t.snd_nxt, S(4000));
	assert_int_equal(t.backoff, 0);
	app(5000, 0, 0);
	out(S(4000), MSS, DATA);
}

static void karn_retransmitted_bytes_are_not_timed(void **state)
{
	(void)state;
	app(1000, 0, 0);
	out(S(0), MSS, DATA);
	timeout_at(t.rto_deadline_us);
	out(S(0), MSS, DATA);
	now += 50;
	in(R(0), TCP_ACK_, S(1000), 0);
	assert_int_equal(t.srtt_us, 0);
	app(2000, 0, 0);
	out(S(1000), MSS, DATA);
	now += 800;
	in(R(0), TCP_ACK_, S(2000), 0);
	assert_int_equal(t.srtt_us / 8, 800);
	assert_int_equal(t.rto_us, RTO_MIN_US);
}

static void nagle_holds_back_only_while_in_flight(void **state)
{
	(void)state;
	app(100, 0, FLEXTOE_HC_NAGLE);
	out(S(0), 100, DATA);
	app(200, 0, 0);
	out_nothing();
	in(R(0), TCP_ACK_, S(100), 0);
	out(S(100), 100, DATA);
	app(300, 0, FLEXTOE_HC_NODELAY);
	out(S(200), 100, DATA);
}

static void active_close_in_every_order(void **state)
{
	(void)state;
	/* FIN, ACK of it, peer's FIN */
	app(100, 0, FLEXTOE_HC_FIN);
	out(S(0), 100, DATA | TCP_FIN_);
	assert_int_equal(t.phase, TCP_PHASE_FIN_WAIT_1);
	in(R(0), TCP_ACK_, S(101), 0);
	assert_int_equal(v.acked, 100);
	assert_int_equal(t.phase, TCP_PHASE_FIN_WAIT_2);
	in(R(0), TCP_ACK_ | TCP_FIN_, S(101), 50);
	out_ack(R(51));
	assert_int_equal(t.phase, TCP_PHASE_TIME_WAIT);
	/* FIN and its ACK in one */
	setup(state);
	app(0, 0, FLEXTOE_HC_FIN);
	out(S(0), 0, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	in(R(0), TCP_ACK_ | TCP_FIN_, S(1), 0);
	assert_int_equal(t.phase, TCP_PHASE_TIME_WAIT);
	/* simultaneous */
	setup(state);
	app(0, 0, FLEXTOE_HC_FIN);
	out(S(0), 0, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	in(R(0), TCP_ACK_ | TCP_FIN_, S(0), 0);
	assert_int_equal(t.phase, TCP_PHASE_CLOSING);
	out_ack(R(1));
	in(R(1), TCP_ACK_, S(1), 0);
	assert_int_equal(t.phase, TCP_PHASE_TIME_WAIT);
}

static void passive_close(void **state)
{
	(void)state;
	in(R(0), TCP_ACK_ | TCP_FIN_, S(0), 10);
	assert_int_equal(t.phase, TCP_PHASE_CLOSE_WAIT);
	out_ack(R(11));
	app(500, 10, 0); /* half-closed: we may still send */
	out(S(0), 500, DATA);
	app(500, 10, FLEXTOE_HC_FIN);
	out(S(500), 0, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	assert_int_equal(t.phase, TCP_PHASE_LAST_ACK);
	in(R(11), TCP_ACK_, S(501), 0);
	assert_int_equal(t.phase, TCP_PHASE_CLOSED);
	assert_int_equal(t.error, 0);
}

static void lost_fin_is_sent_again(void **state)
{
	(void)state;
	app(100, 0, FLEXTOE_HC_FIN);
	out(S(0), 100, DATA | TCP_FIN_);
	timeout_at(t.rto_deadline_us);
	out(S(0), 100, DATA | TCP_FIN_);
	in(R(0), TCP_ACK_, S(100), 0); /* the data alone */
	timeout_at(t.rto_deadline_us);
	out(S(100), 0, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	in(R(0), TCP_ACK_, S(101), 0);
	assert_int_equal(t.phase, TCP_PHASE_FIN_WAIT_2);
}

static void rst_must_be_exact(void **state)
{
	(void)state;
	in(R(70000), TCP_RST_, 0, 0);
	assert_int_equal(v.counter, CNT_drop_rst_out_of_window);
	assert_false(t.due);
	in(R(10), TCP_RST_, 0, 0);
	assert_int_equal(v.counter, CNT_challenge_acks);
	out_ack(R(0));
	in(R(11), TCP_RST_, 0, 0); /* rate-limited */
	assert_false(t.due);
	assert_int_equal(t.phase, TCP_PHASE_ESTABLISHED);
	in(R(0), TCP_RST_, 0, 0);
	assert_int_equal(t.phase, TCP_PHASE_CLOSED);
	assert_int_equal(t.error, ECONNRESET);
}

static void syn_is_challenged(void **state)
{
	(void)state;
	in(R(0), TCP_SYN_, 0, 0);
	assert_int_equal(v.counter, CNT_challenge_acks);
	out_ack(R(0));
	assert_int_equal(t.phase, TCP_PHASE_ESTABLISHED);
}

static void ack_of_the_unsent_is_refused(void **state)
{
	(void)state;
	in(R(0), TCP_ACK_, S(1), 100);
	assert_int_equal(v.counter, CNT_drop_ack_invalid);
	placed(0, 0, 0);
	assert_int_equal(t.rcv_nxt, R(0));
	in(R(0), TCP_ACK_, S(0) - WND - 1, 100);
	assert_int_equal(v.counter, CNT_drop_ack_invalid);
}

static void pure_acks_never_chase_each_other(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5; i++) { /* ahead in the window: holes in both directions */
		in(R(5000), TCP_ACK_, S(0), 0);
		assert_false(t.due & DUE_ACK);
	}
	in(R(70000), TCP_ACK_, S(0), 0); /* beyond it: answered, but not each */
	assert_true(t.due & DUE_ACK);
	t.due = 0;
	in(R(70000), TCP_ACK_, S(0), 0);
	assert_false(t.due & DUE_ACK);
}

static void keepalive_is_answered(void **state)
{
	(void)state;
	in(R(-1), TCP_ACK_, S(0), 0);
	out_ack(R(0));
	in(R(-1), TCP_ACK_, S(0), 1);
	out_ack(R(0));
	placed(0, 0, 0);
}

static void paws_drops_the_old(void **state)
{
	struct segment s = {.seq = R(0),
		.ack = S(0),
		.len = 10,
		.wnd = 1000,
		.flags = TCP_ACK_,
		.has_ts = 1,
		.tsval = 99};

	(void)state;
	t.flags |= TCPF_TIMESTAMPS;
	t.ts_recent = 100;
	t.ts_recent_us = now;
	protocol_rx(&t, &pool, &s, now, &v);
	assert_int_equal(v.counter, CNT_drop_paws);
	assert_true(t.due & DUE_ACK);
	s.tsval = 101;
	protocol_rx(&t, &pool, &s, now, &v);
	assert_int_equal(v.delivered, 10);
	assert_int_equal(t.ts_recent, 101);
	s.has_ts = 0;
	protocol_rx(&t, &pool, &s, now, &v);
	assert_int_equal(v.counter, CNT_drop_no_timestamp);
}

static void data_after_close_is_reset(void **state)
{
	(void)state;
	app(0, 0, FLEXTOE_HC_CLOSE);
	out(S(0), 0, TCP_ACK_ | TCP_PSH_ | TCP_FIN_);
	in(R(0), DATA, S(1), 10);
	placed(0, 0, 0);
	assert_int_equal(t.phase, TCP_PHASE_CLOSED);
	out_rst(S(1));
}

static void close_with_unread_bytes_resets(void **state)
{
	(void)state;
	in(R(0), DATA, S(0), 10);
	app(0, 5, FLEXTOE_HC_CLOSE);
	assert_int_equal(t.phase, TCP_PHASE_CLOSED);
	out_rst(S(0));
}

static void application_cannot_leave_its_buffers(void **state)
{
	(void)state;
	assert_int_equal(app(65537, 0, 0), -EINVAL);
	assert_int_equal(app(0, 1, 0), -EINVAL); /* nothing came */
	assert_int_equal(app(65536, 0, 0), 0);
	assert_int_equal(app(10, 0, 0), 0); /* late: no harm */
	assert_int_equal(t.tx_end, S(65536));
	assert_int_equal(app(65536, 0, FLEXTOE_HC_FIN), 0);
	out(S(0), MSS, TCP_ACK_);
	in(R(0), TCP_ACK_, S(1000), 0);
	assert_int_equal(app(66000, 0, 0), -EINVAL); /* bytes behind the FIN */
}

static void slow_start_then_congestion_avoidance(void **state)
{
	struct tx_plan p;

	(void)state;
	t.ssthresh = 20 * MSS;
	app(65000, 0, 0);
	for (unsigned acks = 0; acks < 31; acks++) { /* 10 to reach 20 segments, then 20 a segment */
		while (protocol_tx(&t, &pool, MSS, now, &p))
			;
		in(R(0), TCP_ACK_, t.snd_una + MSS, 0);
	}
	assert_int_equal(t.cwnd, 21 * MSS);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {T(in_order_data_is_placed_and_acked),
		T(every_second_full_segment_is_acked_at_once), T(reply_carries_the_ack),
		T(overlap_is_cut_off), T(holes_are_filled_in_any_order),
		T(more_holes_than_intervals_loses_the_segment), T(fin_ahead_of_a_hole_waits),
		T(window_is_never_violated), T(closed_window_answers_probes_and_opens),
		T(zero_window_is_probed_for_ever_while_answered), T(small_window_gets_what_fits_in_time),
		T(zero_window_unanswered_gives_up),
		T(probe_that_was_due_when_the_last_one_was_taken_has_a_timer),
		T(fin_waits_for_the_window_too), T(old_window_update_is_ignored),
		T(shrunken_window_sends_nothing), T(window_shut_on_bytes_in_flight_is_not_waited_for),
		T(three_duplicates_retransmit_once), T(not_every_ack_is_a_duplicate),
		T(timeout_doubles_and_gives_up), T(timeout_then_ack_of_all_goes_on),
		T(karn_retransmitted_bytes_are_not_timed), T(nagle_holds_back_only_while_in_flight),
		T(active_close_in_every_order), T(passive_close), T(lost_fin_is_sent_again),
		T(rst_must_be_exact), T(syn_is_challenged), T(ack_of_the_unsent_is_refused),
		T(pure_acks_never_chase_each_other), T(keepalive_is_answered), T(paws_drops_the_old),
		T(data_after_close_is_reset), T(close_with_unread_bytes_resets),
		T(application_cannot_leave_its_buffers), T(slow_start_then_congestion_avoidance)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
