/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Payload buffers in an application's region: powers of two from 4 KiB, on free lists by size, the last freed
 * first, so that memory which is in the cache is used again. The region is sparse and new buffers come from
 * its untouched end; when that is used up larger free ones are split. What lies free beyond a limit gives its
 * memory back to the kernel, the longest unused first, so that a past peak does not stay resident. All
 * bookkeeping is outside the region, where the application cannot reach it. Control plane's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "control/state.h"

void app_buffers_init(struct buffers *b, int fd, uint8_t *base, uint64_t start, uint64_t end)
{
	memset(b, 0, sizeof(*b));
	b->fd = fd;
	b->base = base;
	b->next = (start + 4095u) & ~4095ull;
	b->end = end & ~4095ull;
}

void app_buffers_free(struct buffers *b)
{
	for (unsigned i = 0; i < BUFFER_CLASSES; i++)
		free(b->class[i].pages);
	memset(b->class, 0, sizeof(b->class));
}

/* A place on the free list for a buffer that is about to exist, so that giving it back cannot fail. */
static int class_grow(struct buffer_class *class)
{
	if (class->made >= class->capacity) {
		uint32_t capacity = class->capacity ? class->capacity * 2u : 64u;
		uint32_t *pages = realloc(class->pages, capacity * sizeof(*pages));

		if (!pages)
			return -ENOMEM;
		class->pages = pages;
		class->capacity = capacity;
	}
	class->made++;
	return 0;
}

static uint32_t class_pop(struct buffers *b, unsigned i)
{
	struct buffer_class *class = &b->class[i];
	uint32_t page = class->pages[--class->count];

	if (class->cold > class->count)
		class->cold = class->count;
	else
		b->warm_bytes -= 1ull << (i + BUFFER_SHIFT_MIN);
	return page;
}

/* Takes the next larger free buffer apart: its lower half is free then, and so on down to the size wanted. */
static int class_split(struct buffers *b, unsigned want)
{
	unsigned from = want + 1;
	uint32_t page;

	while (from < BUFFER_CLASSES && !b->class[from].count)
		from++;
	if (from >= BUFFER_CLASSES)
		return -ENOBUFS;
	for (unsigned i = want; i < from; i++) {
		/* one buffer more of each size on the way, two of the last: as free now or popped next */
		if (class_grow(&b->class[i]) < 0)
			return -ENOBUFS;
	}
	if (class_grow(&b->class[want]) < 0)
		return -ENOBUFS;
	page = class_pop(b, from);
	b->class[from].made--;
	while (from-- > want) { /* counted as warm: giving cold memory back once more does no harm */
		struct buffer_class *class = &b->class[from];

		class->pages[class->count++] = page;
		b->warm_bytes += 1ull << (from + BUFFER_SHIFT_MIN);
		page += 1u << from;
	}
	b->class[want].pages[b->class[want].count++] = page;
	b->warm_bytes += 1ull << (want + BUFFER_SHIFT_MIN);
	return 0;
}

/* page: in units of 4 KiB from the region's start. */
int app_buffers_alloc(struct buffers *b, unsigned shift, uint32_t *page)
{
	unsigned i = shift - BUFFER_SHIFT_MIN;
	uint64_t size = 1ull << shift;
	struct buffer_class *class;

	if (shift < BUFFER_SHIFT_MIN || shift > BUFFER_SHIFT_MAX)
		return -EINVAL;
	class = &b->class[i];
	if (!class->count && b->end - b->next >= size) {
		if (class_grow(class) < 0)
			return -ENOBUFS;
		*page = (uint32_t)(b->next >> 12);
		b->next += size;
	} else {
		if (!class->count && class_split(b, i) < 0)
			return -ENOBUFS;
		*page = class_pop(b, i);
	}
	b->used_bytes += size;
	return 0;
}

void app_buffers_release(struct buffers *b, unsigned shift, uint32_t page)
{
	struct buffer_class *class = &b->class[shift - BUFFER_SHIFT_MIN];

	class->pages[class->count++] = page;
	b->warm_bytes += 1ull << shift;
	b->used_bytes -= 1ull << shift;
}

static void memory_give_back(struct buffers *b, uint64_t offset, uint64_t size)
{
	if (b->fd >= 0)
		fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
	else if (b->base)
		madvise(b->base + offset, size, MADV_DONTNEED);
}

unsigned app_buffers_trim(struct buffers *b, unsigned max)
{
	unsigned done = 0;

	for (unsigned i = BUFFER_CLASSES; i-- > 0 && b->warm_bytes > BUFFERS_KEEP_BYTES;) {
		struct buffer_class *class = &b->class[i];
		uint64_t size = 1ull << (i + BUFFER_SHIFT_MIN);

		while (done < max && class->cold < class->count && b->warm_bytes > BUFFERS_KEEP_BYTES) {
			memory_give_back(b, (uint64_t) class->pages[class->cold++] << 12, size);
			b->warm_bytes -= size;
			done++;
		}
	}
	return done;
}
