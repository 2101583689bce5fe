/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A data path without anything around it: no real device, no control plane, no other thread. The rig plays
 * the wire (frames in memory), the application (its region and rings) and the control plane. Used by the unit
 * test of the pipeline and by `flextoe bench datapath`.
 */
#ifndef BENCH_RIG_H
#define BENCH_RIG_H

#include "datapath/datapath.h"

#define RIG_FRAMES     64u /* in one round, each direction */
#define RIG_FRAME_ROOM 70000u

struct rig_device {
	struct device dev;
	struct frame rx[RIG_FRAMES]; /* what the next rx_burst() hands out */
	unsigned rx_count;
	struct frame tx[RIG_FRAMES]; /* what was sent since rig_tx_clear() */
	unsigned tx_count;
	unsigned tx_limit; /* frames the device takes until cleared */
	uint8_t *tx_room;
	uint32_t tx_next;
};

struct rig {
	struct datapath *dp;
	struct copy_engine *copy;
	struct rig_device device;
	uint8_t *region;
	uint64_t region_size;
	struct flextoe_context_area *area;
	uint32_t hc_pos, ntf_pos; /* the application's ends */
	uint32_t conns;
	unsigned kicks;
	uint64_t now_us;
	uint8_t buffer_shift;
};

/* conns connections are installed, numbered from 0: ports 10000 + i and addresses apart; timestamps on.
   caps: DEVICE_*. 0 or a negative errno. */
int rig_open(struct rig *rig, uint32_t conns, uint8_t buffer_shift, uint32_t caps);
void rig_close(struct rig *rig);

/* The peer's ISN is 1000000 + i, ours 2000000 + i. Lays a segment into `room` and returns its frame's length.
 */
uint32_t rig_segment(const struct rig *rig, uint32_t conn, uint32_t seq_off, uint32_t ack_off, uint8_t flags,
	const void *payload, uint32_t len, uint8_t *room);
/* Gives a frame to the next round. */
void rig_rx(struct rig *rig, uint8_t *frame, uint32_t len, uint16_t flags);
unsigned rig_poll(struct rig *rig);
void rig_tx_clear(struct rig *rig);

/* The application's side. */
void rig_update(struct rig *rig, uint32_t conn, uint32_t tx_head, uint32_t rx_tail, uint16_t flags);
void rig_update_origin(struct rig *rig, uint32_t conn, uint32_t tx_head, uint32_t rx_tail, uint16_t flags,
	uint32_t tx_origin);
bool rig_notified(struct rig *rig, struct flextoe_ntf *ntf);
uint8_t *rig_rx_buffer(const struct rig *rig, uint32_t conn);
uint8_t *rig_tx_buffer(const struct rig *rig, uint32_t conn);

#endif
