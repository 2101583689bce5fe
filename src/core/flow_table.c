/* SPDX-License-Identifier: BSD-3-Clause */
/* See flow_table.h. A full bucket overflows into the next. A search ends at the first bucket with a free
 * entry, so a removal from a full bucket takes back an entry that had to pass it, if there is one: searches
 * stay as short as the load makes them, however many connections came and went. */
#include "core/flow_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t table_bytes(const struct flow_table *table)
{
	return ((size_t)table->bucket_mask + 1u) * FLOW_BUCKET * sizeof(struct flow_entry);
}

int flow_table_init(struct flow_table *table, uint32_t conns_max, uint64_t seed)
{
	uint32_t buckets = 1;
	void *p;

	while ((uint64_t)buckets * FLOW_BUCKET < (uint64_t)conns_max * 2u)
		buckets *= 2;
	*table = (struct flow_table){
		.bucket_mask = buckets - 1u, .seed = {seed, seed * 0x9e3779b97f4a7c15u ^ seed >> 29}};
	p = mmap(NULL, table_bytes(table), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	table->entries = p;
	return 0;
}

void flow_table_free(struct flow_table *table)
{
	if (table->entries)
		munmap(table->entries, table_bytes(table));
	table->entries = NULL;
}

uint32_t flow_find(
	const struct flow_table *table, const struct conn *conns, uint32_t hash, struct flow_key key)
{
	uint32_t b = (hash >> 1) & table->bucket_mask;

	for (uint32_t n = 0; n <= table->bucket_mask; n++, b = (b + 1u) & table->bucket_mask) {
		const struct flow_entry *e = &table->entries[b * FLOW_BUCKET];
		bool open = false;

		for (unsigned i = 0; i < FLOW_BUCKET; i++) {
			if (e[i].hash == hash && flow_key_equal(&conns[e[i].index].id, key))
				return e[i].index;
			open |= e[i].hash == 0;
		}
		if (open)
			return CONN_NONE;
	}
	return CONN_NONE;
}

int flow_insert(struct flow_table *table, const struct conn *conns, uint32_t index)
{
	const struct conn_identity *id = &conns[index].id;
	uint32_t b = (id->hash >> 1) & table->bucket_mask;

	if (flow_find(table, conns, id->hash, flow_key_of(id)) != CONN_NONE)
		return -EEXIST;
	for (uint32_t n = 0; n <= table->bucket_mask; n++, b = (b + 1u) & table->bucket_mask) {
		struct flow_entry *e = &table->entries[b * FLOW_BUCKET];

		for (unsigned i = 0; i < FLOW_BUCKET; i++)
			if (e[i].hash == 0) {
				e[i] = (struct flow_entry){id->hash, index};
				table->count++;
				return 0;
			}
	}
	return -ENOSPC;
}

/* Entry `at` of bucket `b`, which was full, is to be free: fills it with one from further on that belongs
   here or before, and goes on with the place of that one. */
static void hole_fill(struct flow_table *table, uint32_t b, struct flow_entry *at)
{
	uint32_t mask = table->bucket_mask, from = b;

	for (uint32_t n = 0; n < mask; n++) {
		struct flow_entry *e, *move = NULL;
		bool open = false;

		from = (from + 1u) & mask;
		e = &table->entries[from * FLOW_BUCKET];
		for (unsigned i = 0; i < FLOW_BUCKET; i++) {
			uint32_t home = (e[i].hash >> 1) & mask;

			open |= e[i].hash == 0;
			if (e[i].hash && ((from - home) & mask) >= ((from - b) & mask))
				move = &e[i];
		}
		if (move) {
			*at = *move;
			if (open) { /* no search passes that bucket */
				*move = (struct flow_entry){0, 0};
				return;
			}
			at = move;
			b = from;
			n = 0;
		} else if (open) {
			break;
		}
	}
	*at = (struct flow_entry){0, 0};
}

int flow_remove(struct flow_table *table, uint32_t hash, uint32_t index)
{
	uint32_t b = (hash >> 1) & table->bucket_mask;

	for (uint32_t n = 0; n <= table->bucket_mask; n++, b = (b + 1u) & table->bucket_mask) {
		struct flow_entry *e = &table->entries[b * FLOW_BUCKET];
		int at = -1;
		bool open = false;

		for (unsigned i = 0; i < FLOW_BUCKET; i++) {
			if (e[i].hash == hash && e[i].index == index)
				at = (int)i;
			open |= e[i].hash == 0;
		}
		if (at >= 0) {
			table->count--;
			if (open)
				e[at] = (struct flow_entry){0, 0};
			else
				hole_fill(table, b, &e[at]);
			return 0;
		}
		if (open)
			return -ENOENT;
	}
	return -ENOENT;
}
