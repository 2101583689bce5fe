/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A lazy hashed timer wheel (Varghese and Lauck 1987, scheme 6). An owner that moves its deadline later does
 * nothing here: when the entry comes due the owner looks at its real deadline and adds itself again. So an
 * entry is added once per period of activity, not once per packet. Times are 64-bit microseconds.
 */
#ifndef CORE_WHEEL_H
#define CORE_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wheel_entry {
	struct wheel_entry *next, **prev; /* prev NULL: not in the wheel */
	uint64_t due_us;
};

struct wheel {
	struct wheel_entry **slots;
	uint32_t slot_count; /* power of two */
	uint32_t tick_us;
	uint64_t tick; /* every entry due before this tick has been handed out */
	uint32_t count;
};

/* slot_count: power of two. 0 or -ENOMEM. */
int wheel_init(struct wheel *wheel, uint32_t slot_count, uint32_t tick_us, uint64_t now_us);
void wheel_free(struct wheel *wheel);

static inline bool wheel_pending(const struct wheel_entry *entry)
{
	return entry->prev != NULL;
}
/* Adds an entry that is not in the wheel, or moves one that is. A time in the past is due at once. */
void wheel_add(struct wheel *wheel, struct wheel_entry *entry, uint64_t due_us);
void wheel_cancel(struct wheel *wheel, struct wheel_entry *entry);
/* Takes one entry that is due out of the wheel, or returns NULL. Call until NULL. */
struct wheel_entry *wheel_expire(struct wheel *wheel, uint64_t now_us);
/* A time not after the earliest entry's, at most one turn of the wheel ahead; UINT64_MAX when empty. */
uint64_t wheel_next_us(const struct wheel *wheel, uint64_t now_us);

#endif
