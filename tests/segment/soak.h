/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The soak's world: two engines in one process under one virtual clock, joined by a bad wire. soak_world.c
 * makes and polls it, soak_wire.c is the wire, soak_leaks_*.c look into data path and control plane when all
 * is over, soak_test.c has the applications and says what must hold.
 */
#ifndef TESTS_SEGMENT_SOAK_H
#define TESTS_SEGMENT_SOAK_H

#include "control/control.h"
#include "host/attach.h"

#define HOSTS	   2
#define CONNS_ROOM 256u

/* A wire with length (long_wire.c), each way. */
struct long_wire {
	uint32_t delay_us;			    /* 0: there is none of it */
	uint32_t rate_mbit, queue_us;		    /* rate 0: unbounded */
	uint32_t drop_ppm, burst_ppm, burst_frames; /* bursts that begin so often, so long on average */
	uint32_t duplicate_ppm, reorder_ppm, reorder_us;
};

/* Everything that a seed decides about the world. */
struct soak_plan {
	uint64_t seed;
	uint64_t start_us;
	uint32_t mtu, tso_bytes, slots;
	uint8_t rx_shift[HOSTS], tx_shift[HOSTS];
	uint32_t drop_ppm, duplicate_ppm, reorder_ppm, corrupt_ppm, reorder_depth;
	uint32_t lose_ppm[HOSTS], burst_ppm, burst_len; /* what host i hears */
	uint32_t late_ms;				/* how late a copy may come; 0: none do */
	uint32_t ephemeral_ports, time_wait_ms, ooo_max, backlog;
	uint64_t region_size;
	uint32_t conns_total, conns_live;
	struct long_wire wire;
	bool app_dies, goes_deaf, chatty, freezes, outages;
};

struct host {
	unsigned number;
	struct datapath *dp;
	struct copy_engine *copy;
	struct control *control;
	struct device *dev;
	uint32_t app;
	struct flextoe *ft; /* NULL: the application is dead */
	struct flextoe_context *ctx;
	struct flextoe_listener *listener;
	bool listening;
	uint64_t frozen_until_us, deaf_until_us, reborn_us, next_connect_us;
	unsigned deaths;
};

struct world {
	struct soak_plan plan;
	struct host host[HOSTS];
	struct device *link[HOSTS];
	struct device *wire[HOSTS]; /* with plan.wire.delay_us */
	uint64_t now_us;
	uint64_t random;
};

uint64_t random64(uint64_t *state);
static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)((random64(state) >> 32) * n >> 32);
}

struct device *long_wire_open(
	const struct long_wire *plan, uint64_t seed, const uint64_t *now_us, struct device *under);
uint64_t long_wire_next_us(struct device *dev); /* when the next frame arrives */

/* 0, or a negative errno and a line on stderr. pcap NULL: no captures. */
int world_open(struct world *w, const char *pcap);
/* The device of what this host hears; peer: the other's Ethernet address. Closes the one under it. */
struct device *wire_open(const struct world *w, unsigned host, struct device *under, const uint8_t peer[6]);
/* Counts what is still lost: buffers of the link that did not come home. */
unsigned world_close(struct world *w);
int host_app_open(struct world *w, struct host *h);
/* As if the process had been killed (flush: or had just ended). */
void host_app_kill(struct host *h, bool flush);
void world_counters(struct world *w, FILE *out);

/* Non-zero and words about it when something is not back where it belongs. */
int leaks_control(struct control *ctl, char *text, size_t size);
int leaks_datapath(struct datapath *dp, char *text, size_t size);

#endif
