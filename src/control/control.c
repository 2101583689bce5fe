/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control plane's one loop: takes exceptions from the data path, lets timers expire, goes on with what
 * did not fit before, and looks at the control channel. An exception is only taken when whatever it may cause
 * fits into the ring to the data path; otherwise it stays where it is, and the data path counts what it must
 * drop.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "control/state.h"

#define EXCEPTIONS_BATCH 256u

void control_log(struct control *ctl, const char *format, ...)
{
	char line[512];
	va_list args;

	if (!ctl->config.log)
		return;
	if (!rate_take(&ctl->log_limit, ctl->now_us)) {
		ctl->log_lost++;
		return;
	}
	if (ctl->log_lost) {
		snprintf(line, sizeof(line), "%u lines were not logged", ctl->log_lost);
		ctl->log_lost = 0;
		ctl->config.log(ctl->config.log_arg, line);
	}
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	for (char *p = line; *p; p++) /* names come from applications */
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	ctl->config.log(ctl->config.log_arg, line);
}

int control_frame(struct control *ctl, enum ctl_type type, unsigned port, uint16_t flags, const void *bytes,
	uint32_t len)
{
	int r = datapath_ctl_frame(ctl->dp, type, port, flags, bytes, len);

	if (r < 0)
		COUNT(ctl, drop_control_full);
	return r;
}

bool rate_take(struct rate_limit *limit, uint64_t now_us)
{
	uint64_t cost = 1000000u / limit->rate, full = cost * limit->burst;

	limit->tokens_us += now_us - limit->last_us;
	limit->last_us = now_us;
	if (limit->tokens_us > full)
		limit->tokens_us = full;
	if (limit->tokens_us < cost)
		return false;
	limit->tokens_us -= cost;
	return true;
}

void *array_reserve(size_t count, size_t size)
{
	void *p = mmap(NULL, count * size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void array_release(void *array, size_t count, size_t size)
{
	if (array)
		munmap(array, count * size);
}

static void config_defaults(struct control_config *c)
{
	if (!c->ephemeral_low || !c->ephemeral_high || c->ephemeral_low > c->ephemeral_high) {
		c->ephemeral_low = 32768;
		c->ephemeral_high = 60999;
	}
	if (!c->region_size)
		c->region_size = 16ull << 30;
	c->region_size = (c->region_size + (2u << 20) - 1u) & ~((2ull << 20) - 1u);
	if (!c->rx_shift)
		c->rx_shift = 18;
	if (!c->tx_shift)
		c->tx_shift = 18;
	if (!c->time_wait_ms)
		c->time_wait_ms = 60000;
	if (!c->time_wait_max)
		c->time_wait_max = 65536;
	if (!c->congestion || c->congestion >= FLEXTOE_CONGESTIONS)
		c->congestion = FLEXTOE_CONGESTION_CUBIC;
	if (!c->socket_mode)
		c->socket_mode = 0660;
}

static int config_check(const struct control_config *c, char err[256])
{
	if (c->region_size < FLEXTOE_CONTEXTS_MAX * sizeof(struct flextoe_context_area) + (1u << 20)) {
		snprintf(err, 256,
			"a region of %llu bytes is too small for its contexts and a megabyte of buffers",
			(unsigned long long)c->region_size);
		return -EINVAL;
	}
	if (c->region_size > 1ull << 43) {
		snprintf(err, 256, "a region can have at most 8 TiB");
		return -EINVAL;
	}
	if (c->rx_shift < BUFFER_SHIFT_MIN || c->rx_shift > BUFFER_SHIFT_MAX ||
		c->tx_shift < BUFFER_SHIFT_MIN || c->tx_shift > BUFFER_SHIFT_MAX) {
		snprintf(err, 256, "buffers must have 4 KiB to 64 MiB");
		return -EINVAL;
	}
	if (!c->apps_max || !c->contexts_max || c->apps_max > 65535 || c->contexts_max > 65534) {
		snprintf(err, 256,
			"the numbers of applications and contexts must be 1 to 65535 and 1 to 65534");
		return -EINVAL;
	}
	return 0;
}

int control_create(const struct control_config *config, struct control **out, char err[256])
{
	struct control *ctl = calloc(1, sizeof(*ctl));
	int r;

	snprintf(err, 256, "out of memory");
	if (!ctl)
		return -ENOMEM;
	ctl->config = *config;
	ctl->dp = config->dp;
	ctl->epoll_fd = ctl->listen_fd = ctl->spare_fd = -1;
	ctl->move_neighbour = INDEX_NONE;
	config_defaults(&ctl->config);
	ctl->conns_max = datapath_conns_max(ctl->dp);
	ctl->apps_max = ctl->config.apps_max;
	ctl->contexts_max = ctl->config.contexts_max;
	ctl->time_wait_max = ctl->config.time_wait_max;
	ctl->reset_limit = (struct rate_limit){.rate = 20000, .burst = 20000, .tokens_us = 1000000};
	ctl->ack_limit = ctl->icmp_limit = ctl->reset_limit;
	ctl->log_limit = (struct rate_limit){.rate = 20, .burst = 100, .tokens_us = 5000000};
	memcpy(ctl->secret, config->secret, sizeof(ctl->secret));
	r = config_check(&ctl->config, err);
	if (r < 0)
		goto fail;
	if (!ctl->secret[0] && !ctl->secret[1] &&
		getrandom(ctl->secret, sizeof(ctl->secret), 0) != (ssize_t)sizeof(ctl->secret)) {
		r = -errno;
		snprintf(err, 256, "no random numbers from the kernel: %s", strerror(-r));
		goto fail;
	}
	r = routes_init(ctl, err);
	if (r < 0)
		goto fail;
	r = wheel_init(&ctl->wheel, TIMER_SLOTS, TIMER_TICK_US, 0);
	if (r == 0)
		r = flows_init(ctl);
	if (r == 0)
		r = conns_init(ctl);
	if (r == 0)
		r = congestion_init(ctl);
	if (r == 0)
		r = handshakes_init(ctl);
	if (r == 0)
		r = endpoints_init(ctl);
	if (r == 0)
		r = members_init(ctl);
	if (r == 0)
		r = time_wait_init(ctl);
	if (r == 0)
		r = apps_init(ctl);
	if (r < 0)
		goto fail;
	if (ctl->config.socket_path) {
		r = channel_init(ctl, err);
		if (r < 0)
			goto fail;
	}
	neighbours_announce(ctl);
	err[0] = 0;
	*out = ctl;
	return 0;
fail:
	control_destroy(ctl);
	return r;
}

void control_destroy(struct control *ctl)
{
	if (!ctl)
		return;
	channel_free(ctl);
	if (ctl->conns)
		for (uint32_t i = 0; i < ctl->conns_high; i++)
			if (ctl->conns[i].flags & CTLCONN_USED && ctl_has_room(ctl))
				conn_reset(ctl, i, ECONNRESET);
	apps_free(ctl);
	time_wait_free(ctl);
	members_free(ctl);
	endpoints_free(ctl);
	handshakes_free(ctl);
	congestion_free(ctl);
	conns_free(ctl);
	flows_free(ctl);
	wheel_free(&ctl->wheel);
	free(ctl);
}

/* RFC 1122 3.2.1.3: what cannot be the source of a packet, and RFC 9293 MUST-57 for TCP. */
static bool source_is_valid(be32 src)
{
	uint32_t addr = from_be32(src);

	return addr >> 28 < 14 && addr >> 24 != 0 && addr >> 24 != 127;
}

static void tcp_frame(struct control *ctl, const struct exc_frame *exc)
{
	struct segment seg;
	uint32_t ref;

	if (!segment_parse(exc, &seg)) {
		COUNT(ctl, drop_tcp_header);
		return;
	}
	if (!seg.key.local_port || !seg.key.remote_port) {
		COUNT(ctl, drop_tcp_header);
		return;
	}
	ref = flows_find(ctl, &seg.key);
	if (ref == INDEX_NONE) {
		handshake_listen(ctl, &seg, NULL);
		return;
	}
	switch (FLOW_REF_KIND(ref)) {
	case FLOW_HANDSHAKE:
		handshake_segment(ctl, FLOW_REF_INDEX(ref), &seg);
		break;
	case FLOW_CONN: /* came while the connection was on its way into the data path: once more */
		control_frame(ctl, CTL_INJECT, seg.port, seg.frame_flags, seg.frame, seg.frame_len);
		break;
	case FLOW_TIME_WAIT:
		time_wait_segment(ctl, FLOW_REF_INDEX(ref), &seg);
		break;
	}
}

static void exception_frame(struct control *ctl, const struct exc_frame *exc, uint32_t len)
{
	const struct eth_hdr *eth = (const void *)exc->bytes;
	const struct ipv4_hdr *ip = (const void *)(exc->bytes + sizeof(*eth));

	if (len < sizeof(*exc) || exc->len > len - sizeof(*exc) || exc->len < sizeof(*eth) ||
		exc->port >= datapath_port_count(ctl->dp)) {
		COUNT(ctl, drop_short);
		return;
	}
	if (eth->type == to_be16(ETHTYPE_ARP_)) {
		neighbour_arp(ctl, exc);
		return;
	}
	if (eth->type != to_be16(ETHTYPE_IPV4_) || exc->len < sizeof(*eth) + sizeof(*ip)) {
		COUNT(ctl, drop_ethertype);
		return;
	}
	if (!address_is_ours(ctl, ip->dst) || eth->dst[0] & 1u) {
		COUNT(ctl, drop_not_local);
		return;
	}
	if (exc->port != ctl->config.loop_port && address_is_ours(ctl, ip->src)) {
		COUNT(ctl, drop_land);
		return;
	}
	if (!source_is_valid(ip->src) || eth->src[0] & 1u) {
		COUNT(ctl, drop_ip_header);
		return;
	}
	if (ip->protocol == IPPROTO_TCP_)
		tcp_frame(ctl, exc);
	else if (ip->protocol == IPPROTO_ICMP_)
		icmp_frame(ctl, exc);
	else
		COUNT(ctl, drop_ip_protocol);
}

static void exception(struct control *ctl, const void *record, uint32_t len)
{
	uint32_t type;

	memcpy(&type, record, sizeof(type));
	switch (type) {
	case EXC_FRAME:
		exception_frame(ctl, record, len);
		break;
	case EXC_CONN:
		conn_events(ctl, record);
		break;
	case EXC_HC:
		endpoint_request(ctl, record);
		break;
	case EXC_CONTEXT_BROKEN:
		app_broken(ctl, record);
		break;
	default:
		break;
	}
}

static unsigned exceptions_step(struct control *ctl)
{
	unsigned n = 0;

	while (n < EXCEPTIONS_BATCH && ctl_has_room(ctl)) {
		uint32_t len;
		const void *record = datapath_exc_peek(ctl->dp, &len);

		if (!record)
			break;
		exception(ctl, record, len);
		datapath_exc_done(ctl->dp);
		n++;
	}
	return n;
}

unsigned control_poll(struct control *ctl, uint64_t now_us, bool sockets)
{
	unsigned n;

	if (!ctl->start_us)
		ctl->start_us = now_us;
	if (now_us > ctl->now_us)
		ctl->now_us = now_us;
	n = exceptions_step(ctl);
	n += timers_step(ctl);
	time_wait_step(ctl);
	if (ctl->endpoints_closing != INDEX_NONE)
		endpoints_step(ctl);
	if (ctl->endpoints_feed != INDEX_NONE)
		members_step(ctl);
	neighbours_step(ctl);
	if (sockets && ctl->epoll_fd >= 0)
		n += channel_step(ctl);
	if (sockets || ctl->apps_closing != INDEX_NONE)
		apps_step(ctl);
	return n;
}

uint64_t control_next_us(struct control *ctl, uint64_t now_us)
{
	uint64_t next = timers_next_us(ctl), other;
	uint32_t len;

	if (datapath_exc_peek(ctl->dp, &len))
		return 0;
	if (ctl->time_wait_head != INDEX_NONE && ctl->time_waits[ctl->time_wait_head].due_us < next)
		next = ctl->time_waits[ctl->time_wait_head].due_us;
	other = endpoints_next_us(ctl);
	if (other < next)
		next = other;
	other = apps_next_us(ctl);
	if (other < next)
		next = other;
	if (ctl->move_neighbour != INDEX_NONE || ctl->endpoints_feed != INDEX_NONE)
		return 0;
	if (next == UINT64_MAX)
		return UINT64_MAX;
	return next > now_us ? next - now_us : 0;
}

int control_fd(const struct control *ctl)
{
	return ctl->epoll_fd;
}

const uint64_t *control_counters(const struct control *ctl)
{
	return ctl->counters;
}
