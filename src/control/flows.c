/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of every four-tuple the engine knows: hash chains of references to handshakes, connections and
 * TIME-WAIT entries. A tuple has one owner at a time. Keyed with the engine's secret, so peers cannot aim at
 * a bucket. Control plane's thread; the data path has a table of its own and never sees this one.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"
#include "core/siphash.h"

int flows_init(struct control *ctl)
{
	uint32_t size = 4096;

	while (size < ctl->conns_max && size < 1u << 22)
		size *= 2;
	ctl->flow_mask = size - 1u;
	ctl->flow_buckets = array_reserve(size, sizeof(uint32_t));
	return ctl->flow_buckets ? 0 : -ENOMEM;
}

void flows_free(struct control *ctl)
{
	array_release(ctl->flow_buckets, ctl->flow_mask + 1u, sizeof(uint32_t));
}

uint64_t flow_key_hash(const struct control *ctl, const struct flow_key *key)
{
	return siphash(ctl->secret, key, sizeof(*key));
}

static struct flow_node *flow_node(const struct control *ctl, uint32_t ref)
{
	uint32_t index = FLOW_REF_INDEX(ref);

	switch (FLOW_REF_KIND(ref)) {
	case FLOW_HANDSHAKE:
		return &ctl->handshakes[index].flow;
	case FLOW_CONN:
		return &ctl->conns[index].flow;
	case FLOW_TIME_WAIT:
	default:
		return &ctl->time_waits[index].flow;
	}
}

static uint32_t *flow_bucket_of(const struct control *ctl, const struct flow_key *key)
{
	return &ctl->flow_buckets[flow_key_hash(ctl, key) & ctl->flow_mask];
}

uint32_t flows_find(const struct control *ctl, const struct flow_key *key)
{
	uint32_t link = *flow_bucket_of(ctl, key);

	while (link) {
		const struct flow_node *node = flow_node(ctl, link - 1u);

		if (memcmp(&node->key, key, sizeof(*key)) == 0)
			return link - 1u;
		link = node->next;
	}
	return INDEX_NONE;
}

void flows_add(struct control *ctl, uint32_t ref)
{
	struct flow_node *node = flow_node(ctl, ref);
	uint32_t *bucket = flow_bucket_of(ctl, &node->key);

	node->next = *bucket;
	*bucket = ref + 1u;
}

void flows_del(struct control *ctl, uint32_t ref)
{
	struct flow_node *node = flow_node(ctl, ref);
	uint32_t *link = flow_bucket_of(ctl, &node->key);

	while (*link) {
		if (*link == ref + 1u) {
			*link = node->next;
			node->next = 0;
			return;
		}
		link = &flow_node(ctl, *link - 1u)->next;
	}
}
