/* SPDX-License-Identifier: BSD-3-Clause */
/* See fake_datapath.h. */
#include "fake_datapath.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/checksum.h"

#define CONNS	20000u
#define RECORDS 65536u
#define EXCS	65536u

struct blob {
	uint32_t len;
	uint8_t *bytes;
};

struct datapath {
	struct device ports[2];
	struct conn *conns;
	struct conn_setup *setups;
	uint64_t counters[COUNTERS];
	uint32_t marked[CONNS];
	struct blob ctl[RECORDS], exc[EXCS];
	uint32_t ctl_head, ctl_tail, exc_head, exc_tail;
	struct fake_record taken;
};

const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 1}, our_mac[6] = {2, 0, 0, 0, 0, 2};
uint64_t fake_now;
uint32_t fake_limit;

struct datapath *fake_create(void)
{
	struct datapath *dp = calloc(1, sizeof(*dp));

	dp->conns = calloc(CONNS, sizeof(*dp->conns));
	dp->setups = calloc(CONNS, sizeof(*dp->setups));
	for (int i = 0; i < 2; i++) {
		dp->ports[i].mtu = 1500;
		memcpy(dp->ports[i].mac, our_mac, 6);
	}
	fake_now = 0x1fffff00000ull; /* 32-bit microseconds wrap soon */
	fake_limit = 0;
	return dp;
}

void fake_destroy(struct datapath *dp)
{
	fake_clear(dp);
	while (dp->exc_tail != dp->exc_head)
		free(dp->exc[dp->exc_tail++ % EXCS].bytes);
	free(dp->conns);
	free(dp->setups);
	free(dp);
}

struct control_config fake_config(struct datapath *dp)
{
	struct control_config c = {
		.dp = dp,
		.address = {{.port = 0, .addr = OUR_IP, .prefix_len = 24},
			{.port = 0, .addr = OTHER_IP, .prefix_len = 16}},
		.address_count = 2,
		.route = {{.prefix = 0, .prefix_len = 0, .port = 0, .gateway = to_be32(0x0a0900feu)}},
		.route_count = 1,
		.loop_port = 1,
		.region_size = 4ull << 30,
		.rx_shift = 17,
		.tx_shift = 16,
		.apps_max = 4,
		.contexts_max = 16,
		.doorbell_fd = -1,
		.secret = {1, 2},
	};

	return c;
}

int datapath_ctl(struct datapath *dp, const void *record, uint32_t len)
{
	struct blob *b = &dp->ctl[dp->ctl_head % RECORDS];

	if (dp->ctl_head - dp->ctl_tail >= (fake_limit ? fake_limit : RECORDS))
		return -EAGAIN;
	b->len = len;
	b->bytes = malloc(len);
	memcpy(b->bytes, record, len);
	dp->ctl_head++;
	return 0;
}

int datapath_ctl_frame(struct datapath *dp, enum ctl_type type, unsigned port, uint16_t flags,
	const void *bytes, uint32_t len)
{
	struct ctl_frame *f = malloc(sizeof(*f) + len);
	int r;

	*f = (struct ctl_frame){.type = type, .port = (uint16_t)port, .flags = flags, .len = len};
	memcpy(f->bytes, bytes, len);
	r = datapath_ctl(dp, f, (uint32_t)sizeof(*f) + len);
	free(f);
	return r;
}

/* With a limit: whether eight more records fit. */
uint32_t datapath_ctl_room(const struct datapath *dp)
{
	uint32_t used = dp->ctl_head - dp->ctl_tail;

	return used + 8u <= (fake_limit ? fake_limit : RECORDS) ? CTL_ROOM_MIN : 0;
}

bool datapath_ctl_drained(const struct datapath *dp)
{
	return dp->ctl_head == dp->ctl_tail;
}

void datapath_conn_prepare(
	struct datapath *dp, uint32_t index, const struct conn_setup *setup, uint64_t now_us)
{
	struct conn *c = &dp->conns[index];

	(void)now_us;
	memset(c, 0, sizeof(*c));
	dp->setups[index] = *setup;
	c->id.handle = setup->handle;
	c->id.port = setup->port;
	memcpy(c->id.remote_mac, setup->remote_mac, 6);
	c->tcp.phase = TCP_PHASE_ESTABLISHED;
}

const void *datapath_exc_peek(struct datapath *dp, uint32_t *len)
{
	if (dp->exc_tail == dp->exc_head)
		return NULL;
	*len = dp->exc[dp->exc_tail % EXCS].len;
	return dp->exc[dp->exc_tail % EXCS].bytes;
}

void datapath_exc_done(struct datapath *dp)
{
	free(dp->exc[dp->exc_tail++ % EXCS].bytes);
}

struct device *datapath_port(struct datapath *dp, unsigned port)
{
	return &dp->ports[port];
}

unsigned datapath_port_count(const struct datapath *dp)
{
	(void)dp;
	return 2;
}

struct conn *datapath_conn(struct datapath *dp, uint32_t index)
{
	return &dp->conns[index];
}

uint32_t datapath_conns_max(const struct datapath *dp)
{
	(void)dp;
	return CONNS;
}

uint32_t datapath_marked(const struct datapath *dp, uint32_t index)
{
	return dp->marked[index];
}

void fake_marked(struct datapath *dp, uint32_t index, uint32_t bytes)
{
	dp->marked[index] += bytes;
}

const uint64_t *datapath_counters(const struct datapath *dp)
{
	return dp->counters;
}

const struct conn_setup *fake_setup(struct datapath *dp, uint32_t index)
{
	return &dp->setups[index];
}

const struct fake_record *fake_take(struct datapath *dp)
{
	struct blob *b = &dp->ctl[dp->ctl_tail % RECORDS];

	if (dp->ctl_tail == dp->ctl_head)
		return NULL;
	dp->ctl_tail++;
	memset(&dp->taken, 0, sizeof(dp->taken));
	dp->taken.len = b->len;
	memcpy(dp->taken.bytes, b->bytes,
		b->len < sizeof(dp->taken.bytes) ? b->len : sizeof(dp->taken.bytes));
	free(b->bytes);
	return &dp->taken;
}

const struct fake_record *fake_take_type(struct datapath *dp, uint32_t type)
{
	const struct fake_record *r;

	while ((r = fake_take(dp)) && r->type != type)
		;
	return r;
}

unsigned fake_pending(struct datapath *dp)
{
	return dp->ctl_head - dp->ctl_tail;
}

void fake_clear(struct datapath *dp)
{
	while (fake_take(dp))
		;
}

void fake_exc(struct datapath *dp, const void *record, uint32_t len)
{
	struct blob *b = &dp->exc[dp->exc_head++ % EXCS];

	b->len = len;
	b->bytes = malloc(len);
	memcpy(b->bytes, record, len);
}

void fake_event(struct datapath *dp, uint32_t conn, uint32_t events)
{
	struct exc_conn e = {.type = EXC_CONN, .conn = conn, .events = events};

	fake_exc(dp, &e, sizeof(e));
}

void fake_frame(struct datapath *dp, unsigned port, const void *bytes, uint32_t len)
{
	struct exc_frame *e = malloc(sizeof(*e) + len);

	*e = (struct exc_frame){.type = EXC_FRAME, .port = (uint16_t)port, .len = len};
	memcpy(e->bytes, bytes, len);
	fake_exc(dp, e, (uint32_t)sizeof(*e) + len);
	free(e);
}

void fake_hc(struct datapath *dp, uint16_t app, uint16_t context, const struct flextoe_hc_endpoint *hc)
{
	struct exc_hc e = {.type = EXC_HC, .app = app, .context = context};

	e.hc.endpoint = *hc;
	fake_exc(dp, &e, sizeof(e));
}

void fake_segment(struct datapath *dp, const struct fake_segment *s)
{
	uint8_t frame[1600] = {0};
	struct eth_hdr *eth = (void *)frame;
	struct ipv4_hdr *ip = (void *)(frame + 14);
	struct tcp_hdr *tcp = (void *)(frame + 34);
	uint32_t payload = s->payload ? (uint32_t)strlen(s->payload) : 0;
	uint32_t tcp_len = 20u + s->options_len + payload;

	memcpy(eth->dst, our_mac, 6);
	memcpy(eth->src, s->port == 1 ? our_mac : peer_mac, 6);
	eth->type = to_be16(ETHTYPE_IPV4_);
	ip->version_ihl = 0x45;
	ip->total_len = to_be16((uint16_t)(20u + tcp_len));
	ip->ttl = 64;
	ip->protocol = IPPROTO_TCP_;
	ip->src = s->src ? s->src : PEER_IP;
	ip->dst = s->dst ? s->dst : OUR_IP;
	ip->checksum = checksum_of(ip, 20);
	tcp->src_port = to_be16(s->src_port);
	tcp->dst_port = to_be16(s->dst_port);
	tcp->seq = to_be32(s->seq);
	tcp->ack = to_be32(s->ack);
	tcp->data_off = (uint8_t)((20u + s->options_len) / 4u << 4);
	tcp->flags = s->ctl;
	tcp->wnd = to_be16(s->wnd);
	if (s->options_len)
		memcpy(tcp + 1, s->options, s->options_len);
	if (payload)
		memcpy((uint8_t *)(tcp + 1) + s->options_len, s->payload, payload);
	fake_frame(dp, s->port, frame, 34u + tcp_len);
}

bool fake_parse(const struct fake_record *r, struct segment *out)
{
	static struct {
		struct exc_frame head;
		uint8_t bytes[2048];
	} copy;
	const struct ipv4_hdr *ip = (const void *)(r->frame.bytes + 14);
	uint32_t tcp_len;

	if (!r || r->type != CTL_SEND || r->frame.len < 54 || ip->protocol != IPPROTO_TCP_)
		return false;
	tcp_len = from_be16(ip->total_len) - 20u;
	if (checksum_of(ip, 20) != 0 || r->frame.len != 34u + tcp_len ||
		checksum_fold(checksum_add(ip + 1, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len))) !=
			0xffff)
		return false;
	copy.head = (struct exc_frame){.type = EXC_FRAME, .port = r->frame.port, .len = r->frame.len};
	memcpy(copy.head.bytes, r->frame.bytes, r->frame.len);
	return segment_parse(&copy.head, out);
}
