/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The fused mapping of the pipeline: one thread takes a batch from each source of work (control work, frames,
 * host control, the scheduler) and runs it through the stages to completion. What a connection owes at the
 * end of a round, an ACK and a notification, it owes once, however many segments it had. This file owns the
 * batches and composes the stages; it changes no TCP state itself.
 */
#include "datapath/stages.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

static void *table_map(uint64_t count, size_t size)
{
	void *p = mmap(NULL, count * size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

struct datapath *datapath_create(const struct datapath_config *config)
{
	struct datapath *dp = aligned_alloc(CACHE_LINE, sizeof(*dp));
	uint64_t seed = 0;

	if (!dp)
		return NULL;
	memset(dp, 0, sizeof(*dp));
	dp->conns_max = config->conns_max;
	dp->apps_max = config->apps_max;
	dp->contexts_max = config->contexts_max;
	dp->copy = config->copy;
	dp->copy_direct = (config->copy->ops->caps & COPY_DIRECT) != 0;
	dp->kick = config->kick;
	dp->kick_arg = config->kick_arg;
	dp->event_head = dp->event_tail = CONN_NONE;
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) < 0)
		seed = cycles_now();
	dp->conns = table_map(dp->conns_max, sizeof(*dp->conns));
	dp->regions = table_map(dp->apps_max, sizeof(*dp->regions));
	dp->contexts = table_map(dp->contexts_max, sizeof(*dp->contexts));
	dp->marked = table_map(dp->conns_max, sizeof(*dp->marked));
	dp->active = table_map(dp->contexts_max, sizeof(*dp->active));
	while (dp->sched_mask + 1u < dp->conns_max)
		dp->sched_mask = dp->sched_mask * 2u + 1u;
	dp->sched = table_map((uint64_t)dp->sched_mask + 1u, sizeof(*dp->sched));
	if (!dp->conns || !dp->marked || !dp->regions || !dp->contexts || !dp->active || !dp->sched ||
		flow_table_init(&dp->flows, dp->conns_max, seed) != 0 ||
		ooo_pool_init(&dp->ooo, config->ooo_max ? config->ooo_max : dp->conns_max / 8u + 64u) != 0 ||
		record_ring_init(&dp->ctl, CTL_RING_BYTES) != 0 ||
		record_ring_init(&dp->exc, EXC_RING_BYTES) != 0)
		goto fail;
	for (uint32_t i = 0; i < dp->contexts_max; i++) {
		dp->contexts[i].overflow = table_map(NTF_OVERFLOW, sizeof(struct flextoe_ntf));
		if (!dp->contexts[i].overflow)
			goto fail;
		dp->contexts[i].pending_head = dp->contexts[i].pending_tail = CONN_NONE;
	}
	return dp;
fail:
	datapath_destroy(dp);
	return NULL;
}

void datapath_destroy(struct datapath *dp)
{
	if (!dp)
		return;
	for (unsigned p = 0; p < dp->port_count; p++) {
		struct port *port = &dp->ports[p];

		port->dev->ops->tx_free(
			port->dev, port->tx_first, (unsigned)(port->tx_ready - port->tx_first));
	}
	if (dp->contexts) {
		for (uint32_t i = 0; i < dp->contexts_max; i++)
			if (dp->contexts[i].overflow)
				munmap(dp->contexts[i].overflow, NTF_OVERFLOW * sizeof(struct flextoe_ntf));
		munmap(dp->contexts, dp->contexts_max * sizeof(*dp->contexts));
	}
	if (dp->conns)
		munmap(dp->conns, dp->conns_max * sizeof(*dp->conns));
	if (dp->marked)
		munmap(dp->marked, dp->conns_max * sizeof(*dp->marked));
	if (dp->regions)
		munmap(dp->regions, dp->apps_max * sizeof(*dp->regions));
	if (dp->active)
		munmap(dp->active, dp->contexts_max * sizeof(*dp->active));
	if (dp->sched)
		munmap(dp->sched, ((uint64_t)dp->sched_mask + 1u) * sizeof(*dp->sched));
	flow_table_free(&dp->flows);
	ooo_pool_free(&dp->ooo);
	record_ring_free(&dp->ctl);
	record_ring_free(&dp->exc);
	free(dp);
}

int datapath_port_add(struct datapath *dp, struct device *dev)
{
	struct port *port = &dp->ports[dp->port_count];

	if (dp->port_count == DATAPATH_PORTS_MAX)
		return -ENOSPC;
	*port = (struct port){.dev = dev,
		.caps = dev->caps,
		.mtu = dev->mtu,
		.tx_first = port->tx,
		.tx_built = port->tx,
		.tx_ready = port->tx};
	memcpy(port->mac, dev->mac, 6);
	memcpy((uint8_t *)&port->mac_match + 2, dev->mac, 6);
	memcpy(&port->mac_type, dev->mac, 6);
	memcpy((uint8_t *)&port->mac_type + 6, &(be16){to_be16(ETHTYPE_IPV4_)}, 2);
	if (dev->caps & DEVICE_TSO) /* the IP length field bounds what a super-segment can say */
		port->tso_bytes = min_u32(dev->max_tso_bytes, 65535u - 20u - 32u);
	return (int)dp->port_count++;
}

struct device *datapath_port(struct datapath *dp, unsigned port)
{
	return dp->ports[port].dev;
}

unsigned datapath_port_count(const struct datapath *dp)
{
	return dp->port_count;
}

struct conn *datapath_conn(struct datapath *dp, uint32_t index)
{
	return &dp->conns[index];
}

uint32_t datapath_conns_max(const struct datapath *dp)
{
	return dp->conns_max;
}

uint32_t datapath_marked(const struct datapath *dp, uint32_t index)
{
	return dp->marked[index];
}

const uint64_t *datapath_counters(const struct datapath *dp)
{
	return dp->counters;
}

void pipeline_ended(struct datapath *dp, struct conn *c, uint32_t index)
{
	if (!(c->host.flags & HOST_HASHED))
		return;
	flow_remove(&dp->flows, c->id.hash, index);
	c->host.flags &= (uint16_t)~HOST_HASHED;
	reassembly_drop(&c->tcp, &dp->ooo);
	ctl_event(dp, c, index, CONN_EVENT_DEAD);
}

/* A segment without payload: what DUE_ACK and DUE_RST ask for. */
static HOT_INLINE void answer(struct datapath *dp, struct conn *c, bool usual)
{
	struct port *port = &dp->ports[c->id.port];
	struct frame *frame = wire_reserve(dp, port);
	struct tx_plan plan;

	if (unlikely(!frame)) {
		count(dp, CNT_drop_tx_ack);
		c->tcp.due &= (uint8_t) ~(DUE_ACK | DUE_SACK | DUE_RST);
		if (!protocol_ended(&c->tcp)) { /* the timer tries again */
			c->tcp.flags |= TCPF_ACK_DELAYED;
			c->tcp.ack_deadline_us = dp->now_us + 1000u;
		}
		return;
	}
	if (usual) {
		protocol_ack_usual(&c->tcp, &plan);
		wire_commit(dp, port, post_headers(dp, port, c, &plan, frame));
		count(dp, CNT_tx_acks);
		return;
	}
	protocol_ack(&c->tcp, &plan);
	post_headers(dp, port, c, &plan, frame);
	if (c->tcp.ooo != CONN_NONE && (c->tcp.flags & TCPF_SACK)) {
		post_sack(dp, c, frame);
		reassembly_told(&c->tcp, &dp->ooo);
	}
	if (c->tcp.flags & TCPF_ECN)
		ecn_sends(c, &plan, frame);
	wire_commit(dp, port, frame->len);
	count(dp, plan.flags & TCP_RST_ ? CNT_tx_resets : CNT_tx_acks);
}

static inline void watch_timers(struct datapath *dp, struct conn *c, uint32_t index)
{
	if ((c->tcp.flags & (TCPF_RTO_ARMED | TCPF_ACK_DELAYED)) && !(c->tcp.flags & TCPF_TIMER_ON)) {
		c->tcp.flags |= TCPF_TIMER_ON;
		ctl_event(dp, c, index, CONN_EVENT_TIMER);
	}
}

/* The end of a round for a connection of any kind. */
COLD static void finish_any(struct datapath *dp, struct conn *c, uint32_t index)
{
	if (c->host.flags & HOST_REMOVING) {
		if (!(c->host.flags & HOST_SCHEDULED))
			ctl_removed(dp, c, index);
		return;
	}
	if (c->tcp.due & (DUE_ACK | DUE_SACK | DUE_RST))
		answer(dp, c, false);
	if (c->tcp.due & DUE_CONGESTION)
		ctl_congestion(dp, c, index);
	notify_conn(dp, c, index);
	if (protocol_ended(&c->tcp))
		pipeline_ended(dp, c, index);
	else
		watch_timers(dp, c, index);
}

static HOT_INLINE void finish(struct datapath *dp, uint32_t index)
{
	struct conn *c = &dp->conns[index];

	c->host.flags &= (uint16_t)~HOST_TOUCHED;
	if (unlikely((c->host.flags & (HOST_REMOVING | HOST_MUTED | HOST_NTF_QUEUED | HOST_NTF_FORCE)) ||
		     !protocol_at_ease(&c->tcp, UNUSUAL, 0) || (c->tcp.due & (DUE_SACK | DUE_CONGESTION)) ||
		     c->tcp.ooo != CONN_NONE)) {
		finish_any(dp, c, index);
		return;
	}
	if (c->tcp.due & DUE_ACK)
		answer(dp, c, true);
	notify_usual(dp, c, index);
	watch_timers(dp, c, index);
}

static void finish_all(struct datapath *dp)
{
	dma_flush(dp); /* payload first: no ACK and no notification overtakes a copy */
	for (unsigned i = 0; i < dp->touched_count; i++)
		finish(dp, dp->touched[i]);
	dp->touched_count = 0;
}

HOT_INLINE void pipeline_touch(struct datapath *dp, uint32_t index)
{
	struct conn *c = &dp->conns[index];

	if (c->host.flags & HOST_TOUCHED)
		return;
	if (unlikely(dp->touched_count == TOUCHED_MAX))
		finish_all(dp);
	c->host.flags |= HOST_TOUCHED;
	dp->touched[dp->touched_count++] = index;
}

static void count_verdict(struct datapath *dp, const struct verdict *v)
{
	count(dp, (enum counter)v->counter);
	for (unsigned also = v->also; also; also &= also - 1u)
		count(dp, (enum counter)(CNT_sack_refused + __builtin_ctz(also)));
}

/* Marks begin or end: RFC 8257 3.2, an ACK of what came before says how it came. */
COLD static void ecn_flip(struct datapath *dp, struct conn *c)
{
	if (c->tcp.due & DUE_ACK || c->tcp.flags & TCPF_ACK_DELAYED) {
		dma_flush(dp); /* payload first */
		answer(dp, c, false);
	}
	c->host.flags ^= HOST_ECE;
}

/* A segment of any kind, for any connection or none. */
COLD static void rx_any(struct datapath *dp, struct port *port, struct rx_item *item)
{
	const uint8_t *frame = item->frame->data;
	const uint8_t *tcp = item->usual ? frame + USUAL_TCP : item->tcp;
	struct segment seg = item->usual ? pre_segment(item) : item->seg;
	uint32_t index = flow_find(&dp->flows, dp->conns, item->hash, pre_key(frame, tcp));
	struct conn *c = &dp->conns[index];
	struct verdict v;
	bool empty;

	if (index == CONN_NONE) {
		if ((!tcp[0] && !tcp[1]) || (!tcp[2] && !tcp[3])) { /* a usual frame was not asked for this */
			count(dp, CNT_drop_tcp_header);
			return;
		}
		ctl_exception(
			dp, port, item->frame, item->usual ? USUAL_PAYLOAD + item->len : item->ip_bytes);
		return;
	}
	if (protocol_ended(&c->tcp)) {
		count(dp, CNT_rx_duplicate);
		return;
	}
	empty = c->tcp.rx_tail == c->tcp.rcv_nxt && c->tcp.ooo == CONN_NONE;
	if ((c->tcp.flags & TCPF_ECN) && ecn_arrives(dp, c, &seg, pre_ecn(item)))
		ecn_flip(dp, c);
	protocol_rx(&c->tcp, &dp->ooo, &seg, dp->now_us, &v);
	if (c->tcp.flags & TCPF_ECN)
		ecn_echo(dp, c, index, &seg, &v);
	if (v.place_len) {
		if (empty && v.delivered) /* the application holds nothing of the buffer: start over */
			c->host.rx_origin = v.place_seq;
		dma_receive(dp, c, (item->usual ? frame + USUAL_PAYLOAD : item->payload) + v.place_skip,
			v.place_seq, v.place_len);
		c->host.bytes_received += v.delivered;
	}
	if (v.counter != COUNTERS)
		count_verdict(dp, &v);
	c->host.bytes_acked += v.acked;
	if (v.notify)
		c->host.flags |= HOST_NTF_FORCE;
	if (v.send && protocol_tx_pending(&c->tcp))
		scheduler_add(dp, c, index);
	pipeline_touch(dp, index);
}

/* What rx_any() does, for a usual segment of the connection that the look-up guessed: nearly all are. */
static HOT_INLINE bool rx_usual(struct datapath *dp, const struct rx_item *item)
{
	const uint8_t *frame = item->frame->data;
	struct conn *c = &dp->conns[item->conn];
	struct segment seg;
	struct verdict v;

	if (unlikely(!item->usual || item->conn == CONN_NONE ||
		     !flow_key_equal(&c->id, pre_key(frame, frame + USUAL_TCP))))
		return false;
	seg = pre_segment(item);
	if (unlikely(!protocol_rx_usual(&c->tcp, &seg, dp->now_us, &v)))
		return false;
	if (v.send && c->tcp.tx_end != c->tcp.snd_nxt)
		scheduler_add(dp, c, item->conn);
	c->host.bytes_acked += v.acked;
	if (!seg.len) { /* an ACK, which leaves nothing to finish but its timer */
		if (unlikely(c->tcp.due || !notify_space_told(c, c->tcp.snd_una - c->tcp.tx_base)))
			pipeline_touch(dp, item->conn);
		else
			watch_timers(dp, c, item->conn);
		return true;
	}
	if (c->tcp.rx_tail == seg.seq) /* the application holds nothing of the buffer: start over */
		c->host.rx_origin = seg.seq;
	dma_receive(dp, c, frame + USUAL_PAYLOAD, seg.seq, seg.len);
	c->host.bytes_received += seg.len;
	pipeline_touch(dp, item->conn);
	return true;
}

void pipeline_rx(struct datapath *dp, struct port *port, struct frame *frames, unsigned n)
{
	struct rx_item items[BATCH];
	unsigned count_items = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		struct rx_item *item = &items[count_items];

		if (i + 2 < n)
			prefetch(frames[i + 2].data);
		bytes += frames[i].len;
		switch (pre_parse(dp, port, &frames[i], item)) {
		case PRE_SEGMENT:
			item->bucket = flow_bucket(&dp->flows, item->hash);
			prefetch(item->bucket);
			count_items++;
			break;
		case PRE_EXCEPTION:
			ctl_exception(dp, port, &frames[i], item->ip_bytes);
			break;
		case PRE_DROP:
			break;
		}
	}
	count_add(dp, CNT_rx_frames, n);
	count_add(dp, CNT_rx_bytes, bytes);
	count_add(dp, CNT_rx_segments, count_items);
	for (unsigned i = 0; i < count_items; i++) {
		uint32_t hint = items[i].conn = flow_hint(items[i].bucket, items[i].hash);

		if (hint != CONN_NONE) {
			prefetch(&dp->conns[hint].id);
			prefetch_write(&dp->conns[hint].tcp);
			prefetch_write((const char *)&dp->conns[hint].tcp + CACHE_LINE);
			prefetch_write(&dp->conns[hint].host);
		}
	}
	for (unsigned i = 0; i < count_items; i++)
		if (unlikely(!rx_usual(dp, &items[i])))
			rx_any(dp, port, &items[i]);
	dma_flush(dp); /* the frames go back to the device */
}

/* Sends from one connection up to its quantum. False: the device is full. */
COLD static bool transmit_any(struct datapath *dp, struct conn *c, uint32_t index, unsigned *frames)
{
	struct port *port = &dp->ports[c->id.port];
	uint32_t sent = 0, max_len;
	struct tx_plan plan;

	max_len = c->tcp.mss;
	if (port->tso_bytes > max_len && c->tcp.tx_end - c->tcp.snd_nxt > max_len)
		max_len = port->tso_bytes - port->tso_bytes % max_len;
	while (protocol_tx_pending(&c->tcp)) {
		struct frame *frame;
		uint32_t headers;

		if (sent >= TX_QUANTUM) {
			scheduler_add(dp, c, index);
			break;
		}
		frame = wire_reserve(dp, port);
		if (unlikely(!frame)) {
			scheduler_add(dp, c, index);
			pipeline_touch(dp, index);
			return false;
		}
		if (!protocol_tx(&c->tcp, &dp->ooo, max_len, dp->now_us, &plan))
			break;
		headers = post_headers(dp, port, c, &plan, frame);
		if (c->tcp.flags & TCPF_ECN)
			ecn_sends(c, &plan, frame);
		if (plan.len)
			dma_transmit(dp, port, c, &plan, frame);
		wire_commit(dp, port, headers + plan.len);
		sent += plan.len + 1u;
		(*frames)++;
		count(dp, CNT_tx_segments);
		count_add(dp, CNT_tx_payload_bytes, plan.len);
		if (unlikely(plan.retransmission)) {
			c->host.retransmits++;
			if (!(c->tcp.flags & TCPF_RTO_RECOVERY))
				count(dp, CNT_retransmit_fast);
			count_add(dp, CNT_retransmit_bytes, plan.len);
		}
	}
	pipeline_touch(dp, index);
	return true;
}

/* The same where one segment is all there is to send, which leaves nothing to finish but its timer. */
static HOT_INLINE bool transmit(struct datapath *dp, struct conn *c, uint32_t index, unsigned *frames)
{
	struct port *port = &dp->ports[c->id.port];
	struct frame *frame = wire_reserve(dp, port);
	struct tx_plan plan;
	uint32_t headers;

	if (unlikely(!frame || !protocol_tx_usual(&c->tcp, c->tcp.mss, dp->now_us, &plan)))
		return transmit_any(dp, c, index, frames);
	headers = post_headers(dp, port, c, &plan, frame);
	dma_transmit(dp, port, c, &plan, frame);
	wire_commit(dp, port, headers + plan.len);
	(*frames)++;
	count(dp, CNT_tx_segments);
	count_add(dp, CNT_tx_payload_bytes, plan.len);
	watch_timers(dp, c, index);
	return true;
}

static unsigned transmit_poll(struct datapath *dp)
{
	uint32_t turns = scheduler_count(dp);
	unsigned frames = 0;

	while (turns-- && frames < TX_FRAMES_ROUND) {
		uint32_t index = scheduler_next(dp);
		struct conn *c = &dp->conns[index];

		if (unlikely(c->host.flags & HOST_REMOVING)) {
			if (!(c->host.flags & HOST_TOUCHED))
				ctl_removed(dp, c, index);
			continue;
		}
		if (!transmit(dp, c, index, &frames))
			break;
	}
	return frames;
}

unsigned datapath_poll(struct datapath *dp, uint64_t now_us)
{
	struct frame frames[BATCH];
	unsigned work;

	dp->now_us = (uint32_t)now_us;
	dp->ts_option = TS_OPTION_ALIGNED | (uint64_t)to_be32((uint32_t)(now_us / 1000u)) << 32;
	work = ctl_poll(dp);
	for (unsigned p = 0; p < dp->port_count; p++) {
		struct port *port = &dp->ports[p];
		unsigned n = port->dev->ops->rx_burst(port->dev, frames, BATCH);

		if (!n)
			continue;
		pipeline_rx(dp, port, frames, n);
		port->dev->ops->rx_release(port->dev, frames, n);
		work += n;
	}
	work += host_poll(dp);
	work += transmit_poll(dp);
	finish_all(dp);
	wire_flush(dp);
	ctl_events(dp);
	if (dp->kicks)
		notify_kick(dp, work == 0);
	count(dp, CNT_polls);
	if (work) {
		count(dp, CNT_polls_busy);
		dp->looks = 0;
	}
	return work;
}

bool datapath_more(const struct datapath *dp)
{
	if (dp->kicks || scheduler_count(dp) || dp->event_head != CONN_NONE || dp->broken_count ||
		!record_ring_empty(&dp->ctl))
		return true;
	for (unsigned p = 0; p < dp->port_count; p++)
		if (dp->ports[p].tx_first != dp->ports[p].tx_built)
			return true;
	return false;
}

bool datapath_sleep_begin(struct datapath *dp)
{
	dp->sleeps = (dp->sleeps + 1) & ~FLEXTOE_ENGINE_DEEP;
	if (dp->sleeps == 0)
		dp->sleeps = 1;
	for (uint32_t i = 0; i < dp->active_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];

		if (!ctx->dead)
			store_relaxed32(&ctx->area->words.engine_asleep, dp->sleeps);
	}
	full_fence(); /* before the last look: an application that missed the word has left its mark */
	count(dp, CNT_sleeps);
	return datapath_more(dp) || host_work(dp);
}

#define LOOKS_MAX 8u /* then an application that is awake is about something else */

static bool apps_asleep(const struct datapath *dp)
{
	for (uint32_t i = 0; i < dp->active_count; i++) {
		const struct context *ctx = &dp->contexts[dp->active[i]];

		if (!ctx->dead && !load_relaxed32(&ctx->area->words.app_asleep))
			return false;
	}
	return true;
}

bool datapath_core_idle(const struct datapath *dp)
{
	for (uint32_t i = 0; i < dp->active_count; i++)
		if (dp->contexts[dp->active[i]].kicked)
			return false;
	return apps_asleep(dp);
}

bool datapath_core_wanted(const struct datapath *dp)
{
	for (uint32_t i = 0; dp->cpu && i < dp->active_count; i++) {
		const struct context *ctx = &dp->contexts[dp->active[i]];

		if (ctx->app_cpu == dp->cpu && !ctx->dead &&
			(ctx->kicked || !load_relaxed32(&ctx->area->words.app_asleep)))
			return true;
	}
	return false;
}

bool datapath_sleep_deep(struct datapath *dp)
{
	bool kicked = false;

	/* One that was woken a moment ago has yet to run; it says so itself only then. */
	for (uint32_t i = 0; i < dp->active_count; i++) {
		kicked |= dp->contexts[dp->active[i]].kicked;
		dp->contexts[dp->active[i]].kicked = false;
	}
	if ((kicked || !apps_asleep(dp)) && ++dp->looks <= LOOKS_MAX)
		return false;
	for (uint32_t i = 0; i < dp->active_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];

		if (!ctx->dead)
			store_relaxed32(&ctx->area->words.engine_asleep, dp->sleeps | FLEXTOE_ENGINE_DEEP);
	}
	full_fence(); /* an application that missed the word has left its mark */
	return !host_work(dp);
}

void datapath_cpu_set(struct datapath *dp, int cpu)
{
	uint32_t word = cpu < 0 ? 0 : (uint32_t)cpu + 1u;

	if (word == dp->cpu)
		return;
	dp->cpu = word;
	for (uint32_t i = 0; i < dp->active_count; i++)
		if (!dp->contexts[dp->active[i]].dead)
			store_relaxed32(&dp->contexts[dp->active[i]].area->words.engine_cpu, word);
}

void datapath_sleep_end(struct datapath *dp)
{
	for (uint32_t i = 0; i < dp->active_count; i++) {
		struct context *ctx = &dp->contexts[dp->active[i]];

		if (!ctx->dead)
			store_relaxed32(&ctx->area->words.engine_asleep, 0);
	}
}
