/* SPDX-License-Identifier: BSD-3-Clause */
/* See reassembly.h. Called by the protocol stage alone. */
#include "datapath/reassembly.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/seq.h"

int ooo_pool_init(struct ooo_pool *pool, uint32_t max)
{
	void *p = mmap(NULL, (size_t)max * sizeof(struct ooo), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*pool = (struct ooo_pool){.max = max, .free_head = CONN_NONE};
	if (p == MAP_FAILED)
		return -ENOMEM;
	pool->entries = p;
	return 0;
}

void ooo_pool_free(struct ooo_pool *pool)
{
	if (pool->entries)
		munmap(pool->entries, (size_t)pool->max * sizeof(struct ooo));
	pool->entries = NULL;
}

static struct ooo *entry_of(struct tcp_state *t, struct ooo_pool *pool)
{
	struct ooo *o;
	uint32_t i;

	if (t->ooo != CONN_NONE)
		return &pool->entries[t->ooo];
	if (pool->free_head != CONN_NONE) {
		i = pool->free_head;
		pool->free_head = pool->entries[i].fin_seq;
	} else if (pool->fresh < pool->max) {
		i = pool->fresh++;
	} else {
		return NULL;
	}
	pool->used++;
	t->ooo = i;
	o = &pool->entries[i];
	o->count = 0;
	o->has_fin = 0;
	o->recent = 0;
	return o;
}

void reassembly_drop(struct tcp_state *t, struct ooo_pool *pool)
{
	if (t->ooo == CONN_NONE)
		return;
	pool->entries[t->ooo].fin_seq = pool->free_head;
	pool->free_head = t->ooo;
	pool->used--;
	t->ooo = CONN_NONE;
}

bool reassembly_add(struct tcp_state *t, struct ooo_pool *pool, uint32_t start, uint32_t end, bool fin)
{
	struct ooo *o = entry_of(t, pool);
	unsigned first, last;

	if (!o)
		return false;
	/* [first, last) are the intervals that touch or overlap the new one */
	for (first = 0; first < o->count && seq_lt(o->interval[first].end, start); first++)
		;
	for (last = first; last < o->count && seq_leq(o->interval[last].start, end); last++)
		;
	if (start != end) {
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
		reassembly_drop(t, pool);
	return fin;
}

unsigned reassembly_sack(
	const struct tcp_state *t, const struct ooo_pool *pool, uint32_t block[SACK_BLOCKS][2], unsigned max)
{
	const struct ooo *o;
	unsigned n = 0;

	if (t->ooo == CONN_NONE)
		return 0;
	o = &pool->entries[t->ooo];
	for (unsigned i = 0; i < o->count && n < max; i++) {
		unsigned at = i == 0 ? o->recent : i <= o->recent ? i - 1 : i;

		block[n][0] = o->interval[at].start;
		block[n++][1] = o->interval[at].end;
	}
	return n;
}
