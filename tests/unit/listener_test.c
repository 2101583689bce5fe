/* SPDX-License-Identifier: BSD-3-Clause */
/* Ports and endpoints: who may bind what, which listener a connection finds, which port an active one gets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <time.h>
#include <string.h>

#include "fake_datapath.h"

static struct datapath *dp;
static struct control *ctl;
static struct flextoe_ntf_result result;

static int setup(void **state)
{
	struct control_config config;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	config.ephemeral_low = 40000;
	config.ephemeral_high = 40009;
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	for (int i = 0; i < 2; i++) {
		struct control_app_info app;
		uint64_t area;
		uint32_t number;
		int wake;

		assert_int_equal(control_app_open(ctl, "test", &app), 0);
		assert_int_equal(app.app, i);
		assert_int_equal(control_context_open(ctl, app.app, &number, &area, &wake), 0);
	}
	fake_clear(dp);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

/* Application 0 has context 0, application 1 context 1. Returns the error. */
static int ask_full(uint16_t app, struct flextoe_hc_endpoint hc)
{
	const struct fake_record *r;

	hc.cookie = 100u + app;
	fake_hc(dp, app, app, &hc);
	control_poll(ctl, fake_now, false);
	r = fake_take_type(dp, CTL_NOTIFY);
	assert_non_null(r);
	assert_int_equal(r->notify.context, app);
	result = r->notify.ntf.result;
	assert_int_equal(result.type, FLEXTOE_NTF_RESULT);
	assert_int_equal(result.request, hc.type);
	assert_int_equal(result.cookie, hc.cookie);
	return result.error;
}
#define ask(app, ...) ask_full(app, (struct flextoe_hc_endpoint){__VA_ARGS__})

static int bind_full(uint16_t app, struct flextoe_hc_endpoint hc, uint32_t *name)
{
	hc.type = FLEXTOE_HC_BIND;
	ask_full(app, hc);
	if (name)
		*name = result.endpoint;
	return result.error;
}
#define bind_to(app, name, ...) bind_full(app, (struct flextoe_hc_endpoint){__VA_ARGS__}, name)

static int listen_at(uint16_t app, uint32_t name)
{
	return ask(app, .type = FLEXTOE_HC_LISTEN, .endpoint = name, .backlog = 8);
}

static void one_port_one_owner(void **state)
{
	uint32_t a, b;
	be16 p = to_be16(80);

	(void)state;
	assert_int_equal(bind_to(0, &a, .local_port = p), 0);
	assert_int_not_equal(a, 0);
	assert_int_equal(bind_to(1, &b, .local_port = p), EADDRINUSE);
	assert_int_equal(bind_to(1, &b, .local_port = p, .local_addr = OUR_IP), EADDRINUSE);
	assert_int_equal(
		bind_to(1, &b, .local_port = to_be16(81), .local_addr = to_be32(0x01020304u)), EADDRNOTAVAIL);
	assert_int_equal(bind_to(1, &b, .local_port = to_be16(81), .flags = 0x80), EINVAL);
	assert_int_equal(ask(1, .type = FLEXTOE_HC_UNBIND, .endpoint = a), EINVAL); /* not its own */
	assert_int_equal(listen_at(1, a), EINVAL);
	assert_int_equal(ask(0, .type = FLEXTOE_HC_UNBIND, .endpoint = a), 0);
	assert_int_equal(ask(0, .type = FLEXTOE_HC_UNBIND, .endpoint = a), EINVAL); /* twice */
	assert_int_equal(bind_to(1, &b, .local_port = p), 0);
	assert_int_not_equal(a, b);
	assert_int_equal(listen_at(0, a), EINVAL); /* the old name does not name the new one */
}

static void two_addresses_two_owners(void **state)
{
	uint32_t a, b;

	(void)state;
	assert_int_equal(bind_to(0, &a, .local_port = to_be16(80), .local_addr = OUR_IP), 0);
	assert_int_equal(bind_to(1, &b, .local_port = to_be16(80), .local_addr = OTHER_IP), 0);
	assert_int_equal(listen_at(0, a), 0);
	assert_int_equal(listen_at(1, b), 0);
	assert_int_equal(listener_find(ctl, &(struct flow_key){OUR_IP, PEER_IP, to_be16(80), 1})->app, 0);
	assert_int_equal(listener_find(ctl, &(struct flow_key){OTHER_IP, PEER_IP, to_be16(80), 1})->app, 1);
	assert_null(listener_find(ctl, &(struct flow_key){OTHER_IP, PEER_IP, to_be16(81), 1}));
}

static void reuseaddr(void **state)
{
	uint32_t a, b;
	be16 p = to_be16(80);

	(void)state;
	assert_int_equal(bind_to(0, &a, .local_port = p, .flags = FLEXTOE_BIND_REUSEADDR), 0);
	assert_int_equal(bind_to(0, &b, .local_port = p, .flags = FLEXTOE_BIND_REUSEADDR), 0);
	assert_int_equal(listen_at(0, a), 0);
	assert_int_equal(listen_at(0, b), EADDRINUSE);
	assert_int_equal(bind_to(1, NULL, .local_port = p, .flags = FLEXTOE_BIND_REUSEADDR), EADDRINUSE);
}

static void reuseport_spreads(void **state)
{
	uint32_t names[4], hits[4] = {0};

	(void)state;
	for (int i = 0; i < 4; i++) {
		assert_int_equal(
			bind_to(0, &names[i], .local_port = to_be16(80), .flags = FLEXTOE_BIND_REUSEPORT), 0);
		assert_int_equal(listen_at(0, names[i]), 0);
	}
	assert_int_equal(bind_to(1, NULL, .local_port = to_be16(80)), EADDRINUSE);
	for (uint16_t i = 1; i <= 4000; i++) {
		struct flow_key key = {OUR_IP, PEER_IP, to_be16(80), i};
		struct endpoint *ep = listener_find(ctl, &key);

		assert_ptr_equal(ep, listener_find(ctl, &key));
		hits[ep - ctl->endpoints]++;
	}
	for (int i = 0; i < 4; i++)
		assert_in_range(hits[i], 800, 1200);
}

static void free_ports(void **state)
{
	uint32_t name, seen = 0;

	(void)state;
	for (int i = 0; i < 10; i++) {
		assert_int_equal(bind_to(0, &name, .local_port = 0), 0);
		assert_in_range(from_be16(result.local_port), 40000, 40009);
		seen |= 1u << (from_be16(result.local_port) - 40000);
	}
	assert_int_equal(seen, 0x3ff);
	assert_int_equal(bind_to(0, &name, .local_port = 0), EADDRINUSE);
	assert_int_equal(
		ask(0, .type = FLEXTOE_HC_CONNECT, .remote_addr = PEER_IP, .remote_port = 1), EADDRNOTAVAIL);
}

static void connections_share_ports_by_destination(void **state)
{
	struct flextoe_hc_endpoint hc = {
		.type = FLEXTOE_HC_CONNECT, .remote_addr = PEER_IP, .remote_port = to_be16(7)};

	(void)state;
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 10; i++)
			fake_hc(dp, 0, 0, &hc);
		control_poll(ctl, fake_now, false);
		assert_null(fake_take_type(dp, CTL_NOTIFY));
		assert_int_equal(ctl->handshakes_used, 10 * (round + 1));
		if (!round)
			assert_int_equal(ask(0, .type = FLEXTOE_HC_CONNECT, .remote_addr = PEER_IP,
						 .remote_port = to_be16(7)),
				EADDRNOTAVAIL);
		hc.remote_port = to_be16(8);
	}
	assert_int_equal(bind_to(1, NULL, .local_port = to_be16(40000)), EADDRINUSE); /* without REUSEADDR */
	assert_int_equal(bind_to(1, NULL, .local_port = to_be16(40000), .flags = FLEXTOE_BIND_REUSEADDR), 0);
}

/* An application that asks again and again when no port is left pays for it, not the engine: a look at each
 * of 8192 ports takes half a millisecond or more. */
static void asking_for_a_port_when_none_is_left(void **state)
{
	struct flextoe_hc_endpoint hc = {
		.type = FLEXTOE_HC_CONNECT, .remote_addr = PEER_IP, .remote_port = to_be16(7)};
	struct timespec begin, end;

	(void)state;
	ctl->config.ephemeral_high = (uint16_t)(ctl->config.ephemeral_low + 8191u);
	for (int i = 0; i < 8192; i++) {
		fake_hc(dp, 0, 0, &hc);
		control_poll(ctl, fake_now, false);
		fake_clear(dp);
	}
	assert_int_equal(ctl->handshakes_used, 8192);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
	for (int i = 0; i < 20000; i++)
		assert_int_equal(ask_full(1, hc), EADDRNOTAVAIL);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
	assert_in_range(end.tv_sec - begin.tv_sec, 0, 3);
	handshake_drop(ctl, ctl->apps[0].handshake_head); /* one comes back: at once */
	fake_hc(dp, 1, 1, &hc);
	control_poll(ctl, fake_now, false);
	assert_null(fake_take_type(dp, CTL_NOTIFY));
	assert_int_equal(ctl->handshakes_used, 8192);
}

static void connect_from_an_endpoint(void **state)
{
	struct flextoe_hc_endpoint hc = {
		.type = FLEXTOE_HC_CONNECT, .remote_addr = PEER_IP, .remote_port = to_be16(7)};
	uint32_t name;

	(void)state;
	assert_int_equal(bind_to(0, &name, .local_port = to_be16(1234), .local_addr = OTHER_IP), 0);
	hc.endpoint = name;
	fake_hc(dp, 0, 0, &hc);
	control_poll(ctl, fake_now, false);
	assert_null(fake_take_type(dp, CTL_NOTIFY));
	assert_int_equal(ctl->handshakes[0].flow.key.local_addr, OTHER_IP);
	assert_int_equal(ctl->handshakes[0].flow.key.local_port, to_be16(1234));
	assert_int_equal(ask_full(0, hc), EADDRNOTAVAIL); /* the same tuple again */
	assert_int_equal(ask_full(1, hc), EINVAL);
	hc.remote_addr = OTHER_IP; /* itself */
	hc.remote_port = to_be16(1234);
	assert_int_equal(ask_full(0, hc), ECONNREFUSED);
}

static uint32_t iss_of_next_send(void)
{
	struct segment s;

	assert_true(fake_parse(fake_take_type(dp, CTL_SEND), &s));
	return s.seq;
}

static void unbind_resets_what_waits(void **state)
{
	uint32_t name, conn;

	(void)state;
	assert_int_equal(bind_to(0, &name, .local_port = to_be16(80)), 0);
	assert_int_equal(listen_at(0, name), 0);
	for (uint16_t i = 0; i < 3; i++) {
		uint32_t iss;

		fake_segment(dp, &(struct fake_segment){
					 .ctl = TCP_SYN_, .src_port = (uint16_t)(100 + i), .dst_port = 80});
		control_poll(ctl, fake_now, false);
		iss = iss_of_next_send();
		if (i == 2)
			break; /* stays half open */
		fake_segment(dp, &(struct fake_segment){.ctl = TCP_ACK_,
					 .seq = 1,
					 .ack = iss + 1u,
					 .src_port = (uint16_t)(100 + i),
					 .dst_port = 80});
		control_poll(ctl, fake_now, false);
	}
	conn = fake_take_type(dp, CTL_INSTALL) ? 1 : 0;
	fake_clear(dp);
	/* accept() has returned one of them; the word of it comes after the UNBIND */
	fake_hc(dp, 0, 0, &(struct flextoe_hc_endpoint){.type = FLEXTOE_HC_UNBIND, .endpoint = name});
	fake_event(dp, 1, CONN_EVENT_ACCEPTED);
	control_poll(ctl, fake_now, false);
	assert_int_equal(ctl->handshakes_used, 0);
	assert_null(fake_take_type(dp, CTL_RESET));
	fake_now += 3000;
	control_poll(ctl, fake_now, false);
	conn = fake_take_type(dp, CTL_RESET)->conn.conn;
	assert_int_equal(conn, 0);
	assert_null(fake_take_type(dp, CTL_RESET));
	fake_event(dp, 0, CONN_EVENT_DEAD);
	control_poll(ctl, fake_now, false);
	assert_int_equal(fake_take(dp)->type, CTL_REMOVE); /* nobody else will give it up */
	assert_int_equal(ctl->endpoints[0].state, ENDPOINT_FREE);
	assert_int_equal(bind_to(0, &name, .local_port = to_be16(80)), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(one_port_one_owner),
		CASE(two_addresses_two_owners),
		CASE(reuseaddr),
		CASE(reuseport_spreads),
		CASE(free_ports),
		CASE(connections_share_ports_by_destination),
		CASE(asking_for_a_port_when_none_is_left),
		CASE(connect_from_an_endpoint),
		CASE(unbind_resets_what_waits),
	};

	return cmocka_run_group_tests_name("listener", tests, NULL, NULL);
}
