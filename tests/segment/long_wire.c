/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A wire with length: what a host receives comes after a time of virtual travel, at a bounded rate through a
 * bounded queue, and is lost, lost in bursts, doubled or held up (overtaken by what follows) by the seed's
 * chance. A device around the host's end of the link.
 */
#include "tests/segment/soak.h"

#include <stdlib.h>
#include <string.h>

struct travel {
	struct travel *next;
	uint64_t due_us;
	uint32_t len;
	uint16_t flags;
	uint8_t bytes[];
};

struct wire {
	struct device dev;
	struct device *under;
	const uint64_t *now_us;
	struct long_wire plan;
	uint64_t random, free_us; /* the line is taken until then */
	struct travel *first;	  /* in the order of arrival */
	bool bad;		  /* in a burst of losses */
	uint64_t bad_until_us;	  /* but no longer than this, however few frames come */
};

static struct wire *wire_of(struct device *dev)
{
	return container_of(dev, struct wire, dev);
}

static bool wire_chance(struct wire *w, uint32_t ppm)
{
	return ppm && random_below(&w->random, 1000000) < ppm;
}

static bool wire_loses(struct wire *w)
{
	if (w->bad && *w->now_us > w->bad_until_us)
		w->bad = false;
	if (!w->bad)
		w->bad_until_us = *w->now_us + 100000u;
	if (w->plan.burst_ppm && wire_chance(w, w->bad ? 1000000u / w->plan.burst_frames : w->plan.burst_ppm))
		w->bad = !w->bad;
	return w->bad || wire_chance(w, w->plan.drop_ppm);
}

static void wire_put(struct wire *w, const struct frame *f, uint64_t due_us)
{
	struct travel *t = malloc(sizeof(*t) + f->len), **at = &w->first;

	if (!t)
		abort();
	*t = (struct travel){.due_us = due_us, .len = f->len, .flags = f->flags};
	memcpy(t->bytes, f->data, f->len);
	while (*at && (*at)->due_us <= due_us)
		at = &(*at)->next;
	t->next = *at;
	*at = t;
}

static void wire_take(struct wire *w, const struct frame *f)
{
	uint64_t now = *w->now_us, extra = 0;

	if (wire_loses(w))
		return;
	if (w->plan.rate_mbit) {
		if (w->free_us > now + w->plan.queue_us)
			return; /* the queue is full */
		w->free_us = (w->free_us > now ? w->free_us : now) + (f->len + 24u) * 8u / w->plan.rate_mbit;
		now = w->free_us;
	}
	if (wire_chance(w, w->plan.reorder_ppm))
		extra = 1 + random_below(&w->random, w->plan.reorder_us);
	wire_put(w, f, now + w->plan.delay_us + extra);
	if (wire_chance(w, w->plan.duplicate_ppm))
		wire_put(w, f, now + w->plan.delay_us + random_below(&w->random, 1000));
}

static unsigned wire_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct wire *w = wire_of(dev);
	struct frame pulled[32];
	unsigned got, k = 0;

	while ((got = w->under->ops->rx_burst(w->under, pulled, 32))) {
		for (unsigned i = 0; i < got; i++)
			wire_take(w, &pulled[i]);
		w->under->ops->rx_release(w->under, pulled, got);
	}
	while (k < n && w->first && w->first->due_us <= *w->now_us) {
		struct travel *t = w->first;

		w->first = t->next;
		frames[k++] = (struct frame){
			.data = t->bytes, .len = t->len, .flags = t->flags, .cookie = (uintptr_t)t};
	}
	return k;
}
static void wire_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev;
	for (unsigned i = 0; i < n; i++)
		free((void *)(uintptr_t)frames[i].cookie);
}
static unsigned wire_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	return wire_of(dev)->under->ops->tx_alloc(wire_of(dev)->under, frames, n);
}
static unsigned wire_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	return wire_of(dev)->under->ops->tx_burst(wire_of(dev)->under, frames, n);
}
static void wire_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	wire_of(dev)->under->ops->tx_free(wire_of(dev)->under, frames, n);
}
static void wire_tx_flush(struct device *dev)
{
	wire_of(dev)->under->ops->tx_flush(wire_of(dev)->under);
}
static void wire_close(struct device *dev)
{
	struct wire *w = wire_of(dev);

	while (w->first) {
		struct travel *t = w->first;

		w->first = t->next;
		free(t);
	}
	w->under->ops->close(w->under);
	free(w);
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

struct device *long_wire_open(
	const struct long_wire *plan, uint64_t seed, const uint64_t *now_us, struct device *under)
{
	struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->dev = *under;
	w->dev.ops = &wire_ops;
	w->under = under;
	w->now_us = now_us;
	w->plan = *plan;
	w->random = seed;
	return &w->dev;
}

uint64_t long_wire_next_us(struct device *dev)
{
	return wire_of(dev)->first ? wire_of(dev)->first->due_us : UINT64_MAX;
}
