/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the four numbers of a connection to its index: open addressing in buckets of one cache line, eight
 * entries of (hash, index). The table compares hashes; the caller compares the key in the connection's
 * identity line, which it needs next anyway. Look-ups come in batches: prefetch flow_bucket() first, then
 * flow_hint() and flow_find(). One thread writes and reads.
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
	uint64_t seed[2]; /* secret: who does not know it cannot aim at a bucket */
};

/* Room for conns_max at a load of at most one half. seed: a secret. 0 or -ENOMEM. */
int flow_table_init(struct flow_table *table, uint32_t conns_max, uint64_t seed);
void flow_table_free(struct flow_table *table);

/* A key as it lies in a segment that comes in: source and destination address; source and destination port.
 */
struct flow_key {
	uint64_t addrs;
	uint32_t ports;
};
static inline struct flow_key flow_key(be32 local_addr, be32 remote_addr, be16 local_port, be16 remote_port)
{
	return (struct flow_key){
		(uint64_t)local_addr << 32 | remote_addr, (uint32_t)local_port << 16 | remote_port};
}
static inline struct flow_key flow_key_of(const struct conn_identity *id)
{
	return flow_key(id->local_addr[3], id->remote_addr[3], id->local_port, id->remote_port);
}

/* Never 0. One multiplication of both halves, each hidden by a secret, folded: the halves of the product
 * depend on every bit of the key. */
static inline uint32_t flow_hash(const struct flow_table *table, struct flow_key key)
{
	__extension__ unsigned __int128 product =
		(unsigned __int128)(key.addrs ^ table->seed[0]) * (key.ports ^ table->seed[1]);
	uint64_t h = (uint64_t)product ^ (uint64_t)(product >> 64);

	return (uint32_t)h | 1u; /* the low bit is not used for the bucket */
}

static inline struct flow_entry *flow_bucket(const struct flow_table *table, uint32_t hash)
{
	return &table->entries[((hash >> 1) & table->bucket_mask) * FLOW_BUCKET];
}

static inline bool flow_key_equal(const struct conn_identity *id, struct flow_key key)
{
	uint32_t ports;

	memcpy(&ports, &id->remote_port, 4);
	return ((id->remote_addr[3] ^ (uint32_t)key.addrs) |
		       (id->local_addr[3] ^ (uint32_t)(key.addrs >> 32)) | (ports ^ key.ports)) == 0;
}

/* First index with this hash in a bucket, its home, or CONN_NONE: a guess, for prefetching the connection. */
static inline uint32_t flow_hint(const struct flow_entry *bucket, uint32_t hash)
{
	for (unsigned i = 0; i < FLOW_BUCKET; i++)
		if (bucket[i].hash == hash)
			return bucket[i].index;
	return CONN_NONE;
}

/* The connection with this key, or CONN_NONE. conns is the array the indices point into. */
uint32_t flow_find(
	const struct flow_table *table, const struct conn *conns, uint32_t hash, struct flow_key key);
/* 0, -EEXIST or -ENOSPC. The key and hash are those in conns[index].id. */
int flow_insert(struct flow_table *table, const struct conn *conns, uint32_t index);
/* 0 or -ENOENT. */
int flow_remove(struct flow_table *table, uint32_t hash, uint32_t index);

#endif
