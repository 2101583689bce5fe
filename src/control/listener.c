/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Local addresses and ports: what applications have bound, who listens where, and which port a connection
 * without a bound one gets (RFC 6056 3.3.3: a secret offset for each destination and a counter). Answers
 * BIND, LISTEN, JOIN, CONNECT and UNBIND; their descriptors come from applications, so every field is checked
 * here.
 *
 * An endpoint has an owner until that gives it up. A listener outlives its owner while others accept from it
 * (member.c) or hold it: a descriptor of it may be with a process that has not said anything yet.
 *
 * Names of endpoints hold a generation, so that one that was given up does not name its successor. An
 * endpoint given up while connections wait in its queue lingers for a moment: accept() may have returned some
 * of them a moment before, with the word of it still on its way over another context.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"

#define ENDPOINT_LINGER_US  2000u
#define PORTS_OUT_US	    10000u
#define ENDPOINT_INDEX_BITS 17u /* of its name; above them the generation */

int endpoints_init(struct control *ctl)
{
	ctl->endpoint_free = ctl->endpoints_closing = INDEX_NONE;
	ctl->endpoints = array_reserve(ENDPOINTS_MAX, sizeof(*ctl->endpoints));
	ctl->port_endpoints = array_reserve(65536, sizeof(uint32_t));
	ctl->port_uses = array_reserve(65536, sizeof(uint32_t));
	return ctl->endpoints && ctl->port_endpoints && ctl->port_uses ? 0 : -ENOMEM;
}

void endpoints_free(struct control *ctl)
{
	array_release(ctl->endpoints, ENDPOINTS_MAX, sizeof(*ctl->endpoints));
	array_release(ctl->port_endpoints, 65536, sizeof(uint32_t));
	array_release(ctl->port_uses, 65536, sizeof(uint32_t));
}

void notify_result(struct control *ctl, uint16_t context, uint8_t request, uint32_t cookie, uint32_t endpoint,
	be32 addr, be16 port, int error)
{
	struct ctl_notify record = {.type = CTL_NOTIFY, .context = context};

	record.ntf.result = (struct flextoe_ntf_result){
		.cookie = cookie,
		.endpoint = endpoint,
		.local_addr = addr,
		.local_port = port,
		.error = (uint16_t)error,
		.request = request,
		.type = FLEXTOE_NTF_RESULT,
	};
	datapath_ctl(ctl->dp, &record, sizeof(record));
}

/* The same for a listener: where it is, and what lets others join. */
static void listener_result(struct control *ctl, uint16_t context, const struct flextoe_hc_endpoint *hc,
	const struct endpoint *ep)
{
	struct ctl_notify record = {.type = CTL_NOTIFY, .context = context};

	record.ntf.result = (struct flextoe_ntf_result){
		.cookie = hc->cookie,
		.endpoint = hc->endpoint,
		.local_addr = ep->addr,
		.local_port = ep->port,
		.token = {ep->token[0], ep->token[1]},
		.request = hc->type,
		.type = FLEXTOE_NTF_RESULT,
	};
	datapath_ctl(ctl->dp, &record, sizeof(record));
}

void port_release(struct control *ctl, be16 port)
{
	uint32_t *uses = &ctl->port_uses[from_be16(port)];

	if (*uses)
		(*uses)--;
	ctl->ports_out_us = 0;
}

static uint32_t endpoint_name(const struct control *ctl, uint32_t index)
{
	return ctl->endpoints[index].generation << ENDPOINT_INDEX_BITS | (index + 1u);
}

/* The endpoint of this name, or NULL. */
static struct endpoint *endpoint_any(struct control *ctl, uint32_t name)
{
	uint32_t index = (name & ((1u << ENDPOINT_INDEX_BITS) - 1u)) - 1u;
	struct endpoint *ep;

	if (index >= ctl->endpoints_high)
		return NULL;
	ep = &ctl->endpoints[index];
	if ((ep->state != ENDPOINT_BOUND && ep->state != ENDPOINT_LISTENING) ||
		endpoint_name(ctl, index) != name)
		return NULL;
	return ep;
}

/* The same, if it is the application's. */
struct endpoint *endpoint_named(struct control *ctl, uint32_t name, uint16_t app)
{
	struct endpoint *ep = endpoint_any(ctl, name);

	return ep && ep->app == app ? ep : NULL;
}

struct endpoint *endpoint_find(struct control *ctl, uint32_t name)
{
	struct endpoint *ep = endpoint_any(ctl, name);

	return ep && ep->state == ENDPOINT_LISTENING ? ep : NULL;
}

static bool addresses_overlap(be32 a, be32 b)
{
	return !a || !b || a == b;
}

/*
 * Whether an endpoint in the way lets another one have the same port: both with REUSEPORT and of one user, or
 * both with REUSEADDR and nobody listening.
 */
static bool may_share(const struct control *ctl, const struct endpoint *old, uint16_t flags, uint16_t app)
{
	uint16_t both = old->flags & flags;

	if (both & FLEXTOE_BIND_REUSEPORT && old->uid == ctl->apps[app].uid)
		return true;
	return both & FLEXTOE_BIND_REUSEADDR && old->state != ENDPOINT_LISTENING;
}

/* Ends listeners of this port whose last holder has hung up a moment ago. */
static void port_settle(struct control *ctl, be16 port)
{
	uint32_t link = ctl->port_endpoints[from_be16(port)], next;

	for (; link; link = next) {
		next = ctl->endpoints[link - 1u].port_next;
		if (ctl->endpoints[link - 1u].app == APP_NONE)
			endpoint_settle(ctl, link - 1u);
	}
}

static bool port_is_taken(struct control *ctl, be32 addr, be16 port, uint16_t flags, uint16_t app)
{
	uint32_t link;

	port_settle(ctl, port);
	link = ctl->port_endpoints[from_be16(port)];

	for (; link; link = ctl->endpoints[link - 1u].port_next) {
		const struct endpoint *ep = &ctl->endpoints[link - 1u];

		if (addresses_overlap(ep->addr, addr) && !may_share(ctl, ep, flags, app))
			return true;
	}
	return ctl->port_uses[from_be16(port)] &&
	       !(flags & (FLEXTOE_BIND_REUSEADDR | FLEXTOE_BIND_REUSEPORT));
}

static uint32_t ephemeral_count(const struct control *ctl)
{
	return (uint32_t)ctl->config.ephemeral_high - ctl->config.ephemeral_low + 1u;
}

/* The n-th candidate for a destination, beginning at a place nobody can guess. */
static be16 ephemeral_port(struct control *ctl, const struct flow_key *towards, uint32_t n)
{
	uint32_t offset = (uint32_t)(flow_key_hash(ctl, towards) >> 16);

	return to_be16((uint16_t)(ctl->config.ephemeral_low +
				  (offset + ctl->ephemeral_next + n) % ephemeral_count(ctl)));
}

static int port_pick(struct control *ctl, be32 addr, be16 *port)
{
	struct flow_key any = {.local_addr = addr};

	for (uint32_t n = 0; n < ephemeral_count(ctl); n++) {
		be16 p = ephemeral_port(ctl, &any, n);

		if (ctl->port_endpoints[from_be16(p)] || ctl->port_uses[from_be16(p)])
			continue;
		ctl->ephemeral_next += n + 1u;
		*port = p;
		return 0;
	}
	return -EADDRINUSE;
}

static int endpoint_bind(struct control *ctl, struct app *app, const struct flextoe_hc_endpoint *hc,
	uint32_t *name, be16 *port)
{
	struct endpoint *ep;
	uint32_t index, generation;

	*port = hc->local_port;
	if (hc->flags & ~(FLEXTOE_BIND_REUSEADDR | FLEXTOE_BIND_REUSEPORT))
		return -EINVAL;
	if (hc->local_addr && !address_is_ours(ctl, hc->local_addr))
		return -EADDRNOTAVAIL;
	if (!hc->local_port) {
		int r = port_pick(ctl, hc->local_addr, port);

		if (r < 0)
			return r;
	} else if (port_is_taken(ctl, hc->local_addr, hc->local_port, hc->flags, app->number)) {
		return -EADDRINUSE;
	}
	if (app->endpoint_count >= APP_SHARE_MAX)
		return -ENOBUFS;
	if (ctl->endpoint_free != INDEX_NONE) {
		index = ctl->endpoint_free;
		ctl->endpoint_free = ctl->endpoints[index].port_next;
	} else if (ctl->endpoints_high < ENDPOINTS_MAX) {
		index = ctl->endpoints_high++;
	} else {
		return -ENOBUFS;
	}
	ep = &ctl->endpoints[index];
	generation = (ep->generation + 1u) & ((1u << (32u - ENDPOINT_INDEX_BITS)) - 1u);
	*ep = (struct endpoint){
		.state = ENDPOINT_BOUND,
		.generation = generation,
		.addr = hc->local_addr,
		.port = *port,
		.app = app->number,
		.uid = app->uid,
		.flags = hc->flags,
		.handshake_head = INDEX_NONE,
		.handshake_tail = INDEX_NONE,
		.parked_head = INDEX_NONE,
		.parked_tail = INDEX_NONE,
		.member_head = INDEX_NONE,
		.feeding = ep->feeding,
		.feed_next = ep->feed_next,
		.conn_head = INDEX_NONE,
		.closing_next = INDEX_NONE,
		.prev = INDEX_NONE,
		.next = app->endpoint_head,
		.port_next = ctl->port_endpoints[from_be16(*port)],
	};
	ctl->port_endpoints[from_be16(*port)] = index + 1u;
	if (ep->next != INDEX_NONE)
		ctl->endpoints[ep->next].prev = index;
	app->endpoint_head = index;
	app->endpoint_count++;
	*name = endpoint_name(ctl, index);
	return 0;
}

static uint8_t buffer_shift(uint8_t wanted, uint8_t standard)
{
	if (!wanted)
		return standard;
	return wanted < BUFFER_SHIFT_MIN   ? BUFFER_SHIFT_MIN
	       : wanted > BUFFER_SHIFT_MAX ? BUFFER_SHIFT_MAX
					   : wanted;
}

static int endpoint_listen(
	struct control *ctl, struct app *app, uint16_t context, const struct flextoe_hc_endpoint *hc)
{
	struct endpoint *ep = endpoint_named(ctl, hc->endpoint, app->number);
	int r;

	if (!ep || hc->flags & ~FLEXTOE_LISTEN_WANTED)
		return -EINVAL;
	if (ep->state != ENDPOINT_LISTENING) {
		uint32_t link;

		port_settle(ctl, ep->port);
		link = ctl->port_endpoints[from_be16(ep->port)];
		for (; link; link = ctl->endpoints[link - 1u].port_next) {
			const struct endpoint *other = &ctl->endpoints[link - 1u];

			if (other != ep && other->state == ENDPOINT_LISTENING &&
				addresses_overlap(other->addr, ep->addr) &&
				!may_share(ctl, other, ep->flags, app->number))
				return -EADDRINUSE;
		}
	}
	r = member_listen(ctl, listener_index(ctl, ep), app->number, context, hc->cookie,
		!(hc->flags & FLEXTOE_LISTEN_WANTED));
	if (r < 0)
		return r;
	ep->state = ENDPOINT_LISTENING;
	ep->backlog = hc->backlog ? min_u32(hc->backlog, BACKLOG_MAX) : 1;
	ep->rx_shift = buffer_shift(hc->rx_shift, ctl->config.rx_shift);
	ep->tx_shift = buffer_shift(hc->tx_shift, ctl->config.tx_shift);
	return 0;
}

/*
 * Whether a new connection may have this tuple. A TIME-WAIT entry gives way when timestamps tell the segments
 * of both apart and it is a second old (RFC 6191, seen from the side that opens).
 */
static bool tuple_is_free(struct control *ctl, const struct flow_key *key, uint32_t *time_wait)
{
	uint32_t ref = flows_find(ctl, key);
	const struct time_wait *tw;

	*time_wait = INDEX_NONE;
	if (ref == INDEX_NONE)
		return true;
	if (FLOW_REF_KIND(ref) != FLOW_TIME_WAIT)
		return false;
	tw = &ctl->time_waits[FLOW_REF_INDEX(ref)];
	if (!tw->timestamps || ctl->now_us - tw->entered_us < 1000000u)
		return false;
	*time_wait = FLOW_REF_INDEX(ref);
	return true;
}

static bool is_self(const struct flow_key *key)
{
	return key->local_addr == key->remote_addr && key->local_port == key->remote_port;
}

static int connect_port(struct control *ctl, struct flow_key *key, uint32_t *time_wait)
{
	struct flow_key towards = *key;
	uint32_t n;

	towards.local_port = 0;
	/* To find that none is left takes a look at each: one application must not keep us at it. */
	if (ctl->now_us < ctl->ports_out_us && memcmp(&towards, &ctl->ports_out, sizeof(towards)) == 0)
		return -EADDRNOTAVAIL;
	for (n = 0; n < ephemeral_count(ctl); n++) {
		key->local_port = ephemeral_port(ctl, &towards, n);
		if (ctl->port_endpoints[from_be16(key->local_port)] || is_self(key))
			continue;
		if (tuple_is_free(ctl, key, time_wait)) {
			ctl->ephemeral_next += n + 1u;
			return 0;
		}
	}
	ctl->ports_out = towards;
	ctl->ports_out_us = ctl->now_us + PORTS_OUT_US;
	return -EADDRNOTAVAIL;
}

static int endpoint_connect(struct control *ctl, struct app *app, uint16_t context,
	const struct flextoe_hc_endpoint *hc, const struct socket_options *options)
{
	struct flextoe_hc_endpoint request = *hc;
	struct endpoint *ep = NULL;
	struct route_result route;
	struct flow_key key = {.remote_addr = hc->remote_addr, .remote_port = hc->remote_port};
	uint32_t tw, iss_above = 0;
	bool bounded = false;
	int r;

	if (hc->endpoint) {
		ep = endpoint_named(ctl, hc->endpoint, app->number);
		if (!ep)
			return -EINVAL;
		if (ep->state == ENDPOINT_LISTENING)
			return -EISCONN;
	}
	if (!hc->remote_port)
		return -ECONNREFUSED;
	r = route_find(ctl, hc->remote_addr, &route);
	if (r < 0) {
		COUNT(ctl, drop_no_route);
		return r;
	}
	key.local_addr = ep && ep->addr ? ep->addr : route.source;
	if (ep) {
		key.local_port = ep->port;
		if (is_self(&key))
			return -ECONNREFUSED;
		if (!tuple_is_free(ctl, &key, &tw))
			return -EADDRNOTAVAIL;
	} else {
		r = connect_port(ctl, &key, &tw);
		if (r < 0)
			return r;
	}
	if (tw != INDEX_NONE) {
		iss_above = ctl->time_waits[tw].snd_nxt;
		bounded = true;
		COUNT(ctl, time_wait_reused);
		time_wait_drop(ctl, tw);
	}
	request.rx_shift = buffer_shift(hc->rx_shift, ctl->config.rx_shift);
	request.tx_shift = buffer_shift(hc->tx_shift, ctl->config.tx_shift);
	return handshake_connect(
		ctl, &key, &route, app->number, context, &request, options, iss_above, bounded);
}

/* What a segment's addresses find: a specific address before any; among equals with REUSEPORT by hash. */
struct endpoint *listener_find(struct control *ctl, const struct flow_key *key)
{
	uint32_t first = ctl->port_endpoints[from_be16(key->local_port)];
	uint32_t count[2] = {0, 0}, pick;
	bool specific;

	for (uint32_t link = first; link; link = ctl->endpoints[link - 1u].port_next) {
		const struct endpoint *ep = &ctl->endpoints[link - 1u];

		if (ep->state == ENDPOINT_LISTENING && (!ep->addr || ep->addr == key->local_addr))
			count[ep->addr != 0]++;
	}
	specific = count[1] != 0;
	if (!count[specific])
		return NULL;
	pick = count[specific] == 1 ? 0 : (uint32_t)(flow_key_hash(ctl, key) >> 32) % count[specific];
	for (uint32_t link = first; link; link = ctl->endpoints[link - 1u].port_next) {
		struct endpoint *ep = &ctl->endpoints[link - 1u];

		if (ep->state == ENDPOINT_LISTENING && (!ep->addr || ep->addr == key->local_addr) &&
			(ep->addr != 0) == specific && pick-- == 0)
			return ep;
	}
	return NULL;
}

void endpoint_disown(struct control *ctl, uint32_t index)
{
	struct endpoint *ep = &ctl->endpoints[index];

	ctl->apps[ep->app].endpoint_count--;
	if (ep->prev != INDEX_NONE)
		ctl->endpoints[ep->prev].next = ep->next;
	else
		ctl->apps[ep->app].endpoint_head = ep->next;
	if (ep->next != INDEX_NONE)
		ctl->endpoints[ep->next].prev = ep->prev;
	ep->app = APP_NONE;
}

/* Ends an endpoint. Its name and port are free at once. */
static void endpoint_close(struct control *ctl, uint32_t index)
{
	struct endpoint *ep = &ctl->endpoints[index];
	uint32_t *link = &ctl->port_endpoints[from_be16(ep->port)];

	while (*link && *link != index + 1u)
		link = &ctl->endpoints[*link - 1u].port_next;
	if (*link)
		*link = ep->port_next;
	ctl->ports_out_us = 0;
	while (ep->handshake_head != INDEX_NONE)
		handshake_drop(ctl, ep->handshake_head);
	while (ep->parked_head != INDEX_NONE)
		handshake_refuse(ctl, ep->parked_head);
	ep->state = ENDPOINT_CLOSING;
	ep->close_us = ctl->now_us + ENDPOINT_LINGER_US;
	ep->closing_next = ctl->endpoints_closing;
	ctl->endpoints_closing = index;
}

void endpoint_settle(struct control *ctl, uint32_t index)
{
	struct endpoint *ep = &ctl->endpoints[index];

	if (ep->app != APP_NONE || ep->member_count ||
		(ep->state != ENDPOINT_BOUND && ep->state != ENDPOINT_LISTENING))
		return;
	if (ep->holds)
		channel_holds_look(ctl, endpoint_name(ctl, index));
	if (!ep->holds)
		endpoint_close(ctl, index);
}

static int endpoint_unbind(struct control *ctl, struct app *app, uint16_t context, uint32_t name)
{
	struct endpoint *ep = endpoint_any(ctl, name);
	uint32_t member;

	if (!name) {
		members_leave_context(ctl, app, context);
		return 0;
	}
	if (!ep)
		return -EINVAL;
	member = member_find(ctl, ep, app->number, context);
	if (member == INDEX_NONE && ep->app != app->number)
		return -EINVAL;
	if (member != INDEX_NONE)
		member_leave(ctl, member);
	if (ep->app == app->number)
		endpoint_disown(ctl, listener_index(ctl, ep));
	endpoint_settle(ctl, listener_index(ctl, ep));
	return 0;
}

/* Resets what nobody will accept any more, as far as the ring to the data path has room. */
void endpoints_step(struct control *ctl)
{
	uint32_t *link = &ctl->endpoints_closing;

	while (*link != INDEX_NONE) {
		uint32_t index = *link;
		struct endpoint *ep = &ctl->endpoints[index];

		if (ep->close_us > ctl->now_us) {
			link = &ep->closing_next;
			continue;
		}
		while (ep->conn_head != INDEX_NONE) {
			uint32_t conn = ep->conn_head;

			if (!ctl_has_room(ctl))
				return;
			conn_reset(ctl, conn, ECONNABORTED);
			conn_give_up(ctl, conn); /* leaves the queue */
		}
		*link = ep->closing_next;
		ep->state = ENDPOINT_FREE;
		ep->port_next = ctl->endpoint_free;
		ctl->endpoint_free = index;
	}
}

uint64_t endpoints_next_us(const struct control *ctl)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = ctl->endpoints_closing; i != INDEX_NONE; i = ctl->endpoints[i].closing_next)
		if (ctl->endpoints[i].close_us < next)
			next = ctl->endpoints[i].close_us;
	return next;
}

void endpoint_request(struct control *ctl, const struct exc_hc *exc)
{
	const struct flextoe_hc_endpoint *hc = &exc->hc.endpoint;
	uint32_t name = hc->endpoint;
	be32 addr = hc->local_addr;
	be16 port = hc->local_port;
	struct socket_options options;
	struct endpoint *ep;
	struct app *app;
	int r;

	if (exc->app >= ctl->apps_max || exc->context >= ctl->contexts_max ||
		!ctl->contexts[exc->context].used || ctl->contexts[exc->context].app != exc->app)
		return;
	app = &ctl->apps[exc->app];
	if (app->state != APP_ALIVE)
		return;
	if (hc->type == FLEXTOE_HC_OPTIONS) {
		options_request(ctl, exc);
		return;
	}
	switch (hc->type) {
	case FLEXTOE_HC_BIND:
		name = 0;
		r = endpoint_bind(ctl, app, hc, &name, &port);
		break;
	case FLEXTOE_HC_LISTEN:
		r = endpoint_listen(ctl, app, exc->context, hc);
		break;
	case FLEXTOE_HC_JOIN:
		r = member_join(ctl, app, exc->context, &exc->hc.join);
		break;
	case FLEXTOE_HC_WANT:
		member_want(ctl, app, exc->context, &exc->hc.want);
		return;
	case FLEXTOE_HC_CONNECT:
		options = ctl->contexts[exc->context].connect_options;
		ctl->contexts[exc->context].connect_options = (struct socket_options){0};
		r = endpoint_connect(ctl, app, exc->context, hc, &options);
		if (r == 0)
			return; /* answered when it has succeeded or failed */
		COUNT(ctl, active_open_failures);
		break;
	case FLEXTOE_HC_UNBIND:
		r = endpoint_unbind(ctl, app, exc->context, hc->endpoint);
		break;
	default:
		return;
	}
	if (r == 0 && (hc->type == FLEXTOE_HC_LISTEN || hc->type == FLEXTOE_HC_JOIN)) {
		ep = endpoint_any(ctl, name);
		listener_result(ctl, exc->context, hc, ep);
	} else {
		notify_result(ctl, exc->context, hc->type, hc->cookie, name, addr, port, -r);
	}
}
