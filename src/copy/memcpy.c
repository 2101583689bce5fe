/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The local copy engine: the calling core copies. It owns the table of region addresses and checks every copy
 * against it, although the data path has checked before: it is the last one that could.
 */
#include "copy/copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct region {
	uint8_t *base;
	uint64_t size;
};

struct memcpy_engine {
	struct copy_engine engine;
	uint32_t regions_max;
	struct region regions[];
};

static unsigned memcpy_submit(struct copy_engine *engine, const struct copy_op *ops, unsigned n)
{
	struct memcpy_engine *self = (struct memcpy_engine *)engine;

	for (unsigned i = 0; i < n; i++) {
		const struct copy_op *op = &ops[i];
		const struct region *r;

		if (op->region >= self->regions_max)
			return i;
		r = &self->regions[op->region];
		if (op->len > r->size || op->offset > r->size - op->len)
			return i;
		if (op->direction == COPY_TO_REGION)
			memcpy(r->base + op->offset, op->wire, op->len);
		else
			memcpy(op->wire, r->base + op->offset, op->len);
	}
	return n;
}

static unsigned memcpy_poll(struct copy_engine *engine, uint32_t *cookies, bool *ok, unsigned n)
{
	(void)engine, (void)cookies, (void)ok, (void)n;
	return 0; /* everything completes in submit() */
}

static int memcpy_region_set(struct copy_engine *engine, uint32_t region, uint8_t *base, uint64_t size)
{
	struct memcpy_engine *self = (struct memcpy_engine *)engine;

	if (region >= self->regions_max)
		return -EINVAL;
	self->regions[region] = (struct region){base, base ? size : 0};
	return 0;
}

static void memcpy_close(struct copy_engine *engine)
{
	free(engine);
}

static const struct copy_ops memcpy_ops = {
	.name = "memcpy",
	.caps = COPY_ORDERED | COPY_DIRECT,
	.max_len = UINT32_MAX,
	.submit = memcpy_submit,
	.poll = memcpy_poll,
	.region_set = memcpy_region_set,
	.close = memcpy_close,
};

struct copy_engine *copy_memcpy_create(uint32_t regions_max)
{
	struct memcpy_engine *self = calloc(1, sizeof(*self) + regions_max * sizeof(self->regions[0]));

	if (!self)
		return NULL;
	self->engine.ops = &memcpy_ops;
	self->regions_max = regions_max;
	return &self->engine;
}
