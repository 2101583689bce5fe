/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `flextoe bench device`: cycles that a frame costs in the devices alone, everything on one core. The tap is
 * measured with io_uring, against one system call a frame (the baseline), with frames of 64 bytes that the
 * kernel's end drops early; the memory link as there and back in one thread. A child process does it in a
 * network namespace of its own, so nothing stays behind.
 */
#include "bench/bench.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/platform.h"
#include "core/wire.h"
#include "device/device.h"

#define ROUNDS	  400u
#define BATCH_MAX 32u
#define LEN	  64u

/* A frame of the ethertype for local experiments (IEEE 802 88b5), which the kernel has no use for. */
static void frame_lay(uint8_t *at)
{
	memset(at, 0, LEN);
	memset(at, 0xff, 6);
	at[6] = 2;
	at[12] = 0x88;
	at[13] = 0xb5;
}

static double send_cycles(struct device *dev, unsigned batch)
{
	double each[ROUNDS];

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct frame frames[BATCH_MAX];
		uint64_t start = cycles_now();
		unsigned n = dev->ops->tx_alloc(dev, frames, batch), sent;

		for (unsigned i = 0; i < n; i++) {
			frame_lay(frames[i].data);
			frames[i].len = LEN;
		}
		sent = dev->ops->tx_burst(dev, frames, n);
		dev->ops->tx_flush(dev);
		each[round] = (double)(cycles_now() - start) / batch;
		dev->ops->tx_free(dev, frames + sent, n - sent);
	}
	return bench_median(each, ROUNDS);
}

static double idle_cycles(struct device *dev)
{
	double each[ROUNDS];

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct frame frame;
		uint64_t start = cycles_now();
		unsigned n = dev->ops->rx_burst(dev, &frame, 1);

		each[round] = (double)(cycles_now() - start);
		dev->ops->rx_release(dev, &frame, n);
	}
	return bench_median(each, ROUNDS);
}

/* The batch is there before the clock starts; it runs until the device says that nothing is left. */
static double receive_cycles(struct device *dev, unsigned batch)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(dev->name)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	double each[ROUNDS];
	uint8_t bytes[LEN];

	frame_lay(bytes);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned total = 0, n;
		uint64_t start;

		for (unsigned i = 0; i < batch; i++)
			if (sendto(fd, bytes, LEN, 0, (struct sockaddr *)&to, sizeof(to)) != LEN)
				break;
		start = cycles_now();
		do {
			struct frame frames[BATCH_MAX];

			n = dev->ops->rx_burst(dev, frames, BATCH_MAX);
			dev->ops->rx_release(dev, frames, n);
			total += n;
		} while (n);
		each[round] = (double)(cycles_now() - start) / (total ? total : 1);
	}
	close(fd);
	return bench_median(each, ROUNDS);
}

static double link_cycles(unsigned batch)
{
	const struct link_config config = {.slots = 1024};
	struct device *a, *b;
	double each[ROUNDS];

	if (link_open_pair(&config, &a, &b, NULL))
		return BENCH_NONE;
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct frame frames[BATCH_MAX];
		uint64_t start = cycles_now();

		for (unsigned repeat = 0; repeat < 16; repeat++) {
			unsigned n = a->ops->tx_alloc(a, frames, batch);

			for (unsigned i = 0; i < n; i++) {
				frames[i].data[0] = (uint8_t)i;
				frames[i].len = LEN;
			}
			a->ops->tx_burst(a, frames, n);
			a->ops->tx_flush(a);
			n = b->ops->rx_burst(b, frames, batch);
			b->ops->rx_release(b, frames, n);
		}
		each[round] = (double)(cycles_now() - start) / (16 * batch);
	}
	a->ops->close(a);
	b->ops->close(b);
	return bench_median(each, ROUNDS);
}

static const unsigned batches[] = {1, 2, 8, 32};

struct tap_figures {
	double idle, send[ARRAY_SIZE(batches)], receive[ARRAY_SIZE(batches)];
};

static int tap_measure(bool plain, struct tap_figures *out)
{
	const struct tap_config config = {.peer_addr = "10.98.0.1/24", .offload = true, .plain_io = plain};
	struct device_error err;
	struct device *dev;

	if (tap_open(&config, &dev, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	receive_cycles(dev, 1); /* warms up, and empties it of what the kernel says at start */
	out->idle = idle_cycles(dev);
	for (unsigned i = 0; i < ARRAY_SIZE(batches); i++) {
		out->send[i] = send_cycles(dev, batches[i]);
		out->receive[i] = receive_cycles(dev, batches[i]);
	}
	dev->ops->close(dev);
	return 0;
}

/* Both ways, in a process that has a network namespace to itself. */
static int tap_figures_get(struct tap_figures figures[2])
{
	int pipe_fds[2], status;
	ssize_t got;
	pid_t child;

	if (pipe(pipe_fds))
		return -errno;
	fflush(NULL);
	child = fork();
	if (!child) {
		if (unshare(CLONE_NEWNET)) {
			fprintf(stderr, "a network namespace for the tap needs root: %s\n", strerror(errno));
			_exit(1);
		}
		if (tap_measure(false, &figures[0]) || tap_measure(true, &figures[1]))
			_exit(1);
		_exit(write(pipe_fds[1], figures, 2 * sizeof(figures[0])) !=
			(ssize_t)(2 * sizeof(figures[0])));
	}
	close(pipe_fds[1]);
	got = child > 0 ? read(pipe_fds[0], figures, 2 * sizeof(figures[0])) : -1;
	close(pipe_fds[0]);
	if (child > 0)
		waitpid(child, &status, 0);
	return got == (ssize_t)(2 * sizeof(figures[0])) ? 0 : -EPERM;
}

static int device_run(struct bench_run *run)
{
	struct tap_figures figures[2];
	char name[40];

	for (unsigned i = 0; i < ARRAY_SIZE(batches); i++) {
		snprintf(name, sizeof(name), "link-%u", batches[i]);
		if (bench_wants(run, name))
			bench_add(run, name, "cycles", "cycles/frame", link_cycles(batches[i]), BENCH_NONE);
	}
	if (run->only && strncmp(run->only, "tap", 3))
		return 0;
	if (tap_figures_get(figures))
		return -EPERM;
	if (bench_wants(run, "tap-idle"))
		bench_add(run, "tap-idle", "cycles", "cycles/poll", figures[0].idle, figures[1].idle);
	for (unsigned i = 0; i < ARRAY_SIZE(batches); i++) {
		snprintf(name, sizeof(name), "tap-send-%u", batches[i]);
		if (bench_wants(run, name))
			bench_add(
				run, name, "cycles", "cycles/frame", figures[0].send[i], figures[1].send[i]);
		snprintf(name, sizeof(name), "tap-receive-%u", batches[i]);
		if (bench_wants(run, name))
			bench_add(run, name, "cycles", "cycles/frame", figures[0].receive[i],
				figures[1].receive[i]);
	}
	snprintf(run->note, sizeof(run->note),
		"The tap's baseline is one system call a frame, without io_uring; the number is the batch. "
		"What the "
		"kernel's own network stack does for a sent frame is part of it.");
	return 0;
}

const struct bench bench_device = {.name = "device",
	.summary = "cycles a frame costs in the tap and the memory link",
	.run = device_run};
