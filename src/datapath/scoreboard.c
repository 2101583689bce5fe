/* SPDX-License-Identifier: BSD-3-Clause */
/* See scoreboard.h. Called by recovery.c; each call is bounded by the BOARD_RANGES of the list. */
#include "datapath/scoreboard.h"

#include <string.h>

#include "core/seq.h"

void board_init(struct scoreboard *b, uint32_t una)
{
	memset(b, 0, offsetof(struct scoreboard, range));
	b->una = b->end = b->fack = una;
}

static uint32_t range_end(const struct scoreboard *b, unsigned i)
{
	return i + 1u < b->count ? b->range[i + 1u].start : b->end;
}

static uint32_t range_len(const struct scoreboard *b, unsigned i)
{
	return range_end(b, i) - b->range[i].start;
}

static void range_drop(struct scoreboard *b, unsigned first, unsigned n)
{
	memmove(&b->range[first], &b->range[first + n], (b->count - first - n) * sizeof(b->range[0]));
	b->count -= (uint8_t)n;
}

/* Two ranges that need not be told apart. */
static bool range_alike(const struct range *a, const struct range *b)
{
	bool timed = a->state == RANGE_OVERTAKEN || a->state == RANGE_RESENT;

	return a->state == b->state && a->flags == b->flags &&
	       (!timed || (a->us == b->us && a->mark == b->mark));
}

static void merge_alike(struct scoreboard *b)
{
	unsigned kept = 0;

	for (unsigned i = 1; i < b->count; i++)
		if (!range_alike(&b->range[kept], &b->range[i]))
			b->range[++kept] = b->range[i];
	if (b->count)
		b->count = (uint8_t)(kept + 1u);
}

/* Out of room: neighbours in one state become one, with the later times, which only waits longer. */
static void merge_roughly(struct scoreboard *b)
{
	unsigned kept = 0;

	for (unsigned i = 1; i < b->count; i++) {
		struct range *last = &b->range[kept];
		const struct range *r = &b->range[i];

		if (last->state != r->state) {
			b->range[++kept] = *r;
			continue;
		}
		last->flags |= r->flags;
		last->us = seq_max(last->us, r->us);
		last->mark = seq_max(last->mark, r->mark);
	}
	b->count = (uint8_t)(kept + 1u);
}

/* The list reaches up to `end`, with bytes of which nothing is known. */
static bool cover(struct scoreboard *b, uint32_t end)
{
	if (seq_leq(end, b->end))
		return true;
	if (!b->count || b->range[b->count - 1u].state != RANGE_FLIGHT || b->range[b->count - 1u].flags) {
		if (b->count == BOARD_RANGES)
			return false;
		b->range[b->count++] = (struct range){.start = b->end};
	}
	b->end = end;
	return true;
}

/* The index of the range that starts at seq, which lies in the list; it is cut in two there if need be. */
static unsigned cut(struct scoreboard *b, uint32_t seq)
{
	unsigned i = 0;

	while (i < b->count && seq_lt(b->range[i].start, seq))
		i++;
	if (seq == b->end || (i < b->count && b->range[i].start == seq))
		return i;
	memmove(&b->range[i + 1u], &b->range[i], (b->count - i) * sizeof(b->range[0]));
	b->range[i] = b->range[i - 1u];
	b->range[i].start = seq;
	b->count++;
	return i;
}

/* Room for the ranges that one change can add, a cover and two cuts, and one is left for board_lose(). */
#define ROOM 4u
static bool make_room(struct scoreboard *b)
{
	if (b->count + ROOM > BOARD_RANGES)
		merge_roughly(b);
	return b->count + ROOM <= BOARD_RANGES;
}

/* A range has arrived, or a part of `len` bytes of it. */
static void arrived(const struct range *r, uint32_t len, struct board_news *news)
{
	if (r->state == RANGE_SACKED)
		return;
	news->delivered += len;
	if (r->flags & RANGE_AGAIN) {
		if (r->state != RANGE_RESENT)
			return; /* taken for lost a second time: no telling which one this was */
		if (!news->resent || seq_gt(r->us, news->resent_us) ||
			(r->us == news->resent_us && seq_gt(r->start, news->resent_start))) {
			news->resent_us = r->us;
			news->resent_start = r->start;
		}
		news->resent = true;
		return;
	}
	news->late |= (r->flags & RANGE_WAS_AHEAD) != 0;
	news->spared |= r->state == RANGE_LOST;
}

void board_advance(struct scoreboard *b, uint32_t una, struct board_news *news)
{
	unsigned n = 0;

	if (seq_leq(una, b->una))
		return;
	while (n < b->count && seq_leq(range_end(b, n), una)) {
		arrived(&b->range[n], range_len(b, n), news);
		n++;
	}
	if (n < b->count && seq_lt(b->range[n].start, una)) {
		arrived(&b->range[n], una - b->range[n].start, news);
		b->range[n].start = una;
	}
	if (seq_gt(una, b->end)) {
		news->delivered += una - b->end;
		b->end = una;
	}
	range_drop(b, 0, n);
	b->una = una;
	b->fack = seq_max(b->fack, una);
}

bool board_sack(struct scoreboard *b, uint32_t start, uint32_t end, struct board_news *news)
{
	uint32_t before = news->delivered;
	unsigned first, last;

	for (unsigned i = 0; i < b->count && seq_leq(b->range[i].start, start); i++)
		if (b->range[i].state == RANGE_SACKED && seq_leq(end, range_end(b, i)))
			return true; /* said before */
	if (!make_room(b) || !cover(b, end))
		return false;
	first = cut(b, start);
	last = cut(b, end);
	for (unsigned i = first; i < last; i++)
		arrived(&b->range[i], range_len(b, i), news);
	b->range[first] = (struct range){.start = start, .state = RANGE_SACKED};
	range_drop(b, first + 1u, last - first - 1u);
	merge_alike(b);
	b->fack = seq_max(b->fack, end);
	news->sacked += news->delivered - before;
	return true;
}

void board_overtake(struct scoreboard *b, uint32_t now_us, const struct board_news *news)
{
	for (unsigned i = 0; i < b->count && seq_lt(b->range[i].start, b->fack); i++) {
		struct range *r = &b->range[i];
		bool later = r->state == RANGE_FLIGHT;

		/* RFC 8985 6.2 step 2: a retransmission is overtaken by bytes sent for the first time after
		   it, and by a later retransmission */
		if (r->state == RANGE_RESENT)
			later = seq_gt(b->fack, r->mark) ||
				(news->resent && (seq_lt(r->us, news->resent_us) ||
							 (r->us == news->resent_us &&
								 seq_lt(r->start, news->resent_start))));
		if (later) {
			r->state = RANGE_OVERTAKEN;
			r->flags |= RANGE_WAS_AHEAD;
			r->us = now_us;
		}
	}
	merge_alike(b);
}

bool board_detect(struct scoreboard *b, uint32_t now_us, uint32_t wait_us, struct board_news *news,
	uint32_t *wait_until_us)
{
	bool waits = false;

	for (unsigned i = 0; i < b->count; i++) {
		struct range *r = &b->range[i];

		if (r->state != RANGE_OVERTAKEN)
			continue;
		if (now_us - r->us >= wait_us) {
			r->state = RANGE_LOST;
			news->lost += range_len(b, i);
			continue;
		}
		if (!waits || seq_lt(r->us + wait_us, *wait_until_us))
			*wait_until_us = r->us + wait_us;
		waits = true;
	}
	if (news->lost)
		merge_alike(b);
	return waits;
}

void board_lose(struct scoreboard *b, uint32_t snd_max, bool forget)
{
	cover(b, snd_max);
	for (unsigned i = 0; i < b->count; i++) {
		struct range *r = &b->range[i];

		if (r->state == RANGE_SACKED && !forget)
			continue;
		if (r->state == RANGE_SACKED)
			r->flags = RANGE_AGAIN; /* may have been; claims nothing */
		r->state = RANGE_LOST;
		r->flags &= (uint8_t)~RANGE_WAS_AHEAD;
	}
	if (forget)
		b->fack = b->una;
	merge_alike(b);
}

void board_forgive(struct scoreboard *b)
{
	for (unsigned i = 0; i < b->count; i++) {
		struct range *r = &b->range[i];

		if (r->state != RANGE_LOST)
			continue;
		r->state = RANGE_FLIGHT;
		r->flags &= (uint8_t)~RANGE_WAS_AHEAD;
	}
	merge_alike(b);
}

bool board_lost(const struct scoreboard *b, uint32_t *start, uint32_t *end)
{
	for (unsigned i = 0; i < b->count; i++)
		if (b->range[i].state == RANGE_LOST) {
			*start = b->range[i].start;
			*end = range_end(b, i);
			return true;
		}
	return false;
}

void board_resent(struct scoreboard *b, uint32_t start, uint32_t end, uint32_t now_us, uint32_t snd_max)
{
	struct range resent = {.us = now_us, .mark = snd_max, .state = RANGE_RESENT, .flags = RANGE_AGAIN};
	unsigned first, last;

	if (!make_room(b) || !cover(b, end)) {
		/* Without room to tell the parts apart all of the range counts as sent: what of it was not
		   is found missing like a retransmission that got lost. */
		for (first = 0; first + 1u < b->count && seq_leq(range_end(b, first), start); first++)
			;
		last = first + 1u;
		start = b->range[first].start;
	} else {
		first = cut(b, start);
		last = cut(b, end);
	}
	resent.start = start;
	b->range[first] = resent;
	range_drop(b, first + 1u, last - first - 1u);
	merge_alike(b);
}

uint32_t board_sacked(const struct scoreboard *b, unsigned *ranges)
{
	uint32_t sum = 0;

	*ranges = 0;
	for (unsigned i = 0; i < b->count; i++)
		if (b->range[i].state == RANGE_SACKED) {
			sum += range_len(b, i);
			++*ranges;
		}
	return sum;
}

uint32_t board_pipe(const struct scoreboard *b, uint32_t snd_max)
{
	uint32_t pipe = snd_max - b->una;

	for (unsigned i = 0; i < b->count; i++)
		if (b->range[i].state == RANGE_SACKED || b->range[i].state == RANGE_LOST)
			pipe -= range_len(b, i);
	return pipe;
}

bool board_plain(const struct scoreboard *b)
{
	for (unsigned i = 0; i < b->count; i++)
		if (b->range[i].state != RANGE_FLIGHT)
			return false;
	return true;
}
