/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The statements of the configuration that name devices: device, address and route. Called by config.c with
 * the statement's words; reads text only, opens nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "core/platform.h"
#include "daemon/config_parse.h"

static const char *const kinds[] = {"tap", "afxdp", "dpdk", "link"};

#define KIND(k) (1u << (k))
#define ANY	(KIND(CONFIG_TAP) | KIND(CONFIG_AFXDP) | KIND(CONFIG_DPDK) | KIND(CONFIG_LINK))

enum option_type { OPTION_NUMBER, OPTION_TEXT, OPTION_SWITCH, OPTION_MAC, OPTION_FAULT };

/* Options behind a device's name; which kinds take them, and where they go. */
static const struct device_option {
	const char *name;
	unsigned kinds;
	enum option_type type;
	size_t offset;
	uint64_t min, max; /* of a number; max of a text is its field's size */
} options[] = {
	{"mtu", KIND(CONFIG_TAP) | KIND(CONFIG_LINK) | KIND(CONFIG_DPDK), OPTION_NUMBER,
		offsetof(struct config_device, mtu), 576, 65535},
	{"mac", KIND(CONFIG_TAP) | KIND(CONFIG_LINK), OPTION_MAC, offsetof(struct config_device, mac), 0, 0},
	{"netns", KIND(CONFIG_TAP), OPTION_TEXT, offsetof(struct config_device, netns), 0, 64},
	{"peer", KIND(CONFIG_TAP), OPTION_TEXT, offsetof(struct config_device, peer), 0, 64},
	{"offload", KIND(CONFIG_TAP) | KIND(CONFIG_LINK), OPTION_SWITCH,
		offsetof(struct config_device, offload), 0, 0},
	{"queue", KIND(CONFIG_AFXDP) | KIND(CONFIG_DPDK), OPTION_NUMBER,
		offsetof(struct config_device, queue), 0, 1023},
	{"frames", KIND(CONFIG_AFXDP) | KIND(CONFIG_LINK), OPTION_NUMBER,
		offsetof(struct config_device, frames), 64, 1u << 20},
	{"generic", KIND(CONFIG_AFXDP), OPTION_SWITCH, offsetof(struct config_device, generic), 0, 0},
	{"zero-copy", KIND(CONFIG_AFXDP), OPTION_SWITCH, offsetof(struct config_device, zero_copy), 0, 0},
	{"trust-checksum", KIND(CONFIG_AFXDP), OPTION_SWITCH, offsetof(struct config_device, trust_checksum),
		0, 0},
	{"exclusive", KIND(CONFIG_AFXDP), OPTION_SWITCH, offsetof(struct config_device, exclusive), 0, 0},
	{"eal", KIND(CONFIG_DPDK), OPTION_TEXT, offsetof(struct config_device, eal_args), 0, CONFIG_TEXT_MAX},
	{"create", KIND(CONFIG_LINK), OPTION_TEXT, offsetof(struct config_device, link_path), 0, 108},
	{"attach", KIND(CONFIG_LINK), OPTION_TEXT, offsetof(struct config_device, link_path), 0, 108},
	{"fd", KIND(CONFIG_LINK), OPTION_NUMBER, offsetof(struct config_device, link_fd), 0, 65535},
	{"pcap", ANY, OPTION_TEXT, offsetof(struct config_device, pcap), 0, CONFIG_TEXT_MAX},
	{"seed", ANY, OPTION_FAULT, offsetof(struct config_device, seed), 0, UINT64_MAX - 1},
	{"drop-ppm", ANY, OPTION_FAULT, offsetof(struct config_device, drop_ppm), 0, 1000000},
	{"duplicate-ppm", ANY, OPTION_FAULT, offsetof(struct config_device, duplicate_ppm), 0, 1000000},
	{"reorder-ppm", ANY, OPTION_FAULT, offsetof(struct config_device, reorder_ppm), 0, 1000000},
	{"corrupt-ppm", ANY, OPTION_FAULT, offsetof(struct config_device, corrupt_ppm), 0, 1000000},
	{"reorder-depth", ANY, OPTION_FAULT, offsetof(struct config_device, reorder_depth), 1, 64},
};

static int mac_parse(struct config_parse *p, const char *text, uint8_t mac[6])
{
	unsigned b[6];
	char rest;

	if (text == NULL || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4],
				    &b[5], &rest) != 6)
		return config_fail(p, "mac is '%s'; six hexadecimal bytes like 02:00:00:00:00:01 are allowed",
			text ? text : "");
	if (b[0] & 1u)
		return config_fail(p, "mac is '%s', a group address; the first byte must be even", text);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)b[i];
	return 0;
}

static int option_take(struct config_parse *p, struct config_device *d, const char *name)
{
	const struct device_option *o = NULL;
	const char *value;
	void *field;

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (strcmp(options[i].name, name) == 0)
			o = &options[i];
	if (o == NULL || !(o->kinds & KIND(d->kind)))
		return config_fail(p, "a %s device has no option '%s'", kinds[d->kind], name);
	value = config_word(p);
	field = (char *)d + o->offset;
	switch (o->type) {
	case OPTION_NUMBER:
		return config_number(p, name, value, o->min, o->max, field);
	case OPTION_FAULT:
		d->faulty = true;
		return config_number(p, name, value, o->min, o->max, field);
	case OPTION_SWITCH:
		return config_switch(p, name, value, field);
	case OPTION_MAC:
		return mac_parse(p, value, field);
	case OPTION_TEXT:
		if (strcmp(name, "create") == 0)
			d->link_create = true;
		return config_text(p, name, value, field, o->max);
	}
	return -EINVAL;
}

int config_take_device(struct config_parse *p, const struct config_setting *s, void *field)
{
	struct config_device *d = &p->config->device[p->config->device_count];
	const char *kind = config_word(p);
	const char *word;
	unsigned k = 0;
	int rc;

	(void)field;
	/* One port is the engine's own loop. */
	if (p->config->device_count == DATAPATH_PORTS_MAX - 1)
		return config_fail(p, "more than %u devices", DATAPATH_PORTS_MAX - 1);
	while (k < ARRAY_SIZE(kinds) && (kind == NULL || strcmp(kind, kinds[k]) != 0))
		k++;
	if (k == ARRAY_SIZE(kinds))
		return config_fail(p, "%s is of kind '%s'; tap, afxdp, dpdk or link is allowed", s->name,
			kind ? kind : "");
	memset(d, 0, sizeof(*d));
	d->kind = k;
	d->where = *p->where;
	d->offload = true;
	d->link_fd = CONFIG_AUTO;
	d->seed = 1;
	d->reorder_depth = 4;
	rc = config_text(p, "the device's name", config_word(p), d->name, d->kind == CONFIG_TAP ? 16 : 32);
	for (unsigned i = 0; rc == 0 && i < p->config->device_count; i++)
		if (strcmp(p->config->device[i].name, d->name) == 0)
			rc = config_fail(p, "there is a device %s already", d->name);
	while (rc == 0 && (word = config_word(p)) != NULL)
		rc = option_take(p, d, word);
	if (rc == 0 && d->kind == CONFIG_LINK && (d->link_path[0] == '\0') == (d->link_fd == CONFIG_AUTO))
		rc = config_fail(p, "a link device needs one of: create PATH, attach PATH, fd N");
	if (rc == 0)
		p->config->device_count++;
	return rc;
}

static int prefix_parse(
	struct config_parse *p, const char *what, const char *text, be32 *addr, uint32_t *prefix_len)
{
	char copy[64];
	char *slash;
	struct in_addr in;
	uint64_t len;

	if (text == NULL || strlen(text) >= sizeof(copy) || strchr(text, '/') == NULL)
		return config_fail(p, "%s is '%s'; an IPv4 address and a length like 10.9.0.2/24 is allowed",
			what, text ? text : "");
	strcpy(copy, text);
	slash = strchr(copy, '/');
	*slash = '\0';
	if (inet_pton(AF_INET, copy, &in) != 1)
		return config_fail(p, "%s is '%s'; '%s' is not an IPv4 address", what, text, copy);
	if (config_number(p, "the prefix length", slash + 1, 0, 32, &len) != 0)
		return -EINVAL;
	*addr = in.s_addr;
	*prefix_len = (uint32_t)len;
	return 0;
}

static be32 mask_of(uint32_t prefix_len)
{
	return prefix_len == 0 ? 0 : to_be32(0xffffffffu << (32 - prefix_len));
}

static int device_find(struct config_parse *p, const char *name, unsigned *out)
{
	for (unsigned i = 0; name != NULL && i < p->config->device_count; i++)
		if (strcmp(p->config->device[i].name, name) == 0) {
			*out = i;
			return 0;
		}
	return config_fail(p, "there is no device '%s' above this", name ? name : "");
}

int config_take_address(struct config_parse *p, const struct config_setting *s, void *field)
{
	struct config_address *a = &p->config->address[p->config->address_count];
	const char *word;
	int rc;

	(void)field;
	if (p->config->address_count == CONTROL_ADDRESSES_MAX)
		return config_fail(p, "more than %u addresses", CONTROL_ADDRESSES_MAX);
	if (p->config->device_count == 0)
		return config_fail(p, "an address needs a device above it");
	a->device = p->config->device_count - 1;
	rc = prefix_parse(p, s->name, config_word(p), &a->addr, &a->prefix_len);
	if (rc == 0 &&
		(a->addr == 0 || (from_be32(a->addr) >> 28) >= 14 || (from_be32(a->addr) >> 24) == 127))
		rc = config_fail(p, "address '%s' cannot be a host's own", p->word[p->next - 1]);
	for (unsigned i = 0; rc == 0 && i < p->config->address_count; i++)
		if (p->config->address[i].addr == a->addr)
			rc = config_fail(p, "address '%s' is there already", p->word[p->next - 1]);
	word = rc == 0 ? config_word(p) : NULL;
	if (word != NULL)
		rc = strcmp(word, "device") == 0
			     ? device_find(p, config_word(p), &a->device)
			     : config_fail(p, "'%s' after the address; device NAME is allowed", word);
	if (rc == 0)
		p->config->address_count++;
	return rc;
}

int config_take_route(struct config_parse *p, const struct config_setting *s, void *field)
{
	struct config_route *r = &p->config->route[p->config->route_count];
	struct in_addr in;
	const char *word, *value;
	bool have_device = false;
	int rc;

	(void)field;
	if (p->config->route_count == CONTROL_ROUTES_MAX)
		return config_fail(p, "more than %u routes", CONTROL_ROUTES_MAX);
	memset(r, 0, sizeof(*r));
	rc = prefix_parse(p, s->name, config_word(p), &r->prefix, &r->prefix_len);
	if (rc == 0 && (r->prefix & ~mask_of(r->prefix_len)) != 0)
		rc = config_fail(p, "route '%s' has bits set behind its length", p->word[p->next - 1]);
	while (rc == 0 && (word = config_word(p)) != NULL) {
		value = config_word(p);
		if (strcmp(word, "device") == 0) {
			rc = device_find(p, value, &r->device);
			have_device = true;
		} else if (strcmp(word, "via") != 0) {
			rc = config_fail(p, "'%s' in a route; via GATEWAY and device NAME are allowed", word);
		} else if (value == NULL || inet_pton(AF_INET, value, &in) != 1) {
			rc = config_fail(
				p, "the gateway is '%s'; an IPv4 address is allowed", value ? value : "");
		} else {
			r->gateway = in.s_addr;
		}
	}
	if (rc == 0 && r->gateway == 0 && !have_device)
		rc = config_fail(p, "a route needs via GATEWAY or device NAME");
	for (unsigned i = 0; rc == 0 && !have_device && i < p->config->address_count; i++) {
		const struct config_address *a = &p->config->address[i];

		if (((a->addr ^ r->gateway) & mask_of(a->prefix_len)) == 0) {
			r->device = a->device;
			have_device = true;
		}
	}
	if (rc == 0 && !have_device)
		rc = config_fail(p, "no address above this is on the gateway's link");
	if (rc == 0)
		p->config->route_count++;
	return rc;
}

int config_finish(struct config *config, struct config_error *err)
{
	struct config_where where = {.line = 0};
	struct config_parse p = {.config = config, .where = &where, .err = err};

	if (config->device_count == 0)
		return config_fail(&p, "nothing to serve on: give a device, such as --device \"tap ft0\", or "
				       "a --config file");
	if (config->address_count == 0)
		return config_fail(&p, "no address to serve: give one, such as --address 10.9.0.2/24");
	if (config->socket[0] != '/')
		return config_fail(&p, "socket is '%s'; a path from / on is allowed", config->socket);
	return 0;
}
