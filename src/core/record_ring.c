/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See record_ring.h. A record is an 8-byte header (its length) and its bytes, rounded up to 8; a record never
 * wraps: where the end of the ring is too near, a header of length SKIP fills the rest.
 */
#include "core/record_ring.h"

#include <errno.h>
#include <stdlib.h>

#define HEADER 8u
#define SKIP   0xffffffffu

int record_ring_init(struct record_ring *ring, uint32_t size)
{
	*ring = (struct record_ring){.size = size};
	ring->bytes = aligned_alloc(CACHE_LINE, size);
	return ring->bytes ? 0 : -ENOMEM;
}

void record_ring_free(struct record_ring *ring)
{
	free(ring->bytes);
	ring->bytes = NULL;
}

static uint32_t footprint(uint32_t len)
{
	return HEADER + ((len + 7u) & ~7u);
}

static bool fits(struct record_ring *ring, uint32_t bytes)
{
	if (ring->producer.head + bytes - ring->producer.tail_cached <= ring->size)
		return true;
	ring->producer.tail_cached = load_acquire32(&ring->consumer.tail);
	return ring->producer.head + bytes - ring->producer.tail_cached <= ring->size;
}

void *record_ring_reserve(struct record_ring *ring, uint32_t len)
{
	uint32_t bytes, head = ring->producer.head, at = head & (ring->size - 1u), skip = 0;

	if (len > ring->size / 2u)
		return NULL;
	bytes = footprint(len);
	if (at + bytes > ring->size)
		skip = ring->size - at;
	if (!fits(ring, skip + bytes))
		return NULL;
	if (skip) {
		*(uint32_t *)(ring->bytes + at) = SKIP;
		at = 0;
	}
	*(uint32_t *)(ring->bytes + at) = len;
	ring->producer.reserved = head + skip + bytes;
	return ring->bytes + at + HEADER;
}

void record_ring_publish(struct record_ring *ring)
{
	store_release32(&ring->producer.head, ring->producer.reserved);
}

uint32_t record_ring_room(struct record_ring *ring)
{
	uint32_t free_bytes;

	ring->producer.tail_cached = load_acquire32(&ring->consumer.tail);
	free_bytes = ring->size - (ring->producer.head - ring->producer.tail_cached);
	/* in the worst place a record wastes as much again by not wrapping */
	return free_bytes / 2u > 2u * HEADER ? free_bytes / 2u - 2u * HEADER : 0;
}

void *record_ring_peek(struct record_ring *ring, uint32_t *len)
{
	uint32_t tail = ring->consumer.tail, at, n;

	if (ring->consumer.head_cached == tail) {
		ring->consumer.head_cached = load_acquire32(&ring->producer.head);
		if (ring->consumer.head_cached == tail)
			return NULL;
	}
	at = tail & (ring->size - 1u);
	n = *(uint32_t *)(ring->bytes + at);
	if (n == SKIP) { /* a record always follows: both were published together */
		tail += ring->size - at;
		at = 0;
		n = *(uint32_t *)ring->bytes;
	}
	ring->consumer.next = tail + footprint(n);
	*len = n;
	return ring->bytes + at + HEADER;
}

void record_ring_pop(struct record_ring *ring)
{
	store_release32(&ring->consumer.tail, ring->consumer.next);
}
