/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TIME-WAIT (RFC 9293 3.6.1): what is left of a connection whose end we began, in 80 bytes instead of a place
 * in the data path. Answers what the peer repeats, lets a new connection have the tuple when its SYN is
 * surely newer (RFC 6191), and never ends for a RST (RFC 1337). All wait equally long, so the entries are a
 * queue: the oldest is the next to expire, and the one to go when the table is full. Control plane's thread.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"

int time_wait_init(struct control *ctl)
{
	ctl->time_wait_free = ctl->time_wait_head = ctl->time_wait_tail = INDEX_NONE;
	ctl->time_waits = array_reserve(ctl->time_wait_max, sizeof(*ctl->time_waits));
	return ctl->time_waits ? 0 : -ENOMEM;
}

void time_wait_free(struct control *ctl)
{
	array_release(ctl->time_waits, ctl->time_wait_max, sizeof(*ctl->time_waits));
}

static void queue_unlink(struct control *ctl, uint32_t index)
{
	struct time_wait *tw = &ctl->time_waits[index];

	if (tw->prev != INDEX_NONE)
		ctl->time_waits[tw->prev].next = tw->next;
	else
		ctl->time_wait_head = tw->next;
	if (tw->next != INDEX_NONE)
		ctl->time_waits[tw->next].prev = tw->prev;
	else
		ctl->time_wait_tail = tw->prev;
}

/* The whole wait begins. */
static void queue_append(struct control *ctl, uint32_t index)
{
	struct time_wait *tw = &ctl->time_waits[index];

	tw->due_us = ctl->now_us + ctl->config.time_wait_ms * 1000ull;
	tw->next = INDEX_NONE;
	tw->prev = ctl->time_wait_tail;
	if (tw->prev != INDEX_NONE)
		ctl->time_waits[tw->prev].next = index;
	else
		ctl->time_wait_head = index;
	ctl->time_wait_tail = index;
}

void time_wait_drop(struct control *ctl, uint32_t index)
{
	struct time_wait *tw = &ctl->time_waits[index];

	queue_unlink(ctl, index);
	flows_del(ctl, FLOW_REF(FLOW_TIME_WAIT, index));
	if (tw->active)
		port_release(ctl, tw->flow.key.local_port);
	tw->used = false;
	tw->next = ctl->time_wait_free;
	ctl->time_wait_free = index;
	ctl->time_wait_count--;
}

void time_wait_enter(struct control *ctl, const struct conn *conn, const struct flow_key *key, bool active)
{
	const struct tcp_state *tcp = &conn->tcp;
	uint32_t index, wnd = tcp->rcv_adv - tcp->rcv_nxt;
	struct time_wait *tw;

	if (ctl->time_wait_count >= ctl->time_wait_max)
		time_wait_drop(ctl, ctl->time_wait_head);
	if (ctl->time_wait_free != INDEX_NONE) {
		index = ctl->time_wait_free;
		ctl->time_wait_free = ctl->time_waits[index].next;
	} else {
		index = ctl->time_wait_high++;
	}
	tw = &ctl->time_waits[index];
	if (seq_lt(tcp->rcv_adv, tcp->rcv_nxt))
		wnd = 0;
	*tw = (struct time_wait){
		.flow.key = *key,
		.entered_us = ctl->now_us,
		.snd_nxt = tcp->snd_max,
		.rcv_nxt = tcp->rcv_nxt,
		.ts_recent = tcp->ts_recent,
		.wnd = (uint16_t)min_u32(wnd >> (tcp->rcv_wscale & 15u), 65535u),
		.port = conn->id.port,
		.timestamps = tcp->flags & TCPF_TIMESTAMPS,
		.active = active,
		.used = true,
	};
	memcpy(tw->mac, conn->id.remote_mac, 6);
	queue_append(ctl, index);
	flows_add(ctl, FLOW_REF(FLOW_TIME_WAIT, index));
	ctl->time_wait_count++;
	COUNT(ctl, time_wait_entered);
}

static void time_wait_ack(struct control *ctl, const struct time_wait *tw)
{
	struct segment_out out = {
		.port = tw->port,
		.dst_mac = tw->mac,
		.key = tw->flow.key,
		.seq = tw->snd_nxt,
		.ack = tw->rcv_nxt,
		.ctl = TCP_ACK_,
		.wnd = tw->wnd,
		.timestamps = tw->timestamps,
		.tsval = timestamp_now(ctl),
		.tsecr = tw->ts_recent,
	};

	if (rate_take(&ctl->ack_limit, ctl->now_us))
		segment_send(ctl, &out);
}

/* RFC 6191 2 and RFC 9293 3.10.7.4 (TIME-WAIT, fourth): is this SYN beyond everything the old connection
 * sent? */
static bool syn_is_newer(const struct time_wait *tw, const struct segment *seg)
{
	if (tw->timestamps && seg->options.has_timestamps) {
		if (seg->options.tsval != tw->ts_recent)
			return seq_gt(seg->options.tsval, tw->ts_recent);
	}
	return seq_gt(seg->seq, tw->rcv_nxt);
}

void time_wait_segment(struct control *ctl, uint32_t index, const struct segment *seg)
{
	struct time_wait *tw = &ctl->time_waits[index];
	bool stale =
		tw->timestamps && seg->options.has_timestamps && seq_lt(seg->options.tsval, tw->ts_recent);

	/* Not RFC 9293 3.10.7.4, second: RFC 1337 ignores a RST here, it may be an old one. */
	if (seg->ctl & TCP_RST_) {
		COUNT(ctl, drop_time_wait);
		return;
	}
	if ((seg->ctl & (TCP_SYN_ | TCP_ACK_ | TCP_FIN_)) == TCP_SYN_ && syn_is_newer(tw, seg)) {
		struct time_wait old = *tw;

		COUNT(ctl, time_wait_reused);
		time_wait_drop(ctl, index);
		handshake_listen(ctl, seg, &old);
		return;
	}
	/* A bare ACK where it is expected ends here: two such ends must not answer each other for ever. */
	if (!segment_len(seg) && seg->seq == tw->rcv_nxt) {
		COUNT(ctl, drop_time_wait);
		return;
	}
	if (seg->ctl & TCP_FIN_ && !stale) { /* eighth: the peer's FIN again: the wait begins anew */
		queue_unlink(ctl, index);
		queue_append(ctl, index);
	}
	time_wait_ack(ctl, tw);
}

void time_wait_step(struct control *ctl)
{
	while (ctl->time_wait_head != INDEX_NONE &&
		ctl->time_waits[ctl->time_wait_head].due_us <= ctl->now_us)
		time_wait_drop(ctl, ctl->time_wait_head);
}
