/* SPDX-License-Identifier: BSD-3-Clause */
/* The small parts of src/core: record ring, flow table, wheel, checksum, SipHash; and the reassembly list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/checksum.h"
#include "core/flow_table.h"
#include "core/record_ring.h"
#include "core/siphash.h"
#include "core/wheel.h"
#include "datapath/reassembly.h"

static uint64_t rng = 88172645463325252u;
static uint32_t rnd(uint32_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)(rng >> 16) % below;
}

static void ring_keeps_order_through_wraps_and_full(void **state)
{
	struct record_ring ring;
	uint32_t in = 0, out = 0, len;
	unsigned full = 0;

	(void)state;
	assert_int_equal(record_ring_init(&ring, 4096), 0);
	while (out < 20000) {
		for (unsigned n = rnd(12); n; n--) {
			uint32_t size = 4 + rnd(700), room = record_ring_room(&ring);
			uint8_t *p = record_ring_reserve(&ring, size);

			if (!p) {
				assert_true(room < size);
				full++;
				break;
			}
			assert_int_equal((uintptr_t)p % 8, 0);
			memset(p, (int)(in & 0xff), size);
			memcpy(p, &in, 4);
			in++;
			record_ring_publish(&ring);
		}
		for (unsigned n = rnd(12); n; n--) {
			uint8_t *p = record_ring_peek(&ring, &len);
			uint32_t v;

			if (!p) {
				assert_true(in == out);
				assert_true(record_ring_empty(&ring));
				break;
			}
			memcpy(&v, p, 4);
			assert_int_equal(v, out);
			if (len > 4)
				assert_int_equal(p[len - 1], out & 0xff);
			out++;
			record_ring_pop(&ring);
		}
	}
	assert_true(full > 10);
	assert_null(record_ring_reserve(&ring, 2049)); /* too long, whatever is free */
	record_ring_free(&ring);
}

static void flow_table_finds_what_is_in_it_and_nothing_else(void **state)
{
	enum { N = 4000 };
	struct conn *conns = calloc(N, sizeof(*conns));
	bool *present = calloc(N, sizeof(*present));
	struct flow_table table;

	(void)state;
	assert_int_equal(flow_table_init(&table, N, 12345), 0);
	for (uint32_t i = 0; i < N; i++) {
		conns[i].id.local_addr[3] = 1;
		conns[i].id.remote_addr[3] = i / 7;
		conns[i].id.local_port = 80;
		conns[i].id.remote_port = (be16)(i % 7);
		/* few distinct hashes: long chains and full buckets */
		conns[i].id.hash = i % 3 ? flow_hash(&table, flow_key_of(&conns[i].id)) : 1u + 2u * (i % 60);
	}
	for (unsigned step = 0; step < 60000; step++) {
		uint32_t i = rnd(N);
		const struct conn_identity *id = &conns[i].id;
		uint32_t found = flow_find(&table, conns, id->hash, flow_key_of(id));

		assert_int_equal(found, present[i] ? i : CONN_NONE);
		if (present[i]) {
			assert_int_equal(flow_insert(&table, conns, i), -EEXIST);
			assert_int_equal(flow_remove(&table, id->hash, i), 0);
			assert_int_equal(flow_remove(&table, id->hash, i), -ENOENT);
		} else {
			assert_int_equal(flow_insert(&table, conns, i), 0);
		}
		present[i] = !present[i];
	}
	flow_table_free(&table);
	free(conns);
	free(present);
}

/* However many came and went: who is not there is not looked for everywhere. */
static void flow_table_forgets_those_that_are_gone(void **state)
{
	enum { N = 1024 };
	struct conn *conns = calloc(N, sizeof(*conns));
	struct flow_table table;
	uint32_t full = 0;

	(void)state;
	assert_int_equal(flow_table_init(&table, N, 12345), 0);
	for (uint32_t i = 0; i < N; i++)
		conns[i].id.local_port = (be16)i;
	for (unsigned step = 0; step < 200 * N; step++) {
		uint32_t i = step % N;

		if (step >= N)
			assert_int_equal(flow_remove(&table, conns[i].id.hash, i), 0);
		conns[i].id.hash = rnd(0x7fffffffu) * 2u + 1u;
		assert_int_equal(flow_insert(&table, conns, i), 0);
	}
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(flow_find(&table, conns, conns[i].id.hash, flow_key_of(&conns[i].id)), i);
	for (uint32_t i = 0; i < N - 1; i++)
		assert_int_equal(flow_remove(&table, conns[i].id.hash, i), 0);
	/* one is left: every bucket must have an entry where a search ends */
	for (uint32_t b = 0; b <= table.bucket_mask; b++) {
		bool open = false;

		for (unsigned i = 0; i < FLOW_BUCKET; i++)
			open |= table.entries[b * FLOW_BUCKET + i].hash == 0 &&
				table.entries[b * FLOW_BUCKET + i].index == 0;
		full += !open;
	}
	assert_int_equal(full, 0);
	flow_table_free(&table);
	free(conns);
}

static void wheel_hands_out_everything_in_its_time(void **state)
{
	enum { N = 500 };
	struct wheel_entry entries[N] = {0}, *e;
	uint64_t due[N];
	struct wheel wheel;
	uint64_t now = 1000000;
	unsigned left = 0;

	(void)state;
	assert_int_equal(wheel_init(&wheel, 64, 100, now), 0);
	assert_true(wheel_next_us(&wheel, now) == UINT64_MAX);
	for (unsigned i = 0; i < N; i++) {
		due[i] = now + rnd(60000); /* up to ten turns */
		wheel_add(&wheel, &entries[i], due[i]);
		left++;
	}
	for (unsigned i = 0; i < N; i += 5) { /* some are moved, some cancelled */
		due[i] = now + rnd(60000);
		wheel_add(&wheel, &entries[i], due[i]);
	}
	for (unsigned i = 1; i < N; i += 5) {
		wheel_cancel(&wheel, &entries[i]);
		left--;
	}
	while (left) {
		uint64_t next = wheel_next_us(&wheel, now), earliest = UINT64_MAX;

		for (unsigned i = 0; i < N; i++)
			if (wheel_pending(&entries[i]) && due[i] < earliest)
				earliest = due[i];
		assert_true(next <= earliest || earliest <= now);
		now += 1 + rnd(rnd(50) ? 300 : 20000);
		while ((e = wheel_expire(&wheel, now))) {
			unsigned i = (unsigned)(e - entries);

			assert_true(due[i] <= now);
			assert_int_not_equal(i % 5, 1);
			left--;
		}
		for (unsigned i = 0; i < N; i++)
			if (wheel_pending(&entries[i]))
				assert_true(due[i] > now);
	}
	wheel_free(&wheel);
}

/* RFC 1071's definition, a word at a time. */
static uint16_t slow_checksum(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	if (len & 1)
		sum += (uint32_t)p[len - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return __builtin_bswap16((uint16_t)sum);
}

static void checksum_is_that_of_the_rfc(void **state)
{
	uint8_t *buf = malloc(70000), *copy = malloc(70000);

	(void)state;
	for (unsigned i = 0; i < 70000; i++)
		buf[i] = (uint8_t)(rnd(4) ? rnd(256) : 255);
	for (unsigned round = 0; round < 3000; round++) {
		size_t len = round < 300 ? round : rnd(round % 50 ? 2000 : 66000), off = rnd(64);
		uint16_t want = slow_checksum(buf + off, len);

		assert_int_equal(checksum_fold(checksum_add(buf + off, len, 0)), want);
		assert_int_equal(checksum_fold(checksum_copy(copy, buf + off, len, 0)), want);
		assert_memory_equal(copy, buf + off, len);
	}
	free(buf);
	free(copy);
}

static void siphash_gives_the_papers_value(void **state)
{
	uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
	uint8_t in[15];

	(void)state;
	for (unsigned i = 0; i < 15; i++)
		in[i] = (uint8_t)i;
	assert_true(siphash(key, in, 15) == 0xa129ca6149be45e5u); /* appendix A */
}

/* Random placements against a bit map of what has arrived. */
static void reassembly_agrees_with_a_bit_map(void **state)
{
	enum { LEN = 400 };
	struct ooo_pool pool;

	(void)state;
	assert_int_equal(ooo_pool_init(&pool, 1), 0);
	for (unsigned round = 0; round < 2000; round++) {
		uint32_t base = rnd(0xffffffffu);
		struct tcp_state t = {.rcv_nxt = base, .ooo = CONN_NONE};
		bool got[LEN] = {false};
		uint32_t next = 0;

		while (next < LEN) {
			uint32_t start = next + (rnd(3) ? rnd(60) : 0), end;

			if (start >= LEN)
				start = LEN - 1;
			end = start + 1 + rnd(40);
			if (end > LEN)
				end = LEN;
			if (start > next) {
				if (!reassembly_add(&t, &pool, base + start, base + end, false))
					continue;
				for (uint32_t i = start; i < end; i++)
					got[i] = true;
				continue;
			}
			for (uint32_t i = start; i < end; i++)
				got[i] = true;
			t.rcv_nxt = base + end;
			if (t.ooo != CONN_NONE)
				assert_false(reassembly_join(&t, &pool));
			while (next < LEN && got[next])
				next++;
			assert_int_equal(t.rcv_nxt, base + next);
		}
		assert_int_equal(t.ooo, CONN_NONE);
		assert_int_equal(pool.used, 0);
	}
	ooo_pool_free(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_keeps_order_through_wraps_and_full),
		cmocka_unit_test(flow_table_finds_what_is_in_it_and_nothing_else),
		cmocka_unit_test(flow_table_forgets_those_that_are_gone),
		cmocka_unit_test(wheel_hands_out_everything_in_its_time),
		cmocka_unit_test(checksum_is_that_of_the_rfc),
		cmocka_unit_test(siphash_gives_the_papers_value),
		cmocka_unit_test(reassembly_agrees_with_a_bit_map),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
