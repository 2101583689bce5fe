/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ICMP errors: what they do to connections that are open. Connection 5 has bytes S(0) to S(3000) in flight to
 * PEER_IP; frames are as a router on the link sends them. (Attempts to connect: handshake_test.c.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "fake_datapath.h"

#define CONN	5u
#define S(n)	(0xfffffe00u + (uint32_t)(n))
#define ROUTER	to_be32(0x0a0900feu)
#define NEEDED	4u
#define UNREACH 3u

static struct datapath *dp;
static struct control *ctl;
static struct tcp_state *tcp;

static int setup(void **state)
{
	struct control_config config;
	struct control_conn *c;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	fake_clear(dp);
	ctl->conns_high = CONN + 1;
	c = &ctl->conns[CONN];
	c->flags = CTLCONN_USED | CTLCONN_IN_FLOWS;
	c->flow.key = (struct flow_key){OUR_IP, PEER_IP, to_be16(80), to_be16(5000)};
	flows_add(ctl, FLOW_REF(FLOW_CONN, CONN));
	tcp = &datapath_conn(dp, CONN)->tcp;
	tcp->phase = TCP_PHASE_ESTABLISHED;
	tcp->flags = TCPF_TIMESTAMPS | TCPF_RTO_ARMED;
	tcp->mss = 1448;
	tcp->snd_una = S(0);
	tcp->snd_max = S(3000);
	tcp->rto_deadline_us = (uint32_t)fake_now + 50000u;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

static void in(uint8_t type, uint8_t code, uint16_t mtu, uint16_t quoted_len, uint32_t seq)
{
	uint8_t f[14 + 20 + 8 + 20 + 8] = {0};
	struct ipv4_hdr *ip = (void *)(f + 14), *quoted = (void *)(f + 42);
	struct icmp_hdr *icmp = (void *)(f + 34);
	be16 ports[2] = {to_be16(80), to_be16(5000)};
	be32 number = to_be32(seq);

	memcpy(f, our_mac, 6);
	memcpy(f + 6, peer_mac, 6);
	f[12] = 8;
	*ip = (struct ipv4_hdr){
		.version_ihl = 0x45, .total_len = to_be16(56), .protocol = 1, .src = ROUTER, .dst = OUR_IP};
	*icmp = (struct icmp_hdr){.type = type, .code = code, .rest = to_be32(mtu)};
	*quoted = (struct ipv4_hdr){.version_ihl = 0x45,
		.total_len = to_be16(quoted_len),
		.protocol = 6,
		.src = OUR_IP,
		.dst = PEER_IP};
	memcpy(f + 62, ports, 4);
	memcpy(f + 66, &number, 4);
	icmp->checksum = checksum_of(icmp, 36);
	fake_frame(dp, 0, f, sizeof(f));
	control_poll(ctl, fake_now, false);
}

static void mtu_is(uint32_t mtu)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_int_equal(r->type, CTL_MTU);
	assert_int_equal(((const struct ctl_mtu *)r->bytes)->conn, CONN);
	assert_int_equal(((const struct ctl_mtu *)r->bytes)->mtu, mtu);
	assert_null(fake_take(dp));
}

static void path_mtu_is_learned(void **state)
{
	(void)state;
	in(UNREACH, NEEDED, 1400, 1500, S(0));
	mtu_is(1400);
	tcp->mss = 1400 - 52;
	in(UNREACH, NEEDED, 1400, 1500, S(1448)); /* for the next packet in flight */
	assert_null(fake_take(dp));
	assert_int_equal(pmtu_of(ctl, PEER_IP), 1400);
	fake_now += 601000000u;
	control_poll(ctl, fake_now, false);
	assert_int_equal(pmtu_of(ctl, PEER_IP), UINT32_MAX);
}

static void an_old_router_does_not_tell(void **state)
{
	(void)state;
	in(UNREACH, NEEDED, 0, 1500, S(0));
	mtu_is(1492);
	in(UNREACH, NEEDED, 0, 1492, S(0));
	mtu_is(1006);
	in(UNREACH, NEEDED, 0, 700, S(0));
	mtu_is(552);
}

static void never_below_552_nor_upwards(void **state)
{
	(void)state;
	in(UNREACH, NEEDED, 68, 1500, S(0));
	mtu_is(552);
	tcp->mss = 500;
	in(UNREACH, NEEDED, 1400, 1500, S(0));
	in(UNREACH, NEEDED, 65535, 1500, S(0));
	assert_null(fake_take(dp));
}

static void forged_numbers_are_not_believed(void **state)
{
	(void)state;
	in(UNREACH, NEEDED, 1000, 1500, S(-1));
	in(UNREACH, NEEDED, 1000, 1500, S(3000));
	in(UNREACH, NEEDED, 1000, 1500, S(100000));
	in(UNREACH, 1, 0, 1500, S(-1));
	assert_null(fake_take(dp));
	assert_int_equal(control_counters(ctl)[CNT_drop_icmp], 4);
	assert_int_equal(ctl->conns[CONN].soft_error, 0);
}

/* They end nothing, and say why when retransmission ends in vain. */
static void other_errors_are_soft(void **state)
{
	const struct fake_record *r;

	(void)state;
	in(UNREACH, 1, 0, 1500, S(0));
	in(11, 0, 0, 1500, S(0));
	assert_null(fake_take(dp));
	fake_event(dp, CONN, CONN_EVENT_TIMER);
	control_poll(ctl, fake_now, false);
	fake_now += 60000;
	control_poll(ctl, fake_now, false);
	r = fake_take(dp);
	assert_int_equal(r->type, CTL_TIMEOUT);
	assert_int_equal(r->conn.error, EHOSTUNREACH);
	tcp->snd_una = S(10); /* progress: it is history */
	fake_now += 110000;
	control_poll(ctl, fake_now, false);
	fake_now += 110000;
	control_poll(ctl, fake_now, false);
	fake_clear(dp);
	assert_int_equal(ctl->conns[CONN].soft_error, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(path_mtu_is_learned),
		CASE(an_old_router_does_not_tell),
		CASE(never_below_552_nor_upwards),
		CASE(forged_numbers_are_not_believed),
		CASE(other_errors_are_soft),
	};

	return cmocka_run_group_tests_name("icmp", tests, NULL, NULL);
}
