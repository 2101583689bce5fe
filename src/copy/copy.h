/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Payload movement between application regions and frames, behind one small interface. A copy names the
 * host side as (region, offset), which the data path has checked against the region's bounds; only the
 * engine turns it into an address. One thread submits and polls.
 */
#ifndef COPY_COPY_H
#define COPY_COPY_H

#include <stdbool.h>
#include <stdint.h>

enum copy_direction {
	COPY_TO_REGION,	  /* received payload */
	COPY_FROM_REGION, /* payload to send */
};

struct copy_op {
	uint8_t *wire;	 /* in a frame */
	uint64_t offset; /* in the region */
	uint32_t region;
	uint32_t len;	    /* bytes, not 0 */
	uint32_t direction; /* enum copy_direction */
	uint32_t cookie;    /* the submitter's, comes back with the completion */
};

#define COPY_ASYNC   0x1u /* completes later: poll() tells; without it submit() returns when all is done */
#define COPY_ORDERED 0x2u /* completes in the order of submission */
#define COPY_DIRECT  0x4u /* regions are mapped here and submit() is a memcpy: the caller may do it itself */

struct copy_engine;
struct copy_ops {
	const char *name;
	uint32_t caps;	  /* COPY_* */
	uint32_t max_len; /* bytes a single copy may have */
	/* Takes the first k of n copies and returns k. */
	unsigned (*submit)(struct copy_engine *engine, const struct copy_op *ops, unsigned n);
	/* Up to n cookies of copies that have completed; ok[i] is false for one that failed. */
	unsigned (*poll)(struct copy_engine *engine, uint32_t *cookies, bool *ok, unsigned n);
	/* Makes a region known (base NULL: forgets it). region < regions_max given at creation. */
	int (*region_set)(struct copy_engine *engine, uint32_t region, uint8_t *base, uint64_t size);
	void (*close)(struct copy_engine *engine);
};

struct copy_engine {
	const struct copy_ops *ops;
};

/* The local engine: memcpy by the calling core, done when submit() returns. NULL when out of memory. */
struct copy_engine *copy_memcpy_create(uint32_t regions_max);

#endif
