/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control plane under everything at once, at random but repeatable: frames good and broken, requests of
 * applications with any field, events in any order, time that jumps, a ring down that fills up, applications
 * that come and go. After it the books must balance: with all applications gone, nothing is left of anything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checksum.h"
#include "fake_datapath.h"

#define ROUNDS 600000u

static struct datapath *dp;
static struct control *ctl;
static uint64_t seed;
static struct segment last[16]; /* what we sent lately, so that some answers fit */
static uint32_t sent;
/* What a data path would know of each index. */
static uint8_t live[20000]; /* 1 installed, 2 dead, 4 released, 8 removal asked for */

static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

static bool chance(uint32_t in)
{
	return rnd(in) == 0;
}

static void frame_at_random(void)
{
	static const uint8_t kinds[] = {TCP_SYN_, TCP_SYN_, TCP_ACK_, TCP_ACK_, TCP_SYN_ | TCP_ACK_, TCP_RST_,
		TCP_RST_ | TCP_ACK_, TCP_FIN_ | TCP_ACK_, 0, TCP_SYN_ | TCP_FIN_, 0xff};
	uint8_t options[40];
	uint32_t recent = rnd(16);
	struct fake_segment s = {
		.ctl = kinds[rnd(sizeof(kinds))],
		.src_port = chance(3) ? 80 : (uint16_t)(1000 + rnd(40)),
		.dst_port = (uint16_t)(80 + rnd(3)),
		.seq = rnd(4),
		.ack = last[recent].seq + rnd(2),
		.wnd = (uint16_t)rnd(65536),
		.payload = chance(4) ? "payload" : NULL,
		.options = options,
		.options_len = (uint8_t)(chance(2) ? 0 : 4 * rnd(11)),
		.port = chance(8),
		.src = chance(8)    ? OUR_IP
		       : chance(20) ? to_be32(rnd(0xffffffffu))
				    : 0,
	};

	if (chance(2)) { /* an answer, and often a good one */
		s.src_port = from_be16(last[recent].key.local_port);
		s.dst_port = from_be16(last[recent].key.remote_port);
		s.seq = last[recent].ack;
		s.ack = last[recent].seq + 1u;
		if (chance(2))
			s.ctl = last[recent].ctl == TCP_SYN_ ? TCP_SYN_ | TCP_ACK_ : TCP_ACK_;
		if (last[recent].key.local_addr == OUR_IP) {
			s.src = OUR_IP;
			s.port = 1;
		}
	}
	for (unsigned i = 0; i < sizeof(options); i++)
		options[i] = (uint8_t)(chance(2) ? rnd(12) : rnd(256));
	fake_segment(dp, &s);
}

static void garbage(void)
{
	uint8_t bytes[256];
	uint32_t len = rnd(sizeof(bytes) + 1);

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)rnd(256);
	if (len > 14 && !chance(4)) {
		memcpy(bytes, our_mac, 6);
		memcpy(bytes + 6, peer_mac, 6);
		bytes[12] = 8;
		bytes[13] = (uint8_t)(chance(3) ? 6 : 0);
	}
	if (len > 34 && !chance(4)) {
		struct ipv4_hdr *ip = (void *)(bytes + 14);
		be32 dst = OUR_IP, src = PEER_IP;

		ip->version_ihl = (uint8_t)(chance(3) ? 0x40 + rnd(16) : 0x45);
		ip->total_len = to_be16((uint16_t)(chance(3) ? rnd(65536) : len - 14));
		ip->protocol = chance(2) ? 1 : 6;
		memcpy(&ip->dst, &dst, 4);
		memcpy(&ip->src, &src, 4);
		if (len > 42 && ip->protocol == 1) {
			bytes[34] = chance(2) ? 8 : 3;
			bytes[36] = bytes[37] = 0;
			uint16_t sum = checksum_of(bytes + 34, len - 34);

			memcpy(bytes + 36, &sum, 2);
		}
	}
	fake_frame(dp, rnd(3), bytes, len);
}

static void request_at_random(void)
{
	struct flextoe_hc_endpoint hc = {
		.type = (uint8_t)(chance(20) ? rnd(256) : 2 + rnd(7)),
		.endpoint = chance(4) ? rnd(0xffffffffu) : (1u + rnd(8)) << 17 | (1u + rnd(6)),
		.local_addr = chance(3) ? OUR_IP : 0,
		.remote_addr = chance(4)    ? OUR_IP
			       : chance(10) ? rnd(0xffffffffu)
					    : PEER_IP,
		.local_port = to_be16((uint16_t)(chance(3) ? 0 : 80 + rnd(3))),
		.remote_port = to_be16((uint16_t)(80 + rnd(2))),
		.backlog = (uint16_t)rnd(20),
		.flags = (uint16_t)rnd(4),
		.rx_shift = (uint8_t)(chance(2) ? 12 : rnd(256)),
		.tx_shift = (uint8_t)(chance(2) ? 12 : rnd(256)),
	};

	if (chance(2) && ctl->endpoints_high) {
		uint32_t i = rnd(ctl->endpoints_high);

		hc.endpoint = ctl->endpoints[i].generation << 17 | (i + 1u);
		if (hc.type == FLEXTOE_HC_JOIN && !chance(4))
			memcpy(&hc.local_addr, ctl->endpoints[i].token, sizeof(ctl->endpoints[i].token));
		if (hc.type == FLEXTOE_HC_WANT) {
			hc.cookie = hc.endpoint;
			hc.endpoint = rnd(50);
		}
	}
	if (chance(10)) {
		uint8_t *bytes = (uint8_t *)&hc;

		for (unsigned i = 4; i < 30; i++)
			bytes[i] = (uint8_t)(chance(3) ? rnd(256) : 0);
		hc.type = FLEXTOE_HC_OPTIONS;
		if (!chance(10)) /* else hardly anything would be accepted */
			((struct flextoe_hc_options *)bytes)->defer_accept_s = 0;
		hc.cookie = chance(2) ? datapath_conn(dp, rnd(ctl->conns_high + 1u))->id.handle : hc.endpoint;
	}
	fake_hc(dp, (uint16_t)(chance(20) ? rnd(65536) : rnd(4)),
		(uint16_t)(chance(20) ? rnd(65536) : rnd(4)), &hc);
}

static void event_at_random(void)
{
	uint32_t conn = chance(10) ? rnd(0xffffffffu) : rnd(ctl->conns_high + 1u), events = 0;

	if (conn >= 20000) {
		fake_event(dp, conn, rnd(64));
		return;
	}
	if (!(live[conn] & 1))
		return;
	if (chance(3))
		events |= CONN_EVENT_TIMER;
	if (chance(4)) {
		datapath_conn(dp, conn)->tcp.mss = 1460;
		datapath_conn(dp, conn)->tcp.cwnd = 10000u + rnd(1000000);
		events |= CONN_EVENT_ROUND << rnd(3);
	}
	if (chance(3))
		events |= CONN_EVENT_ACCEPTED;
	if (chance(4) && !(live[conn] & 2)) {
		datapath_conn(dp, conn)->tcp.phase = chance(2) ? TCP_PHASE_TIME_WAIT : TCP_PHASE_CLOSED;
		live[conn] |= 2;
		events |= CONN_EVENT_DEAD;
	}
	if (chance(4) && !(live[conn] & 4)) {
		live[conn] |= 4;
		events |= CONN_EVENT_RELEASED;
	}
	fake_event(dp, conn, events);
}

/* What the data path answers. */
static void serve(void)
{
	const struct fake_record *r;

	while ((r = fake_take(dp))) {
		struct segment s;
		uint32_t conn = r->conn.conn;

		switch (r->type) {
		case CTL_INSTALL:
			assert_int_equal(live[conn], 0);
			live[conn] = 1;
			break;
		case CTL_RESET:
			assert_true(live[conn] & 1);
			if (live[conn] & 2)
				break;
			live[conn] |= 2;
			datapath_conn(dp, conn)->tcp.phase = TCP_PHASE_CLOSED;
			fake_event(dp, conn, CONN_EVENT_DEAD);
			break;
		case CTL_REMOVE:
			assert_int_equal(live[conn] & 11, 3);
			live[conn] = 0;
			fake_event(dp, conn, CONN_EVENT_REMOVED);
			break;
		case CTL_TIMERS_OFF:
			fake_event(dp, conn, CONN_EVENT_TIMERS_IDLE);
			break;
		case CTL_SEND:
			assert_true(r->frame.port < 2);
			if (fake_parse(r, &s) && !(s.ctl & TCP_RST_))
				last[sent++ % 16] = s;
			break;
		default:
			break;
		}
	}
}

static void app_at_random(void)
{
	if (chance(2)) {
		control_app_close(ctl, rnd(5));
	} else {
		struct control_app_info app;
		uint64_t area;
		uint32_t number;
		int wake;

		if (control_app_open(ctl, "fuzz", &app) == 0)
			control_context_open(ctl, app.app, &number, &area, &wake);
	}
}

static void everything_at_random(void **state)
{
	struct control_config config;
	char err[256];
	uint64_t opened;

	(void)state;
	seed = 1;
	dp = fake_create();
	config = fake_config(dp);
	config.ephemeral_low = 40000;
	config.ephemeral_high = 40031;
	config.time_wait_max = 64;
	assert_int_equal(control_create(&config, &ctl, err), 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		if (chance(500))
			app_at_random();
		if (chance(3))
			request_at_random();
		if (chance(4))
			garbage();
		if (chance(2))
			event_at_random();
		frame_at_random();
		fake_now += chance(100) ? rnd(3000000) : rnd(500);
		fake_limit = chance(50) ? 16 : 0;
		if (!chance(3))
			control_poll(ctl, fake_now, chance(10));
		control_next_us(ctl, fake_now);
		if (!chance(4))
			serve();
		if (chance(20000)) {
			FILE *f = fopen("/dev/null", "w");

			for (uint32_t what = 0; what < 7; what++)
				control_report(ctl, f, what);
			fclose(f);
		}
	}
	opened = control_counters(ctl)[CNT_passive_opens] + control_counters(ctl)[CNT_active_opens];
	assert_true(opened > 300); /* it was not all refused */
	fake_limit = 0;
	control_quit(ctl);
	for (uint32_t i = 0; i < 1000 && !control_is_quiet(ctl); i++) {
		fake_now += 1000;
		control_poll(ctl, fake_now, true);
		serve();
	}
	fake_now += 300000000;
	control_poll(ctl, fake_now, true);
	serve();
	assert_true(control_is_quiet(ctl));
	assert_int_equal(ctl->conns_open, 0);
	assert_int_equal(ctl->handshakes_used, 0);
	assert_int_equal(ctl->half_open, 0);
	assert_int_equal(ctl->parked_bytes, 0);
	assert_true(control_counters(ctl)[CNT_passive_opens_parked] > 100);
	assert_int_equal(ctl->time_wait_count, 0);
	for (uint32_t i = 0; i < 65536; i++) {
		assert_int_equal(ctl->port_endpoints[i], 0);
		assert_int_equal(ctl->port_uses[i], 0);
	}
	for (uint32_t i = 0; i <= ctl->flow_mask; i++)
		assert_int_equal(ctl->flow_buckets[i], 0);
	for (uint32_t i = 0; i < ctl->apps_max; i++)
		assert_int_equal(ctl->apps[i].state, APP_FREE);
	for (uint32_t i = 0; i < ctl->contexts_max; i++)
		assert_false(ctl->contexts[i].used);
	print_message("%llu connections opened\n", (unsigned long long)opened);
	control_destroy(ctl);
	fake_destroy(dp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(everything_at_random)};

	return cmocka_run_group_tests_name("control_fuzz", tests, NULL, NULL);
}
