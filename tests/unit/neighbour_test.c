/* SPDX-License-Identifier: BSD-3-Clause */
/* ARP and ICMP echo as a dialogue of frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "core/checksum.h"
#include "fake_datapath.h"

#define SECOND 1000000u

struct arp_frame {
	struct eth_hdr eth;
	struct arp_hdr arp;
} __attribute__((packed));

static struct datapath *dp;
static struct control *ctl;
static struct arp_frame sent;
static const uint8_t all[6] = {255, 255, 255, 255, 255, 255}, none[6], moved_mac[6] = {2, 0, 0, 0, 0, 9};
static char logged[512];

static void on_log(void *arg, const char *line)
{
	(void)arg;
	strncpy(logged, line, sizeof(logged) - 1);
}

static int setup(void **state)
{
	struct control_config config;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	config.log = on_log;
	logged[0] = 0;
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

static void poll_at(uint64_t later_us)
{
	fake_now += later_us;
	control_poll(ctl, fake_now, false);
}

static struct arp_frame arp(uint16_t op, const uint8_t *sha, be32 spa, be32 tpa)
{
	struct arp_frame f = {.eth.type = to_be16(ETHTYPE_ARP_),
		.arp = {.hw_type = to_be16(1),
			.proto_type = to_be16(ETHTYPE_IPV4_),
			.hw_len = 6,
			.proto_len = 4,
			.op = to_be16(op),
			.spa = spa,
			.tpa = tpa}};

	memcpy(f.eth.dst, all, 6);
	memcpy(f.eth.src, sha, 6);
	memcpy(f.arp.sha, sha, 6);
	return f;
}

static void in(struct arp_frame f)
{
	fake_frame(dp, 0, &f, sizeof(f));
	poll_at(0);
}

static void out(uint16_t op, const uint8_t *dst, be32 spa, be32 tpa)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_int_equal(r->type, CTL_SEND);
	assert_int_equal(r->frame.len, sizeof(sent));
	memcpy(&sent, r->frame.bytes, sizeof(sent));
	assert_int_equal(sent.eth.type, to_be16(ETHTYPE_ARP_));
	assert_int_equal(sent.arp.op, to_be16(op));
	assert_memory_equal(sent.eth.dst, dst, 6);
	assert_memory_equal(sent.eth.src, our_mac, 6);
	assert_memory_equal(sent.arp.sha, our_mac, 6);
	assert_int_equal(sent.arp.spa, spa);
	assert_int_equal(sent.arp.tpa, tpa);
}

static void nothing(void)
{
	assert_null(fake_take(dp));
}

static void resolve(int want)
{
	uint8_t mac[6];

	assert_int_equal(neighbour_resolve(ctl, 0, PEER_IP, 0, mac), want);
	if (!want)
		assert_memory_equal(mac, peer_mac, 6);
}

static void announces_itself(void **state)
{
	(void)state;
	out(1, all, OUR_IP, OUR_IP);
	out(1, all, OTHER_IP, OTHER_IP);
	nothing();
}

static void answers_and_learns(void **state)
{
	(void)state;
	fake_clear(dp);
	in(arp(1, peer_mac, PEER_IP, OUR_IP));
	out(2, peer_mac, OUR_IP, PEER_IP);
	resolve(0); /* learnt from the request */
	nothing();
	in(arp(1, peer_mac, 0, OUR_IP)); /* a probe (RFC 5227): answered, nothing learnt */
	out(2, peer_mac, OUR_IP, 0);
	in(arp(1, peer_mac, to_be32(0x0a090005u), to_be32(0x0a090006u))); /* not for us */
	nothing();
	in(arp(2, peer_mac, to_be32(0x0a090005u), OUR_IP)); /* nobody asked */
	nothing();
	in(arp(1, peer_mac, to_be32(0x01020304u), OUR_IP)); /* from another link: answered, not learnt */
	out(2, peer_mac, OUR_IP, to_be32(0x01020304u));
	assert_int_equal(ctl->neighbours_high, 1);
}

static void malformed(void **state)
{
	struct arp_frame f = arp(1, peer_mac, PEER_IP, OUR_IP);
	static const struct {
		unsigned offset;
		uint8_t value;
	} cases[] = {{1, 7}, {2, 9}, {4, 5}, {5, 16}, {7, 3}, {8, 0x03}};

	(void)state;
	fake_clear(dp);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct arp_frame bad = f;

		((uint8_t *)&bad.arp)[cases[i].offset] = cases[i].value;
		in(bad);
	}
	for (uint32_t len = 0; len < sizeof(f); len += 3)
		fake_frame(dp, 0, &f, len);
	memcpy(f.arp.sha, none, 6);
	in(f);
	nothing();
	assert_int_equal(ctl->neighbours_high, 0);
	assert_true(control_counters(ctl)[CNT_drop_arp] >= ARRAY_SIZE(cases));
}

static void somebody_has_our_address(void **state)
{
	(void)state;
	fake_clear(dp);
	in(arp(1, peer_mac, OUR_IP, OUR_IP));
	nothing();
	assert_non_null(strstr(logged, "10.9.0.2 is also used by 02:00:00:00:00:01"));
}

static void asks_three_times(void **state)
{
	struct flextoe_hc_endpoint hc = {0};
	struct socket_options options = {0};
	struct route_result route;
	struct flow_key key = {OUR_IP, PEER_IP, to_be16(1), to_be16(2)};
	struct control_app_info app;

	(void)state;
	assert_int_equal(control_app_open(ctl, "test", &app), 0);
	fake_clear(dp);
	assert_int_equal(route_find(ctl, PEER_IP, &route), 0);
	hc.rx_shift = hc.tx_shift = 12;
	assert_int_equal(handshake_connect(ctl, &key, &route, 0, 0, &hc, &options, 0, false), 0);
	out(1, all, OUR_IP, PEER_IP);
	poll_at(SECOND + 2000);
	out(1, all, OUR_IP, PEER_IP);
	poll_at(SECOND + 2000);
	out(1, all, OUR_IP, PEER_IP);
	nothing();
	assert_int_equal(ctl->handshakes_used, 1);
	poll_at(SECOND + 2000);
	assert_int_equal(ctl->handshakes_used, 0);
	assert_int_equal(fake_take(dp)->notify.ntf.result.error, EHOSTUNREACH);
	nothing();
}

static void asks_again_when_stale(void **state)
{
	(void)state;
	in(arp(1, peer_mac, PEER_IP, OUR_IP));
	fake_clear(dp);
	poll_at(31 * SECOND);
	resolve(0); /* nobody waits */
	out(1, peer_mac, OUR_IP, PEER_IP);
	in(arp(2, peer_mac, PEER_IP, OUR_IP));
	poll_at(5 * SECOND);
	resolve(0);
	nothing();
	poll_at(31 * SECOND);
	resolve(0);
	for (int i = 0; i < 4; i++)
		poll_at(SECOND + 2000);
	assert_int_equal(ctl->neighbours[0].state, NEIGHBOUR_FREE); /* gone: the next one asks anew */
}

static void a_moved_neighbour_is_told_to_its_connections(void **state)
{
	const struct fake_record *r;

	(void)state;
	in(arp(1, peer_mac, PEER_IP, OUR_IP));
	for (uint32_t i = 0; i < 3; i++) { /* two behind this hop, one behind the gateway */
		ctl->conns[i].flags = CTLCONN_USED | CTLCONN_IN_FLOWS;
		ctl->conns[i].flow.key = (struct flow_key){
			OUR_IP, i < 2 ? PEER_IP : to_be32(0x08080808u), to_be16(1), (be16)i};
		memcpy(datapath_conn(dp, i)->id.remote_mac, peer_mac, 6);
	}
	ctl->conns_high = 3;
	fake_clear(dp);
	in(arp(2, moved_mac, PEER_IP, PEER_IP)); /* gratuitous: a claim, which is asked after */
	out(1, all, OUR_IP, PEER_IP);
	nothing();
	in(arp(2, moved_mac, PEER_IP, OUR_IP)); /* and the answer to our question is believed */
	for (uint32_t i = 0; i < 2; i++) {
		r = fake_take(dp);
		assert_int_equal(r->type, CTL_NEIGHBOUR);
		assert_int_equal(r->neighbour.conn, i);
		assert_memory_equal(r->neighbour.mac, moved_mac, 6);
	}
	nothing();
	ctl->conns_high = 0;
}

static void table_is_bounded(void **state)
{
	uint8_t mac[6] = {2, 1, 0, 0, 0, 0};

	(void)state;
	for (uint32_t i = 0; i < 3 * NEIGHBOURS_MAX; i++) {
		mac[4] = (uint8_t)(i >> 8);
		mac[5] = (uint8_t)i;
		fake_now++;
		in(arp(1, mac, to_be32(0x0a080100u + i), OUR_IP));
	}
	assert_int_equal(ctl->neighbours_high, NEIGHBOURS_MAX);
}

/* ---- ICMP echo ---- */

static uint32_t echo_frame(uint8_t *f, uint32_t data)
{
	struct eth_hdr *eth = (void *)f;
	struct ipv4_hdr *ip = (void *)(f + 14);
	struct icmp_hdr *icmp = (void *)(f + 34);

	memset(f, 0, 42 + data);
	memcpy(eth->dst, our_mac, 6);
	memcpy(eth->src, peer_mac, 6);
	eth->type = to_be16(ETHTYPE_IPV4_);
	ip->version_ihl = 0x45;
	ip->total_len = to_be16((uint16_t)(28 + data));
	ip->protocol = 1;
	ip->src = PEER_IP;
	ip->dst = OUR_IP;
	icmp->type = 8;
	icmp->rest = to_be32(0x12340001u);
	for (uint32_t i = 0; i < data; i++)
		f[42 + i] = (uint8_t)i;
	icmp->checksum = checksum_of(icmp, 8 + data);
	return 42 + data;
}

static void echo(void **state)
{
	static uint8_t f[2000];
	static const uint32_t sizes[] = {0, 1, 56, 1472};

	(void)state;
	fake_clear(dp);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint32_t len = echo_frame(f, sizes[i]);
		const struct fake_record *r;

		fake_frame(dp, 0, f, len);
		poll_at(0);
		r = fake_take(dp);
		assert_non_null(r);
		assert_int_equal(r->frame.len, len);
		assert_memory_equal(r->frame.bytes, peer_mac, 6);
		assert_int_equal(r->frame.bytes[34], 0);
		assert_int_equal(checksum_of(r->frame.bytes + 14, 20), 0);
		assert_int_equal(checksum_of(r->frame.bytes + 34, 8 + sizes[i]), 0);
		assert_memory_equal(r->frame.bytes + 38, f + 38, 4 + sizes[i]);
	}
	fake_frame(dp, 0, f, echo_frame(f, 1473)); /* beyond the MTU */
	echo_frame(f, 56);
	f[60] ^= 1; /* checksum */
	fake_frame(dp, 0, f, 98);
	echo_frame(f, 56);
	f[0] = 255; /* to everybody */
	fake_frame(dp, 0, f, 98);
	echo_frame(f, 56);
	f[17] = 200; /* longer than the frame */
	fake_frame(dp, 0, f, 98);
	poll_at(0);
	nothing();
	assert_int_equal(control_counters(ctl)[CNT_icmp_echo_in], 4);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(announces_itself),
		CASE(answers_and_learns),
		CASE(malformed),
		CASE(somebody_has_our_address),
		CASE(asks_three_times),
		CASE(asks_again_when_stale),
		CASE(a_moved_neighbour_is_told_to_its_connections),
		CASE(table_is_bounded),
		CASE(echo),
	};

	return cmocka_run_group_tests_name("neighbour", tests, NULL, NULL);
}
