/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A single-producer single-consumer ring of variable-length records, between the data path and the control
 * plane. Records lie contiguously and 8-byte aligned; the producer writes a record in place and publishes it,
 * the consumer reads it in place and gives it back. Full and empty are answers, nobody waits. Each side keeps
 * a cached copy of the other's index.
 */
#ifndef CORE_RECORD_RING_H
#define CORE_RECORD_RING_H

#include "core/platform.h"

struct record_ring {
	uint8_t *bytes;
	uint32_t size; /* power of two */
	CACHE_ALIGNED struct {
		uint32_t head;	      /* producer: end of what is published */
		uint32_t reserved;    /* end of the record being written */
		uint32_t tail_cached; /* the consumer's tail as last seen */
	} producer;
	CACHE_ALIGNED struct {
		uint32_t tail; /* consumer: everything before it is free */
		uint32_t next; /* end of the record peeked at */
		uint32_t head_cached;
	} consumer;
};

/* size: power of two, at least 4096. 0 or -ENOMEM. */
int record_ring_init(struct record_ring *ring, uint32_t size);
void record_ring_free(struct record_ring *ring);

/* [producer] Room for a record of len bytes, to be filled in and published; NULL when the ring is full. */
void *record_ring_reserve(struct record_ring *ring, uint32_t len);
void record_ring_publish(struct record_ring *ring);
/* [producer] The longest record that surely fits now. */
uint32_t record_ring_room(struct record_ring *ring);

/* [consumer] The oldest record and its length, or NULL; it stays valid until record_ring_pop(). */
void *record_ring_peek(struct record_ring *ring, uint32_t *len);
void record_ring_pop(struct record_ring *ring);
static inline bool record_ring_empty(const struct record_ring *ring)
{
	return load_acquire32(&ring->producer.head) == ring->consumer.tail;
}

#endif
