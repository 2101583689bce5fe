/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who gets a listener's connections: nobody who has not asked, of several one who waits, and what becomes of
 * those that wait in the engine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fake_datapath.h"

static struct datapath *dp;
static struct control *ctl;
static struct flextoe_ntf_result result;
static uint32_t listener, token[2], conns;

/* Application n has context n. */
static void ask(uint16_t app, const void *hc)
{
	const struct fake_record *r;

	fake_hc(dp, app, app, hc);
	control_poll(ctl, fake_now, false);
	r = fake_take_type(dp, CTL_NOTIFY);
	assert_non_null(r);
	assert_int_equal(r->notify.context, app);
	result = r->notify.ntf.result;
	assert_int_equal(result.type, FLEXTOE_NTF_RESULT);
}

static int join_with(uint16_t app, uint32_t low, uint32_t high)
{
	struct flextoe_hc_join join = {
		.type = FLEXTOE_HC_JOIN, .cookie = 100u + app, .endpoint = listener, .token = {low, high}};

	ask(app, &join);
	return result.error;
}

static void want(uint16_t app, uint32_t limit)
{
	struct flextoe_hc_want want = {.type = FLEXTOE_HC_WANT, .endpoint = listener, .limit = limit};

	fake_hc(dp, app, app, (const void *)&want);
	control_poll(ctl, fake_now, false);
}

static void unbind(uint16_t app, uint32_t name)
{
	struct flextoe_hc_endpoint hc = {.type = FLEXTOE_HC_UNBIND, .endpoint = name};

	ask(app, &hc);
	assert_int_equal(result.error, 0);
}

/* Three applications; the first listens on port 80, and gets connections as it asks for them. */
static int setup(void **state)
{
	struct flextoe_hc_endpoint hc = {.type = FLEXTOE_HC_BIND, .local_port = to_be16(80), .cookie = 100};
	struct control_config config;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	for (int i = 0; i < 3; i++) {
		struct control_app_info app;
		uint64_t area;
		uint32_t number;
		int wake;

		assert_int_equal(control_app_open(ctl, "test", &app), 0);
		assert_int_equal(control_context_open(ctl, app.app, &number, &area, &wake), 0);
	}
	fake_clear(dp);
	ask(0, &hc);
	hc.type = FLEXTOE_HC_LISTEN;
	hc.endpoint = listener = result.endpoint;
	hc.backlog = 8;
	hc.flags = FLEXTOE_LISTEN_WANTED;
	ask(0, &hc);
	assert_int_equal(result.error, 0);
	token[0] = result.token[0];
	token[1] = result.token[1];
	assert_true(token[0] || token[1]);
	conns = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

/* A peer's handshake from this port, and what it sends with the last segment. */
static uint32_t open_from(uint16_t port, const char *payload)
{
	struct segment s;
	const struct fake_record *r;

	fake_segment(dp, &(struct fake_segment){.ctl = TCP_SYN_, .src_port = port, .dst_port = 80});
	control_poll(ctl, fake_now, false);
	do
		r = fake_take_type(dp, CTL_SEND);
	while (r && (!fake_parse(r, &s) || s.ctl != (TCP_SYN_ | TCP_ACK_)));
	assert_non_null(r);
	fake_now += 500;
	fake_segment(dp, &(struct fake_segment){.ctl = TCP_ACK_,
				 .seq = 1,
				 .ack = s.seq + 1u,
				 .src_port = port,
				 .dst_port = 80,
				 .payload = payload});
	control_poll(ctl, fake_now, false);
	return s.seq + 1u;
}

/* The application that has got the next connection, -1: none has. */
static int given(void)
{
	const struct fake_record *r;

	while ((r = fake_take_type(dp, CTL_NOTIFY)))
		if (r->notify.ntf.type == FLEXTOE_NTF_ACCEPT) {
			assert_int_equal(r->notify.ntf.opened.cookie, 100u + r->notify.context);
			conns++;
			return (int)r->notify.context;
		}
	return -1;
}

static void accepted(uint32_t conn)
{
	fake_event(dp, conn, CONN_EVENT_ACCEPTED);
	control_poll(ctl, fake_now, false);
}

static bool resets_sent(unsigned count)
{
	const struct fake_record *r;
	struct segment s;

	while ((r = fake_take_type(dp, CTL_SEND)))
		if (fake_parse(r, &s) && s.ctl & TCP_RST_)
			count--;
	return count == 0;
}

static void waits_until_somebody_asks(void **state)
{
	const struct fake_record *r;
	uint32_t ack;

	(void)state;
	ack = open_from(1000, "hello");
	assert_int_equal(given(), -1);
	assert_int_equal(ctl->endpoints[0].parked, 1);
	/* sent again, and more of it; beyond a hole nothing is kept */
	fake_segment(dp, &(struct fake_segment){.ctl = TCP_ACK_,
				 .seq = 1,
				 .ack = ack,
				 .src_port = 1000,
				 .dst_port = 80,
				 .payload = "hello"});
	fake_segment(dp, &(struct fake_segment){.ctl = TCP_ACK_ | TCP_FIN_,
				 .seq = 6,
				 .ack = ack,
				 .src_port = 1000,
				 .dst_port = 80,
				 .payload = "world"});
	fake_segment(dp, &(struct fake_segment){.ctl = TCP_ACK_,
				 .seq = 20,
				 .ack = ack,
				 .src_port = 1000,
				 .dst_port = 80,
				 .payload = "late"});
	control_poll(ctl, fake_now, false);
	fake_now += 120000000; /* nothing times out: to its peer it is established */
	control_poll(ctl, fake_now, false);
	assert_int_equal(ctl->endpoints[0].parked, 1);
	fake_clear(dp);
	want(0, 5);
	r = fake_take_type(dp, CTL_INSTALL);
	assert_non_null(r);
	assert_int_equal(given(), 0);
	r = fake_take_type(dp, CTL_INJECT);
	assert_non_null(r);
	assert_memory_equal(r->frame.bytes + r->frame.len - 5, "hello", 5);
	r = fake_take_type(dp, CTL_INJECT);
	assert_non_null(r);
	assert_memory_equal(r->frame.bytes + r->frame.len - 5, "world", 5);
	assert_null(fake_take_type(dp, CTL_INJECT));
	assert_int_equal(ctl->parked_bytes, 0);
	assert_int_equal(ctl->handshakes_used, 0);
	open_from(1001, NULL); /* asked for already */
	assert_int_equal(given(), 0);
}

static void waiting_counts_into_the_backlog(void **state)
{
	(void)state;
	for (uint16_t i = 0; i < 8; i++)
		open_from((uint16_t)(1000 + i), NULL);
	fake_segment(dp, &(struct fake_segment){.ctl = TCP_SYN_, .src_port = 2000, .dst_port = 80});
	control_poll(ctl, fake_now, false);
	assert_int_equal(control_counters(ctl)[CNT_drop_syn_backlog], 1);
	want(0, 100);
	for (int i = 0; i < 8; i++)
		assert_int_equal(given(), 0);
}

static void peer_ends_what_waits(void **state)
{
	uint32_t ack;

	(void)state;
	ack = open_from(1000, "hello");
	fake_segment(dp, &(struct fake_segment){
				 .ctl = TCP_RST_, .seq = 3, .ack = ack, .src_port = 1000, .dst_port = 80});
	control_poll(ctl, fake_now, false);
	assert_int_equal(ctl->handshakes_used, 1);
	fake_segment(dp, &(struct fake_segment){
				 .ctl = TCP_RST_, .seq = 6, .ack = ack, .src_port = 1000, .dst_port = 80});
	control_poll(ctl, fake_now, false);
	assert_int_equal(ctl->handshakes_used, 0);
	assert_int_equal(ctl->parked_bytes, 0);
	assert_int_equal(ctl->endpoints[0].parked, 0);
}

static void join_takes_the_token(void **state)
{
	(void)state;
	assert_int_equal(join_with(1, token[0], token[1] ^ 1u), EINVAL);
	assert_int_equal(join_with(1, token[0] ^ 1u, token[1]), EINVAL);
	assert_int_equal(join_with(1, 0, 0), EINVAL);
	want(1, 10); /* not a member: nothing */
	open_from(1000, NULL);
	assert_int_equal(given(), -1);
	assert_int_equal(join_with(1, token[0], token[1]), 0);
	assert_int_equal(result.local_port, to_be16(80));
	want(1, 10);
	assert_int_equal(given(), 1);
}

/* Two that ask for many: each has one at a time, so one that is slow holds nothing back. */
static void members_get_one_each(void **state)
{
	int first, second;

	(void)state;
	assert_int_equal(join_with(1, token[0], token[1]), 0);
	want(0, 10);
	want(1, 10);
	open_from(1000, NULL);
	first = given();
	open_from(1001, NULL);
	second = given();
	assert_int_equal(first + second, 1);
	for (uint16_t i = 0; i < 2; i++) {
		open_from((uint16_t)(1002 + i), NULL);
		assert_int_equal(given(), -1);
	}
	accepted(1); /* the second one's */
	assert_int_equal(given(), second);
	accepted(2);
	assert_int_equal(given(), second);
	assert_int_equal(given(), -1);
}

static void one_that_sleeps_comes_first(void **state)
{
	(void)state;
	assert_int_equal(join_with(1, token[0], token[1]), 0);
	assert_int_equal(join_with(2, token[0], token[1]), 0);
	for (uint16_t app = 0; app < 3; app++)
		want(app, 10);
	ctl->contexts[1].area->words.app_asleep = 1;
	for (uint16_t i = 0; i < 3; i++) {
		open_from((uint16_t)(1000 + i), NULL);
		assert_int_equal(given(), 1);
		accepted(i);
	}
}

/* The owner goes: the listener is the others'; what it had and had not accepted is reset. */
static void listener_outlives_its_owner(void **state)
{
	struct flextoe_hc_endpoint bind = {.type = FLEXTOE_HC_BIND, .local_port = to_be16(80)};
	struct flextoe_hc_endpoint unbind_it = {.type = FLEXTOE_HC_UNBIND, .endpoint = listener};

	(void)state;
	assert_int_equal(join_with(1, token[0], token[1]), 0);
	want(0, 1);
	open_from(1000, NULL);
	assert_int_equal(given(), 0);
	open_from(1001, NULL);
	assert_int_equal(given(), -1);
	control_app_close(ctl, 0);
	fake_now += 5000;
	control_poll(ctl, fake_now, true);
	assert_int_equal(fake_take_type(dp, CTL_RESET)->conn.conn, 0);
	want(1, 1);
	assert_int_equal(given(), 1);
	ask(2, &bind);
	assert_int_equal(result.error, EADDRINUSE);
	open_from(1002, NULL);
	assert_int_equal(given(), -1); /* not asked for */
	fake_clear(dp);
	fake_hc(dp, 1, 1, &unbind_it);
	control_poll(ctl, fake_now, false);
	assert_true(resets_sent(1)); /* what still waited */
	assert_int_equal(ctl->endpoints[0].state, ENDPOINT_CLOSING);
	ask(2, &bind);
	assert_int_equal(result.error, 0);
	assert_int_equal(join_with(1, token[0], token[1]), EINVAL); /* the name is an old one */
}

/* A child that worked on a context of its parent's is gone: the parent says so over that context. */
static void context_leaves(void **state)
{
	struct flextoe_hc_endpoint leave = {.type = FLEXTOE_HC_UNBIND};

	(void)state;
	assert_int_equal(join_with(1, token[0], token[1]), 0);
	want(1, 10);
	open_from(999, NULL);
	assert_int_equal(given(), 1);
	fake_hc(dp, 1, 1, &leave);
	control_poll(ctl, fake_now, false);
	assert_int_equal(fake_take_type(dp, CTL_RESET)->conn.conn, 0); /* nobody will accept it */
	fake_clear(dp);
	assert_int_equal(ctl->endpoints[0].member_count, 1);
	open_from(1000, NULL);
	assert_int_equal(given(), -1);
	unbind(0, 0); /* the owner's own stays */
	assert_int_equal(ctl->endpoints[0].member_count, 1);
	want(0, 1);
	assert_int_equal(given(), 0);
}

static void a_full_ring_is_gone_on_with(void **state)
{
	(void)state;
	for (uint16_t i = 0; i < 6; i++)
		open_from((uint16_t)(1000 + i), "x");
	fake_clear(dp);
	fake_hc(dp, 0, 0,
		(const void *)&(struct flextoe_hc_want){
			.type = FLEXTOE_HC_WANT, .endpoint = listener, .limit = 10});
	control_poll(ctl, fake_now, false);
	for (int i = 0; i < 6; i++)
		assert_int_equal(given(), 0);
	assert_int_equal(ctl->endpoints_feed, INDEX_NONE);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(waits_until_somebody_asks),
		CASE(waiting_counts_into_the_backlog),
		CASE(peer_ends_what_waits),
		CASE(join_takes_the_token),
		CASE(members_get_one_each),
		CASE(one_that_sleeps_comes_first),
		CASE(listener_outlives_its_owner),
		CASE(context_leaves),
		CASE(a_full_ring_is_gone_on_with),
	};

	return cmocka_run_group_tests_name("member", tests, NULL, NULL);
}
