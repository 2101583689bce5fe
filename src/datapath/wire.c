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
		if (port->tx_first == port->tx_ready) {
			port->tx_first = port->tx_built = port->tx_ready = port->tx;
		} else if (port->tx_first != port->tx &&
			   port->tx_ready + BATCH > port->tx + ARRAY_SIZE(port->tx)) {
			ptrdiff_t by = port->tx_first - port->tx;

			memmove(port->tx, port->tx_first,
				(size_t)(port->tx_ready - port->tx_first) * sizeof(port->tx[0]));
			port->tx_first -= by;
			port->tx_built -= by;
			port->tx_ready -= by;
		}
		if (port->tx_ready + BATCH <= port->tx + ARRAY_SIZE(port->tx))
			port->tx_ready += port->dev->ops->tx_alloc(port->dev, port->tx_ready, BATCH);
		if (port->tx_built != port->tx_ready)
			return port->tx_built;
		wire_push(dp, port);
		port->dev->ops->tx_flush(port->dev);
	}
	count(dp, CNT_tx_device_full);
	return NULL;
}

void wire_push(struct datapath *dp, struct port *port)
{
	unsigned n = (unsigned)(port->tx_built - port->tx_first), sent;

	if (!n)
		return;
	dma_flush(dp);
	if (unlikely(!(port->caps & DEVICE_TX_CSUM)))
		for (struct frame *f = port->tx_first; f != port->tx_built; f++)
			if (f->flags & FRAME_CSUM_OFFLOAD)
				post_checksum(f);
	sent = port->dev->ops->tx_burst(port->dev, port->tx_first, n);
	port->tx_first += sent;
	port->tx_dirty = true;
	count_add(dp, CNT_tx_frames, sent);
	if (unlikely(sent < n))
		count(dp, CNT_tx_device_full);
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
