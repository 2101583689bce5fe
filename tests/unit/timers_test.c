/* SPDX-License-Identifier: BSD-3-Clause */
/* The watch over connections' deadlines, in virtual time; the 32-bit microseconds wrap while it runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fake_datapath.h"

#define MS 1000u

static struct datapath *dp;
static struct control *ctl;
static struct tcp_state *tcp;

static int setup(void **state)
{
	struct control_config config;
	struct control_app_info app;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	assert_int_equal(control_app_open(ctl, "test", &app), 0);
	fake_clear(dp);
	for (uint32_t i = 0; i < 10000; i++)
		ctl->conns[i].flags = CTLCONN_USED;
	tcp = &datapath_conn(dp, 5)->tcp;
	tcp->phase = TCP_PHASE_ESTABLISHED;
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

static void rto_in(uint32_t us)
{
	tcp->flags |= TCPF_RTO_ARMED;
	tcp->rto_deadline_us = (uint32_t)fake_now + us;
}

static void out(uint32_t type)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_int_equal(r->type, type);
	assert_int_equal(r->conn.conn, 5);
	assert_null(fake_take(dp));
}

static void nothing(void)
{
	assert_null(fake_take(dp));
}

static void event(uint32_t events)
{
	fake_event(dp, 5, events);
	poll_at(0);
}

static void fires_when_due(void **state)
{
	(void)state;
	rto_in(200 * MS);
	event(CONN_EVENT_TIMER);
	poll_at(199 * MS);
	nothing();
	poll_at(2 * MS);
	out(CTL_TIMEOUT);
	rto_in(400 * MS); /* the data path has backed off */
	poll_at(2 * MS);
	nothing();
	poll_at(397 * MS);
	nothing();
	poll_at(3 * MS);
	out(CTL_TIMEOUT);
}

static void across_the_wrap(void **state)
{
	(void)state;
	poll_at((1ull << 32) - (uint32_t)fake_now - 50 * MS);
	rto_in(200 * MS);
	assert_true(tcp->rto_deadline_us < 200 * MS);
	event(CONN_EVENT_TIMER);
	poll_at(100 * MS);
	nothing();
	poll_at(102 * MS);
	out(CTL_TIMEOUT);
}

static void the_earlier_of_two(void **state)
{
	(void)state;
	rto_in(200 * MS);
	tcp->flags |= TCPF_ACK_DELAYED;
	tcp->ack_deadline_us = (uint32_t)fake_now + 20 * MS;
	event(CONN_EVENT_TIMER);
	poll_at(22 * MS);
	out(CTL_TIMEOUT);
	tcp->flags &= (uint16_t)~TCPF_ACK_DELAYED;
	poll_at(2 * MS);
	nothing();
	poll_at(180 * MS);
	out(CTL_TIMEOUT);
}

static void moved_deadlines_cost_nothing(void **state)
{
	uint64_t fired;

	(void)state;
	rto_in(200 * MS);
	event(CONN_EVENT_TIMER);
	fired = control_counters(ctl)[CNT_timers_fired];
	for (int i = 0; i < 1000; i++) { /* a second of acknowledgements */
		rto_in(200 * MS);
		poll_at(1 * MS);
	}
	nothing();
	assert_true(control_counters(ctl)[CNT_timers_fired] - fired <= 11);
}

static void idle_connections_leave_the_wheel(void **state)
{
	(void)state;
	rto_in(200 * MS);
	event(CONN_EVENT_TIMER);
	tcp->flags = 0;
	poll_at(202 * MS);
	out(CTL_TIMERS_OFF);
	poll_at(1000 * MS);
	nothing();
	event(CONN_EVENT_TIMERS_IDLE);
	assert_int_equal(ctl->wheel.count, 0);
	assert_int_equal(control_next_us(ctl, fake_now), UINT64_MAX);
	rto_in(200 * MS); /* active again */
	event(CONN_EVENT_TIMER);
	poll_at(202 * MS);
	out(CTL_TIMEOUT);
}

static void a_deadline_set_while_asking(void **state)
{
	(void)state;
	rto_in(200 * MS);
	event(CONN_EVENT_TIMER);
	tcp->flags = 0;
	poll_at(202 * MS);
	out(CTL_TIMERS_OFF);
	rto_in(200 * MS);
	event(CONN_EVENT_TIMER); /* the answer: go on */
	poll_at(202 * MS);
	out(CTL_TIMEOUT);
}

static void none_is_lost_when_the_ring_is_full(void **state)
{
	unsigned seen = 0;

	(void)state;
	for (uint32_t i = 0; i < 1000; i++) {
		struct tcp_state *t = &datapath_conn(dp, i)->tcp;

		t->flags = TCPF_RTO_ARMED;
		t->rto_deadline_us = (uint32_t)fake_now + 200 * MS;
		fake_event(dp, i, CONN_EVENT_TIMER);
	}
	for (int i = 0; i < 10; i++)
		poll_at(0);
	fake_limit = 40;
	poll_at(201 * MS);
	for (int i = 0; i < 100; i++) {
		const struct fake_record *r;

		while ((r = fake_take(dp))) {
			assert_int_equal(r->type, CTL_TIMEOUT);
			datapath_conn(dp, r->conn.conn)->tcp.rto_deadline_us = (uint32_t)fake_now + 400 * MS;
			seen++;
		}
		poll_at(100);
	}
	assert_int_equal(seen, 1000);
}

static void next_wake_up(void **state)
{
	(void)state;
	rto_in(90 * MS);
	event(CONN_EVENT_TIMER);
	assert_in_range(control_next_us(ctl, fake_now), 89 * MS, 91 * MS);
	poll_at(40 * MS);
	assert_in_range(control_next_us(ctl, fake_now), 49 * MS, 51 * MS);
}

/* Backed off for a minute, then the peer is back: what is owed to it now does not wait for that minute. */
static void deadlines_that_move_to_an_earlier_time_are_kept(void **state)
{
	(void)state;
	rto_in(60000 * MS);
	event(CONN_EVENT_TIMER);
	poll_at(5000 * MS);
	nothing();
	tcp->flags |= TCPF_ACK_DELAYED;
	tcp->ack_deadline_us = (uint32_t)fake_now + 40 * MS;
	poll_at(102 * MS);
	out(CTL_TIMEOUT);
	tcp->flags &= (uint16_t)~TCPF_ACK_DELAYED;
	rto_in(200 * MS);
	poll_at(102 * MS);
	nothing();
	poll_at(100 * MS);
	out(CTL_TIMEOUT);
}

static void orphans_do_not_wait_for_ever(void **state)
{
	const struct fake_record *r;
	uint64_t began = fake_now;

	(void)state;
	tcp->phase = TCP_PHASE_FIN_WAIT_1;
	event(CONN_EVENT_RELEASED);
	poll_at(20000 * MS);
	nothing(); /* its FIN is still being sent */
	tcp->phase = TCP_PHASE_FIN_WAIT_2;
	while (!(r = fake_take(dp)) && fake_now - began < 300000000u)
		poll_at(1000 * MS);
	assert_non_null(r);
	assert_int_equal(r->type, CTL_RESET);
	assert_in_range(fake_now - began, 60000000u, 100000000u);
	fake_event(dp, 5, CONN_EVENT_DEAD);
	poll_at(0);
	out(CTL_REMOVE);
	assert_int_equal(ctl->wheel.count, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(fires_when_due),
		CASE(across_the_wrap),
		CASE(the_earlier_of_two),
		CASE(moved_deadlines_cost_nothing),
		CASE(idle_connections_leave_the_wheel),
		CASE(a_deadline_set_while_asking),
		CASE(none_is_lost_when_the_ring_is_full),
		CASE(next_wake_up),
		CASE(deadlines_that_move_to_an_earlier_time_are_kept),
		CASE(orphans_do_not_wait_for_ever),
	};

	return cmocka_run_group_tests_name("timers", tests, NULL, NULL);
}
