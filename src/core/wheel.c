/* SPDX-License-Identifier: BSD-3-Clause */
/* See wheel.h. Entries further away than a turn stay in their slot and are passed over until their turn. */
#include "core/wheel.h"

#include <errno.h>
#include <stdlib.h>

int wheel_init(struct wheel *wheel, uint32_t slot_count, uint32_t tick_us, uint64_t now_us)
{
	*wheel = (struct wheel){.slot_count = slot_count, .tick_us = tick_us, .tick = now_us / tick_us};
	wheel->slots = calloc(slot_count, sizeof(*wheel->slots));
	return wheel->slots ? 0 : -ENOMEM;
}

void wheel_free(struct wheel *wheel)
{
	free(wheel->slots);
	wheel->slots = NULL;
}

void wheel_cancel(struct wheel *wheel, struct wheel_entry *entry)
{
	if (!entry->prev)
		return;
	*entry->prev = entry->next;
	if (entry->next)
		entry->next->prev = entry->prev;
	entry->prev = NULL;
	wheel->count--;
}

void wheel_add(struct wheel *wheel, struct wheel_entry *entry, uint64_t due_us)
{
	uint64_t tick = due_us / wheel->tick_us;
	struct wheel_entry **slot;

	wheel_cancel(wheel, entry);
	if (tick < wheel->tick)
		tick = wheel->tick;
	slot = &wheel->slots[tick & (wheel->slot_count - 1u)];
	entry->due_us = due_us;
	entry->next = *slot;
	entry->prev = slot;
	if (entry->next)
		entry->next->prev = &entry->next;
	*slot = entry;
	wheel->count++;
}

struct wheel_entry *wheel_expire(struct wheel *wheel, uint64_t now_us)
{
	uint64_t now_tick = now_us / wheel->tick_us;

	if (!wheel->count) {
		if (now_tick > wheel->tick)
			wheel->tick = now_tick;
		return NULL;
	}
	if (now_tick >
		wheel->tick + wheel->slot_count) /* slept for more than a turn: each slot once is enough */
		wheel->tick = now_tick - wheel->slot_count;
	for (;;) {
		struct wheel_entry *e = wheel->slots[wheel->tick & (wheel->slot_count - 1u)];

		for (; e; e = e->next)
			if (e->due_us <= now_us) {
				wheel_cancel(wheel, e);
				return e;
			}
		if (wheel->tick >= now_tick)
			return NULL;
		wheel->tick++;
	}
}

uint64_t wheel_next_us(const struct wheel *wheel, uint64_t now_us)
{
	uint64_t limit, tick = wheel->tick;

	if (!wheel->count)
		return UINT64_MAX;
	limit = now_us / wheel->tick_us + wheel->slot_count;
	for (; tick < limit; tick++) {
		uint64_t first = UINT64_MAX;

		for (struct wheel_entry *e = wheel->slots[tick & (wheel->slot_count - 1u)]; e; e = e->next)
			if (e->due_us / wheel->tick_us <= tick && e->due_us < first)
				first = e->due_us;
		if (first != UINT64_MAX)
			return first;
	}
	return limit * wheel->tick_us;
}
