/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bad wire: wraps a device and loses, duplicates, delays and corrupts frames at random, in both directions,
 * the same way for the same seed and the same frames. Called by the thread that polls the device. For tests;
 * no clock, no allocation after fault_open().
 *
 * What is delayed or doubled is a copy in memory of our own, which waits until so many frames have passed it
 * or, when nothing passes any more, until some idle rounds have gone by. Without a free place for a copy the
 * frame passes unharmed. So frames are lost only where a counter says so.
 */
#include "device/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COPIES	    128u
#define COPY_BYTES  (65535u + 256u)
#define DEPTH_MAX   64u
#define PULL_MAX    64u
#define IDLE_ROUNDS 32u
#define COOKIE_OURS (1ull << 63) /* a received frame whose bytes are one of our copies */

enum fate { FATE_PASS, FATE_DROP, FATE_DUPLICATE, FATE_REORDER, FATE_CORRUPT };

struct copy {
	uint32_t buffer;
	uint32_t due; /* leaves once `passed` has reached this */
	struct frame frame;
};

struct direction {
	uint64_t random;
	uint32_t passed;	/* frames that came by, and idle rounds after a while */
	uint32_t passed_before; /* at the last round */
	uint32_t idle_rounds;
	struct buffers buffers;
	unsigned held; /* copies that wait, oldest first */
	struct copy copies[COPIES];
	struct fault_counts counts;
};

struct fault {
	struct device dev;
	struct device *under;
	struct fault_config config;
	struct direction rx, tx;
};

static struct fault *fault_of(struct device *dev)
{
	return container_of(dev, struct fault, dev);
}

/* xorshift64* (Vigna 2016). */
static uint32_t random_next(struct direction *way)
{
	way->random ^= way->random >> 12;
	way->random ^= way->random << 25;
	way->random ^= way->random >> 27;
	return (uint32_t)((way->random * 0x2545f4914f6cdd1dull) >> 32);
}

/* One draw a frame; the four shares lie side by side in a million. */
static enum fate fate_draw(const struct fault_config *config, struct direction *way)
{
	uint32_t draw = (uint32_t)(((uint64_t)random_next(way) * 1000000u) >> 32);

	if (draw < config->drop_ppm)
		return FATE_DROP;
	draw -= config->drop_ppm;
	if (draw < config->duplicate_ppm)
		return FATE_DUPLICATE;
	draw -= config->duplicate_ppm;
	if (draw < config->reorder_ppm)
		return FATE_REORDER;
	draw -= config->reorder_ppm;
	return draw < config->corrupt_ppm ? FATE_CORRUPT : FATE_PASS;
}

static size_t frame_bytes(const struct frame *frame)
{
	size_t len = frame->len;

	for (unsigned i = 0; i < frame->frag_count; i++)
		len += frame->frag[i].len;
	return len;
}

/* Keeps a linear copy that leaves when `after` more frames have passed; NULL when there is no place for it.
 */
static struct copy *copy_hold(struct direction *way, const struct frame *frame, uint32_t after)
{
	struct copy *copy;
	uint8_t *at;

	if (!way->buffers.free_count || frame_bytes(frame) > COPY_BYTES)
		return NULL;
	copy = &way->copies[way->held++];
	copy->buffer = buffers_get(&way->buffers);
	copy->due = way->passed + after;
	copy->frame = *frame;
	at = buffers_at(&way->buffers, copy->buffer);
	copy->frame.data = at;
	copy->frame.len = (uint32_t)frame_bytes(frame);
	copy->frame.room = 0;
	copy->frame.frag_count = 0;
	copy->frame.cookie = COOKIE_OURS | copy->buffer;
	memcpy(at, frame->data, frame->len);
	at += frame->len;
	for (unsigned i = 0; i < frame->frag_count; i++) {
		memcpy(at, frame->frag[i].data, frame->frag[i].len);
		at += frame->frag[i].len;
	}
	return copy;
}

/* The oldest copy that is due, or -1. */
static int copy_due(const struct direction *way)
{
	for (unsigned i = 0; i < way->held; i++)
		if ((int32_t)(way->passed - way->copies[i].due) >= 0)
			return (int)i;
	return -1;
}

/* Takes a copy off the list; its buffer stays in use. */
static void copy_remove(struct direction *way, unsigned i)
{
	way->held--;
	memmove(&way->copies[i], &way->copies[i + 1], (way->held - i) * sizeof(way->copies[0]));
}

/* One bit somewhere in the linear part, which is never the bytes of an application. */
static void frame_corrupt(struct direction *way, struct frame *frame)
{
	uint32_t bit = random_next(way) % (frame->len * 8);

	frame->data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	frame->flags &= (uint16_t)~FRAME_CSUM_GOOD;
	way->counts.corrupted++;
}

/* Once a round: when nothing has passed for a while, time passes instead. */
static void round_end(struct direction *way)
{
	if (way->passed != way->passed_before || !way->held) {
		way->passed_before = way->passed;
		way->idle_rounds = 0;
	} else if (++way->idle_rounds > IDLE_ROUNDS) {
		way->passed_before = ++way->passed;
	}
}

/* Settles what happens to a frame besides passing; false when it does not pass now. */
static bool frame_judge(struct fault *fault, struct direction *way, struct frame *frame)
{
	uint32_t after;

	switch (fate_draw(&fault->config, way)) {
	case FATE_DROP:
		way->counts.dropped++;
		return false;
	case FATE_DUPLICATE:
		if (copy_hold(way, frame, 1))
			way->counts.duplicated++;
		return true;
	case FATE_REORDER:
		after = 2 + random_next(way) % fault->config.reorder_depth;
		if (!copy_hold(way, frame, after))
			return true;
		way->counts.reordered++;
		return false;
	case FATE_CORRUPT:
		frame_corrupt(way, frame);
		return true;
	case FATE_PASS:
		break;
	}
	return true;
}

static unsigned fault_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct fault *fault = fault_of(dev);
	struct direction *way = &fault->rx;
	struct device *under = fault->under;
	struct frame pulled[PULL_MAX];
	unsigned count = under->ops->rx_burst(under, pulled, n < PULL_MAX ? n : PULL_MAX);
	unsigned got = 0;
	int due;

	for (unsigned i = 0; i < count; i++) {
		if (frame_judge(fault, way, &pulled[i]))
			frames[got++] = pulled[i];
		else
			under->ops->rx_release(under, &pulled[i], 1);
		way->passed++;
		/* A copy goes between, if there is still room for all that were pulled. */
		due = n - got > count - i - 1 ? copy_due(way) : -1;
		if (due >= 0) {
			frames[got++] = way->copies[due].frame;
			copy_remove(way, (unsigned)due);
		}
	}
	round_end(way);
	while (got < n && (due = copy_due(way)) >= 0) {
		frames[got++] = way->copies[due].frame;
		copy_remove(way, (unsigned)due);
	}
	return got;
}

static void fault_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	struct fault *fault = fault_of(dev);

	for (unsigned i = 0; i < n; i++) {
		if (frames[i].cookie & COOKIE_OURS)
			buffers_put(&fault->rx.buffers, (uint32_t)frames[i].cookie);
		else
			fault->under->ops->rx_release(fault->under, &frames[i], 1);
	}
}

static unsigned fault_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = fault_of(dev)->under;

	return under->ops->tx_alloc(under, frames, n);
}

static void fault_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = fault_of(dev)->under;

	under->ops->tx_free(under, frames, n);
}

/* Sends the copies that are due; what the device does not take stays and is offered again. */
static void copies_send(struct fault *fault)
{
	struct direction *way = &fault->tx;
	struct device *under = fault->under;
	int due;

	while ((due = copy_due(way)) >= 0) {
		const struct copy *copy = &way->copies[due];
		uint32_t buffer = copy->buffer;
		struct frame frame, fresh;

		if (under->ops->tx_alloc(under, &fresh, 1) != 1)
			return;
		if (fresh.room < copy->frame.len) {
			under->ops->tx_free(under, &fresh, 1);
			way->counts.dropped++;
		} else {
			frame = copy->frame;
			frame.data = fresh.data;
			frame.room = fresh.room;
			frame.cookie = fresh.cookie;
			memcpy(frame.data, copy->frame.data, frame.len);
			if (under->ops->tx_burst(under, &frame, 1) != 1) {
				under->ops->tx_free(under, &frame, 1);
				return;
			}
		}
		copy_remove(way, (unsigned)due);
		buffers_put(&way->buffers, buffer);
	}
}

static unsigned fault_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct fault *fault = fault_of(dev);
	struct direction *way = &fault->tx;
	struct device *under = fault->under;
	unsigned done;

	for (done = 0; done < n; done++) {
		const uint64_t random = way->random;
		const unsigned held = way->held;
		const struct fault_counts counts = way->counts;

		if (!frame_judge(fault, way, &frames[done])) {
			under->ops->tx_free(under, &frames[done], 1);
		} else if (under->ops->tx_burst(under, &frames[done], 1) != 1) {
			/* Not taken: it is offered again, and then judged for the first time. */
			while (way->held > held)
				buffers_put(&way->buffers, way->copies[--way->held].buffer);
			way->random = random;
			way->counts = counts;
			break;
		}
		way->passed++;
		copies_send(fault);
	}
	return done;
}

static void fault_tx_flush(struct device *dev)
{
	struct fault *fault = fault_of(dev);

	round_end(&fault->tx);
	copies_send(fault);
	fault->under->ops->tx_flush(fault->under);
}

static bool fault_wait_begin(struct device *dev)
{
	struct fault *fault = fault_of(dev);

	/* Copies wait for rounds to pass, so rounds there must be. */
	if (fault->rx.held || fault->tx.held)
		return true;
	return fault->under->ops->wait_begin(fault->under);
}

static void fault_wait_end(struct device *dev)
{
	struct device *under = fault_of(dev)->under;

	under->ops->wait_end(under);
}

static void fault_stats(struct device *dev, struct device_stats *out)
{
	struct fault *fault = fault_of(dev);

	fault->under->ops->stats(fault->under, out);
	out->rx_dropped += fault->rx.counts.dropped;
	out->tx_dropped += fault->tx.counts.dropped;
}

void fault_counts_get(struct device *dev, struct fault_counts *rx, struct fault_counts *tx)
{
	*rx = fault_of(dev)->rx.counts;
	*tx = fault_of(dev)->tx.counts;
}

static void fault_close(struct device *dev)
{
	struct fault *fault = fault_of(dev);

	fault->under->ops->close(fault->under);
	buffers_destroy(&fault->rx.buffers);
	buffers_destroy(&fault->tx.buffers);
	free(fault);
}

static const struct device_ops fault_ops = {
	.name = "fault",
	.rx_burst = fault_rx_burst,
	.rx_release = fault_rx_release,
	.tx_alloc = fault_tx_alloc,
	.tx_burst = fault_tx_burst,
	.tx_free = fault_tx_free,
	.tx_flush = fault_tx_flush,
	.wait_begin = fault_wait_begin,
	.wait_end = fault_wait_end,
	.stats = fault_stats,
	.close = fault_close,
};

int fault_open(const struct fault_config *config, struct device *under, struct device **out,
	struct device_error *err)
{
	uint64_t total = (uint64_t)config->drop_ppm + config->duplicate_ppm + config->reorder_ppm +
			 config->corrupt_ppm;
	struct fault *fault;

	if (total > 1000000)
		return device_fail(
			err, -EINVAL, "the shares of faults add up to more than a million parts per million");
	if (config->reorder_depth > DEPTH_MAX)
		return device_fail(
			err, -EINVAL, "reorder depth %u is more than %u", config->reorder_depth, DEPTH_MAX);
	fault = calloc(1, sizeof(*fault));
	if (!fault)
		return device_fail(err, -ENOMEM, "out of memory");
	if (buffers_init(&fault->rx.buffers, COPIES, COPY_BYTES) ||
		buffers_init(&fault->tx.buffers, COPIES, COPY_BYTES)) {
		buffers_destroy(&fault->rx.buffers);
		free(fault);
		return device_fail(err, -ENOMEM, "out of memory for copies");
	}
	fault->under = under;
	fault->config = *config;
	if (!fault->config.reorder_depth)
		fault->config.reorder_depth = 1;
	fault->dev = *under;
	fault->dev.ops = &fault_ops;
	/* A checksum made below us would hide the corruption from the receiver: then it is made above. */
	if (config->corrupt_ppm) {
		fault->dev.caps &= ~(DEVICE_TX_CSUM | DEVICE_TSO);
		fault->dev.max_tso_bytes = 0;
	}
	/* Different for the two directions, and never 0, where xorshift stays. */
	fault->rx.random = config->seed ^ 0x9e3779b97f4a7c15ull;
	fault->tx.random = config->seed ^ 0xbf58476d1ce4e5b9ull;
	if (!fault->rx.random)
		fault->rx.random = 1;
	if (!fault->tx.random)
		fault->tx.random = 1;
	*out = &fault->dev;
	return 0;
}
