/* SPDX-License-Identifier: BSD-3-Clause */
/* The native interface against the engine's side of the rings: descriptor by descriptor, and as streams. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "fake_engine.h"

struct fixture {
	struct fake_engine *engine;
	struct flextoe *ft;
	struct flextoe_context *ctx;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct flextoe_memory memory;

	f->engine = fake_engine_create(false);
	memory = fake_engine_memory(f->engine);
	assert_int_equal(flextoe_attach_memory(&memory, &f->ft), 0);
	assert_int_equal(flextoe_context_open(f->ft, &f->ctx), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_engine_violations(f->engine), 0);
	flextoe_context_close(f->ctx);
	flextoe_close(f->ft);
	fake_engine_destroy(f->engine);
	free(f);
	return 0;
}

/* The next event, the engine running meanwhile. */
static struct flextoe_event next(struct fixture *f)
{
	struct flextoe_event event = {0};

	for (int i = 0; i < 100; i++) {
		if (flextoe_poll(f->ctx, &event, 1) == 1)
			return event;
		fake_engine_step(f->engine);
	}
	return event;
}

static const struct sockaddr_in any = {.sin_family = AF_INET};

struct pair {
	struct flextoe_listener *listener;
	struct flextoe_conn *client, *server;
};

static struct pair pair_open(struct fixture *f)
{
	struct pair pair = {0};
	struct sockaddr_in to;
	struct flextoe_event event;

	assert_int_equal(flextoe_listen(f->ctx, &any, 8, 0, f, &pair.listener), 0);
	event = next(f);
	assert_int_equal(event.type, FLEXTOE_EVENT_LISTENING);
	assert_int_equal(event.error, 0);
	assert_ptr_equal(event.opaque, f);
	flextoe_listener_address(pair.listener, &to);
	assert_int_not_equal(to.sin_port, 0);
	to.sin_addr.s_addr = FAKE_ADDRESS;
	assert_int_equal(flextoe_connect(f->ctx, NULL, &to, &pair, &pair.client), 0);
	for (int i = 0; i < 2; i++) {
		event = next(f);
		if (event.type == FLEXTOE_EVENT_ACCEPT)
			pair.server = event.conn;
		else
			assert_int_equal(event.type, FLEXTOE_EVENT_OPEN);
	}
	assert_non_null(pair.server);
	return pair;
}

static void pair_close(struct fixture *f, struct pair *pair)
{
	flextoe_conn_close(pair->client);
	flextoe_conn_close(pair->server);
	flextoe_listener_close(pair->listener);
	for (int i = 0; i < 4; i++) {
		struct flextoe_event event;

		flextoe_poll(f->ctx, &event, 1);
		fake_engine_step(f->engine);
	}
}

static void a_listener_accepts_and_says_so(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct sockaddr_in local, remote;

	flextoe_conn_addresses(pair.client, &local, &remote);
	assert_int_equal(remote.sin_addr.s_addr, FAKE_ADDRESS);
	pair_close(f, &pair);
}

static void a_refused_connection_is_an_error_event(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = FAKE_ADDRESS};
	struct flextoe_conn *conn;
	struct flextoe_event event;
	struct iovec iov[2];

	assert_int_equal(flextoe_connect(f->ctx, NULL, &to, f, &conn), 0);
	event = next(f);
	assert_int_equal(event.type, FLEXTOE_EVENT_ERROR);
	assert_int_equal(event.error, ECONNREFUSED);
	assert_int_equal(flextoe_rx_window(conn, iov), -ECONNREFUSED);
	flextoe_conn_close(conn);
}

static void a_port_may_be_chosen_for_a_connection(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct sockaddr_in from = {.sin_family = AF_INET,
				   .sin_port = htons(555),
				   .sin_addr.s_addr = FAKE_ADDRESS},
			   to;
	struct flextoe_conn *conn;
	struct flextoe_conn *accepted = NULL;

	flextoe_listener_address(pair.listener, &to);
	to.sin_addr.s_addr = FAKE_ADDRESS;
	assert_int_equal(flextoe_connect(f->ctx, &from, &to, NULL, &conn), 0);
	for (int i = 0; i < 2; i++) {
		struct flextoe_event event = next(f);

		if (event.type == FLEXTOE_EVENT_ACCEPT)
			accepted = event.conn;
		else
			assert_int_equal(event.type, FLEXTOE_EVENT_OPEN);
	}
	flextoe_conn_addresses(conn, &from, NULL);
	assert_int_equal(from.sin_port, htons(555));
	flextoe_conn_close(accepted);
	flextoe_conn_close(conn);
	pair_close(f, &pair);
}

static void bytes_go_through_whole_and_in_order(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	uint32_t sent = 0, received = 0, total = 1000003;

	for (int round = 0; received < total && round < 100000; round++) {
		struct iovec iov[2];
		struct flextoe_event events[4];
		ssize_t n = flextoe_tx_window(pair.client, iov);
		size_t take;

		assert_true(n >= 0);
		take = (size_t)n < total - sent ? (size_t)n : total - sent;
		for (size_t i = 0; i < take; i++) {
			uint8_t *at = i < iov[0].iov_len ? (uint8_t *)iov[0].iov_base + i
							 : (uint8_t *)iov[1].iov_base + (i - iov[0].iov_len);
			*at = (uint8_t)((sent + i) * 31 >> 3);
		}
		assert_int_equal(flextoe_tx_commit(pair.client, take), 0);
		sent += (uint32_t)take;
		flextoe_poll(f->ctx, events, 4);
		fake_engine_step(f->engine);
		flextoe_poll(f->ctx, events, 4);
		n = flextoe_rx_window(pair.server, iov);
		assert_true(n >= 0);
		n = n > 777 * (round % 50) ? 777 * (round % 50) : n;
		for (ssize_t i = 0; i < n; i++) {
			uint8_t *at = (size_t)i < iov[0].iov_len
					      ? (uint8_t *)iov[0].iov_base + i
					      : (uint8_t *)iov[1].iov_base + ((size_t)i - iov[0].iov_len);
			assert_int_equal(*at, (uint8_t)((received + (uint32_t)i) * 31 >> 3));
		}
		assert_int_equal(flextoe_rx_done(pair.server, (size_t)n), 0);
		received += (uint32_t)n;
	}
	assert_int_equal(received, total);
	pair_close(f, &pair);
}

static void updates_of_one_connection_are_one_descriptor(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct flextoe_event event;
	struct flextoe_hc hc;
	struct iovec iov[2];

	flextoe_poll(f->ctx, &event, 1);
	fake_engine_step(f->engine);
	for (int i = 0; i < 5; i++) {
		flextoe_tx_window(pair.client, iov);
		flextoe_tx_commit(pair.client, 10);
	}
	flextoe_poll(f->ctx, &event, 1);
	assert_true(fake_hc_next(f->engine, 0, &hc));
	assert_int_equal(hc.update.type, FLEXTOE_HC_UPDATE);
	assert_int_equal(hc.update.tx_head, 50);
	assert_false(fake_hc_next(f->engine, 0, &hc));
	pair_close(f, &pair);
}

static void windows_refuse_too_much(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);

	assert_int_equal(flextoe_tx_commit(pair.client, (1u << FAKE_SHIFT) + 1), -EINVAL);
	assert_int_equal(flextoe_rx_done(pair.client, 1), -EINVAL);
	pair_close(f, &pair);
}

static void a_full_buffer_tells_when_there_is_space(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct flextoe_event event;
	struct iovec iov[2];
	bool writable = false;

	assert_int_equal(flextoe_tx_commit(pair.client, 1u << FAKE_SHIFT), 0);
	assert_int_equal(flextoe_tx_window(pair.client, iov), 0);
	for (int i = 0; i < 10 && !writable; i++) {
		event = next(f);
		writable = event.type == FLEXTOE_EVENT_WRITABLE && event.conn == pair.client;
	}
	assert_true(writable);
	pair_close(f, &pair);
}

static void the_end_of_stream_comes_after_the_bytes(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct iovec iov[2];
	struct flextoe_event event;

	flextoe_tx_commit(pair.client, 3);
	flextoe_shutdown(pair.client);
	assert_int_equal(flextoe_tx_commit(pair.client, 1), -EPIPE);
	event = next(f);
	assert_int_equal(event.type, FLEXTOE_EVENT_READABLE);
	assert_ptr_equal(event.conn, pair.server);
	assert_int_equal(flextoe_rx_window(pair.server, iov), 3);
	flextoe_rx_done(pair.server, 3);
	assert_int_equal(flextoe_rx_window(pair.server, iov), -EPIPE);
	pair_close(f, &pair);
}

static void a_reset_is_told_after_the_bytes(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct flextoe_event event;
	struct iovec iov[2];
	bool error = false;

	flextoe_tx_commit(pair.client, 3);
	flextoe_poll(f->ctx, &event, 1);
	fake_engine_step(f->engine);
	flextoe_conn_abort(pair.client);
	for (int i = 0; i < 5 && !error; i++) {
		event = next(f);
		error = event.type == FLEXTOE_EVENT_ERROR;
	}
	assert_int_equal(event.error, ECONNRESET);
	assert_int_equal(flextoe_rx_window(pair.server, iov), 3);
	flextoe_rx_done(pair.server, 3);
	assert_int_equal(flextoe_rx_window(pair.server, iov), -ECONNRESET);
	assert_int_equal(flextoe_tx_window(pair.server, iov), -ECONNRESET);
	flextoe_conn_close(pair.server);
	flextoe_listener_close(pair.listener);
}

static void notifications_of_another_life_are_ignored(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct flextoe_event event;
	struct flextoe_ntf ntf = {.update = {.conn = pair.client->handle + (1u << FLEXTOE_CONN_INDEX_BITS),
					  .rx_head = 100,
					  .flags = FLEXTOE_NTF_ERROR,
					  .type = FLEXTOE_NTF_UPDATE}};

	fake_notify(f->engine, 0, &ntf);
	ntf.update.conn = 0x3fffff; /* an index beyond the table */
	fake_notify(f->engine, 0, &ntf);
	ntf.update.conn = pair.client->handle;
	ntf.update.flags = 0;
	ntf.update.rx_head = 1u << 30; /* beyond the buffer */
	ntf.update.tx_tail = 77;       /* more than was written */
	fake_notify(f->engine, 0, &ntf);
	flextoe_poll(f->ctx, &event, 1);
	assert_int_equal(pair.client->rx_head, 0);
	assert_int_equal(pair.client->tx_tail, 0);
	assert_int_equal(pair.client->ntf_flags, 0);
	pair_close(f, &pair);
}

static void more_requests_than_the_ring_holds_wait(void **state)
{
	struct fixture *f = *state;
	struct flextoe_listener *listener[FLEXTOE_HC_SLOTS + 8];
	unsigned failed = 0, bound = 0;
	struct flextoe_event event;

	for (unsigned i = 0; i < ARRAY_SIZE(listener); i++)
		assert_int_equal(flextoe_listen(f->ctx, &any, 1, 0, NULL, &listener[i]), 0);
	while (failed + bound < ARRAY_SIZE(listener)) {
		event = next(f);
		assert_int_equal(event.type, FLEXTOE_EVENT_LISTENING);
		if (event.error)
			failed++;
		else
			bound++;
	}
	assert_int_equal(
		bound, 64); /* as many as the engine had room for; the others were refused, not lost */
	for (unsigned i = 0; i < ARRAY_SIZE(listener); i++)
		flextoe_listener_close(listener[i]);
	for (int i = 0; i < 4; i++) {
		flextoe_poll(f->ctx, &event, 1);
		fake_engine_step(f->engine);
	}
}

static void the_rings_go_round_many_times(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);

	for (unsigned i = 0; i < 3 * FLEXTOE_NTF_SLOTS; i++) {
		struct flextoe_event events[4];
		struct iovec iov[2];
		ssize_t n;

		assert_int_equal(flextoe_tx_commit(pair.client, 1), 0);
		flextoe_poll(f->ctx, events, 4);
		fake_engine_step(f->engine);
		flextoe_poll(f->ctx, events, 4);
		n = flextoe_rx_window(pair.server, iov);
		assert_int_equal(n, 1);
		flextoe_rx_done(pair.server, 1);
	}
	pair_close(f, &pair);
}

static void a_dead_context_says_so_once_and_refuses(void **state)
{
	struct fixture *f = *state;
	struct pair pair = pair_open(f);
	struct flextoe_listener *listener;
	struct flextoe_event event;
	struct iovec iov[2];

	fake_engine_kill(f->engine);
	event = next(f);
	assert_int_equal(event.type, FLEXTOE_EVENT_DEAD);
	assert_int_equal(flextoe_poll(f->ctx, &event, 1), 0);
	assert_int_equal(flextoe_tx_window(pair.client, iov), -EIO);
	assert_int_equal(flextoe_rx_window(pair.client, iov), -EIO);
	assert_int_equal(flextoe_listen(f->ctx, &any, 1, 0, NULL, &listener), -EIO);
	assert_int_equal(flextoe_wait(f->ctx, 1000000), 0);
	pair_close(f, &pair);
}

static void wait_sleeps_until_the_time_is_over(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(flextoe_wait(f->ctx, 2000), -ETIMEDOUT);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_listener_accepts_and_says_so),
		T(a_refused_connection_is_an_error_event),
		T(a_port_may_be_chosen_for_a_connection),
		T(bytes_go_through_whole_and_in_order),
		T(updates_of_one_connection_are_one_descriptor),
		T(windows_refuse_too_much),
		T(a_full_buffer_tells_when_there_is_space),
		T(the_end_of_stream_comes_after_the_bytes),
		T(a_reset_is_told_after_the_bytes),
		T(notifications_of_another_life_are_ignored),
		T(more_requests_than_the_ring_holds_wait),
		T(the_rings_go_round_many_times),
		T(a_dead_context_says_so_once_and_refuses),
		T(wait_sleeps_until_the_time_is_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
