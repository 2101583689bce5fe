/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ft-datapath CASE: what `flextoe bench datapath` runs under callgrind, which counts inside
 * datapath_measured() alone. One thread, no device, no clock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/datapath_kinds.h"
#include "bench/rig.h"
#include "flextoe/abi.h"

enum { ROUNDS = 500, BATCH_FRAMES = 32 };

/* The toggle that callgrind collects in; never inlined, and nothing else calls it. */
__attribute__((noinline)) unsigned datapath_measured(struct rig *rig);
__attribute__((noinline)) unsigned datapath_measured(struct rig *rig)
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

/* A round of `batch` segments that come in on one connection: its ACK and its notification are shared. */
static void round_one(
	struct rig *rig, const struct kind *k, struct progress *p, uint32_t batch, uint8_t (*rooms)[2048])
{
	static const uint8_t payload[1448];
	uint32_t acked = p->tx;

	rig->now_us += 100000;
	if (k->ack_only) {
		p->tx += batch * k->tx_len;
		rig_update(rig, 0, p->tx, p->rx, 0);
		rig_poll(rig);
		drain(rig);
	}
	for (uint32_t i = 0; i < batch; i++) {
		acked += k->ack_only ? k->tx_len : 0;
		rig_rx(rig, rooms[i],
			rig_segment(rig, 0, p->rx, acked, TCP_ACK_, payload, k->rx_len, rooms[i]),
			FRAME_CSUM_GOOD);
		p->rx += k->rx_len;
	}
	datapath_conn(rig->dp, 0)->tcp.quick_acks = (uint8_t)!k->ack_only; /* an ACK at once */
	datapath_measured(rig);
	if (rig->device.tx_count != !k->ack_only) {
		fprintf(stderr, "bench datapath: %u ACKs for a batch of one connection\n",
			rig->device.tx_count);
		exit(1);
	}
	drain(rig);
	rig_update(rig, 0, p->tx, p->rx, 0);
	rig_poll(rig);
	drain(rig);
}

/* One round of `batch` connections from `first` on. */
static void round_run(struct rig *rig, const struct kind *k, struct progress *progress, uint32_t first,
	uint32_t batch, uint8_t (*rooms)[2048])
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
			datapath_measured(rig);
			drain(rig);
			return;
		}
		datapath_measured(rig);
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
			rig_segment(rig, first + i, p->rx, p->tx, TCP_ACK_ | TCP_PSH_, payload, k->rx_len,
				rooms[i]),
			FRAME_CSUM_GOOD);
		p->rx += k->rx_len;
	}
	if (k->tx_len) { /* RPC: the request comes in; then the application consumes it and answers */
		datapath_measured(rig);
		drain(rig);
		for (uint32_t i = 0; i < batch; i++) {
			struct progress *p = &progress[first + i];

			p->tx += k->tx_len;
			rig_update(rig, first + i, p->tx, p->rx, 0);
		}
		datapath_measured(rig);
		drain(rig);
		return;
	}
	for (uint32_t i = 0; i < batch; i++) /* have every segment acknowledged at once */
		datapath_conn(rig->dp, first + i)->tcp.quick_acks = 1;
	datapath_measured(rig);
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

/* Prints the number of segments (or RPCs) that were measured. */
static int measure(const char *name)
{
	static uint8_t rooms[BATCH_FRAMES][2048];
	const struct kind *k = NULL;
	struct progress *progress;
	struct rig rig;
	uint32_t conns = BATCH_FRAMES, batch = BATCH_FRAMES, rounds = ROUNDS, done = 0;
	const char *dash = strrchr(name, '-');
	bool many = dash && strcmp(dash, "-10k") == 0, single = dash && strcmp(dash, "-single") == 0;
	bool one = dash && strcmp(dash, "-one") == 0;
	size_t len = many || single || one ? (size_t)(dash - name) : strlen(name);

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strncmp(kinds[i].name, name, len) == 0 && strlen(kinds[i].name) == len)
			k = &kinds[i];
	if (!k)
		return -EINVAL;
	if (many) {
		conns = 10000;
		rounds = 2 * conns / batch;
	} else if (single) {
		conns = batch = 1;
	} else if (one) {
		if (k->tx_len &&
			!k->ack_only) /* what one connection sends in a round leaves as one segment */
			return -EINVAL;
		conns = 1;
	}
	if (rig_open(&rig, conns, 16, DEVICE_TX_CSUM | DEVICE_TSO | DEVICE_RX_CSUM) != 0)
		return -ENOMEM;
	progress = calloc(conns, sizeof(*progress));
	if (!progress)
		return -ENOMEM;
	for (uint32_t r = 0; r < rounds; r++) {
		uint32_t first = conns > batch ? r * batch % (conns - batch) : 0;

		if (one)
			round_one(&rig, k, progress, batch, rooms);
		else
			round_run(&rig, k, progress, first, batch, rooms);
		done += batch;
	}
	printf("%u\n", done);
	free(progress);
	rig_close(&rig);
	return 0;
}

int main(int argc, char **argv)
{
	int err = argc == 2 ? measure(argv[1]) : -EINVAL;

	if (err)
		fprintf(stderr, "usage: ft-datapath CASE (%s)\n", strerror(-err));
	return err ? 1 : 0;
}
