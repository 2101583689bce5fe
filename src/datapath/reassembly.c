/* SPDX-License-Identifier: BSD-3-Clause */
/* See reassembly.h. Called by the protocol stage alone. */
#include "datapath/reassembly.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/seq.h"

static void *pool_map(size_t size)
{
	void *p =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int ooo_pool_init(struct ooo_pool *pool, uint32_t max)
{
	*pool = (struct ooo_pool){.max = max, .free_head = CONN_NONE};
	pool->entries = pool_map((size_t)max * sizeof(struct ooo));
	pool->boards = pool_map((size_t)max * sizeof(struct scoreboard));
	if (pool->entries && pool->boards)
		return 0;
	ooo_pool_free(pool);
	return -ENOMEM;
}

void ooo_pool_free(struct ooo_pool *pool)
{
	if (pool->entries)
		munmap(pool->entries, (size_t)pool->max * sizeof(struct ooo));
	if (pool->boards)
		munmap(pool->boards, (size_t)pool->max * sizeof(struct scoreboard));
	pool->entries = NULL;
	pool->boards = NULL;
}

struct ooo *ooo_take(struct tcp_state *t, struct ooo_pool *pool, uint8_t use)
{
	struct ooo *o;
	uint32_t i = t->ooo;

	if (i == CONN_NONE) {
		if (pool->free_head != CONN_NONE) {
			i = pool->free_head;
			pool->free_head = pool->entries[i].free_next;
		} else if (pool->fresh < pool->max) {
			i = pool->fresh++;
		} else {
			return NULL;
		}
		pool->used++;
		t->ooo = i;
		pool->entries[i].uses = 0;
	}
	o = &pool->entries[i];
	if (use == OOO_INTERVALS_HELD && !(o->uses & use)) {
		o->count = 0;
		o->has_fin = 0;
		o->recent = 0;
	}
	o->uses |= use;
	return o;
}

void reassembly_drop(struct tcp_state *t, struct ooo_pool *pool)
{
	if (t->ooo == CONN_NONE)
		return;
	pool->entries[t->ooo].free_next = pool->free_head;
	pool->free_head = t->ooo;
	pool->used--;
	t->ooo = CONN_NONE;
}

void ooo_leave(struct tcp_state *t, struct ooo_pool *pool, uint8_t use)
{
	struct ooo *o;

	if (t->ooo == CONN_NONE)
		return;
	o = &pool->entries[t->ooo];
	o->uses &= (uint8_t)~use;
	if (!o->uses)
		reassembly_drop(t, pool);
}

bool reassembly_add(struct tcp_state *t, struct ooo_pool *pool, uint32_t start, uint32_t end, bool fin)
{
	struct ooo *o = ooo_take(t, pool, OOO_INTERVALS_HELD);
	unsigned first, last;

	if (!o)
		return false;
	/* [first, last) are the intervals that touch or overlap the new one */
	for (first = 0; first < o->count && seq_lt(o->interval[first].end, start); first++)
		;
	for (last = first; last < o->count && seq_leq(o->interval[last].start, end); last++)
		;
	if (start != end) {
		if (first != last && seq_leq(o->interval[first].start, start) &&
			seq_geq(o->interval[first].end, end))
			reassembly_duplicate(t, pool, start, end);
		if (first == last) {
			if (o->count == OOO_INTERVALS)
				return false;
			memmove(&o->interval[first + 1], &o->interval[first],
				(o->count - first) * sizeof(o->interval[0]));
			o->interval[first].start = start;
			o->interval[first].end = end;
			o->count++;
		} else {
			o->interval[first].start = seq_min(o->interval[first].start, start);
			o->interval[first].end = seq_max(o->interval[last - 1].end, end);
			memmove(&o->interval[first + 1], &o->interval[last],
				(o->count - last) * sizeof(o->interval[0]));
			o->count -= (uint8_t)(last - first - 1);
		}
	}
	if (start != end)
		o->recent = (uint8_t)first;
	if (fin) {
		o->has_fin = 1;
		o->fin_seq = end;
	}
	return true;
}

bool reassembly_join(struct tcp_state *t, struct ooo_pool *pool)
{
	struct ooo *o = &pool->entries[t->ooo];
	unsigned n = 0;
	bool fin;

	while (n < o->count && seq_leq(o->interval[n].start, t->rcv_nxt)) {
		t->rcv_nxt = seq_max(t->rcv_nxt, o->interval[n].end);
		n++;
	}
	if (n) {
		memmove(&o->interval[0], &o->interval[n], (o->count - n) * sizeof(o->interval[0]));
		o->count -= (uint8_t)n;
		o->recent = o->recent >= n ? (uint8_t)(o->recent - n) : 0;
	}
	fin = o->has_fin && seq_leq(o->fin_seq, t->rcv_nxt);
	if (fin || (o->count == 0 && !o->has_fin))
		ooo_leave(t, pool, OOO_INTERVALS_HELD);
	return fin;
}

void reassembly_duplicate(struct tcp_state *t, struct ooo_pool *pool, uint32_t start, uint32_t end)
{
	struct ooo *o;

	if (!(t->flags & TCPF_SACK))
		return;
	o = ooo_take(t, pool, OOO_DUPLICATE);
	if (!o)
		return;
	o->duplicate[0] = start;
	o->duplicate[1] = end;
}

unsigned reassembly_sack(
	const struct tcp_state *t, const struct ooo_pool *pool, uint32_t block[SACK_BLOCKS][2], unsigned max)
{
	const struct ooo *o;
	unsigned n = 0, count, first;

	if (t->ooo == CONN_NONE)
		return 0;
	o = &pool->entries[t->ooo];
	count = o->uses & OOO_INTERVALS_HELD ? o->count : 0;
	first = o->recent;
	if (o->uses & OOO_DUPLICATE) { /* RFC 2883 4: it comes first, then the interval it lies in */
		block[n][0] = o->duplicate[0];
		block[n++][1] = o->duplicate[1];
		for (unsigned i = 0; i < count; i++)
			if (seq_leq(o->interval[i].start, o->duplicate[0]) &&
				seq_geq(o->interval[i].end, o->duplicate[1]))
				first = i;
	}
	for (unsigned i = 0; i < count && n < max; i++) {
		unsigned at = i == 0 ? first : i <= first ? i - 1 : i;

		block[n][0] = o->interval[at].start;
		block[n++][1] = o->interval[at].end;
	}
	return n;
}

void reassembly_told(struct tcp_state *t, struct ooo_pool *pool)
{
	ooo_leave(t, pool, OOO_DUPLICATE);
}
