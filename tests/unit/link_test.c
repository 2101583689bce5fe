/* SPDX-License-Identifier: BSD-3-Clause */
/* The memory link: pairs, a loop, two ends over a descriptor, doorbells, and a hostile other side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/link.h"

static const struct link_config config = {
	.slots = 16, .mtu = 1500, .mac_a = {2, 0, 0, 0, 0, 1}, .mac_b = {2, 0, 0, 0, 0, 2}};

/* Sends one frame of len bytes that all say `mark`. */
static void out(struct device *dev, uint8_t mark, uint32_t len)
{
	struct frame frame;

	assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
	assert_true(frame.room >= len);
	memset(frame.data, mark, len);
	frame.len = len;
	assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
	dev->ops->tx_flush(dev);
}

static void in(struct device *dev, uint8_t mark, uint32_t len)
{
	struct frame frame;

	assert_int_equal(dev->ops->rx_burst(dev, &frame, 1), 1);
	assert_int_equal(frame.len, len);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(frame.data[i], mark);
	dev->ops->rx_release(dev, &frame, 1);
}

static void nothing(struct device *dev)
{
	struct frame frame;

	assert_int_equal(dev->ops->rx_burst(dev, &frame, 1), 0);
}

static bool readable(struct device *dev)
{
	struct pollfd p = {.fd = dev->wait_fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void test_pair(void **state)
{
	struct device *a, *b;
	struct device_stats stats;

	(void)state;
	assert_int_equal(link_open_pair(&config, &a, &b, NULL), 0);
	assert_int_equal(a->mtu, 1500);
	assert_int_equal(a->caps, DEVICE_RX_CSUM | DEVICE_TX_CSUM);
	assert_memory_equal(a->mac, config.mac_a, 6);
	assert_memory_equal(b->mac, config.mac_b, 6);
	nothing(a);
	nothing(b);
	for (unsigned round = 0; round < 100; round++) {
		out(a, (uint8_t)round, 60 + round);
		out(b, (uint8_t)~round, 1514);
		in(b, (uint8_t)round, 60 + round);
		in(a, (uint8_t)~round, 1514);
	}
	nothing(a);
	nothing(b);
	a->ops->stats(a, &stats);
	assert_int_equal(stats.tx_frames, 100);
	assert_int_equal(stats.rx_bytes, 100 * 1514);
	a->ops->close(a);
	out(b, 1, 60); /* the memory lives as long as either end */
	b->ops->close(b);
}

static void test_full(void **state)
{
	struct device *a, *b;
	struct frame frames[32], more;

	(void)state;
	assert_int_equal(link_open_pair(&config, &a, &b, NULL), 0);
	assert_int_equal(a->ops->tx_alloc(a, frames, 32), 16);
	assert_int_equal(a->ops->tx_alloc(a, &more, 1), 0);
	a->ops->tx_free(a, &frames[12], 4);
	for (unsigned i = 0; i < 12; i++)
		frames[i].len = 60;
	assert_int_equal(a->ops->tx_burst(a, frames, 12), 12);
	assert_int_equal(a->ops->tx_alloc(a, frames, 32), 4);
	a->ops->tx_free(a, frames, 4);
	/* Given back in another order than received. */
	assert_int_equal(b->ops->rx_burst(b, frames, 32), 12);
	b->ops->rx_release(b, &frames[6], 6);
	b->ops->rx_release(b, frames, 6);
	assert_int_equal(a->ops->tx_alloc(a, frames, 32), 16);
	a->ops->tx_free(a, frames, 16);
	/* The buffer that came back last is used first. */
	out(a, 1, 60);
	assert_int_equal(b->ops->rx_burst(b, frames, 1), 1);
	b->ops->rx_release(b, frames, 1);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(a->ops->tx_alloc(a, &more, 1), 1);
		assert_int_equal(more.cookie, frames[0].cookie);
		more.len = 60;
		a->ops->tx_burst(a, &more, 1);
		assert_int_equal(b->ops->rx_burst(b, &more, 1), 1);
		b->ops->rx_release(b, &more, 1);
	}
	a->ops->close(a);
	b->ops->close(b);
}

static void test_loop(void **state)
{
	struct device *loop;

	(void)state;
	assert_int_equal(link_open_loop(&config, &loop, NULL), 0);
	for (unsigned i = 0; i < 50; i++) {
		out(loop, (uint8_t)i, 100);
		out(loop, (uint8_t)(i + 1), 200);
		in(loop, (uint8_t)i, 100);
		in(loop, (uint8_t)(i + 1), 200);
	}
	nothing(loop);
	loop->ops->close(loop);
}

static void test_offload_flags(void **state)
{
	struct link_config super = config;
	struct device *a, *b;
	struct frame frame;

	(void)state;
	super.max_tso_bytes = 65000;
	assert_int_equal(link_open_pair(&super, &a, &b, NULL), 0);
	assert_true(a->caps & DEVICE_TSO);
	assert_true(a->caps & DEVICE_RX_COALESCED);
	assert_int_equal(a->max_tso_bytes, 65000);
	a->ops->tx_alloc(a, &frame, 1);
	assert_true(frame.room >= 65000 + 134);
	frame.len = 65000 + 66;
	frame.data[65065] = 7;
	frame.flags = FRAME_TSO | FRAME_CSUM_OFFLOAD;
	frame.gso_size = 1448;
	frame.hdr_len = 66;
	assert_int_equal(a->ops->tx_burst(a, &frame, 1), 1);
	assert_int_equal(b->ops->rx_burst(b, &frame, 1), 1);
	assert_int_equal(frame.len, 65066);
	assert_int_equal(frame.data[65065], 7);
	assert_int_equal(frame.flags, FRAME_TSO | FRAME_CSUM_GOOD);
	assert_int_equal(frame.gso_size, 1448);
	assert_int_equal(frame.hdr_len, 66);
	b->ops->rx_release(b, &frame, 1);
	/* A checksum that the sender made itself is for the receiver to verify. */
	out(a, 1, 60);
	assert_int_equal(b->ops->rx_burst(b, &frame, 1), 1);
	assert_int_equal(frame.flags, 0);
	b->ops->rx_release(b, &frame, 1);
	a->ops->close(a);
	b->ops->close(b);
}

static void test_doorbell(void **state)
{
	struct device *a, *b;
	struct link *evil;

	(void)state;
	assert_int_equal(link_open_pair(&config, &a, &b, NULL), 0);
	out(a, 1, 60);
	assert_false(readable(b));	    /* awake: no system call is made for it */
	assert_true(b->ops->wait_begin(b)); /* a frame is there: do not sleep */
	in(b, 1, 60);
	assert_false(b->ops->wait_begin(b));
	assert_false(readable(b));
	out(a, 2, 60);
	out(a, 3, 60);
	assert_true(readable(b));
	b->ops->wait_end(b);
	assert_false(readable(b));
	in(b, 2, 60);
	in(b, 3, 60);
	/* The sender has cleared the word and writes only after we looked: one wake too many, not endless
	 * ones. */
	assert_false(b->ops->wait_begin(b));
	evil = container_of(b, struct link, dev);
	evil->rx.shared->asleep = 0;
	b->ops->wait_end(b);
	assert_int_equal(write(b->wait_fd, &(uint64_t){1}, 8), 8);
	assert_false(b->ops->wait_begin(b));
	assert_true(readable(b));
	b->ops->wait_end(b);
	assert_false(readable(b));
	/* Woken for another reason. */
	assert_false(b->ops->wait_begin(b));
	b->ops->wait_end(b);
	out(a, 4, 60);
	assert_false(readable(b));
	in(b, 4, 60);
	a->ops->close(a);
	b->ops->close(b);
}

static void test_two_processes(void **state)
{
	struct device *a;
	int fd, status;
	pid_t child;

	(void)state;
	assert_int_equal(link_create(&config, &fd, &a, NULL), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		struct device *b, *again;
		unsigned echoed = 0;

		if (link_attach(fd, &b, NULL) || link_attach(fd, &again, NULL) != -EPROTO)
			_exit(1);
		if (memcmp(b->mac, config.mac_b, 6))
			_exit(2);
		while (echoed < 200) {
			struct frame got[8], reply[8];
			unsigned n = b->ops->rx_burst(b, got, 8);

			if (!n) {
				struct pollfd p = {.fd = b->wait_fd, .events = POLLIN};

				if (b->ops->wait_begin(b))
					continue;
				if (poll(&p, 1, 5000) != 1)
					_exit(3);
				b->ops->wait_end(b);
				continue;
			}
			if (b->ops->tx_alloc(b, reply, n) != n)
				_exit(4);
			for (unsigned i = 0; i < n; i++) {
				memcpy(reply[i].data, got[i].data, got[i].len);
				reply[i].len = got[i].len;
			}
			b->ops->rx_release(b, got, n);
			b->ops->tx_burst(b, reply, n);
			b->ops->tx_flush(b);
			echoed += n;
		}
		b->ops->close(b);
		_exit(0);
	}
	close(fd);
	for (unsigned i = 0; i < 200; i++) {
		struct pollfd p = {.fd = a->wait_fd, .events = POLLIN};

		out(a, (uint8_t)i, 60 + i);
		if (!a->ops->wait_begin(a)) {
			assert_int_equal(poll(&p, 1, 5000), 1);
			a->ops->wait_end(a);
		}
		in(a, (uint8_t)i, 60 + i);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	a->ops->close(a);
}

/* A peer that is killed in the middle of its work: we are told that nothing goes any more, and go on. */
static void test_peer_killed(void **state)
{
	for (unsigned round = 0; round < 5; round++) {
		struct frame frames[32];
		struct device *a;
		struct device_stats stats;
		uint64_t end_us;
		unsigned got = 0, n;
		int fd;
		pid_t child;

		(void)state;
		assert_int_equal(link_create(&config, &fd, &a, NULL), 0);
		child = fork();
		assert_true(child >= 0);
		if (!child) {
			struct device *b;

			if (link_attach(fd, &b, NULL))
				_exit(1);
			for (;;) {
				n = b->ops->rx_burst(b, frames, 8);
				b->ops->rx_release(b, frames, n);
				n = b->ops->tx_alloc(b, frames, 8);
				for (unsigned i = 0; i < n; i++)
					memset(frames[i].data, 7, frames[i].len = 60);
				b->ops->tx_burst(b, frames, n);
				b->ops->tx_flush(b);
			}
		}
		close(fd);
		/* Both directions in full swing, until it is gone in the midst of them. */
		end_us = clock_us() + 20000;
		while (clock_us() < end_us || got == 0) {
			n = a->ops->rx_burst(a, frames, 8);
			for (unsigned i = 0; i < n; i++)
				assert_int_equal(frames[i].len, 60);
			a->ops->rx_release(a, frames, n);
			got += n;
			n = a->ops->tx_alloc(a, frames, 8);
			for (unsigned i = 0; i < n; i++)
				frames[i].len = 100;
			a->ops->tx_burst(a, frames, n);
			a->ops->tx_flush(a);
		}
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, NULL, 0), child);
		while ((n = a->ops->rx_burst(a, frames, 32)))
			a->ops->rx_release(a, frames, n);
		/* What it had read or not comes to at most all the buffers; then there are none, and no hang.
		 */
		for (unsigned i = 0; i < 100; i++) {
			n = a->ops->tx_alloc(a, frames, 32);
			for (unsigned k = 0; k < n; k++)
				frames[k].len = 60;
			a->ops->tx_burst(a, frames, n);
			a->ops->tx_flush(a);
		}
		assert_int_equal(a->ops->tx_alloc(a, frames, 32), 0);
		assert_false(a->ops->wait_begin(a));
		a->ops->wait_end(a);
		a->ops->stats(a, &stats);
		assert_int_equal(stats.rx_errors, 0);
		a->ops->close(a);
	}
}

static void *sender(void *arg)
{
	struct device *a = arg;
	uint32_t sent = 0;

	while (sent < 100000) {
		struct frame frames[8];
		unsigned n = a->ops->tx_alloc(a, frames, 8);

		if (!n)
			sched_yield();
		for (unsigned i = 0; i < n; i++) {
			uint32_t number = sent++;

			memcpy(frames[i].data, &number, 4);
			frames[i].len = 64;
		}
		a->ops->tx_burst(a, frames, n);
		a->ops->tx_flush(a);
	}
	return NULL;
}

static void test_two_threads(void **state)
{
	struct device *a, *b;
	uint32_t expected = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(link_open_pair(&config, &a, &b, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, sender, a), 0);
	while (expected < 100000) {
		struct frame frames[16];
		unsigned n = b->ops->rx_burst(b, frames, 16);

		if (!n && !b->ops->wait_begin(b)) {
			struct pollfd p = {.fd = b->wait_fd, .events = POLLIN};

			assert_int_equal(poll(&p, 1, 5000), 1);
			b->ops->wait_end(b);
		}
		for (unsigned i = 0; i < n; i++, expected++)
			assert_memory_equal(frames[i].data, &expected, 4);
		b->ops->rx_release(b, frames, n);
	}
	pthread_join(thread, NULL);
	a->ops->close(a);
	b->ops->close(b);
}

/* What the other process could do to us, done by hand in the shared memory. */
static void test_hostile_sender(void **state)
{
	struct device *a, *b;
	struct link *evil;
	struct frame frames[32];
	struct device_stats stats;

	(void)state;
	assert_int_equal(link_open_pair(&config, &a, &b, NULL), 0);
	evil = container_of(a, struct link, dev);
	evil->tx.sent[0] = (struct link_slot){.buffer = 16, .len = 60};
	evil->tx.sent[1] = (struct link_slot){.buffer = 0xffffffff, .len = 60};
	evil->tx.sent[2] = (struct link_slot){.buffer = 1, .len = evil->tx.room + 1};
	evil->tx.sent[3] = (struct link_slot){.buffer = 1, .len = 13};
	evil->tx.sent[4] = (struct link_slot){.buffer = 1, .len = 60, .flags = 0xffff};
	evil->tx.shared->sent_head = 5;
	assert_int_equal(b->ops->rx_burst(b, frames, 32), 1);
	assert_int_equal(frames[0].flags, FRAME_CSUM_GOOD | FRAME_TSO);
	b->ops->rx_release(b, frames, 1);
	b->ops->stats(b, &stats);
	assert_int_equal(stats.rx_errors, 4);
	/* An index out of all reason is skipped. */
	evil->tx.shared->sent_head = 5000;
	assert_int_equal(b->ops->rx_burst(b, frames, 32), 0);
	evil->tx.sent[5000 & 15] = (struct link_slot){.buffer = 3, .len = 60};
	evil->tx.shared->sent_head = 5001;
	assert_int_equal(b->ops->rx_burst(b, frames, 32), 1);
	b->ops->rx_release(b, frames, 1);
	a->ops->close(a);
	b->ops->close(b);
}

static void test_hostile_receiver(void **state)
{
	struct device *a, *b;
	struct link *evil;
	struct frame frames[32];
	bool seen[16] = {false};

	(void)state;
	assert_int_equal(link_open_pair(&config, &a, &b, NULL), 0);
	evil = container_of(b, struct link, dev);
	out(a, 1, 60);
	/* Gives back what it does not have, twice, and never-heard-of numbers. */
	for (unsigned i = 0; i < 16; i++)
		evil->rx.back[i] = i < 8 ? i % 4 : 1000 + i;
	evil->rx.shared->back_head = 16;
	assert_int_equal(a->ops->tx_alloc(a, frames, 32), 16);
	for (unsigned i = 0; i < 16; i++) {
		assert_false(seen[frames[i].cookie]);
		seen[frames[i].cookie] = true;
	}
	a->ops->tx_free(a, frames, 16);
	evil->rx.shared->back_head = 0x80000000u;
	assert_int_equal(a->ops->tx_alloc(a, frames, 32), 16);
	a->ops->tx_free(a, frames, 16);
	a->ops->close(a);
	b->ops->close(b);
}

static void test_refused(void **state)
{
	struct link_config bad = config;
	struct device *a, *b;
	struct device_error err;
	int fd;

	(void)state;
	bad.slots = 100;
	assert_int_equal(link_open_pair(&bad, &a, &b, &err), -EINVAL);
	assert_non_null(strstr(err.text, "power of two"));
	bad = config;
	bad.mtu = 65536;
	assert_int_equal(link_open_loop(&bad, &a, &err), -EINVAL);
	bad = config;
	bad.max_tso_bytes = 65536;
	assert_int_equal(link_create(&bad, &fd, &a, &err), -EINVAL);
	assert_true(link_attach(STDIN_FILENO, &b, &err) < 0);
	/* Not a frame: refused, counted, and its buffer is back. */
	assert_int_equal(link_open_loop(&config, &a, &err), 0);
	for (unsigned i = 0; i < 40; i++) {
		struct frame frame;
		struct device_stats stats;

		assert_int_equal(a->ops->tx_alloc(a, &frame, 1), 1);
		frame.len = i % 2 ? 13 : frame.room + 1;
		assert_int_equal(a->ops->tx_burst(a, &frame, 1), 1);
		a->ops->stats(a, &stats);
		assert_int_equal(stats.tx_dropped, i + 1);
	}
	nothing(a);
	a->ops->close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pair),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_loop),
		cmocka_unit_test(test_offload_flags),
		cmocka_unit_test(test_doorbell),
		cmocka_unit_test(test_two_processes),
		cmocka_unit_test(test_peer_killed),
		cmocka_unit_test(test_two_threads),
		cmocka_unit_test(test_hostile_sender),
		cmocka_unit_test(test_hostile_receiver),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
