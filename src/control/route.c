/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where a packet goes: the longest matching prefix among the links of our addresses and the configured
 * routes. Also which of our addresses it comes from. Written once at start; a linear walk, sorted by prefix
 * length, is made per connection opened and never per packet.
 */
#include <errno.h>
#include <stdio.h>

#include "control/state.h"

static uint32_t mask_of(uint32_t prefix_len)
{
	return prefix_len ? ~0u << (32u - prefix_len) : 0;
}

/* Longest prefix first; among equals the one given first. */
static void route_insert(struct control *ctl, be32 prefix, uint32_t prefix_len, unsigned port, be32 gateway)
{
	struct route r = {
		.mask = mask_of(prefix_len), .prefix_len = prefix_len, .port = port, .gateway = gateway};
	uint32_t at = ctl->route_count++;

	r.prefix = from_be32(prefix) & r.mask;
	while (at > 0 && ctl->routes[at - 1].prefix_len < prefix_len) {
		ctl->routes[at] = ctl->routes[at - 1];
		at--;
	}
	ctl->routes[at] = r;
}

int routes_init(struct control *ctl, char err[256])
{
	const struct control_config *c = &ctl->config;
	unsigned ports = datapath_port_count(ctl->dp);

	if (c->address_count > CONTROL_ADDRESSES_MAX || c->route_count > CONTROL_ROUTES_MAX) {
		snprintf(err, 256, "too many addresses or routes (at most %u and %u)", CONTROL_ADDRESSES_MAX,
			CONTROL_ROUTES_MAX);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < c->address_count; i++) {
		const struct control_address *a = &c->address[i];

		if (a->port >= ports || a->prefix_len > 32 || !a->addr) {
			snprintf(err, 256, "address %u names no port, or has a bad prefix length", i + 1);
			return -EINVAL;
		}
		if (a->port != c->loop_port && a->prefix_len < 32)
			route_insert(ctl, a->addr, a->prefix_len, a->port, 0);
	}
	for (uint32_t i = 0; i < c->route_count; i++) {
		const struct control_route *r = &c->route[i];

		if (r->port >= ports || r->prefix_len > 32) {
			snprintf(err, 256, "route %u names no port, or has a bad prefix length", i + 1);
			return -EINVAL;
		}
		route_insert(ctl, r->prefix, r->prefix_len, r->port, r->gateway);
	}
	return 0;
}

bool address_is_ours(const struct control *ctl, be32 addr)
{
	for (uint32_t i = 0; i < ctl->config.address_count; i++)
		if (ctl->config.address[i].addr == addr)
			return true;
	return false;
}

static bool address_matches(const struct control_address *a, be32 addr)
{
	return ((from_be32(a->addr) ^ from_be32(addr)) & mask_of(a->prefix_len)) == 0;
}

bool route_on_link(const struct control *ctl, unsigned port, be32 addr)
{
	for (uint32_t i = 0; i < ctl->config.address_count; i++)
		if (ctl->config.address[i].port == port && address_matches(&ctl->config.address[i], addr))
			return true;
	return false;
}

/* The address on the next hop's own link, or else the port's first, or else the first of all. */
static be32 source_for(const struct control *ctl, unsigned port, be32 next_hop)
{
	const struct control_config *c = &ctl->config;
	be32 source = 0;

	for (uint32_t i = 0; i < c->address_count; i++) {
		const struct control_address *a = &c->address[i];

		if (a->port != port)
			continue;
		if (address_matches(a, next_hop))
			return a->addr;
		if (!source)
			source = a->addr;
	}
	return source ? source : c->address_count ? c->address[0].addr : 0;
}

static bool is_link_broadcast(const struct route *r, uint32_t dst)
{
	return !r->gateway && r->prefix_len < 31 && (dst == (r->prefix | ~r->mask) || dst == r->prefix);
}

int route_find(const struct control *ctl, be32 dst, struct route_result *out)
{
	uint32_t addr = from_be32(dst);

	if (address_is_ours(ctl, dst)) {
		if (ctl->config.loop_port == CONTROL_PORT_NONE)
			return -ENETUNREACH;
		*out = (struct route_result){
			.port = ctl->config.loop_port, .next_hop = dst, .source = dst, .loop = true};
		return 0;
	}
	/* RFC 9293 MUST-46: never to a broadcast or multicast address; nor to "this host" (RFC 1122 3.2.1.3).
	 */
	if (addr >> 28 >= 14 || addr >> 24 == 0 || addr >> 24 == 127)
		return -ENETUNREACH;
	for (uint32_t i = 0; i < ctl->route_count; i++) {
		const struct route *r = &ctl->routes[i];

		if ((addr & r->mask) != r->prefix)
			continue;
		if (is_link_broadcast(r, addr))
			return -ENETUNREACH;
		out->port = r->port;
		out->next_hop = r->gateway ? r->gateway : dst;
		out->source = source_for(ctl, r->port, out->next_hop);
		out->loop = false;
		return out->source ? 0 : -ENETUNREACH;
	}
	return -ENETUNREACH;
}
