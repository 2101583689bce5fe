/* SPDX-License-Identifier: BSD-3-Clause */
/* The bad wire: each fault alone, all together, the same again by seed, and every frame accounted for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "device/device.h"

#define FRAMES 10000u

static uint8_t times[FRAMES];	   /* how often each frame arrived */
static uint32_t order[FRAMES * 2]; /* numbers in the order of arrival */
static uint32_t arrived, corrupted;

/* A pair whose end a, b or both are behind a bad wire. */
static void open_pair(
	const struct fault_config *config, bool bad_a, bool bad_b, struct device **a, struct device **b)
{
	const struct link_config link = {.slots = 256};
	struct device *good_a, *good_b;

	assert_int_equal(link_open_pair(&link, &good_a, &good_b, NULL), 0);
	*a = good_a;
	*b = good_b;
	if (bad_a)
		assert_int_equal(fault_open(config, good_a, a, NULL), 0);
	if (bad_b)
		assert_int_equal(fault_open(config, good_b, b, NULL), 0);
}

static void receive(struct device *b)
{
	struct frame frames[16];
	unsigned n = b->ops->rx_burst(b, frames, 16);

	for (unsigned i = 0; i < n; i++) {
		uint32_t number, check;

		assert_int_equal(frames[i].len, 64);
		memcpy(&number, frames[i].data + 14, 4);
		memcpy(&check, frames[i].data + 18, 4);
		arrived++;
		for (unsigned k = 22; k < 64; k++)
			if (frames[i].data[k] != (uint8_t)k)
				check = number;
		for (unsigned k = 0; k < 14; k++)
			if (frames[i].data[k])
				check = number;
		if (number != ~check) {
			assert_false(frames[i].flags & FRAME_CSUM_GOOD);
			corrupted++;
			continue;
		}
		assert_true(number < FRAMES);
		assert_true(frames[i].flags & FRAME_CSUM_GOOD);
		times[number]++;
		order[arrived - 1] = number;
	}
	b->ops->rx_release(b, frames, n);
}

/* Sends FRAMES numbered frames from a to b, in bursts, and lets the wire come to rest. */
static void run(struct device *a, struct device *b)
{
	memset(times, 0, sizeof(times));
	memset(order, 0xff, sizeof(order));
	arrived = corrupted = 0;
	for (uint32_t sent = 0; sent < FRAMES;) {
		struct frame frames[8];
		unsigned n = a->ops->tx_alloc(a, frames, 8);

		for (unsigned i = 0; i < n; i++) {
			uint32_t number = sent++, check = ~number;

			memset(frames[i].data, 0, 14);
			memcpy(frames[i].data + 14, &number, 4);
			memcpy(frames[i].data + 18, &check, 4);
			for (unsigned k = 22; k < 64; k++)
				frames[i].data[k] = (uint8_t)k;
			frames[i].len = 64;
			frames[i].flags = FRAME_CSUM_OFFLOAD;
		}
		assert_int_equal(a->ops->tx_burst(a, frames, n), n);
		a->ops->tx_flush(a);
		receive(b);
	}
	for (unsigned i = 0; i < 5000; i++) {
		a->ops->tx_flush(a);
		receive(b);
	}
	assert_false(a->ops->wait_begin(a)); /* nothing is held back any more */
	assert_false(b->ops->wait_begin(b));
}

static uint32_t missing(void)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < FRAMES; i++)
		count += !times[i];
	return count;
}

static void close_pair(struct device *a, struct device *b)
{
	a->ops->close(a);
	b->ops->close(b);
}

static void one_fault(const struct fault_config *config, bool bad_a, struct fault_counts *counts)
{
	struct fault_counts other;
	struct device *a, *b;

	open_pair(config, bad_a, !bad_a, &a, &b);
	run(a, b);
	if (bad_a)
		fault_counts_get(a, &other, counts);
	else
		fault_counts_get(b, counts, &other);
	assert_int_equal(other.dropped + other.duplicated + other.reordered + other.corrupted, 0);
	close_pair(a, b);
}

/* A tenth of all frames, give or take: 10,000 draws, standard deviation 30. */
static void is_tenth(uint64_t count)
{
	assert_in_range(count, 850, 1150);
}

static void test_none(void **state)
{
	const struct fault_config config = {.seed = 1};
	struct fault_counts counts;

	(void)state;
	one_fault(&config, true, &counts);
	assert_int_equal(arrived, FRAMES);
	for (uint32_t i = 0; i < FRAMES; i++)
		assert_int_equal(order[i], i);
}

static void test_drop(void **state)
{
	const struct fault_config config = {.seed = 1, .drop_ppm = 100000};
	struct fault_counts counts;

	(void)state;
	for (unsigned side = 0; side < 2; side++) {
		one_fault(&config, side, &counts);
		is_tenth(counts.dropped);
		assert_int_equal(arrived, FRAMES - counts.dropped);
		assert_int_equal(missing(), counts.dropped);
	}
}

static void test_duplicate(void **state)
{
	const struct fault_config config = {.seed = 2, .duplicate_ppm = 100000};
	struct fault_counts counts;

	(void)state;
	for (unsigned side = 0; side < 2; side++) {
		one_fault(&config, side, &counts);
		is_tenth(counts.duplicated);
		assert_int_equal(arrived, FRAMES + counts.duplicated);
		assert_int_equal(missing(), 0);
	}
}

static void test_reorder(void **state)
{
	const struct fault_config config = {.seed = 3, .reorder_ppm = 100000, .reorder_depth = 20};
	struct fault_counts counts;
	uint32_t late = 0, highest = 0;

	(void)state;
	for (unsigned side = 0; side < 2; side++) {
		one_fault(&config, side, &counts);
		is_tenth(counts.reordered);
		assert_int_equal(arrived, FRAMES);
		assert_int_equal(missing(), 0);
		late = highest = 0;
		for (uint32_t i = 0; i < FRAMES; i++) {
			if (order[i] < highest)
				late++;
			else
				highest = order[i];
			/* Held back for the depth, and the size of a burst. */
			assert_true(highest - order[i] <= 20 + 16 + 2);
		}
		assert_true(late > counts.reordered * 8 / 10);
	}
}

static void test_corrupt(void **state)
{
	const struct fault_config config = {.seed = 4, .corrupt_ppm = 100000};
	struct fault_counts counts;

	(void)state;
	one_fault(&config, false, &counts);
	is_tenth(counts.corrupted);
	assert_int_equal(arrived, FRAMES);
	assert_int_equal(corrupted, counts.corrupted);
	assert_int_equal(missing(), corrupted);
}

static void test_all_and_again(void **state)
{
	const struct fault_config config = {.seed = 5,
		.drop_ppm = 50000,
		.duplicate_ppm = 50000,
		.reorder_ppm = 50000,
		.reorder_depth = 64};
	static uint32_t before[FRAMES * 2];
	struct fault_counts rx, tx, unused;
	struct device *a, *b;

	(void)state;
	for (unsigned again = 0; again < 2; again++) {
		open_pair(&config, true, true, &a, &b);
		run(a, b);
		fault_counts_get(a, &unused, &tx);
		fault_counts_get(b, &rx, &unused);
		assert_int_equal(arrived, FRAMES + tx.duplicated + rx.duplicated - tx.dropped - rx.dropped);
		if (again)
			assert_memory_equal(before, order, sizeof(order));
		memcpy(before, order, sizeof(order));
		close_pair(a, b);
	}
}

static void test_capabilities(void **state)
{
	const struct link_config link = {.slots = 16, .max_tso_bytes = 65000};
	const struct fault_config gentle = {.drop_ppm = 1}, corrupting = {.corrupt_ppm = 1};
	struct device *loop, *fault;
	uint32_t caps;

	(void)state;
	assert_int_equal(link_open_loop(&link, &loop, NULL), 0);
	caps = loop->caps;
	assert_int_equal(fault_open(&gentle, loop, &fault, NULL), 0);
	assert_int_equal(fault->caps, caps);
	fault->ops->close(fault);
	assert_int_equal(link_open_loop(&link, &loop, NULL), 0);
	assert_int_equal(fault_open(&corrupting, loop, &fault, NULL), 0);
	assert_false(fault->caps & (DEVICE_TSO | DEVICE_TX_CSUM));
	assert_int_equal(fault->max_tso_bytes, 0);
	fault->ops->close(fault);
}

static void test_refused(void **state)
{
	const struct fault_config too_much = {.drop_ppm = 600000, .corrupt_ppm = 600000};
	const struct fault_config too_deep = {.reorder_ppm = 1, .reorder_depth = 65};
	const struct link_config link = {.slots = 16};
	struct device *loop, *fault;
	struct device_error err;

	(void)state;
	assert_int_equal(link_open_loop(&link, &loop, NULL), 0);
	assert_int_equal(fault_open(&too_much, loop, &fault, &err), -EINVAL);
	assert_int_equal(fault_open(&too_deep, loop, &fault, &err), -EINVAL);
	loop->ops->close(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_drop),
		cmocka_unit_test(test_duplicate),
		cmocka_unit_test(test_reorder),
		cmocka_unit_test(test_corrupt),
		cmocka_unit_test(test_all_and_again),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
