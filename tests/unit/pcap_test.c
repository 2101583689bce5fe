/* SPDX-License-Identifier: BSD-3-Clause */
/* The pcap tee: what is in the file after frames have passed, read back byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/device.h"

static char path[] = "/tmp/flextoe-pcap-test-XXXXXX";
static uint8_t file[1 << 20];
static size_t file_len;

static void file_read(void)
{
	FILE *f = fopen(path, "rb");

	assert_non_null(f);
	file_len = fread(file, 1, sizeof(file), f);
	fclose(f);
}

/* The record at offset at; returns the offset of the next. */
static size_t record(size_t at, const void *bytes, uint32_t len)
{
	uint32_t header[4];

	assert_true(at + sizeof(header) + len <= file_len);
	memcpy(header, file + at, sizeof(header));
	assert_true(header[0] > 1600000000u);
	assert_true(header[1] < 1000000000u);
	assert_int_equal(header[2], len);
	assert_int_equal(header[3], len);
	assert_memory_equal(file + at + 16, bytes, len);
	return at + 16 + len;
}

static struct device *open_tee(const struct link_config *config)
{
	struct device *loop, *tee;

	assert_int_equal(link_open_loop(config, &loop, NULL), 0);
	assert_int_equal(pcap_open_tee(path, loop, &tee, NULL), 0);
	assert_string_equal(tee->ops->name, "pcap");
	assert_int_equal(tee->mtu, loop->mtu);
	assert_int_equal(tee->caps, loop->caps);
	return tee;
}

static void test_both_ways(void **state)
{
	const struct link_config config = {.slots = 16, .max_tso_bytes = 65000};
	struct device *tee = open_tee(&config);
	uint8_t big[65066], small[60];
	struct frame frames[4];
	size_t at = 24;

	(void)state;
	memset(big, 0xaa, sizeof(big));
	memset(small, 0x55, sizeof(small));
	assert_int_equal(tee->ops->tx_alloc(tee, frames, 2), 2);
	memcpy(frames[0].data, small, frames[0].len = sizeof(small));
	memcpy(frames[1].data, big, frames[1].len = sizeof(big));
	assert_int_equal(tee->ops->tx_burst(tee, frames, 2), 2);
	tee->ops->tx_flush(tee);
	assert_int_equal(tee->ops->rx_burst(tee, frames, 4), 2);
	tee->ops->rx_release(tee, frames, 2);
	/* An idle round writes out what was held back. */
	assert_int_equal(tee->ops->rx_burst(tee, frames, 4), 0);
	file_read();
	assert_memory_equal(file, "\x4d\x3c\xb2\xa1\x02\x00\x04\x00\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0", 24);
	for (unsigned way = 0; way < 2; way++) {
		at = record(at, small, sizeof(small));
		at = record(at, big, sizeof(big));
	}
	assert_int_equal(at, file_len);
	tee->ops->close(tee);
}

static void test_many_and_sleep(void **state)
{
	const struct link_config config = {.slots = 64};
	struct device *tee = open_tee(&config);
	struct frame frames[40];
	uint8_t bytes[64];
	size_t at = 24;

	(void)state;
	assert_int_equal(tee->ops->tx_alloc(tee, frames, 40), 40);
	for (unsigned i = 0; i < 40; i++)
		memset(frames[i].data, (int)i, frames[i].len = 64);
	assert_int_equal(tee->ops->tx_burst(tee, frames, 40), 40);
	assert_true(tee->ops->wait_begin(tee));
	file_read();
	for (unsigned i = 0; i < 40; i++) {
		memset(bytes, (int)i, 64);
		at = record(at, bytes, 64);
	}
	assert_int_equal(at, file_len);
	tee->ops->close(tee);
	file_read();
	assert_int_equal(at, file_len);
}

/* A device that takes one frame of each burst. */
static unsigned one_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev;
	(void)frames;
	return n ? 1 : 0;
}

static void one_close(struct device *dev)
{
	(void)dev;
}

static void test_fragments_and_full(void **state)
{
	const struct device_ops ops = {.name = "one", .tx_burst = one_tx_burst, .close = one_close};
	struct device one = {.ops = &ops, .mtu = 1500}, *tee;
	struct frame frames[3] = {0};
	uint8_t head[] = "head of a frame", whole[64];

	(void)state;
	assert_int_equal(pcap_open_tee(path, &one, &tee, NULL), 0);
	for (unsigned i = 0; i < 3; i++) {
		frames[i].data = head;
		frames[i].len = 15;
		frames[i].frag_count = 2;
		frames[i].frag[0].data = (const uint8_t *)", first";
		frames[i].frag[0].len = 7;
		frames[i].frag[1].data = (const uint8_t *)", second";
		frames[i].frag[1].len = 8;
	}
	/* Only what the device took is in the file. */
	assert_int_equal(tee->ops->tx_burst(tee, frames, 3), 1);
	tee->ops->close(tee);
	file_read();
	memcpy(whole, "head of a frame, first, second", 30);
	assert_int_equal(record(24, whole, 30), file_len);
}

static void test_refused(void **state)
{
	struct device_error err;
	struct device *loop, *tee;
	const struct link_config config = {.slots = 16};

	(void)state;
	assert_int_equal(link_open_loop(&config, &loop, NULL), 0);
	assert_int_equal(pcap_open_tee("/nowhere/at/all.pcap", loop, &tee, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/at/all.pcap"));
	/* A full disk ends the capture, not the traffic. */
	if (!access("/dev/full", W_OK)) {
		assert_int_equal(pcap_open_tee("/dev/full", loop, &tee, &err), -ENOSPC);
	}
	loop->ops->close(loop);
}

static int setup(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways),
		cmocka_unit_test(test_many_and_sleep),
		cmocka_unit_test(test_fragments_and_full),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
