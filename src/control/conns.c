/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a connection in the data path, from the end of its handshake until its index and buffers are
 * free again:
 *
 *   conn_open()  --CTL_INSTALL, CTL_NOTIFY-->  installed
 *   CONN_EVENT_DEAD      TCP has ended (a TIME-WAIT entry takes the numbers over)   \ in either
 *   CONN_EVENT_RELEASED  the application gave it up, or is gone                     / order
 *   both seen    --CTL_REMOVE-->  CONN_EVENT_REMOVED  -->  index and buffers are free
 *
 * An index is reused last in first out, each time with the next generation in its handle, so a late
 * descriptor of an application cannot reach the index's next owner. Control plane's thread.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"

int conns_init(struct control *ctl)
{
	ctl->conn_free = INDEX_NONE;
	ctl->conns = array_reserve(ctl->conns_max, sizeof(*ctl->conns));
	return ctl->conns ? 0 : -ENOMEM;
}

void conns_free(struct control *ctl)
{
	array_release(ctl->conns, ctl->conns_max, sizeof(*ctl->conns));
}

static struct control_conn *conn_alloc(struct control *ctl, uint32_t *index)
{
	struct control_conn *c;

	if (ctl->conn_free != INDEX_NONE) {
		*index = ctl->conn_free;
		ctl->conn_free = ctl->conns[*index].app_next;
	} else if (ctl->conns_high < ctl->conns_max) {
		*index = ctl->conns_high++;
	} else {
		return NULL;
	}
	c = &ctl->conns[*index];
	*c = (struct control_conn){
		.flags = CTLCONN_USED,
		.generation = c->generation + 1u,
		.app_next = INDEX_NONE,
		.app_prev = INDEX_NONE,
		.queue_next = INDEX_NONE,
		.queue_prev = INDEX_NONE,
		.endpoint = INDEX_NONE,
		.member = INDEX_NONE,
	};
	ctl->conns_open++;
	return c;
}

static void conn_unalloc(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];

	c->flags = 0;
	c->app_next = ctl->conn_free;
	ctl->conn_free = index;
	ctl->conns_open--;
}

static void queue_add(struct control *ctl, uint32_t index, uint32_t endpoint, uint32_t member)
{
	struct control_conn *c = &ctl->conns[index];
	struct endpoint *ep = &ctl->endpoints[endpoint];

	ctl->members[member].granted++;
	ctl->members[member].waiting++;
	c->endpoint = endpoint;
	c->member = member;
	c->flags |= CTLCONN_QUEUED;
	c->queue_next = ep->conn_head;
	if (ep->conn_head != INDEX_NONE)
		ctl->conns[ep->conn_head].queue_prev = index;
	ep->conn_head = index;
	ep->queued++;
}

static void queue_del(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	struct endpoint *ep;

	if (!(c->flags & CTLCONN_QUEUED))
		return;
	ep = &ctl->endpoints[c->endpoint];
	if (c->queue_prev != INDEX_NONE)
		ctl->conns[c->queue_prev].queue_next = c->queue_next;
	else
		ep->conn_head = c->queue_next;
	if (c->queue_next != INDEX_NONE)
		ctl->conns[c->queue_next].queue_prev = c->queue_prev;
	c->queue_next = c->queue_prev = INDEX_NONE;
	c->flags &= (uint16_t)~CTLCONN_QUEUED;
	ep->queued--;
	if (c->member != INDEX_NONE)
		member_accepted(ctl, c->member);
	c->member = INDEX_NONE;
}

static void app_list_add(struct control *ctl, struct app *app, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];

	c->app = app->number;
	c->app_next = app->conn_head;
	if (app->conn_head != INDEX_NONE)
		ctl->conns[app->conn_head].app_prev = index;
	app->conn_head = index;
	app->conn_count++;
}

static void app_list_del(struct control *ctl, struct app *app, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];

	if (app->cursor == index)
		app->cursor = c->app_next;
	if (c->app_prev != INDEX_NONE)
		ctl->conns[c->app_prev].app_next = c->app_next;
	else
		app->conn_head = c->app_next;
	if (c->app_next != INDEX_NONE)
		ctl->conns[c->app_next].app_prev = c->app_prev;
	app->conn_count--;
}

static void conn_command(struct control *ctl, uint32_t type, uint32_t index, uint32_t error, uint32_t flags)
{
	struct ctl_conn record = {.type = type, .conn = index, .error = error, .flags = flags};

	datapath_ctl(ctl->dp, &record, sizeof(record)); /* fits: see CTL_ROOM_MIN */
}

static void notify_opened(struct control *ctl, const struct handshake *hs, const struct conn_setup *setup)
{
	struct ctl_notify record = {.type = CTL_NOTIFY, .context = setup->context};

	record.ntf.opened = (struct flextoe_ntf_opened){
		.cookie = hs->active ? hs->cookie : ctl->members[hs->member].cookie,
		.conn = setup->handle,
		.local_addr = setup->local_addr,
		.remote_addr = setup->remote_addr,
		.local_port = setup->local_port,
		.remote_port = setup->remote_port,
		.rx_page = setup->rx_page,
		.tx_page = setup->tx_page,
		.rx_shift = setup->rx_shift,
		.tx_shift = setup->tx_shift,
		.type = hs->active ? FLEXTOE_NTF_CONNECT : FLEXTOE_NTF_ACCEPT,
	};
	datapath_ctl(ctl->dp, &record, sizeof(record));
}

/* The largest segment the peer takes, or less where the application or the path wants less. */
static uint16_t send_mss(struct control *ctl, const struct handshake *hs)
{
	uint32_t mss = hs->peer_mss;

	if (hs->options.maxseg)
		mss = min_u32(mss, hs->options.maxseg);
	return (uint16_t)min_u32(mss, pmtu_of(ctl, hs->flow.key.remote_addr) - 40u);
}

int conn_open(struct control *ctl, struct handshake *hs, uint32_t snd_wnd, bool ack_now)
{
	const struct member *to = hs->active ? NULL : &ctl->members[hs->member];
	struct app *app = &ctl->apps[to ? to->app : hs->app];
	uint32_t endpoint = hs->endpoint, member = hs->member, handle, index;
	bool active = hs->active;
	struct control_conn *c;
	struct conn_setup setup;
	int r;

	c = conn_alloc(ctl, &index);
	if (!c)
		return -ENOBUFS;
	r = app_buffers_alloc(&app->buffers, hs->rx_shift, &c->rx_page);
	if (r == 0) {
		r = app_buffers_alloc(&app->buffers, hs->tx_shift, &c->tx_page);
		if (r < 0)
			app_buffers_release(&app->buffers, hs->rx_shift, c->rx_page);
	}
	if (r < 0) {
		conn_unalloc(ctl, index);
		return -ENOBUFS;
	}
	c->rx_shift = hs->rx_shift;
	c->tx_shift = hs->tx_shift;
	c->flow.key = hs->flow.key;
	c->options = hs->options;
	handle = index | c->generation << FLEXTOE_CONN_INDEX_BITS;
	if (handle == FLEXTOE_CONN_NONE)
		handle = index | ++c->generation << FLEXTOE_CONN_INDEX_BITS;
	setup = (struct conn_setup){
		.local_addr = hs->flow.key.local_addr,
		.remote_addr = hs->flow.key.remote_addr,
		.local_port = hs->flow.key.local_port,
		.remote_port = hs->flow.key.remote_port,
		.port = hs->port,
		.tos = hs->options.tos,
		.ttl = hs->options.ttl,
		.app = app->number,
		.context = to ? to->context : hs->context,
		.handle = handle,
		.iss = hs->iss,
		.irs = hs->irs,
		.snd_wnd = snd_wnd,
		.rcv_adv_wnd = min_u32(65535u, 1u << hs->rx_shift),
		.peer_mss = send_mss(ctl, hs),
		.snd_wscale = hs->snd_wscale,
		.rcv_wscale = hs->rcv_wscale,
		.timestamps = hs->peer_timestamps,
		.sack = hs->peer_sack,
		.ecn = hs->ecn,
		.accurate_ecn = congestion_accurate_ecn(ctl, &hs->options),
		.ts_recent = hs->ts_recent,
		.srtt_us = hs->rtt_us,
		.rx_page = c->rx_page,
		.tx_page = c->tx_page,
		.rx_shift = c->rx_shift,
		.tx_shift = c->tx_shift,
	};
	memcpy(setup.remote_mac, hs->mac, 6);
	datapath_conn_prepare(ctl->dp, index, &setup, ctl->now_us);
	conn_command(ctl, CTL_INSTALL, index, 0, ack_now ? CTL_INSTALL_ACK : 0);
	notify_opened(ctl, hs, &setup);

	/* The tuple changes its owner; an active one's port stays counted. */
	handshake_take(ctl, (uint32_t)(hs - ctl->handshakes));
	flows_add(ctl, FLOW_REF(FLOW_CONN, index));
	c->flags |= CTLCONN_IN_FLOWS;
	app_list_add(ctl, app, index);
	liveness_begin(ctl, index);
	if (active) {
		c->flags |= CTLCONN_ACTIVE;
		COUNT(ctl, active_opens);
	} else {
		queue_add(ctl, index, endpoint, member);
		COUNT(ctl, passive_opens);
	}
	return 0;
}

struct control_conn *conn_named(struct control *ctl, uint32_t handle, uint16_t app)
{
	uint32_t index = flextoe_conn_index(handle);
	struct control_conn *c = &ctl->conns[index];

	if (index >= ctl->conns_high || !(c->flags & CTLCONN_USED) || c->app != app ||
		datapath_conn(ctl->dp, index)->id.handle != handle)
		return NULL;
	return c;
}

void conn_reset(struct control *ctl, uint32_t index, int error)
{
	struct control_conn *c = &ctl->conns[index];

	if (c->flags & (CTLCONN_DEAD | CTLCONN_RESET))
		return;
	c->flags |= CTLCONN_RESET;
	conn_command(ctl, CTL_RESET, index, (uint32_t)error, 0);
}

/* Both have ended: the data path may forget it. */
static void conn_maybe_remove(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	const uint16_t both = CTLCONN_DEAD | CTLCONN_RELEASED;

	if ((c->flags & both) != both || c->flags & CTLCONN_REMOVING)
		return;
	c->flags |= CTLCONN_REMOVING;
	timer_stop(ctl, &c->timer);
	conn_command(ctl, CTL_REMOVE, index, 0, 0);
}

static void conn_leave_flows(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];

	if (!(c->flags & CTLCONN_IN_FLOWS))
		return;
	flows_del(ctl, FLOW_REF(FLOW_CONN, index));
	c->flags &= (uint16_t)~CTLCONN_IN_FLOWS;
}

static void conn_dead(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	const struct conn *conn = datapath_conn(ctl->dp, index);

	if (c->flags & CTLCONN_DEAD)
		return;
	c->flags |= CTLCONN_DEAD;
	timer_stop(ctl, &c->timer);
	conn_leave_flows(ctl, index);
	if (conn->tcp.phase == TCP_PHASE_TIME_WAIT)
		time_wait_enter(ctl, conn, &c->flow.key, c->flags & CTLCONN_ACTIVE);
	else if (c->flags & CTLCONN_ACTIVE)
		port_release(ctl, c->flow.key.local_port);
	conn_maybe_remove(ctl, index);
}

void conn_give_up(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];

	if (c->flags & CTLCONN_RELEASED)
		return;
	c->flags |= CTLCONN_RELEASED;
	queue_del(ctl, index);
	if (!(c->flags & CTLCONN_DEAD))
		timers_orphan(ctl, index);
	conn_maybe_remove(ctl, index);
}

static void conn_removed(struct control *ctl, uint32_t index)
{
	struct control_conn *c = &ctl->conns[index];
	struct app *app = &ctl->apps[c->app];

	if (!(c->flags & CTLCONN_REMOVING))
		return;
	queue_del(ctl, index);
	app_list_del(ctl, app, index);
	app_buffers_release(&app->buffers, c->rx_shift, c->rx_page);
	app_buffers_release(&app->buffers, c->tx_shift, c->tx_page);
	conn_unalloc(ctl, index);
	COUNT(ctl, conns_released);
}

void conn_events(struct control *ctl, const struct exc_conn *exc)
{
	uint32_t index = exc->conn, events = exc->events;

	if (index >= ctl->conns_max || !(ctl->conns[index].flags & CTLCONN_USED))
		return;
	if (events & CONN_EVENT_ACCEPTED)
		queue_del(ctl, index);
	if (events & (CONN_EVENT_ROUND | CONN_EVENT_LOSS | CONN_EVENT_MARK | CONN_EVENT_UNDO))
		congestion_event(ctl, index, events);
	if (events & CONN_EVENT_TIMERS_IDLE)
		timers_idle(ctl, index);
	if (events & CONN_EVENT_TIMER)
		timers_watch(ctl, index);
	if (events & CONN_EVENT_DEAD)
		conn_dead(ctl, index);
	if (events & CONN_EVENT_RELEASED)
		conn_give_up(ctl, index);
	if (events & CONN_EVENT_REMOVED)
		conn_removed(ctl, index);
}

const char *conn_state_name(const struct conn *conn)
{
	static const char *const names[] = {
		[TCP_PHASE_CLOSED] = "CLOSED",
		[TCP_PHASE_ESTABLISHED] = "ESTABLISHED",
		[TCP_PHASE_FIN_WAIT_1] = "FIN-WAIT-1",
		[TCP_PHASE_FIN_WAIT_2] = "FIN-WAIT-2",
		[TCP_PHASE_CLOSE_WAIT] = "CLOSE-WAIT",
		[TCP_PHASE_CLOSING] = "CLOSING",
		[TCP_PHASE_LAST_ACK] = "LAST-ACK",
		[TCP_PHASE_TIME_WAIT] = "TIME-WAIT",
	};
	unsigned phase = conn->tcp.phase;

	return phase < ARRAY_SIZE(names) ? names[phase] : "?";
}
