/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * notify: descriptors on applications' context rings. Owns the producer ends of the rings. A full ring holds
 * nothing up: a connection waits in its context's list and tells its newest positions when there is a place;
 * notifications of the control plane wait in a bounded queue before them. See include/flextoe/abi.h.
 */
#include "datapath/stages.h"

#include <errno.h>

/* Looks how far the application has read when the last look's places are used up. */
static inline bool ring_has_room(struct datapath *dp, struct context *ctx)
{
	uint32_t consumed;

	if (likely(ctx->ntf_pos - ctx->ntf_consumed < FLEXTOE_NTF_SLOTS))
		return true;
	consumed = load_acquire32(&ctx->area->words.ntf_consumed);
	if (unlikely(ctx->ntf_pos - consumed > FLEXTOE_NTF_SLOTS)) {
		host_break(dp, (uint32_t)(ctx - dp->contexts), "ntf_consumed counts more than was sent");
		return false;
	}
	ctx->ntf_consumed = consumed;
	return ctx->ntf_pos - consumed < FLEXTOE_NTF_SLOTS;
}

static inline void ring_advance(struct datapath *dp, struct context *ctx)
{
	ctx->ntf_pos++;
	ctx->wrote = true;
	dp->kicks = true;
	count(dp, CNT_ntf_sent);
}

static void ring_put(struct datapath *dp, struct context *ctx, const struct flextoe_ntf *ntf)
{
	struct flextoe_ntf *slot = &ctx->area->ntf[ctx->ntf_pos & (FLEXTOE_NTF_SLOTS - 1u)];
	uint8_t mark = flextoe_mark(ctx->ntf_pos, FLEXTOE_NTF_SLOTS);

	memcpy(slot->body, ntf->body, sizeof(slot->body));
	slot->type = ntf->type;
	store_release8(&slot->mark, mark);
	ring_advance(dp, ctx);
	ctx->credit = 0; /* counted anew by the next update */
}

static void pending_add(struct datapath *dp, struct context *ctx, struct conn *c, uint32_t index)
{
	if (c->host.flags & HOST_NTF_QUEUED)
		return;
	c->host.flags |= HOST_NTF_QUEUED;
	c->host.ntf_next = CONN_NONE;
	if (ctx->pending_tail == CONN_NONE)
		ctx->pending_head = index;
	else
		dp->conns[ctx->pending_tail].host.ntf_next = index;
	ctx->pending_tail = index;
	ctx->credit = 0;
	count(dp, CNT_ntf_deferred);
}

/* The connection's positions, written straight into the next slot. flags: FLEXTOE_NTF_*. */
static HOT_INLINE void put_update(struct datapath *dp, struct context *ctx, struct conn *c, uint32_t rx_head,
	uint32_t tx_tail, uint32_t flags, uint32_t error)
{
	struct flextoe_ntf *slot = &ctx->area->ntf[ctx->ntf_pos & (FLEXTOE_NTF_SLOTS - 1u)];
	uint8_t mark = flextoe_mark(ctx->ntf_pos, FLEXTOE_NTF_SLOTS);

	c->host.rx_notified = rx_head;
	c->host.tx_notified = tx_tail;
	slot->update.conn = c->id.handle;
	slot->update.rx_head = rx_head;
	slot->update.tx_tail = tx_tail;
	slot->update.rx_origin = c->host.rx_origin - c->tcp.rx_base;
	slot->update.flags = (uint16_t)flags;
	slot->update.error = (uint16_t)error;
	slot->type = FLEXTOE_NTF_UPDATE;
	store_release8(&slot->mark, mark);
	ring_advance(dp, ctx);
}

static void put_any(struct datapath *dp, struct context *ctx, struct conn *c)
{
	const struct tcp_state *t = &c->tcp;
	uint32_t flags = t->flags & TCPF_FIN_RCVD ? FLEXTOE_NTF_FIN : 0;

	if (protocol_ended(t))
		flags |= t->error ? FLEXTOE_NTF_ERROR : FLEXTOE_NTF_CLOSED;
	c->host.flags &= (uint16_t)~HOST_NTF_FORCE;
	put_update(dp, ctx, c, rx_data_end(t) - t->rx_base, tx_data_una(t) - t->tx_base, flags,
		flags & FLEXTOE_NTF_ERROR ? t->error : 0);
}

/* Nothing waits before a notification, so it may be put on the ring. */
static inline bool ring_clear(struct datapath *dp, struct context *ctx)
{
	return ctx->pending_head == CONN_NONE && ctx->overflow_head == ctx->overflow_tail &&
	       ring_has_room(dp, ctx);
}

void notify_conn(struct datapath *dp, struct conn *c, uint32_t index)
{
	const struct tcp_state *t = &c->tcp;
	struct context *ctx;

	if (c->host.flags & (HOST_MUTED | HOST_NTF_QUEUED))
		return;
	if (rx_data_end(t) - t->rx_base == c->host.rx_notified && !(c->host.flags & HOST_NTF_FORCE) &&
		notify_space_told(c, tx_data_una(t) - t->tx_base))
		return;
	ctx = &dp->contexts[c->host.context];
	if (unlikely(!ctx->area || ctx->dead))
		return;
	if (unlikely(!ring_clear(dp, ctx))) {
		pending_add(dp, ctx, c, index);
		return;
	}
	put_any(dp, ctx, c);
	if (!ctx->dead)
		ctx->credit = FLEXTOE_NTF_SLOTS - (ctx->ntf_pos - ctx->ntf_consumed);
}

HOT_INLINE void notify_usual(struct datapath *dp, struct conn *c, uint32_t index)
{
	uint32_t rx_head = c->tcp.rcv_nxt - c->tcp.rx_base, tx_tail = c->tcp.snd_una - c->tcp.tx_base;
	struct context *ctx;

	if (rx_head == c->host.rx_notified && likely(notify_space_told(c, tx_tail)))
		return;
	ctx = &dp->contexts[c->host.context];
	if (unlikely(!ctx->credit)) {
		notify_conn(dp, c, index);
		return;
	}
	ctx->credit--;
	put_update(dp, ctx, c, rx_head, tx_tail, 0, 0);
}

void notify_pending(struct datapath *dp, struct context *ctx)
{
	if (likely(ctx->pending_head == CONN_NONE && ctx->overflow_head == ctx->overflow_tail))
		return;
	while (ctx->overflow_head != ctx->overflow_tail && ring_has_room(dp, ctx))
		ring_put(dp, ctx, &ctx->overflow[ctx->overflow_head++ & (NTF_OVERFLOW - 1u)]);
	if (ctx->overflow_head != ctx->overflow_tail)
		return;
	while (ctx->pending_head != CONN_NONE && ring_has_room(dp, ctx)) {
		struct conn *c = &dp->conns[ctx->pending_head];

		ctx->pending_head = c->host.ntf_next;
		if (ctx->pending_head == CONN_NONE)
			ctx->pending_tail = CONN_NONE;
		c->host.flags &= (uint16_t)~HOST_NTF_QUEUED;
		put_any(dp, ctx, c);
	}
}

bool notify_control(struct datapath *dp, uint32_t context, const struct flextoe_ntf *ntf)
{
	struct context *ctx = &dp->contexts[context];

	if (!ctx->area || ctx->dead)
		return false;
	if (likely(ctx->overflow_head == ctx->overflow_tail && ring_has_room(dp, ctx))) {
		ring_put(dp, ctx, ntf);
		return true;
	}
	if (ctx->overflow_tail - ctx->overflow_head == NTF_OVERFLOW) {
		host_break(dp, context, "does not read its notifications");
		return false;
	}
	ctx->credit = 0;
	ctx->overflow[ctx->overflow_tail++ & (NTF_OVERFLOW - 1u)] = *ntf;
	count(dp, CNT_ntf_deferred);
	return true;
}

void notify_forget(struct datapath *dp, struct conn *c, uint32_t index)
{
	struct context *ctx = &dp->contexts[c->host.context];
	uint32_t at = ctx->pending_head, prev = CONN_NONE;

	if (!(c->host.flags & HOST_NTF_QUEUED))
		return;
	while (at != index) {
		prev = at;
		at = dp->conns[at].host.ntf_next;
	}
	if (prev == CONN_NONE)
		ctx->pending_head = c->host.ntf_next;
	else
		dp->conns[prev].host.ntf_next = c->host.ntf_next;
	if (ctx->pending_tail == index)
		ctx->pending_tail = prev;
	c->host.flags &= (uint16_t)~HOST_NTF_QUEUED;
}

void notify_kick(struct datapath *dp, bool idle)
{
	bool late = false;

	if (++dp->kicks_late >= KICKS_LATE_MAX)
		idle = true;
	full_fence(); /* the marks before the look at the sleepers' words */
	for (uint32_t i = 0; i < dp->active_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];
		uint32_t asleep;

		if (!ctx->wrote)
			continue;
		asleep = ctx->dead ? 0 : load_relaxed32(&ctx->area->words.app_asleep);
		if (asleep && asleep == dp->cpu && !idle) {
			late = true;
			continue;
		}
		ctx->wrote = false;
		if (asleep) {
			count(dp, CNT_ntf_kicks);
			ctx->kicked = true;
			ctx->app_cpu = asleep;
			dp->kick(dp->kick_arg, dp->active[i]);
		}
	}
	dp->kicks = late;
	if (!late)
		dp->kicks_late = 0;
}
