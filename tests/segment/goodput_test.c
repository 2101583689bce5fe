/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a bad wire leaves of a bulk stream, in virtual time: engine to engine, 100 Mbit/s, a round trip of 20
 * ms, one connection with 1 MiB of buffer a side. The figures are the same on every machine; each case has a
 * floor, somewhat below what it came to when it was written. GOODPUT_SEEDS=n: the mean of so many seeds.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "tests/segment/soak.h"

#define VIRTUAL_US 20000000u

struct stream {
	struct flextoe_conn *out, *in;
	uint64_t received;
};

static void turn(struct world *w, struct host *h, struct stream *s)
{
	struct flextoe_event events[32];
	struct iovec iov[2];
	ssize_t n;
	int got = flextoe_poll(h->ctx, events, 32);

	(void)w;
	for (int i = 0; i < got; i++) {
		if (events[i].type == FLEXTOE_EVENT_LISTENING)
			h->listening = true;
		if (events[i].type == FLEXTOE_EVENT_ACCEPT)
			s->in = events[i].conn;
		if (events[i].type == FLEXTOE_EVENT_ERROR || events[i].type == FLEXTOE_EVENT_DEAD) {
			fprintf(stderr, "goodput: the connection broke\n");
			exit(1);
		}
	}
	if (h->number == 0 && s->out && (n = flextoe_tx_window(s->out, iov)) > 0)
		flextoe_tx_commit(s->out, (size_t)n);
	if (h->number == 1 && s->in && (n = flextoe_rx_window(s->in, iov)) > 0) {
		flextoe_rx_done(s->in, (size_t)n);
		s->received += (uint64_t)n;
	}
}

/* Mbit/s of payload. */
static double run(const struct long_wire *wire, uint64_t seed)
{
	static struct world w;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7000)};
	struct stream s = {0};
	uint64_t end;
	double mbit;

	to.sin_addr.s_addr = inet_addr("10.0.0.2");
	memset(&w, 0, sizeof(w));
	w.plan = (struct soak_plan){.seed = seed,
		.start_us = 1000,
		.mtu = 1500,
		.slots = 1024,
		.rx_shift = {20, 20},
		.tx_shift = {20, 20},
		.ephemeral_ports = 1000,
		.time_wait_ms = 1000,
		.backlog = 16,
		.region_size = 1ull << 28,
		.wire = *wire};
	if (world_open(&w, getenv("SOAK_PCAP")) != 0)
		exit(1);
	end = w.now_us + VIRTUAL_US;
	while (w.now_us < end) {
		uint64_t next = w.now_us + 1000;

		for (unsigned i = 0; i < HOSTS; i++) {
			struct host *h = &w.host[i];
			uint64_t us;

			datapath_poll(h->dp, w.now_us);
			control_poll(h->control, w.now_us, true);
			turn(&w, h, &s);
			datapath_poll(h->dp, w.now_us);
			us = control_next_us(h->control, w.now_us);
			if (us != UINT64_MAX && w.now_us + us < next)
				next = w.now_us + us;
		}
		if (!s.out && w.host[0].listening && w.host[1].listening)
			flextoe_connect(w.host[0].ctx, NULL, &to, NULL, &s.out);
		for (unsigned i = 0; i < HOSTS; i++)
			if (long_wire_next_us(w.wire[i]) < next)
				next = long_wire_next_us(w.wire[i]);
		w.now_us = next > w.now_us + 5 ? next : w.now_us + 5;
	}
	mbit = (double)s.received * 8.0 / VIRTUAL_US;
	if (getenv("SOAK_COUNTERS"))
		world_counters(&w, stderr);
	for (unsigned i = 0; i < HOSTS; i++)
		flextoe_conn_abort(i ? s.in : s.out);
	if (world_close(&w)) {
		fprintf(stderr, "goodput: frames or connections were left\n");
		exit(1);
	}
	return mbit;
}

int main(void)
{
	static const struct {
		const char *name;
		struct long_wire wire;
		double floor;
	} cases[] = {
		{"no loss", {.drop_ppm = 0}, 85},
		{"0.1 % loss", {.drop_ppm = 1000}, 20},
		{"1 % loss", {.drop_ppm = 10000}, 5.5},
		{"2 % loss", {.drop_ppm = 20000}, 3.8},
		{"bursts of 5, 1 % loss", {.burst_ppm = 2000, .burst_frames = 5}, 10},
		{"2 % reordering", {.reorder_ppm = 20000, .reorder_us = 3000}, 80},
		{"2 % duplication", {.duplicate_ppm = 20000}, 65},
	};
	const char *many = getenv("GOODPUT_SEEDS");
	unsigned seeds = many ? (unsigned)atoi(many) : 3, bad = 0;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct long_wire wire = cases[i].wire;
		double sum = 0;

		wire.delay_us = 10000;
		wire.rate_mbit = 100;
		wire.queue_us = 20000;
		for (unsigned seed = 1; seed <= seeds; seed++)
			sum += run(&wire, seed);
		printf("%-24s %6.2f Mbit/s (at least %.1f)\n", cases[i].name, sum / seeds, cases[i].floor);
		bad += sum / seeds < cases[i].floor;
	}
	return bad != 0;
}
