/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Keepalive, user timeout and the options that bring them, in virtual time against a data path that only
 * remembers. Connection 5 belongs to application 0; what its peer does is written into its state by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fake_datapath.h"

#define MS     1000u
#define SECOND 1000000u
#define CONN   5u

static struct datapath *dp;
static struct control *ctl;
static struct conn *conn;
static struct tcp_state *tcp;

static int setup(void **state)
{
	struct control_config config;
	struct control_app_info app;
	uint64_t area;
	uint32_t number;
	int wake;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	assert_int_equal(control_app_open(ctl, "test", &app), 0);
	assert_int_equal(control_context_open(ctl, app.app, &number, &area, &wake), 0);
	fake_clear(dp);
	ctl->conns[CONN].flags = CTLCONN_USED;
	ctl->conns_high = CONN + 1;
	conn = datapath_conn(dp, CONN);
	conn->id.handle = CONN;
	tcp = &conn->tcp;
	tcp->phase = TCP_PHASE_ESTABLISHED;
	tcp->flags = TCPF_TIMESTAMPS;
	tcp->ts_recent_us = (uint32_t)fake_now;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

/* Polls in steps of `step`, as a busy engine would. */
static void wait_us(uint64_t us, uint64_t step)
{
	for (uint64_t end = fake_now + us; fake_now < end;) {
		fake_now += step < end - fake_now ? step : end - fake_now;
		control_poll(ctl, fake_now, false);
	}
}

static void options(const struct flextoe_hc_options *options)
{
	struct exc_hc e = {.type = EXC_HC, .app = 0, .context = 0};

	e.hc.options = *options;
	e.hc.options.type = FLEXTOE_HC_OPTIONS;
	fake_exc(dp, &e, sizeof(e));
	control_poll(ctl, fake_now, false);
}
#define options_of(...)                                                                                      \
	options(&(struct flextoe_hc_options){.target = CONN, .applies_to = FLEXTOE_OPTIONS_CONN, __VA_ARGS__})
#define options_for(name, what, ...)                                                                         \
	options(&(struct flextoe_hc_options){.target = (name), .applies_to = (what), __VA_ARGS__})

static void out(uint32_t type, uint32_t error)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_int_equal(r->type, type);
	assert_int_equal(r->conn.conn, CONN);
	assert_int_equal(r->conn.error, error);
	assert_null(fake_take(dp));
	if (type == CTL_KEEPALIVE)
		tcp->probes++; /* as the data path does */
}

static void nothing(void)
{
	assert_null(fake_take(dp));
}

static void heard(void)
{
	tcp->ts_recent_us = (uint32_t)fake_now;
	tcp->probes = 0;
}

static void idle_peers_are_probed_and_given_up(void **state)
{
	(void)state;
	options_of(.keep_idle_s = 10, .keep_interval_s = 2, .keep_count = 3);
	wait_us(4 * SECOND, 100 * MS);
	heard();
	wait_us(9900 * MS, 100 * MS);
	nothing();
	wait_us(200 * MS, 10 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(1800 * MS, 100 * MS);
	nothing();
	wait_us(300 * MS, 10 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(2100 * MS, 10 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(1600 * MS, 10 * MS);
	nothing();
	wait_us(500 * MS, 10 * MS);
	out(CTL_RESET, ETIMEDOUT);
	assert_int_equal(control_counters(ctl)[CNT_conn_timeouts], 1);
	wait_us(100 * SECOND, SECOND);
	nothing();
}

static void an_answer_begins_the_idle_time_anew(void **state)
{
	(void)state;
	options_of(.keep_idle_s = 10, .keep_interval_s = 2, .keep_count = 1);
	for (int i = 0; i < 3; i++) {
		wait_us(10100 * MS, 10 * MS);
		out(CTL_KEEPALIVE, 0);
		heard();
	}
	options_of(.keep_idle_s = 0);
	wait_us(100 * SECOND, SECOND);
	nothing();
}

/* Without timestamps the first probe may be a quarter late. */
static void peers_without_timestamps(void **state)
{
	(void)state;
	tcp->flags = 0;
	options_of(.keep_idle_s = 8, .keep_interval_s = 2, .keep_count = 2);
	wait_us(5 * SECOND, 100 * MS);
	tcp->rcv_nxt += 10;
	wait_us(7900 * MS, 100 * MS);
	nothing();
	wait_us(2200 * MS, 100 * MS);
	out(CTL_KEEPALIVE, 0);
	tcp->probes = 0; /* answered */
	wait_us(5700 * MS, 100 * MS);
	nothing();
	wait_us(2400 * MS, 100 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(2100 * MS, 100 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(2100 * MS, 100 * MS);
	out(CTL_RESET, ETIMEDOUT);
}

static void two_hours_beyond_the_wrap_of_the_clock(void **state)
{
	(void)state;
	options_of(.keep_idle_s = 7200, .keep_interval_s = 75, .keep_count = 9);
	wait_us(7199ull * SECOND, SECOND);
	nothing();
	wait_us(2 * SECOND, 100 * MS);
	out(CTL_KEEPALIVE, 0);
}

static void no_probe_while_something_is_outstanding(void **state)
{
	(void)state;
	options_of(.keep_idle_s = 1, .keep_interval_s = 1, .keep_count = 1);
	tcp->snd_max = tcp->snd_una + 10;
	wait_us(5 * SECOND, 100 * MS);
	nothing();
	tcp->snd_una = tcp->snd_max;
	heard();
	wait_us(2200 * MS, 100 * MS);
	assert_int_equal(fake_take(dp)->type, CTL_KEEPALIVE);
}

static void idle_connections_without_it_cost_nothing(void **state)
{
	uint64_t fired = control_counters(ctl)[CNT_timers_fired];

	(void)state;
	options_of(.user_timeout_ms = 5000, .ttl = 0);
	wait_us(100 * SECOND, SECOND);
	assert_int_equal(control_counters(ctl)[CNT_timers_fired], fired);
	assert_int_equal(ctl->wheel.count, 0);
}

static void watched(uint32_t rto_us)
{
	tcp->flags |= TCPF_RTO_ARMED;
	tcp->rto_deadline_us = (uint32_t)fake_now + rto_us;
	fake_event(dp, CONN, CONN_EVENT_TIMER);
	control_poll(ctl, fake_now, false);
}

static void user_timeout_counts_from_the_first_byte(void **state)
{
	(void)state;
	options_of(.user_timeout_ms = 3000);
	wait_us(60 * SECOND, SECOND); /* idle time does not count */
	tcp->snd_max = tcp->snd_una + 100;
	watched(60 * SECOND);
	wait_us(2 * SECOND, 10 * MS);
	tcp->snd_una += 50; /* progress */
	wait_us(2900 * MS, 10 * MS);
	nothing();
	wait_us(300 * MS, 10 * MS);
	out(CTL_RESET, ETIMEDOUT);
}

static void user_timeout_ends_a_closed_window(void **state)
{
	(void)state;
	options_of(.user_timeout_ms = 1000);
	tcp->flags |= TCPF_PERSIST;
	watched(60 * SECOND);
	wait_us(1200 * MS, 10 * MS);
	out(CTL_RESET, ETIMEDOUT);
}

static void user_timeout_takes_the_place_of_the_count(void **state)
{
	(void)state;
	options_of(.keep_idle_s = 2, .keep_interval_s = 1, .keep_count = 9, .user_timeout_ms = 4000);
	wait_us(2100 * MS, 10 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(1 * SECOND + 50 * MS, 10 * MS);
	out(CTL_KEEPALIVE, 0);
	wait_us(1 * SECOND + 50 * MS, 10 * MS);
	out(CTL_RESET, ETIMEDOUT);
}

static void headers_go_to_the_data_path(void **state)
{
	const struct fake_record *r;

	(void)state;
	options_of(.tos = 0x2b, .ttl = 9); /* the ECN bits are not the application's */
	r = fake_take_type(dp, CTL_OPTIONS);
	assert_non_null(r);
	assert_int_equal(((const struct ctl_options *)r->bytes)->tos, 0x28);
	assert_int_equal(((const struct ctl_options *)r->bytes)->ttl, 9);
}

static void bad_ones_are_counted_and_left(void **state)
{
	const struct flextoe_hc_options bad[] = {{.keep_idle_s = 1}, {.keep_idle_s = 1, .keep_interval_s = 1},
		{.keep_idle_s = 40000, .keep_interval_s = 1, .keep_count = 1}, {.linger2_s = -2},
		{.linger2_s = 121}, {.maxseg = 87}, {.maxseg = 40000}, {.syn_retries = 128},
		{.congestion = FLEXTOE_CONGESTIONS}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct flextoe_hc_options o = bad[i];

		o.target = CONN;
		o.applies_to = FLEXTOE_OPTIONS_CONN;
		o.ttl = 3;
		options(&o);
		assert_int_equal(control_counters(ctl)[CNT_options_bad], i + 1);
	}
	options(&(struct flextoe_hc_options){.target = CONN, .applies_to = 9});
	assert_int_equal(control_counters(ctl)[CNT_options_bad], ARRAY_SIZE(bad) + 1);
	/* other names than its own, and none at all, do nothing */
	conn->id.handle = CONN | 1u << FLEXTOE_CONN_INDEX_BITS;
	options_of(.ttl = 3);
	options_for(4000000, FLEXTOE_OPTIONS_CONN, .ttl = 3);
	options_for(77, FLEXTOE_OPTIONS_ENDPOINT, .ttl = 3);
	assert_int_equal(ctl->conns[CONN].options.ttl, 0);
	nothing();
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(idle_peers_are_probed_and_given_up),
		CASE(an_answer_begins_the_idle_time_anew),
		CASE(peers_without_timestamps),
		CASE(two_hours_beyond_the_wrap_of_the_clock),
		CASE(no_probe_while_something_is_outstanding),
		CASE(idle_connections_without_it_cost_nothing),
		CASE(user_timeout_counts_from_the_first_byte),
		CASE(user_timeout_ends_a_closed_window),
		CASE(user_timeout_takes_the_place_of_the_count),
		CASE(headers_go_to_the_data_path),
		CASE(bad_ones_are_counted_and_left),
	};

	return cmocka_run_group_tests_name("liveness", tests, NULL, NULL);
}
