/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Connections that are being opened: SYN-SENT and SYN-RECEIVED of RFC 9293 3.10.7.3 and 3.10.7.4, passive,
 * active and simultaneous. Retransmits SYN and SYN-ACK with backoff (RFC 6298 5.5, first after one second),
 * negotiates MSS, window scale, timestamps and SACK, and gives what has become a connection to conns.c.
 * Called for frames, timers, answers of next hops and requests of applications, on the control plane's
 * thread. Holds no payload: what a peer sends before its connection is installed is run through the data path
 * again.
 *
 * Handshakes in progress count into their listener's backlog. When they have filled it and stay (a SYN
 * flood), further SYNs are answered with a cookie and keep nothing here; when they came in a burst just now,
 * or connections that nobody accepts have filled it, the SYN is dropped. So no handshake has to make place
 * for another.
 *
 * A passive one that is complete while no member of its listener has asked for a connection is parked: to its
 * peer it is established. The first frames the peer sends are kept, in order and without acknowledging them,
 * and run through the data path when the connection is handed over; the peer sends again what was not kept.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/state.h"

#define RTO_FIRST_US   1000000u /* RFC 6298 2.1 */
#define SYN_RETRIES    6u	/* gives up after 1 + 2 + ... + 64 = 127 s */
#define SYNACK_RETRIES 5u	/* after 63 s */

#define PARKED_FRAMES_BYTES 65536u	/* of one handshake */
#define PARKED_BYTES_MAX    (64u << 20) /* of all */

int handshakes_init(struct control *ctl)
{
	ctl->handshake_free = INDEX_NONE;
	ctl->handshakes = array_reserve(HANDSHAKES_MAX, sizeof(*ctl->handshakes));
	return ctl->handshakes ? 0 : -ENOMEM;
}

static void frames_free(struct control *ctl, struct handshake *hs);

void handshakes_free(struct control *ctl)
{
	for (uint32_t i = 0; ctl->handshakes && i < ctl->handshakes_high; i++)
		frames_free(ctl, &ctl->handshakes[i]);
	array_release(ctl->handshakes, HANDSHAKES_MAX, sizeof(*ctl->handshakes));
}

static struct handshake *handshake_alloc(struct control *ctl, uint32_t *index)
{
	struct handshake *hs;

	if (ctl->handshake_free != INDEX_NONE) {
		*index = ctl->handshake_free;
		ctl->handshake_free = ctl->handshakes[*index].next;
	} else if (ctl->handshakes_high < HANDSHAKES_MAX) {
		*index = ctl->handshakes_high++;
	} else {
		return NULL;
	}
	ctl->handshakes_used++;
	hs = &ctl->handshakes[*index];
	memset(hs, 0, sizeof(*hs));
	hs->next = hs->prev = hs->waiting_next = hs->waiting_prev = INDEX_NONE;
	hs->endpoint = hs->member = INDEX_NONE;
	return hs;
}

/* Head of the list it is in: its listener's (oldest first) or its application's. */
static uint32_t *list_head(struct control *ctl, const struct handshake *hs)
{
	if (hs->active)
		return &ctl->apps[hs->app].handshake_head;
	return hs->parked ? &ctl->endpoints[hs->endpoint].parked_head
			  : &ctl->endpoints[hs->endpoint].handshake_head;
}

/* Its end, of a listener's. */
static uint32_t *list_tail(struct control *ctl, const struct handshake *hs)
{
	return hs->parked ? &ctl->endpoints[hs->endpoint].parked_tail
			  : &ctl->endpoints[hs->endpoint].handshake_tail;
}

static void list_add(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];
	uint32_t *head = list_head(ctl, hs);

	if (hs->active) {
		hs->next = *head;
		if (*head != INDEX_NONE)
			ctl->handshakes[*head].prev = index;
		*head = index;
		ctl->apps[hs->app].handshake_count++;
		return;
	}
	uint32_t *tail = list_tail(ctl, hs);

	hs->next = INDEX_NONE;
	hs->prev = *tail;
	if (hs->prev != INDEX_NONE)
		ctl->handshakes[hs->prev].next = index;
	else
		*head = index;
	*tail = index;
	ctl->half_open++;
	if (hs->parked)
		ctl->endpoints[hs->endpoint].parked++;
	else
		ctl->endpoints[hs->endpoint].half_open++;
}

static void list_del(struct control *ctl, struct handshake *hs)
{
	if (hs->prev != INDEX_NONE)
		ctl->handshakes[hs->prev].next = hs->next;
	else
		*list_head(ctl, hs) = hs->next;
	if (hs->next != INDEX_NONE)
		ctl->handshakes[hs->next].prev = hs->prev;
	else if (!hs->active)
		*list_tail(ctl, hs) = hs->prev;
	if (hs->active) {
		ctl->apps[hs->app].handshake_count--;
		return;
	}
	ctl->half_open--;
	if (hs->parked)
		ctl->endpoints[hs->endpoint].parked--;
	else
		ctl->endpoints[hs->endpoint].half_open--;
}

static void frames_free(struct control *ctl, struct handshake *hs)
{
	while (hs->frames) {
		struct parked_frame *frame = hs->frames;

		hs->frames = frame->next;
		free(frame);
	}
	ctl->parked_bytes -= hs->frames_bytes;
	hs->frames_bytes = 0;
}

/* Takes it out of everything. An active one's port is still counted: its connection inherits it, or the
   caller releases it. */
static void handshake_free(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];

	timer_stop(ctl, &hs->timer);
	if (hs->waiting)
		neighbour_forget(ctl, index);
	flows_del(ctl, FLOW_REF(FLOW_HANDSHAKE, index));
	list_del(ctl, hs);
	frames_free(ctl, hs);
	hs->state = HANDSHAKE_FREE;
	hs->next = ctl->handshake_free;
	ctl->handshake_free = index;
	ctl->handshakes_used--;
}

/* Its connection is installed and takes the tuple, and the port if it is active, over. */
void handshake_take(struct control *ctl, uint32_t index)
{
	handshake_free(ctl, index);
}

void handshake_drop(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];
	bool active = hs->active;
	be16 port = hs->flow.key.local_port;

	handshake_free(ctl, index);
	if (active)
		port_release(ctl, port);
}

/* Ends it; an active one's application hears why. */
static void handshake_fail(struct control *ctl, uint32_t index, int error)
{
	struct handshake *hs = &ctl->handshakes[index];

	if (hs->active) {
		COUNT(ctl, active_open_failures);
		notify_result(ctl, hs->context, FLEXTOE_HC_CONNECT, hs->cookie, 0, hs->flow.key.local_addr,
			hs->flow.key.local_port, error);
	}
	handshake_drop(ctl, index);
}

static uint32_t receive_window(const struct handshake *hs)
{
	return min_u32(65535u, 1u << hs->rx_shift);
}

/* The smallest shift that lets 16 bits express the whole receive buffer (RFC 7323 2.3). */
static uint8_t window_shift(unsigned rx_shift)
{
	uint8_t shift = 0;

	while (shift < 14 && 65535u << shift < 1u << rx_shift)
		shift++;
	return shift;
}

/* What we ask the peer to keep to: the link's MTU (RFC 6691), or less if the application wants. */
static uint16_t receive_mss(const struct control *ctl, const struct handshake *hs)
{
	uint32_t mss = min_u32(datapath_port(ctl->dp, hs->port)->mtu - 40u, 65495u);

	return (uint16_t)(hs->options.maxseg ? min_u32(mss, hs->options.maxseg) : mss);
}

/* SYN in SYN-SENT, SYN-ACK in SYN-RECEIVED; there it offers only what the peer offered. */
static void syn_send(struct control *ctl, const struct handshake *hs, uint32_t tsval)
{
	bool first = hs->state == HANDSHAKE_SYN_SENT;
	/* RFC 3168 6.1.1; not on a repeated SYN (6.1.1.1: something on the way may not like it) */
	uint8_t ecn = first	? (hs->ecn_asked && !hs->retries ? TCP_ECE_ | TCP_CWR_ : 0)
		      : hs->ecn ? TCP_ECE_
				: 0;
	struct segment_out out = {
		.port = hs->port,
		.dst_mac = hs->mac,
		.key = hs->flow.key,
		.seq = hs->iss,
		.ctl = (uint8_t)((first ? TCP_SYN_ : TCP_SYN_ | TCP_ACK_) | ecn),
		.ack = hs->irs + 1u,
		.wnd = (uint16_t)receive_window(hs),
		.tos = hs->options.tos,
		.ttl = hs->options.ttl,
		.mss = receive_mss(ctl, hs),
		.timestamps = first || hs->peer_timestamps,
		.tsval = tsval,
		.tsecr = first ? 0 : hs->ts_recent,
		.sack_permitted = first || hs->peer_sack,
		.has_wscale = first || hs->peer_wscale,
		.wscale = hs->rcv_wscale,
	};

	segment_send(ctl, &out);
}

static void handshake_send_syn(struct control *ctl, const struct handshake *hs)
{
	syn_send(ctl, hs, timestamp_now(ctl));
}

static void handshake_arm(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];
	uint64_t due = ctl->now_us + ((uint64_t)RTO_FIRST_US << (hs->retries < 6 ? hs->retries : 6));
	uint64_t end = hs->started_us + hs->options.user_timeout_ms * 1000ull;

	if (hs->active && hs->options.user_timeout_ms && end < due)
		due = end > ctl->now_us ? end : ctl->now_us;
	timer_set(ctl, &hs->timer, TIMER_HANDSHAKE, index, due);
}

/* <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>: for what is not acceptable in SYN-RECEIVED; rate-limited (RFC 5961
 * 10). */
static void handshake_send_ack(struct control *ctl, struct handshake *hs)
{
	struct segment_out out = {
		.port = hs->port,
		.dst_mac = hs->mac,
		.key = hs->flow.key,
		.seq = hs->iss + 1u,
		.ack = hs->irs + 1u,
		.ctl = TCP_ACK_,
		.tos = hs->options.tos,
		.ttl = hs->options.ttl,
		.wnd = (uint16_t)(receive_window(hs) >> (hs->peer_wscale ? hs->rcv_wscale : 0)),
		.timestamps = hs->peer_timestamps,
		.tsval = timestamp_now(ctl),
		.tsecr = hs->ts_recent,
	};

	if (rate_take(&ctl->ack_limit, ctl->now_us))
		segment_send(ctl, &out);
}

/* What the peer's SYN says of itself. The window of a SYN is never scaled (RFC 7323 2.2). */
static void handshake_take_syn(struct handshake *hs, const struct segment *seg)
{
	const struct tcp_options *o = &seg->options;

	hs->irs = seg->seq;
	hs->snd_wnd = seg->wnd;
	hs->peer_mss = o->mss ? o->mss : 536; /* RFC 9293 3.7.1 */
	if (hs->peer_mss < 64)
		hs->peer_mss = 64; /* smaller ones only serve to wear us out */
	hs->peer_timestamps = o->has_timestamps;
	hs->peer_sack = o->sack_permitted;
	hs->peer_wscale = o->has_wscale;
	hs->snd_wscale = o->has_wscale ? o->wscale : 0;
	hs->ts_recent = o->has_timestamps ? o->tsval : 0;
	memcpy(hs->mac, seg->src_mac, 6);
}

static bool handshake_complete(
	struct control *ctl, uint32_t index, const struct segment *seg, uint32_t snd_wnd, bool ack_now);

/* Answers a SYN without keeping it: cookie.c. RFC 6191: the old connection's numbers are told from the new
 * one's by timestamps then, or not at all. */
static void cookie_reply(
	struct control *ctl, struct endpoint *ep, const struct segment *seg, const struct time_wait *old)
{
	const struct tcp_options *o = &seg->options;
	struct handshake hs = {.state = HANDSHAKE_SYN_RECEIVED,
		.flow.key = seg->key,
		.port = (uint8_t)seg->port,
		.rx_shift = ep->rx_shift,
		.options = ep->options};

	if (old && !(old->timestamps && o->has_timestamps)) {
		COUNT(ctl, drop_syn_backlog);
		return;
	}
	handshake_take_syn(&hs, seg);
	hs.peer_wscale &= hs.peer_timestamps;
	hs.peer_sack &= hs.peer_timestamps;
	hs.rcv_wscale = hs.peer_wscale ? window_shift(hs.rx_shift) : 0;
	hs.iss = cookie_make(ctl, &seg->key, seg->seq, hs.peer_mss);
	ep->cookies_us = ctl->now_us + 2u * COOKIE_PERIOD_US;
	COUNT(ctl, syn_cookies_sent);
	syn_send(ctl, &hs, cookie_timestamp(ctl, o));
}

/* What an ACK to a listener brings back. One that has made a connection is used up: a late duplicate of that
 * connection's first segment must not make another. As many are remembered as there is room for. */
static enum cookie cookie_judge(
	const struct control *ctl, const struct endpoint *ep, const struct segment *seg, uint16_t *mss)
{
	uint32_t iss = seg->ack - 1u;

	if (ctl->now_us >= ep->cookies_us || ctl->cookies_used[iss % COOKIES_USED] == iss)
		return COOKIE_BAD;
	return cookie_check(ctl, &seg->key, seg->seq - 1u, iss, mss);
}

/*
 * Whether the handshakes that fill the backlog are there to stay: the oldest has had its SYN-ACK repeated. A
 * burst of clients ends by itself, and its SYN that is dropped comes again in a second; a cookie would let a
 * client believe in a connection for which there may be no place, and which hears nothing if the server
 * speaks first.
 */
static bool flooded(const struct control *ctl, const struct endpoint *ep)
{
	return ctl->half_open >= HALF_OPEN_MAX ||
	       (ep->half_open && ctl->handshakes[ep->handshake_head].retries);
}

/*
 * An ACK that nothing here asked for, to a listener that has given cookies out: whether it is settled,
 * because it brings one back. Then the handshake it belongs to is made, as it would have been kept, and
 * completed.
 */
static bool cookie_taken(struct control *ctl, struct endpoint *ep, const struct segment *seg)
{
	const struct tcp_options *o = &seg->options;
	struct segment syn = *seg; /* as it must have been */
	struct handshake *hs;
	uint32_t index;

	if ((seg->ctl & (TCP_SYN_ | TCP_ACK_)) != TCP_ACK_)
		return false;
	syn.seq = seg->seq - 1u;
	syn.options = (struct tcp_options){.has_timestamps = o->has_timestamps, .tsval = o->tsval};
	if (o->has_timestamps)
		cookie_options(o->tsecr, &syn.options);
	switch (cookie_judge(ctl, ep, seg, &syn.options.mss)) {
	case COOKIE_BAD:
		return false;
	case COOKIE_EARLY:
		COUNT(ctl, drop_handshake);
		return true; /* the first one will be sent again */
	case COOKIE_GOOD:
		break;
	}
	hs = handshake_alloc(ctl, &index);
	if (!hs) {
		COUNT(ctl, drop_syn_resources);
		return true;
	}
	hs->state = HANDSHAKE_SYN_RECEIVED;
	hs->flow.key = seg->key;
	hs->endpoint = listener_index(ctl, ep);
	hs->port = (uint8_t)seg->port;
	hs->rx_shift = ep->rx_shift;
	hs->tx_shift = ep->tx_shift;
	hs->options = ep->options;
	handshake_take_syn(hs, &syn);
	hs->rcv_wscale = hs->peer_wscale ? window_shift(hs->rx_shift) : 0;
	hs->iss = seg->ack - 1u;
	hs->retries = 1; /* there was no clock to measure with */
	flows_add(ctl, FLOW_REF(FLOW_HANDSHAKE, index));
	list_add(ctl, index);
	if (handshake_complete(ctl, index, seg, (uint32_t)seg->wnd << hs->snd_wscale, false)) {
		COUNT(ctl, syn_cookies_good);
		ctl->cookies_used[(seg->ack - 1u) % COOKIES_USED] = seg->ack - 1u;
	} else {
		handshake_drop(ctl, index); /* no place for it: the peer's next segment asks again */
	}
	return true;
}

/* The same for the ACK of a cookie that meets a handshake, which a second SYN has begun meanwhile. */
static bool cookie_answered(struct control *ctl, uint32_t index, const struct segment *seg)
{
	struct endpoint *ep = &ctl->endpoints[ctl->handshakes[index].endpoint];
	uint16_t mss;

	if (cookie_judge(ctl, ep, seg, &mss) == COOKIE_GOOD)
		handshake_drop(ctl, index);
	return cookie_taken(ctl, ep, seg);
}

/* RFC 9293 3.10.7.2, state LISTEN. old: the TIME-WAIT entry that this SYN replaces, or NULL. */
void handshake_listen(struct control *ctl, const struct segment *seg, const struct time_wait *old)
{
	struct endpoint *ep = listener_find(ctl, &seg->key);
	struct handshake *hs;
	uint32_t index, old_nxt = old ? old->snd_nxt : 0;

	if (seg->ctl & TCP_RST_) { /* first: RST is ignored */
		COUNT(ctl, drop_no_connection);
		return;
	}
	if (seg->ctl & TCP_ACK_ || !ep) { /* second: ACK is answered with RST, but for a cookie */
		if (ep && cookie_taken(ctl, ep, seg))
			return;
		if (seg->ctl & TCP_SYN_ && !(seg->ctl & TCP_ACK_))
			COUNT(ctl, drop_syn_no_listener);
		else
			COUNT(ctl, drop_no_connection);
		segment_reset_reply(ctl, seg);
		return;
	}
	if ((seg->ctl & (TCP_SYN_ | TCP_FIN_)) !=
		TCP_SYN_) { /* third: SYN; fourth: anything else is dropped */
		COUNT(ctl, drop_tcp_flags);
		return;
	}
	COUNT(ctl, syn_received);
	if (ep->queued + ep->parked >= ep->backlog) {
		COUNT(ctl, drop_syn_backlog);
		return;
	}
	hs = NULL;
	if (ep->half_open + ep->parked + ep->queued < ep->backlog && ctl->half_open < HALF_OPEN_MAX)
		hs = handshake_alloc(ctl, &index);
	if (!hs) {
		if (flooded(ctl, ep))
			cookie_reply(ctl, ep, seg, old);
		else
			COUNT(ctl, drop_syn_backlog);
		return;
	}
	hs->state = HANDSHAKE_SYN_RECEIVED;
	hs->flow.key = seg->key;
	hs->endpoint = listener_index(ctl, ep);
	hs->port = (uint8_t)seg->port;
	hs->rx_shift = ep->rx_shift;
	hs->tx_shift = ep->tx_shift;
	hs->options = ep->options;
	handshake_take_syn(hs, seg);
	hs->ecn = ctl->config.ecn != CONTROL_ECN_OFF && (seg->ctl & TCP_ECE_) && (seg->ctl & TCP_CWR_);
	hs->rcv_wscale = hs->peer_wscale ? window_shift(hs->rx_shift) : 0;
	hs->iss = segment_iss(ctl, &seg->key);
	if (old &&
		seq_leq(hs->iss, old_nxt + 65535u)) /* RFC 9293 3.4.3: beyond what the old connection used */
		hs->iss = old_nxt + 65536u + (hs->iss & 0xffffu);
	hs->sent_us = hs->started_us = ctl->now_us;
	flows_add(ctl, FLOW_REF(FLOW_HANDSHAKE, index));
	list_add(ctl, index);
	handshake_send_syn(ctl, hs);
	handshake_arm(ctl, index);
}

/* ---- parked ---- */

/* Keeps what the next bytes of the stream are in, as far as there is room. */
static void frame_keep(struct control *ctl, struct handshake *hs, const struct segment *seg)
{
	uint32_t size = (uint32_t)sizeof(struct parked_frame) + seg->frame_len;
	struct parked_frame *frame, **link = &hs->frames;

	if ((!seg->payload_len && !(seg->ctl & TCP_FIN_)) || seg->seq != hs->frames_end)
		return;
	if (hs->frames_bytes + size > PARKED_FRAMES_BYTES + sizeof(*frame) ||
		ctl->parked_bytes + size > PARKED_BYTES_MAX || !(frame = malloc(size))) {
		COUNT(ctl, drop_parked);
		return;
	}
	frame->next = NULL;
	frame->port = (uint16_t)seg->port;
	frame->flags = seg->frame_flags;
	frame->len = seg->frame_len;
	memcpy(frame->bytes, seg->frame, seg->frame_len);
	while (*link)
		link = &(*link)->next;
	*link = frame;
	hs->frames_bytes += size;
	ctl->parked_bytes += size;
	hs->frames_end = seg->seq + segment_len(seg);
}

static void handshake_park(struct control *ctl, uint32_t index, const struct segment *seg)
{
	struct handshake *hs = &ctl->handshakes[index];

	timer_stop(ctl, &hs->timer);
	list_del(ctl, hs);
	hs->parked = true;
	list_add(ctl, index);
	hs->frames_end = hs->irs + 1u;
	frame_keep(ctl, hs, seg);
	COUNT(ctl, passive_opens_parked);
}

int handshake_hand_over(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];
	struct parked_frame *frames = hs->frames;
	uint32_t bytes = hs->frames_bytes;
	int r;

	hs->frames = NULL; /* conn_open() ends the handshake */
	hs->frames_bytes = 0;
	r = conn_open(ctl, hs, hs->snd_wnd, false);
	if (r < 0) {
		hs->frames = frames;
		hs->frames_bytes = bytes;
		return r;
	}
	ctl->parked_bytes -= bytes;
	while (frames) {
		struct parked_frame *frame = frames;

		control_frame(ctl, CTL_INJECT, frame->port, frame->flags, frame->bytes, frame->len);
		frames = frame->next;
		free(frame);
	}
	return 0;
}

void handshake_refuse(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];
	struct segment_out out = {
		.port = hs->port,
		.dst_mac = hs->mac,
		.key = hs->flow.key,
		.seq = hs->iss + 1u,
		.ack = hs->irs + 1u,
		.ctl = TCP_RST_ | TCP_ACK_,
	};

	segment_send(ctl, &out);
	handshake_drop(ctl, index);
}

/* ---- segments ---- */

/* The handshake is complete. seg is run through the data path again when it carries more than the ACK. False:
 * there is no place for a connection; a passive handshake stays. */
static bool handshake_complete(
	struct control *ctl, uint32_t index, const struct segment *seg, uint32_t snd_wnd, bool ack_now)
{
	struct handshake *hs = &ctl->handshakes[index];
	int r;

	/* Karn: a retransmitted handshake measures nothing. */
	hs->rtt_us = hs->retries ? 0 : (uint32_t)(ctl->now_us - hs->sent_us) + 1u;
	hs->snd_wnd = snd_wnd;
	if (!hs->active) {
		const struct endpoint *ep = &ctl->endpoints[hs->endpoint];

		if (ep->queued + ep->parked >=
			ep->backlog) { /* it was made smaller meanwhile: the peer will try again */
			COUNT(ctl, drop_syn_backlog);
			return false;
		}
		hs->member = ep->parked ? INDEX_NONE : member_choose(ctl, hs->endpoint);
		if (hs->member == INDEX_NONE) {
			handshake_park(ctl, index, seg);
			return true;
		}
	}
	r = conn_open(ctl, hs, snd_wnd, ack_now);
	if (r < 0) {
		COUNT(ctl, drop_syn_resources);
		if (hs->active) {
			segment_reset_reply(ctl, seg);
			handshake_fail(ctl, index, -r);
		}
		return false;
	}
	if (seg->payload_len || seg->ctl & TCP_FIN_)
		control_frame(ctl, CTL_INJECT, seg->port, seg->frame_flags, seg->frame, seg->frame_len);
	return true;
}

static bool acceptable_sequence(const struct handshake *hs, const struct segment *seg)
{
	uint32_t rcv_nxt = hs->irs + 1u, wnd = receive_window(hs), len = segment_len(seg);

	if (!len)
		return seq_geq(seg->seq, rcv_nxt) && seq_lt(seg->seq, rcv_nxt + wnd);
	return seq_lt(seg->seq, rcv_nxt + wnd) && seq_gt(seg->seq + len, rcv_nxt);
}

static uint64_t defer_end_us(const struct handshake *hs)
{
	return hs->started_us + hs->options.defer_accept_s * 1000000ull;
}

/* RFC 9293 3.10.7.4 for SYN-RECEIVED, in its order. */
static void syn_received_segment(struct control *ctl, uint32_t index, const struct segment *seg)
{
	struct handshake *hs = &ctl->handshakes[index];
	const struct tcp_options *o = &seg->options;
	bool crossing = hs->active && (seg->ctl & (TCP_SYN_ | TCP_ACK_)) == (TCP_SYN_ | TCP_ACK_) &&
			seg->seq == hs->irs;

	/* The peer's SYN again: our SYN-ACK was lost. Not its own retransmission timer's business. */
	if ((seg->ctl & (TCP_SYN_ | TCP_ACK_ | TCP_RST_)) == TCP_SYN_ && seg->seq == hs->irs) {
		if (rate_take(&ctl->ack_limit, ctl->now_us))
			handshake_send_syn(ctl, hs);
		return;
	}
	/* First: sequence number. The SYN-ACK of a simultaneous open repeats the SYN and is taken for its ACK
	   (RFC 9293 figure 8); PAWS as RFC 7323 5.3 R1. */
	if (!crossing) {
		bool old = hs->peer_timestamps && o->has_timestamps && seq_lt(o->tsval, hs->ts_recent);

		if (!acceptable_sequence(hs, seg) || (old && !(seg->ctl & TCP_RST_))) {
			COUNT(ctl, drop_handshake);
			if (!(seg->ctl & TCP_RST_))
				handshake_send_ack(ctl, hs);
			return;
		}
	}
	/* Second: RST; as RFC 5961 3.2 only the exact number counts. */
	if (seg->ctl & TCP_RST_) {
		if (seg->seq != hs->irs + 1u) {
			COUNT(ctl, drop_handshake);
			handshake_send_ack(ctl, hs);
			return;
		}
		handshake_fail(ctl, index, ECONNREFUSED);
		return;
	}
	/* Fourth: SYN inside the window; RFC 5961 4.2 answers with an ACK. */
	if (seg->ctl & TCP_SYN_ && !crossing) {
		COUNT(ctl, drop_handshake);
		handshake_send_ack(ctl, hs);
		return;
	}
	/* Fifth: ACK. We have sent nothing but the SYN, so one number is acceptable. */
	if (!(seg->ctl & TCP_ACK_)) {
		COUNT(ctl, drop_tcp_flags);
		return;
	}
	if (seg->ack != hs->iss + 1u) {
		/* The SYN may have come twice, and found the backlog full the first time. */
		if (!hs->active && cookie_answered(ctl, index, seg))
			return;
		COUNT(ctl, drop_handshake);
		segment_reset_reply(ctl, seg);
		return;
	}
	if (hs->peer_timestamps && o->has_timestamps && seq_leq(seg->seq, hs->irs + 1u))
		hs->ts_recent = o->tsval;
	/* TCP_DEFER_ACCEPT: accept() is to return a connection with data; an ACK alone is left unheard, as
	   Linux does, and asked for again when the time is over. */
	if (!hs->active && !seg->payload_len && !(seg->ctl & TCP_FIN_) && ctl->now_us < defer_end_us(hs)) {
		hs->acked = true;
		return;
	}
	handshake_complete(ctl, index, seg, (uint32_t)seg->wnd << (crossing ? 0 : hs->snd_wscale), crossing);
}

/* ESTABLISHED in the peer's eyes. What is kept is not acknowledged, so RCV.NXT is still the first byte. */
static void parked_segment(struct control *ctl, uint32_t index, const struct segment *seg)
{
	struct handshake *hs = &ctl->handshakes[index];

	if (seg->ctl & TCP_RST_ && (seg->seq == hs->irs + 1u || seg->seq == hs->frames_end)) {
		handshake_drop(ctl, index);
		return;
	}
	if (seg->ctl & (TCP_RST_ | TCP_SYN_) || !acceptable_sequence(hs, seg)) {
		COUNT(ctl, drop_handshake);
		handshake_send_ack(ctl, hs); /* RFC 5961 3.2, 4.2 */
		return;
	}
	if (!(seg->ctl & TCP_ACK_) || seg->ack != hs->iss + 1u) {
		COUNT(ctl, drop_handshake);
		return;
	}
	hs->snd_wnd = (uint32_t)seg->wnd << hs->snd_wscale;
	frame_keep(ctl, hs, seg);
}

/* RFC 9293 3.10.7.3, state SYN-SENT, in its order. */
static void syn_sent_segment(struct control *ctl, uint32_t index, const struct segment *seg)
{
	struct handshake *hs = &ctl->handshakes[index];
	bool ack_good = seg->ctl & TCP_ACK_ && seg->ack == hs->iss + 1u;

	/* First: ACK. */
	if (seg->ctl & TCP_ACK_ && !ack_good) {
		COUNT(ctl, drop_handshake);
		segment_reset_reply(ctl, seg);
		return;
	}
	/* Second: RST counts only with a good ACK. */
	if (seg->ctl & TCP_RST_) {
		if (ack_good)
			handshake_fail(ctl, index, ECONNREFUSED);
		else
			COUNT(ctl, drop_handshake);
		return;
	}
	/* Fourth: SYN. Fifth: neither is dropped. */
	if ((seg->ctl & (TCP_SYN_ | TCP_FIN_)) != TCP_SYN_) {
		COUNT(ctl, drop_handshake);
		return;
	}
	if (hs->waiting) {
		neighbour_forget(ctl, index);
		hs->waiting = false;
	}
	handshake_take_syn(hs, seg);
	if (!hs->peer_wscale)
		hs->rcv_wscale = 0;
	hs->ecn = ack_good && hs->ecn_asked && (seg->ctl & (TCP_ECE_ | TCP_CWR_)) == TCP_ECE_;
	if (ack_good) {
		handshake_complete(ctl, index, seg, seg->wnd, true);
		return;
	}
	hs->state = HANDSHAKE_SYN_RECEIVED; /* both sides opened at once (RFC 9293 figure 7) */
	hs->retries = 0;
	hs->sent_us = ctl->now_us;
	handshake_send_syn(ctl, hs);
	handshake_arm(ctl, index);
}

void handshake_segment(struct control *ctl, uint32_t index, const struct segment *seg)
{
	if (ctl->handshakes[index].parked)
		parked_segment(ctl, index, seg);
	else if (ctl->handshakes[index].state == HANDSHAKE_SYN_SENT)
		syn_sent_segment(ctl, index, seg);
	else
		syn_received_segment(ctl, index, seg);
}

/* The tuple is free. 0, or a negative errno and nothing has happened. */
int handshake_connect(struct control *ctl, const struct flow_key *key, const struct route_result *route,
	uint16_t app, uint16_t context, const struct flextoe_hc_endpoint *hc,
	const struct socket_options *options, uint32_t iss_above, bool iss_bounded)
{
	uint32_t index;
	struct handshake *hs;
	int r;

	hs = ctl->apps[app].handshake_count < APP_SHARE_MAX ? handshake_alloc(ctl, &index) : NULL;
	if (!hs)
		return -ENOBUFS;
	hs->state = HANDSHAKE_SYN_SENT;
	hs->active = true;
	hs->flow.key = *key;
	hs->app = app;
	hs->context = context;
	hs->cookie = hc->cookie;
	hs->port = (uint8_t)route->port;
	hs->rx_shift = hc->rx_shift;
	hs->tx_shift = hc->tx_shift;
	hs->options = *options;
	hs->rcv_wscale = window_shift(hs->rx_shift);
	hs->ecn_asked = ctl->config.ecn == CONTROL_ECN_ON ||
			(ctl->config.ecn != CONTROL_ECN_OFF && congestion_accurate_ecn(ctl, options));
	hs->iss = segment_iss(ctl, key);
	if (iss_bounded && seq_leq(hs->iss, iss_above + 65535u))
		hs->iss = iss_above + 65536u + (hs->iss & 0xffffu);
	hs->sent_us = hs->started_us = ctl->now_us;
	ctl->port_uses[from_be16(key->local_port)]++;
	flows_add(ctl, FLOW_REF(FLOW_HANDSHAKE, index));
	list_add(ctl, index);
	if (route->loop) {
		memcpy(hs->mac, datapath_port(ctl->dp, route->port)->mac, 6);
		r = 0;
	} else {
		r = neighbour_resolve(ctl, route->port, route->next_hop, index, hs->mac);
	}
	if (r == -EINPROGRESS) {
		hs->waiting = true;
		return 0;
	}
	if (r < 0) {
		handshake_drop(ctl, index);
		return r;
	}
	handshake_send_syn(ctl, hs);
	handshake_arm(ctl, index);
	return 0;
}

void handshake_neighbour(struct control *ctl, uint32_t index, const uint8_t *mac)
{
	struct handshake *hs = &ctl->handshakes[index];

	hs->waiting = false;
	if (!mac) {
		COUNT(ctl, drop_neighbour);
		handshake_fail(ctl, index, EHOSTUNREACH);
		return;
	}
	memcpy(hs->mac, mac, 6);
	hs->sent_us = ctl->now_us;
	handshake_send_syn(ctl, hs);
	handshake_arm(ctl, index);
}

static uint32_t retries_max(const struct handshake *hs)
{
	if (!hs->active)
		return SYNACK_RETRIES;
	return hs->options.syn_retries ? hs->options.syn_retries : SYN_RETRIES;
}

/* RFC 5482 3: the user timeout bounds the attempt as well. */
static bool connect_is_late(const struct control *ctl, const struct handshake *hs)
{
	uint32_t ms = hs->options.user_timeout_ms;

	return hs->active && ms && ctl->now_us - hs->started_us >= ms * 1000ull;
}

void handshake_timer(struct control *ctl, uint32_t index)
{
	struct handshake *hs = &ctl->handshakes[index];

	if (hs->retries >= retries_max(hs) || connect_is_late(ctl, hs)) {
		COUNT(ctl, handshake_timeouts);
		handshake_fail(ctl, index, ETIMEDOUT);
		return;
	}
	if (hs->acked && ctl->now_us < defer_end_us(hs)) {
		timer_set(ctl, &hs->timer, TIMER_HANDSHAKE, index, defer_end_us(hs));
		return;
	}
	hs->retries++;
	handshake_send_syn(ctl, hs);
	handshake_arm(ctl, index);
}

/* An ICMP error that quotes a segment of ours. RFC 5927 4.1: only when it quotes the number in flight. */
void handshake_error(struct control *ctl, const struct flow_key *key, uint32_t seq, int error)
{
	uint32_t ref = flows_find(ctl, key);
	struct handshake *hs;

	if (ref == INDEX_NONE || FLOW_REF_KIND(ref) != FLOW_HANDSHAKE)
		return;
	hs = &ctl->handshakes[FLOW_REF_INDEX(ref)];
	if (hs->state == HANDSHAKE_SYN_SENT && hs->iss == seq)
		handshake_fail(ctl, FLOW_REF_INDEX(ref), error);
}
