/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The short paths of protocol.c against the rule: whenever one of protocol_*_usual() takes a case, the long
 * way on a copy of the same state must leave the same state and the same verdict or plan. States and segments
 * are random by a fixed seed, close to the edges that decide. Includes protocol.c for its static
 * functions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "datapath/protocol.c"

#define MSS    1448u
#define ROUNDS 300000u

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint32_t any(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32);
}

static uint32_t below(uint32_t n)
{
	return any() % n;
}

static bool one_in(uint32_t n)
{
	return below(n) == 0;
}

/* A length that is often one of those that decide something. */
static uint32_t length(void)
{
	static const uint32_t edges[] = {0, 1, 64, MSS - 1, MSS, MSS + 1, 2 * MSS, 10 * MSS, 30000};

	return one_in(3) ? below(40000) : edges[below(ARRAY_SIZE(edges))];
}

/* A state that keeps the invariants of core/conn.h. */
static struct tcp_state state_make(uint32_t now)
{
	static const uint16_t rare[] = {TCPF_RECOVERY, TCPF_RTO_RECOVERY, TCPF_FIN_QUEUED, TCPF_APP_CLOSED};
	uint32_t rx = any(), tx = any();
	struct tcp_state t = {.rx_base = rx - length(),
		.rcv_nxt = rx,
		.rcv_adv = rx + length(),
		.rx_tail = rx - length(),
		.rcv_acked = rx - length(),
		.ts_recent = any(),
		.tx_base = tx - length(),
		.snd_una = tx,
		.snd_wnd = length(),
		.snd_wl1 = rx - below(3),
		.snd_wl2 = tx - below(3),
		.cwnd = MSS + length(),
		.ssthresh = MSS + length(),
		.mss = MSS,
		.phase = TCP_PHASE_ESTABLISHED,
		.snd_wscale = (uint8_t)below(8),
		.rcv_wscale = (uint8_t)below(8),
		.cwnd_acked = below(MSS),
		.srtt_us = one_in(4) ? 0 : below(1000000),
		.rttvar_us = below(1000000),
		.rto_us = RTO_MIN_US + below(RTO_MIN_US),
		.rto_deadline_us = now + below(RTO_MIN_US),
		.ack_deadline_us = now + below(ACK_DELAY_US),
		.rtt_start_us = now - below(100000),
		.ooo = CONN_NONE,
		.backoff = (uint8_t)below(3),
		.quick_acks = (uint8_t)below(3),
		.rx_shift = 16,
		.tx_shift = 16};

	t.snd_max = t.snd_una + length();
	t.snd_nxt = one_in(4) ? t.snd_una + below(t.snd_max - t.snd_una + 1) : t.snd_max;
	t.tx_end = t.snd_max + length();
	t.rtt_seq = t.snd_una + below(t.snd_max - t.snd_una + 1);
	t.recover = t.snd_max;
	t.max_snd_wnd = t.snd_wnd + length();
	t.flags = (uint16_t)((one_in(2) ? TCPF_TIMESTAMPS : 0) | (one_in(2) ? TCPF_RTT_TIMING : 0) |
			     (one_in(2) ? TCPF_NAGLE : 0) | (one_in(2) ? TCPF_ACK_DELAYED : 0) |
			     (t.snd_max != t.snd_una ? TCPF_RTO_ARMED : 0));
	if (one_in(10))
		t.flags |= rare[below(ARRAY_SIZE(rare))];
	if (one_in(20))
		t.dupacks = 1;
	return t;
}

static struct segment segment_make(const struct tcp_state *t)
{
	struct segment s = {.seq = one_in(20) ? t->rcv_nxt - length() : t->rcv_nxt,
		.ack = t->snd_una,
		.len = one_in(3) ? 0 : min_u32(length(), MSS),
		.wnd = (uint16_t)(one_in(2) ? any() : t->snd_wnd >> t->snd_wscale),
		.flags = TCP_ACK_ | (one_in(2) ? TCP_PSH_ : 0) | (one_in(20) ? TCP_FIN_ : 0)};

	if (one_in(2))
		s.ack += below(t->snd_max - t->snd_una + 2);
	if (t->flags & TCPF_TIMESTAMPS) {
		s.has_ts = 1;
		s.tsval = t->ts_recent + below(10) - (one_in(20) ? 20 : 0);
	}
	return s;
}

static void assert_verdicts(const struct verdict *a, const struct verdict *b)
{
	assert_int_equal(a->place_len, b->place_len);
	assert_int_equal(a->place_skip, b->place_skip);
	if (a->place_len)
		assert_int_equal(a->place_seq, b->place_seq);
	assert_int_equal(a->acked, b->acked);
	assert_int_equal(a->delivered, b->delivered);
	assert_int_equal(a->counter, b->counter);
	assert_int_equal(a->send, b->send);
	assert_int_equal(a->notify, b->notify);
}

static void test_rx(void **state)
{
	struct ooo_pool pool;
	unsigned usual = 0;

	(void)state;
	assert_int_equal(ooo_pool_init(&pool, 2), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint32_t now = any();
		struct tcp_state a = state_make(now), b = a;
		struct segment s = segment_make(&a);
		struct verdict va = {.counter = COUNTERS}, vb = va;

		if (!protocol_rx_usual(&a, &s, now, &va))
			continue;
		usual++;
		rx_walk(&b, &pool, &s, now, &vb);
		assert_verdicts(&va, &vb);
		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_in_range(usual, ROUNDS / 10, ROUNDS);
	ooo_pool_free(&pool);
}

static void test_tx(void **state)
{
	struct ooo_pool pool = {0};
	unsigned usual = 0;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint32_t now = any(), max_len = one_in(2) ? MSS : 20 * MSS;
		struct tcp_state a = state_make(now), b = a;
		struct tx_plan pa, pb;

		if (one_in(2)) /* as a fresh write finds it, with room for it */
			a.snd_wnd = a.cwnd = 200000;
		b = a;
		if (!protocol_tx_usual(&a, max_len, now, &pa))
			continue;
		usual++;
		assert_true(tx_any(&b, &pool, max_len, now, &pb));
		assert_int_equal(pa.seq, pb.seq);
		assert_int_equal(pa.len, pb.len);
		assert_int_equal(pa.ack, pb.ack);
		assert_int_equal(pa.wnd, pb.wnd);
		assert_int_equal(pa.flags, pb.flags);
		assert_int_equal(pa.retransmission, pb.retransmission);
		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_in_range(usual, ROUNDS / 20, ROUNDS);
}

static void test_host(void **state)
{
	unsigned usual = 0;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct tcp_state a = state_make(any()), b;
		uint32_t tx_end = one_in(8) ? any() : a.tx_end + length();
		uint32_t rx_tail = one_in(8) ? any() : a.rx_tail + (one_in(2) ? 0 : length());
		bool send = false, pending;

		b = a;
		if (!protocol_host_usual(&a, tx_end, rx_tail))
			continue;
		usual++;
		pending = a.tx_end != b.tx_end;
		assert_int_equal(protocol_host(&b, tx_end, rx_tail, 0, &send), 0);
		assert_int_equal(send, pending);
		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_in_range(usual, ROUNDS / 20, ROUNDS);
}

static void test_ack(void **state)
{
	unsigned usual = 0;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct tcp_state a = state_make(any()), b = a;
		struct tx_plan pa, pb;

		if (!protocol_at_ease(&a, UNUSUAL, 0))
			continue;
		usual++;
		protocol_ack_usual(&a, &pa);
		protocol_ack(&b, &pb);
		assert_memory_equal(&pa, &pb, sizeof(pa));
		assert_memory_equal(&a, &b, sizeof(a));
	}
	assert_in_range(usual, ROUNDS / 20, ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_rx), cmocka_unit_test(test_tx),
		cmocka_unit_test(test_host), cmocka_unit_test(test_ack)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
