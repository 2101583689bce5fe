/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dma: payload between frames and application regions, through the copy engine. Positions come from sequence
 * numbers, buffers are rings of a power of two, so a payload is one or two copies. Whatever the protocol
 * decided, no copy leaves the connection's own buffer: the masks see to that.
 */
#include "datapath/stages.h"

/* Messages are small: up to 64 bytes go through registers, head and tail overlapping, without a call. */
static inline void copy_bytes(uint8_t *to, const uint8_t *from, uint32_t len)
{
	struct half {
		uint8_t bytes[16];
	} a, b, c, d;

	if (unlikely(len - 16u > 48u)) {
		memcpy(to, from, len);
		return;
	}
	memcpy(&a, from, 16);
	memcpy(&d, from + len - 16, 16);
	if (len > 32) {
		memcpy(&b, from + 16, 16);
		memcpy(&c, from + len - 32, 16);
		memcpy(to + 16, &b, 16);
		memcpy(to + len - 32, &c, 16);
	}
	memcpy(to, &a, 16);
	memcpy(to + len - 16, &d, 16);
}

/* One contiguous copy: at once where the region is mapped here, else through the engine. */
static inline void copy_piece(struct datapath *dp, uint8_t *wire, uint32_t app, uint64_t offset, uint32_t len,
	enum copy_direction direction)
{
	const struct region *r = &dp->regions[app];

	if (likely(dp->copy_direct)) {
		if (unlikely(offset + len >
			     r->size)) { /* the region is gone; its connections are about to be */
			count(dp, CNT_drop_copy_failed);
			return;
		}
		if (direction == COPY_TO_REGION)
			copy_bytes(r->base + offset, wire, len);
		else
			copy_bytes(wire, r->base + offset, len);
		return;
	}
	if (dp->copy_count == COPY_BATCH)
		dma_flush(dp);
	dp->copies[dp->copy_count++] = (struct copy_op){wire, offset, app, len, direction, 0};
}

void dma_flush(struct datapath *dp)
{
	unsigned done = 0;

	while (done < dp->copy_count) {
		unsigned n = dp->copy->ops->submit(dp->copy, dp->copies + done, dp->copy_count - done);

		done += n;
		if (done <
			dp->copy_count) { /* refused: the region is gone; its connections are about to be */
			count(dp, CNT_drop_copy_failed);
			done++;
		}
	}
	dp->copy_count = 0;
}

HOT_INLINE void dma_receive(
	struct datapath *dp, const struct conn *c, const uint8_t *payload, uint32_t seq, uint32_t len)
{
	uint32_t size = 1u << c->host.rx_shift;
	uint32_t at = (seq - c->host.rx_origin) & (size - 1u);
	uint64_t base = (uint64_t)c->host.rx_page << 12;
	uint32_t first = min_u32(len, size - at);

	count_add(dp, CNT_rx_payload_bytes, len);
	copy_piece(dp, (uint8_t *)(uintptr_t)payload, c->id.app, base + at, first, COPY_TO_REGION);
	if (unlikely(first < len))
		copy_piece(dp, (uint8_t *)(uintptr_t)payload + first, c->id.app, base, len - first,
			COPY_TO_REGION);
}

HOT_INLINE void dma_transmit(struct datapath *dp, const struct port *port, const struct conn *c,
	const struct tx_plan *plan, struct frame *frame)
{
	uint32_t size = 1u << c->host.tx_shift;
	uint32_t at = (plan->seq - c->host.tx_origin) & (size - 1u);
	uint64_t base = (uint64_t)c->host.tx_page << 12;
	uint32_t first = min_u32(plan->len, size - at);
	const struct region *r = &dp->regions[c->id.app];

	if (unlikely(plan->len >= GATHER_MIN) && (port->caps & DEVICE_TX_GATHER) && r->base) {
		frame->frag[0].data = r->base + base + at;
		frame->frag[0].len = first;
		frame->frag_count = 1;
		if (first < plan->len) {
			frame->frag[1].data = r->base + base;
			frame->frag[1].len = plan->len - first;
			frame->frag_count = 2;
		}
		return;
	}
	copy_piece(dp, frame->data + frame->len, c->id.app, base + at, first, COPY_FROM_REGION);
	if (unlikely(first < plan->len))
		copy_piece(dp, frame->data + frame->len + first, c->id.app, base, plan->len - first,
			COPY_FROM_REGION);
	frame->len += plan->len;
}
