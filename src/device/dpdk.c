/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Any DPDK ethdev, one queue of it, polled by the one thread that uses the device. The environment (EAL) is
 * started by the first dpdk_open() of a process, with its arguments, and stays until the process ends: DPDK
 * cannot start it twice. Frames are mbufs; the frame's cookie is the mbuf.
 *
 * Fragments (DEVICE_TX_GATHER) are copied: a port reads a buffer long after tx_burst() returned, and an
 * application's region is not registered with it. A super-frame becomes a chain of mbufs. What arrives in a
 * chain (LRO, or a packet longer than a buffer) is put together in a linear buffer.
 */
#include "device/internal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_tcp.h>

#define RING_SIZE     1024u
#define POOL_CACHE    256u
#define BURST_MAX     64u
#define EAL_ARGS      64u
#define EAL_TEXT      1024u
#define TSO_MAX	      65495u /* 65535 - 20 (IPv4) - 20 (TCP) */
#define LINEAR_COUNT  256u
#define LINEAR_BYTES  (65535u + 128u)
#define COOKIE_LINEAR 1u /* mbufs are aligned: the lowest bit is free to say "index of a linear buffer" */
#define OFFLOADS_TSO                                                                                         \
	(RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO |         \
		RTE_ETH_TX_OFFLOAD_MULTI_SEGS)

struct dpdk {
	struct device dev;
	uint16_t port, queue;
	bool started;
	bool chains;	  /* the port takes packets of several mbufs */
	uint16_t seg_max; /* mbufs a packet may have */
	uint32_t room;
	struct rte_mempool *pool;
	struct buffers linear;	   /* count 0 where no chain can arrive */
	struct device_stats stats; /* what the port does not count */
};

static bool port_used[RTE_MAX_ETHPORTS];

static struct dpdk *dpdk_of(struct device *dev)
{
	return container_of(dev, struct dpdk, dev);
}

static struct rte_mbuf *mbuf_of(const struct frame *frame)
{
	return (struct rte_mbuf *)(uintptr_t)frame->cookie;
}

/* Puts a chain together; the mbufs go home. False when there is no room for it. */
static bool chain_join(struct dpdk *dpdk, struct rte_mbuf *mbuf, struct frame *frame)
{
	uint32_t index;
	uint8_t *at;

	if (!dpdk->linear.free_count || mbuf->pkt_len > LINEAR_BYTES)
		return false;
	index = buffers_get(&dpdk->linear);
	at = frame->data = buffers_at(&dpdk->linear, index);
	frame->cookie = (uint64_t)index << 1 | COOKIE_LINEAR;
	for (const struct rte_mbuf *part = mbuf; part; part = part->next) {
		memcpy(at, rte_pktmbuf_mtod(part, const uint8_t *), part->data_len);
		at += part->data_len;
	}
	frame->len = (uint32_t)(at - frame->data);
	rte_pktmbuf_free(mbuf);
	return true;
}

static unsigned dpdk_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct dpdk *dpdk = dpdk_of(dev);
	struct rte_mbuf *mbufs[BURST_MAX];
	unsigned count, got = 0;

	count = rte_eth_rx_burst(dpdk->port, dpdk->queue, mbufs, (uint16_t)(n < BURST_MAX ? n : BURST_MAX));
	for (unsigned i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = mbufs[i];
		struct frame *frame = &frames[got];

		if (unlikely(mbuf->pkt_len < 14)) {
			dpdk->stats.rx_errors++;
			rte_pktmbuf_free(mbuf);
			continue;
		}
		memset(frame, 0, sizeof(*frame));
		if ((mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD)
			frame->flags = FRAME_CSUM_GOOD;
		if (unlikely(mbuf->ol_flags & RTE_MBUF_F_RX_LRO)) {
			frame->flags |= FRAME_TSO;
			frame->gso_size = mbuf->tso_segsz;
		}
		if (likely(mbuf->nb_segs == 1)) {
			frame->data = rte_pktmbuf_mtod(mbuf, uint8_t *);
			prefetch(frame->data);
			frame->len = mbuf->data_len;
			frame->cookie = (uintptr_t)mbuf;
		} else if (!chain_join(dpdk, mbuf, frame)) {
			dpdk->stats.rx_dropped++;
			rte_pktmbuf_free(mbuf);
			continue;
		}
		dpdk->stats.rx_bytes += frame->len;
		got++;
	}
	dpdk->stats.rx_frames += got;
	return got;
}

static void dpdk_free(struct device *dev, struct frame *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (unlikely(frames[i].cookie & COOKIE_LINEAR))
			buffers_put(&dpdk_of(dev)->linear, (uint32_t)(frames[i].cookie >> 1));
		else
			rte_pktmbuf_free(mbuf_of(&frames[i]));
	}
}

static unsigned dpdk_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct dpdk *dpdk = dpdk_of(dev);
	struct rte_mbuf *mbufs[BURST_MAX];

	if (n > BURST_MAX)
		n = BURST_MAX;
	while (n && rte_pktmbuf_alloc_bulk(dpdk->pool, mbufs, n))
		n /= 2;
	for (unsigned i = 0; i < n; i++) {
		memset(&frames[i], 0, sizeof(frames[i]));
		frames[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		frames[i].room = dpdk->room;
		frames[i].cookie = (uintptr_t)mbufs[i];
	}
	return n;
}

static uint32_t frame_total(const struct frame *frame)
{
	uint32_t total = frame->len;

	for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++)
		total += frame->frag[i].len;
	return total;
}

/* What the port is to complete: the checksum, and the segments of a super-frame. */
static void mbuf_request(struct rte_mbuf *mbuf, const struct frame *frame)
{
	struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(frame->data + 14);
	struct rte_tcp_hdr *tcp = (struct rte_tcp_hdr *)(frame->data + frame->csum_start);

	mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM;
	mbuf->l2_len = 14;
	mbuf->l3_len = (uint64_t)(frame->csum_start - 14) & 0x1ff;
	if (!(frame->flags & FRAME_TSO))
		return;
	/* DPDK wants the pseudo-header's sum without the length, and no IP checksum. */
	mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IP_CKSUM;
	mbuf->l4_len = (uint64_t)(frame->hdr_len - frame->csum_start) & 0xff;
	mbuf->tso_segsz = frame->gso_size;
	ip->hdr_checksum = 0;
	tcp->cksum = rte_ipv4_phdr_cksum(ip, mbuf->ol_flags);
}

/* Undoes mbuf_build(), for a frame that could not be sent now: the first mbuf stays the frame's. */
static void mbuf_unbuild(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf->next);
	mbuf->next = NULL;
	mbuf->nb_segs = 1;
}

/* Copies bytes behind what the packet has so far; more mbufs where one does not do. */
static bool mbuf_append(
	struct dpdk *dpdk, struct rte_mbuf *mbuf, struct rte_mbuf **last, const uint8_t *from, uint32_t len)
{
	while (len) {
		uint32_t part = rte_pktmbuf_tailroom(*last);

		if (!part) {
			struct rte_mbuf *more = rte_pktmbuf_alloc(dpdk->pool);

			if (!more)
				return false;
			(*last)->next = more;
			*last = more;
			mbuf->nb_segs++;
			continue;
		}
		if (part > len)
			part = len;
		memcpy(rte_pktmbuf_mtod_offset(*last, uint8_t *, (*last)->data_len), from, part);
		(*last)->data_len = (uint16_t)((*last)->data_len + part);
		from += part;
		len -= part;
	}
	return true;
}

/* Makes a frame's mbuf ready to be sent. 1: it is, 0: no mbuf is left for now, -1: cannot be sent here. */
static int mbuf_build(struct dpdk *dpdk, const struct frame *frame)
{
	struct rte_mbuf *mbuf = mbuf_of(frame), *last = mbuf;
	uint32_t total = frame_total(frame), caps = dpdk->dev.caps;

	if (total < 14 || ((frame->flags & FRAME_TSO) && !(caps & DEVICE_TSO)) ||
		((frame->flags & FRAME_CSUM_OFFLOAD) && !(caps & DEVICE_TX_CSUM)) ||
		total > (dpdk->chains ? dpdk->seg_max : 1u) * dpdk->room)
		return -1;
	mbuf->data_off = (uint16_t)(frame->data - (uint8_t *)mbuf->buf_addr);
	mbuf->data_len = (uint16_t)frame->len;
	mbuf->pkt_len = total;
	for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++)
		if (!mbuf_append(dpdk, mbuf, &last, frame->frag[i].data, frame->frag[i].len)) {
			mbuf_unbuild(mbuf);
			return 0;
		}
	if (frame->flags & FRAME_CSUM_OFFLOAD)
		mbuf_request(mbuf, frame);
	return 1;
}

static unsigned dpdk_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct dpdk *dpdk = dpdk_of(dev);
	unsigned done = 0;

	while (done < n) {
		struct rte_mbuf *mbufs[BURST_MAX];
		unsigned count = 0, ready, sent;
		bool requests = false;
		int built = 1;

		while (count < BURST_MAX && done + count < n) {
			const struct frame *frame = &frames[done + count];

			built = mbuf_build(dpdk, frame);
			if (built <= 0)
				break;
			requests = requests || (frame->flags & FRAME_CSUM_OFFLOAD);
			mbufs[count++] = mbuf_of(frame);
		}
		/* Some drivers have work of their own to do on what the hardware is to complete. */
		ready = requests ? rte_eth_tx_prepare(dpdk->port, dpdk->queue, mbufs, (uint16_t)count)
				 : count;
		sent = rte_eth_tx_burst(dpdk->port, dpdk->queue, mbufs, (uint16_t)ready);
		for (unsigned i = 0; i < sent; i++)
			dpdk->stats.tx_bytes += frame_total(&frames[done + i]);
		for (unsigned i = sent; i < count; i++)
			mbuf_unbuild(mbufs[i]);
		dpdk->stats.tx_frames += sent;
		done += sent;
		if (sent < ready || !built)
			break;
		if (ready < count || built < 0) {
			dpdk_free(dev, &frames[done++], 1);
			dpdk->stats.tx_dropped++;
		}
	}
	return done;
}

static void dpdk_tx_flush(struct device *dev)
{
	(void)dev; /* tx_burst() rings the doorbell itself */
}

static bool dpdk_wait_begin(struct device *dev)
{
	(void)dev;
	return true; /* poll mode: there is nothing to wait for */
}

static void dpdk_wait_end(struct device *dev)
{
	(void)dev;
}

static void dpdk_stats(struct device *dev, struct device_stats *out)
{
	struct dpdk *dpdk = dpdk_of(dev);
	struct rte_eth_stats port;

	*out = dpdk->stats;
	if (rte_eth_stats_get(dpdk->port, &port))
		return;
	out->rx_dropped += port.imissed + port.rx_nombuf;
	out->rx_errors += port.ierrors;
	out->tx_dropped += port.oerrors;
}

static void dpdk_close(struct device *dev)
{
	struct dpdk *dpdk = dpdk_of(dev);

	if (dpdk->started)
		rte_eth_dev_stop(dpdk->port);
	if (dpdk->port != RTE_MAX_ETHPORTS) {
		rte_eth_dev_close(dpdk->port);
		__atomic_store_n(&port_used[dpdk->port], false, __ATOMIC_RELEASE);
	}
	rte_mempool_free(dpdk->pool);
	buffers_destroy(&dpdk->linear);
	free(dpdk);
}

static const struct device_ops dpdk_ops = {
	.name = "dpdk",
	.rx_burst = dpdk_rx_burst,
	.rx_release = dpdk_free,
	.tx_alloc = dpdk_tx_alloc,
	.tx_burst = dpdk_tx_burst,
	.tx_free = dpdk_free,
	.tx_flush = dpdk_tx_flush,
	.wait_begin = dpdk_wait_begin,
	.wait_end = dpdk_wait_end,
	.stats = dpdk_stats,
	.close = dpdk_close,
};

/* Starts the EAL once. It pins the calling thread to a core; ours chooses its own, so that is undone. */
static int eal_start(const char *args, struct device_error *err)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static char text[EAL_TEXT]; /* the EAL keeps pointers into it */
	static bool started;
	char *argv[EAL_ARGS], *rest = text;
	cpu_set_t cpus;
	int argc = 0, result = 0;

	pthread_mutex_lock(&lock);
	if (started)
		goto out;
	if (snprintf(text, sizeof(text), "flextoe %s", args ? args : "") >= (int)sizeof(text)) {
		result = device_fail(err, -EINVAL, "DPDK arguments are longer than %u characters", EAL_TEXT);
		goto out;
	}
	while (argc < (int)EAL_ARGS - 1 && (argv[argc] = strtok_r(rest, " \t", &rest)))
		argc++;
	argv[argc] = NULL;
	pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	if (rte_eal_init(argc, argv) < 0)
		result = device_fail(err, rte_errno ? -rte_errno : -EINVAL,
			"DPDK did not start with \"%s\": %s (it wants root and hugepages; without hugepages, "
			"at "
			"some cost in speed: --no-huge -m 256)",
			args ? args : "", rte_strerror(rte_errno));
	else
		started = true;
	pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
out:
	pthread_mutex_unlock(&lock);
	return result;
}

/* The names of the ports there are, for people. */
static void ports_list(char *text, size_t size)
{
	size_t len = 0;
	uint16_t port;

	snprintf(text, size, "none");
	RTE_ETH_FOREACH_DEV(port)
	{
		char name[RTE_ETH_NAME_MAX_LEN];

		if (len < size && !rte_eth_dev_get_name_by_port(port, name))
			len += (size_t)snprintf(text + len, size - len, "%s%s", len ? ", " : "", name);
	}
}

/* A device that --vdev failed to make does not fail the EAL: look whether it is there, or make it now. */
static int port_find(const char *name, uint16_t *port, struct device_error *err)
{
	uint16_t found;
	char others[128];

	if (!name || !*name)
		return device_fail(
			err, -EINVAL, "DPDK needs the name of a device, such as net_memif0 or 0000:01:00.0");
	if (rte_eth_dev_get_port_by_name(name, &found) &&
		(rte_dev_probe(name) || rte_eth_dev_get_port_by_name(name, &found))) {
		ports_list(others, sizeof(others));
		return device_fail(err, -ENODEV, "DPDK has no device %s; what it found: %s", name, others);
	}
	if (__atomic_exchange_n(&port_used[found], true, __ATOMIC_ACQ_REL))
		return device_fail(err, -EBUSY, "%s: is in use already", name);
	*port = found;
	return 0;
}

/* What of the port's abilities is used. */
static void offloads_choose(const struct rte_eth_dev_info *info, struct rte_eth_conf *conf, struct dpdk *dpdk)
{
	uint64_t tx = info->tx_offload_capa, rx = info->rx_offload_capa;

	dpdk->seg_max = info->tx_desc_lim.nb_seg_max ? info->tx_desc_lim.nb_seg_max : UINT16_MAX;
	conf->txmode.offloads = tx & (RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
	if ((tx & OFFLOADS_TSO) == OFFLOADS_TSO && dpdk->seg_max * dpdk->room >= TSO_MAX + 54 + 40)
		conf->txmode.offloads = OFFLOADS_TSO;
	conf->rxmode.offloads = rx & RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
	/* A port that coalesces makes chains, and says so. */
	if ((rx & RTE_ETH_RX_OFFLOAD_TCP_LRO) && (rx & RTE_ETH_RX_OFFLOAD_SCATTER)) {
		conf->rxmode.offloads |= RTE_ETH_RX_OFFLOAD_TCP_LRO | RTE_ETH_RX_OFFLOAD_SCATTER;
		conf->rxmode.max_lro_pkt_size = info->max_lro_pkt_size ? info->max_lro_pkt_size : UINT16_MAX;
	}
	dpdk->chains = conf->txmode.offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	dpdk->dev.caps = DEVICE_TX_GATHER;
	if (conf->rxmode.offloads & RTE_ETH_RX_OFFLOAD_TCP_CKSUM)
		dpdk->dev.caps |= DEVICE_RX_CSUM;
	if (conf->rxmode.offloads & RTE_ETH_RX_OFFLOAD_TCP_LRO)
		dpdk->dev.caps |= DEVICE_RX_COALESCED;
	if (conf->txmode.offloads & RTE_ETH_TX_OFFLOAD_TCP_CKSUM)
		dpdk->dev.caps |= DEVICE_TX_CSUM;
	if (conf->txmode.offloads & RTE_ETH_TX_OFFLOAD_TCP_TSO) {
		dpdk->dev.caps |= DEVICE_TSO;
		dpdk->dev.max_tso_bytes = TSO_MAX;
	}
}

static int mtu_settle(struct dpdk *dpdk, uint32_t wanted, struct device_error *err)
{
	const char *name = dpdk->dev.name;
	uint16_t mtu = 1500;
	int result;

	if (wanted && (wanted < 576 || wanted > 65535))
		return device_fail(err, -EINVAL, "%s: MTU %u is not between 576 and 65535", name, wanted);
	result = wanted ? rte_eth_dev_set_mtu(dpdk->port, (uint16_t)wanted) : 0;
	if (result)
		return device_fail(
			err, result, "%s: does not take MTU %u: %s", name, wanted, strerror(-result));
	rte_eth_dev_get_mtu(dpdk->port, &mtu);
	dpdk->dev.mtu = mtu;
	dpdk->room = mtu + 128u < 2048 ? 2048 : mtu + 128u;
	if (dpdk->room > UINT16_MAX - RTE_PKTMBUF_HEADROOM)
		return device_fail(err, -EINVAL, "%s: MTU %u does not fit DPDK's buffers", name, mtu);
	return 0;
}

static int queues_start(
	struct dpdk *dpdk, uint16_t queues, uint16_t rx_size, uint16_t tx_size, struct device_error *err)
{
	int socket = rte_eth_dev_socket_id(dpdk->port), result = 0;

	for (uint16_t q = 0; q < queues && !result; q++) {
		result = rte_eth_rx_queue_setup(dpdk->port, q, rx_size, (unsigned)socket, NULL, dpdk->pool);
		if (!result)
			result = rte_eth_tx_queue_setup(dpdk->port, q, tx_size, (unsigned)socket, NULL);
	}
	if (!result)
		result = rte_eth_dev_start(dpdk->port);
	if (result)
		return device_fail(
			err, result, "%s: cannot be started: %s", dpdk->dev.name, rte_strerror(-result));
	dpdk->started = true;
	return 0;
}

static int port_start(struct dpdk *dpdk, const struct dpdk_config *config, struct device_error *err)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	uint16_t rx_size = RING_SIZE, tx_size = RING_SIZE, queues = (uint16_t)(dpdk->queue + 1);
	const char *name = dpdk->dev.name;
	char pool[32];
	int result = rte_eth_dev_info_get(dpdk->port, &info);

	if (result)
		return device_fail(err, result, "%s: cannot be asked about: %s", name, rte_strerror(-result));
	if (queues > info.max_rx_queues || queues > info.max_tx_queues)
		return device_fail(err, -EINVAL, "%s: has no queue %u", name, dpdk->queue);
	dpdk->room = 2048;
	offloads_choose(&info, &conf, dpdk);
	result = rte_eth_dev_configure(dpdk->port, queues, queues, &conf);
	if (!result)
		result = rte_eth_dev_adjust_nb_rx_tx_desc(dpdk->port, &rx_size, &tx_size);
	if (result)
		return device_fail(err, result, "%s: cannot be configured: %s", name, rte_strerror(-result));
	result = mtu_settle(dpdk, config->mtu, err);
	if (result)
		return result;
	snprintf(pool, sizeof(pool), "flextoe_%u", dpdk->port);
	dpdk->pool = rte_pktmbuf_pool_create(pool, (unsigned)(queues * (rx_size + tx_size) + 2 * POOL_CACHE),
		POOL_CACHE, 0, (uint16_t)(dpdk->room + RTE_PKTMBUF_HEADROOM),
		rte_eth_dev_socket_id(dpdk->port));
	if (!dpdk->pool)
		return device_fail(err, -ENOMEM,
			"%s: no memory for frame buffers: %s (give DPDK more: -m MEGABYTES)", name,
			rte_strerror(rte_errno));
	if (buffers_init(&dpdk->linear, LINEAR_COUNT, LINEAR_BYTES))
		return device_fail(err, -ENOMEM, "out of memory for long packets");
	result = queues_start(dpdk, queues, rx_size, tx_size, err);
	if (result)
		return result;
	if (!rte_eth_macaddr_get(dpdk->port, &mac))
		memcpy(dpdk->dev.mac, mac.addr_bytes, 6);
	device_mac_choose(dpdk->dev.mac, dpdk->dev.mac);
	return 0;
}

int dpdk_open(const struct dpdk_config *config, struct device **out, struct device_error *err)
{
	struct dpdk *dpdk;
	int result = eal_start(config->eal_args, err);

	if (result)
		return result;
	if (config->queue > 1023)
		return device_fail(err, -EINVAL, "queue %u is out of range", config->queue);
	dpdk = calloc(1, sizeof(*dpdk));
	if (!dpdk)
		return device_fail(err, -ENOMEM, "out of memory");
	dpdk->dev.ops = &dpdk_ops;
	dpdk->dev.wait_fd = -1;
	dpdk->queue = (uint16_t)config->queue;
	dpdk->port = RTE_MAX_ETHPORTS;
	result = port_find(config->device, &dpdk->port, err);
	if (!result) {
		snprintf(dpdk->dev.name, sizeof(dpdk->dev.name), "%s", config->device);
		result = port_start(dpdk, config, err);
	}
	if (result) {
		dpdk_close(&dpdk->dev);
		return result;
	}
	if (err)
		snprintf(err->text, sizeof(err->text), "%s",
			rte_eal_has_hugepages() ? ""
						: "without hugepages: a NIC's driver may refuse, and every "
						  "frame costs more TLB misses");
	*out = &dpdk->dev;
	return 0;
}
