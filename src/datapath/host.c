/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Host control: descriptors that applications write, the HC kind of work. Each is copied out of the shared
 * ring once and then checked; what breaks the rules ends the context it came over and touches nobody else.
 * Owns the consumer ends of the rings.
 */
#include "datapath/stages.h"

void host_break(struct datapath *dp, uint32_t context, const char *reason)
{
	struct context *ctx = &dp->contexts[context];

	if (ctx->dead)
		return;
	ctx->dead = true;
	ctx->credit = 0;
	ctx->broken = reason;
	dp->broken_count++;
	count(dp, CNT_hc_bad);
	while (ctx->pending_head != CONN_NONE)
		notify_forget(dp, &dp->conns[ctx->pending_head], ctx->pending_head);
	ctx->overflow_head = ctx->overflow_tail;
}

void datapath_context_break(struct datapath *dp, uint32_t context, const char *reason)
{
	host_break(dp, context, reason);
}

/* What nearly all updates are: bytes written, bytes taken, on a connection at ease. False: it is not one, and
 * nothing was changed. */
static HOT_INLINE bool update_usual(
	struct datapath *dp, const struct context *ctx, const struct flextoe_hc_update *u)
{
	uint32_t index = flextoe_conn_index(u->conn), tx_end, tx_origin;
	struct conn *c = &dp->conns[index];
	bool written;

	if (unlikely(index >= dp->conns_max || (c->host.flags & (HOST_LIVE | HOST_MUTED)) != HOST_LIVE ||
		     c->id.handle != u->conn || c->id.app != ctx->app || u->flags))
		return false;
	tx_end = c->tcp.tx_base + u->tx_head;
	tx_origin = c->tcp.tx_base + u->tx_origin;
	written = tx_end != c->tcp.tx_end;
	if (written && tx_origin != c->host.tx_origin && c->tcp.snd_una != c->tcp.tx_end)
		return false;
	if (unlikely(!protocol_host_usual(&c->tcp, tx_end, c->tcp.rx_base + u->rx_tail)))
		return false;
	if (written) {
		c->host.tx_origin = tx_origin;
		scheduler_add(dp, c, index);
	}
	if (c->tcp.due)
		pipeline_touch(dp, index);
	return true;
}

COLD static void update_any(struct datapath *dp, uint32_t context, const struct flextoe_hc_update *u)
{
	struct context *ctx = &dp->contexts[context];
	uint32_t index = flextoe_conn_index(u->conn);
	struct conn *c;
	uint32_t tx_end, tx_origin;
	bool send = false;

	if (unlikely(index >= dp->conns_max)) {
		host_break(dp, context, "update names a connection that cannot exist");
		return;
	}
	c = &dp->conns[index];
	if (unlikely(!(c->host.flags & HOST_LIVE) || c->id.handle != u->conn ||
		     (c->host.flags & HOST_MUTED))) {
		count(dp, CNT_hc_stale);
		return;
	}
	if (unlikely(c->id.app != ctx->app)) {
		host_break(dp, context, "update names another application's connection");
		return;
	}
	if (unlikely(u->flags & ~FLEXTOE_HC_FLAGS_ALL)) {
		host_break(dp, context, "update has unknown flags");
		return;
	}
	tx_end = c->tcp.tx_base + u->tx_head;
	tx_origin = c->tcp.tx_base + u->tx_origin;
	if (unlikely(tx_origin != c->host.tx_origin &&
		     seq_gt(tx_end, c->tcp.tx_end))) { /* an older one is only late */
		if (tx_data_una(&c->tcp) != c->tcp.tx_end) {
			host_break(dp, context, "update moves the origin of a buffer in use");
			return;
		}
		c->host.tx_origin = tx_origin;
	}
	if (unlikely(protocol_host(&c->tcp, tx_end, c->tcp.rx_base + u->rx_tail, u->flags, &send) != 0)) {
		host_break(dp, context, "update moves a position beyond its buffer");
		return;
	}
	if (unlikely(u->flags &
		     (FLEXTOE_HC_CLOSE | FLEXTOE_HC_ABORT | FLEXTOE_HC_NOTIFY_HERE | FLEXTOE_HC_ACCEPTED))) {
		if (u->flags & FLEXTOE_HC_ACCEPTED)
			ctl_event(dp, c, index, CONN_EVENT_ACCEPTED);
		if (u->flags & FLEXTOE_HC_NOTIFY_HERE) {
			notify_forget(dp, c, index);
			c->host.context = (uint16_t)context;
			c->host.flags |= HOST_NTF_FORCE;
		}
		if (u->flags & (FLEXTOE_HC_CLOSE | FLEXTOE_HC_ABORT)) {
			notify_forget(dp, c, index);
			c->host.flags |= HOST_MUTED;
			ctl_event(dp, c, index, CONN_EVENT_RELEASED);
		}
	}
	if (send && protocol_tx_pending(&c->tcp))
		scheduler_add(dp, c, index);
	if (c->tcp.due || protocol_ended(&c->tcp) || (c->host.flags & HOST_NTF_FORCE))
		pipeline_touch(dp, index);
}

/* A request for the control plane. False: its ring is full, leave the descriptor where it is. */
static bool forward(struct datapath *dp, uint32_t context, const struct flextoe_hc *hc)
{
	struct exc_hc *e;

	if (hc->type == FLEXTOE_HC_UNBIND)
		ctl_events(dp); /* what was accepted before it is told before it */
	e = ctl_request(dp);
	if (!e)
		return false;
	e->type = EXC_HC;
	e->app = dp->contexts[context].app;
	e->context = (uint16_t)context;
	e->hc = *hc;
	record_ring_publish(&dp->exc);
	return true;
}

static unsigned context_poll(struct datapath *dp, uint32_t context)
{
	struct context *ctx = &dp->contexts[context];
	struct flextoe_hc batch[BATCH];
	unsigned n = 0, done;

	/* copy out first, so that the connections come into the cache while the rest is read */
	while (n < BATCH) {
		uint32_t pos = ctx->hc_pos + n;
		const struct flextoe_hc *slot = &ctx->area->hc[pos & (FLEXTOE_HC_SLOTS - 1u)];
		uint32_t index;

		if (load_acquire8(&slot->mark) != flextoe_mark(pos, FLEXTOE_HC_SLOTS))
			break;
		memcpy(&batch[n], slot, sizeof(batch[n]));
		index = flextoe_conn_index(batch[n].update.conn);
		if (batch[n].type == FLEXTOE_HC_UPDATE && index < dp->conns_max) {
			prefetch(&dp->conns[index].id);
			prefetch_write(&dp->conns[index].tcp);
			prefetch_write(&dp->conns[index].host);
		}
		n++;
	}
	for (done = 0; done < n && !ctx->dead; done++) {
		switch (batch[done].type) {
		case FLEXTOE_HC_UPDATE:
			count(dp, CNT_hc_updates);
			if (unlikely(!update_usual(dp, ctx, &batch[done].update)))
				update_any(dp, context, &batch[done].update);
			break;
		case FLEXTOE_HC_BIND:
		case FLEXTOE_HC_LISTEN:
		case FLEXTOE_HC_CONNECT:
		case FLEXTOE_HC_UNBIND:
		case FLEXTOE_HC_OPTIONS:
		case FLEXTOE_HC_JOIN:
		case FLEXTOE_HC_WANT:
			if (!forward(dp, context, &batch[done]))
				goto full;
			break;
		default:
			host_break(dp, context, "host-control descriptor of unknown type");
			break;
		}
	}
full:
	ctx->hc_pos += done;
	if (done)
		ctx->kicked = false; /* it has run */
	if (done && !ctx->dead)
		store_release32(&ctx->area->words.hc_consumed, ctx->hc_pos);
	return done;
}

unsigned host_poll(struct datapath *dp)
{
	unsigned work = 0;

	for (uint32_t i = 0; i < dp->active_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];

		if (unlikely(ctx->dead))
			continue;
		work += context_poll(dp, dp->active[i]);
		notify_pending(dp, ctx);
	}
	return work;
}

bool host_work(struct datapath *dp)
{
	for (uint32_t i = 0; i < dp->active_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];

		if (!ctx->dead && load_acquire8(&ctx->area->hc[ctx->hc_pos & (FLEXTOE_HC_SLOTS - 1u)].mark) ==
					  flextoe_mark(ctx->hc_pos, FLEXTOE_HC_SLOTS))
			return true;
	}
	return false;
}
