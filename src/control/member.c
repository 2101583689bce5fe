/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who accepts from a listener. A listener has members: contexts of one or more applications, because a
 * process has forked or has passed the descriptor on. A connection goes to a member that has asked for it
 * (WANT), and among those first to one that sleeps; connections nobody has asked for are parked in
 * handshake.c. So a member that never accepts gets nothing, and with several of them none has more than one
 * that it has not accepted: one that is busy or dies holds no others up. Control plane's thread.
 */
#include <errno.h>
#include <sys/random.h>

#include "control/state.h"

int members_init(struct control *ctl)
{
	ctl->member_free = ctl->endpoints_feed = INDEX_NONE;
	ctl->members = array_reserve(MEMBERS_MAX, sizeof(*ctl->members));
	return ctl->members ? 0 : -ENOMEM;
}

void members_free(struct control *ctl)
{
	array_release(ctl->members, MEMBERS_MAX, sizeof(*ctl->members));
}

uint32_t member_find(const struct control *ctl, const struct endpoint *ep, uint16_t app, uint16_t context)
{
	uint32_t i = ep->member_head;

	while (i != INDEX_NONE && (ctl->members[i].app != app || ctl->members[i].context != context))
		i = ctl->members[i].next;
	return i;
}

static int member_add(
	struct control *ctl, uint32_t endpoint, uint16_t app, uint16_t context, uint32_t cookie, bool push)
{
	struct endpoint *ep = &ctl->endpoints[endpoint];
	struct app *a = &ctl->apps[app];
	uint32_t index = member_find(ctl, ep, app, context);

	if (index !=
		INDEX_NONE) { /* LISTEN again, or a second listener of the library's: the cookie counts */
		ctl->members[index].cookie = cookie;
		ctl->members[index].push |= push;
		return 0;
	}
	if (ctl->member_free != INDEX_NONE) {
		index = ctl->member_free;
		ctl->member_free = ctl->members[index].next;
	} else if (ctl->members_high < MEMBERS_MAX) {
		index = ctl->members_high++;
	} else {
		return -ENOBUFS;
	}
	ctl->members[index] = (struct member){
		.next = ep->member_head,
		.app_next = a->member_head,
		.app_prev = INDEX_NONE,
		.endpoint = endpoint,
		.cookie = cookie,
		.app = app,
		.context = context,
		.push = push,
	};
	ep->member_head = index;
	ep->member_count++;
	if (a->member_head != INDEX_NONE)
		ctl->members[a->member_head].app_prev = index;
	a->member_head = index;
	return 0;
}

int member_listen(
	struct control *ctl, uint32_t endpoint, uint16_t app, uint16_t context, uint32_t cookie, bool push)
{
	struct endpoint *ep = &ctl->endpoints[endpoint];

	if (!ep->token[0] && !ep->token[1] &&
		getrandom(ep->token, sizeof(ep->token), 0) != (ssize_t)sizeof(ep->token))
		return -EAGAIN;
	return member_add(ctl, endpoint, app, context, cookie, push);
}

int member_join(struct control *ctl, struct app *app, uint16_t context, const struct flextoe_hc_join *join)
{
	struct endpoint *ep = endpoint_find(ctl, join->endpoint);

	if (!ep || ep->token[0] != join->token[0] || ep->token[1] != join->token[1])
		return -EINVAL;
	return member_add(ctl, listener_index(ctl, ep), app->number, context, join->cookie, false);
}

int member_want(struct control *ctl, struct app *app, uint16_t context, const struct flextoe_hc_want *want)
{
	struct endpoint *ep = endpoint_find(ctl, want->endpoint);
	uint32_t index = ep ? member_find(ctl, ep, app->number, context) : INDEX_NONE;

	if (index == INDEX_NONE)
		return -EINVAL;
	ctl->members[index].limit = want->limit;
	members_feed(ctl, listener_index(ctl, ep));
	return 0;
}

/* What was handed to it and not accepted stays its application's to accept or to end. */
void member_leave(struct control *ctl, uint32_t index)
{
	struct member *m = &ctl->members[index];
	struct endpoint *ep = &ctl->endpoints[m->endpoint];
	uint32_t *link = &ep->member_head;

	for (uint32_t c = ep->conn_head; m->waiting && c != INDEX_NONE; c = ctl->conns[c].queue_next)
		if (ctl->conns[c].member == index)
			ctl->conns[c].member = INDEX_NONE;
	while (*link != index)
		link = &ctl->members[*link].next;
	*link = m->next;
	ep->member_count--;
	if (m->app_prev != INDEX_NONE)
		ctl->members[m->app_prev].app_next = m->app_next;
	else
		ctl->apps[m->app].member_head = m->app_next;
	if (m->app_next != INDEX_NONE)
		ctl->members[m->app_next].app_prev = m->app_prev;
	m->next = ctl->member_free;
	ctl->member_free = index;
}

/* What was handed to it and not accepted, nobody will accept: its process is gone. */
static void member_reset_conns(struct control *ctl, uint32_t index)
{
	uint32_t next, c = ctl->endpoints[ctl->members[index].endpoint].conn_head;

	for (; ctl->members[index].waiting && c != INDEX_NONE; c = next) {
		next = ctl->conns[c].queue_next;
		if (ctl->conns[c].member != index || !ctl_has_room(ctl))
			continue;
		conn_reset(ctl, c, ECONNABORTED);
		conn_give_up(ctl, c); /* leaves the queue */
	}
}

void members_leave_context(struct control *ctl, struct app *app, uint16_t context)
{
	uint32_t next;

	for (uint32_t i = app->member_head; i != INDEX_NONE; i = next) {
		uint32_t endpoint = ctl->members[i].endpoint;

		next = ctl->members[i].app_next;
		if (ctl->members[i].context != context || ctl->endpoints[endpoint].app == app->number)
			continue;
		ctl->members[i].limit = ctl->members[i].granted;
		member_reset_conns(ctl, i);
		member_leave(ctl, i);
		endpoint_settle(ctl, endpoint);
	}
}

static bool member_asks(const struct endpoint *ep, const struct member *m)
{
	if (ep->member_count > 1 && m->waiting)
		return false;
	return m->push || (int32_t)(m->limit - m->granted) > 0;
}

/* It waits for something: most likely for this. */
static bool member_sleeps(const struct control *ctl, const struct member *m)
{
	const struct context *context = &ctl->contexts[m->context];

	return context->used && __atomic_load_n(&context->area->words.app_asleep, __ATOMIC_RELAXED);
}

uint32_t member_choose(struct control *ctl, uint32_t endpoint)
{
	struct endpoint *ep = &ctl->endpoints[endpoint];
	uint32_t chosen = INDEX_NONE, *link, *end;

	for (uint32_t i = ep->member_head; i != INDEX_NONE; i = ctl->members[i].next) {
		if (!member_asks(ep, &ctl->members[i]))
			continue;
		if (chosen == INDEX_NONE)
			chosen = i;
		if (ep->member_count == 1)
			return chosen;
		if (member_sleeps(ctl, &ctl->members[i])) {
			chosen = i;
			break;
		}
	}
	if (chosen == INDEX_NONE)
		return INDEX_NONE;
	/* To the end of the list: the others first, the next time. */
	link = &ep->member_head;
	while (*link != chosen)
		link = &ctl->members[*link].next;
	*link = ctl->members[chosen].next;
	for (end = link; *end != INDEX_NONE;)
		end = &ctl->members[*end].next;
	*end = chosen;
	ctl->members[chosen].next = INDEX_NONE;
	return chosen;
}

void member_accepted(struct control *ctl, uint32_t member)
{
	uint32_t endpoint = ctl->members[member].endpoint;

	ctl->members[member].waiting--;
	if (ctl->endpoints[endpoint].parked)
		members_feed(ctl, endpoint);
}

static void feed_later(struct control *ctl, uint32_t endpoint)
{
	struct endpoint *ep = &ctl->endpoints[endpoint];

	if (ep->feeding)
		return;
	ep->feeding = true;
	ep->feed_next = ctl->endpoints_feed;
	ctl->endpoints_feed = endpoint;
}

void members_feed(struct control *ctl, uint32_t endpoint)
{
	struct endpoint *ep = &ctl->endpoints[endpoint];

	while (ep->state == ENDPOINT_LISTENING && ep->parked_head != INDEX_NONE) {
		struct handshake *hs = &ctl->handshakes[ep->parked_head];

		if (!ctl_has_room(ctl)) {
			feed_later(ctl, endpoint);
			return;
		}
		hs->member = member_choose(ctl, endpoint);
		if (hs->member == INDEX_NONE || handshake_hand_over(ctl, ep->parked_head) < 0)
			return; /* without memory for it now, the next WANT tries again */
	}
}

void members_step(struct control *ctl)
{
	uint32_t endpoint = ctl->endpoints_feed;

	ctl->endpoints_feed = INDEX_NONE;
	while (endpoint != INDEX_NONE) {
		uint32_t next = ctl->endpoints[endpoint].feed_next;

		ctl->endpoints[endpoint].feeding = false;
		members_feed(ctl, endpoint);
		endpoint = next;
	}
}
