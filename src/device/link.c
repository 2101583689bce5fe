/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A memory link: two devices joined back to back by shared memory, in one process or in two. Called by the
 * one thread that polls each end; the two ends share nothing but the memory described here.
 *
 * Each direction has its own buffers, and two rings that carry their numbers to and fro:
 *
 *          sent ring: (buffer, length, offload words) ->
 *   sender                                               receiver
 *          <- back ring: buffer
 *
 * The sender keeps the free buffers on a stack and takes the one that came back last, so a link with little
 * in flight lives in a few cache lines however many slots it has. A ring's producer index is written once a
 * burst by one side, its consumer index by the other; each side keeps its own copy of the other's.
 *
 * A receiver that is going to sleep sets `asleep`; the sender that finds it set clears it and writes to the
 * receiver's eventfd, once per sleep.
 *
 * The other side may be another process, and is not believed: what it writes (indices, buffer numbers,
 * lengths) is copied once and checked, what does not fit is counted in rx_errors or ignored. What it can do
 * is change the bytes of a frame while they are read; a link is for engines that trust each other that far.
 */
#include "device/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static struct link *link_of(struct device *dev)
{
	return container_of(dev, struct link, dev);
}

static uint8_t *buffer_at(const struct link_end *end, uint32_t buffer)
{
	return end->buffers + (size_t)buffer * end->stride + LINK_HEADROOM;
}

/* One read of each word: what is checked is what is used, whatever the other side writes meanwhile. */
static struct link_slot slot_read(const struct link_slot *shared)
{
	const volatile uint64_t *words = (const volatile uint64_t *)shared;
	uint64_t copy[2] = {words[0], words[1]};
	struct link_slot slot;

	memcpy(&slot, copy, sizeof(slot));
	return slot;
}

static unsigned link_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct link *link = link_of(dev);
	struct link_end *rx = &link->rx;
	uint32_t ready = rx->sent_seen - rx->sent_next;
	unsigned got = 0;

	if (ready < n) {
		rx->sent_seen = load_acquire32(&rx->shared->sent_head);
		ready = rx->sent_seen - rx->sent_next;
		if (unlikely(ready > rx->slots)) {
			/* More than there can be: the other side is broken. Skip to where it claims to be. */
			link->stats.rx_errors++;
			rx->sent_next = rx->sent_seen;
			return 0;
		}
	}
	if (n > ready)
		n = ready;
	for (unsigned i = 0; i < n; i++) {
		struct link_slot slot = slot_read(&rx->sent[(rx->sent_next + i) & (rx->slots - 1)]);
		struct frame *frame = &frames[got];

		if (unlikely(slot.buffer >= rx->slots || slot.len > rx->room || slot.len < LINK_FRAME_MIN)) {
			link->stats.rx_errors++;
			continue;
		}
		frame->data = buffer_at(rx, slot.buffer);
		prefetch(frame->data);
		frame->len = slot.len;
		frame->room = 0;
		frame->flags = slot.flags & (FRAME_CSUM_GOOD | FRAME_TSO);
		frame->gso_size = slot.gso_size;
		frame->hdr_len = slot.hdr_len;
		frame->csum_start = 0;
		frame->csum_offset = 0;
		frame->frag_count = 0;
		frame->cookie = slot.buffer;
		link->stats.rx_bytes += slot.len;
		got++;
	}
	rx->sent_next += n;
	/* The sender never has more than `slots` in flight, so it need not be told how far we have read. */
	link->stats.rx_frames += got;
	return got;
}

static void link_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	struct link_end *rx = &link_of(dev)->rx;

	/* One entry per buffer: it never overflows, unless the sender breaks the rules, and then with its
	 * own. */
	for (unsigned i = n; i-- > 0;)
		rx->back[rx->back_next++ & (rx->slots - 1)] = (uint32_t)frames[i].cookie;
	store_release32(&rx->shared->back_head, rx->back_next);
}

/* Takes home the buffers the receiver has given back. */
static void buffers_collect(struct link_end *tx)
{
	uint32_t head = load_acquire32(&tx->shared->back_head);

	if (unlikely(head - tx->back_next > tx->slots))
		tx->back_next = head - tx->slots;
	while (tx->back_next != head) {
		uint32_t buffer = load_relaxed32(&tx->back[tx->back_next++ & (tx->slots - 1)]);

		/* Only what is really out there comes back, and only once. */
		if (unlikely(buffer >= tx->slots || !tx->away[buffer]))
			continue;
		tx->away[buffer] = 0;
		tx->free[tx->free_count++] = buffer;
	}
}

static unsigned link_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct link_end *tx = &link_of(dev)->tx;

	buffers_collect(tx);
	if (n > tx->free_count)
		n = tx->free_count;
	for (unsigned i = 0; i < n; i++) {
		uint32_t buffer = tx->free[--tx->free_count];

		memset(&frames[i], 0, sizeof(frames[i]));
		frames[i].data = buffer_at(tx, buffer);
		prefetch_write(frames[i].data);
		frames[i].room = tx->room;
		frames[i].cookie = buffer;
	}
	return n;
}

static void link_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	struct link_end *tx = &link_of(dev)->tx;

	for (unsigned i = n; i-- > 0;)
		tx->free[tx->free_count++] = (uint32_t)frames[i].cookie;
}

/* Never full: there are as many places in the ring as there are buffers. */
static unsigned link_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct link *link = link_of(dev);
	struct link_end *tx = &link->tx;

	for (unsigned i = 0; i < n; i++) {
		const struct frame *frame = &frames[i];
		uint32_t buffer = (uint32_t)frame->cookie;
		struct link_slot *slot;

		if (unlikely(frame->len > tx->room || frame->len < LINK_FRAME_MIN || frame->frag_count ||
			     frame->data != buffer_at(tx, buffer))) {
			link->stats.tx_dropped++;
			tx->free[tx->free_count++] = buffer;
			continue;
		}
		slot = &tx->sent[tx->sent_next++ & (tx->slots - 1)];
		slot->buffer = buffer;
		slot->len = frame->len;
		slot->gso_size = frame->gso_size;
		slot->hdr_len = frame->hdr_len;
		/* Memory does not corrupt what it carries: a checksum left to us need not be made at all. */
		slot->flags = frame->flags & FRAME_TSO;
		if (frame->flags & (FRAME_CSUM_OFFLOAD | FRAME_TSO))
			slot->flags |= FRAME_CSUM_GOOD;
		tx->away[buffer] = 1;
		link->stats.tx_frames++;
		link->stats.tx_bytes += frame->len;
	}
	store_release32(&tx->shared->sent_head, tx->sent_next);
	return n;
}

static void link_tx_flush(struct device *dev)
{
	struct link *link = link_of(dev);
	struct link_end *tx = &link->tx;
	uint64_t one = 1;

	if (tx->flushed == tx->sent_next)
		return;
	tx->flushed = tx->sent_next;
	full_fence(); /* sent_head is visible before we look at asleep; wait_begin() does it the other way
			 round */
	if (likely(!load_relaxed32(&tx->shared->asleep)))
		return;
	if (__atomic_exchange_n(&tx->shared->asleep, 0, __ATOMIC_ACQ_REL) &&
		write(link->peer_fd, &one, 8) != 8) {
		/* EAGAIN: its counter is at the limit, so it is awake already. */
	}
}

static bool link_wait_begin(struct device *dev)
{
	struct link *link = link_of(dev);
	struct link_end *rx = &link->rx;

	link->armed = true;
	store_relaxed32(&rx->shared->asleep, 1);
	full_fence();
	if (load_acquire32(&rx->shared->sent_head) == rx->sent_next)
		return false;
	/* Not asleep after all. */
	dev->ops->wait_end(dev);
	return true;
}

static void link_wait_end(struct device *dev)
{
	struct link *link = link_of(dev);
	uint64_t kicks;

	/* Cleared by the sender: it wrote, or is about to, and then its write is read the next time. */
	if (link->armed && !__atomic_exchange_n(&link->rx.shared->asleep, 0, __ATOMIC_ACQ_REL))
		link->owed = true;
	link->armed = false;
	if (link->owed && read(link->dev.wait_fd, &kicks, 8) == 8)
		link->owed = false;
}

static void link_stats(struct device *dev, struct device_stats *out)
{
	*out = link_of(dev)->stats;
}

static void link_close(struct device *dev)
{
	struct link *link = link_of(dev);

	if (link->dev.wait_fd >= 0)
		close(link->dev.wait_fd);
	if (link->peer_fd >= 0)
		close(link->peer_fd);
	link_memory_put(link->memory);
	free(link->tx.free);
	free(link->tx.away);
	free(link);
}

const struct device_ops link_ops = {
	.name = "link",
	.rx_burst = link_rx_burst,
	.rx_release = link_rx_release,
	.tx_alloc = link_tx_alloc,
	.tx_burst = link_tx_burst,
	.tx_free = link_tx_free,
	.tx_flush = link_tx_flush,
	.wait_begin = link_wait_begin,
	.wait_end = link_wait_end,
	.stats = link_stats,
	.close = link_close,
};
