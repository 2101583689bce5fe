/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a connection holds beyond rcv_nxt: the payload already lies in the application's buffer, only the
 * intervals are kept here, sorted and disjoint, in an entry of a pool that a connection has while it needs
 * it.
 */
#ifndef DATAPATH_REASSEMBLY_H
#define DATAPATH_REASSEMBLY_H

#include "core/conn.h"

#define OOO_INTERVALS 7u

struct ooo {
	struct {
		uint32_t start, end; /* sequence numbers, end exclusive */
	} interval[OOO_INTERVALS];
	uint8_t count;
	uint8_t has_fin;
	uint8_t recent; /* index of the interval that grew last */
	uint8_t reserved;
	uint32_t fin_seq; /* with has_fin: the FIN's sequence number; free entries: the next free one */
};
_Static_assert(sizeof(struct ooo) == 64, "one cache line");

struct ooo_pool {
	struct ooo *entries;
	uint32_t max, used, free_head, fresh;
};

int ooo_pool_init(struct ooo_pool *pool, uint32_t max);
void ooo_pool_free(struct ooo_pool *pool);

/*
 * Notes that [start, end) beyond rcv_nxt has been placed, and with fin that a FIN follows at end. False when
 * there is no room to remember it: then the segment must count as lost.
 */
bool reassembly_add(struct tcp_state *t, struct ooo_pool *pool, uint32_t start, uint32_t end, bool fin);
/* rcv_nxt has moved: takes in what now joins it. Returns true when the FIN is next (rcv_nxt stands on it). */
bool reassembly_join(struct tcp_state *t, struct ooo_pool *pool);
#define SACK_BLOCKS 4u
/* The intervals to report, at most max: the one that grew last comes first (RFC 2018 4). Returns how many. */
unsigned reassembly_sack(
	const struct tcp_state *t, const struct ooo_pool *pool, uint32_t block[SACK_BLOCKS][2], unsigned max);
/* Gives the entry back. */
void reassembly_drop(struct tcp_state *t, struct ooo_pool *pool);

#endif
