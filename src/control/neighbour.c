/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Next hops: ARP (RFC 826) for the engine's addresses. Answers requests, asks for what a connection attempt
 * needs, three times a second apart, and tells the handshakes that wait. Learns from requests to us and from
 * answers, never from what nobody asked for; such packets can only refresh what is known. A used entry that
 * was not heard of for a while is asked for again without holding anybody up. When a known next hop moves to
 * another Ethernet address its connections are told, a few at a time. Control plane's thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "control/state.h"

#define ASK_AGAIN_US 1000000u
#define ASK_TIMES    3u
#define STALE_US     30000000u
#define MOVE_BATCH   1024u /* connections looked at in one round */

#define ARP_REQUEST 1u
#define ARP_REPLY   2u

static const uint8_t mac_broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t mac_none[6];

static void arp_send(struct control *ctl, unsigned port, uint16_t op, const uint8_t *eth_dst, be32 spa,
	const uint8_t *tha, be32 tpa)
{
	uint8_t frame[sizeof(struct eth_hdr) + sizeof(struct arp_hdr)];
	struct eth_hdr *eth = (void *)frame;
	struct arp_hdr *arp = (void *)(frame + sizeof(*eth));
	const uint8_t *mac = datapath_port(ctl->dp, port)->mac;

	memcpy(eth->dst, eth_dst, 6);
	memcpy(eth->src, mac, 6);
	eth->type = to_be16(ETHTYPE_ARP_);
	arp->hw_type = to_be16(1);
	arp->proto_type = to_be16(ETHTYPE_IPV4_);
	arp->hw_len = 6;
	arp->proto_len = 4;
	arp->op = to_be16(op);
	memcpy(arp->sha, mac, 6);
	arp->spa = spa;
	memcpy(arp->tha, tha, 6);
	arp->tpa = tpa;
	control_frame(ctl, CTL_SEND, port, 0, frame, sizeof(frame));
}

/* Tells the links that our addresses are here (RFC 5227 3). */
void neighbours_announce(struct control *ctl)
{
	for (uint32_t i = 0; i < ctl->config.address_count; i++) {
		const struct control_address *a = &ctl->config.address[i];

		if (a->port != ctl->config.loop_port)
			arp_send(ctl, a->port, ARP_REQUEST, mac_broadcast, a->addr, mac_none, a->addr);
	}
}

static struct neighbour *neighbour_find(struct control *ctl, unsigned port, be32 addr)
{
	for (uint32_t i = 0; i < ctl->neighbours_high; i++) {
		struct neighbour *n = &ctl->neighbours[i];

		if (n->state != NEIGHBOUR_FREE && n->addr == addr && n->port == port)
			return n;
	}
	return NULL;
}

static uint32_t neighbour_index(const struct control *ctl, const struct neighbour *n)
{
	return (uint32_t)(n - ctl->neighbours);
}

/* A free entry, or the known one that was not used for the longest time. NULL: all are being asked for. */
static struct neighbour *neighbour_new(struct control *ctl, unsigned port, be32 addr)
{
	struct neighbour *pick = NULL;

	for (uint32_t i = 0; i < ctl->neighbours_high; i++) {
		struct neighbour *n = &ctl->neighbours[i];

		if (n->state == NEIGHBOUR_FREE) {
			pick = n;
			break;
		}
		if (n->state == NEIGHBOUR_KNOWN && n->waiting == INDEX_NONE &&
			(!pick || n->used_us < pick->used_us))
			pick = n;
	}
	if ((!pick || pick->state != NEIGHBOUR_FREE) && ctl->neighbours_high < NEIGHBOURS_MAX)
		pick = &ctl->neighbours[ctl->neighbours_high++];
	if (!pick)
		return NULL;
	timer_stop(ctl, &pick->timer);
	memset(pick, 0, sizeof(*pick));
	pick->addr = addr;
	pick->port = (uint8_t)port;
	pick->used_us = ctl->now_us;
	pick->waiting = INDEX_NONE;
	return pick;
}

static be32 source_on(const struct control *ctl, const struct neighbour *n)
{
	struct route_result route;

	return route_find(ctl, n->addr, &route) == 0 && route.port == n->port ? route.source : 0;
}

static void neighbour_ask(struct control *ctl, struct neighbour *n)
{
	n->tries++;
	COUNT(ctl, arp_requests_out);
	arp_send(ctl, n->port, ARP_REQUEST,
		n->state == NEIGHBOUR_KNOWN && n->tries < ASK_TIMES ? n->mac : mac_broadcast,
		source_on(ctl, n), mac_none, n->addr);
	timer_set(ctl, &n->timer, TIMER_NEIGHBOUR, neighbour_index(ctl, n), ctl->now_us + ASK_AGAIN_US);
}

static void waiting_add(struct control *ctl, struct neighbour *n, uint32_t handshake)
{
	struct handshake *hs = &ctl->handshakes[handshake];

	hs->neighbour = neighbour_index(ctl, n);
	hs->waiting_prev = INDEX_NONE;
	hs->waiting_next = n->waiting;
	if (n->waiting != INDEX_NONE)
		ctl->handshakes[n->waiting].waiting_prev = handshake;
	n->waiting = handshake;
}

int neighbour_resolve(struct control *ctl, unsigned port, be32 addr, uint32_t handshake, uint8_t mac[6])
{
	struct neighbour *n = neighbour_find(ctl, port, addr);

	if (!n) {
		n = neighbour_new(ctl, port, addr);
		if (!n)
			return -ENOBUFS;
		n->state = NEIGHBOUR_ASKED;
		neighbour_ask(ctl, n);
	}
	n->used_us = ctl->now_us;
	if (n->state == NEIGHBOUR_KNOWN) {
		if (ctl->now_us - n->confirmed_us > STALE_US && !wheel_pending(&n->timer.entry)) {
			n->tries = 0;
			neighbour_ask(ctl, n);
		}
		memcpy(mac, n->mac, 6);
		return 0;
	}
	waiting_add(ctl, n, handshake);
	return -EINPROGRESS;
}

/* The handshake, which is waiting, waits no more. */
void neighbour_forget(struct control *ctl, uint32_t handshake)
{
	struct handshake *hs = &ctl->handshakes[handshake];

	if (hs->waiting_prev != INDEX_NONE)
		ctl->handshakes[hs->waiting_prev].waiting_next = hs->waiting_next;
	else
		ctl->neighbours[hs->neighbour].waiting = hs->waiting_next;
	if (hs->waiting_next != INDEX_NONE)
		ctl->handshakes[hs->waiting_next].waiting_prev = hs->waiting_prev;
	hs->waiting_next = hs->waiting_prev = INDEX_NONE;
}

/* Tells those that wait, as far as there is room; the rest is told by the entry's timer. */
static void neighbour_tell(struct control *ctl, struct neighbour *n, const uint8_t *mac)
{
	while (n->waiting != INDEX_NONE) {
		uint32_t index = n->waiting;

		if (!ctl_has_room(ctl)) {
			timer_set(ctl, &n->timer, TIMER_NEIGHBOUR, neighbour_index(ctl, n),
				ctl->now_us + TIMER_TICK_US);
			return;
		}
		neighbour_forget(ctl, index);
		handshake_neighbour(ctl, index, mac);
	}
}

static void neighbour_learn(struct control *ctl, struct neighbour *n, const uint8_t *mac)
{
	bool moved = n->state == NEIGHBOUR_KNOWN && memcmp(n->mac, mac, 6) != 0;

	memcpy(n->mac, mac, 6);
	n->state = NEIGHBOUR_KNOWN;
	n->confirmed_us = ctl->now_us;
	n->tries = 0;
	timer_stop(ctl, &n->timer);
	if (moved) {
		ctl->move_neighbour = neighbour_index(ctl, n);
		ctl->move_cursor = 0;
	}
	neighbour_tell(ctl, n, n->mac);
}

void neighbour_timer(struct control *ctl, uint32_t index)
{
	struct neighbour *n = &ctl->neighbours[index];

	if (n->state == NEIGHBOUR_KNOWN && n->waiting != INDEX_NONE) {
		neighbour_tell(ctl, n, n->mac);
		return;
	}
	if (n->tries < ASK_TIMES) {
		neighbour_ask(ctl, n);
		return;
	}
	/* No answer: attempts that wait fail, and the next one asks anew. */
	neighbour_tell(ctl, n, NULL);
	if (n->waiting == INDEX_NONE)
		n->state = NEIGHBOUR_FREE;
}

/* Connections whose next hop is the neighbour that moved get its new address; the ones opened since have it.
 */
void neighbours_step(struct control *ctl)
{
	const struct neighbour *n;

	if (ctl->move_neighbour == INDEX_NONE)
		return;
	n = &ctl->neighbours[ctl->move_neighbour];
	for (unsigned i = 0; i < MOVE_BATCH && ctl->move_cursor < ctl->conns_high; i++, ctl->move_cursor++) {
		const struct control_conn *c = &ctl->conns[ctl->move_cursor];
		struct ctl_neighbour record = {.type = CTL_NEIGHBOUR, .conn = ctl->move_cursor};
		const struct conn_identity *id;
		struct route_result route;

		if (!(c->flags & CTLCONN_IN_FLOWS))
			continue;
		id = &datapath_conn(ctl->dp, ctl->move_cursor)->id;
		if (id->port != n->port || memcmp(id->remote_mac, n->mac, 6) == 0 ||
			route_find(ctl, c->flow.key.remote_addr, &route) < 0 || route.next_hop != n->addr)
			continue;
		if (!ctl_has_room(ctl))
			return;
		memcpy(record.mac, n->mac, 6);
		datapath_ctl(ctl->dp, &record, sizeof(record));
	}
	if (ctl->move_cursor >= ctl->conns_high)
		ctl->move_neighbour = INDEX_NONE;
}

/*
 * Not RFC 826, which takes every claim: anybody on the link could take connections away by it, and so could a
 * damaged packet. A claim to an address whose owner we know is asked after, and what answers our question is
 * believed; an owner that has really moved answers.
 */
static bool neighbour_doubted(struct control *ctl, struct neighbour *n, uint16_t op, const uint8_t *mac)
{
	bool asked = wheel_pending(&n->timer.entry);

	if (n->state != NEIGHBOUR_KNOWN || memcmp(n->mac, mac, 6) == 0 || (asked && op == ARP_REPLY))
		return false;
	if (!asked) {
		n->tries = ASK_TIMES - 1; /* once, and everybody */
		neighbour_ask(ctl, n);
	}
	return true;
}

void neighbour_arp(struct control *ctl, const struct exc_frame *exc)
{
	const struct arp_hdr *arp = (const void *)(exc->bytes + sizeof(struct eth_hdr));
	struct neighbour *n;
	uint16_t op;
	bool to_us;

	if (exc->len < sizeof(struct eth_hdr) + sizeof(*arp) || arp->hw_type != to_be16(1) ||
		arp->proto_type != to_be16(ETHTYPE_IPV4_) || arp->hw_len != 6 || arp->proto_len != 4 ||
		arp->sha[0] & 1u || memcmp(arp->sha, mac_none, 6) == 0) {
		COUNT(ctl, drop_arp);
		return;
	}
	op = from_be16(arp->op);
	if (op != ARP_REQUEST && op != ARP_REPLY) {
		COUNT(ctl, drop_arp);
		return;
	}
	if (address_is_ours(ctl, arp->spa)) {
		COUNT(ctl, drop_arp);
		if (memcmp(arp->sha, datapath_port(ctl->dp, exc->port)->mac, 6) != 0) {
			char text[INET_ADDRSTRLEN];

			inet_ntop(AF_INET, &arp->spa, text, sizeof(text));
			control_log(ctl, "address %s is also used by %02x:%02x:%02x:%02x:%02x:%02x", text,
				arp->sha[0], arp->sha[1], arp->sha[2], arp->sha[3], arp->sha[4], arp->sha[5]);
		}
		return;
	}
	/* RFC 826, packet reception: merge first; then, if it is to us, add and answer. */
	to_us = route_on_link(ctl, exc->port, arp->tpa) && address_is_ours(ctl, arp->tpa);
	n = neighbour_find(ctl, exc->port, arp->spa);
	if (!n && to_us && op == ARP_REQUEST && arp->spa && route_on_link(ctl, exc->port, arp->spa))
		n = neighbour_new(ctl, exc->port, arp->spa);
	if (n && !neighbour_doubted(ctl, n, op, arp->sha))
		neighbour_learn(ctl, n, arp->sha);
	if (to_us && op == ARP_REQUEST) {
		COUNT(ctl, arp_requests_in);
		arp_send(ctl, exc->port, ARP_REPLY, arp->sha, arp->tpa, arp->sha, arp->spa);
	}
}
