/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the four numbers of a connection to its index: open addressing in buckets of one cache line, eight
 * entries of (hash, index). The table compares hashes; the caller compares the key in the connection's
 * identity line, which it needs next anyway. Look-ups come in batches: flow_prefetch() first, then
 * flow_find(). One thread writes and reads.
 */
#ifndef CORE_FLOW_TABLE_H
#define CORE_FLOW_TABLE_H

#include "core/conn.h"

struct flow_entry {
	uint32_t hash; /* as from flow_hash(); 0: free */
	uint32_t index;
};

#define FLOW_BUCKET 8u

struct flow_table {
	struct flow_entry *entries; /* buckets, cache aligned */
	uint32_t bucket_mask;
	uint32_t count;
	uint32_t seed;
};

/* Room for conns_max at a load of at most one half. seed: a secret. 0 or -ENOMEM. */
int flow_table_init(struct flow_table *table, uint32_t conns_max, uint32_t seed);
void flow_table_free(struct flow_table *table);

/* Hash of the numbers as the receiver sees them: ours are local. Never 0. IPv4 in wire order. */
static inline uint32_t flow_hash(
	const struct flow_table *table, be32 local_addr, be32 remote_addr, be16 local_port, be16 remote_port)
{
	uint64_t a = (uint64_t)local_addr << 32 | remote_addr;
	uint64_t b = (uint64_t)local_port << 16 | remote_port;
	uint64_t h = (a ^ ((uint64_t)table->seed << 17)) * 0x9e3779b97f4a7c15u;

	h = (h ^ (h >> 29) ^ b ^ table->seed) * 0xbf58476d1ce4e5b9u;
	h ^= h >> 32;
	return (uint32_t)h | 1u; /* the low bit is not used for the bucket */
}

static inline struct flow_entry *flow_bucket(const struct flow_table *table, uint32_t hash)
{
	return &table->entries[((hash >> 1) & table->bucket_mask) * FLOW_BUCKET];
}

static inline void flow_prefetch(const struct flow_table *table, uint32_t hash)
{
	prefetch(flow_bucket(table, hash));
}

static inline bool flow_key_equal(
	const struct conn_identity *id, be32 local_addr, be32 remote_addr, be16 local_port, be16 remote_port)
{
	return id->local_addr[3] == local_addr && id->remote_addr[3] == remote_addr &&
	       id->local_port == local_port && id->remote_port == remote_port;
}

/* First index with this hash in its home bucket, or CONN_NONE: a hint for prefetching the connection. */
static inline uint32_t flow_hint(const struct flow_table *table, uint32_t hash)
{
	const struct flow_entry *e = flow_bucket(table, hash);

	for (unsigned i = 0; i < FLOW_BUCKET; i++)
		if (e[i].hash == hash)
			return e[i].index;
	return CONN_NONE;
}

/* The connection with this key, or CONN_NONE. conns is the array the indices point into. */
uint32_t flow_find(const struct flow_table *table, const struct conn *conns, uint32_t hash, be32 local_addr,
	be32 remote_addr, be16 local_port, be16 remote_port);
/* 0, -EEXIST or -ENOSPC. The key and hash are those in conns[index].id. */
int flow_insert(struct flow_table *table, const struct conn *conns, uint32_t index);
/* 0 or -ENOENT. */
int flow_remove(struct flow_table *table, uint32_t hash, uint32_t index);

#endif
