/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What one engine of the soak hears, between it and the device with random faults; see soak.h. A frame check
 * as a real wire has it drops frames whose Ethernet header or ARP packet was corrupted, which no checksum
 * above would notice. And the faults that random ones do not make:
 *
 *   - one direction alone that loses frames;
 *   - losses in a row, as a queue that overflows makes them;
 *   - outages, of one direction, up to 20 s;
 *   - copies of small frames that come again seconds later, old duplicates of connections that may be over.
 */
#include "tests/segment/soak.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define LATE_MAX   32u
#define LATE_BYTES 2048u
#define COOKIE_LATE                                                                                          \
	(1ull << 62) /* a received frame whose bytes are one of our copies; the number is below              \
		      */

struct late {
	bool held, out; /* out: handed to the engine and not given back yet */
	uint64_t due_us;
	struct frame frame;
	uint8_t bytes[LATE_BYTES];
};

struct wire {
	struct device dev;
	struct device *under;
	const struct world *world;
	unsigned host; /* that hears it */
	uint8_t peer[6];
	uint64_t random, outage_until_us, burst_until_us;
	uint32_t burst_left;
	unsigned late_held;
	struct late late[LATE_MAX];
};

static bool frame_check(const struct wire *wire, const struct frame *f)
{
	static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};
	const struct eth_hdr *eth = (const void *)f->data;
	const struct arp_hdr *arp = (const void *)(eth + 1);

	if (f->len < sizeof(*eth) || memcmp(eth->src, wire->peer, 6) != 0 ||
		(memcmp(eth->dst, wire->dev.mac, 6) != 0 && memcmp(eth->dst, broadcast, 6) != 0))
		return false;
	if (eth->type == to_be16(ETHTYPE_IPV4_))
		return true;
	return eth->type == to_be16(ETHTYPE_ARP_) && f->len >= sizeof(*eth) + sizeof(*arp) &&
	       memcmp(arp->sha, wire->peer, 6) == 0 &&
	       (arp->spa == inet_addr("10.0.0.1") || arp->spa == inet_addr("10.0.0.2"));
}

static bool frame_lost(struct wire *wire)
{
	const struct soak_plan *p = &wire->world->plan;
	uint64_t now = wire->world->now_us;

	if (now < wire->outage_until_us)
		return true;
	if (p->outages && random_below(&wire->random, 3000) == 0) {
		wire->outage_until_us =
			now + (random_below(&wire->random, 8) ? random_below(&wire->random, 100000)
							      : random_below(&wire->random, 20000000));
		return true;
	}
	if (wire->burst_left && now < wire->burst_until_us) {
		wire->burst_left--;
		return true;
	}
	if (p->burst_len && random_below(&wire->random, 1000000) < p->burst_ppm) {
		wire->burst_left = random_below(&wire->random, p->burst_len);
		wire->burst_until_us = now + 20000; /* of the frames that follow one another */
		return true;
	}
	return random_below(&wire->random, 1000000) < p->lose_ppm[wire->host];
}

static void late_keep(struct wire *wire, const struct frame *f)
{
	const struct soak_plan *p = &wire->world->plan;

	if (!p->late_ms || f->len > LATE_BYTES || f->frag_count || random_below(&wire->random, 1000) >= 5)
		return;
	for (unsigned i = 0; i < LATE_MAX; i++) {
		struct late *late = &wire->late[i];

		if (late->held || late->out)
			continue;
		late->held = true;
		late->due_us = wire->world->now_us + random_below(&wire->random, p->late_ms * 1000u);
		late->frame = *f;
		late->frame.data = late->bytes;
		late->frame.cookie = COOKIE_LATE | i;
		memcpy(late->bytes, f->data, f->len);
		wire->late_held++;
		return;
	}
}

static unsigned wire_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct wire *wire = container_of(dev, struct wire, dev);
	unsigned got = wire->under->ops->rx_burst(wire->under, frames, n), kept = 0;

	for (unsigned i = 0; i < got; i++) {
		if (!frame_check(wire, &frames[i]) || frame_lost(wire)) {
			wire->under->ops->rx_release(wire->under, &frames[i], 1);
			continue;
		}
		late_keep(wire, &frames[i]);
		frames[kept++] = frames[i];
	}
	for (unsigned i = 0; i < LATE_MAX && wire->late_held && kept < n; i++) {
		struct late *late = &wire->late[i];

		if (!late->held || late->due_us > wire->world->now_us)
			continue;
		late->held = false;
		late->out = true;
		wire->late_held--;
		frames[kept++] = late->frame;
	}
	return kept;
}

static void wire_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	struct wire *wire = container_of(dev, struct wire, dev);

	for (unsigned i = 0; i < n; i++)
		if (frames[i].cookie & COOKIE_LATE)
			wire->late[frames[i].cookie & (LATE_MAX - 1u)].out = false;
		else
			wire->under->ops->rx_release(wire->under, &frames[i], 1);
}

static unsigned wire_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = container_of(dev, struct wire, dev)->under;

	return under->ops->tx_alloc(under, frames, n);
}
static unsigned wire_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = container_of(dev, struct wire, dev)->under;

	return under->ops->tx_burst(under, frames, n);
}
static void wire_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = container_of(dev, struct wire, dev)->under;

	under->ops->tx_free(under, frames, n);
}
static void wire_tx_flush(struct device *dev)
{
	struct device *under = container_of(dev, struct wire, dev)->under;

	under->ops->tx_flush(under);
}
static void wire_close(struct device *dev)
{
	struct wire *wire = container_of(dev, struct wire, dev);

	wire->under->ops->close(wire->under);
	free(wire);
}
static const struct device_ops wire_ops = {
	.name = "wire",
	.rx_burst = wire_rx_burst,
	.rx_release = wire_rx_release,
	.tx_alloc = wire_tx_alloc,
	.tx_burst = wire_tx_burst,
	.tx_free = wire_tx_free,
	.tx_flush = wire_tx_flush,
	.close = wire_close,
};

struct device *wire_open(const struct world *w, unsigned host, struct device *under, const uint8_t peer[6])
{
	struct wire *wire = calloc(1, sizeof(*wire));

	if (!wire)
		abort();
	wire->dev = *under;
	/* A sum that the device is to complete sees no damage done before: one bit in 65536 passes. */
	if (w->plan.corrupt_ppm)
		wire->dev.caps &= ~(DEVICE_TX_CSUM | DEVICE_TSO);
	wire->dev.ops = &wire_ops;
	wire->under = under;
	wire->world = w;
	wire->host = host;
	wire->random = w->plan.seed * 2u + host + 77u;
	memcpy(wire->peer, peer, 6);
	return &wire->dev;
}
