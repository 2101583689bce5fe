/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `flextoe bench datapath`: instructions a segment costs in the data path, counted by callgrind inside
 * datapath_poll() and nowhere else, so the figure does not depend on the machine's load. There is no device:
 * frames lie in memory. Each case runs in a child under valgrind.
 *
 * rx-64-ack, rx-1448-ack   a data segment comes in; its payload is placed, the application notified, and its
 *                          ACK sent (alone, as the second full segment's would be)
 * pure-ack                 an ACK for a segment of ours comes in; nothing goes out
 * tx-64, tx-1448           the application has written; the segment is built and handed to the device
 * rpc-64                   a request comes in, the reply goes out with its ACK, and so on: one RPC
 * The suffix -10k: on 10,000 connections in turn, in batches of 32.
 */
#include "bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/rig.h"
#include "flextoe/abi.h"

int bench_datapath_child(const char *name);

enum { ROUNDS = 2000, BATCH_FRAMES = 32 };

struct kind {
	const char *name;
	uint32_t rx_len; /* payload of a segment in; 0: none comes */
	uint32_t tx_len; /* payload of a segment out; 0: none goes */
	bool ack_only;   /* the segment in is a pure ACK */
	double bar;      /* instructions */
};

static const struct kind kinds[] = {
	{"rx-64-ack", 64, 0, false, 300},
	{"rx-1448-ack", 1448, 0, false, 350},
	{"pure-ack", 0, 64, true, 200},
	{"tx-64", 0, 64, false, 250},
	{"tx-1448", 0, 1448, false, 300},
	{"rpc-64", 64, 64, false, 700},
};

/* The toggle that callgrind collects in; never inlined, and nothing else calls it. */
__attribute__((noinline)) unsigned bench_datapath_measured(struct rig *rig);
__attribute__((noinline)) unsigned bench_datapath_measured(struct rig *rig)
{
	return datapath_poll(rig->dp, rig->now_us);
}

struct progress {
	uint32_t rx, tx; /* stream positions of a connection */
};

static void drain(struct rig *rig)
{
	struct flextoe_ntf ntf;
	uint32_t len;

	while (rig_notified(rig, &ntf))
		;
	while (datapath_exc_peek(rig->dp, &len))
		datapath_exc_done(rig->dp);
	rig_tx_clear(rig);
}

/* Acknowledges everything a connection has sent, outside the measurement. */
static void acknowledge(struct rig *rig, uint32_t conn, const struct progress *p, uint8_t *room)
{
	rig_rx(rig, room, rig_segment(rig, conn, p->rx, p->tx, TCP_ACK_, NULL, 0, room), FRAME_CSUM_GOOD);
}

/* One round of `batch` connections from `first` on. */
static void round_run(struct rig *rig, const struct kind *k, struct progress *progress, uint32_t first, uint32_t batch,
	uint8_t (*rooms)[2048])
{
	static const uint8_t payload[1448];

	rig->now_us += 100000; /* so that no ACK is held back for want of a new window of time */
	if (k->ack_only || (k->tx_len && !k->rx_len)) {
		for (uint32_t i = 0; i < batch; i++) {
			struct progress *p = &progress[first + i];

			p->tx += k->tx_len;
			rig_update(rig, first + i, p->tx, p->rx, 0);
		}
		if (k->ack_only) {
			rig_poll(rig);
			for (uint32_t i = 0; i < batch; i++)
				acknowledge(rig, first + i, &progress[first + i], rooms[i]);
			bench_datapath_measured(rig);
			drain(rig);
			return;
		}
		bench_datapath_measured(rig);
		drain(rig);
		for (uint32_t i = 0; i < batch; i++)
			acknowledge(rig, first + i, &progress[first + i], rooms[i]);
		rig_poll(rig);
		drain(rig);
		return;
	}
	for (uint32_t i = 0; i < batch; i++) {
		struct progress *p = &progress[first + i];

		rig_rx(rig, rooms[i],
			rig_segment(rig, first + i, p->rx, p->tx, TCP_ACK_ | TCP_PSH_, payload, k->rx_len, rooms[i]), FRAME_CSUM_GOOD);
		p->rx += k->rx_len;
	}
	if (k->tx_len) { /* RPC: the request comes in; then the application consumes it and answers */
		bench_datapath_measured(rig);
		drain(rig);
		for (uint32_t i = 0; i < batch; i++) {
			struct progress *p = &progress[first + i];

			p->tx += k->tx_len;
			rig_update(rig, first + i, p->tx, p->rx, 0);
		}
		bench_datapath_measured(rig);
		drain(rig);
		return;
	}
	for (uint32_t i = 0; i < batch; i++) /* have every segment acknowledged at once */
		datapath_conn(rig->dp, first + i)->tcp.quick_acks = 1;
	bench_datapath_measured(rig);
	if (rig->device.tx_count != batch) {
		fprintf(stderr, "bench datapath: %u ACKs for %u segments\n", rig->device.tx_count, batch);
		exit(1);
	}
	drain(rig);
	for (uint32_t i = 0; i < batch; i++)
		rig_update(rig, first + i, progress[first + i].tx, progress[first + i].rx, 0);
	rig_poll(rig);
	drain(rig);
}

/* In the child: prints the number of segments (or RPCs) that were measured. */
int bench_datapath_child(const char *name)
{
	static uint8_t rooms[BATCH_FRAMES][2048];
	const struct kind *k = NULL;
	struct progress *progress;
	struct rig rig;
	uint32_t conns = 1, batch = 1, rounds = ROUNDS, done = 0;
	size_t len = strlen(name);
	bool many = len > 4 && strcmp(name + len - 4, "-10k") == 0;

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strncmp(kinds[i].name, name, len - (many ? 4 : 0)) == 0 &&
			strlen(kinds[i].name) == len - (many ? 4 : 0))
			k = &kinds[i];
	if (!k)
		return -EINVAL;
	if (many) {
		conns = 10000;
		batch = BATCH_FRAMES;
		rounds = 2 * conns / batch;
	}
	if (rig_open(&rig, conns, 16, DEVICE_TX_CSUM | DEVICE_TSO | DEVICE_RX_CSUM) != 0)
		return -ENOMEM;
	progress = calloc(conns, sizeof(*progress));
	if (!progress)
		return -ENOMEM;
	for (uint32_t r = 0; r < rounds; r++) {
		uint32_t first = conns > batch ? r * batch % (conns - batch) : 0;

		round_run(&rig, k, progress, first, batch, rooms);
		done += batch;
	}
	printf("%u\n", done);
	free(progress);
	rig_close(&rig);
	return 0;
}

static int child_measure(const char *name, double *instructions)
{
	int out[2];
	char text[65536];
	size_t n = 0;
	ssize_t got;
	char *collected;
	unsigned long long total = 0, segments = 0;
	char self[4096];
	pid_t pid;

	got = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (got < 0 || pipe2(out, O_CLOEXEC) != 0)
		return -errno;
	self[got] = 0;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		char run[64];

		snprintf(run, sizeof(run), "--datapath-child=%s", name);
		dup2(out[1], 1);
		dup2(out[1], 2);
		execlp("valgrind", "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
			"--toggle-collect=bench_datapath_measured", self, "bench", run, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	while (n < sizeof(text) - 1 && (got = read(out[0], text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = 0;
	close(out[0]);
	waitpid(pid, NULL, 0);
	collected = strstr(text, "Collected : ");
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (line[0] >= '0' && line[0] <= '9')
			segments = strtoull(line, NULL, 10);
	if (collected)
		total = strtoull(collected + 12, NULL, 10);
	if (!total || !segments) {
		fprintf(stderr, "bench datapath: valgrind gave no count for %s: is the package valgrind installed?\n",
			name);
		return -EIO;
	}
	*instructions = (double)total / (double)segments;
	return 0;
}

static int run(struct bench_run *run)
{
	for (unsigned many = 0; many < 2; many++)
		for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
			char name[32];
			double v;
			int r;

			snprintf(name, sizeof(name), "%s%s", kinds[i].name, many ? "-10k" : "");
			if (!bench_wants(run, name))
				continue;
			bench_progress(run, "counting instructions of %s", name);
			r = child_measure(name, &v);
			if (r < 0)
				return r;
			bench_add(run, name, "instructions", "per segment", v, kinds[i].bar);
		}
	snprintf(run->note, sizeof(run->note),
		"Instructions inside datapath_poll(), copies included, one segment a round (32 with -10k). The baseline "
		"is the bar of the project, not kernel TCP.");
	return 0;
}

const struct bench bench_datapath = {
	.name = "datapath", .summary = "instructions per segment in the data path, by callgrind", .run = run};
