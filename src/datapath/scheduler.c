/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transmit scheduler: which connection may send next. Round robin, in quanta of TX_QUANTUM bytes. A
 * connection is in it once at most, linked through its own host_state, so it never runs out of room.
 */
#include "datapath/stages.h"

HOT_INLINE void scheduler_add(struct datapath *dp, struct conn *c, uint32_t index)
{
	if (c->host.flags & HOST_SCHEDULED)
		return;
	c->host.flags |= HOST_SCHEDULED;
	c->host.sched_next = CONN_NONE;
	if (dp->sched_tail == CONN_NONE)
		dp->sched_head = index;
	else
		dp->conns[dp->sched_tail].host.sched_next = index;
	dp->sched_tail = index;
	dp->sched_count++;
}

HOT_INLINE uint32_t scheduler_next(struct datapath *dp)
{
	uint32_t index = dp->sched_head;
	struct conn *c;

	if (index == CONN_NONE)
		return index;
	c = &dp->conns[index];
	dp->sched_head = c->host.sched_next;
	if (dp->sched_head == CONN_NONE)
		dp->sched_tail = CONN_NONE;
	else
		prefetch(&dp->conns[dp->sched_head].tcp);
	c->host.flags &= (uint16_t)~HOST_SCHEDULED;
	dp->sched_count--;
	return index;
}
