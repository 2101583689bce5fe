/* SPDX-License-Identifier: BSD-3-Clause */
/* Payload buffers: aligned, disjoint, reused last in first out, split when need be, and given back when cold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_datapath.h"

#define MIB (1u << 20)

static struct buffers b;

static uint32_t take(unsigned shift)
{
	uint32_t page = 0;

	assert_int_equal(app_buffers_alloc(&b, shift, &page), 0);
	return page;
}

static void last_in_first_out(void **state)
{
	uint32_t x, y;

	(void)state;
	app_buffers_init(&b, -1, NULL, 10000, 64 * MIB);
	x = take(18);
	y = take(18);
	assert_int_equal(x, 3); /* the first whole page */
	assert_int_equal(y, 3 + 64);
	assert_int_equal(b.used_bytes, 2u << 18);
	app_buffers_release(&b, 18, x);
	app_buffers_release(&b, 18, y);
	assert_int_equal(take(18), y);
	assert_int_equal(take(18), x);
	assert_int_equal(b.warm_bytes, 0);
	app_buffers_free(&b);
}

static void bad_sizes(void **state)
{
	uint32_t page;

	(void)state;
	app_buffers_init(&b, -1, NULL, 0, MIB);
	assert_int_equal(app_buffers_alloc(&b, 11, &page), -EINVAL);
	assert_int_equal(app_buffers_alloc(&b, 27, &page), -EINVAL);
	assert_int_equal(app_buffers_alloc(&b, 21, &page), -ENOBUFS);
	assert_int_equal(app_buffers_alloc(&b, 20, &page), 0);
	assert_int_equal(app_buffers_alloc(&b, 12, &page), -ENOBUFS);
	app_buffers_free(&b);
}

static void split_when_used_up(void **state)
{
	uint32_t big, pages[300], page;
	uint8_t seen[256] = {0};

	(void)state;
	app_buffers_init(&b, -1, NULL, 0, MIB);
	big = take(20);
	app_buffers_release(&b, 20, big);
	for (int i = 0; i < 256; i++) {
		pages[i] = take(12);
		assert_in_range(pages[i], 0, 255);
		assert_int_equal(seen[pages[i]]++, 0);
	}
	assert_int_equal(app_buffers_alloc(&b, 12, &page), -ENOBUFS);
	assert_int_equal(b.warm_bytes, 0);
	for (int i = 0; i < 256; i++)
		app_buffers_release(&b, 12, pages[i]);
	assert_int_equal(b.warm_bytes, MIB);
	assert_int_equal(b.used_bytes, 0);
	app_buffers_free(&b);
}

/* Random sizes and order: buffers never overlap, and everything comes back. */
static void never_overlap(void **state)
{
	static uint8_t owner[65536];
	struct {
		uint32_t page;
		unsigned shift;
	} held[200];
	unsigned count = 0, failed = 0;

	(void)state;
	srand(1);
	app_buffers_init(&b, -1, NULL, 0, 256 * MIB);
	for (int i = 0; i < 200000; i++) {
		if (count < 200 && rand() % 2) {
			unsigned shift = 12u + (unsigned)rand() % 11u;
			uint32_t page;

			if (app_buffers_alloc(&b, shift, &page) < 0) {
				failed++;
				continue;
			}
			assert_true((uint64_t)page + (1u << (shift - 12)) <= 65536);
			for (uint32_t p = 0; p < 1u << (shift - 12); p++)
				assert_int_equal(owner[page + p]++, 0);
			held[count].page = page;
			held[count++].shift = shift;
		} else if (count) {
			unsigned pick = (unsigned)rand() % count;

			for (uint32_t p = 0; p < 1u << (held[pick].shift - 12); p++)
				owner[held[pick].page + p] = 0;
			app_buffers_release(&b, held[pick].shift, held[pick].page);
			held[pick] = held[--count];
		}
	}
	while (count) {
		count--;
		app_buffers_release(&b, held[count].shift, held[count].page);
	}
	assert_int_equal(b.used_bytes, 0);
	(void)failed;
	app_buffers_free(&b);
}

static uint64_t resident(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512u;
}

static void a_past_peak_does_not_stay(void **state)
{
	uint64_t size = 256ull * MIB;
	int fd = memfd_create("buffers", 0);
	uint32_t pages[128];
	uint8_t *p;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	app_buffers_init(&b, fd, p, 0, size);
	for (int i = 0; i < 128; i++) {
		pages[i] = take(20);
		memset(p + ((uint64_t)pages[i] << 12), i + 1, MIB);
	}
	assert_true(resident(fd) >= 128ull * MIB);
	for (int i = 0; i < 128; i++)
		app_buffers_release(&b, 20, pages[i]);
	assert_int_equal(app_buffers_trim(&b, 10), 10);
	while (app_buffers_trim(&b, 10))
		;
	assert_true(resident(fd) <= BUFFERS_KEEP_BYTES);
	assert_true(b.warm_bytes <= BUFFERS_KEEP_BYTES);
	assert_int_equal(take(20), pages[127]); /* the warm ones first */
	assert_int_equal(p[(uint64_t)pages[127] << 12], 128);
	for (int i = 0; i < 127; i++)
		take(20);
	assert_int_equal(b.warm_bytes, 0);
	app_buffers_free(&b);
	munmap(p, size);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(last_in_first_out),
		cmocka_unit_test(bad_sizes),
		cmocka_unit_test(split_when_used_up),
		cmocka_unit_test(never_overlap),
		cmocka_unit_test(a_past_peak_does_not_stay),
	};

	return cmocka_run_group_tests_name("buffers", tests, NULL, NULL);
}
