/* SPDX-License-Identifier: BSD-3-Clause */
/* See rig.h. */
#include "bench/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/checksum.h"

#define PEER_ISN   1000000u
#define OUR_ISN	   2000000u
#define AREA_BYTES ((sizeof(struct flextoe_context_area) + 4095u) & ~(size_t)4095u)

static unsigned rig_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct rig_device *d = (struct rig_device *)dev;

	if (n > d->rx_count)
		n = d->rx_count;
	memcpy(frames, d->rx, n * sizeof(*frames));
	d->rx_count -= n;
	memmove(d->rx, d->rx + n, d->rx_count * sizeof(*frames));
	return n;
}

static void rig_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev, (void)frames, (void)n;
}

static unsigned rig_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct rig_device *d = (struct rig_device *)dev;

	for (unsigned i = 0; i < n; i++) {
		frames[i].data = d->tx_room + (size_t)(d->tx_next++ % RIG_FRAMES) * RIG_FRAME_ROOM;
		frames[i].room = RIG_FRAME_ROOM;
	}
	return n;
}

static unsigned rig_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct rig_device *d = (struct rig_device *)dev;
	unsigned limit = d->tx_limit < RIG_FRAMES ? d->tx_limit : RIG_FRAMES;

	if (n > limit - d->tx_count)
		n = limit - d->tx_count;
	memcpy(d->tx + d->tx_count, frames, n * sizeof(*frames));
	d->tx_count += n;
	return n;
}

static void rig_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev, (void)frames, (void)n;
}

static void rig_tx_flush(struct device *dev)
{
	(void)dev;
}

static const struct device_ops rig_ops = {
	.name = "rig",
	.rx_burst = rig_rx_burst,
	.rx_release = rig_rx_release,
	.tx_alloc = rig_tx_alloc,
	.tx_burst = rig_tx_burst,
	.tx_free = rig_tx_free,
	.tx_flush = rig_tx_flush,
};

static void rig_kick(void *arg, uint32_t context)
{
	(void)context;
	((struct rig *)arg)->kicks++;
}

static be32 peer_addr(uint32_t conn)
{
	return to_be32(0x0a000100u + conn / 10000u);
}

static void install(struct rig *rig, uint32_t i)
{
	uint32_t pages = 1u << (rig->buffer_shift - 12);
	struct conn_setup s = {.local_addr = to_be32(0x0a000001u),
		.remote_addr = peer_addr(i),
		.local_port = to_be16(80),
		.remote_port = to_be16((uint16_t)(10000u + i % 10000u)),
		.remote_mac = {2, 0, 0, 0, 0, 9},
		.ttl = 64,
		.handle = i,
		.iss = OUR_ISN + i,
		.irs = PEER_ISN + i,
		.snd_wnd = 60000,
		.rcv_adv_wnd = 60000,
		.peer_mss = 1460,
		.snd_wscale = 7,
		.rcv_wscale = 7,
		.timestamps = true,
		.ts_recent = 1,
		.srtt_us = 100,
		.rx_shift = rig->buffer_shift,
		.tx_shift = rig->buffer_shift};
	struct ctl_conn w = {.type = CTL_INSTALL, .conn = i};

	s.rx_page = (uint32_t)(AREA_BYTES >> 12) + 2u * i * pages;
	s.tx_page = s.rx_page + pages;
	datapath_conn_prepare(rig->dp, i, &s, rig->now_us);
	while (datapath_ctl(rig->dp, &w, sizeof(w)) != 0)
		rig_poll(rig);
}

int rig_open(struct rig *rig, uint32_t conns, uint8_t buffer_shift, uint32_t caps)
{
	struct datapath_config config = {.conns_max = conns + 16u, .apps_max = 2, .contexts_max = 2};
	struct ctl_region region = {.type = CTL_REGION, .app = 0};
	struct ctl_context context = {.type = CTL_CONTEXT, .context = 0, .app = 0};
	uint32_t len;

	memset(rig, 0, sizeof(*rig));
	rig->conns = conns;
	rig->buffer_shift = buffer_shift;
	rig->now_us = 5000000;
	rig->region_size = AREA_BYTES + ((uint64_t)conns << (buffer_shift + 1));
	rig->region = mmap(NULL, rig->region_size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rig->region == MAP_FAILED)
		return -ENOMEM;
	rig->area = (struct flextoe_context_area *)rig->region;
	rig->device.dev = (struct device){.ops = &rig_ops,
		.caps = caps,
		.mtu = 1500,
		.max_tso_bytes = caps & DEVICE_TSO ? 65000 : 0,
		.mac = {2, 0, 0, 0, 0, 1},
		.wait_fd = -1};
	rig->device.tx_limit = RIG_FRAMES;
	rig->device.tx_room = aligned_alloc(
		64, (size_t)RIG_FRAMES * RIG_FRAME_ROOM + 64 - RIG_FRAMES * RIG_FRAME_ROOM % 64);
	rig->copy = copy_memcpy_create(2);
	config.copy = rig->copy;
	config.kick = rig_kick;
	config.kick_arg = rig;
	rig->dp = datapath_create(&config);
	if (!rig->dp || !rig->device.tx_room || !rig->copy)
		return -ENOMEM;
	datapath_port_add(rig->dp, &rig->device.dev);
	region.base = rig->region;
	region.size = rig->region_size;
	context.area = rig->area;
	datapath_ctl(rig->dp, &region, sizeof(region));
	datapath_ctl(rig->dp, &context, sizeof(context));
	for (uint32_t i = 0; i < conns; i++)
		install(rig, i);
	while (rig_poll(rig))
		;
	while (datapath_exc_peek(rig->dp, &len))
		datapath_exc_done(rig->dp);
	return 0;
}

void rig_close(struct rig *rig)
{
	datapath_destroy(rig->dp);
	rig->copy->ops->close(rig->copy);
	free(rig->device.tx_room);
	munmap(rig->region, rig->region_size);
}

uint32_t rig_segment(const struct rig *rig, uint32_t conn, uint32_t seq_off, uint32_t ack_off, uint8_t flags,
	const void *payload, uint32_t len, uint8_t *room)
{
	struct eth_hdr *eth = (struct eth_hdr *)room;
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(eth + 1);
	struct tcp_hdr *tcp = (struct tcp_hdr *)(ip + 1);
	uint8_t *opt = (uint8_t *)(tcp + 1);
	be32 ts = to_be32(2 + (uint32_t)(rig->now_us / 1000));
	uint32_t tcp_len = 32u + len;

	memcpy(eth->dst, rig->device.dev.mac, 6);
	memcpy(eth->src, "\2\0\0\0\0\11", 6);
	eth->type = to_be16(ETHTYPE_IPV4_);
	*ip = (struct ipv4_hdr){.version_ihl = 0x45,
		.total_len = to_be16((uint16_t)(20u + tcp_len)),
		.frag = to_be16(IPV4_DF_),
		.ttl = 64,
		.protocol = IPPROTO_TCP_,
		.src = peer_addr(conn),
		.dst = to_be32(0x0a000001u)};
	ip->checksum = checksum_of(ip, sizeof(*ip));
	*tcp = (struct tcp_hdr){.src_port = to_be16((uint16_t)(10000u + conn % 10000u)),
		.dst_port = to_be16(80),
		.seq = to_be32(PEER_ISN + conn + 1u + seq_off),
		.ack = to_be32(OUR_ISN + conn + 1u + ack_off),
		.data_off = 8 << 4,
		.flags = flags,
		.wnd = to_be16(2000)};
	memcpy(opt, "\1\1\10\12", 4);
	memcpy(opt + 4, &ts, 4);
	memset(opt + 8, 0, 4);
	if (len)
		memcpy(opt + 12, payload, len);
	tcp->checksum =
		(be16)~checksum_fold(checksum_add(tcp, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len)));
	return 34u + tcp_len;
}

void rig_rx(struct rig *rig, uint8_t *frame, uint32_t len, uint16_t flags)
{
	if (rig->device.rx_count < RIG_FRAMES)
		rig->device.rx[rig->device.rx_count++] =
			(struct frame){.data = frame, .len = len, .flags = flags};
}

unsigned rig_poll(struct rig *rig)
{
	return datapath_poll(rig->dp, rig->now_us);
}

void rig_tx_clear(struct rig *rig)
{
	rig->device.tx_count = 0;
}

void rig_update_origin(struct rig *rig, uint32_t conn, uint32_t tx_head, uint32_t rx_tail, uint16_t flags,
	uint32_t tx_origin)
{
	struct flextoe_hc *slot = &rig->area->hc[rig->hc_pos & (FLEXTOE_HC_SLOTS - 1u)];

	slot->update = (struct flextoe_hc_update){.conn = conn,
		.tx_head = tx_head,
		.rx_tail = rx_tail,
		.flags = flags,
		.tx_origin = tx_origin,
		.type = FLEXTOE_HC_UPDATE};
	store_release8(&slot->mark, flextoe_mark(rig->hc_pos, FLEXTOE_HC_SLOTS));
	rig->hc_pos++;
}

void rig_update(struct rig *rig, uint32_t conn, uint32_t tx_head, uint32_t rx_tail, uint16_t flags)
{
	rig_update_origin(rig, conn, tx_head, rx_tail, flags, 0);
}

bool rig_notified(struct rig *rig, struct flextoe_ntf *ntf)
{
	const struct flextoe_ntf *slot = &rig->area->ntf[rig->ntf_pos & (FLEXTOE_NTF_SLOTS - 1u)];

	if (load_acquire8(&slot->mark) != flextoe_mark(rig->ntf_pos, FLEXTOE_NTF_SLOTS))
		return false;
	*ntf = *slot;
	rig->ntf_pos++;
	store_release32(&rig->area->words.ntf_consumed, rig->ntf_pos);
	return true;
}

uint8_t *rig_rx_buffer(const struct rig *rig, uint32_t conn)
{
	return rig->region + ((uint64_t)datapath_conn(rig->dp, conn)->host.rx_page << 12);
}

uint8_t *rig_tx_buffer(const struct rig *rig, uint32_t conn)
{
	return rig->region + ((uint64_t)datapath_conn(rig->dp, conn)->host.tx_page << 12);
}
