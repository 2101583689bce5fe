/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire: frames to devices, in batches. Frames are reserved, built and committed in a port's batch; a device
 * that is full keeps the batch here, and the sources of work stop until it drains. Owns the ports' batches.
 */
#include "datapath/stages.h"

/* No reserved frame is left: gets more from the device, if need be after giving it what is built. */
struct frame *wire_refill(struct datapath *dp, struct port *port)
{
	for (unsigned attempt = 0; attempt < 2; attempt++) {
		if (port->tx_first == port->tx_count && port->tx_count == port->tx_ready) {
			port->tx_first = port->tx_count = port->tx_ready = 0;
		} else if (port->tx_first && port->tx_ready + BATCH > ARRAY_SIZE(port->tx)) {
			memmove(port->tx, port->tx + port->tx_first,
				(port->tx_ready - port->tx_first) * sizeof(port->tx[0]));
			port->tx_count -= port->tx_first;
			port->tx_ready -= port->tx_first;
			port->tx_first = 0;
		}
		if (port->tx_ready + BATCH <= ARRAY_SIZE(port->tx))
			port->tx_ready +=
				port->dev->ops->tx_alloc(port->dev, &port->tx[port->tx_ready], BATCH);
		if (port->tx_count < port->tx_ready)
			return &port->tx[port->tx_count];
		wire_push(dp, port);
		port->dev->ops->tx_flush(port->dev);
	}
	count(dp, CNT_tx_device_full);
	return NULL;
}

void wire_push(struct datapath *dp, struct port *port)
{
	unsigned n = port->tx_count - port->tx_first, sent;
	struct frame *frames = port->tx + port->tx_first;
	uint64_t bytes = 0;

	if (!n)
		return;
	dma_flush(dp);
	for (unsigned i = 0; i < n; i++) {
		struct frame *f = &frames[i];

		bytes += f->len;
		if (f->frag_count) {
			bytes += f->frag[0].len;
			if (f->frag_count > 1)
				bytes += f->frag[1].len;
		}
		if (unlikely((f->flags & FRAME_CSUM_OFFLOAD) && !(port->caps & DEVICE_TX_CSUM)))
			post_checksum(f);
	}
	sent = port->dev->ops->tx_burst(port->dev, frames, n);
	port->tx_first += sent;
	port->tx_dirty = true;
	count_add(dp, CNT_tx_frames, sent);
	if (unlikely(sent < n)) {
		for (unsigned i = sent; i < n; i++) {
			bytes -= frames[i].len;
			for (unsigned k = 0; k < frames[i].frag_count; k++)
				bytes -= frames[i].frag[k].len;
		}
		count(dp, CNT_tx_device_full);
	}
	count_add(dp, CNT_tx_bytes, bytes);
}

void wire_flush(struct datapath *dp)
{
	for (unsigned i = 0; i < dp->port_count; i++) {
		struct port *port = &dp->ports[i];

		wire_push(dp, port);
		if (port->tx_dirty) {
			port->tx_dirty = false;
			port->dev->ops->tx_flush(port->dev);
		}
	}
}
