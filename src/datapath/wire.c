/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire: frames to devices, in batches. Frames are reserved, built and committed in a port's batch; a device
 * that is full keeps the batch here, and the sources of work stop until it drains. Owns the ports' batches.
 */
#include "datapath/stages.h"

struct frame *wire_reserve(struct datapath *dp, struct port *port)
{
	struct frame *f = &port->tx[port->tx_count];

	if (port->tx_spare)
		return f;
	if (port->tx_count == BATCH) {
		wire_push(dp, port);
		if (port->tx_count == BATCH) {
			count(dp, CNT_tx_device_full);
			return NULL;
		}
	}
	f = &port->tx[port->tx_count];
	if (port->dev->ops->tx_alloc(port->dev, f, 1) != 1) {
		wire_push(dp, port);
		port->dev->ops->tx_flush(port->dev);
		f = &port->tx[port->tx_count];
		if (port->dev->ops->tx_alloc(port->dev, f, 1) != 1) {
			count(dp, CNT_tx_device_full);
			return NULL;
		}
	}
	port->tx_spare = true;
	return f;
}

void wire_commit(struct datapath *dp, struct port *port)
{
	(void)dp;
	port->tx_spare = false;
	port->tx_count++;
}

void wire_push(struct datapath *dp, struct port *port)
{
	uint64_t bytes = 0;
	unsigned sent;

	if (!port->tx_count)
		return;
	dma_flush(dp);
	for (unsigned i = 0; i < port->tx_count; i++) {
		struct frame *f = &port->tx[i];

		if (unlikely((f->flags & FRAME_CSUM_OFFLOAD) && !(port->caps & DEVICE_TX_CSUM)))
			post_checksum(f);
	}
	sent = port->dev->ops->tx_burst(port->dev, port->tx, port->tx_count);
	for (unsigned i = 0; i < sent; i++) {
		bytes += port->tx[i].len;
		for (unsigned k = 0; k < port->tx[i].frag_count; k++)
			bytes += port->tx[i].frag[k].len;
	}
	count_add(dp, CNT_tx_frames, sent);
	count_add(dp, CNT_tx_bytes, bytes);
	if (unlikely(sent < port->tx_count)) {
		count(dp, CNT_tx_device_full);
	}
	/* what was not taken moves up, and so does the spare one */
	if (sent < port->tx_count || port->tx_spare)
		memmove(port->tx, port->tx + sent,
			(port->tx_count - sent + port->tx_spare) * sizeof(port->tx[0]));
	port->tx_count -= sent;
}

void wire_flush(struct datapath *dp)
{
	for (unsigned i = 0; i < dp->port_count; i++) {
		wire_push(dp, &dp->ports[i]);
		dp->ports[i].dev->ops->tx_flush(dp->ports[i].dev);
	}
}
