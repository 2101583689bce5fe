/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a connection holds beyond rcv_nxt: the payload already lies in the application's buffer, only the
 * intervals are kept here, sorted and disjoint, in an entry of a pool that a connection has while it needs
 * it.
 */
#ifndef DATAPATH_REASSEMBLY_H
#define DATAPATH_REASSEMBLY_H

#include "core/conn.h"

#include "datapath/scoreboard.h"

#define OOO_INTERVALS 28u

/* What a connection has its entry for. */
#define OOO_INTERVALS_HELD 0x1u /* intervals, or a FIN, ahead of rcv_nxt */
#define OOO_DUPLICATE	   0x2u /* a duplicate to be reported (RFC 2883) */
#define OOO_BOARD	   0x4u /* the scoreboard of the bytes in flight */

struct ooo {
	struct {
		uint32_t start, end; /* sequence numbers, end exclusive */
	} interval[OOO_INTERVALS];
	uint8_t count;
	uint8_t has_fin;
	uint8_t recent;	  /* index of the interval that grew last */
	uint8_t uses;	  /* OOO_* */
	uint32_t fin_seq; /* with has_fin: the FIN's sequence number */
	uint32_t duplicate[2];
	uint32_t free_next; /* free entries: the next free one */
	uint32_t reserved[3];
};
_Static_assert(sizeof(struct ooo) == 256, "whole cache lines");

/* Entry i has its scoreboard in boards[i]: memory that is touched only where a board is used. */
struct ooo_pool {
	struct ooo *entries;
	struct scoreboard *boards;
	uint32_t max, used, free_head, fresh;
};

int ooo_pool_init(struct ooo_pool *pool, uint32_t max);
void ooo_pool_free(struct ooo_pool *pool);
/* The connection's entry, taken from the pool if it has none, for one more use; NULL: the pool is empty. */
struct ooo *ooo_take(struct tcp_state *t, struct ooo_pool *pool, uint8_t use);
/* One use of the entry has ended; the last one gives it back. */
void ooo_leave(struct tcp_state *t, struct ooo_pool *pool, uint8_t use);

/*
 * Notes that [start, end) beyond rcv_nxt has been placed, and with fin that a FIN follows at end. False when
 * there is no room to remember it: then the segment must count as lost. What came before is noted as a
 * duplicate.
 */
bool reassembly_add(struct tcp_state *t, struct ooo_pool *pool, uint32_t start, uint32_t end, bool fin);
/* rcv_nxt has moved: takes in what now joins it. Returns true when the FIN is next (rcv_nxt stands on it). */
bool reassembly_join(struct tcp_state *t, struct ooo_pool *pool);
/* True while something is held beyond rcv_nxt. */
static inline bool reassembly_holds(const struct tcp_state *t, const struct ooo_pool *pool)
{
	return t->ooo != CONN_NONE && (pool->entries[t->ooo].uses & OOO_INTERVALS_HELD);
}
/* Notes that [start, end) came a second time, to be told with the next ACK (RFC 2883 4). Without a free entry
 * it is not told. */
void reassembly_duplicate(struct tcp_state *t, struct ooo_pool *pool, uint32_t start, uint32_t end);
#define SACK_BLOCKS 4u
/* The blocks to report, at most max: a duplicate, then the interval that grew last (RFC 2018 4). Returns how
 * many. */
unsigned reassembly_sack(
	const struct tcp_state *t, const struct ooo_pool *pool, uint32_t block[SACK_BLOCKS][2], unsigned max);
/* They were reported. */
void reassembly_told(struct tcp_state *t, struct ooo_pool *pool);
/* Gives the entry back, whatever it was used for. */
void reassembly_drop(struct tcp_state *t, struct ooo_pool *pool);

#endif
