/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the devices share and nobody else sees: words about failures, random Ethernet addresses, and a pool of
 * frame buffers.
 */
#ifndef DEVICE_INTERNAL_H
#define DEVICE_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "core/platform.h"
#include "device/device.h"

/* Puts the sentence into err (which may be NULL) and returns error, so that "return device_fail(...)" reads
 * well. */
int device_fail(struct device_error *err, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Copies mac, or makes a random unicast address of local administration when it is all zeroes. */
void device_mac_choose(uint8_t out[6], const uint8_t mac[6]);

/*
 * Equal buffers in one mapping, handed out last in, first out: a lightly loaded device uses the same few
 * buffers again and again, which stay in the cache, and pages of the others are never touched.
 */
struct buffers {
	uint8_t *base;
	size_t map_bytes;
	uint32_t stride; /* an odd number of cache lines: the heads of the buffers spread over all cache sets
			  */
	uint32_t count;
	uint32_t free_count;
	uint32_t *free; /* stack of indices */
};

/* 0 or -ENOMEM. */
int buffers_init(struct buffers *buffers, uint32_t count, uint32_t bytes);
void buffers_destroy(struct buffers *buffers);

/* The stride for buffers of so many bytes. */
uint32_t buffers_stride(uint32_t bytes);

static inline uint8_t *buffers_at(const struct buffers *buffers, uint32_t index)
{
	return buffers->base + (size_t)index * buffers->stride;
}

/* Only when free_count is not 0. */
static inline uint32_t buffers_get(struct buffers *buffers)
{
	return buffers->free[--buffers->free_count];
}

static inline void buffers_put(struct buffers *buffers, uint32_t index)
{
	buffers->free[buffers->free_count++] = index;
}

#endif
