/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data path's end of the two rings to the control plane: work that comes down (CTL), exceptions that go
 * up. Frames are dropped when the ring up is full; what must not be lost is either kept where it is (requests
 * in their host-control ring, events in a list through the connections) or rare and given reserved room.
 */
#include "datapath/stages.h"

#include <errno.h>
#include <stdio.h>

#include "core/checksum.h"

#define EXC_ROOM_KEPT 65536u /* of the ring up, not for frames: broken contexts, events */
#define EXC_ROOM_REQUESTS                                                                                    \
	(EXC_RING_BYTES / 4u) /* room below which requests wait: an application that floods cannot fill it   \
			       */
#define CWND_SEGMENTS 10u     /* initial window (RFC 6928) */

/* ---- control plane's side ---- */

int datapath_ctl(struct datapath *dp, const void *record, uint32_t len)
{
	void *p = record_ring_reserve(&dp->ctl, len);

	if (!p)
		return -EAGAIN;
	memcpy(p, record, len);
	record_ring_publish(&dp->ctl);
	return 0;
}

int datapath_ctl_frame(struct datapath *dp, enum ctl_type type, unsigned port, uint16_t flags,
	const void *bytes, uint32_t len)
{
	struct ctl_frame *f = record_ring_reserve(&dp->ctl, (uint32_t)sizeof(*f) + len);

	if (!f)
		return -EAGAIN;
	f->type = type;
	f->port = (uint16_t)port;
	f->flags = flags;
	f->len = len;
	memcpy(f->bytes, bytes, len);
	record_ring_publish(&dp->ctl);
	return 0;
}

uint32_t datapath_ctl_room(const struct datapath *dp)
{
	return record_ring_room((struct record_ring *)&dp->ctl);
}

bool datapath_ctl_drained(const struct datapath *dp)
{
	return record_ring_empty(&dp->ctl);
}

const void *datapath_exc_peek(struct datapath *dp, uint32_t *len)
{
	return record_ring_peek(&dp->exc, len);
}

void datapath_exc_done(struct datapath *dp)
{
	record_ring_pop(&dp->exc);
}

void datapath_conn_prepare(struct datapath *dp, uint32_t index, const struct conn_setup *s, uint64_t now_us)
{
	struct conn *c = &dp->conns[index];
	const struct port *port = &dp->ports[s->port];
	uint32_t options = s->timestamps ? 12u : 0u, mss;
	uint64_t pseudo;

	memset(c, 0, sizeof(*c));
	if (dp->marked[index])
		dp->marked[index] = 0;
	c->id.local_addr[2] = c->id.remote_addr[2] = to_be32(0xffff);
	c->id.local_addr[3] = s->local_addr;
	c->id.remote_addr[3] = s->remote_addr;
	c->id.local_port = s->local_port;
	c->id.remote_port = s->remote_port;
	memcpy(c->id.remote_mac, s->remote_mac, 6);
	c->id.port = s->port;
	c->id.hash =
		flow_hash(&dp->flows, flow_key(s->local_addr, s->remote_addr, s->local_port, s->remote_port));
	c->id.handle = s->handle;
	c->id.app = s->app;
	c->id.version_ihl = 0x45;
	c->id.tos = s->tos;
	c->id.ttl = s->ttl ? s->ttl : CONN_TTL;
	c->id.protocol = IPPROTO_TCP_;
	pseudo = checksum_pseudo(s->local_addr, s->remote_addr, 0);
	c->id.pseudo_sum = checksum_fold(pseudo);

	mss = port->mtu > 40u ? port->mtu - 40u : 536u; /* RFC 9293 3.7.1, RFC 6691 */
	mss = min_u32(mss, max_u32(s->peer_mss ? s->peer_mss : 536u, 48u + options));
	mss = mss - options;

	c->tcp = (struct tcp_state){
		.rcv_nxt = s->irs + 1u,
		.rcv_adv = s->irs + 1u + s->rcv_adv_wnd,
		.rx_base = s->irs + 1u,
		.rx_tail = s->irs + 1u,
		.rcv_acked = s->irs + 1u,
		.ts_recent = s->ts_recent,
		.ts_recent_us = (uint32_t)now_us,
		.snd_una = s->iss + 1u,
		.snd_nxt = s->iss + 1u,
		.snd_max = s->iss + 1u,
		.tx_base = s->iss + 1u,
		.tx_end = s->iss + 1u,
		.snd_wnd = s->snd_wnd,
		.max_snd_wnd = s->snd_wnd,
		.snd_wl1 = s->irs,
		.snd_wl2 = s->iss + 1u,
		.cwnd = CWND_SEGMENTS * mss,
		.ssthresh = UINT32_MAX / 2u,
		.recover = s->iss,
		.rto_us = RTO_INITIAL_US,
		.mss = (uint16_t)mss,
		.flags = (uint16_t)((s->timestamps ? TCPF_TIMESTAMPS : 0u) | (s->sack ? TCPF_SACK : 0u) |
				    (s->ecn ? TCPF_ECN : 0u)),
		.phase = TCP_PHASE_ESTABLISHED,
		.snd_wscale = s->snd_wscale,
		.rcv_wscale = s->rcv_wscale,
		.ooo = CONN_NONE,
		.quick_acks = QUICK_ACKS,
		.rx_shift = s->rx_shift,
		.tx_shift = s->tx_shift,
		.challenge_stamp = (uint8_t)((now_us >> 16) - 1u),
	};
	if (s->srtt_us) {
		c->tcp.srtt_us = s->srtt_us * 8u;
		c->tcp.rttvar_us = s->srtt_us * 2u;
		c->tcp.rto_us = min_u32(max_u32(s->srtt_us * 3u, RTO_MIN_US), RTO_MAX_US);
	}
	c->host.rx_page = s->rx_page;
	c->host.tx_page = s->tx_page;
	c->host.rx_origin = c->tcp.rx_base;
	c->host.tx_origin = c->tcp.tx_base;
	c->host.rx_shift = s->rx_shift;
	c->host.tx_shift = s->tx_shift;
	c->host.context = s->context;
	c->host.flags = s->ecn && s->accurate_ecn ? HOST_DCTCP : 0;
	c->host.ntf_next = c->host.event_next = CONN_NONE;
}

/* ---- data path's side: up ---- */

void ctl_exception(struct datapath *dp, const struct port *port, const struct frame *frame, uint32_t len)
{
	struct exc_frame *e = NULL;

	if (record_ring_room(&dp->exc) > EXC_ROOM_KEPT + len)
		e = record_ring_reserve(&dp->exc, (uint32_t)sizeof(*e) + len);
	if (!e) {
		count(dp, CNT_drop_exception_full);
		return;
	}
	e->type = EXC_FRAME;
	e->port = (uint16_t)(port - dp->ports);
	e->flags = frame->flags & FRAME_CSUM_GOOD;
	e->len = len;
	memcpy(e->bytes, frame->data, len);
	record_ring_publish(&dp->exc);
	count(dp, CNT_rx_exceptions);
}

void ctl_event(struct datapath *dp, struct conn *c, uint32_t index, uint16_t events)
{
	c->host.events |= events;
	if (c->host.flags & HOST_EVENT_QUEUED)
		return;
	c->host.flags |= HOST_EVENT_QUEUED;
	c->host.event_next = CONN_NONE;
	if (dp->event_tail == CONN_NONE)
		dp->event_head = index;
	else
		dp->conns[dp->event_tail].host.event_next = index;
	dp->event_tail = index;
}

COLD void ctl_congestion(struct datapath *dp, struct conn *c, uint32_t index)
{
	uint8_t due = c->tcp.due;

	c->tcp.due &= (uint8_t)~DUE_CONGESTION;
	ctl_event(dp, c, index,
		(uint16_t)((due & DUE_ROUND ? CONN_EVENT_ROUND : 0u) |
			   (due & DUE_LOSS ? CONN_EVENT_LOSS : 0u) |
			   (due & DUE_UNDO ? CONN_EVENT_UNDO : 0u)));
}

struct exc_hc *ctl_request(struct datapath *dp)
{
	if (record_ring_room(&dp->exc) < EXC_ROOM_REQUESTS)
		return NULL;
	return record_ring_reserve(&dp->exc, sizeof(struct exc_hc));
}

/* The ends of contexts; rare, walks the list. */
static void broken_tell(struct datapath *dp)
{
	for (uint32_t i = 0; i < dp->active_count && dp->broken_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];
		struct exc_broken *e;

		if (!ctx->broken)
			continue;
		e = record_ring_reserve(&dp->exc, sizeof(*e));
		if (!e)
			return;
		*e = (struct exc_broken){
			.type = EXC_CONTEXT_BROKEN, .app = ctx->app, .context = dp->active[i]};
		snprintf(e->reason, sizeof(e->reason), "%s", ctx->broken);
		ctx->broken = NULL;
		dp->broken_count--;
		record_ring_publish(&dp->exc);
	}
}

void ctl_events(struct datapath *dp)
{
	if (unlikely(dp->broken_count))
		broken_tell(dp);
	while (dp->event_head != CONN_NONE) {
		uint32_t index = dp->event_head;
		struct conn *c = &dp->conns[index];
		struct exc_conn *e = record_ring_reserve(&dp->exc, sizeof(*e));

		if (!e)
			return;
		*e = (struct exc_conn){.type = EXC_CONN, .conn = index, .events = c->host.events};
		dp->event_head = c->host.event_next;
		if (dp->event_head == CONN_NONE)
			dp->event_tail = CONN_NONE;
		c->host.events = 0;
		c->host.flags &= (uint16_t)~HOST_EVENT_QUEUED;
		record_ring_publish(&dp->exc); /* after the last touch: REMOVED gives the connection away */
	}
}

/* ---- data path's side: down ---- */

void ctl_removed(struct datapath *dp, struct conn *c, uint32_t index)
{
	c->host.flags &= (uint16_t) ~(HOST_LIVE | HOST_REMOVING);
	count(dp, CNT_conns_removed);
	ctl_event(dp, c, index, CONN_EVENT_REMOVED);
}

static void keepalive_work(struct datapath *dp, struct conn *c)
{
	struct port *port = &dp->ports[c->id.port];
	struct frame *frame = wire_reserve(dp, port);
	struct tx_plan plan;

	if (!frame || !protocol_keepalive(&c->tcp, &plan))
		return; /* a full device: the control plane asks again */
	wire_commit(dp, port, post_headers(dp, port, c, &plan, frame));
	count(dp, CNT_keepalive_probes);
	count(dp, CNT_tx_acks);
}

static void window_work(struct datapath *dp, const struct ctl_window *w)
{
	struct conn *c = &dp->conns[w->conn];

	if (!(c->host.flags & HOST_LIVE))
		return;
	protocol_window(&c->tcp, w->cwnd, w->ssthresh);
	if (w->cwr && (c->tcp.flags & TCPF_ECN))
		c->host.flags |= HOST_CWR;
	if (protocol_tx_pending(&c->tcp)) /* a larger one may let something out */
		scheduler_add(dp, c, w->conn);
}

static void mtu_work(struct datapath *dp, const struct ctl_mtu *w)
{
	struct conn *c = &dp->conns[w->conn];
	uint32_t headers = 40u + (c->tcp.flags & TCPF_TIMESTAMPS ? 12u : 0u);
	bool send = false;

	if (!(c->host.flags & HOST_LIVE) || w->mtu < headers + 64u)
		return;
	protocol_mss(&c->tcp, &dp->ooo, w->mtu - headers, &send);
	if (send)
		scheduler_add(dp, c, w->conn);
}

static void options_work(struct datapath *dp, const struct ctl_options *w)
{
	struct conn *c = &dp->conns[w->conn];

	if (!(c->host.flags & HOST_LIVE))
		return;
	c->id.tos = w->tos;
	c->id.ttl = w->ttl ? w->ttl : CONN_TTL;
}

static void conn_work(struct datapath *dp, const struct ctl_conn *w)
{
	struct conn *c = &dp->conns[w->conn];
	bool send = false;
	enum counter counter;

	if (w->type == CTL_INSTALL) {
		if (flow_insert(&dp->flows, dp->conns, w->conn) != 0) {
			/* cannot happen while the control plane keeps tuples apart; end it, do not lose it */
			protocol_abort(&c->tcp, EADDRINUSE, false);
			c->host.flags |= HOST_LIVE | HOST_NTF_FORCE;
			ctl_event(dp, c, w->conn, CONN_EVENT_DEAD);
			pipeline_touch(dp, w->conn);
			return;
		}
		c->host.flags |= HOST_LIVE | HOST_HASHED;
		count(dp, CNT_conns_installed);
		if (w->flags & CTL_INSTALL_ACK)
			c->tcp.due |= DUE_ACK;
		pipeline_touch(dp, w->conn);
		return;
	}
	if (!(c->host.flags & HOST_LIVE))
		return;
	switch (w->type) {
	case CTL_REMOVE:
		if (c->host.flags & HOST_HASHED)
			flow_remove(&dp->flows, c->id.hash, w->conn);
		c->host.flags = (uint16_t)((c->host.flags & ~HOST_HASHED) | HOST_MUTED);
		c->tcp.phase = TCP_PHASE_CLOSED;
		reassembly_drop(&c->tcp, &dp->ooo);
		notify_forget(dp, c, w->conn);
		c->host.flags |= HOST_REMOVING;
		if (!(c->host.flags & (HOST_SCHEDULED | HOST_TOUCHED)))
			ctl_removed(dp, c, w->conn);
		break;
	case CTL_RESET:
		if (!protocol_ended(&c->tcp)) {
			count(dp, CNT_conn_resets_out);
			protocol_abort(&c->tcp, (uint8_t)w->error, true);
			c->host.flags |= HOST_NTF_FORCE;
			pipeline_touch(dp, w->conn);
		}
		break;
	case CTL_TIMEOUT:
		counter = protocol_timeout(&c->tcp, &dp->ooo, dp->now_us, &send);
		if (counter != COUNTERS)
			count(dp, counter);
		if (send)
			scheduler_add(dp, c, w->conn);
		if (protocol_ended(&c->tcp)) {
			c->host.flags |= HOST_NTF_FORCE;
			if (counter == CNT_conn_timeouts &&
				w->error) /* RFC 1122 4.2.3.9: a soft error is why */
				c->tcp.error = (uint8_t)w->error;
		}
		pipeline_touch(dp, w->conn);
		break;
	case CTL_KEEPALIVE:
		keepalive_work(dp, c);
		break;
	case CTL_TIMERS_OFF:
		if (protocol_timer_wanted(&c->tcp)) {
			ctl_event(dp, c, w->conn, CONN_EVENT_TIMER);
		} else {
			c->tcp.flags &= (uint16_t)~TCPF_TIMER_ON;
			ctl_event(dp, c, w->conn, CONN_EVENT_TIMERS_IDLE);
		}
		break;
	default:
		break;
	}
}

static void context_work(struct datapath *dp, const struct ctl_context *w)
{
	struct context *ctx = &dp->contexts[w->context];

	if (w->area) {
		struct flextoe_ntf *overflow = ctx->overflow;

		*ctx = (struct context){.area = w->area,
			.app = w->app,
			.pending_head = CONN_NONE,
			.pending_tail = CONN_NONE,
			.overflow = overflow};
		dp->active[dp->active_count++] = w->context;
		store_relaxed32(&w->area->words.engine_cpu, dp->cpu);
		return;
	}
	while (ctx->pending_head != CONN_NONE)
		notify_forget(dp, &dp->conns[ctx->pending_head], ctx->pending_head);
	for (uint32_t i = 0; i < dp->active_count; i++)
		if (dp->active[i] == w->context) {
			dp->active[i] = dp->active[--dp->active_count];
			break;
		}
	if (ctx->broken) {
		ctx->broken = NULL;
		dp->broken_count--;
	}
	ctx->area = NULL;
	ctx->credit = 0;
}

/*
 * A library learns a connection's name from ACCEPT and CONNECT and drops what came before. A round may have
 * ended between CTL_INSTALL and this, and something may have been told: it is told again.
 */
static void notify_work(struct datapath *dp, const struct ctl_notify *w)
{
	uint32_t index = flextoe_conn_index(w->ntf.opened.conn);
	struct conn *c;

	if (!notify_control(dp, w->context, &w->ntf) ||
		(w->ntf.type != FLEXTOE_NTF_ACCEPT && w->ntf.type != FLEXTOE_NTF_CONNECT) ||
		index >= dp->conns_max)
		return;
	c = &dp->conns[index];
	if (!(c->host.flags & HOST_LIVE) || !(c->host.rx_notified || c->tcp.phase != TCP_PHASE_ESTABLISHED))
		return;
	c->host.flags |= HOST_NTF_FORCE;
	pipeline_touch(dp, index);
}

static void region_work(struct datapath *dp, const struct ctl_region *w)
{
	struct region *r = &dp->regions[w->app];

	if (!w->base && r->base) {
		/* frames that wait for their device may refer to payload in it */
		dma_flush(dp);
		wire_flush(dp);
		for (unsigned p = 0; p < dp->port_count; p++)
			for (struct frame *f = dp->ports[p].tx_first; f != dp->ports[p].tx_built; f++) {
				if (f->frag_count && f->frag[0].data >= r->base &&
					f->frag[0].data < r->base + r->size)
					f->frag_count =
						0; /* headers without payload: the receiver drops it */
			}
	}
	*r = (struct region){w->base, w->base ? w->size : 0};
	dp->copy->ops->region_set(dp->copy, w->app, w->base, w->size);
}

static void send_frame(struct datapath *dp, const struct ctl_frame *w)
{
	struct port *port = &dp->ports[w->port];
	struct frame *f;

	if (w->port >= dp->port_count)
		return;
	f = wire_reserve(dp, port);
	if (!f || w->len > f->room)
		return; /* counted as a full device; the control plane's timers send it again */
	memcpy(f->data, w->bytes, w->len);
	f->len = w->len;
	f->flags = 0;
	f->frag_count = 0;
	wire_commit(dp, port, f->len);
}

unsigned ctl_poll(struct datapath *dp)
{
	unsigned n = 0;
	uint32_t len;

	while (n < CTL_ROUND && !record_ring_empty(&dp->ctl)) {
		void *record = record_ring_peek(&dp->ctl, &len);

		if (!record)
			break;
		n++;
		switch (*(const uint32_t *)record) {
		case CTL_INSTALL:
		case CTL_REMOVE:
		case CTL_RESET:
		case CTL_TIMEOUT:
		case CTL_TIMERS_OFF:
		case CTL_KEEPALIVE:
			conn_work(dp, record);
			break;
		case CTL_NEIGHBOUR: {
			const struct ctl_neighbour *w = record;

			memcpy(dp->conns[w->conn].id.remote_mac, w->mac, 6);
			break;
		}
		case CTL_MTU:
			mtu_work(dp, record);
			break;
		case CTL_WINDOW:
			window_work(dp, record);
			break;
		case CTL_OPTIONS:
			options_work(dp, record);
			break;
		case CTL_REGION:
			region_work(dp, record);
			break;
		case CTL_CONTEXT:
			context_work(dp, record);
			break;
		case CTL_NOTIFY:
			notify_work(dp, record);
			break;
		case CTL_SEND:
			send_frame(dp, record);
			break;
		case CTL_INJECT: {
			struct ctl_frame *w = record;
			struct frame f = {.data = w->bytes, .len = w->len, .flags = w->flags};

			if (w->port < dp->port_count)
				pipeline_rx(dp, &dp->ports[w->port], &f, 1);
			break;
		}
		default:
			break;
		}
		record_ring_pop(&dp->ctl);
	}
	return n;
}
