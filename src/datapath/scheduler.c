/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transmit scheduler: which connection may send next. Round robin, in quanta of TX_QUANTUM bytes. A
 * connection is in its ring once at most (HOST_SCHEDULED), and the ring has a place for each, so it never
 * runs out of room.
 */
#include "datapath/stages.h"

HOT_INLINE void scheduler_add(struct datapath *dp, struct conn *c, uint32_t index)
{
	if (c->host.flags & HOST_SCHEDULED)
		return;
	c->host.flags |= HOST_SCHEDULED;
	dp->sched[dp->sched_tail++ & dp->sched_mask] = index;
}

HOT_INLINE uint32_t scheduler_next(struct datapath *dp)
{
	uint32_t index = dp->sched[dp->sched_head++ & dp->sched_mask];

	if (dp->sched_head != dp->sched_tail)
		prefetch(&dp->conns[dp->sched[dp->sched_head & dp->sched_mask]].tcp);
	dp->conns[index].host.flags &= (uint16_t)~HOST_SCHEDULED;
	return index;
}
